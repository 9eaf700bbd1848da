//! chatledger's metrics by name and labels, and a search for metric names in PromQL.
//!
//! Tests compare dashboards, alerts and runbooks with this list. Not here: a PromQL parser; promtool
//! and Prometheus check the syntax.

/// Every metric of chatledger with its own labels, without those added by the scrape.
pub const METRICS: &[(&str, &[&str])] = &[
    ("chatledger_records_pulled_total", &["corp"]),
    ("chatledger_messages_total", &["corp"]),
    ("chatledger_violations_total", &["corp", "severity"]),
    ("chatledger_dead_letters_total", &["corp", "reason"]),
    ("chatledger_duplicates_total", &["corp"]),
    ("chatledger_source_lag_seconds", &["corp"]),
    ("chatledger_source_hours_until_loss", &["corp"]),
    ("chatledger_source_unanswered_seconds", &["corp"]),
    ("chatledger_source_stopped", &["corp"]),
    ("chatledger_stage_batch_seconds", &["stage"]),
    ("chatledger_sink_rows_total", &["sink"]),
    ("chatledger_sink_insert_rows", &["sink"]),
    ("chatledger_sink_errors_total", &["sink", "class"]),
    ("chatledger_sink_pending_rows", &["sink"]),
    ("chatledger_api_calls_total", &["api", "errcode_class"]),
    ("chatledger_cursor_seq", &["corp"]),
    ("chatledger_unresolved_total", &["kind"]),
    ("chatledger_directory_age_seconds", &["corp"]),
    ("chatledger_rules_active", &[]),
    ("chatledger_rules_reload_errors_total", &[]),
    ("chatledger_keys_reload_errors_total", &[]),
    ("chatledger_dead_letters_open", &["corp"]),
    ("chatledger_build_info", &["version"]),
];

/// Returns the metric names in a text, each with the text in the braces after it.
pub fn named_in(text: &str) -> Vec<(&str, &str)> {
    text.match_indices("chatledger_")
        .map(|(at, _)| {
            let rest = &text[at..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let (name, tail) = rest.split_at(end.unwrap_or(rest.len()));
            let labels = tail.strip_prefix('{').and_then(|t| t.split('}').next());
            (name, labels.unwrap_or_default())
        })
        .collect()
}

/// Returns the labels of a metric, or of the histogram of a `_bucket`, `_sum` or `_count`; `None` if
/// the metric does not exist.
pub fn labels_of(metric: &str) -> Option<&'static [&'static str]> {
    let find = |name: &str| {
        METRICS
            .iter()
            .find(|(m, _)| *m == name)
            .map(|(_, labels)| *labels)
    };
    find(metric).or_else(|| {
        ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|s| metric.strip_suffix(s).and_then(find))
    })
}
