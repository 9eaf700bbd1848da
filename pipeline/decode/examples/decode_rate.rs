//! Measures how many messages one core decodes in a second, by message type:
//! `cargo run --release -p chatledger-decode --example decode_rate`.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use chatledger_decode::decode;
use chatledger_schemas::CorpId;
use serde_json::{Value, json};

fn main() {
    let text =
        "您好，您咨询的年金险第三年起每年可以领取，具体领取金额以合同为准，我把条款发给您看一下。";
    let colleagues: Vec<String> = (0..200).map(|n| format!("employee{n:03}")).collect();
    let items: Vec<Value> = (0..20)
        .map(|_| json!({"type": "ChatRecordText", "msgtime": 1_760_000_000, "content": json!({"content": text}).to_string()}))
        .collect();
    let single = json!(["wmQ3zCDAAAVq0cFgYc0TuyTh9b2xk1Rw"]);
    let room = json!(colleagues);
    let file = json!({"filename": "保险条款.pdf", "md5sum": "0123456789abcdef0123456789abcdef", "sdkfileid": "A".repeat(600)});
    for (name, msgtype, key, tolist, body) in [
        ("text", "text", "text", &single, json!({"content": text})),
        ("file", "file", "file", &single, file),
        (
            "text to 200",
            "text",
            "text",
            &room,
            json!({"content": text}),
        ),
        (
            "chatrecord of 20",
            "chatrecord",
            "chatrecord",
            &single,
            json!({"title": "聊天记录", "item": items}),
        ),
    ] {
        let payload = json!({
            "msgid": "10934223231912468435_1760000000000_external", "action": "send",
            "from": "employee001", "tolist": tolist, "roomid": "", "msgtime": 1_760_000_000_123_i64,
            "msgtype": msgtype, key: body,
        });
        report(name, payload.to_string().as_bytes());
    }
}

fn report(name: &str, plaintext: &[u8]) {
    let corp = CorpId::from("wwcorp");
    let (start, mut messages) = (Instant::now(), 0_u32);
    while start.elapsed() < Duration::from_secs(1) {
        for _ in 0..1000 {
            let message = decode(&corp, 1, "m", 1, black_box(plaintext).to_vec());
            black_box(message.unwrap());
        }
        messages += 1000;
    }
    let each = start.elapsed() / messages;
    println!(
        "{name:>16}: {:>9.0} messages/s, {each:?} each, {} bytes",
        1.0 / each.as_secs_f64(),
        plaintext.len()
    );
}
