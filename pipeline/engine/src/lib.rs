//! Moves records through the stages and into the sinks, so that a reader sees each exactly once.
//!
//! The engine knows no archive and no sink by name, and no client of Kafka. It uses them through the
//! traits in
//! [`ports`] and through the [`sink`]s that the application passes in.
//!
//! | module | what | pure |
//! |---|---|---|
//! | [`stages`] | open, decode, join, match over one batch | yes |
//! | [`batch`] | the rows made from consecutive records, and the range they cover | yes |
//! | [`window`] | recognises a message that the archive returns a second time | yes |
//! | [`chain`] | extends the hash chain over what was pulled | yes |
//! | [`dead_letter_index`] | which dead letters are open | yes |
//! | [`dead_letter_requests`] | requests about dead letters, and their counts | yes |
//! | [`lane`] | decides what to write, what to record before, and what to write again | yes |
//! | [`sink_checkpoint`] | decides whether to trust a position that a sink has stored | yes |
//! | [`audit`] | shows that every record is in a sink exactly once, as it was written | yes |
//! | [`ports`] | the interfaces to the outside | yes |
//! | [`sink`] | a sink as one value | yes |
//! | [`fault`] | failures of other systems, and when to retry | no |
//! | [`delivery`] | carries out the decisions of a lane against a sink and a journal | no |
//! | [`clock`] | the clocks of this machine, and how long an archive was silent | no |
//! | [`pull`] | reads an archive page by page | no |
//! | [`direct`] | the driver for one process: the archive itself is the log | no |
//! | [`kafka`] | the driver for many processes: every stage is a consumer group | no |
//! | [`directory_sync`] | keeps the directory current, in both drivers | no |
//! | [`shared`] | the current directory and rules, counts, progress | no |
//! | [`metrics`] | every metric | no |
//! | [`failpoint`] | where the crash matrix kills the process | no |
//!
//! [`lane`] states the guarantee, and [`delivery`] the steps that keep it.

pub mod audit;
pub mod batch;
pub mod chain;
pub mod clock;
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
