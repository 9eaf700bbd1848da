//! The body of each message type, and its `content`.
//!
//! Each function returns the members that follow `msgtype` and the parts of `content`, in the order
//! of the formats' table; empty parts do not count.

mod plain;
mod records;
mod work;

use super::json::without_strays;
use super::{Object, Writing};
use crate::kind::Kind;

/// A body, and what in it a person would search for.
pub(super) struct Body {
    pub(super) members: Object,
    pub(super) parts: Vec<String>,
}

impl Body {
    /// A body under a key.
    pub(super) fn under(key: &str, object: Object, parts: Vec<String>) -> Self {
        let mut members = Object::new(super::Style::default());
        members.json(key, &object.finish());
        Self { members, parts }
    }
}

impl Writing<'_> {
    /// The members that follow `msgtype`, and the content.
    pub(super) fn body(&mut self) -> (Object, String) {
        let body = match self.slot.kind {
            Kind::Text => self.text(),
            Kind::Image => self.image(),
            Kind::Revoke => self.revoke(),
            Kind::Agree => self.agree(),
            Kind::Disagree => self.disagree(),
            Kind::Voice => self.voice(),
            Kind::Video => self.video(),
            Kind::Card => self.card(),
            Kind::Location => self.location(),
            Kind::Emotion => self.emotion(),
            Kind::File => self.file(),
            Kind::Link => self.link(),
            Kind::Weapp => self.weapp(),
            Kind::Chatrecord => self.chatrecord(),
            Kind::Todo => self.todo(),
            Kind::Vote => self.vote(),
            Kind::Collect => self.collect(),
            Kind::Redpacket | Kind::ExternalRedpacket => self.redpacket(),
            Kind::Meeting => self.meeting(),
            Kind::MeetingNotification => self.meeting_notification(),
            Kind::Docmsg => self.docmsg(),
            Kind::Markdown => self.markdown(),
            Kind::News => self.news(),
            Kind::Calendar => self.calendar(),
            Kind::Mixed => self.mixed(),
            Kind::MeetingVoiceCall => self.meeting_voice_call(),
            Kind::VoipDocShare => self.voip_doc_share(),
            Kind::Sphfeed => self.sphfeed(),
            Kind::Voiptext => self.voiptext(),
            Kind::Qydiskfile => self.qydiskfile(),
            Kind::SolitaireNote => self.solitaire_note(),
            Kind::Switch => Body {
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

    fn object(&self) -> Object {
        Object::new(self.style)
    }
}
