//! Randomness that is a function of its place: every draw comes from a generator named by the seed,
//! what it is for and an index, so that any message can be made again without making those before it.
//!
//! Guarantee: the same (seed, purpose, index) gives the same draws in every run of one build.
//! Deliberately not here: anything from the operating system.

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// What a generator is for; two purposes never share a stream.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Purpose {
    /// Departments, people, rooms, secrets.
    Organisation = 1,
    /// Which scene plays when, in the backlog.
    Plan,
    /// Which scene plays when, after the backlog.
    LivePlan,
    /// What a scene is about.
    Scene,
    /// What a message looks like.
    Message,
    /// Its id.
    MessageId,
    /// The key and padding that seal it.
    Seal,
    /// RSA keys.
    Key,
    /// Which records are spoilt, which come twice.
    Spoil,
    /// Which API calls fail.
    Api,
    /// Gaps in `seq`.
    Sequence,
    /// Bytes of media files.
    Media,
}

/// The generator of one place.
pub fn generator(seed: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(purpose as u64).to_le_bytes());
    key[16..24].copy_from_slice(&index.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// One number of a place, where a whole generator would be too much.
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

/// One element of a list that is not empty.
pub fn pick<'a, T>(rng: &mut ChaCha8Rng, list: &'a [T]) -> &'a T {
    &list[rng.random_range(0..list.len())]
}

/// Yes, once in so many times.
pub fn once_in(rng: &mut ChaCha8Rng, times: u32) -> bool {
    rng.random_range(0..times) == 0
}
