//! Finds messages that break a company's rules, with the exact position of each match.
//!
//! This crate does not know where rule files are stored, who belongs to which department, the time,
//! or what happens to a violation. The caller passes texts and departments in and gets values back.
//!
//! | module | purpose |
//! |---|---|
//! | `source` | parses the text of rule files into definitions and collects all errors |
//! | `section` | reads a TOML table key by key, with the location of each error |
//! | `rule` | a rule, when it is active, how its version is computed |
//! | `kind` | the conditions that a rule can have besides words, one file for each kind |
//! | `scope` | whose messages a rule checks |
//! | `fold` | folds texts for comparison and maps positions back to the original |
//! | `matcher` | one automaton for the words of all active rules |
//! | `prefilter` | finds the positions at which a word may start |
//! | `set` | compiles rules together and checks a batch of messages |
//!
//! Guarantees:
//! - One pass over a message finds the words and allow phrases of all active rules, so the cost per
//!   message hardly depends on their number. Each other condition is a pass of its own, and only over
//!   messages in the scope of its rule.
//! - Every span is a range of Unicode scalar values in the *original* content, and `matched` is the
//!   original text of that range, even where folding changed its length.
//! - The same rules, message and directory give the same violations with the same ids.
//! - A rule set is compiled completely or not at all; a failure reports every error, not only the
//!   first.

mod error;
mod fold;
mod kind;
mod matcher;
mod prefilter;
mod quote;
mod rule;
mod scope;
mod section;
mod set;
mod source;

pub use error::{RuleError, SourceLocation};
pub use rule::{InactiveReason, Rule, RuleState};
pub use set::{Hit, MAX_HITS, RuleSet, compile};
pub use source::RuleFile;
