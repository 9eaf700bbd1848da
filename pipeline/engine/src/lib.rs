//! Moves records through the stages and into the sinks, each exactly once as a reader sees it.
//!
//! It does not know WeCom, Kafka, ClickHouse or Parquet: it speaks to them through the traits in
//! [`ports`], which the application fills in.
//!
//! | module | what | pure |
//! |---|---|---|
//! | [`stages`] | open, decode, join, match over one batch | yes |
//! | [`letters`] | which dead letters are open | yes |
//! | [`requests`] | what is requester for about dead letters | yes |
//! | [`window`] | recognises a message that the source gives a second time | yes |
//! | [`chain`] | extends the hash chain over what was pulled | yes |
//! | [`audit`] | shows that every record is in exactly one place, and as it was written | yes |
//! | [`lane`] | decides what to write, what to write down before, and what to repeat | yes |
//! | [`mark`] | decides whether to believe what a sink itself says of a lane's position | yes |
//! | [`delivery`] | carries these decisions out against a sink and a journal | no |
//! | [`pull`] | reads an archive page by page | no |
//! | [`direct`] | the driver for one process: the archive itself is the log | no |
//! | [`kafka`] | the driver for many: every stage a consumer group | no |
//! | [`directory_sync`] | keeps the directory fresh, in both drivers | no |
//! | [`shared`] | the present directory and rules, counts, progress | no |
//!
//! The guarantee, and how each part carries it, is told in [`lane`].

pub mod audit;
pub mod batch;
pub mod chain;
pub mod dead_letter_index;
pub mod dead_letter_requests;
pub mod delivery;
pub mod direct;
pub mod directory_sync;
pub mod failpoint;
pub mod fault;
pub mod kafka;
pub mod lane;
pub mod metrics;
pub mod ports;
pub mod pull;
pub mod shared;
pub mod sink;
pub mod sink_checkpoint;
pub mod stages;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod window;
