//! The server as its clients see it: real processes, the real engine, the real `clickhouse` crate.
//!
//! Needs libchdb (`deploy/local/fetch-libchdb`); without it every test fails with that message.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod clients;
mod delivery;
mod isolation;
mod lifecycle;
mod python;
mod support;
