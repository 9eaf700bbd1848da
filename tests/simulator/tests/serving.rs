//! Tests the server through its API: paging, tokens, faults, media, live messages, directory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wecom_sim::options::TenantOptions;
use wecom_sim::server::{ServeOptions, SimulatorServer};
use wecom_sim::tenant::Tenant;
use wecom_sim::truth::{Detail, TruthWriter};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    tenant: TenantOptions,
    #[command(flatten)]
    serve: ServeOptions,
}

struct Sim {
    base: String,
    corp: String,
    secrets: [String; 2],
    dir: TempDir,
    client: reqwest::Client,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl Sim {
    async fn start(arguments: &str) -> Self {
        let options =
            Arguments::parse_from(["test"].into_iter().chain(arguments.split_whitespace()));
        let dir = tempfile::tempdir().unwrap();
        let server = SimulatorServer::bind(options.serve).await.unwrap();
        let tenant = Tenant::new(options.tenant).unwrap();
        let mut truth = TruthWriter::create(dir.path(), Detail::Full).unwrap();
        truth.write(&tenant, 0..tenant.options.messages).unwrap();
        let (stop, stopped) = oneshot::channel();
        let (base, corp) = (server.base_url(), tenant.options.corp_id());
        let secrets = [tenant.options.secret(1), tenant.options.secret(2)];
        let serving = tokio::spawn(server.run(Arc::new(tenant), truth, async {
            let _ = stopped.await;
        }));
        Self {
            base,
            corp,
            secrets,
            dir,
            client: reqwest::Client::new(),
            stop,
            serving,
        }
    }

    async fn get(&self, path: &str) -> Value {
        let reply = self
            .client
            .get(format!("{}{path}", self.base))
            .send()
            .await
            .unwrap();
        reply.json().await.unwrap()
    }

    async fn post(&self, path: &str, token: &str, body: Value) -> Value {
        let url = format!("{}/cgi-bin/{path}?access_token={token}", self.base);
        let reply = self.client.post(url).json(&body).send().await.unwrap();
        reply.json().await.unwrap()
    }

    async fn get_api(&self, path: &str, token: &str) -> Value {
        let separator = if path.contains('?') { '&' } else { '?' };
        self.get(&format!("/cgi-bin/{path}{separator}access_token={token}"))
            .await
    }

    async fn token(&self, which: usize) -> String {
        let (corp, secret) = (&self.corp, &self.secrets[which]);
        let reply = self
            .get(&format!(
                "/cgi-bin/gettoken?corpid={corp}&corpsecret={secret}"
            ))
            .await;
        reply["access_token"].as_str().unwrap().to_owned()
    }

    /// Returns the `seq` values of a page.
    async fn page(&self, token: &str, seq: u64, limit: u64) -> Vec<u64> {
        let body = json!({"seq": seq, "limit": limit, "timeout": 5});
        let reply = self.post("message/getchatdata", token, body).await;
        assert_eq!(reply["errcode"], 0, "{reply}");
        let list = reply["chatdata"].as_array().unwrap();
        list.iter()
            .map(|record| record["seq"].as_u64().unwrap())
            .collect()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(10), self.serving)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

#[tokio::test]
async fn pages_contain_the_records_after_the_seq_up_to_the_limit() {
    let sim = Sim::start("--messages 700 --faults duplicates=7").await;
    let token = sim.token(0).await;
    let all = sim.page(&token, 0, 1_000).await;
    assert_eq!(all.len(), 707);
    assert!(all[0] > 0 && all.windows(2).all(|two| two[0] < two[1]));
    assert_eq!(sim.page(&token, 0, 1).await, all[..1]);
    assert_eq!(sim.page(&token, all[9], 100).await, all[10..110]);
    assert_eq!(sim.page(&token, all[9] - 1, 1).await, [all[9]]);
    assert_eq!(sim.page(&token, all[705], 1_000).await, all[706..]);
    assert!(sim.page(&token, all[706], 1_000).await.is_empty());
    assert!(sim.page(&token, u64::MAX, 1_000).await.is_empty());
    for body in [
        json!({"seq": 0, "limit": 1_001}),
        json!({"seq": 0, "limit": 0}),
        json!({"seq": -1}),
    ] {
        assert_eq!(
            sim.post("message/getchatdata", &token, body).await["errcode"],
            40_058
        );
    }
    let stats = sim.get("/sim/stats").await;
    assert_eq!(
        (&stats["records"], &stats["done"]),
        (&json!(707), &json!(true))
    );
    sim.stop().await;
}

#[tokio::test]
async fn tokens_give_access_only_to_the_apis_of_their_secret() {
    let sim = Sim::start("--messages 10").await;
    let (archive, contact) = (sim.token(0).await, sim.token(1).await);
    assert_eq!(sim.token(0).await, archive);
    let page = || json!({"seq": 0, "limit": 1});
    let code =
        async |token: &str| sim.post("message/getchatdata", token, page()).await["errcode"].clone();
    assert_eq!(code(&archive).await, 0);
    assert_eq!(code(&contact).await, 48_002);
    assert_eq!(code("nonsense").await, 40_014);
    assert_eq!(code("").await, 41_001);
    assert_eq!(
        sim.get_api("department/list", &archive).await["errcode"],
        48_002
    );
    assert_eq!(sim.get_api("department/list", &contact).await["errcode"], 0);
    for (token, code) in [(&archive, 0), (&contact, 48_002)] {
        let reply = sim.post("msgaudit/get_permit_user_list", token, json!({}));
        assert_eq!(reply.await["errcode"], code);
    }
    let wrong = sim
        .get(&format!(
            "/cgi-bin/gettoken?corpid={}&corpsecret=x",
            sim.corp
        ))
        .await;
    assert_eq!(wrong["errcode"], 40_001);
    assert_eq!(
        sim.get("/cgi-bin/gettoken?corpid=x&corpsecret=x").await["errcode"],
        40_013
    );
    sim.stop().await;
}

#[tokio::test]
async fn expired_tokens_are_refused_and_replaced() {
    let sim = Sim::start("--messages 10 --token-ttl 1").await;
    let old = sim.token(0).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    let new = loop {
        let token = sim.token(0).await;
        if token != old {
            break token;
        }
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    };
    let page = || json!({"seq": 0, "limit": 1});
    assert_eq!(
        sim.post("message/getchatdata", &old, page()).await["errcode"],
        42_001
    );
    assert_eq!(
        sim.post("message/getchatdata", &new, page()).await["errcode"],
        0
    );
    sim.stop().await;
}

#[tokio::test]
async fn failing_calls_lose_nothing_for_a_reader_that_retries() {
    let kinds = "busy+rate+concurrency+expired+invalid+e500+e502+cut+truncated+error";
    let sim = Sim::start(&format!(
        "--messages 600 --faults api=0.5@{kinds},empty=0.2"
    ))
    .await;
    let mut seen = Vec::new();
    let mut outcomes = BTreeMap::<String, u32>::new();
    let mut token = sim.token(0).await;
    let mut empty_in_a_row = 0;
    while empty_in_a_row < 2 {
        let url = format!(
            "{}/cgi-bin/message/getchatdata?access_token={token}",
            sim.base
        );
        let body = json!({"seq": seen.last().unwrap_or(&0), "limit": 10});
        let sent = sim.client.post(url).json(&body).send().await;
        let status = sent.as_ref().map_or(200, |reply| reply.status().as_u16());
        let text = match sent {
            Ok(reply) => reply.text().await,
            Err(error) => Err(error),
        };
        let outcome = match text.map(|text| serde_json::from_str::<Value>(&text)) {
            _ if status != 200 => status.to_string(),
            Err(_) => "cut".to_owned(),
            Ok(Err(_)) => "not JSON".to_owned(),
            Ok(Ok(reply)) if reply["errcode"] == 0 => {
                let list = reply["chatdata"].as_array().unwrap();
                empty_in_a_row = if list.is_empty() {
                    empty_in_a_row + 1
                } else {
                    0
                };
                seen.extend(list.iter().map(|record| record["seq"].as_u64().unwrap()));
                "ok".to_owned()
            }
            Ok(Ok(reply)) => reply["errcode"].to_string(),
        };
        if ["42001", "40014"].contains(&outcome.as_str()) {
            token = sim.token(0).await;
        }
        *outcomes.entry(outcome).or_default() += 1;
    }
    assert_eq!(seen.len(), 600);
    let kinds: BTreeSet<&str> = outcomes.keys().map(String::as_str).collect();
    let all = [
        "-1", "40014", "42001", "45009", "45033", "500", "502", "6000", "cut", "not JSON", "ok",
    ];
    assert_eq!(kinds, BTreeSet::from(all));
    sim.stop().await;
}

#[tokio::test]
async fn appended_messages_are_readable_and_in_the_truth() {
    let sim = Sim::start("--messages 300").await;
    let token = sim.token(0).await;
    let before = sim.page(&token, 0, 1_000).await;
    let url = format!("{}/sim/append?count=40", sim.base);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let reply: Value = sim
        .client
        .post(url)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(reply["records"], 340);
    let after = sim.page(&token, *before.last().unwrap(), 1_000).await;
    assert_eq!(after.len(), 40);
    let truth = std::fs::read_to_string(sim.dir.path().join("messages.jsonl")).unwrap();
    let lines: Vec<Value> = truth
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 340);
    for (line, seq) in lines[300..].iter().zip(after) {
        assert_eq!(line["seq"], seq);
        assert!(line["msgtime"].as_u64().unwrap() >= now.as_millis() as u64);
    }
    sim.stop().await;
}

#[tokio::test]
async fn rate_sends_messages_continuously() {
    let sim = Sim::start("--messages 100 --rate 200").await;
    let token = sim.token(0).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while sim.page(&token, 0, 1_000).await.len() < 150 {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    sim.stop().await;
}

#[tokio::test]
async fn window_hides_records_older_than_five_days() {
    let sim = Sim::start("--messages 900 --days 20 --enforce-window").await;
    let token = sim.token(0).await;
    let given = sim.page(&token, 0, 1_000).await;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let oldest = (now.as_millis() - 5 * 86_400_000) as u64;
    let truth = std::fs::read_to_string(sim.dir.path().join("messages.jsonl")).unwrap();
    let recent: Vec<u64> = truth
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["msgtime"].as_u64().unwrap() >= oldest)
        .map(|line| line["seq"].as_u64().unwrap())
        .collect();
    assert!(!given.is_empty() && given.len() < 900);
    // The window moves between the two reads, so a message or two can differ.
    assert!(recent.len().abs_diff(given.len()) <= 2);
    assert_eq!(given.last(), recent.last());
    sim.stop().await;
}

#[tokio::test]
async fn media_are_complete_in_chunks() {
    let sim = Sim::start("--messages 10").await;
    let token = sim.token(0).await;
    let media = wecom_sim::media::Media {
        kind: wecom_sim::media::MediaKind::Video,
        size: 1_300_000,
        nonce: 77,
    };
    let id = media.sdkfileid(1);
    let (mut index, mut bytes, mut chunks) = (String::new(), Vec::new(), 0);
    loop {
        let url = format!(
            "{}/cgi-bin/message/getchatmediadata?access_token={token}",
            sim.base
        );
        let body = json!({"sdkfileid": id, "indexbuf": index});
        let reply = sim.client.post(url).json(&body).send().await.unwrap();
        let header = |name: &str| reply.headers()[name].to_str().unwrap().to_owned();
        let finished = header("x-is-finish") == "1";
        index = header("x-index-buf");
        bytes.extend(reply.bytes().await.unwrap());
        chunks += 1;
        if finished {
            break;
        }
    }
    assert_eq!((chunks, bytes == media.bytes(1)), (3, true));
    let body = json!({"sdkfileid": "unknown", "indexbuf": ""});
    assert_eq!(
        sim.post("message/getchatmediadata", &token, body).await["errcode"],
        301_048
    );
    sim.stop().await;
}

#[tokio::test]
async fn directory_pages_by_cursor_and_rejects_unknown_ids() {
    let sim = Sim::start("--messages 10").await;
    let token = sim.token(1).await;
    let departments = sim.get_api("department/list", &token).await;
    assert_eq!(departments["department"].as_array().unwrap().len(), 28);
    let below = sim.get_api("department/list?id=10", &token).await;
    assert_eq!(below["department"].as_array().unwrap().len(), 4);
    let members = sim
        .get_api("user/list?department_id=1&fetch_child=1", &token)
        .await;
    assert_eq!(members["userlist"].as_array().unwrap().len(), 80);
    let top = sim.get_api("user/list?department_id=1", &token).await;
    assert_eq!(top["userlist"].as_array().unwrap().len(), 1);

    let followers = sim
        .get_api("externalcontact/get_follow_user_list", &token)
        .await;
    let followers = followers["follow_user"].as_array().unwrap().clone();
    let (mut cursor, mut pairs) = (String::new(), BTreeSet::new());
    loop {
        let body = json!({"userid_list": followers[..50], "cursor": cursor, "limit": 30});
        let reply = sim
            .post("externalcontact/batch/get_by_user", &token, body)
            .await;
        let list = reply["external_contact_list"].as_array().unwrap();
        assert!(list.len() <= 30);
        for entry in list {
            pairs.insert(format!(
                "{} {}",
                entry["follow_info"]["userid"], entry["external_contact"]["external_userid"]
            ));
        }
        reply["next_cursor"]
            .as_str()
            .unwrap()
            .clone_into(&mut cursor);
        if cursor.is_empty() {
            break;
        }
    }
    let mut listed = 0;
    for follower in &followers[..50] {
        let path = format!("externalcontact/list?userid={}", follower.as_str().unwrap());
        listed += sim.get_api(&path, &token).await["external_userid"]
            .as_array()
            .unwrap()
            .len();
    }
    assert_eq!(pairs.len(), listed);

    let rooms = sim
        .post(
            "externalcontact/groupchat/list",
            &token,
            json!({"limit": 1_000}),
        )
        .await;
    let room = rooms["group_chat_list"][0]["chat_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let chat = json!({"chat_id": room, "need_name": 1});
    let group = sim
        .post("externalcontact/groupchat/get", &token, chat)
        .await;
    let named = group["group_chat"]["member_list"].as_array().unwrap();
    assert!(
        named
            .iter()
            .all(|entry| !entry["name"].as_str().unwrap().is_empty())
    );

    let refused = [
        sim.get_api("user/get?userid=nobody", &token).await,
        sim.get_api("externalcontact/get?external_userid=wmNobody", &token)
            .await,
        sim.get_api("externalcontact/get?external_userid=zhangsan", &token)
            .await,
        sim.post(
            "externalcontact/groupchat/get",
            &token,
            json!({"chat_id": "wrNowhere"}),
        )
        .await,
        sim.post(
            "msgaudit/groupchat/get",
            &sim.token(0).await,
            json!({"roomid": room}),
        )
        .await,
        sim.get_api("department/list?id=999", &token).await,
    ];
    let codes: Vec<&Value> = refused.iter().map(|reply| &reply["errcode"]).collect();
    assert_eq!(codes, [60_111, 84_061, 40_096, 90_501, 301_059, 60_123]);
    sim.stop().await;
}
