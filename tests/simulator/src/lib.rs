//! A WeCom tenant in a box: people, conversations and rules made from a seed, an archive and a
//! directory served like WeCom's, and the truth about all of it for tests to compare with.
//!
//! This crate knows nothing of chatledger: it shares no code with what is tested against it.
//!
//! | module | what |
//! |---|---|
//! | [`options`], [`random`] | what a tenant is made from |
//! | [`org`], [`texts`], [`rhythm`], [`plan`] | who, what, when |
//! | [`kind`], [`render`], [`media`] | messages as JSON |
//! | [`seal`], [`faults`] | records as the archive gives them, good and bad |
//! | [`rules`], [`scanner`], [`truth`] | what must come out |
//! | [`tenant`] | all of it, by number |
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
