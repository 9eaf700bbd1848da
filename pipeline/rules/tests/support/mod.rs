//! Constructors of rule sets and messages for the tests of this crate.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::panic, reason = "a failed expectation is a failed test")]

use chatledger_rules::{RuleError, RuleFile, RuleSet, compile};
use chatledger_schemas::{ConversationKind, Message, PartyKind};

/// Compiles rule files, given as (name, text). Words files cannot be read.
pub(crate) fn try_rules(files: &[(&str, &str)]) -> Result<RuleSet, Vec<RuleError>> {
    let sources: Vec<_> = files
        .iter()
        .map(|&(name, text)| RuleFile { name, text })
        .collect();
    compile(&sources, |_, name| Err::<String, _>(format!("no {name}")))
}

/// Compiles one rule file; panics if it is refused.
pub(crate) fn rules(text: &str) -> RuleSet {
    match try_rules(&[("rules.toml", text)]) {
        Ok(set) => set,
        Err(errors) => panic!("{errors:#?}\n{text}"),
    }
}

/// Returns a TOML array of strings with every character escaped.
pub(crate) fn list<S: AsRef<str>>(phrases: &[S]) -> String {
    let quoted = |phrase: &S| {
        let escaped = |c: char| format!("\\U{:08X}", u32::from(c));
        format!(
            "\"{}\"",
            phrase.as_ref().chars().map(escaped).collect::<String>()
        )
    };
    let quoted: Vec<_> = phrases.iter().map(quoted).collect();
    format!("[{}]", quoted.join(", "))
}

/// Returns no departments for any id.
pub(crate) fn no_departments(_: &str) -> &'static [u32] {
    &[]
}

/// Returns a message from zhangsan to lisi.
pub(crate) fn message(content: &str) -> Message {
    Message {
        corp_id: "ww0123456789abcdef".into(),
        seq: 42,
        msgid: "msg-1".into(),
        action: "send".into(),
        msgtype: "text".into(),
        msgtime: 1_600_000,
        conversation_id: "lisi|zhangsan".into(),
        conversation_kind: ConversationKind::SingleInternal,
        room_id: String::new(),
        room_name: String::new(),
        from_id: "zhangsan".into(),
        from_kind: PartyKind::Member,
        from_name: "张三".into(),
        from_department_id: 0,
        from_department_path: String::new(),
        to_ids: vec!["lisi".into()],
        content: content.into(),
        payload: String::new(),
        key_version: 1,
    }
}
