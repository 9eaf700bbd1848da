//! Rows to write, and a reader that converts files back into rows.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses only a part"
)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{TimestampMillisecondType, UInt32Type, UInt64Type};
use arrow_array::{ArrayRef, RecordBatch};
use bytes::Bytes;
use chatledger_parquet::{BatchEncoder, EncodedFile, Tz, Zones};
use chatledger_schemas::{ConversationKind, CorpId, Message, PartyKind, Severity, Violation};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// 2024-02-29T12:00:00Z, 20:00 in Shanghai.
pub const EVENING: i64 = 1_709_208_000_000;

pub const DAY: i64 = 86_400_000;

pub fn zones() -> Zones {
    Zones::new(HashMap::from([
        (CorpId::from("ww1"), Tz::Asia__Shanghai),
        (CorpId::from("ww2"), Tz::America__New_York),
    ]))
}

pub fn message(seq: u64, msgtime: i64) -> Message {
    Message {
        corp_id: CorpId::from("ww1"),
        seq,
        msgid: format!("msg-{seq}"),
        action: "send".into(),
        msgtype: if seq.is_multiple_of(7) {
            "image"
        } else {
            "text"
        }
        .into(),
        msgtime,
        conversation_id: format!("lisi|wm{}", seq % 50),
        conversation_kind: ConversationKind::SingleExternal,
        room_id: String::new(),
        room_name: String::new(),
        from_id: "lisi".into(),
        from_kind: PartyKind::Member,
        from_name: "李四".into(),
        from_department_id: (seq % 20) as u32,
        from_department_path: "总公司/销售".into(),
        to_ids: (0..seq % 4).map(|i| format!("wm{i}")).collect(),
        content: format!("第 {seq} 条"),
        payload: format!(r#"{{"text":{{"content":"第 {seq} 条"}}}}"#),
        key_version: 1,
    }
}

pub fn violation(message: &Message) -> Violation {
    Violation {
        corp_id: message.corp_id.clone(),
        violation_id: format!("{}/r1", message.msgid),
        msgid: message.msgid.clone(),
        seq: message.seq,
        msgtime: message.msgtime,
        conversation_id: message.conversation_id.clone(),
        from_id: message.from_id.clone(),
        rule_id: "r1".into(),
        rule_name: "规则一".into(),
        rule_version: "0123456789abcdef".into(),
        category: "sensitive_word".into(),
        severity: Severity::Critical,
        matched: vec!["第".into(), "条".into()],
        spans: vec![(0, 1), (4, 5)],
        detected_at: message.msgtime + 17,
    }
}

pub fn files(messages: &[Message], violations: &[Violation]) -> Vec<EncodedFile> {
    let mut encoder = BatchEncoder::new(zones());
    encoder.append(messages, violations).unwrap();
    encoder.finish("batch-1", &[]).unwrap()
}

fn batches(bytes: &Bytes) -> Vec<RecordBatch> {
    ParquetRecordBatchReaderBuilder::try_new(bytes.clone())
        .unwrap()
        .build()
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

/// Reads the values of one row by column name.
struct RowReader<'a> {
    batch: &'a RecordBatch,
    row: usize,
}

impl RowReader<'_> {
    fn column(&self, name: &str) -> &ArrayRef {
        self.batch.column_by_name(name).unwrap()
    }
    fn text(&self, name: &str) -> String {
        self.column(name)
            .as_string::<i32>()
            .value(self.row)
            .to_owned()
    }
    fn u64(&self, name: &str) -> u64 {
        self.column(name)
            .as_primitive::<UInt64Type>()
            .value(self.row)
    }
    fn u32(&self, name: &str) -> u32 {
        self.column(name)
            .as_primitive::<UInt32Type>()
            .value(self.row)
    }
    fn instant(&self, name: &str) -> i64 {
        let column = self.column(name).as_primitive::<TimestampMillisecondType>();
        assert_eq!(column.timezone(), Some("UTC"));
        column.value(self.row)
    }
    fn texts(&self, name: &str) -> Vec<String> {
        let list = self.column(name).as_list::<i32>().value(self.row);
        let texts = list.as_string::<i32>();
        texts.iter().map(|text| text.unwrap().to_owned()).collect()
    }
    fn spans(&self, name: &str) -> Vec<(u32, u32)> {
        let list = self.column(name).as_list::<i32>().value(self.row);
        let pairs = list.as_struct();
        let side = |name| {
            pairs
                .column_by_name(name)
                .unwrap()
                .as_primitive::<UInt32Type>()
        };
        let (starts, ends) = (side("start"), side("end"));
        starts
            .values()
            .iter()
            .copied()
            .zip(ends.values().iter().copied())
            .collect()
    }
}

fn rows<T>(bytes: &Bytes, read: impl Fn(&RowReader<'_>) -> T) -> Vec<T> {
    let mut all = Vec::new();
    for batch in &batches(bytes) {
        assert!(
            batch.column_by_name("corp_id").is_none(),
            "it is in the path"
        );
        assert!(batch.column_by_name("dt").is_none(), "it is in the path");
        all.extend((0..batch.num_rows()).map(|row| read(&RowReader { batch, row })));
    }
    all
}

pub fn read_messages(corp: &str, bytes: &Bytes) -> Vec<Message> {
    rows(bytes, |row| Message {
        corp_id: CorpId::from(corp),
        seq: row.u64("seq"),
        msgid: row.text("msgid"),
        action: row.text("action"),
        msgtype: row.text("msgtype"),
        msgtime: row.instant("msgtime"),
        conversation_id: row.text("conversation_id"),
        conversation_kind: [
            ConversationKind::SingleInternal,
            ConversationKind::SingleExternal,
            ConversationKind::GroupInternal,
            ConversationKind::GroupExternal,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == row.text("conversation_kind"))
        .unwrap(),
        room_id: row.text("room_id"),
        room_name: row.text("room_name"),
        from_id: row.text("from_id"),
        from_kind: [
            PartyKind::Member,
            PartyKind::Customer,
            PartyKind::Robot,
            PartyKind::Unknown,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == row.text("from_kind"))
        .unwrap(),
        from_name: row.text("from_name"),
        from_department_id: row.u32("from_department_id"),
        from_department_path: row.text("from_department_path"),
        to_ids: row.texts("to_ids"),
        content: row.text("content"),
        payload: row.text("payload"),
        key_version: row.u32("key_version"),
    })
}

pub fn read_violations(corp: &str, bytes: &Bytes) -> Vec<Violation> {
    rows(bytes, |row| Violation {
        corp_id: CorpId::from(corp),
        violation_id: row.text("violation_id"),
        msgid: row.text("msgid"),
        seq: row.u64("seq"),
        msgtime: row.instant("msgtime"),
        conversation_id: row.text("conversation_id"),
        from_id: row.text("from_id"),
        rule_id: row.text("rule_id"),
        rule_name: row.text("rule_name"),
        rule_version: row.text("rule_version"),
        category: row.text("category"),
        severity: Severity::ALL
            .into_iter()
            .find(|severity| severity.as_str() == row.text("severity"))
            .unwrap(),
        matched: row.texts("matched"),
        spans: row.spans("spans"),
        detected_at: row.instant("detected_at"),
    })
}
