//! Receivers of a message: `tolist` and `roomid` in the forms of real archives.

use super::MessageRenderer;
use crate::kind::MessageKind;
use crate::org::PartyId;
use crate::random::once_in;

/// The receivers of a message.
pub(super) struct Receivers {
    /// As written to the JSON; can contain duplicates or the sender.
    pub(super) tolist: Vec<PartyId>,
    /// `None` if the field is missing.
    pub(super) roomid: Option<String>,
}

impl MessageRenderer<'_> {
    pub(super) fn receivers(&mut self) -> Receivers {
        let from = self.slot.speaker;
        let Some(room) = self.conversation.room else {
            let both = self
                .conversation
                .members
                .iter()
                .chain(&self.conversation.customers);
            let tolist: Vec<PartyId> = both.copied().filter(|&party| party != from).collect();
            let missing = once_in(&mut self.rng, 10);
            return Receivers {
                tolist,
                roomid: (!missing).then(String::new),
            };
        };
        let room = &self.org.rooms[room as usize];
        let mut tolist: Vec<PartyId> = room
            .parties
            .iter()
            .copied()
            .filter(|&party| party != from)
            .collect();
        // Calls are logged without their room, and with the caller among the receivers.
        if matches!(
            self.slot.kind,
            MessageKind::MeetingVoiceCall | MessageKind::VoipDocShare
        ) {
            tolist.push(from);
            return Receivers {
                tolist,
                roomid: None,
            };
        }
        if once_in(&mut self.rng, 40) {
            let again = tolist[tolist.len() / 2];
            tolist.push(again);
        }
        Receivers {
            tolist,
            roomid: Some(room.id.clone()),
        }
    }
}
