//! What an `errcode` means for the caller: the one table (`wecom-api` §5.8, doc 90313).
//!
//! Decisions go by the number alone, never by `errmsg`, which may change at any time.

use std::time::Duration;

use chatledger_schemas::FaultClass;

/// The caller has no privilege for the thing asked about, or for the API as a whole.
pub(crate) const NO_PRIVILEGE: i64 = 60011;
/// Too many calls in the window.
const RATE: i64 = 45009;
/// Too many calls at once.
const CONCURRENCY: i64 = 45033;

/// What to do about an errcode other than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The call as a whole has failed.
    Fault(FaultClass),
    /// The answer would be too large: ask for fewer.
    TooLarge,
    /// Only the thing asked about is at fault; the API works.
    Item,
}

/// Reads the table. A code that is not in it is taken as passing: the caller tries again and shows
/// the number.
pub(crate) fn verdict(code: i64) -> Verdict {
    match code {
        // Access token wrong, expired or missing.
        40014 | 41001 | 42001 => Verdict::Fault(FaultClass::Refresh),
        RATE | CONCURRENCY => Verdict::Fault(FaultClass::SlowDown),
        45029 | 301_058 => Verdict::TooLarge,
        // Secret (40001) or corp id (40013) wrong; no permission; address not trusted (60020 for
        // contacts, 301042 for the archive); archive expired (301052) or not enabled (301053).
        40001 | 40013 | 48002 | 48009 | NO_PRIVILEGE | 60020 | 93000 | 301_042 | 301_052
        | 301_053 => Verdict::Fault(FaultClass::Stop),
        // The id or parameter does not fit: unknown user (60111, 301061), left owner (40003), no
        // consent (41053), not this member's customer (84061), group of another kind (90501,
        // 301059) or another corp (92002), file gone (301048), too many at once (301060, 81017).
        40003 | 40056 | 40057 | 40058 | 40096 | 41053 | 60111 | 81017 | 84061 | 90501 | 92002
        | 301_048 | 301_059 | 301_060 | 301_061 => Verdict::Item,
        // -1 (busy) and 6000 (version conflict) are known to be passing; the rest is taken so.
        _ => Verdict::Fault(FaultClass::Retry),
    }
}

/// How long WeCom wants to be left alone after `code`, at `since_epoch`. The windows of 45009 are
/// minutes (§5.7); a call that is one too many at once (45033) only has to wait for another to end.
pub(crate) fn pause(code: i64, since_epoch: Duration) -> Option<Duration> {
    const MINUTE_MS: u128 = 60_000;
    match code {
        RATE => {
            let left = MINUTE_MS - since_epoch.as_millis() % MINUTE_MS;
            // One second more, for clocks that differ.
            Some(Duration::from_millis(
                u64::try_from(left).unwrap_or(60_000) + 1_000,
            ))
        }
        CONCURRENCY => Some(Duration::from_secs(1)),
        _ => match verdict(code) {
            Verdict::TooLarge => Some(Duration::ZERO),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_code_has_its_class_and_an_unknown_one_is_tried_again() {
        let fault = Verdict::Fault;
        let table: &[(Verdict, &[i64])] = &[
            (fault(FaultClass::Retry), &[-1, 6000, 123_456, i64::MIN]),
            (fault(FaultClass::Refresh), &[40014, 42001, 41001]),
            (fault(FaultClass::SlowDown), &[45009, 45033]),
            (Verdict::TooLarge, &[45029, 301_058]),
            (
                fault(FaultClass::Stop),
                &[
                    40001, 40013, 48002, 48009, 60011, 60020, 93000, 301_042, 301_052, 301_053,
                ],
            ),
            (
                Verdict::Item,
                &[
                    40003, 40056, 40057, 40058, 40096, 41053, 60111, 81017, 84061, 90501, 92002,
                    301_048, 301_059, 301_060, 301_061,
                ],
            ),
        ];
        for (expected, codes) in table {
            for code in *codes {
                assert_eq!(verdict(*code), *expected, "{code}");
            }
        }
    }

    #[test]
    fn rate_error_waits_for_the_rest_of_the_minute() {
        let at = Duration::from_secs(60 * 1000 + 45);
        assert_eq!(pause(45009, at), Some(Duration::from_secs(16)));
        let at = Duration::from_secs(60 * 1000);
        assert_eq!(pause(45009, at), Some(Duration::from_secs(61)));
        assert_eq!(pause(45033, at), Some(Duration::from_secs(1)));
        assert_eq!(pause(45029, at), Some(Duration::ZERO));
        assert_eq!(pause(-1, at), None);
    }
}
