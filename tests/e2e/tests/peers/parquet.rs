//! The Parquet target is full, read-only, or forbidden by permissions: a small file system mounted for
//! the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use chatledger_e2e::Driver;
use chatledger_e2e::tenant::{Tenant, TenantPlan};
use test_case::test_case;

use super::{all_delivered, equals_truth, exceeds, metric};

const ERRORS: &str = "chatledger_sink_errors_total";
const SINK: &[&str] = &["sink=\"parquet\""];

/// A file system in memory, mounted at a folder. It is unmounted when this value is dropped.
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

    /// Sets the permissions of every folder and file.
    fn set_permissions(&self, mode: &str) {
        run("chmod", &["-R", mode], &self.0);
    }

    fn remount(&self, how: &str) {
        run("mount", &["-o", how], &self.0);
    }

    /// Uses up the free space.
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

/// Runs a command as root.
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
        "{program} {words:?}: {status}; it needs root or sudo"
    );
}

/// A fault of the file system.
struct DiskFault {
    begin: fn(&Disk),
    end: fn(&Disk),
    /// Text that the log must contain.
    message: &'static str,
}

const FAULTS: &[DiskFault] = &[
    DiskFault {
        begin: Disk::fill,
        end: Disk::clear,
        message: "No space left",
    },
    DiskFault {
        begin: |disk| disk.remount("remount,ro"),
        end: |disk| disk.remount("remount,rw"),
        message: "Read-only file system",
    },
    DiskFault {
        begin: |disk| disk.set_permissions("a-w"),
        end: |disk| disk.set_permissions("a+w"),
        message: "Permission denied",
    },
];

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn parquet_target_that_is_full_read_only_or_forbidden_holds_every_row_once(driver: Driver) {
    let plan = TenantPlan::new("full_disk", driver, 400)
        .faults("broken=7,unknown_key=3,duplicates=10")
        .arg("--batch-limit=100");
    let tenant = Tenant::start(plan).await.unwrap();
    let folder = tenant.parquet();
    let disk = Disk::mount(&folder, 24);
    let roll = "url = \"file:parquet\"\nroll_interval = \"200ms\"";
    tenant
        .configure(&[("url = \"file:parquet\"", roll)])
        .unwrap();
    let mut run = tenant.chatledger_with_file_permissions("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    all_delivered(&tenant, &endpoints).await;
    for DiskFault {
        begin,
        end,
        message,
    } in FAULTS
    {
        begin(&disk);
        let before = metric(&endpoints, ERRORS, SINK).await;
        tenant.append(100).await.unwrap();
        exceeds(&endpoints, ERRORS, SINK, before + 1.5).await;
        end(&disk);
        all_delivered(&tenant, &endpoints).await;
        assert!(
            run.ended().unwrap().is_none(),
            "the process ended: {message}"
        );
        let log = run.log().unwrap();
        assert!(
            log.contains(message),
            "{message:?} is not in the log:\n{log}"
        );
    }
    equals_truth(&tenant, run).await;
}
