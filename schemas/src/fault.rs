//! What to do when somebody else's system fails, decided once at the connector.
//!
//! Every connector error says its class; drivers match on the class and never on a text.

use std::fmt;

/// The one decision a driver has to take about a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultClass {
    /// Passing: try again after a growing, jittered pause.
    Retry,
    /// Credentials have run out, or what was held has gone to somebody else: get them anew (a token,
    /// a place in a group), then try again.
    Refresh,
    /// The peer asks for less: wait for its window, or send smaller requests.
    SlowDown,
    /// Somebody has to act (permission, address list, wrong secret, wrong schema): stop this part
    /// and say so loudly; trying again changes nothing or makes it worse.
    Stop,
}

impl FaultClass {
    /// The value of the metric label `errcode_class`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Refresh => "refresh",
            Self::SlowDown => "slow_down",
            Self::Stop => "stop",
        }
    }
}

impl fmt::Display for FaultClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error that knows its class.
pub trait Classified: std::error::Error + Send + Sync + 'static {
    /// What the caller should do about it.
    fn class(&self) -> FaultClass;
}
