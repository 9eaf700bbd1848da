//! Arrow schemas of the tables `messages` and `violations`, as written to Parquet files.
//!
//! Column names are the same as in ClickHouse. `corp_id` and the date are in the path
//! (`corp_id=…/dt=…`, Hive partitioning), not in the file.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

fn instant(name: &str) -> Field {
    Field::new(
        name,
        DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        false,
    )
}

fn list(name: &str, item: DataType) -> Field {
    Field::new(
        name,
        DataType::List(Arc::new(Field::new("item", item, false))),
        false,
    )
}

/// Returns the fields of one element of `spans`: offsets into `content` in Unicode scalar values,
/// end exclusive.
pub fn span_fields() -> Fields {
    Fields::from(vec![
        Field::new("start", DataType::UInt32, false),
        Field::new("end", DataType::UInt32, false),
    ])
}

/// Returns the columns of a file in `messages/`, in the order of [`crate::Message`].
pub fn messages() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("seq", DataType::UInt64, false),
        text("msgid"),
        text("action"),
        text("msgtype"),
        instant("msgtime"),
        text("conversation_id"),
        text("conversation_kind"),
        text("room_id"),
        text("room_name"),
        text("from_id"),
        text("from_kind"),
        text("from_name"),
        Field::new("from_department_id", DataType::UInt32, false),
        text("from_department_path"),
        list("to_ids", DataType::Utf8),
        text("content"),
        text("payload"),
        Field::new("key_version", DataType::UInt32, false),
    ]))
}

/// Returns the columns of a file in `violations/`, in the order of [`crate::Violation`].
pub fn violations() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("violation_id"),
        text("msgid"),
        Field::new("seq", DataType::UInt64, false),
        instant("msgtime"),
        text("conversation_id"),
        text("from_id"),
        text("rule_id"),
        text("rule_name"),
        text("rule_version"),
        text("category"),
        text("severity"),
        list("matched", DataType::Utf8),
        list("spans", DataType::Struct(span_fields())),
        instant("detected_at"),
    ]))
}
