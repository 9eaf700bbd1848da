//! Whether a site holds what it must: every row of the truth once, in the objects of a straight run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use chatledger_e2e::{Expected, place, stored};
use serde::Deserialize;

use crate::site::Site;

/// Parquet files by path: rows and a digest of them.
pub type Objects = BTreeMap<String, (u64, String)>;

#[derive(Deserialize)]
struct Line {
    path: String,
    rows: u64,
    digest: String,
}

/// What a site is compared with.
#[derive(Clone, Debug)]
pub struct Straight {
    /// The rows.
    pub expected: Expected,
    /// The objects of a run that nothing has disturbed; `None` where cuts depend on time.
    pub objects: Option<Objects>,
}

/// Compares a site with a straight run.
///
/// # Errors
/// A row is missing, stands there twice (before `FINAL` is enough) or differs; or an object does.
pub async fn same(site: &Site, straight: &Straight) -> Result<()> {
    stored::tables_equal(&site.clickhouse, &straight.expected).await?;
    same_files(site, straight)
}

/// Compares the files of a site alone.
///
/// # Errors
/// As [`same`].
pub fn same_files(site: &Site, straight: &Straight) -> Result<()> {
    let Some(want) = &straight.objects else {
        return stored::files_equal(&site.parquet, &straight.expected);
    };
    let found = objects(&site.parquet)?;
    let list = |paths: Vec<&String>| {
        let shown: Vec<&str> = paths.iter().take(3).map(|path| path.as_str()).collect();
        format!("{} ({})", paths.len(), shown.join(", "))
    };
    let missing: Vec<&String> = want.keys().filter(|p| !found.contains_key(*p)).collect();
    let more: Vec<&String> = found.keys().filter(|p| !want.contains_key(*p)).collect();
    ensure!(
        missing.is_empty() && more.is_empty(),
        "objects missing: {}; objects that a straight run does not make: {}",
        list(missing),
        list(more)
    );
    let differ: Vec<&String> = want
        .keys()
        .filter(|path| want.get(*path) != found.get(*path))
        .collect();
    ensure!(
        differ.is_empty(),
        "objects with other rows: {}",
        list(differ)
    );
    Ok(())
}

/// The Parquet files of a folder.
///
/// # Errors
/// pyarrow cannot read one.
pub fn objects(folder: &Path) -> Result<Objects> {
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "python", "objects.py"]
        .iter()
        .collect();
    let output = Command::new(place::python()?)
        .arg(script)
        .arg(folder)
        .stdin(Stdio::null())
        .output()
        .context("start Python")?;
    let messages = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {messages}", folder.display());
    let text = String::from_utf8(output.stdout).context("read pyarrow's answer")?;
    let lines = text.lines().map(|line| {
        let line: Line = serde_json::from_str(line).context("read an object")?;
        Ok((line.path, (line.rows, line.digest)))
    });
    lines.collect()
}
