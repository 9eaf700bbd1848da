//! The access token of one secret: when to use it, when to get another (`wecom-api` §5.2).
//!
//! Only decisions; the call itself is made by `call`, which holds the slot's lock meanwhile, so
//! that many callers cause one call. Guarantees that a secret which was refused is not shown to
//! the API again for [`REFUSAL_HOLDS`]: WeCom blocks addresses that keep trying.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chatledger_schemas::{Classified as _, FaultClass, Secret};

use crate::Error;

/// How long a refused secret is not tried again.
const REFUSAL_HOLDS: Duration = Duration::from_secs(60);
/// A token is renewed this long before it expires, but never before nine tenths of its life.
const MARGIN: Duration = Duration::from_secs(300);
/// What is assumed if the API does not say how long a token lives (documented: 7200 s).
const USUAL_LIFE: Duration = Duration::from_secs(7200);

/// A token as the API gave it.
pub(crate) struct Grant {
    pub(crate) value: String,
    /// `None` if the API did not say.
    pub(crate) expires_in: Option<Duration>,
}

/// A token in use; cheap to clone.
#[derive(Clone)]
pub(crate) struct Token {
    value: Arc<Secret>,
    /// Which token this is, counted from 1: tells a caller's stale token from a newer one.
    number: u64,
}

impl Token {
    pub(crate) fn expose(&self) -> &str {
        self.value.expose()
    }
}

/// What the holder of the lock has to do.
pub(crate) enum Next {
    /// Use this one.
    Use(Token),
    /// Call the API.
    Fetch,
    /// The secret was refused a moment ago.
    Refused(Error),
}

/// The one place a secret's token is kept.
#[derive(Default)]
pub(crate) struct Slot {
    issued: u64,
    current: Option<(Token, Instant)>,
    refusal: Option<Refusal>,
}

struct Refusal {
    code: i64,
    message: String,
    until: Instant,
}

impl Slot {
    /// Decides what to do at `now` for a caller whose token `stale` was not taken.
    pub(crate) fn next(&self, stale: Option<&Token>, now: Instant) -> Next {
        if let Some(refusal) = self.refusal.as_ref().filter(|r| now < r.until) {
            return Next::Refused(Error::Refused {
                api: crate::Api::Token,
                code: refusal.code,
                message: refusal.message.clone(),
                retry_after: Some(refusal.until - now),
            });
        }
        match &self.current {
            Some((token, renew_at))
                if now < *renew_at && stale.is_none_or(|s| s.number < token.number) =>
            {
                Next::Use(token.clone())
            }
            _ => Next::Fetch,
        }
    }

    /// Takes the outcome of the call that was begun at `asked_at`.
    pub(crate) fn settle(
        &mut self,
        outcome: Result<Grant, Error>,
        asked_at: Instant,
    ) -> Result<Token, Error> {
        self.current = None;
        match outcome {
            Ok(grant) => {
                let life = grant.expires_in.unwrap_or(USUAL_LIFE);
                self.issued += 1;
                self.refusal = None;
                let token = Token {
                    value: Arc::new(Secret::new(grant.value)),
                    number: self.issued,
                };
                self.current = Some((
                    token.clone(),
                    asked_at + life.saturating_sub(MARGIN.min(life / 10)),
                ));
                Ok(token)
            }
            Err(error) => {
                if let Error::Refused { code, message, .. } = &error
                    && error.class() == FaultClass::Stop
                {
                    self.refusal = Some(Refusal {
                        code: *code,
                        message: message.clone(),
                        until: asked_at + REFUSAL_HOLDS,
                    });
                }
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::Api;

    fn grant(value: &str, secs: u64) -> Grant {
        Grant {
            value: value.into(),
            expires_in: Some(Duration::from_secs(secs)),
        }
    }

    fn used(next: Next) -> Option<String> {
        match next {
            Next::Use(token) => Some(token.expose().to_owned()),
            _ => None,
        }
    }

    #[test]
    fn token_is_used_until_shortly_before_it_expires() {
        let start = Instant::now();
        let mut slot = Slot::default();
        assert!(matches!(slot.next(None, start), Next::Fetch));
        slot.settle(Ok(grant("a", 7200)), start).unwrap();
        let at = |secs| start + Duration::from_secs(secs);
        assert_eq!(used(slot.next(None, at(6899))).as_deref(), Some("a"));
        assert!(matches!(slot.next(None, at(6900)), Next::Fetch));
        slot.settle(Ok(grant("b", 10)), start).unwrap();
        assert_eq!(used(slot.next(None, at(8))).as_deref(), Some("b"));
        assert!(matches!(slot.next(None, at(9)), Next::Fetch));
    }

    #[test]
    fn stale_token_is_renewed_once_for_all_who_hold_it() {
        let start = Instant::now();
        let mut slot = Slot::default();
        let old = slot.settle(Ok(grant("a", 7200)), start).unwrap();
        assert!(matches!(slot.next(Some(&old), start), Next::Fetch));
        let new = slot.settle(Ok(grant("b", 7200)), start).unwrap();
        assert_eq!(used(slot.next(Some(&old), start)).as_deref(), Some("b"));
        assert!(matches!(slot.next(Some(&new), start), Next::Fetch));
    }

    #[test]
    fn refused_secret_is_held_back_and_a_passing_fault_is_not() {
        let start = Instant::now();
        let mut slot = Slot::default();
        let refused = |code| {
            Err(Error::Refused {
                api: Api::Token,
                code,
                message: "no".into(),
                retry_after: None,
            })
        };
        assert!(slot.settle(refused(-1), start).is_err());
        assert!(matches!(slot.next(None, start), Next::Fetch));
        assert!(slot.settle(refused(40001), start).is_err());
        let Next::Refused(error) = slot.next(None, start + Duration::from_secs(59)) else {
            panic!("the secret would be tried again");
        };
        assert_eq!(error.errcode(), Some(40001));
        assert_eq!(error.class(), FaultClass::Stop);
        assert!(matches!(
            slot.next(None, start + REFUSAL_HOLDS),
            Next::Fetch
        ));
    }
}
