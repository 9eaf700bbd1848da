//! The ClickHouse tables, as numbered migrations.
//!
//! Each migration is a file of statements that may be applied twice (`IF EXISTS`, `IF NOT EXISTS`,
//! or under a condition), because a program may die between a statement and the line that says it
//! was applied. Files are never edited after a release: a change is a new number. A program refuses
//! a database whose schema is newer than [`LATEST`]; [`plan`] decides that.

/// Name of the table that says which migrations a database has.
pub const LEDGER_TABLE: &str = "schema_migrations";

/// Creates the ledger of migrations itself; may be applied at any time.
pub const LEDGER_DDL: &str = "CREATE TABLE IF NOT EXISTS schema_migrations \
    (version UInt32, name String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3)) \
    ENGINE = ReplacingMergeTree ORDER BY version";

/// One numbered step of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// Its number; numbers grow by one.
    pub version: u32,
    /// What it is about.
    pub name: &'static str,
    /// The file's text.
    pub sql: &'static str,
}

/// Every migration, ascending.
pub const ALL: &[Migration] = &[
    Migration {
        version: 1,
        name: "archive",
        sql: include_str!("../clickhouse/0001_archive.sql"),
    },
    Migration {
        version: 2,
        name: "directory",
        sql: include_str!("../clickhouse/0002_directory.sql"),
    },
    Migration {
        version: 3,
        name: "lanes",
        sql: include_str!("../clickhouse/0003_lanes.sql"),
    },
    Migration {
        version: 4,
        name: "dead letters",
        sql: include_str!("../clickhouse/0004_dead_letters.sql"),
    },
    Migration {
        version: 5,
        name: "reconciliations",
        sql: include_str!("../clickhouse/0005_reconciliations.sql"),
    },
];

/// The schema this program writes.
pub const LATEST: u32 = 5;

/// The database has a schema that this program does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaTooNew {
    /// What the database has.
    pub found: u32,
    /// What this program knows.
    pub known: u32,
}

/// Decides what to apply to a database that has the migrations up to `applied` (0: none).
///
/// # Errors
/// The database is newer than this program.
pub fn plan(applied: u32) -> Result<&'static [Migration], SchemaTooNew> {
    if applied > LATEST {
        return Err(SchemaTooNew {
            found: applied,
            known: LATEST,
        });
    }
    Ok(&ALL[applied as usize..])
}

/// One statement of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// A query; the statement is applied only if it counts more than 0. It stands in the file
    /// before the statement, on a line that begins with `-- when: `.
    pub when: Option<String>,
    /// The statement.
    pub sql: String,
}

impl Migration {
    /// The statements of the file, in order, without comments.
    pub fn statements(&self) -> Vec<Statement> {
        let mut statements = Vec::new();
        let (mut when, mut sql) = (None, String::new());
        for line in self.sql.lines().map(str::trim_end) {
            if let Some(condition) = line.strip_prefix("-- when: ") {
                when = Some(condition.to_owned());
            } else if !line.trim_start().starts_with("--") {
                let ends = line.ends_with(';');
                sql.push_str(line.trim_end_matches(';'));
                sql.push('\n');
                if ends {
                    statements.push(Statement {
                        when: when.take(),
                        sql: std::mem::take(&mut sql).trim().to_owned(),
                    });
                }
            }
        }
        statements
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_without_gaps_and_can_be_applied_twice() {
        for (index, migration) in ALL.iter().enumerate() {
            assert_eq!(migration.version as usize, index + 1);
            let statements = migration.statements();
            assert!(!statements.is_empty());
            for Statement { when, sql } in statements {
                let guarded = ["IF NOT EXISTS", "IF EXISTS"]
                    .iter()
                    .any(|g| sql.contains(g));
                assert!(guarded || when.is_some(), "not repeatable: {sql}");
            }
            let code = migration.sql.lines().filter(|line| !line.starts_with("--"));
            let ends = code.filter(|line| line.contains(';')).count();
            assert_eq!(ends, migration.statements().len(), "a `;` within a line");
        }
        assert_eq!(ALL.len(), LATEST as usize);
    }

    #[test]
    fn plan_applies_the_rest_and_refuses_a_newer_schema() {
        assert_eq!(plan(0).unwrap().len(), ALL.len());
        assert!(plan(LATEST).unwrap().is_empty());
        assert_eq!(
            plan(LATEST + 1),
            Err(SchemaTooNew {
                found: LATEST + 1,
                known: LATEST
            })
        );
    }
}
