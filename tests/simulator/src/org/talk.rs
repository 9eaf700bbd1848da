//! Who talks to whom, and how often.
//!
//! Guarantee: every conversation has at least one member whom the archive covers.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use super::PartyId;

/// The sorts of conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// A member and somebody outside.
    ExternalSingle,
    /// Two members.
    InternalSingle,
    /// A customer group.
    CustomerRoom,
    /// A group of members.
    InternalRoom,
    /// A room nobody can resolve.
    ForeignRoom,
}

impl Category {
    /// Whether somebody outside takes part.
    pub fn external(self) -> bool {
        !matches!(self, Self::InternalSingle | Self::InternalRoom)
    }
}

/// One conversation.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Its sort.
    pub category: Category,
    /// Index of its room.
    pub room: Option<u32>,
    /// Members who take part; a covered one first.
    pub members: Vec<PartyId>,
    /// Those outside who take part.
    pub customers: Vec<PartyId>,
    /// The part of the backlog (0 to 1) after which nothing is said any more: somebody left.
    pub ends_at: f64,
}

/// All conversations, by sort.
#[derive(Clone, Debug, Default)]
pub struct Talk {
    /// Every conversation.
    pub conversations: Vec<Conversation>,
    wheels: [Wheel; 5],
}

/// Running weights of the conversations of one sort.
#[derive(Clone, Debug, Default)]
struct Wheel {
    sums: Vec<f64>,
    conversations: Vec<u32>,
}

/// How much of the talk is of which sort, in percent.
const SHARES: [(Category, u32); 5] = [
    (Category::ExternalSingle, 50),
    (Category::InternalSingle, 17),
    (Category::CustomerRoom, 14),
    (Category::InternalRoom, 16),
    (Category::ForeignRoom, 3),
];

impl Talk {
    /// Adds a conversation with a weight: how often it is chosen.
    pub(super) fn add(&mut self, conversation: Conversation, weight: f64) {
        let wheel = &mut self.wheels[conversation.category as usize];
        wheel.sums.push(wheel.sums.last().unwrap_or(&0.0) + weight);
        wheel.conversations.push(self.conversations.len() as u32);
        self.conversations.push(conversation);
    }

    /// Chooses a conversation of any sort that has not ended at this part of the backlog.
    pub fn any(&self, rng: &mut ChaCha8Rng, position: f64) -> u32 {
        let mut dice = rng.random_range(0..100);
        for (category, share) in SHARES {
            if dice < share {
                return self.of(category, rng, position);
            }
            dice -= share;
        }
        self.of(Category::ExternalSingle, rng, position)
    }

    /// Chooses a conversation of a sort that has not ended at this part of the backlog.
    pub fn of(&self, category: Category, rng: &mut ChaCha8Rng, position: f64) -> u32 {
        let wheel = &self.wheels[category as usize];
        let total = *wheel.sums.last().unwrap_or(&0.0);
        let mut chosen = 0;
        // A few have ended; a short search finds one that has not.
        for _ in 0..64 {
            let at = rng.random_range(0.0..1.0) * total;
            let slot = wheel.sums.partition_point(|&sum| sum <= at);
            chosen = wheel.conversations[slot.min(wheel.sums.len() - 1)];
            if position < self.conversations[chosen as usize].ends_at {
                break;
            }
        }
        chosen
    }
}
