//! The API calls of one sync: retries, missing permissions, paged lists, splitting of batches.
//!
//! Guarantees: every call is attempted a bounded number of times; an API without permission is called
//! only until that is certain; every list ends.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chatledger_schemas::{Classified as _, FaultClass};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::wire::ListPage;
use crate::call::{self, ApiClient, ApiRequest};
use crate::errcode::NO_PRIVILEGE;
use crate::lenient::Items;
use crate::{Api, Error};

/// Retries of a call after a transient failure (`connectors/wecom/WECOM.md` §6).
const RETRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Denials of single items without one success after which the whole API counts as denied.
const DENIALS_UNTIL_API_DENIED: u32 = 10;
/// Consecutive pages with a cursor and without a new row after which a list counts as endless.
const MAX_PAGES_WITHOUT_NEW_ROWS: u32 = 100;
/// Maximum number of times that one sync splits a batch to isolate an invalid item.
const MAX_SPLITS: u32 = 2000;

/// The answer of an API that is optional for a sync.
pub(super) enum ApiAnswer<T> {
    Value(T),
    /// The requested item does not exist.
    NoSuchItem,
    /// Access to the requested item is denied.
    ItemDenied,
    /// Access to the API is denied.
    ApiDenied,
}

impl<T> ApiAnswer<T> {
    pub(super) fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::NoSuchItem | Self::ItemDenied | Self::ApiDenied => None,
        }
    }

    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> ApiAnswer<U> {
        match self {
            Self::Value(value) => ApiAnswer::Value(change(value)),
            Self::NoSuchItem => ApiAnswer::NoSuchItem,
            Self::ItemDenied => ApiAnswer::ItemDenied,
            Self::ApiDenied => ApiAnswer::ApiDenied,
        }
    }
}

#[derive(Default)]
struct ApiAccess {
    succeeded: bool,
    denials: u32,
    denied: bool,
    /// The errcode of the last denial; `None` if nothing was denied.
    errcode: Option<i64>,
}

/// The clients of the two secrets. Each API may be called with one of them only (`connectors/wecom/WECOM.md` §5.2).
#[derive(Clone, Copy)]
pub(super) struct Clients<'a> {
    /// That of the archive's secret: `msgaudit/*`.
    pub(super) archive: &'a ApiClient,
    /// That of the application's secret: contacts and customers.
    pub(super) contacts: &'a ApiClient,
}

/// The state of one sync.
pub(super) struct SyncSession<'a> {
    clients: Clients<'a>,
    access: Mutex<BTreeMap<Api, ApiAccess>>,
    splits_left: Mutex<u32>,
}

impl<'a> SyncSession<'a> {
    pub(super) fn new(clients: Clients<'a>) -> Self {
        Self {
            clients,
            access: Mutex::default(),
            splits_left: Mutex::new(MAX_SPLITS),
        }
    }

    /// Returns every API that denied something, with its errcode (0: an HTTP status).
    pub(super) fn incomplete_apis(&self) -> BTreeMap<Api, i64> {
        self.with_access(|all| {
            all.iter()
                .filter_map(|(api, access)| Some((*api, access.errcode?)))
                .collect()
        })
    }

    /// Records that the snapshot lacks some data of `api`.
    pub(super) fn mark_incomplete(&self, api: Api, error: &Error) {
        let errcode = error.errcode().unwrap_or_default();
        self.with_access(|all| all.entry(api).or_default().errcode = Some(errcode));
    }

    fn client(&self, api: Api) -> &'a ApiClient {
        if api.needs_archive_secret() {
            self.clients.archive
        } else {
            self.clients.contacts
        }
    }

    /// Calls an API that is required for the sync.
    pub(super) async fn request<T: DeserializeOwned>(
        &self,
        api: Api,
        request: ApiRequest,
    ) -> Result<T, Error> {
        let mut attempt = 0;
        loop {
            let error = match self
                .client(api)
                .call(api, &request, |body| call::read::<T>(api, body))
                .await
            {
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

    /// Calls an API that is optional for the sync. Returns only transient errors and a refused secret of
    /// the application; both fail the sync, which is then repeated.
    pub(super) async fn request_optional<T: DeserializeOwned>(
        &self,
        api: Api,
        request: ApiRequest,
    ) -> Result<ApiAnswer<T>, Error> {
        if self.with_access(|all| all.entry(api).or_default().denied) {
            return Ok(ApiAnswer::ApiDenied);
        }
        let result = self.request(api, request).await;
        self.classify_result(api, result)
    }

    fn classify_result<T>(
        &self,
        api: Api,
        result: Result<T, Error>,
    ) -> Result<ApiAnswer<T>, Error> {
        let error = match result {
            Ok(value) => {
                self.with_access(|all| all.entry(api).or_default().succeeded = true);
                return Ok(ApiAnswer::Value(value));
            }
            Err(error) => error,
        };
        if error.is_about_item() {
            self.with_access(|all| all.entry(api).or_default().succeeded = true);
            return Ok(ApiAnswer::NoSuchItem);
        }
        // A gateway of the archive may have a secret of its own, which WeCom does not know.
        let about_secret = !api.needs_archive_secret()
            && matches!(
                error,
                Error::Refused {
                    api: Api::Token,
                    ..
                }
            );
        if error.class() != FaultClass::Stop || about_secret {
            return Err(error);
        }
        self.mark_incomplete(api, &error);
        let denied = self.with_access(|all| {
            let access = all.entry(api).or_default();
            access.denials += 1;
            access.denied = error.errcode() != Some(NO_PRIVILEGE)
                || !access.succeeded && access.denials >= DENIALS_UNTIL_API_DENIED;
            access.denied
        });
        Ok(if denied {
            ApiAnswer::ApiDenied
        } else {
            ApiAnswer::ItemDenied
        })
    }

    /// Requests all pages of a list, with `max_rows` rows in a page, or fewer if a response is too
    /// large.
    pub(super) async fn pages<T: DeserializeOwned + ListPage>(
        &self,
        api: Api,
        parameters: Map<String, Value>,
        max_rows: u32,
    ) -> Result<ApiAnswer<Items<T::Item>>, Error> {
        let mut rows = Items::default();
        let mut cursor = String::new();
        let mut limit = max_rows;
        // A list that goes in circles is recognised by its cursors, and by pages without a new row.
        let (mut cursors, mut keys) = (HashSet::new(), HashSet::new());
        let mut repeated = 0;
        loop {
            let mut body = parameters.clone();
            body.insert("cursor".into(), json!(cursor));
            body.insert("limit".into(), json!(limit));
            let page: T = match self
                .request_optional(api, ApiRequest::Post(Value::Object(body)))
                .await
            {
                Ok(ApiAnswer::Value(page)) => page,
                Ok(ApiAnswer::NoSuchItem) => return Ok(ApiAnswer::NoSuchItem),
                Ok(ApiAnswer::ItemDenied) => return Ok(ApiAnswer::ItemDenied),
                Ok(ApiAnswer::ApiDenied) => return Ok(ApiAnswer::ApiDenied),
                Err(error) if error.is_response_too_large() && limit > 1 => {
                    limit /= 2;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (page, next) = page.split();
            rows.odd += page.odd;
            let before = rows.items.len();
            let new = page
                .items
                .into_iter()
                .filter(|item| keys.insert(T::key(item)));
            rows.items.extend(new);
            if next.is_empty() {
                return Ok(ApiAnswer::Value(rows));
            }
            let is_new = rows.items.len() > before;
            repeated = if is_new { 0 } else { repeated + 1 };
            if !cursors.insert(next.clone()) || repeated > MAX_PAGES_WITHOUT_NEW_ROWS {
                return Err(Error::EndlessList { api });
            }
            cursor = next;
        }
    }

    /// Requests a batch of `api`. If one item makes it fail, requests its halves, down to the single item.
    pub(super) async fn bisect<I, T, F, Fut>(
        &self,
        api: Api,
        batch: Vec<I>,
        request: F,
    ) -> Result<Items<T>, Error>
    where
        I: Clone,
        F: Fn(Vec<I>) -> Fut,
        Fut: Future<Output = Result<ApiAnswer<Items<T>>, Error>>,
    {
        let mut rows = Items::default();
        let mut pending = vec![batch];
        while let Some(mut batch) = pending.pop() {
            match request(batch.clone()).await? {
                ApiAnswer::Value(mut answer) => {
                    rows.items.append(&mut answer.items);
                    rows.odd += answer.odd;
                }
                ApiAnswer::NoSuchItem | ApiAnswer::ItemDenied
                    if batch.len() > 1 && self.take_split() =>
                {
                    let second = batch.split_off(batch.len() / 2);
                    pending.push(second);
                    pending.push(batch);
                }
                ApiAnswer::NoSuchItem | ApiAnswer::ItemDenied => {
                    // Too many splits: items that could be read are given up with the odd one.
                    if batch.len() > 1 {
                        self.with_access(|all| {
                            all.entry(api).or_default().errcode.get_or_insert(0);
                        });
                    }
                }
                ApiAnswer::ApiDenied => break,
            }
        }
        Ok(rows)
    }

    fn take_split(&self) -> bool {
        let mut left = self
            .splits_left
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let may_split = *left > 0;
        *left = left.saturating_sub(1);
        may_split
    }

    fn with_access<R>(&self, act: impl FnOnce(&mut BTreeMap<Api, ApiAccess>) -> R) -> R {
        act(&mut self.access.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns how long to wait before the next attempt after failure number `attempt` (from 0), or
/// `None` to give up. `jitter` is between 0 and 1.
fn pause(attempt: u32, error: &Error, jitter: f64) -> Option<Duration> {
    if attempt >= RETRIES || error.is_response_too_large() {
        return None;
    }
    match error.class() {
        FaultClass::Retry | FaultClass::SlowDown => {
            let backoff = FIRST_PAUSE * 2u32.pow(attempt);
            let backoff = backoff.mul_f64(0.5 + jitter / 2.0);
            Some(
                error
                    .retry_after()
                    .map_or(backoff, |minimum| minimum.max(backoff)),
            )
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
    fn transient_faults_are_retried_three_times_with_growing_jittered_pauses() {
        let busy = refused(-1);
        let ms = |attempt, jitter| pause(attempt, &busy, jitter).map(|d| d.as_millis());
        assert_eq!(ms(0, 0.0), Some(125));
        assert_eq!(ms(0, 1.0), Some(250));
        assert_eq!(ms(2, 1.0), Some(1000));
        assert_eq!(ms(3, 1.0), None);
    }

    #[test]
    fn rate_errors_wait_for_the_window_and_permanent_errors_are_not_retried() {
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
