//! One sync's dealings with the APIs: retries, what may not be asked, lists behind cursors, halves.
//!
//! Guarantees: every call is tried a bounded number of times; an API without permission is asked
//! only until that is certain; every list comes to an end.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chatledger_schemas::{Classified as _, FaultClass};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::wire::Paged;
use crate::call::{self, Ask, Caller};
use crate::errcode::NO_PRIVILEGE;
use crate::{Api, Error};

/// A call that failed in passing is made this many times more (`wecom-api` §5.8).
const RETRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Denials for single things, without one success, after which the whole API counts as closed.
const DENIALS_UNTIL_CLOSED: u32 = 10;
/// Pages in a row that bring nothing and yet a cursor, after which a list counts as endless.
const MAX_EMPTY_PAGES: u32 = 100;
/// Calls one sync may spend on finding the one bad item in a batch, over all batches.
const MAX_SPLITS: u32 = 2000;

/// What an API that a sync can do without answered.
pub(super) enum Answer<T> {
    Is(T),
    /// There is no such thing.
    NoSuchItem,
    /// This one thing may not be seen.
    Denied,
    /// The API may not be called.
    Closed,
}

impl<T> Answer<T> {
    pub(super) fn is(self) -> Option<T> {
        match self {
            Self::Is(value) => Some(value),
            Self::NoSuchItem | Self::Denied | Self::Closed => None,
        }
    }
}

#[derive(Default)]
struct Standing {
    succeeded: bool,
    denials: u32,
    closed: bool,
    /// What it refused with; `None` if nothing was left out.
    errcode: Option<i64>,
}

/// The state of one sync.
pub(super) struct Run<'a> {
    caller: &'a Caller,
    standing: Mutex<BTreeMap<Api, Standing>>,
    splits: Mutex<u32>,
}

impl<'a> Run<'a> {
    pub(super) fn new(caller: &'a Caller) -> Self {
        Self {
            caller,
            standing: Mutex::default(),
            splits: Mutex::new(MAX_SPLITS),
        }
    }

    /// Every API that refused something for lack of permission, with its errcode (0: an HTTP
    /// status).
    pub(super) fn left_out(&self) -> BTreeMap<Api, i64> {
        self.standings(|all| {
            all.iter()
                .filter_map(|(api, standing)| Some((*api, standing.errcode?)))
                .collect()
        })
    }

    /// Notes that a part of what `api` gives is left out.
    pub(super) fn leave_out(&self, api: Api, error: &Error) {
        let errcode = error.errcode().unwrap_or_default();
        self.standings(|all| all.entry(api).or_default().errcode = Some(errcode));
    }

    /// Asks an API the sync cannot do without.
    pub(super) async fn ask<T: DeserializeOwned>(&self, api: Api, ask: Ask) -> Result<T, Error> {
        let mut attempt = 0;
        loop {
            let error = match self.caller.call(api, &ask, call::read::<T>).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            match pause(attempt, &error, rand::random()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
            attempt += 1;
        }
    }

    /// Asks an API the sync can do without. Errors are those that pass by: the sync has to be made
    /// again.
    pub(super) async fn optional<T: DeserializeOwned>(
        &self,
        api: Api,
        ask: Ask,
    ) -> Result<Answer<T>, Error> {
        if self.standings(|all| all.entry(api).or_default().closed) {
            return Ok(Answer::Closed);
        }
        let outcome = self.ask(api, ask).await;
        self.judge(api, outcome)
    }

    fn judge<T>(&self, api: Api, outcome: Result<T, Error>) -> Result<Answer<T>, Error> {
        let error = match outcome {
            Ok(value) => {
                self.standings(|all| all.entry(api).or_default().succeeded = true);
                return Ok(Answer::Is(value));
            }
            Err(error) => error,
        };
        if error.is_about_item() {
            self.standings(|all| all.entry(api).or_default().succeeded = true);
            return Ok(Answer::NoSuchItem);
        }
        let about_secret = matches!(
            error,
            Error::Refused {
                api: Api::Token,
                ..
            }
        );
        if error.class() != FaultClass::Stop || about_secret {
            return Err(error);
        }
        self.leave_out(api, &error);
        let closed = self.standings(|all| {
            let standing = all.entry(api).or_default();
            standing.denials += 1;
            standing.closed = error.errcode() != Some(NO_PRIVILEGE)
                || !standing.succeeded && standing.denials >= DENIALS_UNTIL_CLOSED;
            standing.closed
        });
        Ok(if closed {
            Answer::Closed
        } else {
            Answer::Denied
        })
    }

    /// Asks for all pages of a list; `most` rows a page, fewer if the answer gets too large.
    pub(super) async fn pages<T: DeserializeOwned + Paged>(
        &self,
        api: Api,
        question: Map<String, Value>,
        most: u32,
    ) -> Result<Answer<Vec<T::Row>>, Error> {
        let mut rows = Vec::new();
        let mut cursor = String::new();
        let mut limit = most;
        let mut empty = 0;
        loop {
            let mut body = question.clone();
            body.insert("cursor".into(), json!(cursor));
            body.insert("limit".into(), json!(limit));
            let page: T = match self.optional(api, Ask::Post(Value::Object(body))).await {
                Ok(Answer::Is(page)) => page,
                Ok(Answer::NoSuchItem) => return Ok(Answer::NoSuchItem),
                Ok(Answer::Denied) => return Ok(Answer::Denied),
                Ok(Answer::Closed) => return Ok(Answer::Closed),
                Err(error) if error.wants_less() && limit > 1 => {
                    limit /= 2;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (mut got, next) = page.split();
            empty = if got.is_empty() { empty + 1 } else { 0 };
            if !next.is_empty() && (next == cursor || empty > MAX_EMPTY_PAGES) {
                return Err(Error::EndlessList { api });
            }
            rows.append(&mut got);
            if next.is_empty() {
                return Ok(Answer::Is(rows));
            }
            cursor = next;
        }
    }

    /// Asks about a batch; if one item spoils it, about its halves, down to the item itself.
    pub(super) async fn in_halves<I, T, F, Fut>(
        &self,
        batch: Vec<I>,
        ask: F,
    ) -> Result<Vec<T>, Error>
    where
        I: Clone,
        F: Fn(Vec<I>) -> Fut,
        Fut: Future<Output = Result<Answer<Vec<T>>, Error>>,
    {
        let mut rows = Vec::new();
        let mut open = vec![batch];
        while let Some(mut batch) = open.pop() {
            match ask(batch.clone()).await? {
                Answer::Is(mut got) => rows.append(&mut got),
                Answer::NoSuchItem | Answer::Denied if batch.len() > 1 && self.take_split() => {
                    let second = batch.split_off(batch.len() / 2);
                    open.push(second);
                    open.push(batch);
                }
                Answer::NoSuchItem | Answer::Denied => {}
                Answer::Closed => break,
            }
        }
        Ok(rows)
    }

    fn take_split(&self) -> bool {
        let mut left = self.splits.lock().unwrap_or_else(PoisonError::into_inner);
        let may = *left > 0;
        *left = left.saturating_sub(1);
        may
    }

    fn standings<R>(&self, act: impl FnOnce(&mut BTreeMap<Api, Standing>) -> R) -> R {
        act(&mut self.standing.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How long to wait before trying again after failure number `attempt` (from 0); `None`: give up.
/// `chance` is between 0 and 1.
fn pause(attempt: u32, error: &Error, chance: f64) -> Option<Duration> {
    if attempt >= RETRIES || error.wants_less() {
        return None;
    }
    match error.class() {
        FaultClass::Retry | FaultClass::SlowDown => {
            let own = FIRST_PAUSE * 2u32.pow(attempt);
            let own = own.mul_f64(0.5 + chance / 2.0);
            Some(error.retry_after().map_or(own, |asked| asked.max(own)))
        }
        FaultClass::Refresh | FaultClass::Stop => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: i64) -> Error {
        Error::Refused {
            api: Api::CustomerRoom,
            code,
            message: String::new(),
            retry_after: crate::errcode::pause(code, Duration::from_secs(30)),
        }
    }

    #[test]
    fn passing_faults_are_retried_three_times_with_growing_jittered_pauses() {
        let busy = refused(-1);
        let ms = |attempt, chance| pause(attempt, &busy, chance).map(|d| d.as_millis());
        assert_eq!(ms(0, 0.0), Some(125));
        assert_eq!(ms(0, 1.0), Some(250));
        assert_eq!(ms(2, 1.0), Some(1000));
        assert_eq!(ms(3, 1.0), None);
    }

    #[test]
    fn rate_errors_wait_for_the_window_and_stops_are_not_retried() {
        assert_eq!(
            pause(0, &refused(45009), 0.0),
            Some(Duration::from_secs(31))
        );
        assert_eq!(pause(0, &refused(45033), 0.0), Some(Duration::from_secs(1)));
        for code in [48002, 40001, 90501, 45029] {
            assert_eq!(pause(0, &refused(code), 0.0), None, "{code}");
        }
    }
}
