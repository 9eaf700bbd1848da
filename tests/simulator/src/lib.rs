//! A simulated WeCom tenant: people, conversations and rules generated from a seed, an archive and
//! a directory served like WeCom's, and the expected results for tests to compare with.
//!
//! This crate does not know chatledger: it shares no code with the program under test.
//!
//! | module | what |
//! |---|---|
//! | [`options`], [`random`] | the inputs of a tenant |
//! | [`org`], [`texts`], [`rhythm`], [`plan`] | people, texts, times, and which message is sent when |
//! | [`kind`], [`render`], [`media`] | messages as JSON |
//! | [`seal`], [`faults`] | sealed records, valid and damaged |
//! | [`rules`], [`scanner`], [`truth`] | the expected results |
//! | [`tenant`] | every message and record by its number |
//! | [`layout`], [`server`] | on disk and over HTTP |

pub mod faults;
pub mod kind;
pub mod layout;
pub mod media;
pub mod options;
pub mod org;
pub mod plan;
pub mod random;
pub mod render;
pub mod rhythm;
pub mod rules;
pub mod scanner;
pub mod seal;
pub mod server;
pub mod tenant;
pub mod texts;
pub mod truth;
