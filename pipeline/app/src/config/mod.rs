//! From the file to settings that cannot be wrong: every error at once, nothing repaired.
//!
//! [`load`] reads the file against the JSON Schema of its shape ([`shape`]), then checks what a
//! schema cannot say ([`meaning`]): secrets and keys can be read, versions differ, and so on. Both
//! report where, what was found and what is accepted.

mod kafka;
mod meaning;
pub mod secret_file;
mod shape;

use std::fmt;
use std::path::{Path, PathBuf};

use chatledger_schemas::config::Config;

pub use meaning::{Corp, Kafka, Keys, Settings};

use crate::bounded_file;

/// Bytes of a configuration file at most.
const MOST_BYTES: u64 = 1 << 20;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Key path, as `corp[0].archive.batch_limit`; empty for the file itself.
    pub at: String,
    /// What was found, and what is accepted.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at.is_empty() {
            f.write_str(&self.what)
        } else {
            write!(f, "{}: {}", self.at, self.what)
        }
    }
}

/// Everything that is wrong with a file.
#[derive(Debug)]
pub struct Problems {
    /// The file.
    pub file: PathBuf,
    /// The problems, in the order of their places.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let noun = if count == 1 { "error" } else { "errors" };
        write!(f, "{}: {count} {noun}", self.file.display())?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

/// Reads and checks a configuration file.
///
/// # Errors
/// All that is wrong with it.
pub fn load(file: &Path) -> Result<Settings, Problems> {
    read(file, |config, folder| meaning::check(config, file, folder))
}

/// Reads the private keys that a configuration file names, and nothing else that it names.
///
/// # Errors
/// All that is wrong with the file's shape or with the keys.
pub fn load_keys(file: &Path) -> Result<Keys, Problems> {
    read(file, |config, folder| meaning::keys(&config, folder))
}

fn read<T>(
    file: &Path,
    check: impl FnOnce(Config, &Path) -> Result<T, Vec<Problem>>,
) -> Result<T, Problems> {
    let fail = |problems| Problems {
        file: file.to_owned(),
        problems,
    };
    let text = bounded_file::text(file, MOST_BYTES).map_err(|error| {
        fail(vec![Problem {
            at: String::new(),
            what: format!("cannot be read: {error}"),
        }])
    })?;
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let raw = shape::read(&text).map_err(fail)?;
    check(raw, folder).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "key.pem";

    fn folder() -> tempfile::TempDir {
        use rsa::pkcs8::{EncodePrivateKey, LineEnding};
        let folder = tempfile::tempdir().unwrap();
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
        let pem = key.to_pkcs8_pem(LineEnding::LF).unwrap();
        private(&folder.path().join(KEY), pem.as_bytes());
        private(&folder.path().join("secret"), b"s3cret\n");
        folder
    }

    /// Writes a file that its owner alone can read.
    fn private(path: &Path, bytes: &[u8]) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(path, bytes).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn problems(text: &str) -> Vec<String> {
        let folder = folder();
        let file = folder.path().join("chatledger.toml");
        std::fs::write(&file, text).unwrap();
        match load(&file) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.problems.iter().map(ToString::to_string).collect(),
        }
    }

    const GOOD: &str = r#"
        [[corp]]
        id = "ww1"
        [corp.archive]
        base_url = "http://127.0.0.1:1"
        secret_file = "secret"
        [[corp.archive.key]]
        version = 1
        file = "key.pem"
        [sink.clickhouse]
        url = "http://127.0.0.1:8123"
        [sink.parquet]
        url = "file:parquet"
    "#;

    #[test]
    fn smallest_file_is_accepted() {
        assert_eq!(problems(GOOD), Vec::<String>::new());
    }

    #[test]
    fn every_error_is_reported_at_once_with_its_place_and_what_is_accepted() {
        let text = r#"
            [driver]
            mode = "rabbit"
            statedir = "x"
            [[corp]]
            id = "ww1"
            timezone = "Mars/Olympus"
            [corp.archive]
            transport = "http"
            secret_file = "nowhere"
            batch_limit = 2000
            poll_interval = "soon"
            [[corp.archive.key]]
            version = "one"
            file = "key.pem"
            [sink.clickhouse]
            url = "tcp://x"
        "#;
        let found = problems(text).join("\n");
        for expected in [
            "driver.mode: found \"rabbit\"; accepted: \"direct\", \"kafka\"",
            "driver.statedir: unknown key; accepted: mode, state_dir",
            "corp[0].archive.batch_limit: found 2000; accepted: at most 1000",
            "corp[0].archive.poll_interval: found \"soon\"; accepted: a duration",
            "corp[0].archive.key[0].version: found \"one\"; accepted: integer",
            "sink.clickhouse.url: found \"tcp://x\"; accepted: an address",
        ] {
            assert!(
                found.contains(expected),
                "missing: {expected}\nfound:\n{found}"
            );
        }
    }

    #[test]
    fn what_a_schema_cannot_say_is_reported_at_once_too() {
        let text = GOOD
            .replace("id = \"ww1\"", "id = \"ww1\"\ntimezone = \"Mars/Olympus\"")
            .replace("\"secret\"", "\"nowhere\"")
            .replace(
                "file = \"key.pem\"",
                "file = \"key.pem\"\n[[corp.archive.key]]\nversion = 1\nfile = \"secret\"",
            );
        let found = problems(&text).join("\n");
        for expected in [
            "corp[0].timezone: found \"Mars/Olympus\"",
            "corp[0].archive.secret_file: ",
            "corp[0].archive.key[1].version: version 1 is given twice",
        ] {
            assert!(
                found.contains(expected),
                "missing: {expected}\nfound:\n{found}"
            );
        }
        let none = problems("[[corp]]\nid='a'\n[corp.archive]\nsecret_file='secret'\n[sink]\n");
        assert!(
            none.join("\n")
                .contains("corp[0].archive.base_url: missing"),
            "{none:?}"
        );
        assert!(none.join("\n").contains("sink: neither"), "{none:?}");
    }

    #[test]
    fn files_that_others_can_read_are_refused_by_name_unless_that_is_allowed() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = folder();
        let file = folder.path().join("chatledger.toml");
        for name in [KEY, "secret"] {
            let open = std::fs::Permissions::from_mode(0o644);
            std::fs::set_permissions(folder.path().join(name), open).unwrap();
        }
        std::fs::write(&file, GOOD).unwrap();
        let found = load(&file).err().unwrap().to_string();
        for expected in [
            "corp[0].archive.secret_file: secret: mode 0644 lets others",
            "corp[0].archive.key[0].file: key.pem: mode 0644 lets others",
            "chmod 600",
        ] {
            assert!(found.contains(expected), "missing: {expected}\n{found}");
        }
        std::fs::write(
            &file,
            format!("{GOOD}\n[secrets]\nallow_open_files = true\n"),
        )
        .unwrap();
        assert!(load(&file).is_ok());
    }

    #[test]
    fn passwords_of_kafka_come_from_files_and_are_shown_nowhere() {
        let folder = folder();
        let file = folder.path().join("chatledger.toml");
        let with = |kafka: &str| {
            std::fs::write(&file, format!("{GOOD}\n[kafka]\n{kafka}")).unwrap();
            load(&file)
        };
        let properties = "properties = { \"sasl.username\" = \"u\" }";
        let settings = with(&format!("sasl_password_file = \"secret\"\n{properties}"));
        let brokers = settings.ok().unwrap().kafka.brokers;
        assert_eq!(brokers.secrets["sasl.password"].expose(), "s3cret");
        assert!(!format!("{brokers:?}").contains("s3cret"), "{brokers:?}");

        let inline = "properties = { \"sasl.password\" = \"hunter2\" }";
        let brokers = with(inline).ok().unwrap().kafka.brokers;
        assert_eq!(brokers.secrets["sasl.password"].expose(), "hunter2");
        assert!(!format!("{brokers:?}").contains("hunter2"), "{brokers:?}");

        let both = with(&format!("sasl_password_file = \"secret\"\n{inline}"));
        let both = both.err().unwrap().to_string();
        assert!(
            both.contains("kafka.sasl_password_file") && !both.contains("hunter2"),
            "{both}"
        );

        // Of another type, it is not repeated either.
        let number = with("properties = { \"sasl.password\" = 271828 }");
        let number = number.err().unwrap().to_string();
        assert!(
            number.contains("sasl.password") && !number.contains("271828"),
            "{number}"
        );
    }

    #[test]
    fn seal_keys_are_read_from_their_files_and_what_is_no_key_is_refused() {
        let folder = folder();
        let file = folder.path().join("chatledger.toml");
        private(&folder.path().join("seal.key"), &[7; 32]);
        let with = |keys: &[(u32, &str)]| {
            let table = |(version, name): &(u32, &str)| {
                format!("[[kafka.seal_key]]\nversion = {version}\nfile = \"{name}\"\n")
            };
            let keys: String = keys.iter().map(table).collect();
            std::fs::write(&file, format!("{GOOD}\n{keys}")).unwrap();
            load(&file)
        };
        let good = with(&[(1, "seal.key"), (4, "seal.key")]).ok().unwrap();
        assert_eq!(good.kafka.seal.versions(), [1, 4]);
        let bad = with(&[
            (1, "secret"),
            (1, "nowhere"),
            (2, "seal.key"),
            (2, "seal.key"),
        ]);
        let bad = bad.err().unwrap().to_string();
        for expected in [
            "kafka.seal_key[0].file: secret: not a key: 32 random bytes",
            "kafka.seal_key[1].file: nowhere: cannot be read",
            "kafka.seal_key[3].version: version 2 is given twice",
        ] {
            assert!(bad.contains(expected), "missing: {expected}\n{bad}");
        }
    }

    #[test]
    fn file_larger_than_any_configuration_is_refused() {
        let long = format!("{GOOD}\n# {}", "x".repeat(1 << 20));
        assert!(problems(&long)[0].contains("more than 1048576 bytes"));
    }

    #[test]
    fn metrics_are_served_to_this_machine_alone_unless_told_otherwise() {
        let folder = folder();
        let file = folder.path().join("chatledger.toml");
        std::fs::write(&file, GOOD).unwrap();
        assert!(load(&file).ok().unwrap().metrics_listen.ip().is_loopback());
    }

    #[test]
    fn broken_toml_is_reported_with_its_line() {
        assert!(problems("[driver\nmode = 1")[0].contains("line 1"));
    }
}
