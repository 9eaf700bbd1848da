//! Files hold the rows that were appended, in the directories of the layout, with the same bytes every
//! time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use chatledger_parquet::{BatchEncoder, EncodedFile};
use chatledger_schemas::{ConversationKind, CorpId, Message, PartyKind, Violation};
use parquet::basic::{Compression, Encoding};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{FileReader, SerializedFileReader};
use proptest::prelude::*;
use support::{DAY, EVENING, files, message, read_messages, read_violations, violation, zones};

fn metadata(file: &EncodedFile) -> ParquetMetaData {
    ParquetMetaDataReader::new()
        .parse_and_finish(&file.bytes)
        .unwrap()
}

#[test]
fn rows_are_read_as_they_were_appended() {
    let empty = Message {
        corp_id: CorpId::from("ww1"),
        seq: 0,
        msgid: String::new(),
        action: String::new(),
        msgtype: String::new(),
        msgtime: EVENING,
        conversation_id: String::new(),
        conversation_kind: ConversationKind::GroupInternal,
        room_id: String::new(),
        room_name: String::new(),
        from_id: String::new(),
        from_kind: PartyKind::Unknown,
        from_name: String::new(),
        from_department_id: 0,
        from_department_path: String::new(),
        to_ids: Vec::new(),
        content: String::new(),
        payload: String::new(),
        key_version: 0,
    };
    let full = Message {
        seq: u64::MAX,
        from_department_id: u32::MAX,
        to_ids: vec![String::new(), "a\0b".into(), "👩‍👩‍👧".into()],
        content: "换行\n零\0".into(),
        payload: "x".repeat(40 << 20),
        key_version: u32::MAX,
        ..message(3, EVENING)
    };
    let messages = [empty, message(1, EVENING), full, message(2, EVENING + 1)];
    let mut bare = violation(&messages[0]);
    bare.matched.clear();
    bare.spans.clear();
    let mut many = violation(&messages[1]);
    many.spans = (0..5000).map(|i| (i, u32::MAX - i)).collect();
    let violations = [violation(&messages[1]), bare, many];

    let files = files(&messages, &violations);
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "messages/corp_id=ww1/dt=2024-02-29/batch-1.parquet",
            "violations/corp_id=ww1/dt=2024-02-29/batch-1.parquet",
        ]
    );
    assert_eq!((files[0].rows, files[1].rows), (4, 3));
    assert!(read_messages("ww1", &files[0].bytes) == messages);
    assert!(read_violations("ww1", &files[1].bytes) == violations);
}

#[test]
fn rows_are_in_the_directory_of_their_corp_and_local_date() {
    let other = Message {
        corp_id: CorpId::from("ww2"),
        ..message(4, EVENING + DAY / 2)
    };
    let messages = [
        message(1, EVENING + DAY),
        other,
        message(2, EVENING),
        message(3, EVENING + DAY),
        message(5, i64::MAX),
        message(6, i64::MIN),
    ];
    let violations = [violation(&messages[1])];
    let files = files(&messages, &violations);
    let found: Vec<(&str, usize)> = files.iter().map(|f| (f.path.as_str(), f.rows)).collect();
    assert_eq!(
        found,
        [
            ("messages/corp_id=ww1/dt=0001-01-02/batch-1.parquet", 1),
            ("messages/corp_id=ww1/dt=2024-02-29/batch-1.parquet", 1),
            ("messages/corp_id=ww1/dt=2024-03-01/batch-1.parquet", 2),
            ("messages/corp_id=ww1/dt=9999-12-30/batch-1.parquet", 1),
            ("messages/corp_id=ww2/dt=2024-02-29/batch-1.parquet", 1),
            ("violations/corp_id=ww2/dt=2024-02-29/batch-1.parquet", 1),
        ]
    );
    assert_eq!(read_messages("ww1", &files[0].bytes), [messages[5].clone()]);
    let of_march: Vec<u64> = read_messages("ww1", &files[2].bytes)
        .iter()
        .map(|message| message.seq)
        .collect();
    assert_eq!(of_march, [1, 3]);
}

#[test]
fn bytes_do_not_depend_on_how_the_rows_arrived() {
    // More than one chunk and one row group, two dates, unsorted.
    let messages: Vec<Message> = (0..120_000)
        .map(|i| message(i, EVENING + (i as i64 % 9 / 8) * DAY))
        .collect();
    let violations: Vec<Violation> = messages.iter().step_by(11).map(violation).collect();
    let whole = files(&messages, &violations);
    assert_eq!(whole.len(), 4);
    assert_eq!(metadata(&whole[0]).num_row_groups(), 2);
    for size in [1, 999, 4096, 50_000] {
        let mut encoder = BatchEncoder::new(zones());
        let mut found = violations.chunks(size);
        for part in messages.chunks(size) {
            encoder
                .append(part, found.next().unwrap_or_default())
                .unwrap();
        }
        assert_eq!(encoder.rows(), messages.len() + violations.len());
        assert!(
            encoder.finish("batch-1", &[]).unwrap() == whole,
            "parts of {size}"
        );
    }
    assert!(
        read_messages("ww1", &whole[1].bytes)
            .iter()
            .all(|m| m.seq % 9 == 8)
    );
}

#[test]
fn reported_memory_is_bounded_by_the_encoded_size() {
    let mut encoder = BatchEncoder::new(zones());
    let nothing = encoder.bytes();
    encoder.append(&[message(1, EVENING)], &[]).unwrap();
    assert!(encoder.bytes() > nothing);
    let mut raw = 0;
    for part in 0..30 {
        let messages: Vec<Message> = (0..5000)
            .map(|i| Message {
                payload: "聊天记录".repeat(100),
                ..message(part * 5000 + i, EVENING)
            })
            .collect();
        raw += messages.iter().map(|m| m.payload.len()).sum::<usize>();
        encoder.append(&messages, &[]).unwrap();
    }
    assert!(
        encoder.bytes() < raw / 4,
        "{} of {raw} bytes are in use",
        encoder.bytes()
    );
}

#[test]
fn sort_order_is_declared_only_if_the_rows_are_sorted() {
    let sorted = files(
        &[
            message(1, EVENING),
            message(1, EVENING),
            message(2, EVENING),
        ],
        &[],
    );
    let group = metadata(&sorted[0]).row_group(0).clone();
    let sorting = &group.sorting_columns().unwrap()[0];
    assert!(!sorting.descending);
    assert_eq!(
        group
            .column(sorting.column_idx as usize)
            .column_path()
            .string(),
        "seq"
    );
    let unsorted = files(&[message(2, EVENING), message(1, EVENING)], &[]);
    assert!(
        metadata(&unsorted[0])
            .row_group(0)
            .sorting_columns()
            .is_none()
    );
}

#[test]
fn footer_names_the_writer_and_holds_the_metadata() {
    let mut encoder = BatchEncoder::new(zones());
    encoder.append(&[message(1, EVENING)], &[]).unwrap();
    let batch = ("chatledger.batch".to_owned(), "ww1 1 1".to_owned());
    let files = encoder
        .finish("batch-1", std::slice::from_ref(&batch))
        .unwrap();
    let metadata = metadata(&files[0]);
    let file = metadata.file_metadata();
    // The form that readers parse: `<application> version <version>`.
    let creator = file.created_by().unwrap();
    assert!(creator.starts_with("chatledger version "), "{creator}");
    let found = file.key_value_metadata().unwrap();
    assert!(
        found
            .iter()
            .any(|kv| kv.key == batch.0 && kv.value.as_ref() == Some(&batch.1))
    );
}

#[test]
fn columns_are_stored_by_what_they_hold() {
    let messages: Vec<Message> = (0..5000).map(|i| message(i, EVENING)).collect();
    let files = files(&messages, &[violation(&messages[0])]);
    let reader = SerializedFileReader::new(files[0].bytes.clone()).unwrap();
    let group = reader.metadata().row_group(0);
    let column = |name: &str| {
        let column = group
            .columns()
            .iter()
            .find(|c| c.column_path().string() == name);
        column.unwrap_or_else(|| panic!("{name}"))
    };
    for column in group.columns() {
        assert!(matches!(column.compression(), Compression::ZSTD(_)));
    }
    for name in ["seq", "msgtime"] {
        assert!(
            column(name)
                .encodings()
                .any(|e| e == Encoding::DELTA_BINARY_PACKED)
        );
        assert!(column(name).statistics().is_some());
    }
    for name in [
        "conversation_id",
        "msgtype",
        "from_id",
        "to_ids.list.element",
    ] {
        assert!(column(name).dictionary_page_offset().is_some(), "{name}");
    }
    for name in ["msgid", "content", "payload", "seq"] {
        assert!(column(name).dictionary_page_offset().is_none(), "{name}");
    }
    for name in ["content", "payload"] {
        assert!(column(name).statistics().is_none(), "{name}");
    }
    for name in ["msgid", "conversation_id"] {
        let length = column(name).bloom_filter_length().unwrap();
        assert!(
            (32..20_000).contains(&length),
            "{name}: {length} bytes for 5,000 rows"
        );
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), ".{0,12}", "[a-c]{1,3}"]
}

prop_compose! {
    fn any_message()(
        seq in any::<u64>(),
        msgtime in prop_oneof![any::<i64>(), EVENING..EVENING + 3 * DAY],
        msgid in text(), conversation_id in text(), from_name in text(), content in text(),
        payload in text(), to_ids in prop::collection::vec(text(), 0..4),
        from_department_id in any::<u32>(),
    ) -> Message {
        Message {
            seq, msgtime, msgid, conversation_id, from_name, content, payload, to_ids,
            from_department_id, ..message(0, 0)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_row_is_in_exactly_one_file(messages in prop::collection::vec(any_message(), 0..40)) {
        let mut read: Vec<Message> = Vec::new();
        for file in files(&messages, &[]) {
            let rows = read_messages("ww1", &file.bytes);
            prop_assert_eq!(rows.len(), file.rows);
            read.extend(rows);
        }
        let key = |m: &Message| (m.seq, format!("{m:?}"));
        let mut written = messages;
        written.sort_by_key(key);
        read.sort_by_key(key);
        prop_assert_eq!(read, written);
    }
}
