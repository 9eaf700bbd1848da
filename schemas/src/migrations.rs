//! The ClickHouse tables, as numbered migrations.
//!
//! Each migration is a file of statements that can be applied twice (`IF EXISTS`, `IF NOT EXISTS`,
//! or under a condition), because a process may die between a statement and the row that records
//! the migration. The statements of a released migration never change: a change is a new migration.
//! A program refuses a database whose schema is newer than [`LATEST`]; [`plan`] decides that.

/// Name of the table that records which migrations were applied.
pub const MIGRATIONS_TABLE: &str = "schema_migrations";

/// Statement that creates [`MIGRATIONS_TABLE`]; can be applied repeatedly.
pub const MIGRATIONS_DDL: &str = "CREATE TABLE IF NOT EXISTS schema_migrations \
    (version UInt32, name String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3)) \
    ENGINE = ReplacingMergeTree ORDER BY version";

/// A numbered schema change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// Number of the migration; consecutive, starting at 1.
    pub version: u32,
    /// Short name.
    pub name: &'static str,
    /// Text of the SQL file.
    pub sql: &'static str,
}

/// All migrations, ascending by version.
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

/// Schema version that this program writes.
pub const LATEST: u32 = 5;

/// The schema of the database is newer than this program supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaTooNew {
    /// Schema version of the database.
    pub found: u32,
    /// Latest schema version that this program knows.
    pub known: u32,
}

/// Returns the migrations to apply to a database that has the migrations up to `applied` (0: none).
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
    /// Condition: a query that returns a count. The statement is applied only if the count is above
    /// 0. In the file it precedes the statement, on a line that starts with `-- when: `.
    pub when: Option<String>,
    /// The statement.
    pub sql: String,
}

impl Migration {
    /// Returns the statements of the file in order, without comments.
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
            let code = migration.sql.lines().map(str::trim_start);
            let code = code.filter(|line| !line.starts_with("--"));
            let ends = code.filter(|line| line.contains(';')).count();
            assert_eq!(ends, migration.statements().len(), "a `;` within a line");
        }
        assert_eq!(ALL.len(), LATEST as usize);
    }

    #[test]
    fn plan_returns_missing_migrations_and_refuses_a_newer_schema() {
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
