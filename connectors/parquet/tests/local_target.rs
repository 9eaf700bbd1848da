//! A folder holds only complete files, each once, whatever happens to their writers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use chatledger_parquet::{EncodedFile, Error, PutResult, Target};
use chatledger_schemas::{Classified, FaultClass};
use support::{EVENING, files, message, read_messages};

fn file(path: &str, content: &str) -> EncodedFile {
    EncodedFile {
        path: path.into(),
        rows: 1,
        bytes: Bytes::from(content.to_owned()),
    }
}

/// Lists every file below a folder, including hidden ones.
fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(all_files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn file_is_put_once_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::open("file:archive", dir.path()).unwrap();
    let path = "messages/corp_id=ww1/dt=2024-02-29/batch-1.parquet";
    let messages = [message(1, EVENING)];
    let first = files(&messages, &[]).remove(0);
    assert_eq!(first.path, path);
    assert_eq!(target.put(first).await.unwrap(), PutResult::Written);
    for content in ["other", ""] {
        let put = target.put(file(path, content)).await.unwrap();
        assert_eq!(put, PutResult::AlreadyExists);
    }
    let found = dir.path().join("archive").join(path);
    assert_eq!(all_files(dir.path()), std::slice::from_ref(&found));
    let bytes = Bytes::from(fs::read(&found).unwrap());
    assert_eq!(read_messages("ww1", &bytes), messages);
    // Readable like any file, not only by the owner like temporary files.
    let plain = dir.path().join("plain");
    fs::write(&plain, "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&found), mode(&plain));
}

#[tokio::test]
async fn of_concurrent_writers_exactly_one_writes_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let target = Arc::new(Target::open("file:.", dir.path()).unwrap());
    let puts = (0..16).map(|number| {
        let target = Arc::clone(&target);
        tokio::spawn(async move {
            let content = format!("{number}").repeat(100_000);
            (
                content.clone(),
                target.put(file("a/b/c.parquet", &content)).await.unwrap(),
            )
        })
    });
    let mut written = Vec::new();
    for put in puts.collect::<Vec<_>>() {
        let (content, put) = put.await.unwrap();
        if put == PutResult::Written {
            written.push(content);
        }
    }
    assert_eq!(written.len(), 1);
    let found = fs::read_to_string(dir.path().join("a/b/c.parquet")).unwrap();
    assert!(found == written[0]);
    assert_eq!(
        all_files(dir.path()).len(),
        1,
        "{:?}",
        all_files(dir.path())
    );
}

#[test]
fn unfinished_files_are_removed_unless_their_writer_runs() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(".unfinished");
    fs::create_dir(&folder).unwrap();
    let (dead, alive) = (
        folder.join("dead.unfinished"),
        folder.join("alive.unfinished"),
    );
    fs::write(&dead, "half").unwrap();
    fs::write(&alive, "half").unwrap();
    let writer = fs::File::open(&alive).unwrap();
    writer.lock().unwrap();
    Target::open("file:.", dir.path()).unwrap();
    assert_eq!(all_files(dir.path()), [alive]);
    drop(writer);
    Target::open("file:.", dir.path()).unwrap();
    assert!(all_files(dir.path()).is_empty());
}

#[tokio::test]
async fn check_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::open("file:not/yet/there", dir.path()).unwrap();
    target.check().await.unwrap();
    assert!(all_files(dir.path()).is_empty());
}

#[tokio::test]
async fn unwritable_target_gives_errors_and_works_again_once_writable() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::open("file:archive", dir.path()).unwrap();
    // Even root cannot create a directory below a file.
    let obstacle = dir.path().join("archive");
    fs::write(&obstacle, "").unwrap();
    let path = "messages/corp_id=ww1/dt=2024-02-29/batch-1.parquet";
    for error in [
        target.check().await.unwrap_err(),
        target.put(file(path, "whole")).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Local { .. }), "{error:?}");
        assert!(error.to_string().contains("archive"), "{error}");
        assert!(matches!(
            error.class(),
            FaultClass::Stop | FaultClass::Retry
        ));
    }
    fs::remove_file(&obstacle).unwrap();
    target.check().await.unwrap();
    assert_eq!(
        target.put(file(path, "whole")).await.unwrap(),
        PutResult::Written
    );
}

#[tokio::test]
async fn state_file_is_the_last_one_written_and_complete() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::open("file:archive", dir.path()).unwrap();
    let path = "_chatledger/lanes/chatledger.messages-00000.json";
    assert_eq!(target.read_state(path).await.unwrap(), None);
    for state in ["first", "second", ""] {
        target.write_state(path, state.into()).await.unwrap();
        assert_eq!(target.read_state(path).await.unwrap(), Some(state.into()));
    }
    assert_eq!(
        all_files(dir.path()),
        [dir.path().join("archive").join(path)]
    );
}
