//! Asks a ClickHouse server over HTTP, as anybody would.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};

use crate::http;

/// One row by column names.
pub type Row = Map<String, Value>;

/// A database on a server.
#[derive(Clone, Debug)]
pub struct ClickHouse {
    client: reqwest::Client,
    url: String,
    database: String,
}

impl ClickHouse {
    /// The database on the server; neither has to be there yet.
    pub fn new(url: &str, database: &str) -> Self {
        Self {
            client: http::client(),
            url: url.to_owned(),
            database: database.to_owned(),
        }
    }

    /// Runs a statement and gives the answer's text.
    ///
    /// # Errors
    /// The server does not answer, or refuses; what it says is in the error.
    pub async fn ask(&self, sql: &str) -> Result<String> {
        let answer = self
            .client
            .post(&self.url)
            .query(&[
                ("database", self.database.as_str()),
                ("default_format", "JSONEachRow"),
                ("output_format_json_quote_64bit_integers", "0"),
            ])
            .body(sql.to_owned())
            .send()
            .await
            .context("ask ClickHouse")?;
        let status = answer.status();
        let text = answer.text().await.context("read ClickHouse's answer")?;
        ensure!(status.is_success(), "{status}: {text}\nin: {sql}");
        Ok(text)
    }

    /// The rows of a query.
    ///
    /// # Errors
    /// As [`ClickHouse::ask`].
    pub async fn rows(&self, sql: &str) -> Result<Vec<Row>> {
        let text = self.ask(sql).await?;
        text.lines()
            .map(|line| serde_json::from_str(line).context("read a row"))
            .collect()
    }

    /// The one number of a query.
    ///
    /// # Errors
    /// As [`ClickHouse::ask`], or the answer is another.
    pub async fn number(&self, sql: &str) -> Result<u64> {
        let rows = self.rows(sql).await?;
        let value = rows
            .first()
            .and_then(|row| row.values().next())
            .and_then(Value::as_u64);
        value.with_context(|| format!("no number in the answer to: {sql}"))
    }
}
