//! `chatledger check`

use chatledger_rules::{RuleSet, RuleState};
use chatledger_schemas::config::Mode;
use comfy_table::{Table, presets};
use serde_json::json;

use super::say;
use crate::cli::CheckArgs;
use crate::config::{self, Settings};
use crate::exit::{Failure, chain};
use crate::kafka_log::Names;
use crate::{rules_dir, wiring};

/// Checks the configuration and what it names.
pub async fn check(args: CheckArgs) -> Result<(), Failure> {
    let settings = config::load(&args.config).map_err(Failure::config)?;
    let rules = rules_dir::configured(settings.rules_dir.as_deref())?;
    if settings.driver.mode == Mode::Kafka {
        settings.kafka.warn_of_plain_text();
    }
    let peers = if args.connect {
        connect(&settings).await?
    } else {
        Vec::new()
    };
    if args.json {
        say(&as_json(&settings, &rules, &peers).to_string())?;
    } else {
        print(&settings, &rules, &peers)?;
    }
    match peers.iter().find(|peer| peer.error.is_some()) {
        Some(_) => Err(Failure::unreachable("not everything answers; see above")),
        None => Ok(()),
    }
}

struct Peer {
    what: String,
    error: Option<String>,
}

async fn connect(settings: &Settings) -> Result<Vec<Peer>, Failure> {
    let mut peers = Vec::new();
    let mut add = |what: String, error: Option<String>| peers.push(Peer { what, error });
    for sink in &settings.sinks {
        let answer = sink.probe.answers().await;
        let what = format!("{} {}", sink.title, sink.address);
        add(what, answer.err().map(|error| error.to_string()));
    }
    for corp in &settings.corps {
        let archive = wiring::archive(corp, std::sync::Arc::new(|_, _| {}))?;
        let answer = archive.page(i64::MAX as u64).await;
        let what = format!(
            "archive of {} at {}",
            corp.id,
            config::redacted(&corp.base_url)
        );
        add(what, answer.err().map(|error| chain(&error)));
        if let Some((client, address)) = wiring::directory_probe(corp)? {
            let what = format!("directory of {} at {}", corp.id, config::redacted(&address));
            add(what, client.probe().await.err().map(|error| chain(&error)));
        }
    }
    if settings.driver.mode == chatledger_schemas::config::Mode::Kafka {
        let kafka = &settings.kafka;
        let topics = Names::new(kafka, String::new()).topics(kafka);
        let answer = chatledger_kafka::topic_problems(&kafka.brokers, &topics).await;
        let what = format!("Kafka {}", kafka.brokers.bootstrap);
        match answer {
            Ok(problems) => {
                add(what, None);
                for problem in problems {
                    let mended = format!("{}. {}", problem.what, problem.mend);
                    add(format!("topic {}", problem.topic), Some(mended));
                }
            }
            Err(error) => add(what, Some(chain(&error))),
        }
    }
    Ok(peers)
}

fn as_json(settings: &Settings, rules: &RuleSet, peers: &[Peer]) -> serde_json::Value {
    let corps = settings.corps.iter().map(
        |corp| json!({ "id": corp.id, "keys": corp.keys.versions(), "directory": corp.directory.is_some() }),
    );
    let rules = rules.rules().iter().map(|rule| {
        let why = match &rule.state {
            RuleState::Active => None,
            RuleState::Inactive(why) => Some(why.to_string()),
        };
        json!({ "id": rule.id, "name": rule.name, "severity": rule.severity, "words": rule.words,
                "active": rule.is_active(), "inactive_because": why })
    });
    let peers = peers
        .iter()
        .map(|peer| json!({ "what": peer.what, "ok": peer.error.is_none(), "error": peer.error }));
    json!({
        "corps": corps.collect::<Vec<_>>(),
        "rules": rules.collect::<Vec<_>>(),
        "peers": peers.collect::<Vec<_>>(),
    })
}

fn print(settings: &Settings, rules: &RuleSet, peers: &[Peer]) -> Result<(), Failure> {
    for corp in &settings.corps {
        let keys: Vec<String> = corp
            .keys
            .versions()
            .iter()
            .map(ToString::to_string)
            .collect();
        let names = if corp.directory.is_some() {
            ""
        } else {
            "; no directory: names stay empty"
        };
        let keys = keys.join(", ");
        say(&format!(
            "corp {}: private keys of versions {keys}{names}",
            corp.id
        ))?;
    }
    if !rules.rules().is_empty() {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(vec!["rule", "name", "severity", "words", "active"]);
        for rule in rules.rules() {
            let state = match &rule.state {
                RuleState::Active => "yes".to_owned(),
                RuleState::Inactive(why) => format!("no: {why}"),
            };
            table.add_row(vec![
                rule.id.clone(),
                rule.name.clone(),
                rule.severity.as_str().to_owned(),
                rule.words.to_string(),
                state,
            ]);
        }
        say(&table.to_string())?;
    }
    for peer in peers {
        match &peer.error {
            None => say(&format!("{}: answers", peer.what))?,
            Some(error) => say(&format!("{}: {error}", peer.what))?,
        }
    }
    say("The configuration is valid.")
}
