//! Records of the maximum size and larger ones in the Kafka driver: they are delivered, or dead-lettered
//! with a reason, and do not block the stages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chatledger_e2e::tenant::{Tenant, TenantPlan};
use chatledger_e2e::{Driver, services};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs openssl with bytes as input.
fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("openssl");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}");
    output.stdout
}

/// Returns a record in the archive's format, sealed with the tenant's first key.
fn sealed(tenant: &Tenant, seq: u64, msgid: &str, plain: &[u8]) -> Vec<u8> {
    let bytes = [7_u8; 32];
    let hex = |bytes: &[u8]| {
        let digits: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
        digits.concat()
    };
    let key = tenant.dir.join("key-1.pem");
    let random_key = openssl(
        &["pkeyutl", "-encrypt", "-inkey", key.to_str().unwrap()],
        STANDARD.encode(bytes).as_bytes(),
    );
    let (key, iv) = (hex(&bytes), hex(&bytes[..16]));
    let body = openssl(&["enc", "-aes-256-cbc", "-K", &key, "-iv", &iv], plain);
    let record = json!({
        "seq": seq,
        "msgid": msgid,
        "publickey_ver": 1,
        "encrypt_random_key": STANDARD.encode(random_key),
        "encrypt_chat_msg": STANDARD.encode(body),
    });
    serde_json::to_vec(&record).unwrap()
}

fn message(filling: &str, bytes: usize) -> String {
    let filling = filling.repeat(bytes / filling.len());
    format!(
        r#"{{"from":"a","tolist":["b"],"msgtime":1,"msgtype":"text","text":{{"content":"{filling}"}}}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn largest_messages_are_delivered_and_larger_ones_are_dead_lettered() {
    let tenant = Tenant::start(TenantPlan::new("sizes", Driver::Kafka, 50))
        .await
        .unwrap();
    let first = tenant.drain().await.unwrap();

    // Of the characters that people can type, quotes increase the size of a row the most.
    let largest = message("\\\"", 3_000_000);
    let wide = message("\u{1}", 3_000_000);
    let many: Vec<String> = (0..1_000_000).map(|n| format!("m{n}")).collect();
    let many = json!({"from": "a", "tolist": many, "msgtype": "text"}).to_string();
    let records = [
        (
            "largest",
            sealed(&tenant, 900_001, "largest", largest.as_bytes()),
        ),
        ("wide", sealed(&tenant, 900_002, "wide", wide.as_bytes())),
        (
            "receivers",
            sealed(&tenant, 900_003, "receivers", many.as_bytes()),
        ),
        (
            "last",
            sealed(&tenant, 900_004, "last", message("x", 10).as_bytes()),
        ),
    ];
    assert!(records[2].1.len() > 4 << 20);
    let config = std::fs::read_to_string(&tenant.config).unwrap();
    let corp = config.lines().find_map(|line| line.strip_prefix("id = "));
    let corp = corp.unwrap().trim_matches('"');
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", services::broker().await.unwrap())
        .set("message.max.bytes", "16777216")
        .create()
        .unwrap();
    let topic = format!("{}.raw", tenant.topic_prefix);
    for (seq, (msgid, value)) in (900_001..).zip(&records) {
        let headers = [
            ("corp_id", corp.to_owned()),
            ("seq", seq.to_string()),
            ("schema", "1".into()),
        ];
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: Some(value),
                })
            });
        // One partition, so that the last record follows all others.
        let record = BaseRecord::to(&topic)
            .partition(0)
            .key(*msgid)
            .payload(value);
        producer
            .send(record.headers(headers))
            .map_err(|(error, _)| error)
            .unwrap();
    }
    producer.flush(PATIENCE).unwrap();

    let stages = ["--drain", "--stages", "process,sink"];
    let mut run = tenant.chatledger("run", &stages).unwrap();
    let second = Tenant::drained(&mut run).await.unwrap();
    assert_eq!(
        (second.messages, second.dead_letters),
        (2, 2),
        "{}",
        run.log().unwrap()
    );
    let count = "SELECT count() FROM messages FINAL";
    let rows = tenant.clickhouse.number(count).await.unwrap();
    assert_eq!(rows, first.messages + 2);
    let length = "SELECT max(length(content)) FROM messages WHERE msgid = 'largest'";
    assert_eq!(tenant.clickhouse.number(length).await.unwrap(), 1_500_000);
    let dead_letters = "SELECT count() FROM dead_letters FINAL WHERE reason = 'too_large' \
                   AND msgid IN ('wide', 'receivers') AND length(sealed) < 4194305";
    assert_eq!(tenant.clickhouse.number(dead_letters).await.unwrap(), 2);
}
