//! A ClickHouse engine for this crate's tests: `test_engine [DATA_DIR]`.
//!
//! Without a directory it uses a temporary one. A confined engine cannot remove its own directory, so then
//! the engine is a child, and its parent removes the directory.
//!
//! Requires the user and password in `CLICKHOUSE_USER` and `CLICKHOUSE_PASSWORD`, if both are set.
//!
//! Prints its address on stdout. It shuts down when its stdin is closed, so it never outlives the test
//! that started it. It is a process of its own because tests kill it, and because the library allows
//! one engine in the lifetime of a process.

#![allow(clippy::print_stdout, reason = "the address is this program's output")]

use std::error::Error;
use std::io::Read;
use std::path::PathBuf;
use std::process::Command;

use chatledger_embedded_clickhouse::{Credentials, Options, Server};

fn main() -> Result<(), Box<dyn Error>> {
    let Some(data_dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        let own_dir = tempfile::tempdir()?;
        let child = Command::new(std::env::current_exe()?)
            .arg(own_dir.path())
            .status()?;
        return child
            .success()
            .then_some(())
            .ok_or("the engine failed".into());
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
    let server = Server::prepare(options)?;
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    let shutdown = async {
        let _ = end.await;
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(server.run(shutdown, |address| println!("http://{address}")));
    runtime.shutdown_background();
    Ok(result?)
}
