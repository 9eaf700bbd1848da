//! Progress of the tests: a bar on a terminal, occasional lines otherwise.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// Number of steps between two lines.
const LINES: u64 = 20;

/// Progress of one part, on stderr.
pub struct Progress {
    what: String,
    bar: ProgressBar,
}

impl Progress {
    /// Starts the progress of a part.
    ///
    /// # Errors
    /// The template of the bar is invalid; it is a constant.
    pub fn of(what: &str) -> Result<Self> {
        let style = "{prefix} {bar:30} {pos}/{len} {elapsed_precise} {msg}";
        let bar = ProgressBar::new(1)
            .with_style(ProgressStyle::with_template(style)?)
            .with_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        Ok(Self {
            what: what.to_owned(),
            bar,
        })
    }

    /// Sets the number of steps.
    pub fn begin(&self, steps: u64) {
        self.bar.set_length(steps);
    }

    /// Completes one step.
    pub fn step(&self, message: &str) {
        self.bar.set_message(message.to_owned());
        self.bar.inc(1);
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or_default());
        if self.bar.is_hidden() && (done.is_multiple_of(LINES) || done == all) {
            self.print(&format!("{} {done}/{all} {message}", self.what));
        }
    }

    /// Prints a line immediately.
    pub fn print(&self, line: &str) {
        if self.bar.is_hidden() {
            // Progress is optional; an error on stderr is ignored.
            let _ = writeln!(std::io::stderr(), "{line}");
        } else {
            self.bar.println(line);
        }
    }

    /// Removes the bar.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
