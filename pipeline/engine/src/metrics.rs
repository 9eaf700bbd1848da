//! Every metric of the pipeline: one method for each event, no name twice, labels from closed sets.
//!
//! Labels never carry a person, a room or a message id. The names are part of the contract.

use std::time::Duration;

use chatledger_schemas::{FaultClass, Reason, Severity};
use prometheus::core::Collector;
use prometheus::{
    Error, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

use crate::pull::ARCHIVE_RETENTION;

const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
const ROWS: &[f64] = &[1.0, 10.0, 100.0, 1e3, 5e3, 1e4, 2.5e4, 5e4, 1e5, 2.5e5, 5e5];

/// The metrics of one process.
pub struct Metrics {
    registry: Registry,
    records_pulled: IntCounterVec,
    messages: IntCounterVec,
    violations: IntCounterVec,
    dead_letters: IntCounterVec,
    duplicates: IntCounterVec,
    unresolved: IntCounterVec,
    source: SourceGauges,
    stage_seconds: HistogramVec,
    sink_rows: IntCounterVec,
    sink_insert_rows: HistogramVec,
    sink_errors: IntCounterVec,
    sink_pending: IntGaugeVec,
    api_calls: IntCounterVec,
    directory_age: GaugeVec,
    rules_active: IntGauge,
    rules_reload_errors: IntCounter,
    keys_reload_errors: IntCounter,
    dead_letters_open: IntGaugeVec,
}

/// Makes metrics and registers them.
struct Registrar(Registry);

impl Registrar {
    fn options(name: &str, help: &str) -> Opts {
        Opts::new(format!("chatledger_{name}"), help)
    }

    fn register<M: Collector + Clone + 'static>(&self, metric: M) -> Result<M, Error> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.register(IntCounter::with_opts(Self::options(name, help))?)
    }

    fn counters(&self, name: &str, labels: &[&str], help: &str) -> Result<IntCounterVec, Error> {
        self.register(IntCounterVec::new(Self::options(name, help), labels)?)
    }

    fn gauges(&self, name: &str, labels: &[&str], help: &str) -> Result<GaugeVec, Error> {
        self.register(GaugeVec::new(Self::options(name, help), labels)?)
    }

    fn int_gauge(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.register(IntGauge::with_opts(Self::options(name, help))?)
    }

    fn int_gauges(&self, name: &str, labels: &[&str], help: &str) -> Result<IntGaugeVec, Error> {
        self.register(IntGaugeVec::new(Self::options(name, help), labels)?)
    }

    fn histograms(
        &self,
        name: &str,
        labels: &[&str],
        buckets: &[f64],
        help: &str,
    ) -> Result<HistogramVec, Error> {
        let options = HistogramOpts::from(Self::options(name, help)).buckets(buckets.to_vec());
        self.register(HistogramVec::new(options, labels)?)
    }
}

/// How far the archive of each corp is read.
#[derive(Debug)]
struct SourceGauges {
    lag: GaugeVec,
    hours: GaugeVec,
    unanswered: GaugeVec,
    stopped: IntGaugeVec,
    cursor: IntGaugeVec,
}

impl SourceGauges {
    fn new(r: &Registrar) -> Result<Self, Error> {
        Ok(Self {
            lag: r.gauges(
                "source_lag_seconds",
                &["corp"],
                "Time since the newest message that every sink holds.",
            )?,
            hours: r.gauges(
                "source_hours_until_loss",
                &["corp"],
                "Hours until the archive drops the oldest undelivered message.",
            )?,
            unanswered: r.gauges(
                "source_unanswered_seconds",
                &["corp"],
                "Time since the archive answered last, from the process that reads it.",
            )?,
            stopped: r.int_gauges(
                "source_stopped",
                &["corp"],
                "1 if the archive is not read until a person acts.",
            )?,
            cursor: r.int_gauges("cursor_seq", &["corp"], "Position every sink has reached.")?,
        })
    }
}

impl Metrics {
    /// Registers everything; `version` is the program's version.
    ///
    /// # Errors
    /// A name or label in this file is invalid or occurs twice.
    pub fn new(version: &str) -> Result<Self, Error> {
        let r = Registrar(Registry::new());
        let build = r.int_gauges(
            "build_info",
            &["version"],
            "Version of the program; always 1.",
        )?;
        build.with_label_values(&[version]).set(1);
        #[cfg(target_os = "linux")]
        r.0.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        Ok(Self {
            records_pulled: r.counters(
                "records_pulled_total",
                &["corp"],
                "Sealed records received from the archive.",
            )?,
            messages: r.counters("messages_total", &["corp"], "Messages opened and decoded.")?,
            violations: r.counters(
                "violations_total",
                &["corp", "severity"],
                "Rule violations found in messages.",
            )?,
            dead_letters: r.counters(
                "dead_letters_total",
                &["corp", "reason"],
                "Records dead-lettered.",
            )?,
            duplicates: r.counters(
                "duplicates_total",
                &["corp"],
                "Messages the archive returned a second time.",
            )?,
            unresolved: r.counters(
                "unresolved_total",
                &["kind"],
                "Parties and rooms not found in the directory.",
            )?,
            source: SourceGauges::new(&r)?,
            stage_seconds: r.histograms(
                "stage_batch_seconds",
                &["stage"],
                SECONDS,
                "Time a stage took for a batch.",
            )?,
            sink_rows: r.counters(
                "sink_rows_total",
                &["sink"],
                "Rows acknowledged by the sink.",
            )?,
            sink_insert_rows: r.histograms(
                "sink_insert_rows",
                &["sink"],
                ROWS,
                "Rows of one write to the sink.",
            )?,
            sink_errors: r.counters("sink_errors_total", &["sink", "class"], "Failed writes.")?,
            sink_pending: r.int_gauges(
                "sink_pending_rows",
                &["sink"],
                "Rows gathered for the sink and not yet acknowledged.",
            )?,
            api_calls: r.counters(
                "api_calls_total",
                &["api", "errcode_class"],
                "Calls to the archive and directory APIs.",
            )?,
            directory_age: r.gauges(
                "directory_age_seconds",
                &["corp"],
                "Time since the directory was read; -1 if it never was.",
            )?,
            rules_active: r.int_gauge("rules_active", "Rules in use.")?,
            rules_reload_errors: r.counter(
                "rules_reload_errors_total",
                "Rule files that could not be loaded; the rules in use stay.",
            )?,
            keys_reload_errors: r.counter(
                "keys_reload_errors_total",
                "Key files that could not be loaded; the keys in use stay.",
            )?,
            dead_letters_open: r.int_gauges(
                "dead_letters_open",
                &["corp"],
                "Dead letters that are not settled (direct driver).",
            )?,
            registry: r.0,
        })
    }

    /// Creates the series of a corp with the value 0, so that alerts on growth see the first event.
    pub fn announce(&self, corp: &str) {
        self.records_pulled.with_label_values(&[corp]).inc_by(0);
        self.messages.with_label_values(&[corp]).inc_by(0);
        self.duplicates.with_label_values(&[corp]).inc_by(0);
        for severity in Severity::ALL {
            self.violations
                .with_label_values(&[corp, severity.as_str()])
                .inc_by(0);
        }
        for reason in Reason::ALL {
            self.dead_letters
                .with_label_values(&[corp, reason.as_str()])
                .inc_by(0);
        }
        self.directory_age.with_label_values(&[corp]).set(-1.0);
    }

    /// Returns the text that Prometheus scrapes.
    ///
    /// # Errors
    /// A metric cannot be encoded.
    pub fn render(&self) -> Result<String, Error> {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Counts records received from the archive.
    pub fn pulled(&self, corp: &str, records: u64) {
        self.records_pulled
            .with_label_values(&[corp])
            .inc_by(records);
    }

    /// Counts a batch that went through the stages.
    pub fn processed(&self, corp: &str, processed: &crate::stages::Processed) {
        let batch = &processed.batch;
        self.messages
            .with_label_values(&[corp])
            .inc_by(batch.messages.len() as u64);
        self.duplicates
            .with_label_values(&[corp])
            .inc_by(processed.duplicates());
        for violation in &batch.violations {
            self.violations
                .with_label_values(&[corp, violation.severity.as_str()])
                .inc();
        }
        for (reason, count) in crate::stages::reasons(batch) {
            self.dead_letters
                .with_label_values(&[corp, reason.as_str()])
                .inc_by(count);
        }
        self.unresolved
            .with_label_values(&["party"])
            .inc_by(processed.unresolved.parties);
        self.unresolved
            .with_label_values(&["room"])
            .inc_by(processed.unresolved.rooms);
    }

    /// Sets the time since the newest delivered message.
    pub fn lag(&self, corp: &str, lag: Duration) {
        self.source
            .lag
            .with_label_values(&[corp])
            .set(lag.as_secs_f64());
    }

    /// Sets the time that is left to the oldest undelivered record; `waiting` is the longest it can have
    /// been in the archive.
    pub fn hours_until_loss(&self, corp: &str, waiting: Duration) {
        let left = ARCHIVE_RETENTION.saturating_sub(waiting);
        let hours = left.as_secs_f64() / 3600.0;
        self.source.hours.with_label_values(&[corp]).set(hours);
    }

    /// Sets the time since the archive answered last.
    pub fn unanswered(&self, corp: &str, since: Duration) {
        self.source
            .unanswered
            .with_label_values(&[corp])
            .set(since.as_secs_f64());
    }

    /// Removes what only the process that reads an archive knows about it: values that stand still would mislead alerts.
    pub fn not_read_here(&self, corp: &str) {
        // There is nothing to remove if it never read the archive.
        let _ = self.source.unanswered.remove_label_values(&[corp]);
        let _ = self.source.hours.remove_label_values(&[corp]);
    }

    /// Sets whether the archive is not read until a person acts.
    pub fn stopped(&self, corp: &str, stopped: bool) {
        self.source
            .stopped
            .with_label_values(&[corp])
            .set(i64::from(stopped));
    }

    /// Sets the position that every sink has reached.
    pub fn cursor(&self, corp: &str, position: u64) {
        let shown = i64::try_from(position).unwrap_or(i64::MAX);
        self.source.cursor.with_label_values(&[corp]).set(shown);
    }

    /// Records the time that a stage, or a write to a sink, took.
    pub fn stage(&self, stage: &str, took: Duration) {
        self.stage_seconds
            .with_label_values(&[stage])
            .observe(took.as_secs_f64());
    }

    /// Counts rows that a sink has acknowledged.
    pub fn sink_wrote(&self, sink: &str, rows: usize) {
        self.sink_rows
            .with_label_values(&[sink])
            .inc_by(rows as u64);
        self.sink_insert_rows
            .with_label_values(&[sink])
            .observe(rows as f64);
    }

    /// Counts a failed write.
    pub fn sink_failed(&self, sink: &str, class: FaultClass) {
        self.sink_errors
            .with_label_values(&[sink, class.as_str()])
            .inc();
    }

    /// Changes the number of rows gathered for a sink; negative when they are acknowledged or dropped.
    pub fn sink_pending(&self, sink: &str, change: i64) {
        self.sink_pending.with_label_values(&[sink]).add(change);
    }

    /// Counts a call to an archive or directory API; `class` is `ok` or a fault class.
    pub fn api_call(&self, api: &str, class: &str) {
        self.api_calls.with_label_values(&[api, class]).inc();
    }

    /// Sets the time since the directory was read.
    pub fn directory_age(&self, corp: &str, age: Duration) {
        self.directory_age
            .with_label_values(&[corp])
            .set(age.as_secs_f64());
    }

    /// Sets the number of rules in use.
    pub fn rules_active(&self, rules: usize) {
        self.rules_active.set(rules as i64);
    }

    /// Counts key files that could not be loaded.
    pub fn keys_reload_failed(&self) {
        self.keys_reload_errors.inc();
    }

    /// Sets the number of open dead letters.
    pub fn dead_letters_open(&self, corp: &str, open: usize) {
        self.dead_letters_open
            .with_label_values(&[corp])
            .set(open as i64);
    }

    /// Counts rule files that could not be loaded.
    pub fn rules_reload_failed(&self) {
        self.rules_reload_errors.inc();
    }
}
