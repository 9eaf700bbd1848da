//! Sessions: connections that stay open between requests with the same `session_id`.
//!
//! Guarantees: one request at a time in a session (a second one is refused, as in a server); an idle
//! session is closed after its timeout; there are at most [`MAX_SESSIONS`].
//!
//! Not here: restoring what a request has set ([`crate::execute`]).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::exception::Exception;
use crate::ffi::Connection;
use crate::request::SessionRequest;

/// Limit of open sessions; each has a connection of a few hundred kilobytes.
const MAX_SESSIONS: usize = 256;

/// The open sessions.
#[derive(Default)]
pub(crate) struct Sessions {
    open: Mutex<HashMap<String, SessionState>>,
}

enum SessionState {
    /// A request is running in the session.
    Busy,
    Idle {
        connection: Connection,
        expires: Instant,
    },
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, SessionState>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the session's connection, or opens one.
    pub(crate) fn enter(
        &self,
        request: &SessionRequest,
        open: impl FnOnce() -> Result<Connection, Exception>,
    ) -> Result<Connection, Exception> {
        {
            let mut sessions = self.lock();
            let now = Instant::now();
            let is_over = |slot: &SessionState| matches!(slot, SessionState::Idle { expires, .. } if *expires <= now);
            match sessions.get(&request.id).filter(|slot| !is_over(slot)) {
                Some(SessionState::Busy) => {
                    return Err(Exception::new(
                        373,
                        "SESSION_IS_LOCKED",
                        "Session is locked by a concurrent client",
                    ));
                }
                Some(SessionState::Idle { .. }) => {
                    if let Some(SessionState::Idle { connection, .. }) =
                        sessions.insert(request.id.clone(), SessionState::Busy)
                    {
                        return Ok(connection);
                    }
                }
                None if request.must_exist => {
                    sessions.remove(&request.id);
                    return Err(Exception::new(
                        372,
                        "SESSION_NOT_FOUND",
                        "Session not found",
                    ));
                }
                None if sessions.len() >= MAX_SESSIONS && !sessions.contains_key(&request.id) => {
                    return Err(Exception::new(
                        202,
                        "TOO_MANY_SIMULTANEOUS_QUERIES",
                        format!("Too many sessions. Maximum: {MAX_SESSIONS}"),
                    ));
                }
                None => {
                    sessions.insert(request.id.clone(), SessionState::Busy);
                }
            }
        }
        open().inspect_err(|_| self.forget(&request.id))
    }

    /// Returns the connection, or ends the session if the request asked for it.
    pub(crate) fn leave(&self, request: &SessionRequest, connection: Connection) {
        if request.close {
            self.forget(&request.id);
        } else {
            let expires = Instant::now() + request.timeout;
            let slot = SessionState::Idle {
                connection,
                expires,
            };
            self.lock().insert(request.id.clone(), slot);
        }
    }

    /// Ends a session whose connection has been dropped.
    pub(crate) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Closes the sessions that have timed out. Blocks shortly.
    pub(crate) fn expire(&self, now: Instant) {
        let expired: Vec<SessionState> = self
            .lock()
            .extract_if(
                |_, slot| matches!(slot, SessionState::Idle { expires, .. } if *expires <= now),
            )
            .map(|(_, slot)| slot)
            .collect();
        drop(expired);
    }

    /// Closes all sessions.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.lock());
        drop(all);
    }
}
