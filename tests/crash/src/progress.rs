//! How far it is: a bar where somebody looks, a line now and then where a log is kept.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// Steps between two lines of a log.
const LINES: u64 = 20;

/// Progress of one part, on stderr.
pub struct Progress {
    what: String,
    bar: ProgressBar,
}

impl Progress {
    /// That of a part.
    ///
    /// # Errors
    /// None that can happen: the form of the bar is fixed.
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

    /// So many steps lie ahead.
    pub fn begin(&self, steps: u64) {
        self.bar.set_length(steps);
    }

    /// One more is done.
    pub fn step(&self, message: &str) {
        self.bar.set_message(message.to_owned());
        self.bar.inc(1);
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or_default());
        if self.bar.is_hidden() && (done.is_multiple_of(LINES) || done == all) {
            self.tell(&format!("{} {done}/{all} {message}", self.what));
        }
    }

    /// Something that must not wait for the end.
    pub fn tell(&self, line: &str) {
        if self.bar.is_hidden() {
            // Nobody reads it, then nobody misses it.
            let _ = writeln!(std::io::stderr(), "{line}");
        } else {
            self.bar.println(line);
        }
    }

    /// All is done.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
