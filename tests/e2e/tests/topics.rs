//! The contract of the topics: values match their JSON Schemas; keys, headers and names; a reader of
//! committed records gets each message once; values contain no plaintext.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chatledger_e2e::seal::SealKey;
use chatledger_e2e::tenant::{Tenant, TenantPlan};
use chatledger_e2e::waiting::until_true;
use chatledger_e2e::{Driver, Expected, paths, services, stored};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
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
struct TopicRecord {
    key: String,
    value: Value,
    headers: BTreeMap<String, String>,
}

fn client(broker: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker);
    config
}

fn record(message: &BorrowedMessage<'_>) -> TopicRecord {
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().into()).unwrap();
    let headers = message.headers().expect("the record has no headers");
    TopicRecord {
        key: text(message.key()),
        value: serde_json::from_slice(message.payload().expect("the record has no value")).unwrap(),
        headers: headers
            .iter()
            .map(|h| (h.key.to_owned(), text(h.value)))
            .collect(),
    }
}

/// Calls a function with every committed record of a topic.
fn for_each(broker: &str, topic: &str, mut visit: impl FnMut(&BorrowedMessage<'_>)) {
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
    assert!(!rest.is_empty(), "topic {topic} does not exist");
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
            "{topic}: partitions {rest:?} were not read completely"
        );
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Ok(message)) => visit(&message),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                rest.remove(&partition);
            }
            Some(Err(error)) => panic!("{topic}: {error}"),
        }
    }
}

/// Returns every committed record of a topic.
fn read(broker: &str, topic: &str) -> Vec<TopicRecord> {
    let mut records = Vec::new();
    for_each(broker, topic, |message| records.push(record(message)));
    records
}

/// Opens sealed records and asserts that they have the documented format.
fn unseal(tenant: &Tenant, name: &str, sealed: Vec<TopicRecord>) -> Vec<TopicRecord> {
    assert_valid(name, "sealed_value.schema.json", &sealed);
    let key = SealKey::read(&tenant.dir.join("seal-1.key")).unwrap();
    let open = |mut record: TopicRecord| {
        let value = serde_json::to_vec(&record.value).unwrap();
        let opened = key.open(name, record.key.as_bytes(), &value).unwrap();
        record.value = serde_json::from_slice(&opened).unwrap();
        record
    };
    sealed.into_iter().map(open).collect()
}

/// Asserts that no value of any topic contains the text of a message or a match.
fn assert_no_plaintext(broker: &str, tenant: &Tenant, expected: &Expected) {
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
    assert!(texts.len() > 500, "too few texts to search for");
    let mut read = 0;
    for name in ["raw", "messages", "violations", "deadletter", "cursor"] {
        let topic = format!("{}.{name}", tenant.topic_prefix);
        for_each(broker, &topic, |message| {
            read += 1;
            let value = String::from_utf8_lossy(message.payload().unwrap_or_default());
            // Only values with non-ASCII characters or escapes can contain one of the texts.
            if !value.is_ascii() || value.contains("\\u") {
                let leaked = texts.iter().find(|text| value.contains(**text));
                assert!(leaked.is_none(), "{topic} contains {leaked:?}");
            }
        });
    }
    assert!(read > expected.messages.len() * 2, "{read} values");
}

/// Asserts that every value matches its schema.
fn assert_valid(what: &str, schema: &str, records: &[TopicRecord]) {
    let path = paths::repository().join("schemas/json").join(schema);
    let schema: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    assert!(!records.is_empty(), "no records on {what}");
    for record in records {
        if let Err(error) = validator.validate(&record.value) {
            panic!("{what}: {} at {}", error, error.instance_path());
        }
    }
}

/// Asserts that the headers of records identify their source.
fn assert_headers(what: &str, corp: &str, records: &[TopicRecord]) {
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
async fn topics_follow_their_contract_after_a_killed_and_a_complete_drain() {
    let plan = TenantPlan::new("topics", Driver::Kafka, 2500)
        .faults("broken=14,unknown_key=6,duplicates=20,slow=10")
        .arg("--batch-limit=100");
    let tenant = Tenant::start(plan).await.unwrap();
    // A kill leaves aborted transactions, whose records readers must not see.
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

    let dead_letters = read(broker, &topic("deadletter"));
    assert_valid("deadletter", "dead_letter.schema.json", &dead_letters);
    assert_headers("deadletter", corp, &dead_letters);
    let seqs = dead_letters.iter().map(|r| r.value["seq"].to_string());
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

    assert_no_plaintext(broker, &tenant, &expected);
    assert_names_begin_with_prefix(broker, &tenant.topic_prefix).await;
}

async fn assert_names_begin_with_prefix(broker: &str, prefix: &str) {
    let consumer: BaseConsumer = client(broker).create().unwrap();
    let groups = consumer.fetch_group_list(None, PATIENCE).unwrap();
    let of_chatledger = |name: &str| !name.starts_with("reader-of-");
    let groups: Vec<&str> = groups
        .groups()
        .iter()
        .map(GroupInfo::name)
        .filter(|n| of_chatledger(n))
        .collect();
    assert!(groups.len() >= 7, "{groups:?}");
    let start = format!("{prefix}.");
    assert!(
        groups.iter().all(|name| name.starts_with(&start)),
        "{groups:?}"
    );

    // Keys of the transaction log contain the transactional ids: two bytes of version, two of length,
    // then the id.
    let mut ids = BTreeSet::new();
    for_each(broker, "__transaction_state", |message| {
        let id = message.key().and_then(|key| key.get(4..));
        ids.insert(String::from_utf8_lossy(id.unwrap_or_default()).into_owned());
    });
    // The readiness probe of the broker also uses a transactional id.
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

/// Topics that an administrator has made with the defaults of the broker.
#[tokio::test(flavor = "multi_thread")]
async fn topics_that_do_not_fit_are_named_with_the_command_that_mends_them() {
    let broker = services::broker().await.unwrap();
    let plan = TenantPlan::new("topics_of_others", Driver::Kafka, 10);
    let tenant = Tenant::start(plan).await.unwrap();
    let prefix = &tenant.topic_prefix;
    let admin: AdminClient<DefaultClientContext> = client(broker).create().unwrap();
    let names = ["cursor", "raw", "ledger"].map(|topic| format!("{prefix}.{topic}"));
    let topics: Vec<NewTopic<'_>> = names
        .iter()
        .map(|name| NewTopic::new(name, 4, TopicReplication::Fixed(1)))
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    for created in admin.create_topics(&topics, &options).await.unwrap() {
        created.unwrap();
    }
    // The controller answers before every broker knows the topics.
    let reader: BaseConsumer = client(broker).create().unwrap();
    until_true("the topics are known", PATIENCE, async || {
        let known = reader.fetch_metadata(None, PATIENCE)?;
        let is_known = |name: &String| known.topics().iter().any(|t| t.name() == name);
        Ok(names.iter().all(is_known))
    })
    .await
    .unwrap();
    let check = tenant.run_to_end("check", &["--connect"]).await.unwrap();
    let output = check.stdout.join("\n");
    assert_eq!(check.code, 3, "{output}\n{}", check.stderr);
    for expected in [
        format!("topic {prefix}.cursor: found 4 partitions; accepted: 1"),
        format!("--entity-name {prefix}.cursor --add-config cleanup.policy=compact"),
        format!("--entity-name {prefix}.raw --add-config max.message.bytes=16777216"),
        format!("--entity-name {prefix}.ledger --add-config retention.ms=-1"),
    ] {
        assert!(output.contains(&expected), "{expected}\n{output}");
    }
    assert!(
        !output.contains(&format!("topic {prefix}.raw: found 4 partitions")),
        "{output}"
    );
}
