//! Measures the cost of inserts in this process: rows per second, CPU seconds per 100k rows.
//!
//! `cargo run --release -p chatledger-clickhouse --example insert_cost <url> [rows] [batch]`
//!
//! Creates the database `insert_cost` and inserts synthetic chat messages of 0.8 KB in batches; they
//! are not removed. The server's CPU time is not counted.

#![allow(clippy::print_stdout, reason = "the output is this program's purpose")]

use std::time::{Duration, Instant};

use chatledger_clickhouse::tables::Messages;
use chatledger_clickhouse::{ClickHouse, Options};
use chatledger_schemas::{ConversationKind, CorpId, Message, PartyKind};

fn message(corp_id: &CorpId, seq: u64) -> Message {
    let msgid = format!(
        "{:032x}_external",
        u128::from(seq).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    );
    let content = format!("您好，合同我这边已经看过了，第 {seq} 条的付款方式还想再商量一下。");
    let room_id = format!("wrBBBB{:022x}", seq % 400);
    let to_ids: Vec<String> = (0..8)
        .map(|i| format!("member{:03}", (seq + i) % 200))
        .collect();
    let payload = format!(
        r#"{{"msgid":"{msgid}","action":"send","tolist":{to_ids:?},"roomid":"{room_id}","msgtype":"text","text":{{"content":"{content}"}}}}"#
    );
    Message {
        corp_id: corp_id.clone(),
        seq,
        msgid,
        action: "send".into(),
        msgtype: "text".into(),
        msgtime: 1_709_168_400_000 + seq as i64 * 300,
        conversation_id: room_id.clone(),
        conversation_kind: ConversationKind::GroupExternal,
        room_id,
        room_name: "项目群".into(),
        from_id: format!("member{:03}", seq % 200),
        from_kind: PartyKind::Member,
        from_name: "张三".into(),
        from_department_id: 12,
        from_department_path: "总公司/销售中心/华东大区".into(),
        to_ids,
        content,
        payload,
        key_version: 1,
    }
}

/// User and system time of this process in seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |n| -> f64 {
        fields
            .split_whitespace()
            .nth(n)
            .and_then(|f| f.parse().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("insert_cost <url> [rows] [batch]")?;
    let rows: u64 = arguments.next().map_or(Ok(400_000), |a| a.parse())?;
    let batch: usize = arguments.next().map_or(Ok(50_000), |a| a.parse())?;
    let clickhouse = ClickHouse::new(Options {
        url,
        database: "insert_cost".into(),
        user: None,
        password: None,
        roots: None,
        timeout: Duration::from_secs(60),
    })?;
    clickhouse.migrate().await?;

    let corp_id = CorpId::from("ww0123456789abcdef");
    let messages: Vec<Message> = (1..=rows).map(|seq| message(&corp_id, seq)).collect();
    let run = std::process::id();
    let (start, cpu) = (Instant::now(), cpu_seconds());
    for (number, batch) in messages.chunks(batch).enumerate() {
        clickhouse
            .insert(Messages, &format!("{run}-{number}"), batch)
            .await?;
    }
    let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!(
        "{:.0} rows/s with the server, {:.3} CPU s per 100k rows in this process",
        rows as f64 / wall,
        cpu * 100_000.0 / rows as f64,
    );
    Ok(())
}
