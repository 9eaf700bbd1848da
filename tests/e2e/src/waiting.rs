//! Waiting for a condition, with a deadline. The only place of the tests where time passes unused.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::process;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until there is something.
///
/// # Errors
/// Nothing within `bound`, or looking has failed. The ends of the logs of the processes that this
/// thread has started are in the error.
pub async fn until<T>(
    what: &str,
    bound: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!(
                "waited {bound:?} in vain: {what}{}",
                process::ends_of_logs()
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Looks until it is so.
///
/// # Errors
/// As [`until`].
pub async fn until_true(
    what: &str,
    bound: Duration,
    mut look: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    until(what, bound, async || Ok(look().await?.then_some(()))).await
}
