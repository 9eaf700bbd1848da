//! How the tests speak HTTP.

use std::time::Duration;

/// Shorter than the keep-alive of any server here: a request must not go out on a connection that
/// is about to be closed.
const IDLE: Duration = Duration::from_secs(2);

/// A client.
///
/// # Panics
/// TLS cannot be set up.
#[allow(clippy::expect_used)]
pub fn client() -> reqwest::Client {
    let builder = reqwest::Client::builder().pool_idle_timeout(IDLE);
    builder.build().expect("an HTTP client without settings")
}
