//! What can fail, one variant for each operation, each with the class the driver acts on.
//!
//! No variant carries an address, a token, a secret, an id of a person or a text of a message.

use std::time::Duration;

use chatledger_schemas::{Classified, FaultClass};

use crate::Api;
use crate::errcode::{self, Verdict};

/// A failed operation on WeCom's APIs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The base address cannot be used.
    #[error("base address is not usable: {reason}")]
    BaseUrl {
        /// What is wrong with it.
        reason: String,
    },
    /// The number of records a page is outside what the API takes.
    #[error("{limit} records a page asked for, the API takes 1 to 1000")]
    Limit {
        /// What was asked for.
        limit: u32,
    },
    /// The HTTP client could not be made.
    #[error("cannot make an HTTP client")]
    Client {
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// No answer came: connection, TLS or time out.
    #[error("call of {api} got no answer")]
    Send {
        /// What was called.
        api: Api,
        /// Why, without the address.
        #[source]
        source: reqwest::Error,
    },
    /// The answer began and broke off.
    #[error("answer of {api} broke off")]
    Receive {
        /// What was called.
        api: Api,
        /// Why, without the address.
        #[source]
        source: reqwest::Error,
    },
    /// The answer is larger than anything reasonable and was not read to the end.
    #[error("answer of {api} is larger than {limit} bytes")]
    Oversize {
        /// What was called.
        api: Api,
        /// Bytes that would have been read.
        limit: usize,
    },
    /// The answer has an HTTP status other than success, and no errcode.
    #[error("{api} answered with HTTP status {status}")]
    Status {
        /// What was called.
        api: Api,
        /// The status.
        status: u16,
    },
    /// The answer is not of the documented form; most often it was cut.
    #[error("answer of {api} cannot be read at line {line}, column {column}")]
    Malformed {
        /// What was called.
        api: Api,
        /// Line of the fault, from 1; 0 if the fault has no place.
        line: usize,
        /// Column of the fault, from 1.
        column: usize,
    },
    /// The API answered with an errcode.
    #[error("{api} answered errcode {code}: {message}")]
    Refused {
        /// What was called.
        api: Api,
        /// `errcode`.
        code: i64,
        /// `errmsg`, cleaned; for people only.
        message: String,
        /// How long the API wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The API does not take a token that was renewed a moment ago.
    #[error("{api} answered errcode {code} to a fresh token")]
    TokenRefused {
        /// What was called.
        api: Api,
        /// `errcode`.
        code: i64,
    },
    /// A single record is larger than the API can answer with.
    #[error("{api} cannot answer with even one record")]
    RecordTooLarge {
        /// What was called.
        api: Api,
    },
    /// A page holds records, and of none of them can it be told where it belongs.
    #[error("page of {records} records has no readable seq beyond the one asked for")]
    NoReadableSeq {
        /// Records in the page.
        records: usize,
    },
    /// A list goes round in circles: the API hands out the same cursor again.
    #[error("{api} does not come to the end of its list")]
    EndlessList {
        /// What was called.
        api: Api,
    },
}

impl Error {
    /// How long to wait at least before the next call; `None` leaves it to the caller.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Oversize { .. } => Some(Duration::ZERO),
            _ => None,
        }
    }

    /// The `errcode`, if it was an answer that had one.
    pub fn errcode(&self) -> Option<i64> {
        match self {
            Self::Refused { code, .. } | Self::TokenRefused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether only the thing asked about is at fault, and the API works.
    pub(crate) fn is_about_item(&self) -> bool {
        matches!(self, Self::Refused { api, code, .. }
            if api.has_items() && errcode::verdict(*code) == Verdict::Item)
    }

    /// Whether a smaller question might be answered.
    pub(crate) fn wants_less(&self) -> bool {
        match self {
            Self::Refused { code, .. } => errcode::verdict(*code) == Verdict::TooLarge,
            Self::Oversize { .. } => true,
            _ => false,
        }
    }
}

impl Classified for Error {
    fn class(&self) -> FaultClass {
        match self {
            Self::BaseUrl { .. }
            | Self::Limit { .. }
            | Self::Client { .. }
            | Self::RecordTooLarge { .. }
            | Self::NoReadableSeq { .. } => FaultClass::Stop,
            // A renewed token that is not taken is known to pass after a while (`wecom-api` §8).
            Self::Send { .. }
            | Self::Receive { .. }
            | Self::Malformed { .. }
            | Self::TokenRefused { .. }
            | Self::EndlessList { .. } => FaultClass::Retry,
            Self::Oversize { .. } => FaultClass::SlowDown,
            Self::Status { status, .. } => match status {
                429 => FaultClass::SlowDown,
                408 | 425 | 500.. => FaultClass::Retry,
                _ => FaultClass::Stop,
            },
            Self::Refused { code, .. } => match errcode::verdict(*code) {
                Verdict::Fault(class) => class,
                Verdict::TooLarge => FaultClass::SlowDown,
                Verdict::Item => FaultClass::Stop,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(api: Api, code: i64) -> Error {
        Error::Refused {
            api,
            code,
            message: String::new(),
            retry_after: None,
        }
    }

    #[test]
    fn item_codes_stop_the_archive_and_not_the_directory() {
        let error = refused(Api::ChatData, 40058);
        assert!(!error.is_about_item());
        assert_eq!(error.class(), FaultClass::Stop);
        assert!(refused(Api::CustomerRoom, 90501).is_about_item());
        assert!(!refused(Api::CustomerRoom, 48002).is_about_item());
    }

    #[test]
    fn http_statuses_have_their_class() {
        let class = |status| {
            Error::Status {
                api: Api::ChatData,
                status,
            }
            .class()
        };
        assert_eq!(class(500), FaultClass::Retry);
        assert_eq!(class(503), FaultClass::Retry);
        assert_eq!(class(408), FaultClass::Retry);
        assert_eq!(class(429), FaultClass::SlowDown);
        assert_eq!(class(404), FaultClass::Stop);
        assert_eq!(class(302), FaultClass::Stop);
    }
}
