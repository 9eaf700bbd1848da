//! Compares a deployment with an undisturbed run: every row of the truth once, and the same objects.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use chatledger_e2e::{Expected, paths, stored};
use serde::Deserialize;

use crate::deployment::Deployment;

/// Number of rows and their digest for each Parquet file, by path.
pub type Objects = BTreeMap<String, (u64, String)>;

#[derive(Deserialize)]
struct ObjectLine {
    path: String,
    rows: u64,
    digest: String,
}

/// The result of an undisturbed run.
#[derive(Clone, Debug)]
pub struct Baseline {
    /// The expected rows.
    pub expected: Expected,
    /// The Parquet objects; `None` if batches depend on time.
    pub objects: Option<Objects>,
}

/// Compares a deployment with an undisturbed run.
///
/// # Errors
/// A row is missing, different, or duplicated without `FINAL`; or an object differs.
pub async fn same(deployment: &Deployment, baseline: &Baseline) -> Result<()> {
    stored::tables_equal(&deployment.clickhouse, &baseline.expected).await?;
    same_files(deployment, baseline)
}

/// Compares only the files of a deployment.
///
/// # Errors
/// See [`same`].
pub fn same_files(deployment: &Deployment, baseline: &Baseline) -> Result<()> {
    let Some(want) = &baseline.objects else {
        return stored::files_equal(&deployment.parquet, &baseline.expected);
    };
    let found = objects(&deployment.parquet)?;
    let list = |paths: Vec<&String>| {
        let shown: Vec<&str> = paths.iter().take(3).map(|path| path.as_str()).collect();
        format!("{} ({})", paths.len(), shown.join(", "))
    };
    let missing: Vec<&String> = want.keys().filter(|p| !found.contains_key(*p)).collect();
    let unexpected: Vec<&String> = found.keys().filter(|p| !want.contains_key(*p)).collect();
    ensure!(
        missing.is_empty() && unexpected.is_empty(),
        "missing objects: {}; unexpected objects: {}",
        list(missing),
        list(unexpected)
    );
    let differ: Vec<&String> = want
        .keys()
        .filter(|path| want.get(*path) != found.get(*path))
        .collect();
    ensure!(
        differ.is_empty(),
        "objects with different rows: {}",
        list(differ)
    );
    Ok(())
}

/// Reads the Parquet files of a folder.
///
/// # Errors
/// pyarrow cannot read a file.
pub fn objects(folder: &Path) -> Result<Objects> {
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "python", "objects.py"]
        .iter()
        .collect();
    let output = Command::new(paths::python()?)
        .arg(script)
        .arg(folder)
        .stdin(Stdio::null())
        .output()
        .context("start Python")?;
    let messages = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {messages}", folder.display());
    let text = String::from_utf8(output.stdout).context("read the output of pyarrow")?;
    let lines = text.lines().map(|line| {
        let line: ObjectLine = serde_json::from_str(line).context("parse an object")?;
        Ok((line.path, (line.rows, line.digest)))
    });
    lines.collect()
}
