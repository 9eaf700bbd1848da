//! How far each lane has been written, kept beside the rows in the table `lanes`.
//!
//! The newest row of a lane counts. What a position and a witness mean is the caller's.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use crate::{ClickHouse, Error};

#[derive(Row, Serialize)]
pub(crate) struct LaneRow<'a> {
    log: &'a str,
    position: u64,
    witness: u64,
}

/// A lane's last row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct LaneMark {
    /// How far it has been written.
    pub position: u64,
    /// What stands there in its log.
    pub witness: u64,
}

impl ClickHouse {
    /// The mark of a lane; `None` if it has none.
    pub async fn lane_mark(&self, log: &str) -> Result<Option<LaneMark>, Error> {
        let ask = "SELECT position, witness FROM lanes WHERE log = ? \
            ORDER BY marked_at DESC, position DESC LIMIT 1";
        let asked = self.client.query(ask).bind(log).fetch_optional();
        self.within(asked).await.map_err(|source| Error::Look {
            table: "lanes",
            source,
        })
    }

    /// Keeps a lane's mark in place of the last.
    pub async fn keep_lane_mark(&self, log: &str, mark: LaneMark) -> Result<(), Error> {
        let row = LaneRow {
            log,
            position: mark.position,
            witness: mark.witness,
        };
        let rows = Box::new(std::iter::once(row));
        self.insert::<LaneRow<'static>>("lanes", None, rows).await
    }
}
