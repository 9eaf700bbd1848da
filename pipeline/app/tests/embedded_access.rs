//! `chatledger embedded-clickhouse` lets nobody in whom nobody has named: it starts for this machine
//! alone, or with a user and a password that lies where its owner alone can read it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// What it says when it does not start, and its exit code.
fn refused(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_chatledger"))
        .args(["embedded-clickhouse", "--data-dir"])
        .arg(folder.join("data"))
        // Where the engine would be loaded from: it is not to come so far.
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
fn address_that_others_reach_wants_a_user() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = refused(folder.path(), &["--listen", "0.0.0.0:0"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("without credentials"), "{said}");
    let (_, said) = refused(folder.path(), &["--listen", "127.0.0.1:0"]);
    assert!(said.contains("/nowhere/libchdb.so"), "{said}");
}

#[test]
fn password_that_others_can_read_is_refused_unless_that_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    fs::write(&password, "hunter2\n").unwrap();
    let file = password.to_str().unwrap();
    let given = [
        "--listen",
        "0.0.0.0:0",
        "--user",
        "u",
        "--password-file",
        file,
    ];

    fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said) = refused(folder.path(), &given);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(file) && said.contains("mode 0644"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");

    let allowed = [&given[..], &["--allow-open-secrets"]].concat();
    let (_, said) = refused(folder.path(), &allowed);
    assert!(said.contains("/nowhere/libchdb.so"), "{said}");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let (_, said) = refused(folder.path(), &given);
    assert!(said.contains("/nowhere/libchdb.so"), "{said}");
}
