//! The Parquet target is full, then read-only, then its modes forbid: a small disk of its own,
//! mounted for the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use chatledger_e2e::Driver;
use chatledger_e2e::tenant::{Plan, Tenant};
use test_case::test_case;

use super::{all_delivered, equals_truth, exceeds, metric};

const ERRORS: &str = "chatledger_sink_errors_total";
const SINK: &[&str] = &["sink=\"parquet\""];

/// A disk in memory, at a folder. It goes with this value.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: &Path, megabytes: u32) -> Self {
        fs::create_dir_all(folder).unwrap();
        let size = format!("size={megabytes}m,mode=0777");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &size, "chatledger-e2e"],
            folder,
        );
        Self(folder.to_owned())
    }

    /// Gives every folder and file this mode.
    fn mode(&self, mode: &str) {
        run("chmod", &["-R", mode], &self.0);
    }

    fn remount(&self, how: &str) {
        run("mount", &["-o", how], &self.0);
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

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["--lazy"], &self.0);
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

/// What goes wrong and is put right again.
struct Trouble {
    begin: fn(&Disk),
    end: fn(&Disk),
    /// Of the log, which tells it.
    word: &'static str,
}

const TROUBLES: &[Trouble] = &[
    Trouble {
        begin: Disk::fill,
        end: Disk::clear,
        word: "No space left",
    },
    Trouble {
        begin: |disk| disk.remount("remount,ro"),
        end: |disk| disk.remount("remount,rw"),
        word: "Read-only file system",
    },
    Trouble {
        begin: |disk| disk.mode("a-w"),
        end: |disk| disk.mode("a+w"),
        word: "Permission denied",
    },
];

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn parquet_target_that_is_full_read_only_or_forbidden_holds_every_row_once(driver: Driver) {
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
    let mut run = tenant.chatledger_bound_by_modes("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    all_delivered(&tenant, &endpoints).await;
    for Trouble { begin, end, word } in TROUBLES {
        begin(&disk);
        let before = metric(&endpoints, ERRORS, SINK).await;
        tenant.append(100).await.unwrap();
        exceeds(&endpoints, ERRORS, SINK, before + 1.5).await;
        end(&disk);
        all_delivered(&tenant, &endpoints).await;
        assert!(run.ended().unwrap().is_none(), "it gave up: {word}");
        let log = run.log().unwrap();
        assert!(log.contains(word), "{word:?} is not told:\n{log}");
    }
    equals_truth(&tenant, run).await;
}
