//! The Parquet target is full, then read-only: a small disk of its own, mounted for the test.

use std::fs;
use std::path::Path;
use std::process::Command;

use chatledger_e2e::Driver;
use chatledger_e2e::tenant::{Plan, Tenant};

use super::{all_delivered, equals_truth, exceeds, metric};

const ERRORS: &str = "chatledger_sink_errors_total";
const SINK: &[&str] = &["sink=\"parquet\""];

/// A disk in memory, at a folder. It goes with this value.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn mount(folder: &'a Path, megabytes: u32) -> Self {
        fs::create_dir_all(folder).unwrap();
        let size = format!("size={megabytes}m,mode=0777");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &size, "chatledger-e2e"],
            folder,
        );
        Self(folder)
    }

    fn writable(&self, writable: bool) {
        let mode = if writable { "remount,rw" } else { "remount,ro" };
        run("mount", &["-o", mode], self.0);
    }

    /// Leaves no room.
    fn fill(&self) {
        let mut filler = fs::File::create(self.0.join(".filler")).unwrap();
        let block = vec![0; 1 << 16];
        while std::io::Write::write_all(&mut filler, &block).is_ok() {}
    }

    fn clear(&self) {
        fs::remove_file(self.0.join(".filler")).unwrap();
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        run("umount", &["--lazy"], self.0);
    }
}

/// Runs a command that only root may, as root.
fn run(program: &str, words: &[&str], folder: &Path) {
    let mut command = if nix::unistd::geteuid().is_root() {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        command.args(["-n", program]);
        command
    };
    let status = command.args(words).arg(folder).status().unwrap();
    assert!(
        status.success(),
        "{program} {words:?}: {status}; it wants root or sudo"
    );
}

async fn parquet_in_trouble(driver: Driver) {
    let plan = Plan::new("full_disk", driver, 400)
        .faults("broken=7,unknown_key=3,duplicates=10")
        .with("--batch-limit=100");
    let tenant = Tenant::start(plan).await.unwrap();
    let folder = tenant.parquet();
    let disk = Disk::mount(&folder, 24);
    let roll = "url = \"file:parquet\"\nroll_interval = \"200ms\"";
    tenant
        .configure(&[("url = \"file:parquet\"", roll)])
        .unwrap();
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    all_delivered(&tenant, &endpoints).await;
    for word in ["No space left", "Read-only file system"] {
        let full = word == "No space left";
        if full {
            disk.fill();
        } else {
            disk.writable(false);
        }
        let before = metric(&endpoints, ERRORS, SINK).await;
        tenant.append(100).await.unwrap();
        exceeds(&endpoints, ERRORS, SINK, before + 1.5).await;
        if full {
            disk.clear();
        } else {
            disk.writable(true);
        }
        all_delivered(&tenant, &endpoints).await;
        assert!(run.ended().unwrap().is_none(), "it gave up: {word}");
        let log = run.log().unwrap();
        assert!(log.contains(word), "{word:?} is not told:\n{log}");
    }
    equals_truth(&tenant, run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_target_full_and_read_only_under_the_direct_driver_holds_every_row_once() {
    parquet_in_trouble(Driver::Direct).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_target_full_and_read_only_under_the_kafka_driver_holds_every_row_once() {
    parquet_in_trouble(Driver::Kafka).await;
}
