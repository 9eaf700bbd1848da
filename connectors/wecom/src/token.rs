//! The access token of one secret: when to use it and when to request a new one
//! (`connectors/wecom/WECOM.md` §5.2).
//!
//! This module only decides. `call` requests the token and holds the lock of the slot during the
//! request, so that many callers cause one request. Guarantees that a refused secret is not sent
//! again for [`REFUSAL_DURATION`], because WeCom blocks IPs that keep sending it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chatledger_schemas::{Classified as _, FaultClass, Secret};

use crate::Error;

/// How long a refused secret is not sent again.
const REFUSAL_DURATION: Duration = Duration::from_secs(60);
/// A token is renewed this long before it expires, but not before nine tenths of its lifetime.
const RENEWAL_MARGIN: Duration = Duration::from_secs(300);
/// Assumed lifetime if the API does not return one (documented: 7200 s).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(7200);

/// A token as returned by the API.
pub(crate) struct TokenGrant {
    pub(crate) value: String,
    /// `None` if the API did not return it.
    pub(crate) expires_in: Option<Duration>,
}

/// A token in use; cheap to clone.
#[derive(Clone)]
pub(crate) struct AccessToken {
    value: Arc<Secret>,
    /// Sequence number from 1, which distinguishes a caller's stale token from a newer one.
    number: u64,
}

impl AccessToken {
    pub(crate) fn expose(&self) -> &str {
        self.value.expose()
    }
}

/// What the holder of the lock must do.
pub(crate) enum TokenDecision {
    /// Use this token.
    Use(AccessToken),
    /// Request a new token.
    Fetch,
    /// The secret was refused recently.
    Refused(Error),
}

/// Holds the current token of a secret.
#[derive(Default)]
pub(crate) struct TokenSlot {
    issued: u64,
    current: Option<(AccessToken, Instant)>,
    refusal: Option<SecretRefusal>,
}

struct SecretRefusal {
    code: i64,
    message: String,
    until: Instant,
}

impl TokenSlot {
    /// Decides what to do at `now` for a caller whose token `stale` was rejected.
    pub(crate) fn decide(&self, stale: Option<&AccessToken>, now: Instant) -> TokenDecision {
        if let Some(refusal) = self.refusal.as_ref().filter(|r| now < r.until) {
            return TokenDecision::Refused(Error::Refused {
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
                TokenDecision::Use(token.clone())
            }
            _ => TokenDecision::Fetch,
        }
    }

    /// Stores the result of the request that began at `requested_at`.
    pub(crate) fn store(
        &mut self,
        result: Result<TokenGrant, Error>,
        requested_at: Instant,
    ) -> Result<AccessToken, Error> {
        self.current = None;
        match result {
            Ok(grant) => {
                let lifetime = grant.expires_in.unwrap_or(DEFAULT_LIFETIME);
                self.issued += 1;
                self.refusal = None;
                let token = AccessToken {
                    value: Arc::new(Secret::new(grant.value)),
                    number: self.issued,
                };
                self.current = Some((
                    token.clone(),
                    requested_at + lifetime.saturating_sub(RENEWAL_MARGIN.min(lifetime / 10)),
                ));
                Ok(token)
            }
            Err(error) => {
                if let Error::Refused { code, message, .. } = &error
                    && error.class() == FaultClass::Stop
                {
                    self.refusal = Some(SecretRefusal {
                        code: *code,
                        message: message.clone(),
                        until: requested_at + REFUSAL_DURATION,
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

    fn grant(value: &str, secs: u64) -> TokenGrant {
        TokenGrant {
            value: value.into(),
            expires_in: Some(Duration::from_secs(secs)),
        }
    }

    fn token_of(decision: TokenDecision) -> Option<String> {
        match decision {
            TokenDecision::Use(token) => Some(token.expose().to_owned()),
            _ => None,
        }
    }

    #[test]
    fn token_is_used_until_shortly_before_it_expires() {
        let start = Instant::now();
        let mut slot = TokenSlot::default();
        assert!(matches!(slot.decide(None, start), TokenDecision::Fetch));
        slot.store(Ok(grant("a", 7200)), start).unwrap();
        let at = |secs| start + Duration::from_secs(secs);
        assert_eq!(token_of(slot.decide(None, at(6899))).as_deref(), Some("a"));
        assert!(matches!(slot.decide(None, at(6900)), TokenDecision::Fetch));
        slot.store(Ok(grant("b", 10)), start).unwrap();
        assert_eq!(token_of(slot.decide(None, at(8))).as_deref(), Some("b"));
        assert!(matches!(slot.decide(None, at(9)), TokenDecision::Fetch));
    }

    #[test]
    fn stale_token_is_renewed_once_for_all_holders() {
        let start = Instant::now();
        let mut slot = TokenSlot::default();
        let old = slot.store(Ok(grant("a", 7200)), start).unwrap();
        assert!(matches!(
            slot.decide(Some(&old), start),
            TokenDecision::Fetch
        ));
        let new = slot.store(Ok(grant("b", 7200)), start).unwrap();
        assert_eq!(
            token_of(slot.decide(Some(&old), start)).as_deref(),
            Some("b")
        );
        assert!(matches!(
            slot.decide(Some(&new), start),
            TokenDecision::Fetch
        ));
    }

    #[test]
    fn refused_secret_is_held_back_after_a_permanent_fault_only() {
        let start = Instant::now();
        let mut slot = TokenSlot::default();
        let refused = |code| {
            Err(Error::Refused {
                api: Api::Token,
                code,
                message: "no".into(),
                retry_after: None,
            })
        };
        assert!(slot.store(refused(-1), start).is_err());
        assert!(matches!(slot.decide(None, start), TokenDecision::Fetch));
        assert!(slot.store(refused(40001), start).is_err());
        let TokenDecision::Refused(error) = slot.decide(None, start + Duration::from_secs(59))
        else {
            panic!("the secret would be sent again");
        };
        assert_eq!(error.errcode(), Some(40001));
        assert_eq!(error.class(), FaultClass::Stop);
        assert!(matches!(
            slot.decide(None, start + REFUSAL_DURATION),
            TokenDecision::Fetch
        ));
    }
}
