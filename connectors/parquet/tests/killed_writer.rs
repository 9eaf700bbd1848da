//! A process is killed while it puts files, again and again: what stands under a final name is
//! whole every time, a repeat fills in exactly what is missing, and nothing is left lying about.
//!
//! The program plays both parts: started with a folder in [`FOLDER`] it puts files until it is
//! killed, otherwise it is the test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(
    clippy::print_stdout,
    reason = "the writer tells the test how far it is"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use chatledger_parquet::{File, Put, Target};
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
        // Dies in the middle of one file or another, later each time.
        let told = put_until_killed(dir.path(), kill * 5);
        let whole = whole_files(dir.path());
        assert!(
            whole >= told,
            "{told} files were said to be put, {whole} are there"
        );
        most = most.max(whole);
    }
    assert!(most > 0);
    let mut written = 0;
    runtime.block_on(async {
        let target = Target::open("file:.", dir.path()).unwrap();
        for number in 0..FILES {
            written += usize::from(target.put(content(number)).await.unwrap() == Put::Written);
        }
    });
    assert_eq!(most + written, FILES as usize, "each file was put once");
    assert_eq!(whole_files(dir.path()), FILES as usize);
    let unfinished = std::fs::read_dir(dir.path().join(".unfinished")).unwrap();
    assert_eq!(unfinished.count(), 0);
}

fn rows(number: u64) -> Vec<Message> {
    (0..2000)
        .map(|i| message(number * 2000 + i, EVENING))
        .collect()
}

fn content(number: u64) -> File {
    let mut file = files(&rows(number), &[]).remove(0);
    file.path = file.path.replace("cut-1", &format!("cut-{number}"));
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

/// Starts a writer and kills it after it has said that `count` files are put.
fn put_until_killed(folder: &Path, count: usize) -> usize {
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let told = lines.by_ref().take(count).map(Result::unwrap).count();
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert_eq!(told, count, "the writer ended by itself");
    told
}

/// Files that a reader of `*.parquet` sees; each must be whole and hold its own rows.
fn whole_files(folder: &Path) -> usize {
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
        let number: u64 = name.strip_prefix("cut-").unwrap().parse().unwrap();
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
