//! The body of each message type, and its `content`.
//!
//! Each function returns the JSON members that follow `msgtype` and the parts of `content` in order;
//! empty parts are left out.

mod plain;
mod records;
mod work;

use super::json::without_strays;
use super::{JsonObject, MessageRenderer};
use crate::kind::MessageKind;

/// The JSON members of a body and the parts of its searchable content.
pub(super) struct MessageBody {
    pub(super) members: JsonObject,
    pub(super) parts: Vec<String>,
}

impl MessageBody {
    /// Creates a body whose object is under a key.
    pub(super) fn under(key: &str, object: JsonObject, parts: Vec<String>) -> Self {
        let mut members = JsonObject::new(super::Style::default());
        members.json(key, &object.finish());
        Self { members, parts }
    }
}

impl MessageRenderer<'_> {
    /// Returns the JSON members that follow `msgtype`, and the content.
    pub(super) fn body(&mut self) -> (JsonObject, String) {
        let body = match self.slot.kind {
            MessageKind::Text => self.text(),
            MessageKind::Image => self.image(),
            MessageKind::Revoke => self.revoke(),
            MessageKind::Agree => self.agree(),
            MessageKind::Disagree => self.disagree(),
            MessageKind::Voice => self.voice(),
            MessageKind::Video => self.video(),
            MessageKind::Card => self.card(),
            MessageKind::Location => self.location(),
            MessageKind::Emotion => self.emotion(),
            MessageKind::File => self.file(),
            MessageKind::Link => self.link(),
            MessageKind::Weapp => self.weapp(),
            MessageKind::Chatrecord => self.chatrecord(),
            MessageKind::Todo => self.todo(),
            MessageKind::Vote => self.vote(),
            MessageKind::Collect => self.collect(),
            MessageKind::Redpacket | MessageKind::ExternalRedpacket => self.redpacket(),
            MessageKind::Meeting => self.meeting(),
            MessageKind::MeetingNotification => self.meeting_notification(),
            MessageKind::Docmsg => self.docmsg(),
            MessageKind::Markdown => self.markdown(),
            MessageKind::News => self.news(),
            MessageKind::Calendar => self.calendar(),
            MessageKind::Mixed => self.mixed(),
            MessageKind::MeetingVoiceCall => self.meeting_voice_call(),
            MessageKind::VoipDocShare => self.voip_doc_share(),
            MessageKind::Sphfeed => self.sphfeed(),
            MessageKind::Voiptext => self.voiptext(),
            MessageKind::Qydiskfile => self.qydiskfile(),
            MessageKind::SolitaireNote => self.solitaire_note(),
            MessageKind::Switch => MessageBody {
                members: self.object(),
                parts: Vec::new(),
            },
        };
        let parts: Vec<String> = body
            .parts
            .iter()
            .map(|part| without_strays(part))
            .filter(|part| !part.is_empty())
            .collect();
        (body.members, parts.join("\n"))
    }

    fn object(&self) -> JsonObject {
        JsonObject::new(self.style)
    }
}
