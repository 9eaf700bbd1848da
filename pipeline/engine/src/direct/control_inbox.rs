//! Requests to a running process, as files in its state folder: each is accepted once or not at all.
//!
//! A command submits `dlq/<id>.request`, which appears whole. The process that holds the folder's
//! lock renames it to `<id>.taken` before it carries the request out, and answers with
//! `<id>.answer`. A request not accepted before its deadline is void. An accepted request is carried
//! out whether or not anybody reads the answer.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::StateError;
use super::state_file::{FormVersion, StateFile};
use crate::dead_letter_requests::{DeadLetterRequest, ReplayCounts};
use crate::fault::error_chain;
use crate::shared::now_ms;

/// Requests of release 0.1 have no version.
const REQUEST_VERSION: FormVersion = FormVersion::Optional(1);
/// How long an answer that nobody reads is kept, in milliseconds.
const ANSWER_KEPT_MS: i64 = 3_600_000;

const REQUEST: &str = "request";
const ACCEPTED: &str = "taken";
const ANSWER: &str = "answer";

/// The control inbox of one corp.
pub struct ControlInbox {
    folder: PathBuf,
}

/// A request that was accepted.
pub struct AcceptedRequest {
    id: String,
    /// What is requested.
    pub body: DeadLetterRequest,
}

#[derive(Serialize, Deserialize)]
struct SubmittedRequest {
    /// Milliseconds since the epoch, UTC.
    deadline: i64,
    #[serde(flatten)]
    body: DeadLetterRequest,
}

/// What happened to a submitted request.
#[derive(Debug, PartialEq, Eq)]
pub enum RequestStatus {
    /// It has not been accepted yet.
    Pending,
    /// It is being carried out.
    Accepted,
    /// It was carried out, or failed with this error.
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

    fn request_file(path: PathBuf) -> StateFile<SubmittedRequest> {
        StateFile::new(path, REQUEST_VERSION)
    }

    /// Answers carry no version: release 0.1 reads one key, `Ok` or `Err`.
    fn answer_file(&self, id: &str) -> StateFile<Result<ReplayCounts, String>> {
        StateFile::new(self.path(id, ANSWER), FormVersion::Unversioned)
    }

    /// Submits a request and returns its id. `deadline` is in milliseconds since the epoch, UTC.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn submit(&self, body: DeadLetterRequest, deadline: i64) -> Result<String, StateError> {
        std::fs::create_dir_all(&self.folder).map_err(StateError::io(&self.folder))?;
        let id = format!("{:013}-{:016x}", now_ms(), rand::random::<u64>());
        let file = Self::request_file(self.path(&id, REQUEST));
        file.write(&SubmittedRequest { deadline, body })?;
        Ok(id)
    }

    /// Returns what happened to a request. An answer is returned once, then removed.
    ///
    /// # Errors
    /// The answer cannot be read.
    pub fn status(&self, id: &str) -> Result<RequestStatus, StateError> {
        let file = self.answer_file(id);
        if let Some(answer) = file.read()? {
            file.remove()?;
            return Ok(RequestStatus::Answered(answer));
        }
        Ok(if self.path(id, REQUEST).exists() {
            RequestStatus::Pending
        } else {
            RequestStatus::Accepted
        })
    }

    /// Withdraws a request; false if it has been accepted.
    pub fn withdraw(&self, id: &str) -> bool {
        std::fs::remove_file(self.path(id, REQUEST)).is_ok()
    }

    /// Accepts the oldest request, if there is one. Removes void requests and old answers.
    pub fn accept(&self) -> Option<AcceptedRequest> {
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
            if kind == REQUEST {
                if let Some(accepted) = self.accept_file(&file, id, now) {
                    return Some(accepted);
                }
                continue;
            }
            let submitted = id.split('-').next().and_then(|at| at.parse::<i64>().ok());
            if submitted.is_none_or(|at| now - at > ANSWER_KEPT_MS) {
                std::fs::remove_file(&file).ok();
            }
        }
        None
    }

    /// Accepts one request, or removes it if it is void or unreadable.
    fn accept_file(&self, path: &Path, id: &str, now: i64) -> Option<AcceptedRequest> {
        match Self::request_file(path.to_owned()).read() {
            Ok(Some(request)) if request.deadline >= now => {
                // It may be withdrawn at this moment: either the rename or the removal succeeds.
                std::fs::rename(path, self.path(id, ACCEPTED)).ok()?;
                Some(AcceptedRequest {
                    id: id.to_owned(),
                    body: request.body,
                })
            }
            _ => {
                std::fs::remove_file(path).ok();
                None
            }
        }
    }

    /// Answers a request.
    pub fn answer(&self, request: &AcceptedRequest, answer: &Result<ReplayCounts, String>) {
        if let Err(error) = self.answer_file(&request.id).write(answer) {
            warn!(error = error_chain(&error), "cannot answer a request");
        }
        std::fs::remove_file(self.path(&request.id, ACCEPTED)).ok();
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

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder.join("dlq")).unwrap().count()
    }

    #[test]
    fn request_is_accepted_once_and_its_answer_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let inbox = ControlInbox::at(folder.path());
        assert!(inbox.accept().is_none());
        let id = inbox.submit(request(), i64::MAX).unwrap();
        assert_eq!(inbox.status(&id).unwrap(), RequestStatus::Pending);
        let accepted = inbox.accept().unwrap();
        assert!(
            matches!(&accepted.body, DeadLetterRequest::Replay { actor, .. } if actor == "zhangsan")
        );
        assert!(inbox.accept().is_none());
        assert!(!inbox.withdraw(&id));
        assert_eq!(inbox.status(&id).unwrap(), RequestStatus::Accepted);
        let counts = ReplayCounts {
            replayed: 3,
            ..ReplayCounts::default()
        };
        inbox.answer(&accepted, &Ok(counts));
        assert_eq!(
            inbox.status(&id).unwrap(),
            RequestStatus::Answered(Ok(counts))
        );
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn void_withdrawn_and_unreadable_requests_are_not_carried_out() {
        let folder = tempfile::tempdir().unwrap();
        let inbox = ControlInbox::at(folder.path());
        inbox.submit(request(), 0).unwrap();
        let id = inbox.submit(request(), i64::MAX).unwrap();
        assert!(inbox.withdraw(&id));
        std::fs::write(folder.path().join("dlq/0-0.request"), "{").unwrap();
        assert!(inbox.accept().is_none());
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn request_and_answer_of_an_earlier_release_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let inbox = ControlInbox::at(folder.path());
        let at = |name: &str| folder.path().join("dlq").join(name);
        std::fs::create_dir(folder.path().join("dlq")).unwrap();
        let request = r#"{"deadline":9223372036854775807,"command":"drop","filter":{"corp":null,"reasons":["unknown_key_version"],"key_versions":[3],"from_seq":1,"to_seq":18446744073709551615,"since":null,"until":null,"msgid":null},"actor":"lisi","because":"test"}"#;
        std::fs::write(at("1700000000000-0.request"), request).unwrap();
        let accepted = inbox.accept().unwrap();
        let DeadLetterRequest::Drop { filter, actor, .. } = accepted.body else {
            panic!("another command");
        };
        assert_eq!((actor.as_str(), filter.to_seq), ("lisi", Some(u64::MAX)));
        for (text, answer) in [
            (
                r#"{"Ok":{"replayed":1,"duplicates":0,"failed":0,"dropped":2,"waiting":0}}"#,
                Ok(ReplayCounts {
                    replayed: 1,
                    dropped: 2,
                    ..ReplayCounts::default()
                }),
            ),
            (r#"{"Err":"state"}"#, Err("state".to_owned())),
        ] {
            std::fs::write(at("1-1.answer"), text).unwrap();
            let status = inbox.status("1-1").unwrap();
            assert_eq!(status, RequestStatus::Answered(answer));
        }
    }
}
