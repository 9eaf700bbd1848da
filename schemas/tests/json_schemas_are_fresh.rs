//! The JSON Schemas in `schemas/json/` are generated from the types. To regenerate them:
//! `UPDATE_SCHEMAS=1 cargo test --release -p chatledger-schemas --test json_schemas_are_fresh`

#![allow(clippy::expect_used, reason = "a failed expectation is a failed test")]

use std::path::Path;

use chatledger_schemas::directory::DirectoryRow;
use chatledger_schemas::{DeadLetterRecord, Message, SealedValue, Violation};
use schemars::{JsonSchema, schema_for};

fn check<T: JsonSchema>(name: &str) {
    let mut fresh = serde_json::to_string_pretty(&schema_for!(T)).expect("serialise the schema");
    fresh.push('\n');
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("json")
        .join(name);
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        std::fs::write(&path, &fresh).expect("write the schema");
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == fresh,
        "schemas/json/{name} is stale; run: UPDATE_SCHEMAS=1 cargo test --release \
         -p chatledger-schemas --test json_schemas_are_fresh"
    );
}

#[test]
fn topic_schemas_match_their_types() {
    check::<Message>("message.schema.json");
    check::<Violation>("violation.schema.json");
    check::<DeadLetterRecord>("dead_letter.schema.json");
    check::<SealedValue<'_>>("sealed_value.schema.json");
    check::<DirectoryRow>("directory.schema.json");
}
