//! Copies rows into Arrow columns, one at a time, for the encoder to take in chunks.
//!
//! The columns have the order of `chatledger_schemas::columns`; the round-trip test depends on it.

use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, ListArray, StructArray, TimestampMillisecondArray, UInt32Array, UInt64Array,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field};
use chatledger_schemas::{Message, Violation, columns};

/// A row of a table that is written as files.
pub(crate) trait EncodableRow {
    /// The columns that gather such rows.
    type Columns: ColumnBuilders<Row = Self>;

    /// Position in the corp's archive, the declared sort order of files.
    fn seq(&self) -> u64;

    /// Bytes of the fields of variable length, used as the row's size.
    fn text_bytes(&self) -> usize;
}

/// Gathers rows into columns.
pub(crate) trait ColumnBuilders: Default {
    type Row: ?Sized;

    /// Adds a row. The caller keeps the texts of a chunk below `i32::MAX` bytes, the limit of the
    /// arrays' offsets.
    fn push(&mut self, row: &Self::Row);

    /// Takes the rows out. The columns are empty afterwards.
    fn take(&mut self) -> Vec<ArrayRef>;
}

/// A column of lists of texts. The items are not nullable, as in the schema.
struct Texts(ListBuilder<StringBuilder>);

impl Default for Texts {
    fn default() -> Self {
        let item = Field::new("item", DataType::Utf8, false);
        Self(ListBuilder::with_capacity(StringBuilder::with_capacity(0, 0), 0).with_field(item))
    }
}

impl Texts {
    fn push(&mut self, texts: &[String]) {
        for text in texts {
            self.0.values().append_value(text);
        }
        self.0.append(true);
    }

    fn take(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

/// A column of texts.
struct Text(StringBuilder);

impl Default for Text {
    fn default() -> Self {
        Self(StringBuilder::with_capacity(0, 0))
    }
}

impl Text {
    fn push(&mut self, text: &str) {
        self.0.append_value(text);
    }

    fn take(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

fn numbers(values: &mut Vec<u64>) -> ArrayRef {
    Arc::new(UInt64Array::from(std::mem::take(values)))
}

fn small_numbers(values: &mut Vec<u32>) -> ArrayRef {
    Arc::new(UInt32Array::from(std::mem::take(values)))
}

fn instants(values: &mut Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from(std::mem::take(values)).with_timezone("UTC"))
}

#[derive(Default)]
pub(crate) struct MessageColumns {
    seq: Vec<u64>,
    msgid: Text,
    action: Text,
    msgtype: Text,
    msgtime: Vec<i64>,
    conversation_id: Text,
    conversation_kind: Text,
    room_id: Text,
    room_name: Text,
    from_id: Text,
    from_kind: Text,
    from_name: Text,
    from_department_id: Vec<u32>,
    from_department_path: Text,
    to_ids: Texts,
    content: Text,
    payload: Text,
    key_version: Vec<u32>,
}

impl EncodableRow for Message {
    type Columns = MessageColumns;

    fn seq(&self) -> u64 {
        self.seq
    }

    fn text_bytes(&self) -> usize {
        let Self {
            corp_id: _,
            seq: _,
            msgid,
            action,
            msgtype,
            msgtime: _,
            conversation_id,
            conversation_kind: _,
            room_id,
            room_name,
            from_id,
            from_kind: _,
            from_name,
            from_department_id: _,
            from_department_path,
            to_ids,
            content,
            payload,
            key_version: _,
        } = self;
        [
            msgid,
            action,
            msgtype,
            conversation_id,
            room_id,
            room_name,
            from_id,
            from_name,
            from_department_path,
            content,
            payload,
        ]
        .into_iter()
        .chain(to_ids)
        .map(String::len)
        .fold(0, usize::saturating_add)
    }
}

impl ColumnBuilders for MessageColumns {
    type Row = Message;

    fn push(&mut self, row: &Message) {
        self.seq.push(row.seq);
        self.msgid.push(&row.msgid);
        self.action.push(&row.action);
        self.msgtype.push(&row.msgtype);
        self.msgtime.push(row.msgtime);
        self.conversation_id.push(&row.conversation_id);
        self.conversation_kind.push(row.conversation_kind.as_str());
        self.room_id.push(&row.room_id);
        self.room_name.push(&row.room_name);
        self.from_id.push(&row.from_id);
        self.from_kind.push(row.from_kind.as_str());
        self.from_name.push(&row.from_name);
        self.from_department_id.push(row.from_department_id);
        self.from_department_path.push(&row.from_department_path);
        self.to_ids.push(&row.to_ids);
        self.content.push(&row.content);
        self.payload.push(&row.payload);
        self.key_version.push(row.key_version);
    }

    fn take(&mut self) -> Vec<ArrayRef> {
        vec![
            numbers(&mut self.seq),
            self.msgid.take(),
            self.action.take(),
            self.msgtype.take(),
            instants(&mut self.msgtime),
            self.conversation_id.take(),
            self.conversation_kind.take(),
            self.room_id.take(),
            self.room_name.take(),
            self.from_id.take(),
            self.from_kind.take(),
            self.from_name.take(),
            small_numbers(&mut self.from_department_id),
            self.from_department_path.take(),
            self.to_ids.take(),
            self.content.take(),
            self.payload.take(),
            small_numbers(&mut self.key_version),
        ]
    }
}

#[derive(Default)]
pub(crate) struct ViolationColumns {
    violation_id: Text,
    msgid: Text,
    seq: Vec<u64>,
    msgtime: Vec<i64>,
    conversation_id: Text,
    from_id: Text,
    rule_id: Text,
    rule_name: Text,
    rule_version: Text,
    category: Text,
    severity: Text,
    matched: Texts,
    spans_in_row: Vec<usize>,
    starts: Vec<u32>,
    ends: Vec<u32>,
    detected_at: Vec<i64>,
}

impl ViolationColumns {
    fn take_spans(&mut self) -> ArrayRef {
        let fields = columns::span_fields();
        let pairs = StructArray::new(
            fields.clone(),
            vec![
                small_numbers(&mut self.starts),
                small_numbers(&mut self.ends),
            ],
            None,
        );
        let item = Field::new("item", DataType::Struct(fields), false);
        let lengths = std::mem::take(&mut self.spans_in_row);
        Arc::new(ListArray::new(
            Arc::new(item),
            OffsetBuffer::from_lengths(lengths),
            Arc::new(pairs),
            None,
        ))
    }
}

impl EncodableRow for Violation {
    type Columns = ViolationColumns;

    fn seq(&self) -> u64 {
        self.seq
    }

    fn text_bytes(&self) -> usize {
        let Self {
            corp_id: _,
            violation_id,
            msgid,
            seq: _,
            msgtime: _,
            conversation_id,
            from_id,
            rule_id,
            rule_name,
            rule_version,
            category,
            severity: _,
            matched,
            spans,
            detected_at: _,
        } = self;
        [
            violation_id,
            msgid,
            conversation_id,
            from_id,
            rule_id,
            rule_name,
            rule_version,
            category,
        ]
        .into_iter()
        .chain(matched)
        .map(String::len)
        .fold(spans.len().saturating_mul(8), usize::saturating_add)
    }
}

impl ColumnBuilders for ViolationColumns {
    type Row = Violation;

    fn push(&mut self, row: &Violation) {
        self.violation_id.push(&row.violation_id);
        self.msgid.push(&row.msgid);
        self.seq.push(row.seq);
        self.msgtime.push(row.msgtime);
        self.conversation_id.push(&row.conversation_id);
        self.from_id.push(&row.from_id);
        self.rule_id.push(&row.rule_id);
        self.rule_name.push(&row.rule_name);
        self.rule_version.push(&row.rule_version);
        self.category.push(&row.category);
        self.severity.push(row.severity.as_str());
        self.matched.push(&row.matched);
        self.spans_in_row.push(row.spans.len());
        for (start, end) in &row.spans {
            self.starts.push(*start);
            self.ends.push(*end);
        }
        self.detected_at.push(row.detected_at);
    }

    fn take(&mut self) -> Vec<ArrayRef> {
        vec![
            self.violation_id.take(),
            self.msgid.take(),
            numbers(&mut self.seq),
            instants(&mut self.msgtime),
            self.conversation_id.take(),
            self.from_id.take(),
            self.rule_id.take(),
            self.rule_name.take(),
            self.rule_version.take(),
            self.category.take(),
            self.severity.take(),
            self.matched.take(),
            self.take_spans(),
            instants(&mut self.detected_at),
        ]
    }
}
