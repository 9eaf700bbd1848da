//! Reproducible randomness: every value comes from a generator identified by the seed, a purpose and
//! an index, so that any message can be generated without generating the preceding ones.
//!
//! Guarantee: the same (seed, purpose, index) gives the same values in every run of one build.
//! Not here: randomness from the operating system.

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// The purpose of a generator; two purposes never share a stream of values.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Purpose {
    /// Departments, people, rooms, secrets.
    Organisation = 1,
    /// Scenes of the backlog and their times.
    Plan,
    /// Scenes after the backlog and their times.
    LivePlan,
    /// Placeholders in the texts of a scene.
    Scene,
    /// Contents of a message.
    Message,
    /// Id of a message.
    MessageId,
    /// Key and padding that seal a message.
    Seal,
    /// RSA keys.
    Key,
    /// Damaged records and duplicates.
    RecordFaults,
    /// Failures of API calls, and tokens.
    Api,
    /// Gaps in `seq`.
    Sequence,
    /// Bytes of media files.
    Media,
}

/// Returns the generator of a purpose and an index.
pub fn generator(seed: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(purpose as u64).to_le_bytes());
    key[16..24].copy_from_slice(&index.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// Returns one number of a purpose and an index; cheaper than a generator.
pub fn number(seed: u64, purpose: Purpose, index: u64) -> u64 {
    let mut x = seed ^ (purpose as u64).rotate_left(48);
    x = mix(x).wrapping_add(index);
    mix(x)
}

/// The finaliser of SplitMix64: spreads every input bit over all output bits.
pub fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Returns one element of a list, which must not be empty.
pub fn pick<'a, T>(rng: &mut ChaCha8Rng, list: &'a [T]) -> &'a T {
    &list[rng.random_range(0..list.len())]
}

/// Returns true with a probability of one in `times`.
pub fn once_in(rng: &mut ChaCha8Rng, times: u32) -> bool {
    rng.random_range(0..times) == 0
}
