//! Sessions: connections that stay open between requests, for clients that ask for it with
//! `session_id`.
//!
//! Guarantees: one request at a time in a session (a second one is refused, as a server does);
//! an idle session is closed after its timeout; there are at most [`MAX_SESSIONS`].
//!
//! Deliberately not here: what a request changes in a session ([`crate::execute`] puts back what
//! it set for one request).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::exception::Exception;
use crate::ffi::Connection;
use crate::request::SessionAsk;

/// Sessions open at once; each holds a connection, a few hundred kilobytes.
const MAX_SESSIONS: usize = 256;

/// The open sessions.
#[derive(Default)]
pub(crate) struct Sessions {
    open: Mutex<HashMap<String, Slot>>,
}

enum Slot {
    /// A request is running in it.
    Busy,
    Idle {
        connection: Connection,
        expires: Instant,
    },
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the session's connection out, or opens one.
    pub(crate) fn enter(
        &self,
        ask: &SessionAsk,
        open: impl FnOnce() -> Result<Connection, Exception>,
    ) -> Result<Connection, Exception> {
        {
            let mut sessions = self.lock();
            let now = Instant::now();
            let is_over =
                |slot: &Slot| matches!(slot, Slot::Idle { expires, .. } if *expires <= now);
            match sessions.get(&ask.id).filter(|slot| !is_over(slot)) {
                Some(Slot::Busy) => {
                    return Err(Exception::new(
                        373,
                        "SESSION_IS_LOCKED",
                        "Session is locked by a concurrent client",
                    ));
                }
                Some(Slot::Idle { .. }) => {
                    if let Some(Slot::Idle { connection, .. }) =
                        sessions.insert(ask.id.clone(), Slot::Busy)
                    {
                        return Ok(connection);
                    }
                }
                None if ask.must_exist => {
                    sessions.remove(&ask.id);
                    return Err(Exception::new(
                        372,
                        "SESSION_NOT_FOUND",
                        "Session not found",
                    ));
                }
                None if sessions.len() >= MAX_SESSIONS && !sessions.contains_key(&ask.id) => {
                    return Err(Exception::new(
                        202,
                        "TOO_MANY_SIMULTANEOUS_QUERIES",
                        format!("Too many sessions. Maximum: {MAX_SESSIONS}"),
                    ));
                }
                None => {
                    sessions.insert(ask.id.clone(), Slot::Busy);
                }
            }
        }
        open().inspect_err(|_| self.forget(&ask.id))
    }

    /// Puts the connection back, or ends the session when it was asked to end.
    pub(crate) fn leave(&self, ask: &SessionAsk, connection: Connection) {
        if ask.close {
            self.forget(&ask.id);
        } else {
            let expires = Instant::now() + ask.timeout;
            let slot = Slot::Idle {
                connection,
                expires,
            };
            self.lock().insert(ask.id.clone(), slot);
        }
    }

    /// Ends a session whose connection is gone.
    pub(crate) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Closes sessions whose time is over. Blocks shortly.
    pub(crate) fn expire(&self, now: Instant) {
        let expired: Vec<Slot> = self
            .lock()
            .extract_if(|_, slot| matches!(slot, Slot::Idle { expires, .. } if *expires <= now))
            .map(|(_, slot)| slot)
            .collect();
        drop(expired);
    }

    /// Closes all of them.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.lock());
        drop(all);
    }
}
