//! Errors as ClickHouse reports them over HTTP: a code, a name, a text, and the code's HTTP status.
//!
//! Guarantees: [`Exception::status`] follows `src/Server/HTTP/exceptionCodeToHTTPStatus.cpp` of
//! ClickHouse 26.7, and the text reads `Code: N. DB::Exception: … (NAME)`, whether the engine
//! raised it or the front did.
//!
//! Not here: [`Error`](crate::Error), which is about the process, not about a request.

use hyper::StatusCode;

/// One failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exception {
    code: i32,
    text: String,
}

impl Exception {
    /// Makes an exception of the front: `code` and `name` as in ClickHouse's `ErrorCodes.cpp`.
    pub(crate) fn new(code: i32, name: &str, message: impl AsRef<str>) -> Self {
        Self {
            code,
            text: format!(
                "Code: {code}. DB::Exception: {}. ({name})",
                message.as_ref()
            ),
        }
    }

    /// 62: the text is not a statement.
    pub(crate) fn syntax(message: &str) -> Self {
        Self::new(62, "SYNTAX_ERROR", message)
    }

    /// 36: a parameter is invalid.
    pub(crate) fn bad_arguments(message: impl AsRef<str>) -> Self {
        Self::new(36, "BAD_ARGUMENTS", message)
    }

    /// 48: the embedded server does not support this.
    pub(crate) fn not_implemented(message: impl AsRef<str>) -> Self {
        Self::new(48, "NOT_IMPLEMENTED", message)
    }

    /// 27: the body cannot be read in the declared form.
    pub(crate) fn broken_body(message: impl AsRef<str>) -> Self {
        Self::new(27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED", message)
    }

    /// 1002: the front itself failed.
    pub(crate) fn internal(message: impl AsRef<str>) -> Self {
        Self::new(1002, "UNKNOWN_EXCEPTION", message)
    }

    /// Makes an exception of the engine's text. The client library inside the engine sometimes wraps the
    /// server's message in a second `Code: N. DB::Exception: … . (NAME)`, which is removed.
    pub(crate) fn from_engine(message: &str) -> Self {
        let message = message.trim_end();
        let Some(code) = code_of(message) else {
            return Self::internal(message);
        };
        let prefix = format!("Code: {code}. DB::Exception: ");
        let mut text = message;
        while let Some(inner) = text.strip_prefix(&prefix)
            && inner.starts_with(&prefix)
        {
            text = match inner.rfind(". (") {
                Some(end) if inner[..end].ends_with(')') => &inner[..end],
                _ => inner,
            };
        }
        let text = match text.rfind(" (version ") {
            Some(at) if text.ends_with(')') => &text[..at],
            _ => text,
        };
        Self {
            code,
            text: text.to_owned(),
        }
    }

    /// Returns the code, for `X-ClickHouse-Exception-Code`.
    pub(crate) fn code(&self) -> i32 {
        self.code
    }

    /// Returns the body of the response: the text, the engine's version, a line break.
    pub(crate) fn body(&self, version: &str) -> String {
        format!("{} (version {version})\n", self.text)
    }

    /// Returns ClickHouse's HTTP status for the code.
    pub(crate) fn status(&self) -> StatusCode {
        match self.code {
            // REQUIRED_PASSWORD
            194 => StatusCode::UNAUTHORIZED,
            // UNKNOWN_USER, WRONG_PASSWORD, ACCESS_DENIED, SET_NON_GRANTED_ROLE,
            // AUTHENTICATION_FAILED
            192 | 193 | 497 | 512 | 516 => StatusCode::FORBIDDEN,
            // BAD_ARGUMENTS, CANNOT_COMPILE_REGEXP
            36 | 427
            // CANNOT_PARSE_{TEXT, ESCAPE_SEQUENCE, QUOTED_STRING, INPUT_ASSERTION_FAILED, DATE,
            // DATETIME, NUMBER, UUID, DOMAIN_VALUE_FROM_STRING, IPV4, IPV6}
            | 6 | 25 | 26 | 27 | 38 | 41 | 72 | 376 | 441 | 675 | 676
            // THERE_IS_NO_COLUMN, DUPLICATE_COLUMN, ILLEGAL_COLUMN, TYPE_MISMATCH,
            // INCORRECT_DATA, VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
            | 8 | 15 | 44 | 53 | 117 | 321
            // UNKNOWN_ELEMENT_IN_AST, UNKNOWN_TYPE_OF_AST_NODE, SYNTAX_ERROR, TOO_DEEP_AST,
            // TOO_BIG_AST, UNEXPECTED_AST_STRUCTURE
            | 37 | 123 | 62 | 167 | 168 | 223 => StatusCode::BAD_REQUEST,
            // UNKNOWN_FUNCTION, UNKNOWN_IDENTIFIER, UNKNOWN_TYPE, UNKNOWN_STORAGE,
            // UNKNOWN_TABLE, UNKNOWN_AGGREGATE_FUNCTION, UNKNOWN_FORMAT, UNKNOWN_TYPE_OF_QUERY,
            // UNKNOWN_DATABASE, UNKNOWN_SETTING, UNKNOWN_DIRECTION_OF_SORTING,
            // UNKNOWN_DATABASE_ENGINE, UNKNOWN_ROLE
            46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 152 | 336 | 511 => {
                StatusCode::NOT_FOUND
            }
            // TIMEOUT_EXCEEDED
            159 => StatusCode::REQUEST_TIMEOUT,
            // HTTP_LENGTH_REQUIRED
            381 => StatusCode::LENGTH_REQUIRED,
            // QUERY_IS_TOO_LARGE
            229 => StatusCode::PAYLOAD_TOO_LARGE,
            // UNSUPPORTED_MEDIA_TYPE
            779 => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            // NOT_IMPLEMENTED
            48 => StatusCode::NOT_IMPLEMENTED,
            // CANNOT_OPEN_FILE, SOCKET_TIMEOUT, CANNOT_SCHEDULE_TASK
            76 | 209 | 439 => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

fn code_of(message: &str) -> Option<i32> {
    let digits = message.strip_prefix("Code: ")?;
    let end = digits.find('.')?;
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_wrapping_of_engine_messages_is_removed() {
        let wrapped = "Code: 115. DB::Exception: Code: 115. DB::Exception: Unknown setting 'x'. \
                       (UNKNOWN_SETTING) (version 26.7.2.1). (UNKNOWN_SETTING)";
        let exception = Exception::from_engine(wrapped);
        assert_eq!(exception.code(), 115);
        assert_eq!(
            exception.body("1.2"),
            "Code: 115. DB::Exception: Unknown setting 'x'. (UNKNOWN_SETTING) (version 1.2)\n"
        );
    }

    #[test]
    fn engine_messages_are_kept() {
        let plain = "Code: 60. DB::Exception: Table d.t does not exist. (UNKNOWN_TABLE)";
        let exception = Exception::from_engine(plain);
        assert_eq!(exception.status(), StatusCode::NOT_FOUND);
        assert_eq!(exception.body("1.2"), format!("{plain} (version 1.2)\n"));
    }

    #[test]
    fn messages_without_a_code_are_internal_errors() {
        let exception = Exception::from_engine("something");
        assert_eq!(exception.code(), 1002);
        assert_eq!(exception.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
