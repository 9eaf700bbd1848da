//! Runs CPU work off the async threads.

use crate::fault::Fault;

/// Runs `work` on a blocking thread and returns its result.
///
/// A simulation runs it inline: it has one thread, and the moment at which another thread finishes
/// would not follow from the seed.
///
/// # Errors
/// The thread died.
pub(super) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    #[cfg(any(test, feature = "testing"))]
    if crate::testing::is_simulated() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Fault::local)
}
