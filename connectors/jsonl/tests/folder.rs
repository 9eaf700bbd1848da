//! Files of a folder: complete, never overwritten, private, readable again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use chatledger_jsonl::{Error, Folder, Line, encode, read_rows};
use chatledger_schemas::{ConversationKind, Message, PartyKind};

fn message(seq: u64) -> Message {
    Message {
        corp_id: "ww1".into(),
        seq,
        msgid: format!("m{seq}"),
        action: "send".into(),
        msgtype: "text".into(),
        msgtime: 1_700_000_000_000,
        conversation_id: "a|b".into(),
        conversation_kind: ConversationKind::SingleInternal,
        room_id: String::new(),
        room_name: String::new(),
        from_id: "a".into(),
        from_kind: PartyKind::Member,
        from_name: "张三".into(),
        from_department_id: 1,
        from_department_path: String::new(),
        to_ids: vec!["b".into()],
        content: "two\nlines and a \" quote".into(),
        payload: "{}".into(),
        key_version: 1,
    }
}

fn lines(messages: &[Message]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(messages.iter().map(Line::Message), &mut out).unwrap();
    out
}

#[test]
fn messages_are_one_line_each_and_can_be_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let target = Folder::new(folder.path().join("out"));
    let written = [message(1), message(2)];
    target.put("messages", "ww1-1-2", &lines(&written)).unwrap();
    let files = target.files("messages").unwrap();
    assert_eq!(files.len(), 1);
    let text = fs::read_to_string(&files[0]).unwrap();
    assert_eq!(text.lines().count(), 2);
    assert!(
        text.starts_with(r#"{"kind":"message","corp_id":"ww1","seq":1,"#),
        "{text}"
    );
    let mut read = Vec::new();
    read_rows(&files[0], |message: Message| read.push(message)).unwrap();
    assert_eq!(read, written);
}

#[test]
fn file_that_exists_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let target = Folder::new(folder.path().to_owned());
    target.put("messages", "a", b"first\n").unwrap();
    target.put("messages", "a", b"second\n").unwrap();
    let file = folder.path().join("messages/a.jsonl");
    assert_eq!(fs::read(&file).unwrap(), b"first\n");
    assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn files_and_folders_are_readable_by_their_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let target = Folder::new(folder.path().join("out"));
    target.check().unwrap();
    target.put("messages", "a", b"x\n").unwrap();
    target.write_state("lane", b"{}").unwrap();
    let mode = |path: &str| {
        let metadata = fs::metadata(folder.path().join(path)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("out"), 0o700);
    assert_eq!(mode("out/messages/a.jsonl"), 0o600);
    assert_eq!(mode("out/_chatledger/lanes/lane.json"), 0o600);
}

#[test]
fn temporary_and_foreign_files_are_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    let target = Folder::new(folder.path().to_owned());
    assert!(target.files("messages").unwrap().is_empty());
    target.put("messages", "b", b"x\n").unwrap();
    fs::write(folder.path().join("messages/.b.0123"), b"half").unwrap();
    fs::write(folder.path().join("messages/notes.txt"), b"").unwrap();
    assert_eq!(
        target.files("messages").unwrap(),
        [folder.path().join("messages/b.jsonl")]
    );
}

#[test]
fn line_that_is_not_a_message_is_reported_by_place_and_not_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let mut text = lines(&[message(1)]);
    text.extend_from_slice(b"{\"kind\":\"message\",\"secret\":\"s3cret\"}\n");
    fs::write(&path, text).unwrap();
    let error = read_rows(&path, |_: Message| {}).unwrap_err();
    assert!(matches!(error, Error::NotARow { line: 2, .. }), "{error}");
    assert!(!error.to_string().contains("s3cret"));
}

#[test]
fn state_is_replaced_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let target = Folder::new(folder.path().to_owned());
    assert_eq!(target.read_state("lane").unwrap(), None);
    target.write_state("lane", b"1").unwrap();
    target.write_state("lane", b"2").unwrap();
    assert_eq!(target.read_state("lane").unwrap().unwrap(), b"2");
}

#[test]
fn folder_that_cannot_be_created_is_an_error_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = Folder::new(file.join("below")).check().unwrap_err();
    assert!(error.to_string().contains("below"), "{error}");
}
