//! Finds the messages that break a company's rules, and says exactly which characters did.
//!
//! It does not know where rule files lie, who belongs to which department, what time it is or what
//! becomes of a violation: texts and answers are handed in, values come out.
//!
//! | module | what it holds |
//! |---|---|
//! | `source` | the text of a rule file, read into definitions with every error found |
//! | `section` | a TOML table, read key by key with the place of each error |
//! | `rule` | what a rule is, when it is active, what its version is a hash of |
//! | `scope` | whose conversations a rule watches |
//! | `fold` | the form in which words and messages are compared, and the way back |
//! | `matcher` | one automaton for the words of all rules |
//! | `openings` | where in a text one of them may begin |
//! | `set` | rules compiled together, and the check of a batch |
//!
//! What is promised:
//! - All words and allow phrases of all active rules are looked for in one pass, so the cost of a
//!   message hardly depends on how many there are.
//! - Every span is a range of Unicode scalar values of the *original* content, and `matched` is
//!   the original text of that range, however much folding changed it.
//! - The same rules, message and directory give the same violations, with the same ids.
//! - A rule set is compiled whole or not at all; a refusal names every error, not the first.

mod error;
mod fold;
mod matcher;
mod openings;
mod rule;
mod scope;
mod section;
mod set;
mod source;

pub use error::{Place, RuleError};
pub use rule::{Inactive, Rule, State};
pub use set::{Hit, MOST_HITS, RuleSet, compile};
pub use source::Source;
