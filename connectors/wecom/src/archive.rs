//! Fetches pages of sealed records of one corp over HTTP (`connectors/wecom/WECOM.md` §1.6, §2).
//!
//! Guarantees: one attempt for each call, with at most one token renewal; at most 600 calls in any
//! minute; if the response is too large, the next page is requested with half as many records, and
//! the number then grows back slowly. Not here: pauses between attempts, the cursor, opening records.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chatledger_schemas::{CorpId, SealedRecord, Secret};
use serde_json::json;

use crate::call::{ApiClient, ApiRequest};
use crate::envelope::Strays;
use crate::{Api, Error, OnCall, envelope};

/// Maximum records in a page.
const MAX_LIMIT: u32 = 1000;

/// Options of [`Archive::new`].
pub struct ArchiveOptions {
    /// The corp.
    pub corp_id: CorpId,
    /// Base URL; `/cgi-bin/…` is appended to it.
    pub base_url: String,
    /// The archive secret.
    pub secret: Secret,
    /// Records in a page, 1 to 1000.
    pub limit: u32,
    /// Timeout of one HTTP exchange, from connecting to the last byte.
    pub timeout: Duration,
    /// Called after every API call.
    pub on_call: OnCall,
}

/// Client for one corp's archive. Create one for each corp and share it: it holds the access token
/// and the rate limits.
pub struct Archive {
    client: ApiClient,
    corp_id: CorpId,
    size: PageSize,
    strays: Strays,
    /// Timeout that is sent to the gateway, in seconds.
    gateway_timeout_secs: u64,
}

/// The result of one call.
#[derive(Debug)]
pub struct Page {
    /// Records after the given `seq`, ascending.
    pub records: Vec<SealedRecord>,
    /// Number of records requested. If the page has as many, more records probably exist.
    pub requested: u32,
}

impl Archive {
    /// Creates the client without calling an API.
    pub fn new(options: ArchiveOptions) -> Result<Self, Error> {
        if !(1..=MAX_LIMIT).contains(&options.limit) {
            return Err(Error::Limit {
                limit: options.limit,
            });
        }
        Ok(Self {
            client: ApiClient::new(
                options.corp_id.clone(),
                &options.base_url,
                options.secret,
                options.timeout,
                options.on_call,
            )?,
            corp_id: options.corp_id,
            size: PageSize::new(options.limit),
            strays: Strays::default(),
            gateway_timeout_secs: options.timeout.as_secs().saturating_sub(1).max(1),
        })
    }

    /// Requests the records after `after_seq` once. 0 begins at the earliest record still available.
    pub async fn page(&self, after_seq: u64) -> Result<Page, Error> {
        let requested = self.size.get();
        let request = ApiRequest::Post(json!({
            "seq": after_seq,
            "limit": requested,
            "timeout": self.gateway_timeout_secs,
        }));
        let result = self
            .client
            .call(Api::ChatData, &request, |body| {
                envelope::read(body, &self.corp_id, after_seq, &self.strays)
            })
            .await;
        match result {
            Ok(records) => {
                self.size.grow();
                Ok(Page { records, requested })
            }
            Err(error) if error.is_response_too_large() => {
                if requested == 1 {
                    return Err(Error::RecordTooLarge { api: Api::ChatData });
                }
                self.size.halve(requested);
                Err(error)
            }
            Err(error) => Err(error),
        }
    }
}

/// Number of records to request. Concurrent callers may overwrite each other's change, which is
/// acceptable for a hint.
struct PageSize {
    max: u32,
    current: AtomicU32,
}

impl PageSize {
    fn new(max: u32) -> Self {
        Self {
            max,
            current: AtomicU32::new(max),
        }
    }

    fn get(&self) -> u32 {
        self.current.load(Ordering::Relaxed)
    }

    fn halve(&self, requested: u32) {
        self.current
            .store((requested / 2).max(1), Ordering::Relaxed);
    }

    /// Grows the page so that it returns from 1 to the maximum in about 64 pages.
    fn grow(&self) {
        let grown = self.get() + self.max.div_ceil(64);
        self.current.store(grown.min(self.max), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_size_halves_to_one_and_grows_back_slowly() {
        let size = PageSize::new(1000);
        for expected in [500, 250, 125, 62, 31, 15, 7, 3, 1, 1] {
            size.halve(size.get());
            assert_eq!(size.get(), expected);
        }
        let mut pages = 0;
        while size.get() < 1000 {
            size.grow();
            pages += 1;
        }
        assert!((50..=70).contains(&pages), "{pages} pages");
        size.grow();
        assert_eq!(size.get(), 1000);
    }
}
