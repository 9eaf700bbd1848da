//! The report of the tests, as text and as JSON.

use std::fmt::Write as _;

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::kill_loop::KillLoopResult;
use crate::matrix::{Case, RunEnding};
use crate::points::FailAction;

/// The results of all tests.
#[derive(Debug, Default, Serialize)]
pub struct CrashReport {
    /// The cases of the matrix.
    pub cases: Vec<Case>,
    /// The kill loops.
    pub loops: Vec<KillLoopResult>,
}

impl CrashReport {
    /// Returns whether all tests passed.
    pub fn passed(&self) -> bool {
        self.cases.iter().all(Case::passed) && self.loops.iter().all(KillLoopResult::passed)
    }

    /// Returns the report as one line of JSON.
    ///
    /// # Errors
    /// The report cannot be serialised; this does not happen with its types.
    pub fn json(&self) -> serde_json::Result<String> {
        #[derive(Serialize)]
        struct JsonReport<'a> {
            #[serde(rename = "holds")]
            passed: bool,
            #[serde(flatten)]
            report: &'a CrashReport,
        }
        serde_json::to_string(&JsonReport {
            passed: self.passed(),
            report: self,
        })
    }

    /// Returns the report as tables and a summary in the last line.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for driver in ["direct", "kafka"] {
            if let Some(table) = self.matrix(driver) {
                let _ = writeln!(text, "{driver}\n{table}");
            }
        }
        for result in &self.loops {
            let _ = writeln!(text, "{}", line(result));
            if let Some(wrong) = &result.wrong {
                let _ = writeln!(text, "  {wrong}");
            }
        }
        let failed: Vec<&Case> = self.cases.iter().filter(|case| !case.passed()).collect();
        for case in &failed {
            let wrong = case.wrong.as_deref().unwrap_or("the point was not reached");
            let _ = writeln!(
                text,
                "FAILED {}: {} at {}: {wrong}",
                case.driver, case.action, case.point
            );
        }
        let kills: u32 = self.loops.iter().map(|result| result.hit).sum();
        let _ = write!(
            text,
            "{}: {} of {} cases match the undisturbed run, {kills} random kills",
            if self.passed() { "PASSED" } else { "FAILED" },
            self.cases.len() - failed.len(),
            self.cases.len(),
        );
        text
    }

    /// Returns a table with points as rows and actions as columns; `None` if the driver has no cases.
    fn matrix(&self, driver: &str) -> Option<Table> {
        let cases: Vec<&Case> = self.cases.iter().filter(|c| c.driver == driver).collect();
        let actions: Vec<FailAction> = FailAction::ALL
            .into_iter()
            .filter(|action| cases.iter().any(|case| case.action == *action))
            .collect();
        if cases.is_empty() {
            return None;
        }
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        let headers = actions.iter().map(FailAction::to_string);
        table.set_header(std::iter::once("point".to_owned()).chain(headers));
        let mut points: Vec<&str> = cases.iter().map(|case| case.point.as_str()).collect();
        points.dedup();
        for point in points {
            let cell = |action: &FailAction| {
                let mut found = cases.iter();
                let case = found.find(|case| case.point == point && case.action == *action);
                case.map(|case| cell(case)).unwrap_or_default()
            };
            let cells = actions.iter().map(cell);
            table.add_row(std::iter::once(point.to_owned()).chain(cells));
        }
        Some(table)
    }
}

fn cell(case: &Case) -> String {
    let how = match case.ending {
        None => return "NOT REACHED".to_owned(),
        Some(RunEnding::Killed) => "killed, same".to_owned(),
        Some(RunEnding::Exit(code)) => format!("exit {code}, same"),
        Some(RunEnding::WentOn) => "completed, same".to_owned(),
    };
    if case.wrong.is_some() {
        how.replace("same", "DIFFERS")
    } else {
        how
    }
}

fn line(result: &KillLoopResult) -> String {
    format!(
        "{}: {} of {} kills hit a running process, {} of them one that had stored rows; {} messages; \
         lost: {} in ClickHouse, {} in Parquet; duplicated: {} in ClickHouse without FINAL, {} in Parquet; \
         seed {}, {} s",
        result.driver,
        result.hit,
        result.kills,
        result.while_storing,
        result.messages,
        result.lost.clickhouse,
        result.lost.parquet,
        result.twice.clickhouse,
        result.twice.parquet,
        result.seed,
        result.seconds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(ending: Option<RunEnding>, wrong: Option<&str>) -> Case {
        Case {
            driver: "direct".into(),
            point: "a.b".into(),
            action: FailAction::Kill,
            passing: 1,
            ending,
            wrong: wrong.map(Into::into),
        }
    }

    #[test]
    fn missed_point_and_different_row_are_failures() {
        let report = |case| CrashReport {
            cases: vec![case],
            loops: Vec::new(),
        };
        assert!(report(case(Some(RunEnding::Killed), None)).passed());
        let missed = report(case(None, None));
        assert!(!missed.passed() && missed.text().contains("NOT REACHED"));
        let differs = report(case(Some(RunEnding::Killed), Some("2 rows")));
        assert!(!differs.passed() && differs.text().contains("2 rows"));
        assert!(
            differs
                .text()
                .ends_with("FAILED: 0 of 1 cases match the undisturbed run, 0 random kills")
        );
    }
}
