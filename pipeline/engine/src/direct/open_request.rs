//! Requests to open dead letters, answered by the one part that knows which messages were opened.
//!
//! While a pipeline runs that is the processor; offline it is [`super::offline`]. Delivery, which may
//! wait for a sink, does not happen there and delays nothing.

use std::sync::Arc;

use chatledger_crypto::Opener;
use chatledger_directory::Directory;
use chatledger_rules::RuleSet;
use chatledger_schemas::CorpId;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::StateError;
use super::dead_letter_store::SharedDeadLetterStore;
use super::replay::{OpenedDeadLetters, PreparedReplay, ReplayFiles, ResumeError, prepare, resume};
use super::replay_plan::ReplayFile;
use super::state::KnownMessages;
use crate::dead_letter_index::DeadLetterKey;
use crate::dead_letter_requests::Requester;
use crate::shared::Current;
use crate::stages::{Processed, ProcessedRecord, Tools};

/// What a replay needs opened.
pub(super) enum OpenRequest {
    /// Open these and store what is to be delivered.
    Prepare {
        /// The dead letters.
        selected: Vec<DeadLetterKey>,
        /// On whose behalf.
        requester: Requester,
        /// Receives the answer.
        answer: oneshot::Sender<Result<OpenedDeadLetters, StateError>>,
    },
    /// Open what an earlier process has planned.
    Resume {
        /// Receives the answer.
        answer: oneshot::Sender<Result<Option<PreparedReplay>, ResumeError>>,
    },
}

/// Submits an [`OpenRequest`]; false if nobody answers any more.
pub(super) type SubmitOpenRequest =
    Box<dyn Fn(OpenRequest) -> BoxFuture<'static, bool> + Send + Sync>;

/// What the stages need for one corp. Keys, directory and rules are replaced while it runs.
pub(super) struct CorpTools {
    /// The corp.
    pub(super) corp_id: CorpId,
    /// Its keys.
    pub(super) opener: Arc<dyn Opener>,
    /// Its directory.
    pub(super) directory: Arc<Current<Directory>>,
    /// The rules.
    pub(super) rules: Arc<Current<RuleSet>>,
}

impl CorpTools {
    /// Calls `work` with the directory and rules as they are now.
    pub(super) fn with<T>(&self, work: impl FnOnce(&Tools<'_>) -> T) -> T {
        let (directory, rules) = (self.directory.get(), self.rules.get());
        work(&Tools {
            corp_id: &self.corp_id,
            opener: &*self.opener,
            directory: &directory,
            rules: &rules,
        })
    }
}

/// Answers requests to open dead letters.
pub(super) struct DeadLetterOpener {
    /// What the stages need.
    pub(super) tools: Arc<CorpTools>,
    /// Where replays are planned.
    pub(super) replay_file: ReplayFile,
    /// The dead letters.
    pub(super) dead_letters: SharedDeadLetterStore,
}

impl DeadLetterOpener {
    /// Answers a request. `settle` makes what became of dead letters durable in the ledger; `count`
    /// receives what the stages made of newly opened records.
    pub(super) fn answer(
        &self,
        request: OpenRequest,
        known: &mut KnownMessages,
        settle: &mut dyn FnMut(&[ProcessedRecord]) -> Result<(), StateError>,
        count: impl FnOnce(&Processed),
    ) {
        let store = self.dead_letters.lock();
        let mut files = ReplayFiles {
            plan: &self.replay_file,
            store: &store,
            settle,
        };
        // Nobody may be waiting for the answer any more; the next start resumes a stored plan.
        match request {
            OpenRequest::Prepare {
                selected,
                requester,
                answer,
            } => {
                let opened = self
                    .tools
                    .with(|tools| prepare(tools, &mut files, known, &selected, &requester));
                if let Ok(OpenedDeadLetters {
                    processed: Some(processed),
                    ..
                }) = &opened
                {
                    count(processed);
                }
                answer.send(opened).ok();
            }
            OpenRequest::Resume { answer } => {
                let resumed = self.tools.with(|tools| resume(tools, &mut files));
                answer.send(resumed).ok();
            }
        }
    }
}
