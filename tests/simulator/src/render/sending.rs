//! From whom to whom: `tolist` and `roomid` in the shapes they have in life.

use super::Writing;
use crate::kind::Kind;
use crate::org::PartyId;
use crate::random::once_in;

/// Where a message goes.
pub(super) struct Sending {
    /// As written: may hold somebody twice, or the sender.
    pub(super) tolist: Vec<PartyId>,
    /// `None` where the field is missing.
    pub(super) roomid: Option<String>,
}

impl Writing<'_> {
    pub(super) fn sending(&mut self) -> Sending {
        let from = self.slot.speaker;
        let Some(room) = self.conversation.room else {
            let both = self
                .conversation
                .members
                .iter()
                .chain(&self.conversation.customers);
            let tolist: Vec<PartyId> = both.copied().filter(|&party| party != from).collect();
            let missing = once_in(&mut self.rng, 10);
            return Sending {
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
        // Calls are logged without their room, and with the caller among those called.
        if matches!(self.slot.kind, Kind::MeetingVoiceCall | Kind::VoipDocShare) {
            tolist.push(from);
            return Sending {
                tolist,
                roomid: None,
            };
        }
        if once_in(&mut self.rng, 40) {
            let again = tolist[tolist.len() / 2];
            tolist.push(again);
        }
        Sending {
            tolist,
            roomid: Some(room.id.clone()),
        }
    }
}
