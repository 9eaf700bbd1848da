//! Joins messages with the directory of a corp (names, kinds, departments), and merges directory
//! snapshots over time.
//!
//! This crate does not know where a snapshot comes from, when to take one, or where rows go: no
//! I/O, no clock, no WeCom API, no rules.
//!
//! | module | purpose |
//! |---|---|
//! | [`Directory`] (`index`) | looks up people and rooms and joins messages with them |
//! | `departments` | paths and ancestors in the department tree |
//! | `ids` | finds a row by its id without storing the id twice |
//! | [`merge`], [`changes`] (`history`) | merges and compares two snapshots |
//! | [`Assembler`] (`assembler`) | rebuilds a snapshot from its rows |
//! | `rows` | key of a row, and how a sync deactivates or updates it |
//!
//! # Invariants
//! - A [`Directory`] is immutable; a newer snapshot gets a new `Directory`.
//! - A row is never lost: [`merge`] marks it inactive and does not remove it.
//! - Snapshots from [`merge`] and [`Assembler::snapshot`] are canonical: each table is sorted by
//!   key and has each key once. Snapshots with the same content are therefore equal.

mod assembler;
mod departments;
mod history;
mod ids;
mod index;
mod rows;

pub use assembler::Assembler;
pub use history::{changes, merge};
pub use index::{Directory, Unresolved};
