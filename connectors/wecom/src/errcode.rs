//! Maps every documented `errcode` to an action (`connectors/wecom/WECOM.md` §6, doc 90313).
//!
//! Decisions use the number alone, never `errmsg`, which may change at any time.

use std::time::Duration;

use chatledger_schemas::FaultClass;

/// No privilege for the requested object, or for the API as a whole.
pub(crate) const NO_PRIVILEGE: i64 = 60011;
/// Too many calls in the time window.
const RATE: i64 = 45009;
/// Too many concurrent calls.
const CONCURRENCY: i64 = 45033;

/// What an errcode other than 0 means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrcodeClass {
    /// The call failed as a whole.
    Fault(FaultClass),
    /// The response would be too large: request less.
    TooLarge,
    /// The error concerns only the requested item; the API works.
    Item,
}

/// Classifies an errcode. An unknown code counts as transient: the caller retries and shows the
/// number.
pub(crate) fn classify(code: i64) -> ErrcodeClass {
    match code {
        // Access token invalid, expired or missing.
        40014 | 41001 | 42001 => ErrcodeClass::Fault(FaultClass::Refresh),
        RATE | CONCURRENCY => ErrcodeClass::Fault(FaultClass::SlowDown),
        45029 | 301_058 => ErrcodeClass::TooLarge,
        // Wrong secret (40001) or corp id (40013); no permission; IP not trusted (60020 for
        // contacts, 301042 for the archive); archive expired (301052) or not enabled (301053).
        40001 | 40013 | 48002 | 48009 | NO_PRIVILEGE | 60020 | 93000 | 301_042 | 301_052
        | 301_053 => ErrcodeClass::Fault(FaultClass::Stop),
        // Invalid id or parameter: unknown member (60111, 301061), department (60123), owner who left (40003), no
        // consent (41053), not this member's contact (84061), another kind of group (90501, 301059),
        // another corp (92002), file expired (301048), too many items (301060, 81017).
        40003 | 40056 | 40057 | 40058 | 40096 | 41053 | 60111 | 60123 | 81017 | 84061 | 90501
        | 92002 | 301_048 | 301_059 | 301_060 | 301_061 => ErrcodeClass::Item,
        // -1 (busy) and 6000 (version conflict) are known to be transient; others are assumed to be.
        _ => ErrcodeClass::Fault(FaultClass::Retry),
    }
}

/// Returns how long to wait after `code`, received at `since_epoch`. The window of 45009 is a minute
/// (`connectors/wecom/WECOM.md` §6). After 45033, another call only has to end.
pub(crate) fn pause(code: i64, since_epoch: Duration) -> Option<Duration> {
    const MINUTE_MS: u128 = 60_000;
    match code {
        RATE => {
            let left = MINUTE_MS - since_epoch.as_millis() % MINUTE_MS;
            // One more second, because clocks differ.
            Some(Duration::from_millis(
                u64::try_from(left).unwrap_or(60_000) + 1_000,
            ))
        }
        CONCURRENCY => Some(Duration::from_secs(1)),
        _ => match classify(code) {
            ErrcodeClass::TooLarge => Some(Duration::ZERO),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documented_codes_have_their_class_and_unknown_codes_are_retried() {
        let fault = ErrcodeClass::Fault;
        let table: &[(ErrcodeClass, &[i64])] = &[
            (fault(FaultClass::Retry), &[-1, 6000, 123_456, i64::MIN]),
            (fault(FaultClass::Refresh), &[40014, 42001, 41001]),
            (fault(FaultClass::SlowDown), &[45009, 45033]),
            (ErrcodeClass::TooLarge, &[45029, 301_058]),
            (
                fault(FaultClass::Stop),
                &[
                    40001, 40013, 48002, 48009, 60011, 60020, 93000, 301_042, 301_052, 301_053,
                ],
            ),
            (
                ErrcodeClass::Item,
                &[
                    40003, 40056, 40057, 40058, 40096, 41053, 60111, 60123, 81017, 84061, 90501,
                    92002, 301_048, 301_059, 301_060, 301_061,
                ],
            ),
        ];
        for (expected, codes) in table {
            for code in *codes {
                assert_eq!(classify(*code), *expected, "{code}");
            }
        }
    }

    #[test]
    fn rate_error_waits_until_the_minute_ends() {
        let at = Duration::from_secs(60 * 1000 + 45);
        assert_eq!(pause(45009, at), Some(Duration::from_secs(16)));
        let at = Duration::from_secs(60 * 1000);
        assert_eq!(pause(45009, at), Some(Duration::from_secs(61)));
        assert_eq!(pause(45033, at), Some(Duration::from_secs(1)));
        assert_eq!(pause(45029, at), Some(Duration::ZERO));
        assert_eq!(pause(-1, at), None);
    }
}
