//! What can go wrong, one variant per operation, and what the driver should do about it.

use std::error::Error as StdError;
use std::io;

use chatledger_schemas::{Classified, FaultClass};
use clickhouse::error::Error as ClientError;

use crate::code;

/// A failed operation of this connector. No variant holds row values or credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configured address cannot be used; the text says why.
    #[error("the ClickHouse address cannot be used: {0}")]
    Url(&'static str),
    /// An `https` address needs root certificates, and the system has none that can be read.
    #[error("cannot load the system's root certificates")]
    Certificates(#[source] io::Error),
    /// What was given as authorities' certificates is none, or rustls refuses it.
    #[error("no certificate of an authority: {0}")]
    Roots(&'static str),
    /// The server gave no good answer to a question without consequences.
    #[error("ClickHouse does not answer as it should")]
    Ping(#[source] Fault),
    /// The database is not there and could not be made.
    #[error("cannot create the database {database}")]
    CreateDatabase {
        /// Its name.
        database: String,
        /// Why.
        source: Fault,
    },
    /// It could not be found out which schema the database has.
    #[error("cannot read the schema version of the database {database}")]
    ReadVersion {
        /// Its name.
        database: String,
        /// Why.
        source: Fault,
    },
    /// The database has a schema made by an older program, or none.
    #[error(
        "the database has schema {found}, this program wants {known}: run `chatledger migrate`"
    )]
    SchemaTooOld {
        /// What it has; 0 if none.
        found: u32,
        /// What the program writes and reads.
        known: u32,
    },
    /// The database has a schema made by a newer program.
    #[error("the database has schema {found}, this program knows schemas up to {known}")]
    SchemaTooNew {
        /// What the database has.
        found: u32,
        /// What this program knows.
        known: u32,
    },
    /// A step of the schema could not be applied; steps may be applied again.
    #[error("cannot apply migration {version} ({name})")]
    Migrate {
        /// The step's number.
        version: u32,
        /// What it is about.
        name: &'static str,
        /// Why.
        source: Fault,
    },
    /// A table could not be read for an audit.
    #[error("cannot read {table}")]
    Audit {
        /// The table.
        table: &'static str,
        /// Why.
        source: Fault,
    },
    /// It could not be found out what a table holds.
    #[error("cannot look into {table}")]
    Look {
        /// The table.
        table: &'static str,
        /// Why.
        source: Fault,
    },
    /// Rows could not be inserted, or it is not known whether they were. Inserting them again under
    /// the same token is right in both cases.
    #[error("cannot insert {rows} rows into {table}")]
    Insert {
        /// The table.
        table: &'static str,
        /// How many rows the insert had.
        rows: usize,
        /// Why.
        source: Fault,
    },
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// ClickHouse answered with an exception.
    #[error("ClickHouse answered with exception {code} ({name})")]
    Exception {
        /// Its number.
        code: u32,
        /// Its name in ClickHouse; `not listed` if this program does not know the number.
        name: &'static str,
    },
    /// Something answered, but not as ClickHouse does: a proxy, or another service.
    #[error("the answer is not ClickHouse's{}", status.map(|s| format!(", HTTP status {s}")).unwrap_or_default())]
    Foreign {
        /// The HTTP status, where it is known.
        status: Option<u16>,
    },
    /// The connection could not be made or broke.
    #[error("the connection failed")]
    Connection(#[source] Box<dyn StdError + Send + Sync>),
    /// The answer did not come within the timeout.
    #[error("no answer within the timeout")]
    TimedOut,
    /// The table is not of the form this program writes. The text names columns only.
    #[error("the table has another form: {0}")]
    Form(String),
    /// The client could not make the request or read the answer.
    #[error("the exchange broke the protocol: {0}")]
    Protocol(&'static str),
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Network(source) => Self::Connection(source),
            ClientError::TimedOut => Self::TimedOut,
            ClientError::BadResponse(text) => match code::of(&text) {
                Some(code) => Self::Exception {
                    code,
                    name: code::name(code),
                },
                None => Self::Foreign {
                    status: text.get(..3).and_then(|status| status.parse().ok()),
                },
            },
            // The client's own text, made from the column lists of table and row type.
            ClientError::SchemaMismatch(text) => Self::Form(text.replace('\n', " ")),
            ClientError::InvalidParams(_) => Self::Protocol("bad parameters"),
            ClientError::NotEnoughData => Self::Protocol("the answer ended early"),
            ClientError::InvalidUtf8Encoding(_) => Self::Protocol("text is not UTF-8"),
            ClientError::RowNotFound => Self::Protocol("no row where one was due"),
            ClientError::InvalidColumnsHeader(_) => Self::Protocol("unreadable column list"),
            ClientError::Compression(_) | ClientError::Decompression(_) => {
                Self::Protocol("compression")
            }
            ClientError::Unsupported(_) => Self::Protocol("not supported by the client"),
            // The rest may quote values in its text.
            _ => Self::Protocol("a row or an answer could not be coded"),
        }
    }
}

impl Fault {
    /// What the caller should do about it.
    pub fn class(&self) -> FaultClass {
        match self {
            Self::Exception { code, .. } => code::class(*code),
            Self::Foreign { status: Some(429) } => FaultClass::SlowDown,
            Self::Form(_)
            | Self::Foreign {
                status: Some(401 | 403 | 407),
            } => FaultClass::Stop,
            Self::Foreign { .. } | Self::Connection(_) | Self::TimedOut | Self::Protocol(_) => {
                FaultClass::Retry
            }
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
            | Self::Look { source, .. }
            | Self::Insert { source, .. } => source.class(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> Fault {
        ClientError::BadResponse(text.into()).into()
    }

    #[test]
    fn exception_text_with_row_values_is_not_kept() {
        let fault = fault(
            "Code: 53. DB::Exception: Type mismatch: 加我微信 (SECRET_NAME). (TYPE_MISMATCH) (version 26.7)",
        );
        let error = Error::Insert {
            table: "messages",
            rows: 1,
            source: fault,
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
    fn answer_of_something_else_is_told_by_its_status() {
        let cases = [
            ("502 Bad Gateway", Some(502), FaultClass::Retry),
            ("403 Forbidden", Some(403), FaultClass::Stop),
            ("429 Too Many Requests", Some(429), FaultClass::SlowDown),
            ("<html>down for maintenance</html>", None, FaultClass::Retry),
            ("错误", None, FaultClass::Retry),
        ];
        for (text, status, class) in cases {
            let fault = fault(text);
            assert!(
                matches!(fault, Fault::Foreign { status: s } if s == status),
                "{text}"
            );
            assert_eq!(fault.class(), class, "{text}");
            assert!(!fault.to_string().contains("maintenance"));
        }
    }
}
