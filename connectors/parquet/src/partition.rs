//! The directory of a row: `<table>/corp_id=…/dt=…`.
//!
//! The date is the message's date in its corp's time zone, so that a directory covers one local day.
//! Every `msgtime` has a date: values outside the years 1 to 9999 are clamped to the nearest date that
//! readers can parse.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::sync::Arc;

use chatledger_schemas::CorpId;
use chrono::{DateTime, Datelike, NaiveDate};
use chrono_tz::Tz;

/// The time zone of corps without one of their own, because WeCom is used in China.
pub const DEFAULT_ZONE: Tz = Tz::Asia__Shanghai;

/// The time zones of corps; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Zones(Arc<HashMap<CorpId, Tz>>);

impl Zones {
    /// Takes the time zones of the configured corps. Other corps (removed from the configuration while
    /// their messages were still being processed) have [`DEFAULT_ZONE`].
    pub fn new(zones: HashMap<CorpId, Tz>) -> Self {
        Self(Arc::new(zones))
    }

    fn of(&self, corp: &CorpId) -> Tz {
        self.0.get(corp).copied().unwrap_or(DEFAULT_ZONE)
    }

    /// Returns the name of a corp's time zone, by which its rows are divided into days.
    pub fn name(&self, corp: &CorpId) -> &'static str {
        self.of(corp).name()
    }

    /// Returns the local date of `msgtime` (milliseconds since the epoch, UTC; any value) at `corp`.
    pub(crate) fn date(&self, corp: &CorpId, msgtime: i64) -> NaiveDate {
        // One day inside the years 1 to 9999, so that no time zone's offset leads outside.
        const FIRST: i64 = -62_135_510_400_000; // 0001-01-02T00:00:00Z
        const LAST: i64 = 253_402_128_000_000; // 9999-12-30T00:00:00Z
        DateTime::from_timestamp_millis(msgtime.clamp(FIRST, LAST))
            .unwrap_or_default()
            .with_timezone(&self.of(corp))
            .date_naive()
    }
}

/// The tables that are written as files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ParquetTable {
    /// Messages.
    Messages,
    /// Rule violations.
    Violations,
}

impl ParquetTable {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Violations => "violations",
        }
    }
}

/// One directory of the layout. Ordered, so that the files of a batch always have the same order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartitionKey {
    pub(crate) table: ParquetTable,
    pub(crate) corp_id: CorpId,
    pub(crate) date: NaiveDate,
}

impl fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/corp_id={}/dt={:04}-{:02}-{:02}",
            self.table.as_str(),
            Escaped(self.corp_id.as_str()),
            self.date.year(),
            self.date.month(),
            self.date.day(),
        )
    }
}

/// Returns the directory of a corp's files of a table.
pub(crate) fn directory_of(table: ParquetTable, corp: &CorpId) -> String {
    format!("{}/corp_id={}", table.as_str(), Escaped(corp.as_str()))
}

/// A partition value in a path: everything except letters, digits, `-`, `_` and `.` is written as `%XX`
/// of its UTF-8 bytes, which every reader of Hive's layout decodes; the empty value has Hive's name for
/// it.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("__HIVE_DEFAULT_PARTITION__");
        }
        for byte in self.0.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                    f.write_char(char::from(byte))?;
                }
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn path(corp: &str, msgtime: i64, zone: Tz) -> String {
        let corp_id = CorpId::from(corp);
        let zones = Zones::new(HashMap::from([(corp_id.clone(), zone)]));
        let date = zones.date(&corp_id, msgtime);
        PartitionKey {
            table: ParquetTable::Messages,
            corp_id,
            date,
        }
        .to_string()
    }

    #[test]
    fn date_changes_at_the_corps_local_midnight() {
        let cases = [
            // 2024-02-29T15:59:59.999Z and a millisecond later: midnight in Shanghai.
            (1_709_222_399_999, Tz::Asia__Shanghai, "2024-02-29"),
            (1_709_222_400_000, Tz::Asia__Shanghai, "2024-03-01"),
            (1_709_222_400_000, Tz::UTC, "2024-02-29"),
            (1_709_222_400_000, Tz::America__New_York, "2024-02-29"),
            // Before and after a change to summer time, 2024-03-10T07:00Z in New York.
            (1_710_046_799_999, Tz::America__New_York, "2024-03-09"),
            (1_710_046_800_000, Tz::America__New_York, "2024-03-10"),
            (1_710_129_600_000, Tz::America__New_York, "2024-03-11"),
            (0, Tz::UTC, "1970-01-01"),
            (-1, Tz::UTC, "1969-12-31"),
        ];
        for (msgtime, zone, date) in cases {
            assert_eq!(
                path("ww1", msgtime, zone),
                format!("messages/corp_id=ww1/dt={date}"),
                "{msgtime} in {zone}"
            );
        }
    }

    #[test]
    fn date_of_any_number_can_be_parsed_by_readers() {
        for zone in [Tz::UTC, Tz::Pacific__Kiritimati, Tz::Etc__GMTPlus12] {
            for msgtime in [i64::MIN, i64::MIN + 1, i64::MAX, i64::MAX / 1000, -1 << 60] {
                let path = path("ww1", msgtime, zone);
                let date = path.rsplit('=').next().unwrap();
                assert!(
                    NaiveDate::parse_from_str(date, "%Y-%m-%d")
                        .is_ok_and(|d| (1..=9999).contains(&d.year())),
                    "{path}"
                );
                assert_eq!(date.len(), 10, "{path}");
            }
        }
    }

    #[test]
    fn corp_that_is_not_configured_has_the_default_zone() {
        let date = Zones::default().date(&CorpId::from("gone"), 1_709_222_400_000);
        assert_eq!(date, NaiveDate::from_ymd_opt(2024, 3, 1).unwrap());
    }

    #[test]
    fn partition_value_cannot_leave_its_directory() {
        let cases = [
            ("ww0123456789abcdef", "ww0123456789abcdef"),
            ("", "__HIVE_DEFAULT_PARTITION__"),
            ("..", ".."), // follows `corp_id=`, so it is no parent directory
            ("a/b\\c", "a%2Fb%5Cc"),
            ("a=b%2F", "a%3Db%252F"),
            ("企业", "%E4%BC%81%E4%B8%9A"),
            ("a b\0\n*?", "a%20b%00%0A%2A%3F"),
        ];
        for (value, escaped) in cases {
            assert_eq!(Escaped(value).to_string(), escaped);
        }
    }
}
