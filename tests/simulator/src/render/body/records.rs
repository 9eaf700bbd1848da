//! Bodies that contain other messages: forwarded conversations and mixed messages. Their items hold
//! JSON as a string, sometimes as an object.

use rand::RngExt;

use super::MessageBody;
use crate::random::once_in;
use crate::render::{JsonObject, MessageRenderer};

impl MessageRenderer<'_> {
    fn text_object(&mut self) -> (JsonObject, Vec<String>) {
        let line = self.dice() as usize;
        let text = self.texts.line(self.scene.dialogue, line, self.scene.seed);
        let mut body = self.object();
        body.text("content", &text);
        (body, vec![text])
    }

    /// Returns one item: its type in a mixed message, its body and its parts of the content.
    fn item(&mut self) -> (&'static str, JsonObject, Vec<String>) {
        match self.rng.random_range(0..10) {
            0 => {
                let (body, parts) = self.link_object();
                ("link", body, parts)
            }
            1 => {
                let (body, filename) = self.file_object();
                ("file", body, vec![filename])
            }
            2 | 3 => ("image", self.image_object(), Vec::new()),
            4 => {
                let (body, parts) = self.location_object();
                ("location", body, parts)
            }
            _ => {
                let (body, parts) = self.text_object();
                ("text", body, parts)
            }
        }
    }

    /// Returns the items of a mixed message.
    fn mixed_items(&mut self) -> (JsonObject, Vec<String>) {
        let mut items = Vec::new();
        let mut all = Vec::new();
        for _ in 0..self.rng.random_range(2..5) {
            let (kind, body, parts) = self.item();
            let mut item = self.object();
            item.text("type", kind);
            if once_in(&mut self.rng, 8) {
                item.json("content", &body.finish());
            } else {
                item.text("content", &body.finish());
            }
            items.push(item.finish());
            all.extend(parts);
        }
        let mut body = self.object();
        body.list("item", items);
        (body, all)
    }

    pub(super) fn mixed(&mut self) -> MessageBody {
        let (body, parts) = self.mixed_items();
        MessageBody::under("mixed", body, parts)
    }

    pub(super) fn chatrecord(&mut self) -> MessageBody {
        let other = &self.org.party(self.scene.cast[1]).called;
        let title = format!(
            "{other}和{}的聊天记录",
            self.org.party(self.scene.cast[0]).called
        );
        let mut all = vec![title.clone()];
        let mut items = Vec::new();
        let count = self.rng.random_range(1..7);
        for n in 0..count {
            let mixed = once_in(&mut self.rng, 12);
            let (kind, body, parts) = if mixed {
                let (body, parts) = self.mixed_items();
                ("ChatRecordMixed", body, parts)
            } else {
                let (kind, body, parts) = self.item();
                let kind = match kind {
                    "link" => "ChatRecordLink",
                    "file" => "ChatRecordFile",
                    "image" => "ChatRecordImage",
                    "location" => "ChatRecordLocation",
                    _ => "ChatRecordText",
                };
                (kind, body, parts)
            };
            let mut item = self.object();
            item.text("type", kind)
                .text("content", &body.finish())
                .number("msgtime", self.msgtime / 1_000 - 60 * (count - n))
                .flag("from_chatroom", self.conversation.room.is_some());
            items.push(item.finish());
            all.extend(parts);
        }
        let mut body = self.object();
        body.text("title", &title).list("item", items);
        MessageBody::under("chatrecord", body, all)
    }
}
