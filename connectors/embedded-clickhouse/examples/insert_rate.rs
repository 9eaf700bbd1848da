//! Measures inserts through the `clickhouse` crate: `insert_rate URL [rows] [rows per insert]`.
//!
//! Rows are about 1 KB of text that compresses like real text. Prints one JSON object with the rows per
//! second measured by the client. Read the server's CPU time and memory from `/proc/<id>/stat` and
//! `/proc/<id>/status`.

use std::io::Write as _;
use std::time::Instant;

use anyhow::Context as _;
use clickhouse::{Client, Row};
use serde::Serialize;

#[derive(Row, Serialize)]
struct Message {
    corp: String,
    seq: u64,
    at: i64,
    to: Vec<String>,
    content: String,
    payload: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments
        .next()
        .context("usage: insert_rate URL [rows] [rows per insert]")?;
    let mut number = |default: u64| -> anyhow::Result<u64> {
        arguments
            .next()
            .map_or(Ok(default), |text| Ok(text.parse()?))
    };
    let (rows, batch) = (number(100_000)?, number(20_000)?.max(1));
    let client = Client::default().with_url(url).with_database("default");
    for sql in [
        "DROP TABLE IF EXISTS default.insert_rate",
        "CREATE TABLE default.insert_rate (corp LowCardinality(String), seq UInt64, \
         at DateTime64(3, 'UTC'), to Array(String), content String, payload String) \
         ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(at) ORDER BY (corp, seq) \
         SETTINGS non_replicated_deduplication_window = 1000",
    ] {
        client.query(sql).execute().await?;
    }
    let started = Instant::now();
    for first in (0..rows).step_by(batch as usize) {
        let mut insert = client
            .clone()
            .with_setting("insert_deduplication_token", first.to_string())
            .insert::<Message>("insert_rate")
            .await?;
        for seq in first..(first + batch).min(rows) {
            insert.write(&message(seq)).await?;
        }
        insert.end().await?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let (stored, bytes): (u64, u64) = client
        .query(
            "SELECT sum(rows), sum(bytes_on_disk) FROM system.parts \
             WHERE table = 'insert_rate' AND active",
        )
        .fetch_one()
        .await?;
    anyhow::ensure!(stored == rows, "{stored} rows are stored instead of {rows}");
    let report = serde_json::json!({
        "rows": rows,
        "rows_per_insert": batch,
        "seconds": seconds,
        "rows_per_second": rows as f64 / seconds,
        "bytes_on_disk": bytes,
    });
    writeln!(std::io::stdout(), "{report}")?;
    Ok(())
}

fn message(seq: u64) -> Message {
    let words = [
        "合同", "报价", "客户", "发票", "明天", "会议", "请看", "收到", "好的", "转账",
    ];
    let pick = |at: u64| {
        words[(seq.wrapping_mul(2_654_435_761).wrapping_add(at * 7919) >> 7) as usize % 10]
    };
    let content: String = (0..40).map(pick).collect();
    Message {
        corp: "ww0123456789abcdef".to_owned(),
        seq,
        at: 1_704_067_200_000 + (seq as i64) * 50,
        to: vec![format!("member-{}", seq % 997)],
        payload: format!(
            "{{\"msgid\":\"{seq:020}_{}\",\"text\":{{\"content\":\"{content}\"}},\"pad\":\"{}\"}}",
            seq.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            "x".repeat(200)
        ),
        content,
    }
}
