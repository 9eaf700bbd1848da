//! Knows who is who at one moment: joins names, kinds and departments to messages, and keeps that
//! knowledge together over time (what is new, what has changed, what has gone).
//!
//! It does not know where a snapshot comes from, when to take one, or where rows go: no I/O, no
//! clock, no WeCom API, no rules.
//!
//! | module | knows |
//! |---|---|
//! | [`Directory`] (`index`) | looking up people and rooms, joining them to messages |
//! | `departments` | the tree of departments: paths, ancestors |
//! | `ids` | finding a row by its id without keeping the id twice |
//! | [`merge`], [`changes`] (`history`) | comparing two snapshots |
//! | [`Assembler`] (`assembler`) | a snapshot from its rows, as they arrive |
//! | `rows` | what identifies a row, and what becomes of one that has gone |
//!
//! # Invariants
//! - A [`Directory`] never changes; a newer snapshot is another `Directory`.
//! - A row that was known once stays known: [`merge`] marks it inactive and never drops it.
//! - Snapshots made here ([`merge`], [`Assembler::snapshot`]) are canonical: tables sorted by key,
//!   each key once. So equal knowledge is equal snapshots.

mod assembler;
mod departments;
mod history;
mod ids;
mod index;
mod rows;

pub use assembler::Assembler;
pub use history::{changes, merge};
pub use index::{Directory, Unresolved};
