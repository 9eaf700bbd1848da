//! Plans time, sender and type of the messages, one block at a time.
//!
//! A block depends only on the seed and its number, so that any page of a large tenant can be
//! generated without the preceding ones. Guarantees: times within a block ascend and are within the
//! block's share of the [`Rhythm`]; every full block holds every message type.
//! Not here: the contents of the messages.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use crate::kind::{Audience, MessageKind};
use crate::org::{Category, Conversation, Org, PartyId};
use crate::random::{Purpose, generator, once_in, pick};
use crate::rhythm::Rhythm;
use crate::texts::{DialogueRole, Texts};

/// A dialogue that takes place in a conversation.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Index of the conversation.
    pub conversation: u32,
    /// Index of the dialogue.
    pub dialogue: u32,
    /// Party for each role, by [`DialogueRole::index`].
    pub cast: [PartyId; 3],
    /// Seed that fills the placeholders in its texts.
    pub seed: u64,
}

/// One message of a block.
#[derive(Clone, Debug)]
pub struct PlannedMessage {
    /// Time in milliseconds since the epoch; after the backlog, only the order of times matters.
    pub at_ms: i64,
    /// Index of its scene in the block.
    pub scene: u32,
    /// Line of the dialogue, for texts.
    pub line: u16,
    /// Role of the speaker.
    pub role: DialogueRole,
    /// Sender.
    pub speaker: PartyId,
    /// Message type.
    pub kind: MessageKind,
    /// Position in the block of the preceding message of the scene.
    pub previous: Option<u32>,
}

/// A block of consecutive messages.
#[derive(Clone, Debug)]
pub struct MessageBlock {
    /// Number of its first message.
    pub first: u64,
    /// Its scenes.
    pub scenes: Vec<Scene>,
    /// Its messages, in order.
    pub slots: Vec<PlannedMessage>,
}

/// Messages in a block after the backlog.
const LIVE_BLOCK: u64 = 1_024;
/// Planned duration of such a block in milliseconds; the times of sending replace planned times.
const LIVE_SPAN_MS: i64 = 2_000_000;
/// One of this many messages is not a text.
const OTHER_IN: u32 = 5;

/// Plans blocks.
#[derive(Debug)]
pub struct Planner {
    seed: u64,
    messages: u64,
    block: u64,
    rhythm: Rhythm,
}

impl Planner {
    /// Creates the planner of a backlog.
    pub fn new(seed: u64, messages: u64, rhythm: Rhythm) -> Self {
        Self {
            seed,
            messages,
            block: (messages / 16).next_power_of_two().clamp(256, 4_096),
            rhythm,
        }
    }

    /// Returns the number of a message's block; blocks after the backlog follow those of the backlog.
    pub fn block_of(&self, message: u64) -> u64 {
        match message.checked_sub(self.messages) {
            None => message / self.block,
            Some(live) => self.backlog_blocks() + live / LIVE_BLOCK,
        }
    }

    /// Returns the number of blocks in the backlog.
    pub fn backlog_blocks(&self) -> u64 {
        self.messages.div_ceil(self.block)
    }

    /// Plans a block.
    pub fn plan(&self, number: u64, org: &Org, texts: &Texts) -> MessageBlock {
        let blocks = self.backlog_blocks();
        let (first, count, start, end, purpose, index);
        if let Some(live) = number.checked_sub(blocks) {
            (first, count) = (self.messages + live * LIVE_BLOCK, LIVE_BLOCK);
            start = self.rhythm.at(1.0) + live as i64 * LIVE_SPAN_MS;
            end = start + LIVE_SPAN_MS;
            (purpose, index) = (Purpose::LivePlan, live);
        } else {
            first = number * self.block;
            count = self.block.min(self.messages - first);
            start = self.rhythm.at(first as f64 / self.messages as f64);
            end = self
                .rhythm
                .at((first + count) as f64 / self.messages as f64);
            (purpose, index) = (Purpose::Plan, number);
        }
        let live = number >= blocks;
        let mut draft = BlockDraft {
            rng: generator(self.seed, purpose, index),
            org,
            texts,
            position: if live {
                2.0
            } else {
                first as f64 / self.messages as f64
            },
            next_scene: number << 20,
            seed: self.seed,
            start,
            end,
            scenes: Vec::new(),
            slots: Vec::with_capacity(count as usize + 32),
        };
        let count = count as usize;
        if count >= 200 {
            for &kind in MessageKind::ALL {
                draft.single(kind);
            }
        }
        while draft.slots.len() < count {
            // The share determines the time of a scene's first line within the block.
            let share = draft.rng.random_range(0.0..1.0);
            let at = if live {
                start + (share * (end - start) as f64) as i64
            } else {
                self.rhythm
                    .at((first as f64 + share * count as f64) / self.messages as f64)
            };
            draft.dialogue(at, count);
        }
        let (mut slots, scenes) = (draft.slots, draft.scenes);
        slots.sort_by_key(|slot| (slot.at_ms, slot.scene, slot.line));
        let mut latest = vec![None; scenes.len()];
        for (n, slot) in (0u32..).zip(&mut slots) {
            slot.previous = latest[slot.scene as usize].replace(n);
        }
        MessageBlock {
            first,
            scenes,
            slots,
        }
    }
}

struct BlockDraft<'a> {
    rng: ChaCha8Rng,
    org: &'a Org,
    texts: &'a Texts,
    position: f64,
    next_scene: u64,
    seed: u64,
    start: i64,
    end: i64,
    scenes: Vec<Scene>,
    slots: Vec<PlannedMessage>,
}

impl BlockDraft<'_> {
    fn scene(&mut self, number: u32) -> u32 {
        let conversation = &self.org.talk.conversations[number as usize];
        let cast = self.cast(conversation);
        let external = conversation.category.external();
        let industry = self.org.industry(conversation.members[0]);
        let dice = self.rng.random();
        self.scenes.push(Scene {
            conversation: number,
            dialogue: self.texts.choose(industry, external, dice),
            cast,
            seed: crate::random::number(self.seed, Purpose::Scene, self.next_scene),
        });
        self.next_scene += 1;
        self.scenes.len() as u32 - 1
    }

    fn cast(&mut self, conversation: &Conversation) -> [PartyId; 3] {
        let (members, customers) = (&conversation.members, &conversation.customers);
        if conversation.category.external() {
            let member = *pick(&mut self.rng, members);
            return [member, *pick(&mut self.rng, customers), member];
        }
        let start = self.rng.random_range(0..members.len());
        let nth = |n: usize| members[(start + n) % members.len()];
        [nth(0), nth(1), nth(2)]
    }

    /// Adds a dialogue that begins at a time, truncated to the size of the block.
    fn dialogue(&mut self, at: i64, count: usize) {
        let number = self.org.talk.any(&mut self.rng, self.position);
        let scene = self.scene(number);
        let dialogue = self.texts.dialogue(self.scenes[scene as usize].dialogue);
        let external = dialogue.external;
        let from = self.slots.len();
        let mut at = at;
        for (line, spoken) in dialogue.lines.iter().enumerate() {
            if once_in(&mut self.rng, OTHER_IN - 1) && self.slots.len() < count {
                let audiences: &[Audience] = match (external, spoken.role) {
                    (true, DialogueRole::Customer) => &[Audience::Everybody, Audience::Customer],
                    (true, _) => &[Audience::Everybody],
                    (false, _) => &[Audience::Everybody, Audience::Internal],
                };
                let dice = self.rng.random();
                let kind = MessageKind::choose(audiences, dice);
                self.slot(scene, at, line, spoken.role, kind);
                at += self.pause();
            }
            if self.slots.len() >= count {
                break;
            }
            self.slot(scene, at, line, spoken.role, MessageKind::Text);
            at += self.pause();
        }
        // A scene that would end after the block begins earlier, or is compressed if it is too long.
        let drawn = &mut self.slots[from..];
        let (Some(first), Some(last)) = (drawn.first(), drawn.last()) else {
            return;
        };
        let (first, last) = (first.at_ms, last.at_ms);
        let (room, length) = ((self.end - self.start).max(1), (last - first).max(1));
        for slot in drawn {
            if length > room {
                slot.at_ms = self.start + (slot.at_ms - first) * room / length;
            } else if last > self.end {
                slot.at_ms -= last - self.end;
            }
            slot.at_ms = slot.at_ms.max(self.start);
        }
    }

    /// Adds a message of one type in a scene of its own, so that every block has every type.
    fn single(&mut self, kind: MessageKind) {
        let category = match kind.audience() {
            Audience::Customer => Category::ExternalSingle,
            Audience::Internal | Audience::Log if once_in(&mut self.rng, 2) => {
                Category::InternalSingle
            }
            Audience::Robot | Audience::Internal | Audience::Log => Category::InternalRoom,
            Audience::Everybody => *pick(
                &mut self.rng,
                &[
                    Category::ExternalSingle,
                    Category::CustomerRoom,
                    Category::InternalSingle,
                ],
            ),
        };
        let number = self.org.talk.of(category, &mut self.rng, self.position);
        let scene = self.scene(number);
        let role = match (kind.audience(), category.external()) {
            (Audience::Customer, _) => DialogueRole::Customer,
            (_, true) => DialogueRole::Employee,
            (_, false) => DialogueRole::First,
        };
        let at = self.rng.random_range(self.start..=self.end);
        self.slot(scene, at, 0, role, kind);
        if kind.audience() == Audience::Robot {
            let robots = (self.org.parties.len() - self.org.robots.len()) as PartyId
                ..self.org.parties.len() as PartyId;
            let robot = self.rng.random_range(robots);
            if let Some(slot) = self.slots.last_mut() {
                slot.speaker = robot;
            }
        }
    }

    fn slot(&mut self, scene: u32, at_ms: i64, line: usize, role: DialogueRole, kind: MessageKind) {
        self.slots.push(PlannedMessage {
            at_ms,
            scene,
            line: line as u16,
            role,
            speaker: self.scenes[scene as usize].cast[role.index()],
            kind,
            previous: None,
        });
    }

    /// Returns the time until the next message of a dialogue in milliseconds: mostly seconds,
    /// sometimes minutes.
    fn pause(&mut self) -> i64 {
        let chance: f64 = self.rng.random_range(0.05..1.0);
        (4_000.0 / chance.powf(1.6)) as i64 + self.rng.random_range(0..4_000)
    }
}
