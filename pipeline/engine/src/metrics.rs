//! Every metric of the pipeline: one method an event, no name twice, labels from closed sets.
//!
//! Labels never carry a person, a room or a message id.

use std::time::Duration;

use chatledger_schemas::{FaultClass, Reason, Severity};
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// Hours for which the archive can be read again (`wecom-api` §1.3).
pub const WINDOW_HOURS: f64 = 120.0;

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
    source_lag: GaugeVec,
    source_hours: GaugeVec,
    cursor: IntGaugeVec,
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

impl Metrics {
    /// Registers everything; `version` is the program's.
    ///
    /// # Errors
    /// A name or label of this file is not allowed or stands twice.
    pub fn new(version: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(format!("chatledger_{name}"), help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let metric = GaugeVec::new(Opts::new(format!("chatledger_{name}"), help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let int_gauge = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(format!("chatledger_{name}"), help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let options = HistogramOpts::new(format!("chatledger_{name}"), help);
            let metric = HistogramVec::new(options.buckets(buckets.to_vec()), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let metrics = Self {
            records_pulled: counter(
                "records_pulled_total",
                "Sealed records the archive gave.",
                &["corp"],
            )?,
            messages: counter("messages_total", "Messages opened and decoded.", &["corp"])?,
            violations: counter("violations_total", "Rules broken.", &["corp", "severity"])?,
            dead_letters: counter("dead_letters_total", "Records parked.", &["corp", "reason"])?,
            duplicates: counter(
                "duplicates_total",
                "Messages the archive gave a second time.",
                &["corp"],
            )?,
            unresolved: counter(
                "unresolved_total",
                "Parties and rooms the directory does not know.",
                &["kind"],
            )?,
            source_lag: gauge(
                "source_lag_seconds",
                "Now less the time of the newest message that every sink holds.",
                &["corp"],
            )?,
            source_hours: gauge(
                "source_hours_until_loss",
                "Hours until the oldest message not yet delivered leaves the archive.",
                &["corp"],
            )?,
            cursor: int_gauge("cursor_seq", "Position every sink has reached.", &["corp"])?,
            stage_seconds: histogram(
                "stage_batch_seconds",
                "Time a stage took for a batch.",
                &["stage"],
                SECONDS,
            )?,
            sink_rows: counter("sink_rows_total", "Rows the sink has confirmed.", &["sink"])?,
            sink_insert_rows: histogram(
                "sink_insert_rows",
                "Rows of one write to the sink.",
                &["sink"],
                ROWS,
            )?,
            sink_errors: counter("sink_errors_total", "Failed writes.", &["sink", "class"])?,
            sink_pending: int_gauge(
                "sink_pending_rows",
                "Rows gathered for the sink and not yet confirmed.",
                &["sink"],
            )?,
            api_calls: counter(
                "api_calls_total",
                "Calls to WeCom.",
                &["api", "errcode_class"],
            )?,
            directory_age: gauge(
                "directory_age_seconds",
                "Time since the directory was read; -1 if it never was.",
                &["corp"],
            )?,
            rules_active: IntGauge::new("chatledger_rules_active", "Rules in effect.")?,
            rules_reload_errors: IntCounter::new(
                "chatledger_rules_reload_errors_total",
                "Rule files that could not be taken over; the old rules stay.",
            )?,
            keys_reload_errors: IntCounter::new(
                "chatledger_keys_reload_errors_total",
                "Key files that could not be taken over; the keys in use stay.",
            )?,
            dead_letters_open: int_gauge(
                "dead_letters_open",
                "Dead letters that are not settled (direct driver).",
                &["corp"],
            )?,
            registry,
        };
        metrics
            .registry
            .register(Box::new(metrics.rules_active.clone()))?;
        metrics
            .registry
            .register(Box::new(metrics.rules_reload_errors.clone()))?;
        metrics
            .registry
            .register(Box::new(metrics.keys_reload_errors.clone()))?;
        let build = IntGaugeVec::new(
            Opts::new("chatledger_build_info", "The program's version; always 1."),
            &["version"],
        )?;
        build.with_label_values(&[version]).set(1);
        metrics.registry.register(Box::new(build))?;
        #[cfg(target_os = "linux")]
        metrics.registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        Ok(metrics)
    }

    /// Makes the series of a corp visible before anything happens, so that alerts on growth work.
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

    /// The text form that Prometheus scrapes.
    ///
    /// # Errors
    /// A metric cannot be encoded.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// The archive gave records.
    pub fn pulled(&self, corp: &str, records: u64) {
        self.records_pulled
            .with_label_values(&[corp])
            .inc_by(records);
    }

    /// A batch went through the stages.
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

    /// How far behind the delivered messages are.
    pub fn lag(&self, corp: &str, lag: Duration) {
        self.source_lag
            .with_label_values(&[corp])
            .set(lag.as_secs_f64());
    }

    /// The oldest record not delivered yet has been in the archive for at most so long.
    pub fn hours_until_loss(&self, corp: &str, waiting: Duration) {
        let left = (WINDOW_HOURS - waiting.as_secs_f64() / 3600.0).max(0.0);
        self.source_hours.with_label_values(&[corp]).set(left);
    }

    /// Every sink has reached a position.
    pub fn cursor(&self, corp: &str, position: u64) {
        let shown = i64::try_from(position).unwrap_or(i64::MAX);
        self.cursor.with_label_values(&[corp]).set(shown);
    }

    /// A stage or a sink's write took so long.
    pub fn stage(&self, stage: &str, took: Duration) {
        self.stage_seconds
            .with_label_values(&[stage])
            .observe(took.as_secs_f64());
    }

    /// A sink has confirmed rows.
    pub fn sink_wrote(&self, sink: &str, rows: usize) {
        self.sink_rows
            .with_label_values(&[sink])
            .inc_by(rows as u64);
        self.sink_insert_rows
            .with_label_values(&[sink])
            .observe(rows as f64);
    }

    /// A write failed.
    pub fn sink_failed(&self, sink: &str, class: FaultClass) {
        self.sink_errors
            .with_label_values(&[sink, class.as_str()])
            .inc();
    }

    /// Rows were gathered for a sink (or, negative, left its hands).
    pub fn sink_pending(&self, sink: &str, change: i64) {
        self.sink_pending.with_label_values(&[sink]).add(change);
    }

    /// A call to WeCom ended; `class` is `ok` or a fault class.
    pub fn api_call(&self, api: &str, class: &str) {
        self.api_calls.with_label_values(&[api, class]).inc();
    }

    /// The directory's age.
    pub fn directory_age(&self, corp: &str, age: Duration) {
        self.directory_age
            .with_label_values(&[corp])
            .set(age.as_secs_f64());
    }

    /// Rules were taken over.
    pub fn rules_active(&self, rules: usize) {
        self.rules_active.set(rules as i64);
    }

    /// Keys could not be taken over.
    pub fn keys_reload_failed(&self) {
        self.keys_reload_errors.inc();
    }

    /// So many dead letters of a corp are open.
    pub fn dead_letters_open(&self, corp: &str, letters: usize) {
        self.dead_letters_open
            .with_label_values(&[corp])
            .set(letters as i64);
    }

    /// Rules could not be taken over.
    pub fn rules_reload_failed(&self) {
        self.rules_reload_errors.inc();
    }
}
