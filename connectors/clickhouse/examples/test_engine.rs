//! A ClickHouse engine for this crate's tests: `test_engine [data-dir]`.
//!
//! Requires the user and password in `CLICKHOUSE_USER` and `CLICKHOUSE_PASSWORD`, if both are set.
//! Without a directory it uses a temporary one.
//!
//! Prints its address on stdout. It shuts down when its stdin is closed, so it never outlives the test
//! that started it. It is a process of its own because tests kill it, and because the library allows
//! one engine in the lifetime of a process.

#![allow(clippy::print_stdout, reason = "the address is this program's output")]

use std::error::Error;
use std::io::Read;
use std::path::PathBuf;

use chatledger_embedded_clickhouse::{Credentials, Options, serve};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let own_dir;
    let data_dir = if let Some(given) = std::env::args_os().nth(1) {
        PathBuf::from(given)
    } else {
        own_dir = tempfile::tempdir()?;
        own_dir.path().to_owned()
    };
    let mut options = Options::new(data_dir, "127.0.0.1:0".parse()?);
    options.credentials = match (
        std::env::var("CLICKHOUSE_USER"),
        std::env::var("CLICKHOUSE_PASSWORD"),
    ) {
        (Ok(user), Ok(password)) => Some(Credentials {
            user,
            password: password.into(),
        }),
        _ => None,
    };
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    let shutdown = async {
        let _ = end.await;
    };
    serve(options, shutdown, |address| println!("http://{address}")).await?;
    Ok(())
}
