//! Migrates a database to the schema of this program.
//!
//! Migrations may be applied twice, and by two processes at once: every statement is
//! `IF [NOT] EXISTS` or has a condition, and a migration is recorded only after its statements have
//! been applied. A database that is up to date is only read, so a program without the right to create
//! tables can run where somebody else migrates.

use std::cmp::Ordering;

use chatledger_schemas::migrations::{
    self, LATEST, MIGRATIONS_DDL, MIGRATIONS_TABLE, Migration, Statement,
};
use clickhouse::sql::Identifier;

use crate::{ClickHouse, Error, RequestError};

/// The result of [`ClickHouse::migrate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The schema version the database had; 0 if none.
    pub from: u32,
    /// The schema version it has now.
    pub to: u32,
}

impl ClickHouse {
    /// Creates the database if it does not exist and applies the migrations it does not have. The
    /// timeout applies to each statement.
    ///
    /// # Errors
    /// [`Error::SchemaTooNew`] if the database has a migration that this program does not know; the
    /// database is not changed.
    pub async fn migrate(&self) -> Result<Migrated, Error> {
        self.create_database().await?;
        let from = self.schema_version().await?;
        let missing = migrations::plan(from).map_err(|too_new| Error::SchemaTooNew {
            found: too_new.found,
            known: too_new.known,
        })?;
        for migration in missing {
            self.apply(migration)
                .await
                .map_err(|source| Error::Migrate {
                    version: migration.version,
                    name: migration.name,
                    source,
                })?;
        }
        Ok(Migrated { from, to: LATEST })
    }

    /// Checks that the database has the schema of this program. Changes nothing.
    ///
    /// # Errors
    /// [`Error::SchemaTooNew`], [`Error::SchemaTooOld`], or [`Error::ReadVersion`] if the server does
    /// not answer.
    pub async fn check_schema(&self) -> Result<(), Error> {
        let (found, known) = (self.schema_version().await?, LATEST);
        match found.cmp(&known) {
            Ordering::Equal => Ok(()),
            Ordering::Greater => Err(Error::SchemaTooNew { found, known }),
            Ordering::Less => Err(Error::SchemaTooOld { found, known }),
        }
    }

    async fn create_database(&self) -> Result<(), Error> {
        let failed = |source| Error::CreateDatabase {
            database: self.database.clone(),
            source,
        };
        // `CREATE DATABASE IF NOT EXISTS` requires the right to create even if the database exists.
        let exists = self
            .server
            .query("SELECT count() FROM system.databases WHERE name = ?")
            .bind(&self.database)
            .fetch_one::<u64>();
        if self.within(exists).await.map_err(failed)? > 0 {
            return Ok(());
        }
        let create = self
            .server
            .query("CREATE DATABASE IF NOT EXISTS ?")
            .bind(Identifier(&self.database))
            .execute();
        self.within(create).await.map_err(failed)
    }

    async fn schema_version(&self) -> Result<u32, Error> {
        let failed = |source| Error::ReadVersion {
            database: self.database.clone(),
            source,
        };
        let exists = self
            .server
            .query("SELECT count() FROM system.tables WHERE database = ? AND name = ?")
            .bind(&self.database)
            .bind(MIGRATIONS_TABLE)
            .fetch_one::<u64>();
        if self.within(exists).await.map_err(failed)? == 0 {
            return Ok(0);
        }
        let version = self
            .client
            .query("SELECT max(version) FROM ?")
            .bind(Identifier(MIGRATIONS_TABLE))
            .fetch_one::<u32>();
        self.within(version).await.map_err(failed)
    }

    /// Returns whether a statement must be applied: its condition holds, or it has none.
    async fn is_due(&self, statement: &Statement) -> Result<bool, RequestError> {
        let Some(condition) = &statement.when else {
            return Ok(true);
        };
        let count = self.client.query_raw(condition).fetch_one::<u64>();
        Ok(self.within(count).await? > 0)
    }

    async fn apply(&self, migration: &Migration) -> Result<(), RequestError> {
        self.within(self.client.query_raw(MIGRATIONS_DDL).execute())
            .await?;
        for statement in migration.statements() {
            if !self.is_due(&statement).await? {
                continue;
            }
            let applied = self
                .within(self.client.query_raw(&statement.sql).execute())
                .await;
            // Another process may have applied it in the meantime.
            if let Err(error) = applied
                && (statement.when.is_none() || self.is_due(&statement).await?)
            {
                return Err(error);
            }
        }
        let record = self
            .client
            .query("INSERT INTO ? (version, name) SETTINGS async_insert = 0 VALUES (?, ?)")
            .bind(Identifier(MIGRATIONS_TABLE))
            .bind(migration.version)
            .bind(migration.name)
            .execute();
        self.within(record).await?;
        // The client's cached column lists are out of date.
        self.client.clear_cached_metadata().await;
        Ok(())
    }
}
