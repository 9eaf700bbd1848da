//! Errors, one variant per operation, and their classes.

use std::error::Error as StdError;
use std::io;

use chatledger_schemas::{Classified, FaultClass};
use clickhouse::error::Error as ClientError;

use crate::code;

/// A failed operation of this connector. No variant holds row values or credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configured address is invalid; the text says why.
    #[error("the ClickHouse address is invalid: {0}")]
    Url(&'static str),
    /// The system's root certificates, needed for an `https` address, cannot be read.
    #[error("cannot load the system's root certificates")]
    Certificates(#[source] io::Error),
    /// The configured certificates of authorities cannot be used.
    #[error("the certificates of authorities cannot be used: {0}")]
    Roots(&'static str),
    /// The server did not answer `SELECT 1`.
    #[error("ClickHouse does not answer as expected")]
    Ping(#[source] RequestError),
    /// The database does not exist and could not be created.
    #[error("cannot create the database {database}")]
    CreateDatabase {
        /// The database.
        database: String,
        /// The cause.
        source: RequestError,
    },
    /// The version of the database's schema could not be read.
    #[error("cannot read the schema version of the database {database}")]
    ReadVersion {
        /// The database.
        database: String,
        /// The cause.
        source: RequestError,
    },
    /// The database has an older schema than this program, or none.
    #[error(
        "the database has schema {found}, this program needs {known}: run `chatledger migrate`"
    )]
    SchemaTooOld {
        /// The database's version; 0 if it has none.
        found: u32,
        /// This program's version.
        known: u32,
    },
    /// The database has a newer schema than this program.
    #[error("the database has schema {found}, this program knows schemas up to {known}")]
    SchemaTooNew {
        /// The database's version.
        found: u32,
        /// This program's version.
        known: u32,
    },
    /// A migration could not be applied. Applying it again is safe.
    #[error("cannot apply migration {version} ({name})")]
    Migrate {
        /// Its number.
        version: u32,
        /// Its name.
        name: &'static str,
        /// The cause.
        source: RequestError,
    },
    /// A table could not be read for an audit.
    #[error("cannot read {table}")]
    Audit {
        /// The table.
        table: &'static str,
        /// The cause.
        source: RequestError,
    },
    /// A table could not be queried.
    #[error("cannot query {table}")]
    Query {
        /// The table.
        table: &'static str,
        /// The cause.
        source: RequestError,
    },
    /// Rows could not be inserted, or it is unknown whether they were. In both cases, insert them
    /// again with the same token.
    #[error("cannot insert {rows} rows into {table}")]
    Insert {
        /// The table.
        table: &'static str,
        /// Number of rows sent.
        rows: usize,
        /// The cause.
        source: RequestError,
    },
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// ClickHouse answered with an exception.
    #[error("ClickHouse answered with exception {code} ({name})")]
    Exception {
        /// Its code.
        code: u32,
        /// Its name in ClickHouse; `not listed` if this program does not know the code.
        name: &'static str,
    },
    /// The answer is not from ClickHouse but, for example, from a proxy or another service.
    #[error("the answer is not from ClickHouse{}", status.map(|s| format!(", HTTP status {s}")).unwrap_or_default())]
    NotClickHouse {
        /// The HTTP status, if known.
        status: Option<u16>,
    },
    /// The connection could not be established, or it broke.
    #[error("the connection failed")]
    Connection(#[source] Box<dyn StdError + Send + Sync>),
    /// The timeout elapsed before the answer was complete.
    #[error("no answer within the timeout")]
    TimedOut,
    /// The table's columns do not match the rows. The text names columns only.
    #[error("the columns of the table do not match: {0}")]
    TableMismatch(String),
    /// The client could not build the request or read the answer.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
}

impl From<ClientError> for RequestError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Network(source) => Self::Connection(source),
            ClientError::TimedOut => Self::TimedOut,
            ClientError::BadResponse(text) => match code::of(&text) {
                Some(code) => Self::Exception {
                    code,
                    name: code::name(code),
                },
                None => Self::NotClickHouse {
                    status: text.get(..3).and_then(|status| status.parse().ok()),
                },
            },
            // The client's own text, made from the columns of the table and of the row type.
            ClientError::SchemaMismatch(text) => Self::TableMismatch(text.replace('\n', " ")),
            ClientError::InvalidParams(_) => Self::Protocol("bad parameters"),
            ClientError::NotEnoughData => Self::Protocol("the answer ended early"),
            ClientError::InvalidUtf8Encoding(_) => Self::Protocol("text is not UTF-8"),
            ClientError::RowNotFound => Self::Protocol("no row where one was expected"),
            ClientError::InvalidColumnsHeader(_) => Self::Protocol("unreadable column list"),
            ClientError::Compression(_) | ClientError::Decompression(_) => {
                Self::Protocol("compression")
            }
            ClientError::Unsupported(_) => Self::Protocol("not supported by the client"),
            // The texts of the other errors may quote values.
            _ => Self::Protocol("a row or an answer could not be encoded or decoded"),
        }
    }
}

impl RequestError {
    /// Returns what the caller should do.
    pub fn class(&self) -> FaultClass {
        match self {
            Self::Exception { code, .. } => code::class(*code),
            Self::NotClickHouse { status: Some(429) } => FaultClass::SlowDown,
            Self::TableMismatch(_)
            | Self::NotClickHouse {
                status: Some(401 | 403 | 407),
            } => FaultClass::Stop,
            Self::NotClickHouse { .. }
            | Self::Connection(_)
            | Self::TimedOut
            | Self::Protocol(_) => FaultClass::Retry,
        }
    }
}

impl Classified for Error {
    fn class(&self) -> FaultClass {
        match self {
            Self::Url(_)
            | Self::Certificates(_)
            | Self::Roots(_)
            | Self::SchemaTooNew { .. }
            | Self::SchemaTooOld { .. } => FaultClass::Stop,
            Self::Ping(source)
            | Self::CreateDatabase { source, .. }
            | Self::ReadVersion { source, .. }
            | Self::Migrate { source, .. }
            | Self::Audit { source, .. }
            | Self::Query { source, .. }
            | Self::Insert { source, .. } => source.class(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request_error(text: &str) -> RequestError {
        ClientError::BadResponse(text.into()).into()
    }

    #[test]
    fn exception_text_with_row_values_is_dropped() {
        let error = request_error(
            "Code: 53. DB::Exception: Type mismatch: 加我微信 (SECRET_NAME). (TYPE_MISMATCH) (version 26.7)",
        );
        let error = Error::Insert {
            table: "messages",
            rows: 1,
            source: error,
        };
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("TYPE_MISMATCH"), "{shown}");
        assert!(
            !shown.contains("微信") && !shown.contains("SECRET"),
            "{shown}"
        );
        assert_eq!(error.class(), FaultClass::Stop);
    }

    #[test]
    fn answer_of_another_service_is_classified_by_its_status() {
        let cases = [
            ("502 Bad Gateway", Some(502), FaultClass::Retry),
            ("403 Forbidden", Some(403), FaultClass::Stop),
            ("429 Too Many Requests", Some(429), FaultClass::SlowDown),
            ("<html>down for maintenance</html>", None, FaultClass::Retry),
            ("错误", None, FaultClass::Retry),
        ];
        for (text, status, class) in cases {
            let error = request_error(text);
            assert!(
                matches!(error, RequestError::NotClickHouse { status: s } if s == status),
                "{text}"
            );
            assert_eq!(error.class(), class, "{text}");
            assert!(!error.to_string().contains("maintenance"));
        }
    }
}
