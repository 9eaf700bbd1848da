//! Reads `/metrics` and the other HTTP endpoints of a running `chatledger`.

use anyhow::{Context as _, Result};

use crate::http;

/// The HTTP endpoints of one process.
#[derive(Clone, Debug)]
pub struct Endpoints {
    client: reqwest::Client,
    base: String,
}

impl Endpoints {
    /// Creates the endpoints at `host:port`.
    pub fn new(address: &str) -> Self {
        Self {
            client: http::client(),
            base: format!("http://{address}"),
        }
    }

    /// Returns status and text of a path.
    ///
    /// # Errors
    /// The process does not respond.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let response = self
            .client
            .get(format!("{}{path}", self.base))
            .send()
            .await?;
        let status = response.status().as_u16();
        Ok((status, response.text().await.context("read the response")?))
    }

    /// Returns the current metrics.
    ///
    /// # Errors
    /// The process does not respond.
    pub async fn scrape(&self) -> Result<Scrape> {
        Ok(Scrape(self.get("/metrics").await?.1))
    }
}

/// The text of one scrape.
#[derive(Clone, Debug)]
pub struct Scrape(pub String);

impl Scrape {
    /// Returns the sum of a metric's series that have all of `labels` (each `name="value"`).
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.0
            .lines()
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                let (found, set) = series.split_once('{').unwrap_or((series, ""));
                (found == name && labels.iter().all(|label| set.contains(label)))
                    .then(|| value.parse::<f64>().ok())?
            })
            .sum()
    }
}
