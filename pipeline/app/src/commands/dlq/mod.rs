//! `chatledger dlq`: dead letters, for people. Where they are kept is the driver's.
//!
//! `list` and `show` only read, also beside a running process. What changes something is done by
//! whoever holds the letters: [`state`] hands it to the running process or takes its retained, [`log`]
//! writes to the topic.

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

use self::log::Log;
use self::show::{list, show, tell};
use self::state::State;
use crate::cli::{DlqArgs, DlqCommand, FilterArgs};
use crate::config::{self, Settings};
use crate::exit::Failure;

/// What is remembered of a letter to be shown: all of it, or all but its record.
pub(crate) struct Shown(pub(crate) DeadLetter);

impl Retained for Shown {
    fn failed(&mut self, event: &DeadLetterEvent) {
        self.0.error.clone_from(&event.error);
    }
}

/// Where the letters are.
enum Letterbox {
    State(State),
    Log(Log),
}

impl Letterbox {
    async fn read(
        &self,
        sealed: bool,
        filter: &DeadLetterFilter,
    ) -> Result<DeadLetterIndex<Shown>, Failure> {
        // Records are many and large; only those requester for are held.
        let retained = |letter: &DeadLetter| {
            let wanted = sealed
                && filter.from_seq.is_none_or(|from| letter.seq >= from)
                && filter.to_seq.is_none_or(|to| letter.seq <= to);
            let mut own = letter.clone();
            if !wanted {
                own.sealed = String::new();
            }
            Shown(own)
        };
        match self {
            Self::State(state) => state.read(retained),
            Self::Log(log) => log.read(retained).await,
        }
    }

    async fn serve(
        &self,
        request: DeadLetterRequest,
        wait: std::time::Duration,
    ) -> Result<ReplayCounts, Failure> {
        match self {
            Self::State(state) => state.serve(request, wait).await,
            Self::Log(log) => log.serve(request, wait).await,
        }
    }
}

/// Carries the command out.
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
        let what = format!("--corp {corp}: not in the configuration, which has {own}");
        return Err(Failure::config(what));
    }
    let letters = match settings.driver.mode {
        Mode::Direct => Letterbox::State(State::new(&settings, &file)),
        Mode::Kafka => Letterbox::Log(Log::new(&settings).await?),
    };
    match args.command {
        DlqCommand::List { limit, json, .. } => {
            list(&letters.read(false, &which).await?, &which, limit, json)
        }
        DlqCommand::Show { json, .. } => show(&letters.read(true, &which).await?, &which, json),
        DlqCommand::Replay {
            dry_run,
            wait,
            json,
            ..
        } => {
            let outcome = if dry_run {
                would_open(&settings, &letters.read(true, &which).await?, &which)
            } else {
                let actor = actor();
                let filter = which;
                letters
                    .serve(DeadLetterRequest::Replay { filter, actor }, wait)
                    .await?
            };
            tell(outcome, dry_run, json)
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
                return Err(Failure::config("--because: it takes a reason"));
            }
            if dry_run || !yes {
                let open = letters.read(false, &which).await?;
                let dropped = open.select(None, &which, usize::MAX).len() as u64;
                let outcome = ReplayCounts {
                    dropped,
                    ..ReplayCounts::default()
                };
                tell(outcome, true, json)?;
                if dry_run {
                    return Ok(());
                }
                return Err(Failure::refused(
                    "没有删除任何死信：确认放弃请加 --yes（nothing dropped; add --yes to really do it）",
                ));
            }
            let request = DeadLetterRequest::Drop {
                filter: which,
                actor: actor(),
                because,
            };
            tell(letters.serve(request, wait).await?, false, json)
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

/// What the keys of the configuration would open.
fn would_open(
    settings: &Settings,
    letters: &DeadLetterIndex<Shown>,
    which: &DeadLetterFilter,
) -> ReplayCounts {
    let mut outcome = ReplayCounts::default();
    let requester = Requester {
        actor: actor(),
        at: now_ms(),
    };
    let chosen = letters.select(None, which, usize::MAX);
    for corp in &settings.corps {
        let own = chosen.iter().filter(|key| key.corp_id == corp.id);
        let pulled = own.map(|key| requester.again(&letters.open()[key].retained.0));
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

/// Who gives the command, for the trace.
fn actor() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}
