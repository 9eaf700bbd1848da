//! `chatledger dlq`: lists, shows, replays and discards dead letters.
//!
//! `list` and `show` only read, also while a process runs. `replay` and `drop` depend on where the
//! driver keeps dead letters: [`state`] hands the request to the running process or does it itself,
//! [`log`] writes to the topic.

mod log;
mod show;
mod state;

use std::collections::BTreeSet;

use chatledger_directory::Directory;
use chatledger_engine::dead_letter_index::{DeadLetterFilter, DeadLetterIndex, Retained};
use chatledger_engine::dead_letter_requests::{DeadLetterRequest, ReplayCounts, Requester};
use chatledger_engine::shared::now_ms;
use chatledger_engine::stages::{PulledRecord, Tools, process};
use chatledger_engine::window::Window;
use chatledger_rules::RuleSet;
use chatledger_schemas::config::Mode;
use chatledger_schemas::directory::Snapshot;
use chatledger_schemas::{DeadLetter, DeadLetterEvent};

use self::log::Topic;
use self::show::{list, print_counts, show};
use self::state::StateFolder;
use crate::cli::{DlqArgs, DlqCommand, FilterArgs};
use crate::config::{self, Settings};
use crate::exit::Failure;

/// A dead letter to be printed, with or without its sealed record.
pub(crate) struct Shown(pub(crate) DeadLetter);

impl Retained for Shown {
    fn failed(&mut self, event: &DeadLetterEvent) {
        self.0.error.clone_from(&event.error);
    }
}

/// Where the driver keeps dead letters.
enum Backend {
    StateFolder(StateFolder),
    Topic(Topic),
}

impl Backend {
    async fn read(
        &self,
        sealed: bool,
        filter: &DeadLetterFilter,
    ) -> Result<DeadLetterIndex<Shown>, Failure> {
        // Sealed records are large; only those asked for are kept.
        let retain = |dead_letter: &DeadLetter| {
            let wanted = sealed
                && filter.from_seq.is_none_or(|from| dead_letter.seq >= from)
                && filter.to_seq.is_none_or(|to| dead_letter.seq <= to);
            let mut own = dead_letter.clone();
            if !wanted {
                own.sealed = String::new();
            }
            Shown(own)
        };
        match self {
            Self::StateFolder(folder) => folder.read(retain),
            Self::Topic(topic) => topic.read(retain).await,
        }
    }

    async fn serve(
        &self,
        request: DeadLetterRequest,
        wait: std::time::Duration,
    ) -> Result<ReplayCounts, Failure> {
        match self {
            Self::StateFolder(folder) => folder.serve(request, wait).await,
            Self::Topic(topic) => topic.serve(request, wait).await,
        }
    }
}

/// Runs the command.
pub async fn dlq(args: DlqArgs) -> Result<(), Failure> {
    let Some(file) = args.config else {
        return Err(Failure::config("--config FILE is missing"));
    };
    let settings = config::load(&file).map_err(Failure::config)?;
    let which = match &args.command {
        DlqCommand::List { which, .. }
        | DlqCommand::Replay { which, .. }
        | DlqCommand::Drop { which, .. } => filter(which),
        DlqCommand::Show {
            corp, seq, msgid, ..
        } => DeadLetterFilter {
            corp: corp.clone(),
            from_seq: Some(*seq),
            to_seq: Some(*seq),
            msgid: msgid.clone(),
            ..DeadLetterFilter::default()
        },
    };
    if let Some(corp) = &which.corp
        && !settings.corps.iter().any(|own| own.id.as_str() == corp)
    {
        let own: Vec<&str> = settings.corps.iter().map(|corp| corp.id.as_str()).collect();
        let own = own.join(", ");
        let what = format!("--corp {corp}: not in the configuration; it has {own}");
        return Err(Failure::config(what));
    }
    let backend = match settings.driver.mode {
        Mode::Direct => Backend::StateFolder(StateFolder::new(&settings, &file)),
        Mode::Kafka => Backend::Topic(Topic::new(&settings).await?),
    };
    match args.command {
        DlqCommand::List { limit, json, .. } => {
            list(&backend.read(false, &which).await?, &which, limit, json)
        }
        DlqCommand::Show { json, .. } => show(&backend.read(true, &which).await?, &which, json),
        DlqCommand::Replay {
            dry_run,
            wait,
            json,
            ..
        } => {
            let outcome = if dry_run {
                would_open(&settings, &backend.read(true, &which).await?, &which)
            } else {
                let actor = actor();
                let filter = which;
                backend
                    .serve(DeadLetterRequest::Replay { filter, actor }, wait)
                    .await?
            };
            print_counts(outcome, dry_run, json)
        }
        DlqCommand::Drop {
            because,
            yes,
            dry_run,
            wait,
            json,
            ..
        } => {
            if because.trim().is_empty() {
                return Err(Failure::config(
                    "--because: missing; accepted: the reason, for the record",
                ));
            }
            if dry_run || !yes {
                let open = backend.read(false, &which).await?;
                let dropped = open.select(None, &which, usize::MAX).len() as u64;
                let outcome = ReplayCounts {
                    dropped,
                    ..ReplayCounts::default()
                };
                print_counts(outcome, true, json)?;
                if dry_run {
                    return Ok(());
                }
                return Err(Failure::refused(
                    "nothing was discarded; add --yes to discard these dead letters permanently",
                ));
            }
            let request = DeadLetterRequest::Drop {
                filter: which,
                actor: actor(),
                because,
            };
            print_counts(backend.serve(request, wait).await?, false, json)
        }
    }
}

fn filter(which: &FilterArgs) -> DeadLetterFilter {
    DeadLetterFilter {
        corp: which.corp.clone(),
        reasons: which.reason.iter().copied().collect::<BTreeSet<_>>(),
        from_seq: which.from_seq,
        to_seq: which.to_seq,
        since: which.since,
        until: which.until,
        ..DeadLetterFilter::default()
    }
}

/// Counts what the configured keys would open.
fn would_open(
    settings: &Settings,
    dead_letters: &DeadLetterIndex<Shown>,
    which: &DeadLetterFilter,
) -> ReplayCounts {
    let mut outcome = ReplayCounts::default();
    let requester = Requester {
        actor: actor(),
        at: now_ms(),
    };
    let selected = dead_letters.select(None, which, usize::MAX);
    for corp in &settings.corps {
        let own = selected.iter().filter(|key| key.corp_id == corp.id);
        let pulled = own.map(|key| requester.again(&dead_letters.open()[key].retained.0));
        let tools = Tools {
            corp_id: &corp.id,
            opener: &*corp.keys,
            directory: &Directory::new(Snapshot::empty(corp.id.clone())),
            rules: &RuleSet::default(),
        };
        let pulled: Vec<PulledRecord> = pulled.collect();
        let mut window = Window::new(pulled.len().max(1));
        let processed = process(&tools, pulled, &mut window, |_| {});
        for event in processed.iter().flat_map(|done| &done.batch.events) {
            outcome.count(event.event);
        }
    }
    outcome
}

/// The user who runs the command, for the record.
fn actor() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}
