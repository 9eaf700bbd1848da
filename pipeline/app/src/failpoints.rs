//! Arms fail points as the crash matrix asks for it in the environment. Built with the cargo feature
//! `failpoints` alone; a release has none of this.
//!
//! `CHATLEDGER_FAILPOINTS` is `list`, which prints the points as JSON and ends, or a list divided by
//! `;` of `POINT=ACTION` or `POINT=ACTION@N`, for the Nth passing (the first if not given). Point `*`
//! stands for all others. Actions:
//!
//! | action | at the Nth passing |
//! |---|---|
//! | `kill` | the process sends itself SIGKILL |
//! | `error` | the step returns a fault, as if it had failed |
//! | `delay:MS` | the thread stands still for so long |
//! | `log` | nothing; every passing is told |
//!
//! What is done is told in the log before it is done: `fail point POINT: ACTION`. An error is told by
//! whoever is given it.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chatledger_engine::failpoint::ALL;
use tracing::warn;

const VARIABLE: &str = "CHATLEDGER_FAILPOINTS";

/// What the environment asks for.
pub enum Requester {
    /// To go on, with the points armed.
    ToRun,
    /// The list, which has been printed.
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
/// The variable is of another form, or names a point that is not there.
pub fn arm() -> anyhow::Result<Requester> {
    let Ok(text) = std::env::var(VARIABLE) else {
        return Ok(Requester::ToRun);
    };
    if text == "list" {
        serde_json::to_writer(std::io::stdout(), ALL)?;
        writeln!(std::io::stdout())?;
        return Ok(Requester::ForTheList);
    }
    for order in text.split(';').filter(|part| !part.is_empty()) {
        let order = parse(order)
            .ok_or_else(|| anyhow::anyhow!("{VARIABLE}: {order:?} is not POINT=ACTION@N"))?;
        for point in ALL {
            let named = order.point == point.name;
            let others = order.point == "*" && !text.contains(point.name);
            if named || others {
                set(point.name, order.action, order.passing)
                    .map_err(|error| anyhow::anyhow!("{VARIABLE}: {error}"))?;
            }
        }
    }
    Ok(Requester::ToRun)
}

fn parse(order: &str) -> Option<Order<'_>> {
    let (point, rest) = order.split_once('=')?;
    let known = point == "*" || ALL.iter().any(|known| known.name == point);
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

fn set(point: &'static str, action: Action, passing: u64) -> Result<(), String> {
    if action == Action::Error {
        let before = match passing - 1 {
            0 => String::new(),
            passed => format!("{passed}*off->"),
        };
        return fail::cfg(point, &format!("{before}1*return->off"));
    }
    let passed = AtomicU64::new(0);
    fail::cfg_callback(point, move || {
        let now = passed.fetch_add(1, Ordering::Relaxed) + 1;
        match action {
            Action::Log | Action::Error => warn!("fail point {point}: passed"),
            _ if now != passing => {}
            Action::Kill => {
                warn!("fail point {point}: kill");
                kill();
            }
            Action::Delay(time) => {
                warn!("fail point {point}: delay");
                std::thread::sleep(time);
            }
        }
    })
}

/// Ends this process as `kill -9` does. Nothing runs behind it.
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
    fn orders_are_read_and_others_refused() {
        let order = parse("clickhouse.cut_written=kill@3").unwrap();
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
