//! Shows the progress of a long run: a bar on a terminal, plain lines elsewhere.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chatledger_engine::shared::Totals;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

const BAR_EVERY: Duration = Duration::from_millis(150);
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows the counts until `stop` is cancelled. `total` is the expected number of records, if known.
pub async fn show(totals: Arc<Totals>, total: Option<u64>, stop: CancellationToken) {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::new_spinner(),
    };
    let template = if total.is_some() {
        "{elapsed_precise} [{bar:36}] {human_pos}/{human_len} records  {msg}"
    } else {
        "{elapsed_precise} {spinner} {human_pos} records  {msg}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    let hidden = bar.is_hidden();
    let every = if hidden { LINE_EVERY } else { BAR_EVERY };
    let started = Instant::now();
    loop {
        let stopped = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(every) => false,
        };
        let now = totals.summary();
        let done = now.messages + now.dead_letters + now.duplicates;
        let rate = done as f64 / started.elapsed().as_secs_f64().max(0.001);
        let words = format!(
            "{} messages · {} violations · {} dead letters · {rate:.0}/s",
            now.messages, now.violations, now.dead_letters
        );
        if hidden {
            let of = total.map_or_else(String::new, |total| format!("/{total}"));
            // If stderr is closed, there is nothing to show the progress on.
            let _ = writeln!(std::io::stderr(), "{done}{of} records: {words}");
        } else {
            bar.set_position(done);
            bar.set_message(words);
        }
        if stopped {
            bar.abandon();
            return;
        }
    }
}

/// A bar for a known number of steps on a terminal; nothing elsewhere.
pub fn bar(what: &'static str, steps: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    let style = ProgressStyle::with_template("{elapsed_precise} [{bar:36}] {pos}/{len} {msg}");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
