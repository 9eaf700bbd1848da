//! Client for WeCom's HTTP APIs: pages of sealed records from the archive, and directory snapshots.
//!
//! This crate does not know how records are opened, where they go, when to retry a failed page, or
//! which databases exist. `connectors/wecom/WECOM.md` lists the facts about WeCom that it relies on.
//!
//! | module | contains |
//! |---|---|
//! | [`Archive`] | fetches one page after a `seq` in one attempt; the driver decides when to retry |
//! | [`DirectoryClient`] | takes one complete snapshot; retries each call a bounded number of times |
//! | `envelope` | parses the archive's response without copying records |
//! | `errcode` | the only table that maps every documented `errcode` to an action |
//! | `call`, `token`, `limits` | HTTP exchanges, access tokens, rate limits |
//!
//! No error and no log contains a secret or a token. Both are sent in URLs, so URLs are never shown,
//! and the error text of a peer is redacted before it is kept.

use std::sync::Arc;

mod api;
mod archive;
mod call;
mod directory;
mod envelope;
mod errcode;
mod error;
mod lenient;
mod limits;
mod redact;
mod token;

pub use api::Api;
pub use archive::{Archive, ArchiveOptions, Page};
pub use directory::{DirectoryClient, DirectoryOptions, SkippedApi};
pub use envelope::read_page;
pub use error::Error;

/// Called after every API call with the name of the API (one of [`Api::ALL`]) and the result: `ok`, or
/// the [`FaultClass`](chatledger_schemas::FaultClass) as text. An errcode about a single item (no such
/// customer, not a customer group) counts as `ok`, because the API works.
pub type OnCall = Arc<dyn Fn(&'static str, &'static str) + Send + Sync>;
