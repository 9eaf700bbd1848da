//! The text of a text message: a line of the dialogue or one that breaks a rule, with the quotes,
//! mentions, emoji, full-width characters and stray bytes of real texts.

use rand::RngExt;

use super::MessageRenderer;
use super::json::STRAY;
use crate::random::{once_in, pick};

/// One of this many texts breaks a rule or comes close to it.
const BREACH_IN: u32 = 70;

impl MessageRenderer<'_> {
    pub(super) fn words(&mut self) -> String {
        let mut text = if once_in(&mut self.rng, BREACH_IN) {
            let dice = self.dice();
            let breach = self.texts.breach(self.slot.role, dice);
            let text = self.texts.fill(&breach.text, dice);
            match self.rng.random_range(0..8) {
                0 => wide(&text),
                1 => text.to_uppercase(),
                _ => text,
            }
        } else if once_in(&mut self.rng, 14) {
            self.entry("ack")
        } else {
            self.texts
                .line(self.scene.dialogue, self.slot.line.into(), self.scene.seed)
        };
        if once_in(&mut self.rng, 12) {
            text += &self.entry("emoji");
        }
        if self.conversation.room.is_some() && once_in(&mut self.rng, 9) {
            let other = self
                .scene
                .cast
                .iter()
                .find(|&&party| party != self.slot.speaker);
            if let Some(&other) = other {
                text = format!("@{}\u{2005}{text}", self.org.party(other).called);
            }
        }
        if once_in(&mut self.rng, 60) {
            text = self.quoting(&text);
        }
        if once_in(&mut self.rng, 300) {
            text = self.with_strays(&text);
        }
        text
    }

    fn quoting(&mut self, reply: &str) -> String {
        let line = self.slot.line.saturating_sub(1);
        let quoted = self
            .texts
            .line(self.scene.dialogue, line.into(), self.scene.seed);
        let name = &self.org.party(self.scene.cast[1]).called;
        if once_in(&mut self.rng, 2) {
            format!("这是一条引用/回复消息：\n\"{name}:\n{quoted}\"\n------\n{reply}")
        } else {
            format!("「{name}：{quoted}」\n- - - - - - - - - - - - - - -\n{reply}")
        }
    }

    /// Inserts control bytes, which the JSON contains unescaped.
    fn with_strays(&mut self, text: &str) -> String {
        let count = text.chars().count() as u32;
        let dice = self.dice() as u32;
        let mut out = String::with_capacity(text.len() + 8);
        for (n, c) in (0u32..).zip(text.chars()) {
            if n == dice % count.max(1) {
                let byte = *pick(&mut self.rng, &[0x00, 0x01, 0x08, 0x0a, 0x0b, 0x1f]);
                out.extend(char::from_u32(u32::from(STRAY) + byte));
            }
            out.push(c);
        }
        out
    }
}

/// Converts printable ASCII to its full-width forms.
fn wide(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '!'..='~' => char::from_u32(u32::from(c) + 0xfee0).unwrap_or(c),
            ' ' => '\u{3000}',
            c => c,
        })
        .collect()
}
