//! The kafka driver on a log in memory: source, process and sinks in several processes that die,
//! freeze, return and lose their partitions, with faults at every call.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod check;
mod cluster;
mod corps;
mod log;
mod planted;
mod property;
mod recovery;
