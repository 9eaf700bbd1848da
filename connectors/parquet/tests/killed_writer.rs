//! A process is killed repeatedly while it writes files. Every file with a final name must be complete,
//! a repeat must write exactly the missing files, and no temporary files may remain.
//!
//! The program is both the test and the writer: with a folder in [`FOLDER`] it writes files until it is
//! killed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(
    clippy::print_stdout,
    reason = "the writer reports its progress to the test"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use chatledger_parquet::{EncodedFile, PutResult, Target};
use chatledger_schemas::Message;
use support::{EVENING, files, message, read_messages};

const FOLDER: &str = "CHATLEDGER_TEST_FOLDER";
const FILES: u64 = 40;
const KILLS: usize = 8;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Some(folder) = std::env::var_os(FOLDER) {
        runtime.block_on(put_all(Path::new(&folder)));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut most = 0;
    for kill in 0..KILLS {
        // Dies in the middle of another file each time.
        let reported = put_until_killed(dir.path(), kill * 5);
        let complete = complete_files(dir.path());
        assert!(
            complete >= reported,
            "{reported} files were reported, {complete} exist"
        );
        most = most.max(complete);
    }
    assert!(most > 0);
    let mut written = 0;
    runtime.block_on(async {
        let target = Target::open("file:.", dir.path()).unwrap();
        for number in 0..FILES {
            written +=
                usize::from(target.put(content(number)).await.unwrap() == PutResult::Written);
        }
    });
    assert_eq!(most + written, FILES as usize, "each file was written once");
    assert_eq!(complete_files(dir.path()), FILES as usize);
    let unfinished = std::fs::read_dir(dir.path().join(".unfinished")).unwrap();
    assert_eq!(unfinished.count(), 0);
}

fn rows(number: u64) -> Vec<Message> {
    (0..2000)
        .map(|i| message(number * 2000 + i, EVENING))
        .collect()
}

fn content(number: u64) -> EncodedFile {
    let mut file = files(&rows(number), &[]).remove(0);
    file.path = file.path.replace("batch-1", &format!("batch-{number}"));
    file
}

async fn put_all(folder: &Path) {
    let target = Target::open("file:.", folder).unwrap();
    for number in 0..FILES {
        target.put(content(number)).await.unwrap();
        println!("{number}");
    }
    std::future::pending::<()>().await;
}

/// Starts a writer and kills it after it has reported `count` files.
fn put_until_killed(folder: &Path, count: usize) -> usize {
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let reported = lines.by_ref().take(count).map(Result::unwrap).count();
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert_eq!(reported, count, "the writer exited");
    reported
}

/// Counts the files that a reader of `*.parquet` sees. Each must be complete and hold its own rows.
fn complete_files(folder: &Path) -> usize {
    let day = folder.join("messages/corp_id=ww1/dt=2024-02-29");
    let entries = match std::fs::read_dir(day) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return 0,
        Err(error) => panic!("{error}"),
    };
    let mut count = 0;
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let number: u64 = name.strip_prefix("batch-").unwrap().parse().unwrap();
        let bytes = Bytes::from(std::fs::read(&path).unwrap());
        assert!(
            read_messages("ww1", &bytes) == rows(number),
            "{}",
            path.display()
        );
        count += 1;
    }
    count
}
