//! Reads the folder of rule files, and reads it again when it changes. Changed rules take effect
//! together; if one of them is wrong, none does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chatledger_engine::metrics::Metrics;
use chatledger_engine::shared::Current;
use chatledger_rules::{RuleFile, RuleSet, compile};
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::bounded_file;
use crate::exit::{Failure, chain};

/// Largest rule file or words file, in bytes.
const MAX_BYTES: u64 = 32 << 20;
/// Editors write a file in several steps. Wait until nothing has changed for this long.
const QUIET: Duration = Duration::from_millis(300);
/// Time between two reads without a notification, which network file systems may not send.
const REREAD_INTERVAL: Duration = Duration::from_secs(60);

/// Reads every `*.toml` file of the folder.
///
/// # Errors
/// All errors, one line each.
pub fn load(dir: &Path) -> Result<RuleSet, Vec<String>> {
    let unreadable = |path: &Path, error: std::io::Error| {
        vec![format!("{}: cannot be read: {error}", path.display())]
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .map_err(|error| unreadable(dir, error))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    let mut texts = Vec::new();
    let mut errors = Vec::new();
    for file in &files {
        match bounded_file::text(file, MAX_BYTES) {
            Ok(text) => texts.push((file.file_name().unwrap_or_default().to_string_lossy(), text)),
            Err(error) => errors.extend(unreadable(file, error)),
        }
    }
    let sources: Vec<RuleFile<'_>> = texts
        .iter()
        .map(|(name, text)| RuleFile { name, text })
        .collect();
    let words = |_: &str, name: &str| bounded_file::text(&dir.join(name), MAX_BYTES);
    match compile(&sources, words) {
        Ok(rules) if errors.is_empty() => Ok(rules),
        Ok(_) => Err(errors),
        Err(refused) => {
            errors.extend(refused.iter().map(|error| chain(error)));
            Err(errors)
        }
    }
}

/// Reads the rules of a configuration; without a folder there are none.
///
/// # Errors
/// All errors of the rules.
pub fn configured(dir: Option<&Path>) -> Result<RuleSet, Failure> {
    let Some(dir) = dir else {
        return Ok(RuleSet::default());
    };
    load(dir).map_err(|errors| {
        let errors = errors.join("\n  ");
        Failure::config(format!("{}: rules\n  {errors}", dir.display()))
    })
}

/// Counts the rules that are in effect.
pub fn active(rules: &RuleSet) -> usize {
    rules.rules().iter().filter(|rule| rule.is_active()).count()
}

/// Reloads changed rules until `stop` is cancelled. If a rule is wrong, the error is reported and the
/// previous rules stay in effect.
pub async fn watch(
    dir: PathBuf,
    current: Arc<Current<RuleSet>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let (wake, mut changes) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |_event| {
        // If a message is waiting already, one is enough.
        let _ = wake.try_send(());
    });
    let watching = match &mut watcher {
        Ok(watcher) => watcher.watch(&dir, RecursiveMode::Recursive),
        Err(_) => Ok(()),
    };
    if watcher.is_err() || watching.is_err() {
        warn!(
            seconds = REREAD_INTERVAL.as_secs(),
            "the folder of the rules cannot be watched; reading it at intervals"
        );
    }
    let mut reported: Vec<String> = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = changes.recv() => {}
            () = tokio::time::sleep(REREAD_INTERVAL) => {}
        }
        while let Ok(Some(())) = tokio::time::timeout(QUIET, changes.recv()).await {}
        let folder = dir.clone();
        let Ok(loaded) = tokio::task::spawn_blocking(move || load(&folder)).await else {
            continue;
        };
        match loaded {
            Ok(rules) => {
                reported.clear();
                if rules.version() != current.get().version() {
                    info!(
                        active = active(&rules),
                        version = rules.version(),
                        "rules reloaded"
                    );
                    metrics.rules_active(active(&rules));
                    current.set(rules);
                }
            }
            Err(errors) if errors == reported => {}
            Err(errors) => {
                metrics.rules_reload_failed();
                for error in &errors {
                    error!(
                        error,
                        "rules not reloaded; the previous rules stay in effect"
                    );
                }
                reported = errors;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str =
        "[[rule]]\nid='a'\nname='A'\nseverity='high'\nwords=['x']\n[rule.scope]\nall=true\n";

    #[test]
    fn all_files_are_read_and_all_errors_reported() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.toml"), RULE).unwrap();
        assert_eq!(active(&load(folder.path()).unwrap()), 1);
        std::fs::write(
            folder.path().join("b.toml"),
            "[[rule]]\nid='b'\nwords_file='nowhere'\n",
        )
        .unwrap();
        std::fs::write(folder.path().join("c.toml"), "[[rule").unwrap();
        let errors = load(folder.path()).unwrap_err().join("\n");
        assert!(
            errors.contains("b.toml") && errors.contains("c.toml"),
            "{errors}"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn changed_rules_take_effect_and_wrong_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        std::fs::write(&file, RULE).unwrap();
        let current = Arc::new(Current::new(load(folder.path()).unwrap()));
        let metrics = Arc::new(Metrics::new("test").unwrap());
        let stop = CancellationToken::new();
        let task = tokio::spawn(watch(
            folder.path().to_owned(),
            Arc::clone(&current),
            Arc::clone(&metrics),
            stop.clone(),
        ));
        let until = async |what: &str, done: &dyn Fn() -> bool| {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
            // Watching begins some time after the task; write again until it is noticed.
            while !done() {
                assert!(tokio::time::Instant::now() < deadline, "timeout: {what}");
                std::fs::write(&file, what).unwrap();
                tokio::time::timeout(Duration::from_millis(500), std::future::pending::<()>())
                    .await
                    .unwrap_err();
            }
        };
        let two = format!("{RULE}{}", RULE.replace("'a'", "'b'"));
        until(&two, &|| active(&current.get()) == 2).await;
        until("[[rule", &|| {
            metrics.render().unwrap().contains("reload_errors_total 1")
        })
        .await;
        assert_eq!(active(&current.get()), 2);
        stop.cancel();
        task.await.unwrap();
    }
}
