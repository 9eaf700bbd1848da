//! Measures the cost of encoding: rows per second, CPU seconds per 100k rows, bytes per row, memory.
//!
//! `cargo run --release -p chatledger-parquet --example encode_rate [rows] [days]`
//!
//! The rows are synthetic chat messages of realistic length, with random message ids, a few thousand
//! conversations and the distribution of an office day; one in a hundred violates a rule.

#![allow(clippy::print_stdout, reason = "the output is this program's purpose")]

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::time::Instant;

use chatledger_parquet::{BatchEncoder, EncodedFile, Tz, Zones};
use chatledger_schemas::{ConversationKind, CorpId, Message, PartyKind, Severity, Violation};

const PHRASES: &[&str] = &[
    "您好，合同我这边已经看过了，第三条的付款方式还想再商量一下。",
    "收到，我下午三点前把报价单发到您邮箱。",
    "这批货预计周五到港，清关大概两天，请提前安排仓库。",
    "好的",
    "麻烦发一下开票信息：名称、税号、开户行和账号。",
    "客户反馈昨晚十点左右系统打不开，请帮忙看下日志。",
    "[图片] 现场情况如图，设备编号 A-1032，已经停机检修。",
    "会议改到明天上午九点半，三楼小会议室，请大家准时参加。",
];

/// A small random generator, so that figures can be compared between versions of all dependencies.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn message(corp_id: &CorpId, seq: u64, msgtime: i64, dice: &mut Dice) -> Message {
    let member = format!("member{:03}", dice.roll(200));
    let customer = format!("wmAAAA{:022x}", dice.roll(3000));
    let group = dice.roll(3) == 0;
    let room = if group {
        format!("wrBBBB{:022x}", dice.roll(400))
    } else {
        String::new()
    };
    let mut msgid = String::new();
    for _ in 0..2 {
        let _ = write!(msgid, "{:016x}", dice.roll(u64::MAX));
    }
    msgid.push_str("_external");
    let mut content = String::new();
    for _ in 0..=dice.roll(3) {
        content.push_str(PHRASES[dice.roll(PHRASES.len() as u64) as usize]);
        let _ = write!(content, "{}", dice.roll(100_000));
    }
    let to_ids: Vec<String> = if group {
        (0..12)
            .map(|i| format!("member{:03}", (dice.roll(20) + i) % 200))
            .collect()
    } else {
        vec![customer.clone()]
    };
    let payload = format!(
        r#"{{"msgid":"{msgid}","action":"send","from":"{member}","tolist":{to_ids:?},"roomid":"{room}","msgtime":{msgtime},"msgtype":"text","text":{{"content":"{content}"}}}}"#
    );
    Message {
        corp_id: corp_id.clone(),
        seq,
        msgid,
        action: "send".into(),
        msgtype: "text".into(),
        msgtime,
        conversation_id: if group {
            room.clone()
        } else {
            format!("{member}|{customer}")
        },
        conversation_kind: if group {
            ConversationKind::GroupExternal
        } else {
            ConversationKind::SingleExternal
        },
        room_name: if group {
            format!("项目群 {}", &room[24..])
        } else {
            String::new()
        },
        room_id: room,
        from_name: format!("员工{}", &member[6..]),
        from_id: member,
        from_kind: PartyKind::Member,
        from_department_id: dice.roll(30) as u32 + 1,
        from_department_path: "总公司/销售中心/华东大区".into(),
        to_ids,
        content,
        payload,
        key_version: 1,
    }
}

fn violation(message: &Message) -> Violation {
    Violation {
        corp_id: message.corp_id.clone(),
        violation_id: format!("{}-private-deal", message.msgid),
        msgid: message.msgid.clone(),
        seq: message.seq,
        msgtime: message.msgtime,
        conversation_id: message.conversation_id.clone(),
        from_id: message.from_id.clone(),
        rule_id: "private-deal".into(),
        rule_name: "私下交易监控".into(),
        rule_version: "0123456789abcdef".into(),
        category: "sensitive_word".into(),
        severity: Severity::High,
        matched: vec!["开票".into()],
        spans: vec![(4, 6)],
        detected_at: message.msgtime + 1500,
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

fn peak_mebibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}

fn column_sizes(files: &[EncodedFile]) -> BTreeMap<String, u64> {
    use parquet::file::reader::FileReader;
    let mut sizes = BTreeMap::new();
    for file in files {
        let Ok(reader) = parquet::file::reader::SerializedFileReader::new(file.bytes.clone())
        else {
            continue;
        };
        for group in reader.metadata().row_groups() {
            for column in group.columns() {
                let table = file.path.split('/').next().unwrap_or_default();
                *sizes
                    .entry(format!("{table}.{}", column.column_path().string()))
                    .or_default() += column.compressed_size() as u64;
            }
        }
    }
    sizes
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let rows: u64 = arguments.next().map_or(Ok(100_000), |a| a.parse())?;
    let days: u64 = arguments.next().map_or(Ok(1), |a| a.parse())?;

    let corp_id = CorpId::from("ww0123456789abcdef");
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let step = (days * 32_400_000 / rows).max(1);
    let messages: Vec<Message> = (0..rows)
        .map(|i| {
            let working = i * step;
            let day = working / 32_400_000;
            let msgtime = 1_709_168_400_000 + day * 86_400_000 + working % 32_400_000;
            message(&corp_id, i + 1, msgtime as i64, &mut dice)
        })
        .collect();
    let violations: Vec<Violation> = messages.iter().step_by(100).map(violation).collect();
    let raw: usize = messages
        .iter()
        .map(|m| m.payload.len() + m.content.len())
        .sum();
    let before = peak_mebibytes();

    let zones = Zones::new(HashMap::from([(corp_id, Tz::Asia__Shanghai)]));
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let mut encoder = BatchEncoder::new(zones);
    let mut most = 0;
    for (batch, found) in messages.chunks(1000).zip(violations.chunks(10)) {
        encoder.append(batch, found)?;
        most = most.max(encoder.bytes());
    }
    let files = encoder.finish("measure", &[])?;
    let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);

    let bytes: usize = files.iter().map(|file| file.bytes.len()).sum();
    for (column, size) in column_sizes(&files) {
        println!(
            "{column:40} {:8.2} bytes per row",
            size as f64 / rows as f64
        );
    }
    println!(
        "{rows} messages, {} violations, {} files, payload and content {:.0} bytes per row",
        violations.len(),
        files.len(),
        raw as f64 / rows as f64
    );
    println!(
        "{:.0} rows/s, {:.2} CPU s per 100k rows, {:.0} bytes per row, {} MiB most in use as reported, peak grew by {} MiB",
        rows as f64 / wall,
        cpu * 100_000.0 / rows as f64,
        bytes as f64 / rows as f64,
        most >> 20,
        peak_mebibytes() - before,
    );
    Ok(())
}
