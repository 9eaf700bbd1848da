//! Sink checkpoints: how far each lane has been written, stored beside the rows in the table `lanes`.

use crate::tables::{Lanes, SinkCheckpoint, Table};
use crate::{ClickHouse, Error};

impl ClickHouse {
    /// Returns the sink checkpoint of a lane; `None` if it has none.
    pub async fn sink_checkpoint(&self, lane: &str) -> Result<Option<SinkCheckpoint>, Error> {
        let sql = format!(
            "SELECT ?fields FROM {} WHERE log = ? ORDER BY marked_at DESC, position DESC LIMIT 1",
            Lanes::NAME
        );
        let query = self.client.query(&sql).bind(lane).fetch_optional();
        self.within(query).await.map_err(|source| Error::Query {
            table: Lanes::NAME,
            source,
        })
    }

    /// Stores the sink checkpoint of a lane; it replaces the last one.
    pub async fn store_sink_checkpoint(
        &self,
        lane: &str,
        checkpoint: SinkCheckpoint,
    ) -> Result<(), Error> {
        let record = std::iter::once((lane, checkpoint));
        self.send::<Lanes>(None, Box::new(record)).await
    }
}
