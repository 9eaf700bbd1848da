//! `chatledger embedded-clickhouse` starts without a user only on the loopback, and accepts a password
//! only from a file that other users cannot read.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// Returns the exit code and the error message of a start that fails.
fn failed_start(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_chatledger"))
        .args(["embedded-clickhouse", "--data-dir"])
        .arg(folder.join("data"))
        // There is no engine at this path, so every start fails at the latest when loading it.
        .args(["--lib", "/nowhere/libchdb.so"])
        .args(arguments)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn address_that_other_machines_reach_requires_a_user() {
    let folder = tempfile::tempdir().unwrap();
    let (code, error) = failed_start(folder.path(), &["--listen", "0.0.0.0:0"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("without credentials"), "{error}");
    let (_, error) = failed_start(folder.path(), &["--listen", "127.0.0.1:0"]);
    assert!(error.contains("/nowhere/libchdb.so"), "{error}");
}

#[test]
fn password_file_readable_by_others_is_refused_unless_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    fs::write(&password, "hunter2\n").unwrap();
    let file = password.to_str().unwrap();
    let with_password = [
        "--listen",
        "0.0.0.0:0",
        "--user",
        "u",
        "--password-file",
        file,
    ];

    fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, error) = failed_start(folder.path(), &with_password);
    assert_eq!(code, Some(2), "{error}");
    assert!(
        error.contains(file) && error.contains("mode 0644"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");

    let allowed = [&with_password[..], &["--allow-open-secrets"]].concat();
    let (_, error) = failed_start(folder.path(), &allowed);
    assert!(error.contains("/nowhere/libchdb.so"), "{error}");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let (_, error) = failed_start(folder.path(), &with_password);
    assert!(error.contains("/nowhere/libchdb.so"), "{error}");
}
