//! What was found, for people and for programs.

use std::fmt::Write as _;

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::kill_loop::Findings;
use crate::matrix::{Case, Ending};
use crate::points::Action;

/// Everything that was found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The cases of the matrix.
    pub cases: Vec<Case>,
    /// The loops of random kills.
    pub loops: Vec<Findings>,
}

impl Report {
    /// Whether everything holds.
    pub fn holds(&self) -> bool {
        self.cases.iter().all(Case::holds) && self.loops.iter().all(Findings::hold)
    }

    /// As JSON, in one line.
    ///
    /// # Errors
    /// None that can happen to these values.
    pub fn json(&self) -> serde_json::Result<String> {
        #[derive(Serialize)]
        struct Whole<'a> {
            holds: bool,
            #[serde(flatten)]
            report: &'a Report,
        }
        serde_json::to_string(&Whole {
            holds: self.holds(),
            report: self,
        })
    }

    /// As tables and a last line that says it all.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for driver in ["direct", "kafka"] {
            if let Some(table) = self.matrix(driver) {
                let _ = writeln!(text, "{driver}\n{table}");
            }
        }
        for found in &self.loops {
            let _ = writeln!(text, "{}", line(found));
            if let Some(wrong) = &found.wrong {
                let _ = writeln!(text, "  {wrong}");
            }
        }
        let failed: Vec<&Case> = self.cases.iter().filter(|case| !case.holds()).collect();
        for case in &failed {
            let wrong = case.wrong.as_deref().unwrap_or("the point was not reached");
            let _ = writeln!(
                text,
                "FAILED {}: {} at {}: {wrong}",
                case.driver, case.action, case.point
            );
        }
        let kills: u32 = self.loops.iter().map(|found| found.hit).sum();
        let _ = write!(
            text,
            "{}: {} of {} cases as a straight run, {kills} random kills",
            if self.holds() {
                "holds"
            } else {
                "DOES NOT HOLD"
            },
            self.cases.len() - failed.len(),
            self.cases.len(),
        );
        text
    }

    /// Points down, actions across; `None` if there are no cases of the driver.
    fn matrix(&self, driver: &str) -> Option<Table> {
        let cases: Vec<&Case> = self.cases.iter().filter(|c| c.driver == driver).collect();
        let actions: Vec<Action> = Action::ALL
            .into_iter()
            .filter(|action| cases.iter().any(|case| case.action == *action))
            .collect();
        if cases.is_empty() {
            return None;
        }
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        let heads = actions.iter().map(Action::to_string);
        table.set_header(std::iter::once("point".to_owned()).chain(heads));
        let mut points: Vec<&str> = cases.iter().map(|case| case.point.as_str()).collect();
        points.dedup();
        for point in points {
            let cell = |action: &Action| {
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
        Some(Ending::Killed) => "died, same".to_owned(),
        Some(Ending::Exit(code)) => format!("exit {code}, same"),
        Some(Ending::WentOn) => "went on, same".to_owned(),
    };
    if case.wrong.is_some() {
        how.replace("same", "DIFFERS")
    } else {
        how
    }
}

fn line(found: &Findings) -> String {
    format!(
        "{}: {} of {} kills hit a running process, {} of them one that was storing rows; {} messages; \
         lost: {} in ClickHouse, {} in Parquet; twice: {} in ClickHouse before FINAL, {} in Parquet; \
         seed {}, {} s",
        found.driver,
        found.hit,
        found.kills,
        found.while_storing,
        found.messages,
        found.lost.clickhouse,
        found.lost.parquet,
        found.twice.clickhouse,
        found.twice.parquet,
        found.seed,
        found.seconds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(ending: Option<Ending>, wrong: Option<&str>) -> Case {
        Case {
            driver: "direct".into(),
            point: "a.b".into(),
            action: Action::Kill,
            passing: 1,
            ending,
            wrong: wrong.map(Into::into),
        }
    }

    #[test]
    fn point_that_was_not_reached_and_row_that_differs_are_failures() {
        let report = |case| Report {
            cases: vec![case],
            loops: Vec::new(),
        };
        assert!(report(case(Some(Ending::Killed), None)).holds());
        let missed = report(case(None, None));
        assert!(!missed.holds() && missed.text().contains("NOT REACHED"));
        let differs = report(case(Some(Ending::Killed), Some("2 rows")));
        assert!(!differs.holds() && differs.text().contains("2 rows"));
        assert!(
            differs
                .text()
                .ends_with("DOES NOT HOLD: 0 of 1 cases as a straight run, 0 random kills")
        );
    }
}
