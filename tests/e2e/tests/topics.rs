//! The topics as their contract says: values by their JSON Schemas, keys, headers, names; each
//! message once for a reader that takes committed records only; and no plaintext at rest.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chatledger_e2e::seal::SealKey;
use chatledger_e2e::tenant::{Plan, Tenant};
use chatledger_e2e::{Driver, Expected, place, services, stored};
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::groups::GroupInfo;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::metadata::MetadataPartition;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Record {
    key: String,
    value: Value,
    headers: BTreeMap<String, String>,
}

fn client(broker: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker);
    config
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().into()).unwrap();
    let headers = message.headers().expect("a record without headers");
    Record {
        key: text(message.key()),
        value: serde_json::from_slice(message.payload().expect("a record without value")).unwrap(),
        headers: headers
            .iter()
            .map(|h| (h.key.to_owned(), text(h.value)))
            .collect(),
    }
}

/// Shows every committed record of a topic.
fn each(broker: &str, topic: &str, mut show: impl FnMut(&BorrowedMessage<'_>)) {
    let consumer: BaseConsumer = client(broker)
        .set("group.id", format!("reader-of-{topic}"))
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let partitions = metadata.topics()[0].partitions().iter();
    let mut rest: BTreeSet<i32> = partitions.map(MetadataPartition::id).collect();
    assert!(!rest.is_empty(), "there is no topic {topic}");
    let mut all = TopicPartitionList::new();
    for partition in &rest {
        all.add_partition_offset(topic, *partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&all).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !rest.is_empty() {
        assert!(
            Instant::now() < deadline,
            "{topic}: {rest:?} not read to their ends"
        );
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Ok(message)) => show(&message),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                rest.remove(&partition);
            }
            Some(Err(error)) => panic!("{topic}: {error}"),
        }
    }
}

/// Every committed record of one of our topics.
fn read(broker: &str, topic: &str) -> Vec<Record> {
    let mut records = Vec::new();
    each(broker, topic, |message| records.push(record(message)));
    records
}

/// The same of a topic whose values are sealed, opened; that they are of the documented form is
/// asserted on the way.
fn unseal(tenant: &Tenant, name: &str, sealed: Vec<Record>) -> Vec<Record> {
    assert_valid(name, "sealed_value.schema.json", &sealed);
    let key = SealKey::read(&tenant.dir.join("seal-1.key")).unwrap();
    let open = |mut record: Record| {
        let value = serde_json::to_vec(&record.value).unwrap();
        let opened = key.open(name, record.key.as_bytes(), &value).unwrap();
        record.value = serde_json::from_slice(&opened).unwrap();
        record
    };
    sealed.into_iter().map(open).collect()
}

/// Asserts that no value on any topic shows what a message says or a rule found.
fn no_plaintext_rests_there(broker: &str, tenant: &Tenant, expected: &Expected) {
    let texts = expected.messages.iter().map(|row| &row["content"]);
    let matched = expected.violations.iter();
    let matched = matched
        .filter_map(|row| row["matched"].as_array())
        .flatten();
    let texts: BTreeSet<&str> = texts
        .chain(matched)
        .filter_map(Value::as_str)
        .filter(|text| text.chars().count() >= 4 && !text.is_ascii())
        .collect();
    assert!(texts.len() > 500, "too few texts to look for");
    let mut read = 0;
    for name in ["raw", "messages", "violations", "deadletter", "cursor"] {
        let topic = format!("{}.{name}", tenant.topic_prefix);
        each(broker, &topic, |message| {
            read += 1;
            let value = String::from_utf8_lossy(message.payload().unwrap_or_default());
            // A ciphertext is base64: where nothing else stands, no text can.
            if !value.is_ascii() || value.contains("\\u") {
                let told = texts.iter().find(|text| value.contains(**text));
                assert!(told.is_none(), "{topic} tells {told:?}");
            }
        });
    }
    assert!(read > expected.messages.len() * 2, "{read} values");
}

/// Asserts that every value is what the schema allows.
fn assert_valid(what: &str, schema: &str, records: &[Record]) {
    let path = place::repository().join("schemas/json").join(schema);
    let schema: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    assert!(!records.is_empty(), "no records on {what}");
    for record in records {
        if let Err(error) = validator.validate(&record.value) {
            panic!("{what}: {} at {}", error, error.instance_path());
        }
    }
}

/// Asserts the headers of records that say where they come from.
fn assert_headers(what: &str, corp: &str, records: &[Record]) {
    for record in records {
        let header = |name: &str| record.headers.get(name).map(String::as_str);
        assert_eq!(header("corp_id"), Some(corp), "{what}");
        assert_eq!(header("schema"), Some("1"), "{what}");
        let seq = record.value["seq"].as_u64().unwrap_or_default();
        assert_eq!(header("seq"), Some(seq.to_string().as_str()), "{what}");
    }
}

fn assert_each_once(what: &str, ids: impl Iterator<Item = String>, expected: usize) {
    let ids: Vec<String> = ids.collect();
    let distinct: BTreeSet<&String> = ids.iter().collect();
    assert_eq!((ids.len(), distinct.len()), (expected, expected), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_after_a_killed_and_a_whole_drain_keep_their_contract() {
    let plan = Plan::new("topics", Driver::Kafka, 2500)
        .faults("broken=14,unknown_key=6,duplicates=20,slow=10")
        .with("--batch-limit=100");
    let tenant = Tenant::start(plan).await.unwrap();
    // A kill in the middle leaves transactions behind that nobody may see.
    let mut killed = tenant.chatledger("run", &["--drain"]).unwrap();
    let endpoints = Tenant::endpoints(&mut killed).await.unwrap();
    chatledger_e2e::waiting::until_true("records pulled", PATIENCE, async || {
        Ok(endpoints
            .scrape()
            .await?
            .sum("chatledger_messages_total", &[])
            > 500.0)
    })
    .await
    .unwrap();
    assert!(killed.kill().unwrap());
    tenant.drain().await.unwrap();
    let expected = stored::equals_truth(&tenant).await.unwrap();

    let broker = services::broker().await.unwrap();
    let topic = |name: &str| format!("{}.{name}", tenant.topic_prefix);
    let corp = expected.corp_id();
    let text = |value: &Value, column: &str| value[column].as_str().unwrap_or_default().to_owned();

    let raw = read(broker, &topic("raw"));
    assert_headers("raw", corp, &raw);
    assert_eq!(raw.len() as u64, expected.drained().pulled);
    for record in &raw {
        assert_eq!(record.key, text(&record.value, "msgid"));
        let sealed = ["encrypt_random_key", "encrypt_chat_msg", "publickey_ver"];
        assert!(
            sealed.iter().all(|field| !record.value[field].is_null()),
            "{record:?}"
        );
        assert!(record.value.get("content").is_none());
    }

    let messages = unseal(&tenant, "messages", read(broker, &topic("messages")));
    assert_valid("messages", "message.schema.json", &messages);
    assert_headers("messages", corp, &messages);
    assert!(
        messages
            .iter()
            .all(|r| r.key == text(&r.value, "conversation_id"))
    );
    assert_each_once(
        "messages",
        messages.iter().map(|r| text(&r.value, "msgid")),
        expected.messages.len(),
    );

    let violations = unseal(&tenant, "violations", read(broker, &topic("violations")));
    assert_valid("violations", "violation.schema.json", &violations);
    assert_headers("violations", corp, &violations);
    assert!(
        violations
            .iter()
            .all(|r| r.key == text(&r.value, "conversation_id"))
    );
    assert!(violations.iter().all(|r| r.value.get("content").is_none()));
    assert_each_once(
        "violations",
        violations.iter().map(|r| text(&r.value, "violation_id")),
        expected.violations.len(),
    );

    let letters = read(broker, &topic("deadletter"));
    assert_valid("deadletter", "dead_letter.schema.json", &letters);
    assert_headers("deadletter", corp, &letters);
    let seqs = letters.iter().map(|r| r.value["seq"].to_string());
    assert_each_once("deadletter", seqs, expected.dead_letters.len());

    let directory = read(broker, &topic("directory"));
    assert_valid("directory", "directory.schema.json", &directory);
    assert!(directory.iter().all(|r| r.headers["corp_id"] == corp));
    assert!(
        directory
            .iter()
            .all(|r| r.key.starts_with(&format!("{corp}/")))
    );

    let cursor = read(broker, &topic("cursor"));
    let last = cursor
        .iter()
        .filter(|r| r.key == corp)
        .filter_map(|r| r.value["seq"].as_u64());
    assert_eq!(last.max(), expected.summary["last_seq"].as_u64());

    no_plaintext_rests_there(broker, &tenant, &expected);
    names_begin_with_the_prefix(broker, &tenant.topic_prefix).await;
}

async fn names_begin_with_the_prefix(broker: &str, prefix: &str) {
    let consumer: BaseConsumer = client(broker).create().unwrap();
    let groups = consumer.fetch_group_list(None, PATIENCE).unwrap();
    let ours = |name: &str| !name.starts_with("reader-of-");
    let groups: Vec<&str> = groups
        .groups()
        .iter()
        .map(GroupInfo::name)
        .filter(|n| ours(n))
        .collect();
    assert!(groups.len() >= 7, "{groups:?}");
    let start = format!("{prefix}.");
    assert!(
        groups.iter().all(|name| name.starts_with(&start)),
        "{groups:?}"
    );

    // The transaction log names the transactional ids in the keys of its records: two bytes of
    // version, two of length, the id.
    let mut ids = BTreeSet::new();
    each(broker, "__transaction_state", |message| {
        let id = message.key().and_then(|key| key.get(4..));
        ids.insert(String::from_utf8_lossy(id.unwrap_or_default()).into_owned());
    });
    // The probe with which the broker is found ready is not chatledger's.
    let ids: Vec<String> = ids.into_iter().filter(|id| id.contains("e2e")).collect();
    assert!(ids.len() >= 3, "{ids:?}");
    assert!(ids.iter().all(|id| id.starts_with(&start)), "{ids:?}");

    let admin: AdminClient<DefaultClientContext> = client(broker).create().unwrap();
    for name in ["cursor", "directory"] {
        let topic = format!("{prefix}.{name}");
        let resource = ResourceSpecifier::Topic(&topic);
        let answers = admin
            .describe_configs([&resource], &AdminOptions::new())
            .await
            .unwrap();
        let settings = answers.into_iter().next().unwrap().unwrap();
        let policy = settings.entry_map()["cleanup.policy"].value.clone();
        assert_eq!(policy.as_deref(), Some("compact"), "{topic}");
    }
}
