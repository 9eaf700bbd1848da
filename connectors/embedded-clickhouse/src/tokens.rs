//! Repairs the records of insert tokens after a crash, before the engine reads them.
//!
//! A MergeTree table with `non_replicated_deduplication_window` records each inserted block in
//! `deduplication_logs/`. ClickHouse 26.7 writes the record first and renames the part afterwards. If
//! the process is killed in between, the record exists without the rows. A repeat of the insert with
//! the same token is then treated as a duplicate, and the rows are lost silently. (Observed 2 times in
//! 240 kills during inserts.)
//!
//! Guarantees: after [`repair`], every record stands for rows that exist. A record whose part was
//! removed for another reason may be withdrawn too; a repeat then inserts the rows again, and a
//! ReplacingMergeTree removes the duplicates. Source of the format: `MergeTreeDeduplicationLog.cpp`.
//!
//! Not here: anything while the engine runs.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Checks all tables in `store`, withdraws the records without rows and returns their number. Must not
/// run while an engine uses the store.
pub(crate) fn repair(store: &Path) -> io::Result<usize> {
    let mut withdrawn = 0;
    for group in directories(&store.join("store"))? {
        for table in directories(&group)? {
            if table.join("deduplication_logs").is_dir() {
                withdrawn += repair_table(&table)?;
            }
        }
    }
    Ok(withdrawn)
}

fn repair_table(table: &Path) -> io::Result<usize> {
    let mut logs: Vec<(u64, PathBuf)> = fs::read_dir(table.join("deduplication_logs"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?
        .into_iter()
        .filter_map(|path| Some((log_number(&path)?, path)))
        .collect();
    logs.sort();
    let mut recorded: HashMap<String, String> = HashMap::new();
    for (_, path) in &logs {
        let mut content = fs::read(path)?;
        if let Some(end) = torn_at(&content) {
            tracing::warn!(log = %path.display(), "removing an incomplete record of an insert token");
            File::options().write(true).open(path)?.set_len(end)?;
            content.truncate(end as usize);
        }
        for line in String::from_utf8_lossy(&content).lines() {
            let mut fields = line.splitn(3, '\t');
            match (fields.next(), fields.next(), fields.next()) {
                (Some("1"), Some(part), Some(block)) => {
                    recorded.insert(block.to_owned(), part.to_owned());
                }
                (Some("2"), Some(_), Some(block)) => {
                    recorded.remove(block);
                }
                _ => {
                    tracing::warn!(log = %path.display(), "a record of an insert token cannot be read");
                }
            }
        }
    }
    let Some((_, last)) = logs.last() else {
        return Ok(0);
    };
    let present: Vec<PartName> = directories(table)?
        .iter()
        .filter_map(|path| PartName::named(path.file_name()?.to_str()?))
        .collect();
    let mut withdrawal = String::new();
    let mut withdrawn = 0;
    for (block, name) in &recorded {
        let exists = PartName::named(name)
            .is_none_or(|part| present.iter().any(|present| present.contains(&part)));
        if !exists {
            withdrawn += 1;
            for piece in ["2\t", name, "\t", block, "\n"] {
                withdrawal.push_str(piece);
            }
        }
    }
    if withdrawn > 0 {
        tracing::warn!(
            table = %table.display(),
            withdrawn,
            "insert tokens without rows have been withdrawn; their inserts can be repeated"
        );
        File::options()
            .append(true)
            .open(last)?
            .write_all(withdrawal.as_bytes())?;
    }
    Ok(withdrawn)
}

/// Returns where a log's last line begins if it is incomplete.
fn torn_at(content: &[u8]) -> Option<u64> {
    if content.last().is_none_or(|byte| *byte == b'\n') {
        return None;
    }
    let end = content.iter().rposition(|byte| *byte == b'\n');
    Some(end.map_or(0, |end| end as u64 + 1))
}

/// `deduplication_log_<number>.txt`
fn log_number(path: &Path) -> Option<u64> {
    path.file_name()?
        .to_str()?
        .strip_prefix("deduplication_log_")?
        .strip_suffix(".txt")?
        .parse()
        .ok()
}

/// The blocks of a part, from its name: `<partition>_<first>_<last>_<level>[_<mutation>]`.
#[derive(Debug, PartialEq, Eq)]
struct PartName {
    partition: String,
    first: u64,
    last: u64,
}

impl PartName {
    fn named(name: &str) -> Option<Self> {
        let fields: Vec<&str> = name.split('_').collect();
        let (partition, numbers) = fields.split_first()?;
        if !(3..=4).contains(&numbers.len()) || partition.is_empty() {
            return None;
        }
        let numbers: Vec<u64> = numbers
            .iter()
            .map(|number| number.parse().ok())
            .collect::<Option<_>>()?;
        Some(Self {
            partition: (*partition).to_owned(),
            first: numbers[0],
            last: numbers[1],
        })
    }

    fn contains(&self, other: &Self) -> bool {
        self.partition == other.partition && self.first <= other.first && other.last <= self.last
    }
}

fn directories(parent: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    struct Table {
        root: tempfile::TempDir,
        path: PathBuf,
    }

    impl Table {
        fn new(parts: &[&str], logs: &[(u64, &str)]) -> Self {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join("store/abc/abc-def");
            fs::create_dir_all(path.join("deduplication_logs")).unwrap();
            for part in parts {
                fs::create_dir(path.join(part)).unwrap();
            }
            for (number, content) in logs {
                let name = format!("deduplication_logs/deduplication_log_{number}.txt");
                fs::write(path.join(name), content).unwrap();
            }
            Self { root, path }
        }

        fn log(&self, number: u64) -> String {
            let name = format!("deduplication_logs/deduplication_log_{number}.txt");
            fs::read_to_string(self.path.join(name)).unwrap()
        }
    }

    #[test]
    fn records_without_rows_are_withdrawn_and_others_kept() {
        let table = Table::new(
            &[
                "all_1_1_0",
                "all_3_6_1_8",
                "tmp_insert_all_7_7_0",
                "detached",
            ],
            &[
                (
                    9,
                    "1\tall_1_1_0\tall_a\n1\tall_2_2_0\tall_b\n1\tall_4_4_0\tall_c\n",
                ),
                (10, "2\tall_2_2_0\tall_b\n1\tall_7_7_0\tall_d\n"),
            ],
        );
        assert_eq!(repair(table.root.path()).unwrap(), 1);
        assert!(table.log(9).ends_with("all_c\n"));
        assert!(
            table
                .log(10)
                .ends_with("1\tall_7_7_0\tall_d\n2\tall_7_7_0\tall_d\n")
        );
        assert_eq!(repair(table.root.path()).unwrap(), 0);
    }

    #[test]
    fn incomplete_records_are_removed() {
        let table = Table::new(&["0_1_1_0"], &[(1, "1\t0_1_1_0\t0_a\n1\t0_2_2")]);
        assert_eq!(repair(table.root.path()).unwrap(), 0);
        assert_eq!(table.log(1), "1\t0_1_1_0\t0_a\n");
        let table = Table::new(&[], &[(1, "1\t0_2")]);
        assert_eq!(repair(table.root.path()).unwrap(), 0);
        assert_eq!(table.log(1), "");
    }

    #[test]
    fn store_without_tables_needs_no_repair() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(repair(root.path()).unwrap(), 0);
        let table = Table::new(&["all_1_1_0"], &[]);
        assert_eq!(repair(table.root.path()).unwrap(), 0);
    }
}
