//! Arms fail points from the environment, for the crash matrix. Only built with the cargo feature
//! `failpoints`; releases do not have it.
//!
//! `CHATLEDGER_FAILPOINTS` is either `list`, which prints the points as JSON and exits, or a list
//! of `POINT=ACTION` or `POINT=ACTION@N` separated by `;`, where N is the Nth time the point is
//! passed (default: the first). Point `*` means all points not named. Actions:
//!
//! | action | at the Nth passing |
//! |---|---|
//! | `kill` | the process sends itself SIGKILL |
//! | `error` | the step returns a fault, as if it had failed |
//! | `delay:MS` | the thread sleeps |
//! | `log` | nothing; every passing is logged |
//!
//! The action is logged before it is taken: `fail point POINT: ACTION`. An error is logged by the
//! code that receives it.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chatledger_engine::failpoint::FailPoint;
use tracing::warn;

use crate::sinks;

const VARIABLE: &str = "CHATLEDGER_FAILPOINTS";

/// What the environment asked for.
pub enum Armed {
    /// To run with the points armed.
    ToRun,
    /// The list, which was printed.
    ForTheList,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Error,
    Delay(Duration),
    Log,
}

#[derive(Debug, PartialEq, Eq)]
struct Order<'a> {
    point: &'a str,
    action: Action,
    passing: u64,
}

/// Arms the points.
///
/// # Errors
/// The variable has another form or names an unknown point.
pub fn arm() -> anyhow::Result<Armed> {
    let Ok(text) = std::env::var(VARIABLE) else {
        return Ok(Armed::ToRun);
    };
    if text == "list" {
        serde_json::to_writer(std::io::stdout(), &sinks::fail_points())?;
        writeln!(std::io::stdout())?;
        return Ok(Armed::ForTheList);
    }
    let points = sinks::fail_points();
    for order in text.split(';').filter(|part| !part.is_empty()) {
        let order = parse(order, &points)
            .ok_or_else(|| anyhow::anyhow!("{VARIABLE}: {order:?} is not POINT=ACTION@N"))?;
        for point in &points {
            let named = order.point == point.name;
            let others = order.point == "*" && !text.contains(&point.name);
            if named || others {
                set(&point.name, order.action, order.passing)
                    .map_err(|error| anyhow::anyhow!("{VARIABLE}: {error}"))?;
            }
        }
    }
    Ok(Armed::ToRun)
}

fn parse<'a>(order: &'a str, points: &[FailPoint]) -> Option<Order<'a>> {
    let (point, rest) = order.split_once('=')?;
    let known = point == "*" || points.iter().any(|known| known.name == point);
    let (action, passing) = match rest.split_once('@') {
        Some((action, passing)) => (action, passing.parse().ok().filter(|n| *n > 0)?),
        None => (rest, 1),
    };
    let action = match action {
        "kill" => Action::Kill,
        "error" => Action::Error,
        "log" => Action::Log,
        _ => Action::Delay(Duration::from_millis(
            action.strip_prefix("delay:")?.parse().ok()?,
        )),
    };
    known.then_some(Order {
        point,
        action,
        passing,
    })
}

fn set(point: &str, action: Action, passing: u64) -> Result<(), String> {
    if action == Action::Error {
        let before = match passing - 1 {
            0 => String::new(),
            passed => format!("{passed}*off->"),
        };
        return fail::cfg(point, &format!("{before}1*return->off"));
    }
    let passed = AtomicU64::new(0);
    let name = point.to_owned();
    fail::cfg_callback(point, move || {
        let now = passed.fetch_add(1, Ordering::Relaxed) + 1;
        match action {
            Action::Log | Action::Error => warn!("fail point {name}: passed"),
            _ if now != passing => {}
            Action::Kill => {
                warn!("fail point {name}: kill");
                kill();
            }
            Action::Delay(time) => {
                warn!("fail point {name}: delay");
                std::thread::sleep(time);
            }
        }
    })
}

/// Ends this process as `kill -9` does. Nothing runs after it.
fn kill() {
    use rustix::process::{Signal, getpid, kill_process};
    if kill_process(getpid(), Signal::KILL).is_ok() {
        loop {
            std::thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_parsed_and_others_refused() {
        let points = sinks::fail_points();
        let parse = |order| parse(order, &points);
        let order = parse("clickhouse.batch_recorded=kill@3").unwrap();
        assert_eq!((order.action, order.passing), (Action::Kill, 3));
        let order = parse("source.begun=delay:250").unwrap();
        let time = Duration::from_millis(250);
        assert_eq!((order.action, order.passing), (Action::Delay(time), 1));
        for wrong in [
            "",
            "kill",
            "nowhere.at_all=kill",
            "source.begun=kill@0",
            "source.begun=burn",
            "source.begun=delay:soon",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
