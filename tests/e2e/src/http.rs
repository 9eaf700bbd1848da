//! The HTTP client of the tests.

use std::time::Duration;

/// Shorter than the keep-alive of all servers in the tests, so that no request uses a connection that
/// the server is about to close.
const IDLE: Duration = Duration::from_secs(2);

/// Creates a client.
///
/// # Panics
/// TLS cannot be initialised.
#[allow(clippy::expect_used)]
pub fn client() -> reqwest::Client {
    let builder = reqwest::Client::builder().pool_idle_timeout(IDLE);
    builder.build().expect("an HTTP client without settings")
}
