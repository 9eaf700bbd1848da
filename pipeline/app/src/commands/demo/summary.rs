//! The summary of the demo, read from the tables with queries as an analyst would write them.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use chatledger_engine::shared::Summary;
use clickhouse::{Client, Row};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

/// Examples shown for each rule.
const EXAMPLES: u64 = 3;

/// The summary.
#[derive(Debug, Serialize)]
pub struct DemoReport {
    /// Counts of the pipeline.
    pub run: Summary,
    /// Seconds from the start of the pipeline to the last delivery.
    pub seconds: f64,
    /// Records per second.
    pub records_per_second: f64,
    /// Messages with FINAL.
    pub messages: u64,
    /// Messages without FINAL.
    pub messages_before_final: u64,
    /// Violations with FINAL.
    pub violations: u64,
    /// Violations without FINAL.
    pub violations_before_final: u64,
    /// Dead letters with FINAL.
    pub dead_letters: u64,
    /// Dead letters by reason.
    pub reasons: Vec<NameCount>,
    /// Messages by type.
    pub types: Vec<NameCount>,
    /// The most active members.
    pub members: Vec<ActiveMember>,
    /// Violations by rule, with examples.
    pub rules: Vec<RuleViolations>,
}

/// A name and a number of rows.
#[derive(Debug, Row, Serialize, Deserialize)]
pub struct NameCount {
    name: String,
    count: u64,
}

/// A member and the number of messages they sent.
#[derive(Debug, Row, Serialize, Deserialize)]
pub struct ActiveMember {
    name: String,
    department: String,
    messages: u64,
    conversations: u64,
}

/// A rule and its violations.
#[derive(Debug, Serialize)]
pub struct RuleViolations {
    rule: String,
    severity: String,
    count: u64,
    examples: Vec<Example>,
}

#[derive(Debug, Row, Serialize, Deserialize)]
struct RuleCount {
    id: String,
    name: String,
    severity: String,
    count: u64,
}

/// A message with a violation, and the previous message of its conversation.
#[derive(Debug, Row, Serialize, Deserialize)]
pub struct Example {
    at: String,
    from: String,
    content: String,
    spans: Vec<(u32, u32)>,
    before_from: String,
    before: String,
}

/// Reads the summary from the tables.
pub async fn read(
    tables: &Client,
    took: Duration,
    run: Summary,
) -> Result<DemoReport, clickhouse::error::Error> {
    let count = async |sql: &str| tables.query(sql).fetch_one::<u64>().await;
    let types = "SELECT msgtype AS name, count() AS count FROM messages FINAL \
                 GROUP BY msgtype ORDER BY count DESC, name LIMIT 10";
    let reasons = "SELECT reason AS name, count() AS count FROM dead_letters FINAL \
                   GROUP BY reason ORDER BY count DESC, name";
    let members = "SELECT any(from_name) AS name, any(from_department_path) AS department, \
                   count() AS messages, uniqExact(conversation_id) AS conversations \
                   FROM messages FINAL WHERE from_kind = 'member' \
                   GROUP BY from_id ORDER BY messages DESC, from_id LIMIT 8";
    let rules = "SELECT rule_id AS id, any(rule_name) AS name, any(severity) AS severity, \
                 count() AS count FROM violations FINAL GROUP BY rule_id ORDER BY count DESC, id";
    let mut with_examples = Vec::new();
    for rule in tables.query(rules).fetch_all::<RuleCount>().await? {
        let examples = tables
            .query(EXAMPLE)
            .bind(&rule.id)
            .bind(EXAMPLES)
            .fetch_all::<Example>()
            .await?;
        let RuleCount {
            name,
            severity,
            count,
            ..
        } = rule;
        with_examples.push(RuleViolations {
            rule: name,
            severity,
            count,
            examples,
        });
    }
    let seconds = took.as_secs_f64();
    Ok(DemoReport {
        run,
        seconds,
        records_per_second: run.pulled as f64 / seconds.max(0.001),
        messages: count("SELECT count() FROM messages FINAL").await?,
        messages_before_final: count("SELECT count() FROM messages").await?,
        violations: count("SELECT count() FROM violations FINAL").await?,
        violations_before_final: count("SELECT count() FROM violations").await?,
        dead_letters: count("SELECT count() FROM dead_letters FINAL").await?,
        reasons: tables.query(reasons).fetch_all().await?,
        types: tables.query(types).fetch_all().await?,
        members: tables.query(members).fetch_all().await?,
        rules: with_examples,
    })
}

/// The newest violations of a rule, each with the previous text of its conversation.
const EXAMPLE: &str = "\
WITH hits AS (
    SELECT msgid, conversation_id, msgtime, spans FROM violations FINAL
    WHERE rule_id = ? ORDER BY msgtime DESC, msgid LIMIT ?
), near AS (
    SELECT conversation_id, msgid, msgtime, content, if(from_name = '', from_id, from_name) AS who
    FROM messages FINAL
    WHERE conversation_id IN (SELECT conversation_id FROM hits) AND content != ''
)
SELECT formatDateTime(hits.msgtime, '%Y-%m-%d %H:%i', 'Asia/Shanghai') AS at,
       anyIf(near.who, near.msgid = hits.msgid) AS `from`,
       anyIf(near.content, near.msgid = hits.msgid) AS content,
       any(hits.spans) AS spans,
       argMaxIf(near.who, near.msgtime, near.msgtime < hits.msgtime) AS before_from,
       argMaxIf(near.content, near.msgtime, near.msgtime < hits.msgtime) AS before
FROM hits INNER JOIN near ON near.conversation_id = hits.conversation_id
GROUP BY hits.msgid, hits.msgtime ORDER BY hits.msgtime DESC";

impl DemoReport {
    /// Formats the summary as text.
    pub fn text(&self, clickhouse: &str, parquet: &Path, company: &Path) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.write(&mut text, clickhouse, parquet, company);
        text
    }

    fn write(
        &self,
        out: &mut String,
        clickhouse: &str,
        parquet: &Path,
        company: &Path,
    ) -> std::fmt::Result {
        let run = &self.run;
        writeln!(
            out,
            "\n{} sealed records in {:.1} s ({:.0} per second): {} messages, {} violations, {} dead \
             letters, {} duplicates from the archive.",
            run.pulled,
            self.seconds,
            self.records_per_second,
            run.messages,
            run.violations,
            run.dead_letters,
            run.duplicates
        )?;
        writeln!(
            out,
            "Rows in the table messages: {} without FINAL, {} with FINAL.",
            self.messages_before_final, self.messages
        )?;

        let mut types = table(&["message type", "messages"]);
        for row in &self.types {
            types.add_row(vec![Cell::new(&row.name), number(row.count)]);
        }
        writeln!(out, "\nMessage types\n{types}")?;
        let mut members = table(&["member", "department", "messages", "conversations"]);
        for row in &self.members {
            members.add_row(vec![
                Cell::new(&row.name),
                Cell::new(&row.department),
                number(row.messages),
                number(row.conversations),
            ]);
        }
        writeln!(out, "\nMost active members\n{members}")?;
        let mut reasons = table(&["reason", "records"]);
        for row in &self.reasons {
            reasons.add_row(vec![Cell::new(&row.name), number(row.count)]);
        }
        writeln!(
            out,
            "\nDead letters: records that could not be opened or decoded\n{reasons}"
        )?;

        writeln!(out, "\nViolations by rule, with the matched words in «»")?;
        for rule in &self.rules {
            writeln!(out, "\n  {} ({}): {}", rule.rule, rule.severity, rule.count)?;
            for example in &rule.examples {
                if !example.before.is_empty() {
                    let before = shortened(&example.before);
                    writeln!(out, "    {:16}  {}: {before}", "", example.before_from)?;
                }
                let content = marked(&example.content, &example.spans);
                writeln!(out, "    {}  {}: {content}", example.at, example.from)?;
            }
        }
        writeln!(out, "\nParquet files   {}", parquet.display())?;
        writeln!(
            out,
            "Configuration   {}",
            company.join("chatledger.toml").display()
        )?;
        writeln!(out, "\nA query to try while ClickHouse runs (with --stay):")?;
        write!(
            out,
            "  curl '{clickhouse}/?database=chatledger' --data-binary \"SELECT toDate(msgtime, \
             'Asia/Shanghai') AS day, conversation_kind, count() FROM messages FINAL GROUP BY ALL \
             ORDER BY ALL FORMAT PrettyCompact\""
        )
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header.to_vec());
    table
}

fn number(value: u64) -> Cell {
    Cell::new(value).set_alignment(CellAlignment::Right)
}

/// Marks the matched words. Spans are character offsets in ascending order and may overlap.
fn marked(content: &str, spans: &[(u32, u32)]) -> String {
    let mut text = String::new();
    let (mut open, mut close) = (None, 0);
    for (at, character) in content.chars().enumerate() {
        let at = at as u32;
        if open.is_some() && at >= close {
            text.push('»');
            open = None;
        }
        if let Some(span) = spans
            .iter()
            .filter(|span| span.0 == at)
            .max_by_key(|span| span.1)
        {
            if open.is_none() {
                text.push('«');
                open = Some(at);
            }
            close = close.max(span.1);
        }
        text.push(if character.is_control() {
            ' '
        } else {
            character
        });
    }
    if open.is_some() {
        text.push('»');
    }
    text
}

fn shortened(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    let flat = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let short: String = flat.clone().take(MAX_CHARS).collect();
    if flat.count() > MAX_CHARS {
        format!("{short}…")
    } else {
        short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matched_words_are_marked() {
        assert_eq!(marked("请加我微信吧", &[(1, 5)]), "请«加我微信»吧");
        assert_eq!(marked("保本保收益", &[(0, 2), (1, 5)]), "«保本保收益»");
        assert_eq!(marked("回扣回扣", &[(0, 2), (2, 4)]), "«回扣»«回扣»");
        assert_eq!(marked("a\nb", &[]), "a b");
    }
}
