//! The sinks this program knows, in one list.
//!
//! Whatever deals with sinks goes through [`KINDS`] or [`configured`]: the drivers, `check`, what
//! must be reachable at the start, `migrate`, `reconcile`, `verify` and the crash matrix. To add a
//! sink, write its file here, put its [`Kind`] into the list, and add the crate to `Cargo.toml`.

mod clickhouse;
mod parquet;

use chatledger_engine::failpoint::{self, FailPoint};
use chatledger_engine::sink::Sink;

use crate::config::Settings;
use crate::exit::Failure;

/// Bytes of memory after which a lane writes its open batch, whatever its other limits are.
const LANE_BYTES: usize = 48 << 20;

/// A kind of sink.
pub struct Kind {
    /// Its name; see [`Sink::name`].
    pub name: &'static str,
    /// The fail points inside its writes.
    fail_points: fn() -> Vec<failpoint::Step>,
    /// Makes the sink, if it is configured. Does not connect.
    make: fn(&Settings) -> Result<Option<Sink>, Failure>,
}

/// Every kind of sink.
pub const KINDS: &[Kind] = &[clickhouse::KIND, parquet::KIND];

/// The sinks of a configuration, in the order of [`KINDS`].
///
/// # Errors
/// The client of a sink cannot be made.
pub fn configured(settings: &Settings) -> Result<Vec<Sink>, Failure> {
    let mut sinks = Vec::new();
    for kind in KINDS {
        sinks.extend((kind.make)(settings)?);
    }
    Ok(sinks)
}

/// Every fail point of the program, in the order in which a record passes them.
pub fn fail_points() -> Vec<FailPoint> {
    let mut points = failpoint::of_stages();
    for kind in KINDS {
        points.extend(failpoint::of_sink(kind.name, &(kind.fail_points)()));
    }
    points
}

/// The name of a lane's sink checkpoint: logs of different deployments may share one sink.
fn checkpoint_name(prefix: &str, log: &str) -> String {
    format!("{prefix}.{log}")
}

/// A connector's fail points without the name of the sink before them.
fn steps(
    sink: &str,
    points: &'static [&'static str],
    step: fn(&'static str) -> failpoint::Step,
) -> Vec<failpoint::Step> {
    let own = points.iter().filter_map(|point| point.strip_prefix(sink)?.strip_prefix('.'));
    own.map(step).collect()
}
