//! The HTTP client.
//!
//! The client that the `clickhouse` crate builds by default aborts the process on a machine without
//! root certificates (a slim container), even for an `http` address.

use std::time::Duration;

use clickhouse::Client;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Builder, Client as HttpClient};
use hyper_util::rt::TokioExecutor;
use url::Url;

use crate::{Error, Options};

/// Shorter than the keep-alive timeout of any ClickHouse version (3 s in old ones), so that a request
/// is not sent on a connection that the server is about to close.
const IDLE_TIMEOUT: Duration = Duration::from_millis(2_500);

/// Limits how long a host that does not answer at all is waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn client(options: &Options) -> Result<Client, Error> {
    let url = parse(&options.url)?;
    let mut connector = HttpConnector::new();
    connector.set_keepalive(Some(Duration::from_secs(60)));
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT.min(options.timeout)));
    connector.set_nodelay(true);
    connector.enforce_http(false);

    let client = if url.scheme() == "https" {
        let builder = HttpsConnectorBuilder::new();
        let builder = match &options.roots {
            Some(roots) => builder.with_tls_config(roots.client_config()?),
            None => builder
                .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())
                .map_err(Error::Certificates)?,
        };
        let connector = builder
            .https_only()
            .enable_http1()
            .wrap_connector(connector);
        Client::with_http_client(pool().build(connector))
    } else {
        Client::with_http_client(pool().build(connector))
    };
    let mut client = client
        .with_url(url)
        .with_product_info("chatledger", env!("CARGO_PKG_VERSION"));
    if let Some(user) = &options.user {
        client = client.with_user(user);
    }
    if let Some(password) = &options.password {
        client = client.with_password(password.expose());
    }
    Ok(client)
}

fn pool() -> Builder {
    let mut builder = HttpClient::builder(TokioExecutor::new());
    builder.pool_idle_timeout(IDLE_TIMEOUT);
    builder.pool_timer(hyper_util::rt::TokioTimer::new());
    builder
}

/// Accepts only an address without credentials and settings, so that it cannot contain a secret. For
/// the same reason the error does not repeat a refused address.
fn parse(url: &str) -> Result<Url, Error> {
    let url = Url::parse(url).map_err(|_| Error::Url("it is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Error::Url("it must begin with http:// or https://"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(Error::Url("the host is missing"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::Url("user and password must not be part of it"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Error::Url("it must not contain settings"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn address_with_credentials_settings_or_without_a_host_is_refused() {
        for url in [
            "",
            "localhost:8123",
            "ftp://host/",
            "http://",
            "http://user@host:8123",
            "http://user:hunter2@host:8123",
            "http://host:8123/?password=hunter2",
            "http://host:8123/?",
            "http://host:8123/#x",
            "http://host:812345",
        ] {
            let error = parse(url).unwrap_err();
            assert!(matches!(error, Error::Url(_)), "{url}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn plain_address_is_accepted() {
        for url in [
            "http://127.0.0.1:8123",
            "https://clickhouse.example:8443/",
            "http://[::1]:8123",
            "http://proxy/clickhouse",
        ] {
            parse(url).unwrap();
        }
    }

    #[test]
    fn password_is_in_no_debug_output() {
        let options = Options {
            url: "http://127.0.0.1:1".into(),
            database: "chatledger".into(),
            user: Some("writer".into()),
            password: Some(chatledger_schemas::Secret::new("hunter2".into())),
            roots: None,
            timeout: Duration::from_secs(1),
        };
        let client = client(&options).unwrap();
        assert!(!format!("{options:?} {client:?}").contains("hunter2"));
    }
}
