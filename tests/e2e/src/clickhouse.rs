//! A minimal ClickHouse client over HTTP.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};

use crate::http;

/// One row: values by column name.
pub type JsonRow = Map<String, Value>;

/// A database on a server.
#[derive(Clone, Debug)]
pub struct ClickHouse {
    client: reqwest::Client,
    url: String,
    database: String,
}

impl ClickHouse {
    /// Creates a client; the server and the database do not have to exist yet.
    pub fn new(url: &str, database: &str) -> Self {
        Self {
            client: http::client(),
            url: url.to_owned(),
            database: database.to_owned(),
        }
    }

    /// Runs a statement and returns the text of the response.
    ///
    /// # Errors
    /// The server does not respond or returns an error; the error contains its message.
    pub async fn query(&self, sql: &str) -> Result<String> {
        let response = self
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
            .context("send a statement to ClickHouse")?;
        let status = response.status();
        let text = response
            .text()
            .await
            .context("read ClickHouse's response")?;
        ensure!(status.is_success(), "{status}: {text}\nin: {sql}");
        Ok(text)
    }

    /// Returns the rows of a query.
    ///
    /// # Errors
    /// See [`ClickHouse::query`].
    pub async fn rows(&self, sql: &str) -> Result<Vec<JsonRow>> {
        let text = self.query(sql).await?;
        text.lines()
            .map(|line| serde_json::from_str(line).context("parse a row"))
            .collect()
    }

    /// Returns the single number of a query.
    ///
    /// # Errors
    /// See [`ClickHouse::query`]; or the result is not a number.
    pub async fn number(&self, sql: &str) -> Result<u64> {
        let rows = self.rows(sql).await?;
        let value = rows
            .first()
            .and_then(|row| row.values().next())
            .and_then(Value::as_u64);
        value.with_context(|| format!("the result is not a number: {sql}"))
    }
}
