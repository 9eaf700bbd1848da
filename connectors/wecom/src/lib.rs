//! Speaks WeCom's HTTP APIs: pages of sealed records from the archive, and snapshots of who is who.
//!
//! It does not know how records are opened, where they go, when to try again after a failed page,
//! or that there is such a thing as a database.
//!
//! | module | holds |
//! |---|---|
//! | [`Archive`] | one page after a `seq`, one attempt; the driver owns the pauses |
//! | [`DirectoryClient`] | one whole snapshot, with its own bounded retries call by call |
//! | `envelope` | the archive's answer, read without copying a record |
//! | `errcode` | what every documented `errcode` means for the caller: the one table |
//! | `call`, `token`, `limits` | the rim: HTTP, access tokens, call budgets |
//!
//! Secrets and tokens are in no error and no log: they travel in addresses, so no address is ever
//! shown, and what a peer says about a failure is cleaned before it is kept.

use std::sync::Arc;

mod api;
mod archive;
mod call;
mod directory;
mod envelope;
mod errcode;
mod error;
mod limits;
mod loose;
mod redact;
mod token;

pub use api::Api;
pub use archive::{Archive, ArchiveOptions, Page};
pub use directory::{DirectoryClient, DirectoryOptions, Skipped};
pub use envelope::read_page;
pub use error::Error;

/// Told of every call: the API's name (one of [`Api::ALL`]) and how it went: `ok`, or the
/// [`FaultClass`](chatledger_schemas::FaultClass) as text. An answer that says something about one
/// item only (no such customer, not a customer group) is `ok`: the API did its work.
pub type OnCall = Arc<dyn Fn(&'static str, &'static str) + Send + Sync>;
