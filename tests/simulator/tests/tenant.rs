//! Tests a tenant's output: the same seed gives the same bytes, and independent code can open the
//! sealed records with the keys in the folder.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::path::Path;

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, KeyIvInit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs8::DecodePrivateKey;
use rsa::{Pkcs1v15Encrypt, RsaPrivateKey};
use serde_json::Value;
use sha2::{Digest, Sha256};
use wecom_sim::kind::MessageKind;
use wecom_sim::layout::{ConfigOptions, write_folder};
use wecom_sim::options::TenantOptions;
use wecom_sim::tenant::Tenant;
use wecom_sim::truth::{Detail, TruthWriter};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    tenant: TenantOptions,
    #[command(flatten)]
    config: ConfigOptions,
}

fn options(arguments: &str) -> Arguments {
    let fixed = ["test", "--until", "2026-03-18T12:00:00Z"];
    Arguments::parse_from(fixed.into_iter().chain(arguments.split_whitespace()))
}

/// Generates a tenant and its folder.
fn generate(dir: &Path, arguments: &str) -> Tenant {
    let options = options(arguments);
    let tenant = Tenant::new(options.tenant).unwrap();
    write_folder(dir, &tenant, &options.config, "http://127.0.0.1:9").unwrap();
    let mut truth = TruthWriter::create(&dir.join("truth"), Detail::Full).unwrap();
    truth.write_directory(&tenant.org).unwrap();
    truth.write(&tenant, 0..tenant.options.messages).unwrap();
    tenant
}

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Returns the contents of every file below a folder by its relative path.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
    found
        .into_iter()
        .map(|(path, bytes)| (path.replace(&dir.display().to_string(), ""), bytes))
        .collect()
}

fn records(tenant: &Tenant) -> Vec<Value> {
    let text = tenant.records(0..tenant.backlog_records());
    serde_json::from_str(&text).unwrap()
}

#[test]
fn same_seed_gives_the_same_folder_and_records_and_another_seed_different_ones() {
    let arguments = "--messages 2500 --faults broken=8,unknown_key=2,duplicates=5,envelope=1";
    let generated = |more: &str| {
        let dir = tempfile::tempdir().unwrap();
        let tenant = generate(dir.path(), &format!("{arguments} {more}"));
        (files(dir.path()), records(&tenant))
    };
    let (folder, sealed) = generated("");
    let again = generated("");
    assert_eq!(
        folder.keys().collect::<Vec<_>>(),
        again.0.keys().collect::<Vec<_>>()
    );
    for (path, bytes) in &folder {
        assert!(again.0[path] == *bytes, "{path} differs");
    }
    assert!(again.1 == sealed, "records differ");
    let other = generated("--seed 2");
    assert!(other.1 != sealed);
    assert_ne!(other.0["/archive.secret"], folder["/archive.secret"]);
}

#[test]
fn record_is_the_same_alone_as_in_a_long_range() {
    let dir = tempfile::tempdir().unwrap();
    let tenant = generate(dir.path(), "--messages 3000 --faults duplicates=40");
    let all = records(&tenant);
    for n in [0, 1, 255, 256, 257, 1_999, 2_998, 3_039] {
        let alone: Vec<Value> = serde_json::from_str(&tenant.records(n..n + 1)).unwrap();
        assert!(alone[0] == all[n as usize], "record {n}");
    }
}

struct PrivateKeys(HashMap<u64, RsaPrivateKey>);

impl PrivateKeys {
    fn read(dir: &Path) -> Self {
        let pkcs1 = std::fs::read_to_string(dir.join("key-1.pem")).unwrap();
        let pkcs8 = std::fs::read_to_string(dir.join("key-2.pem")).unwrap();
        Self(HashMap::from([
            (1, RsaPrivateKey::from_pkcs1_pem(&pkcs1).unwrap()),
            (2, RsaPrivateKey::from_pkcs8_pem(&pkcs8).unwrap()),
        ]))
    }

    /// Returns the plaintext of a record, or the reason of its dead letter.
    fn open(&self, record: &Value) -> Result<Vec<u8>, &'static str> {
        let text = |key: &str| record[key].as_str().ok_or("bad_envelope");
        let (random_key, chat_msg) = (text("encrypt_random_key")?, text("encrypt_chat_msg")?);
        let version = record["publickey_ver"].as_u64().unwrap();
        let key = self.0.get(&version).ok_or("unknown_key_version")?;
        let block = STANDARD.decode(random_key).map_err(|_| "bad_base64")?;
        let sealed = STANDARD.decode(chat_msg).map_err(|_| "bad_base64")?;
        let secret = key
            .decrypt(Pkcs1v15Encrypt, &block)
            .map_err(|_| "wrong_key")?;
        let secret: [u8; 32] = STANDARD.decode(secret).unwrap().try_into().unwrap();
        if sealed.len() % 16 != 0 {
            return Err("truncated_ciphertext");
        }
        let iv: [u8; 16] = secret[..16].try_into().unwrap();
        let plain = cbc::Decryptor::<aes::Aes256>::new(&secret.into(), &iv.into())
            .decrypt_padded_vec::<Pkcs7>(&sealed)
            .map_err(|_| "bad_padding")?;
        let text = String::from_utf8(plain).map_err(|_| "bad_utf8")?;
        // Real archives contain stray control bytes; such a message is still valid.
        let cleaned: String = text.chars().filter(|&c| c >= ' ').collect();
        let value: Value = serde_json::from_str(&cleaned).map_err(|_| "bad_json")?;
        if value.get("from").or(value.get("user")).is_none() {
            return Err("bad_message");
        }
        Ok(text.into_bytes())
    }
}

#[test]
fn records_open_with_the_keys_in_the_folder_to_the_messages_of_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    let faults = "broken=14,unknown_key=3,envelope=2,duplicates=20";
    let tenant = generate(dir.path(), &format!("--messages 1200 --faults {faults}"));
    let keys = PrivateKeys::read(dir.path());
    let truth = dir.path().join("truth");
    let messages: HashMap<String, Value> = lines(&truth.join("messages.jsonl"))
        .into_iter()
        .map(|line| (line["msgid"].as_str().unwrap().to_owned(), line))
        .collect();
    let dead: HashMap<u64, Value> = lines(&truth.join("dead_letters.jsonl"))
        .into_iter()
        .map(|line| (line["seq"].as_u64().unwrap(), line))
        .collect();
    let (mut seen, mut duplicates, mut dead_lettered, mut last) = (BTreeSet::new(), 0, 0, 0);
    for record in records(&tenant) {
        let seq = record["seq"].as_u64().unwrap();
        assert!(seq > last);
        last = seq;
        let msgid = record["msgid"].as_str().unwrap().to_owned();
        match keys.open(&record) {
            Ok(plain) => {
                let line = &messages[&msgid];
                let mut hash = String::new();
                for byte in Sha256::digest(&plain) {
                    write!(hash, "{byte:02x}").unwrap();
                }
                assert_eq!(line["payload_sha256"], hash);
                assert_eq!(line["key_version"], record["publickey_ver"]);
                if seen.insert(msgid) {
                    assert_eq!(line["seq"], seq);
                } else {
                    duplicates += 1;
                }
            }
            Err(reason) => {
                assert_eq!(dead[&seq]["reason"], reason, "seq {seq}");
                assert_eq!(dead[&seq]["msgid"], msgid);
                dead_lettered += 1;
            }
        }
    }
    assert_eq!(
        (seen.len(), duplicates, dead_lettered),
        (1_200 - 19, 20, 19)
    );
    assert_eq!((messages.len(), dead.len()), (seen.len(), dead_lettered));
    assert!(messages.values().any(|line| line["key_version"] == 1));
    assert!(messages.values().any(|line| line["key_version"] == 2));
}

#[test]
fn truth_counts_match_its_lines_and_cover_every_type() {
    let dir = tempfile::tempdir().unwrap();
    generate(
        dir.path(),
        "--messages 20000 --faults broken=21,unknown_key=7",
    );
    let truth = dir.path().join("truth");
    let summary: Value =
        serde_json::from_slice(&std::fs::read(truth.join("summary.json")).unwrap()).unwrap();
    let messages = lines(&truth.join("messages.jsonl"));
    let violations = lines(&truth.join("violations.jsonl"));
    let dead = lines(&truth.join("dead_letters.jsonl"));
    assert_eq!(summary["messages"], messages.len());
    assert_eq!(summary["violations"], violations.len());
    assert_eq!(summary["dead_letters"], dead.len());
    let count = |lines: &[Value], key: &str| {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for line in lines {
            *counts
                .entry(line[key].as_str().unwrap().to_owned())
                .or_default() += 1;
        }
        serde_json::to_value(counts).unwrap()
    };
    assert_eq!(summary["by_msgtype"], count(&messages, "msgtype"));
    assert_eq!(
        summary["by_conversation_kind"],
        count(&messages, "conversation_kind")
    );
    assert_eq!(summary["by_from_kind"], count(&messages, "from_kind"));
    assert_eq!(summary["by_rule"], count(&violations, "rule_id"));
    assert_eq!(summary["by_reason"], count(&dead, "reason"));
    for kind in MessageKind::ALL {
        assert!(
            summary["by_msgtype"][kind.as_str()].as_u64() > Some(0),
            "{kind:?}"
        );
    }
    assert_eq!(
        summary["by_conversation_kind"].as_object().unwrap().len(),
        4
    );
    assert_eq!(summary["by_from_kind"].as_object().unwrap().len(), 4);
    assert_eq!(
        summary["by_rule"].as_object().unwrap().len(),
        8,
        "{}",
        summary["by_rule"]
    );
    let texts = summary["by_msgtype"]["text"].as_f64().unwrap() / messages.len() as f64;
    assert!((0.75..0.85).contains(&texts), "{texts}");
    for pair in messages.windows(2) {
        assert!(pair[0]["msgtime"].as_i64() <= pair[1]["msgtime"].as_i64());
    }
    let content: HashMap<&str, &str> = messages
        .iter()
        .map(|line| {
            (
                line["msgid"].as_str().unwrap(),
                line["content"].as_str().unwrap(),
            )
        })
        .collect();
    for line in &violations {
        let content: Vec<char> = content[line["msgid"].as_str().unwrap()].chars().collect();
        let spans = line["spans"].as_array().unwrap();
        for (span, matched) in spans.iter().zip(line["matched"].as_array().unwrap()) {
            let (start, end) = (span[0].as_u64().unwrap(), span[1].as_u64().unwrap());
            let slice: String = content[start as usize..end as usize].iter().collect();
            assert_eq!(matched, &slice);
        }
    }
}

#[test]
fn secrets_and_keys_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    generate(dir.path(), "--messages 10");
    for file in [
        "archive.secret",
        "contact.secret",
        "key-1.pem",
        "key-2.pem",
        "withheld/key-3.pem",
    ] {
        let mode = std::fs::metadata(dir.path().join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn after_returns_the_position_that_follows_every_seq() {
    for arguments in ["--messages 300", "--messages 300 --faults jump=1000"] {
        let dir = tempfile::tempdir().unwrap();
        let tenant = generate(dir.path(), arguments);
        let all: Vec<u64> = (0..300).map(|record| tenant.seq(record)).collect();
        for seq in 0..all[299] + 10 {
            let expected = all.partition_point(|&known| known <= seq) as u64;
            assert_eq!(tenant.after(seq).min(300), expected, "after {seq}");
        }
        assert!(tenant.after(u64::MAX) >= 300);
    }
}
