//! Errors of this crate, one variant for each operation, each with the class that the driver acts on.
//!
//! No variant contains a URL, a token, a secret, an id of a person or text of a message.

use std::time::Duration;

use chatledger_schemas::{Classified, FaultClass};

use crate::Api;
use crate::errcode::{self, ErrcodeClass};

/// A failed operation on WeCom's APIs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The base URL is invalid.
    #[error("invalid base URL: {reason}")]
    BaseUrl {
        /// What is wrong with it.
        reason: String,
    },
    /// The number of records in a page is out of range.
    #[error("page limit is {limit}; the API accepts 1 to 1000 records")]
    Limit {
        /// The requested limit.
        limit: u32,
    },
    /// The HTTP client could not be created.
    #[error("cannot create the HTTP client")]
    Client {
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// No response: connection failure, TLS failure or timeout.
    #[error("no response from {api}")]
    Send {
        /// The API called.
        api: Api,
        /// The cause, without the URL.
        #[source]
        source: reqwest::Error,
    },
    /// The response ended before it was complete.
    #[error("incomplete response from {api}")]
    Receive {
        /// The API called.
        api: Api,
        /// The cause, without the URL.
        #[source]
        source: reqwest::Error,
    },
    /// The response exceeds the size limit and was not read to the end.
    #[error("response from {api} is larger than {limit} bytes")]
    Oversize {
        /// The API called.
        api: Api,
        /// The size limit in bytes.
        limit: usize,
    },
    /// The HTTP status is not success, and the body has no errcode.
    #[error("{api} returned HTTP status {status}")]
    Status {
        /// The API called.
        api: Api,
        /// The HTTP status.
        status: u16,
    },
    /// The response does not have the documented form; usually it is truncated.
    #[error("cannot parse the response from {api} at line {line}, column {column}")]
    Malformed {
        /// The API called.
        api: Api,
        /// Line of the error, from 1; 0 if it has no position.
        line: usize,
        /// Column of the error, from 1.
        column: usize,
    },
    /// The response is JSON, but not of this API; usually that of a gateway that cannot reach WeCom.
    #[error(
        "the response from {api} has neither an errcode nor the fields of this API; WeCom did not send it"
    )]
    NotAnAnswer {
        /// The API called.
        api: Api,
    },
    /// The API returned an errcode.
    #[error("{api} returned errcode {code}: {message}")]
    Refused {
        /// The API called.
        api: Api,
        /// `errcode`.
        code: i64,
        /// `errmsg`, redacted; for display only.
        message: String,
        /// How long to wait before the next call.
        retry_after: Option<Duration>,
    },
    /// The API rejected a token that was just renewed.
    #[error("{api} returned errcode {code} for a new access token")]
    TokenRefused {
        /// The API called.
        api: Api,
        /// `errcode`.
        code: i64,
    },
    /// A single record is larger than the API can return.
    #[error("{api} cannot return a page of one record")]
    RecordTooLarge {
        /// The API called.
        api: Api,
    },
    /// A page holds a record without a `seq`, and no other record of the page can supply one.
    #[error("page of {records} records has no readable seq after the requested one")]
    NoReadableSeq {
        /// Records in the page.
        records: usize,
    },
    /// A paged list does not end: the API returned the same cursor again, or too many empty pages.
    #[error("the list of {api} does not end")]
    EndlessList {
        /// The API called.
        api: Api,
    },
}

impl Error {
    /// Returns the minimum time to wait before the next call; `None` leaves it to the caller.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Oversize { .. } => Some(Duration::ZERO),
            _ => None,
        }
    }

    /// Returns the `errcode`, if the API returned one.
    pub fn errcode(&self) -> Option<i64> {
        match self {
            Self::Refused { code, .. } | Self::TokenRefused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Returns whether the error concerns only the requested item, so the API works.
    pub(crate) fn is_about_item(&self) -> bool {
        matches!(self, Self::Refused { api, code, .. }
            if api.has_items() && errcode::classify(*code) == ErrcodeClass::Item)
    }

    /// Returns whether a smaller request might succeed.
    pub(crate) fn is_response_too_large(&self) -> bool {
        match self {
            Self::Refused { code, .. } => errcode::classify(*code) == ErrcodeClass::TooLarge,
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
            // The rejection of a new token is known to stop after a while
            // (`connectors/wecom/WECOM.md` §8).
            Self::Send { .. }
            | Self::Receive { .. }
            | Self::Malformed { .. }
            | Self::NotAnAnswer { .. }
            | Self::TokenRefused { .. }
            | Self::EndlessList { .. } => FaultClass::Retry,
            Self::Oversize { .. } => FaultClass::SlowDown,
            Self::Status { status, .. } => match status {
                429 => FaultClass::SlowDown,
                408 | 425 | 500.. => FaultClass::Retry,
                _ => FaultClass::Stop,
            },
            Self::Refused { code, .. } => match errcode::classify(*code) {
                ErrcodeClass::Fault(class) => class,
                ErrcodeClass::TooLarge => FaultClass::SlowDown,
                ErrcodeClass::Item => FaultClass::Stop,
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
    fn item_errcodes_stop_the_archive_but_not_the_directory() {
        let error = refused(Api::ChatData, 40058);
        assert!(!error.is_about_item());
        assert_eq!(error.class(), FaultClass::Stop);
        assert!(refused(Api::CustomerRoom, 90501).is_about_item());
        assert!(!refused(Api::CustomerRoom, 48002).is_about_item());
    }

    #[test]
    fn http_statuses_are_classified() {
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
