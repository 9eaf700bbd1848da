//! Renders a message: the JSON that is sealed, and its searchable content for the truth.
//!
//! Guarantee: both come from the same function, so they always agree. There is one function per
//! message type.

mod body;
mod json;
mod sending;
mod words;

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

pub use json::{JsonObject, Style};

use crate::kind::MessageKind;
use crate::org::{Conversation, Org, PartyId};
use crate::plan::{MessageBlock, PlannedMessage, Scene};
use crate::random::{Purpose, generator, number, once_in};
use crate::texts::Texts;

/// A message before it is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// WeCom's id.
    pub msgid: String,
    /// The JSON.
    pub payload: Vec<u8>,
    /// `send`, `recall` or `switch`.
    pub action: &'static str,
    /// Type.
    pub msgtype: &'static str,
    /// Milliseconds since the epoch.
    pub msgtime: i64,
    /// Room id; empty in a single chat.
    pub room_id: String,
    /// Sender.
    pub from: PartyId,
    /// Receivers, each once.
    pub to: Vec<PartyId>,
    /// The searchable text.
    pub content: String,
}

/// The inputs of rendering a message.
pub(crate) struct MessageRenderer<'a> {
    pub(crate) seed: u64,
    pub(crate) index: u64,
    pub(crate) org: &'a Org,
    pub(crate) texts: &'a Texts,
    pub(crate) block: &'a MessageBlock,
    pub(crate) slot: &'a PlannedMessage,
    pub(crate) scene: &'a Scene,
    pub(crate) conversation: &'a Conversation,
    pub(crate) msgtime: i64,
    pub(crate) style: Style,
    pub(crate) rng: ChaCha8Rng,
}

/// Renders the message at a position of a block, sent at `msgtime` (milliseconds since the epoch).
pub fn message(
    seed: u64,
    org: &Org,
    texts: &Texts,
    block: &MessageBlock,
    position: usize,
    msgtime: i64,
) -> Plain {
    let slot = &block.slots[position];
    let scene = &block.scenes[slot.scene as usize];
    let index = block.first + position as u64;
    let mut rng = generator(seed, Purpose::Message, index);
    let style = Style {
        // Some gateways re-encode the JSON.
        numbers_as_text: once_in(&mut rng, 60),
        ascii_only: once_in(&mut rng, 50),
    };
    MessageRenderer {
        seed,
        index,
        org,
        texts,
        block,
        slot,
        scene,
        conversation: &org.talk.conversations[scene.conversation as usize],
        msgtime,
        style,
        rng,
    }
    .render()
}

/// Returns the id of a message in the forms seen since 2019, with the suffix of external messages.
pub(crate) fn msgid(seed: u64, index: u64, external: bool, near_ms: i64) -> String {
    use base64::Engine;
    let chance = number(seed, Purpose::MessageId, index);
    let suffix = if external { "_external" } else { "" };
    if chance.is_multiple_of(16) {
        let mut bytes = [0u8; 20];
        bytes[..8].copy_from_slice(&chance.to_le_bytes());
        bytes[8..16].copy_from_slice(&index.to_le_bytes());
        bytes[16..].copy_from_slice(&(chance >> 32).to_be_bytes()[4..]);
        let text = base64::engine::general_purpose::STANDARD.encode(bytes);
        return format!("CAQQ{text}{suffix}");
    }
    format!(
        "{chance}_{}{suffix}",
        near_ms + 3_900 + (chance % 700) as i64
    )
}

impl MessageRenderer<'_> {
    fn render(mut self) -> Plain {
        let external = self.conversation.category.external();
        // The id contains the planned time, so that a recall can name an earlier message.
        let msgid = msgid(self.seed, self.index, external, self.slot.at_ms);
        if self.slot.kind == MessageKind::Switch {
            return self.switch(&msgid);
        }
        let receivers = self.receivers();
        let (body, content) = self.body();
        let kind = self.slot.kind;
        let mut message = JsonObject::new(Style {
            ascii_only: self.style.ascii_only,
            ..Style::default()
        });
        let action = if kind == MessageKind::Revoke {
            "recall"
        } else {
            "send"
        };
        message.text("msgid", &msgid).text("action", action);
        message.text("from", &self.org.party(self.slot.speaker).id);
        message.texts(
            "tolist",
            receivers
                .tolist
                .iter()
                .map(|&to| self.org.party(to).id.as_str()),
        );
        if let Some(room) = &receivers.roomid {
            message.text("roomid", room);
        }
        if self.style.numbers_as_text && once_in(&mut self.rng, 4) {
            message.text("msgtime", &self.msgtime.to_string());
        } else {
            message.number("msgtime", self.msgtime);
        }
        message.text("msgtype", kind.as_str());
        message.members_of(&body);
        let mut to = Vec::with_capacity(receivers.tolist.len());
        for party in receivers.tolist {
            if !to.contains(&party) {
                to.push(party);
            }
        }
        Plain {
            msgid,
            payload: message.finish().into_bytes(),
            action,
            msgtype: kind.as_str(),
            msgtime: self.msgtime,
            room_id: receivers.roomid.unwrap_or_default(),
            from: self.slot.speaker,
            to,
            content,
        }
    }

    /// Renders the event of a member who switches to another corp; it has its own format.
    fn switch(self, msgid: &str) -> Plain {
        let msgid = msgid.trim_end_matches("_external").to_owned();
        let mut log = JsonObject::new(self.style);
        log.text("msgid", &msgid)
            .text("action", "switch")
            .number("time", self.msgtime)
            .text("user", &self.org.party(self.slot.speaker).id);
        Plain {
            msgid,
            payload: log.finish().into_bytes(),
            action: "switch",
            msgtype: "switch",
            msgtime: self.msgtime,
            room_id: String::new(),
            from: self.slot.speaker,
            to: Vec::new(),
            content: String::new(),
        }
    }

    fn dice(&mut self) -> u64 {
        self.rng.random()
    }

    /// Returns a random entry of a pool.
    fn entry(&mut self, pool: &str) -> String {
        let seed = self.dice();
        self.texts.from_pool(pool, seed)
    }
}
