//! Classes of ClickHouse's exception codes.
//!
//! Codes and names are those of `src/Common/ErrorCodes.cpp`; a test compares them with the engine.
//! A code that is not listed is retried: the driver keeps the rows, and stopping for an unforeseen
//! code could turn a short disturbance into an outage.

use chatledger_schemas::FaultClass::{self, Retry, SlowDown, Stop};

/// Codes with their names and classes, in ascending order.
pub const CODES: &[(u32, &str, FaultClass)] = &[
    // The rows do not fit the tables: one of them has been changed.
    (6, "CANNOT_PARSE_TEXT", Stop),
    (10, "NOT_FOUND_COLUMN_IN_BLOCK", Stop),
    (16, "NO_SUCH_COLUMN_IN_TABLE", Stop),
    (20, "NUMBER_OF_COLUMNS_DOESNT_MATCH", Stop),
    (27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED", Stop),
    // The body did not arrive completely.
    (32, "ATTEMPT_TO_READ_AFTER_EOF", Retry),
    (33, "CANNOT_READ_ALL_DATA", Retry),
    (36, "BAD_ARGUMENTS", Stop),
    (43, "ILLEGAL_TYPE_OF_ARGUMENT", Stop),
    (44, "ILLEGAL_COLUMN", Stop),
    (46, "UNKNOWN_FUNCTION", Stop),
    (47, "UNKNOWN_IDENTIFIER", Stop),
    (48, "NOT_IMPLEMENTED", Stop),
    (49, "LOGICAL_ERROR", Retry),
    (50, "UNKNOWN_TYPE", Stop),
    (53, "TYPE_MISMATCH", Stop),
    // Two processes create the same table at once; the second finds it when it retries.
    (57, "TABLE_ALREADY_EXISTS", Retry),
    (60, "UNKNOWN_TABLE", Stop),
    (62, "SYNTAX_ERROR", Stop),
    (70, "CANNOT_CONVERT_TYPE", Stop),
    (73, "UNKNOWN_FORMAT", Stop),
    (74, "CANNOT_READ_FROM_FILE_DESCRIPTOR", Retry),
    (75, "CANNOT_WRITE_TO_FILE_DESCRIPTOR", Retry),
    (76, "CANNOT_OPEN_FILE", Retry),
    (80, "INCORRECT_QUERY", Stop),
    (81, "UNKNOWN_DATABASE", Stop),
    (82, "DATABASE_ALREADY_EXISTS", Retry),
    (115, "UNKNOWN_SETTING", Stop),
    (117, "INCORRECT_DATA", Stop),
    (158, "TOO_MANY_ROWS", Stop),
    (159, "TIMEOUT_EXCEEDED", Retry),
    (160, "TOO_SLOW", Retry),
    // The server or the table is read-only for a while.
    (164, "READONLY", Retry),
    (192, "UNKNOWN_USER", Stop),
    (193, "WRONG_PASSWORD", Stop),
    (194, "REQUIRED_PASSWORD", Stop),
    (195, "IP_ADDRESS_NOT_ALLOWED", Stop),
    (201, "QUOTA_EXCEEDED", SlowDown),
    (202, "TOO_MANY_SIMULTANEOUS_QUERIES", SlowDown),
    (203, "NO_FREE_CONNECTION", SlowDown),
    (209, "SOCKET_TIMEOUT", Retry),
    (210, "NETWORK_ERROR", Retry),
    (218, "TABLE_IS_DROPPED", Retry),
    (225, "NO_ZOOKEEPER", Retry),
    (236, "ABORTED", Retry),
    (241, "MEMORY_LIMIT_EXCEEDED", Retry),
    (242, "TABLE_IS_READ_ONLY", Retry),
    (243, "NOT_ENOUGH_SPACE", Retry),
    (252, "TOO_MANY_PARTS", Retry),
    (285, "TOO_FEW_LIVE_REPLICAS", Retry),
    (286, "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE", Retry),
    (289, "REPLICA_IS_NOT_IN_QUORUM", Retry),
    (291, "DATABASE_ACCESS_DENIED", Stop),
    (319, "UNKNOWN_STATUS_OF_INSERT", Retry),
    (349, "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN", Stop),
    (373, "SESSION_IS_LOCKED", Retry),
    (394, "QUERY_WAS_CANCELLED", Retry),
    (425, "SYSTEM_ERROR", Retry),
    (439, "CANNOT_SCHEDULE_TASK", SlowDown),
    (452, "SETTING_CONSTRAINT_VIOLATION", Stop),
    (469, "VIOLATED_CONSTRAINT", Stop),
    (473, "DEADLOCK_AVOIDED", Retry),
    (497, "ACCESS_DENIED", Stop),
    (499, "S3_ERROR", Retry),
    (516, "AUTHENTICATION_FAILED", Stop),
    (745, "SERVER_OVERLOADED", SlowDown),
    (774, "TABLE_IS_PERMANENTLY_READ_ONLY", Retry),
    (999, "KEEPER_EXCEPTION", Retry),
];

fn find(code: u32) -> Option<&'static (u32, &'static str, FaultClass)> {
    CODES
        .binary_search_by_key(&code, |(code, ..)| *code)
        .ok()
        .and_then(|index| CODES.get(index))
}

/// Returns the class of a code.
pub fn class(code: u32) -> FaultClass {
    find(code).map_or(Retry, |(_, _, class)| *class)
}

/// Returns the name of a code, or `not listed`. It is never taken from the server's text, which quotes
/// rows.
pub fn name(code: u32) -> &'static str {
    find(code).map_or("not listed", |(_, name, _)| name)
}

/// Reads the code from an exception's text, `Code: 60. DB::Exception: …`.
pub(crate) fn of(text: &str) -> Option<u32> {
    let digits = text.trim_start().strip_prefix("Code: ")?;
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_ascending_so_that_binary_search_finds_them() {
        assert!(CODES.is_sorted_by_key(|(code, ..)| *code));
        for (code, name_of_code, class_of_code) in CODES {
            assert_eq!((name(*code), class(*code)), (*name_of_code, *class_of_code));
        }
        assert_eq!((name(12345), class(12345)), ("not listed", Retry));
    }

    #[test]
    fn code_is_read_from_the_text() {
        let cases = [
            (
                "Code: 60. DB::Exception: Table x does not exist. (UNKNOWN_TABLE)",
                Some(60),
            ),
            ("Code: 516", Some(516)),
            ("Code: 516. ", Some(516)),
            ("502 Bad Gateway", None),
            ("<html>Code: 60.</html>", None),
            ("Code: 99999999999999999999. x", None),
            ("Code: x", None),
            ("", None),
        ];
        for (text, code) in cases {
            assert_eq!(of(text), code, "{text}");
        }
    }
}
