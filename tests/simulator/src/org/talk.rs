//! The conversations of a tenant and how often each of them is chosen.
//!
//! Guarantee: the archive covers at least one member of every conversation.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use super::PartyId;

/// The category of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// A member and an external contact.
    ExternalSingle,
    /// Two members.
    InternalSingle,
    /// A customer group.
    CustomerRoom,
    /// An internal room.
    InternalRoom,
    /// A room that no API describes.
    ForeignRoom,
}

impl Category {
    /// Returns whether an external contact takes part.
    pub fn external(self) -> bool {
        !matches!(self, Self::InternalSingle | Self::InternalRoom)
    }
}

/// One conversation.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Its category.
    pub category: Category,
    /// Index of its room; `None` for a single chat.
    pub room: Option<u32>,
    /// Members who take part; the first one is covered by the archive.
    pub members: Vec<PartyId>,
    /// External contacts who take part.
    pub customers: Vec<PartyId>,
    /// Part of the backlog (0 to 1) after which the conversation has no messages because a member left.
    pub ends_at: f64,
}

/// All conversations, by category.
#[derive(Clone, Debug, Default)]
pub struct Talk {
    /// Every conversation.
    pub conversations: Vec<Conversation>,
    weights: [CategoryWeights; 5],
}

/// Cumulative weights of the conversations of one category.
#[derive(Clone, Debug, Default)]
struct CategoryWeights {
    sums: Vec<f64>,
    conversations: Vec<u32>,
}

/// Share of each category, in percent.
const SHARES: [(Category, u32); 5] = [
    (Category::ExternalSingle, 50),
    (Category::InternalSingle, 17),
    (Category::CustomerRoom, 14),
    (Category::InternalRoom, 16),
    (Category::ForeignRoom, 3),
];

impl Talk {
    /// Adds a conversation; it is chosen in proportion to its weight.
    pub(super) fn add(&mut self, conversation: Conversation, weight: f64) {
        let weights = &mut self.weights[conversation.category as usize];
        weights
            .sums
            .push(weights.sums.last().unwrap_or(&0.0) + weight);
        weights.conversations.push(self.conversations.len() as u32);
        self.conversations.push(conversation);
    }

    /// Chooses a conversation of any category that has not ended at this part of the backlog.
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

    /// Chooses a conversation of a category that has not ended at this part of the backlog.
    pub fn of(&self, category: Category, rng: &mut ChaCha8Rng, position: f64) -> u32 {
        let weights = &self.weights[category as usize];
        let total = *weights.sums.last().unwrap_or(&0.0);
        let mut chosen = 0;
        // Only a few conversations have ended, so a few attempts find an active one.
        for _ in 0..64 {
            let at = rng.random_range(0.0..1.0) * total;
            let slot = weights.sums.partition_point(|&sum| sum <= at);
            chosen = weights.conversations[slot.min(weights.sums.len() - 1)];
            if position < self.conversations[chosen as usize].ends_at {
                break;
            }
        }
        chosen
    }
}
