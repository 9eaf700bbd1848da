//! Classification of failures of external systems.
//!
//! Each connector assigns a class to its errors. Drivers match on the class, never on the error
//! text.

use std::fmt;

/// How a driver reacts to a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultClass {
    /// Temporary: retry with exponential backoff and jitter.
    Retry,
    /// Credentials have expired or an assignment was lost: obtain a new token or rejoin the group,
    /// then retry.
    Refresh,
    /// The peer limits the rate or size: wait for its rate-limit window, or send smaller requests.
    SlowDown,
    /// An operator has to act (permission, address allow list, wrong secret, wrong schema): stop
    /// this part and report it. A retry cannot succeed or makes matters worse.
    Stop,
}

impl FaultClass {
    /// Returns the value of the metric label `errcode_class`.
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

/// An error with a [`FaultClass`].
pub trait Classified: std::error::Error + Send + Sync + 'static {
    /// Returns how the caller should react.
    fn class(&self) -> FaultClass;
}
