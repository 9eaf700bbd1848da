//! Waits for a condition with a deadline. Tests do not sleep anywhere else.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::process;

/// Pause between two checks.
const PAUSE: Duration = Duration::from_millis(10);

/// Repeats a check until it returns a value.
///
/// # Errors
/// The check returns no value within `bound`, or fails. The error contains the end of the logs of the
/// processes that this thread has started.
pub async fn until<T>(
    what: &str,
    bound: Duration,
    mut check: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(found) = check().await? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!(
                "timeout after {bound:?} waiting for: {what}{}",
                process::log_tails()
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Repeats a check until it returns true.
///
/// # Errors
/// See [`until`].
pub async fn until_true(
    what: &str,
    bound: Duration,
    mut check: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    until(what, bound, async || Ok(check().await?.then_some(()))).await
}
