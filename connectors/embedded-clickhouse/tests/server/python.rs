//! `clickhouse-connect`, ClickHouse's Python client.

use std::path::Path;
use std::process::Command;

use crate::support::serve_binary;

#[test]
fn clickhouse_connect_works_as_with_a_real_server() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clickhouse-connect");
    let output = Command::new(script).arg(serve_binary()).output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
