//! Requests to a running process, as files in its state folder: whoever holds the folder's lock
//! takes them up, whoever asks leaves them there and reads the answer.
//!
//! `dlq/<id>.request` appears whole, is renamed to `<id>.taken` before it is carried out, and
//! answered with `<id>.answer`. A request that nobody takes before its deadline is void; one that
//! was taken is carried out, whether or not anybody reads the answer.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{StateError, write_whole};
use crate::dead_letter_requests::{DeadLetterRequest, ReplayCounts};
use crate::shared::now_ms;

/// How long answers that nobody reads are kept, in milliseconds.
const KEPT: i64 = 3_600_000;

/// Where requests for one corp lie.
pub struct ControlInbox {
    folder: PathBuf,
}

/// A request that was taken up.
pub struct Taken {
    id: String,
    /// What it asks for.
    pub body: DeadLetterRequest,
}

#[derive(Serialize, Deserialize)]
struct Form {
    /// Milliseconds since the epoch, UTC.
    deadline: i64,
    #[serde(flatten)]
    body: DeadLetterRequest,
}

/// Where a request that was left stands.
#[derive(Debug, PartialEq, Eq)]
pub enum RequestStatus {
    /// Nobody has taken it up yet.
    Waiting,
    /// It is being carried out.
    Taken,
    /// It has been answered: what became of the letters, or why nothing did.
    Answered(Result<ReplayCounts, String>),
}

impl ControlInbox {
    /// The inbox below a corp's state folder.
    pub fn at(corp_folder: &Path) -> Self {
        Self {
            folder: corp_folder.join("dlq"),
        }
    }

    fn path(&self, id: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{id}.{kind}"))
    }

    /// Leaves a request, void after `deadline`, and gives its id.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn leave(&self, body: DeadLetterRequest, deadline: i64) -> Result<String, StateError> {
        std::fs::create_dir_all(&self.folder).map_err(StateError::io(&self.folder))?;
        let id = format!("{:013}-{:016x}", now_ms(), rand::random::<u64>());
        let path = self.path(&id, "request");
        let text = serde_json::to_vec(&Form { deadline, body })
            .map_err(|error| StateError::damaged(&path, error.to_string()))?;
        write_whole(&path, &text).map_err(StateError::io(&path))?;
        Ok(id)
    }

    /// Where a request stands.
    ///
    /// # Errors
    /// The answer cannot be read.
    pub fn state(&self, id: &str) -> Result<RequestStatus, StateError> {
        let path = self.path(id, "answer");
        match std::fs::read(&path) {
            Ok(text) => {
                let answer = serde_json::from_slice(&text)
                    .map_err(|error| StateError::damaged(&path, error.to_string()))?;
                std::fs::remove_file(&path).map_err(StateError::io(&path))?;
                Ok(RequestStatus::Answered(answer))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let waiting = self.path(id, "request").exists();
                Ok(if waiting {
                    RequestStatus::Waiting
                } else {
                    RequestStatus::Taken
                })
            }
            Err(error) => Err(StateError::io(&path)(error)),
        }
    }

    /// Takes a request back; false if it has been taken up.
    pub fn withdraw(&self, id: &str) -> bool {
        std::fs::remove_file(self.path(id, "request")).is_ok()
    }

    /// Takes the oldest request up, if there is one. Void ones and old answers are removed.
    pub fn take(&self) -> Option<Taken> {
        let entries = std::fs::read_dir(&self.folder).ok()?;
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        files.sort();
        let now = now_ms();
        for file in files {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let Some((id, kind)) = name.split_once('.') else {
                continue;
            };
            let left = id.split('-').next().and_then(|at| at.parse::<i64>().ok());
            if kind != "request" {
                if left.is_none_or(|at| now - at > KEPT) {
                    std::fs::remove_file(&file).ok();
                }
                continue;
            }
            let form = std::fs::read(&file)
                .ok()
                .and_then(|text| serde_json::from_slice::<Form>(&text).ok());
            match form {
                Some(form) if form.deadline >= now => {
                    // Whoever left it may withdraw it at this moment: one of the two gets it.
                    if std::fs::rename(&file, self.path(id, "taken")).is_ok() {
                        return Some(Taken {
                            id: id.to_owned(),
                            body: form.body,
                        });
                    }
                }
                _ => {
                    std::fs::remove_file(&file).ok();
                }
            }
        }
        None
    }

    /// Answers a request.
    pub fn answer(&self, request: &Taken, answer: &Result<ReplayCounts, String>) {
        let path = self.path(&request.id, "answer");
        let written = serde_json::to_vec(answer)
            .map_err(std::io::Error::from)
            .and_then(|text| write_whole(&path, &text));
        if let Err(error) = written {
            warn!(%error, "the answer to a request cannot be written");
        }
        std::fs::remove_file(self.path(&request.id, "taken")).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter_index::DeadLetterFilter;

    fn request() -> DeadLetterRequest {
        DeadLetterRequest::Replay {
            filter: DeadLetterFilter::default(),
            actor: "zhangsan".into(),
        }
    }

    #[test]
    fn request_is_taken_once_and_its_answer_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let inbox = ControlInbox::at(folder.path());
        assert!(inbox.take().is_none());
        let id = inbox.leave(request(), i64::MAX).unwrap();
        assert_eq!(inbox.state(&id).unwrap(), RequestStatus::Waiting);
        let taken = inbox.take().unwrap();
        assert!(
            matches!(&taken.body, DeadLetterRequest::Replay { actor, .. } if actor == "zhangsan")
        );
        assert!(inbox.take().is_none());
        assert!(!inbox.withdraw(&id));
        assert_eq!(inbox.state(&id).unwrap(), RequestStatus::Taken);
        let outcome = ReplayCounts {
            replayed: 3,
            ..ReplayCounts::default()
        };
        inbox.answer(&taken, &Ok(outcome));
        assert_eq!(
            inbox.state(&id).unwrap(),
            RequestStatus::Answered(Ok(outcome))
        );
        assert_eq!(
            std::fs::read_dir(folder.path().join("dlq"))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn void_withdrawn_and_unreadable_requests_are_not_carried_out() {
        let folder = tempfile::tempdir().unwrap();
        let inbox = ControlInbox::at(folder.path());
        inbox.leave(request(), 0).unwrap();
        let id = inbox.leave(request(), i64::MAX).unwrap();
        assert!(inbox.withdraw(&id));
        std::fs::write(folder.path().join("dlq/0-0.request"), "{").unwrap();
        assert!(inbox.take().is_none());
        assert_eq!(
            std::fs::read_dir(folder.path().join("dlq"))
                .unwrap()
                .count(),
            0
        );
    }
}
