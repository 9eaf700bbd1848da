//! Pages of sealed records of one corp (`wecom-api` §2, over HTTP).
//!
//! Guarantees: one attempt a call, with at most one renewal of the token; within 600 calls in any
//! minute; if the API finds its answer too large, the next page is asked for with half as many
//! records, and the number grows back slowly. Deliberately not here: pauses between attempts, the
//! cursor, opening records.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chatledger_schemas::{CorpId, SealedRecord, Secret};
use serde_json::json;

use crate::call::{Ask, Caller};
use crate::{Api, Error, OnCall, envelope};

/// Most records the API takes a page.
const MAX_LIMIT: u32 = 1000;

/// How to reach one corp's archive.
pub struct ArchiveOptions {
    /// The corp.
    pub corp_id: CorpId,
    /// Base address; `/cgi-bin/…` is put behind it.
    pub base_url: String,
    /// The archive secret.
    pub secret: Secret,
    /// Records a page, 1 to 1000.
    pub limit: u32,
    /// Longest time one exchange may take, from the connection to the last byte.
    pub timeout: Duration,
    /// Told of every call.
    pub on_call: OnCall,
}

/// One corp's archive. Make one for each corp and share it: it holds the token and the budget.
pub struct Archive {
    caller: Caller,
    corp_id: CorpId,
    size: PageSize,
    /// What the gateway is told about its own patience, in whole seconds.
    patience_secs: u64,
}

/// What one call brought.
#[derive(Debug)]
pub struct Page {
    /// Records beyond the asked `seq`, ascending.
    pub records: Vec<SealedRecord>,
    /// How many were asked for; a page with as many is full, and more is likely to follow.
    pub asked: u32,
}

impl Archive {
    /// Makes the client; calls nothing.
    pub fn new(options: ArchiveOptions) -> Result<Self, Error> {
        if !(1..=MAX_LIMIT).contains(&options.limit) {
            return Err(Error::Limit {
                limit: options.limit,
            });
        }
        Ok(Self {
            caller: Caller::new(
                options.corp_id.clone(),
                &options.base_url,
                options.secret,
                options.timeout,
                options.on_call,
            )?,
            corp_id: options.corp_id,
            size: PageSize::new(options.limit),
            patience_secs: options.timeout.as_secs().saturating_sub(1).max(1),
        })
    }

    /// Asks once for the records after `after_seq`; 0 begins at the earliest the API still has.
    pub async fn page(&self, after_seq: u64) -> Result<Page, Error> {
        let asked = self.size.get();
        let ask = Ask::Post(json!({
            "seq": after_seq,
            "limit": asked,
            "timeout": self.patience_secs,
        }));
        let outcome = self
            .caller
            .call(Api::ChatData, &ask, |body| {
                envelope::read(body, &self.corp_id, after_seq)
            })
            .await;
        match outcome {
            Ok(records) => {
                self.size.grow();
                Ok(Page { records, asked })
            }
            Err(error) if error.wants_less() => {
                if asked == 1 {
                    return Err(Error::RecordTooLarge { api: Api::ChatData });
                }
                self.size.halve(asked);
                Err(error)
            }
            Err(error) => Err(error),
        }
    }
}

/// How many records to ask for. A hint: concurrent callers may lose each other's change.
struct PageSize {
    most: u32,
    now: AtomicU32,
}

impl PageSize {
    fn new(most: u32) -> Self {
        Self {
            most,
            now: AtomicU32::new(most),
        }
    }

    fn get(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    fn halve(&self, asked: u32) {
        self.now.store((asked / 2).max(1), Ordering::Relaxed);
    }

    /// Takes about 64 pages from one record back to the most.
    fn grow(&self) {
        let grown = self.get() + self.most.div_ceil(64);
        self.now.store(grown.min(self.most), Ordering::Relaxed);
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
