//! Measures how fast messages are checked against a word list:
//! `match_rate <words file> <text file> [seconds]`, one message per line of the text.
//!
//! It prints three rates of one core: scanning alone (`find`), checking messages whose sender is in
//! scope (creates violations), and checking messages whose sender is not in scope.
#![allow(clippy::print_stdout, reason = "a command-line program")]

use std::error::Error;
use std::time::{Duration, Instant};
use std::{env, fs};

use chatledger_rules::{RuleFile, RuleSet, compile};
use chatledger_schemas::{ConversationKind, Message, PartyKind};

const RULE: &str = r#"
[[rule]]
id = "in-scope"
name = "in-scope"
severity = "low"
words_file = "words"
scope.departments = [7]
"#;

fn main() -> Result<(), Box<dyn Error>> {
    let [words, texts] = [1, 2].map(|n| env::args().nth(n).ok_or("words file, text file [, s]"));
    let seconds = env::args().nth(3).map_or(Ok(3.0), |s| s.parse())?;
    let words = fs::read_to_string(words?)?;
    let texts = fs::read_to_string(texts?)?;

    let before = resident_kib();
    let start = Instant::now();
    let source = RuleFile {
        name: "match_rate",
        text: RULE,
    };
    let rules = compile(&[source], |_, _| Ok::<_, String>(words.clone())).map_err(|errors| {
        let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
        lines.join("\n")
    })?;
    println!(
        "{} words compiled in {:.0} ms: {:.1} MiB, {} MiB more resident",
        rules.rules()[0].words,
        start.elapsed().as_secs_f64() * 1e3,
        rules.heap_bytes() as f64 / 1_048_576.0,
        resident_kib().saturating_sub(before) / 1024,
    );

    let messages: Vec<Message> = texts.lines().map(message).collect();
    let hit = messages
        .iter()
        .filter(|message| !rules.find(&message.content).is_empty())
        .count();
    println!(
        "{} messages of {:.1} characters, {hit} with a hit",
        messages.len(),
        texts.chars().count() as f64 / messages.len() as f64,
    );
    let budget = Duration::from_secs_f64(seconds);
    report("scan", &messages, budget, || {
        messages.iter().map(|m| rules.find(&m.content).len()).sum()
    });
    report("check, in scope", &messages, budget, || {
        check(&rules, &messages, &[7])
    });
    report("check, not in scope", &messages, budget, || {
        check(&rules, &messages, &[])
    });
    Ok(())
}

fn check(rules: &RuleSet, messages: &[Message], departments: &[u32]) -> usize {
    messages
        .chunks(1000)
        .map(|batch| rules.check(batch, |_| departments, 0).len())
        .sum()
}

fn report(what: &str, messages: &[Message], budget: Duration, mut pass: impl FnMut() -> usize) {
    let (start, cpu) = (Instant::now(), on_cpu());
    let (mut passes, mut hits) = (0, 0);
    while start.elapsed() < budget {
        hits = pass();
        passes += 1;
    }
    let spent = on_cpu()
        .zip(cpu)
        .map(|(now, then)| now.saturating_sub(then));
    let seconds = spent.unwrap_or(start.elapsed()).as_secs_f64() / f64::from(passes);
    let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    println!(
        "{what}: {:.2} M messages/s, {:.0} MB/s, {hits} results",
        messages.len() as f64 / seconds / 1e6,
        bytes as f64 / seconds / 1e6,
    );
}

fn message(content: &str) -> Message {
    Message {
        corp_id: "ww0123456789abcdef".into(),
        seq: 1,
        msgid: "CAQQluDa4QUY0On2rYSAgAMgzPrShAE=".into(),
        action: "send".into(),
        msgtype: "text".into(),
        msgtime: 0,
        conversation_id: "wmErxtDgAA9AW32YyyuYRimKr7D1KWlw|zhangsan".into(),
        conversation_kind: ConversationKind::SingleExternal,
        room_id: String::new(),
        room_name: String::new(),
        from_id: "zhangsan".into(),
        from_kind: PartyKind::Member,
        from_name: String::new(),
        from_department_id: 0,
        from_department_path: String::new(),
        to_ids: vec!["wmErxtDgAA9AW32YyyuYRimKr7D1KWlw".into()],
        content: content.into(),
        payload: String::new(),
        key_version: 1,
    }
}

/// Returns the CPU time of this thread, which does not depend on other load; `None` without
/// `/proc`.
fn on_cpu() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split(' ')
        .next()?
        .parse()
        .ok()
        .map(Duration::from_nanos)
}

/// Returns the resident memory of this process in KiB; 0 without `/proc`.
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|value| value.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
