//! Brings a database to the schema this program writes.
//!
//! Steps may be applied twice and by two processes at once: every statement is `IF [NOT] EXISTS` or
//! has a condition, and a step is noted in the ledger only after its statements. A database that is up to date is only
//! read, so that a program without the right to create tables runs where somebody else migrates.

use std::cmp::Ordering;

use chatledger_schemas::migrations::{
    self, LATEST, MIGRATIONS_DDL, MIGRATIONS_TABLE, Migration, Statement,
};
use clickhouse::sql::Identifier;

use crate::{ClickHouse, Error, Fault};

/// What a migration did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The schema the database had; 0 if none.
    pub from: u32,
    /// The schema it has.
    pub to: u32,
}

impl ClickHouse {
    /// Creates the database if it is not there and applies every migration it does not have.
    /// The timeout holds for each statement by itself.
    ///
    /// # Errors
    /// [`Error::SchemaTooNew`] if the database has a migration this program does not know; nothing
    /// is changed then.
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

    /// Looks whether the database has the schema of this program, and changes nothing.
    ///
    /// # Errors
    /// It has another: [`Error::SchemaTooNew`], [`Error::SchemaTooOld`]; or it does not answer.
    pub async fn migrated(&self) -> Result<(), Error> {
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
        // Asked first, because creating wants a right that even `IF NOT EXISTS` checks.
        let there = self
            .server
            .query("SELECT count() FROM system.databases WHERE name = ?")
            .bind(&self.database)
            .fetch_one::<u64>();
        if self.within(there).await.map_err(failed)? > 0 {
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
        let there = self
            .server
            .query("SELECT count() FROM system.tables WHERE database = ? AND name = ?")
            .bind(&self.database)
            .bind(MIGRATIONS_TABLE)
            .fetch_one::<u64>();
        if self.within(there).await.map_err(failed)? == 0 {
            return Ok(0);
        }
        let version = self
            .client
            .query("SELECT max(version) FROM ?")
            .bind(Identifier(MIGRATIONS_TABLE))
            .fetch_one::<u32>();
        self.within(version).await.map_err(failed)
    }

    /// Whether a statement's condition holds; one without is wanted always.
    async fn wanted(&self, statement: &Statement) -> Result<bool, Fault> {
        let Some(condition) = &statement.when else {
            return Ok(true);
        };
        let count = self.client.query_raw(condition).fetch_one::<u64>();
        Ok(self.within(count).await? > 0)
    }

    async fn apply(&self, migration: &Migration) -> Result<(), Fault> {
        self.within(self.client.query_raw(MIGRATIONS_DDL).execute())
            .await?;
        for statement in migration.statements() {
            if !self.wanted(&statement).await? {
                continue;
            }
            let applied = self
                .within(self.client.query_raw(&statement.sql).execute())
                .await;
            // Another process may have been faster: then there is nothing left to do.
            if let Err(fault) = applied
                && (statement.when.is_none() || self.wanted(&statement).await?)
            {
                return Err(fault);
            }
        }
        let note = self
            .client
            .query("INSERT INTO ? (version, name) SETTINGS async_insert = 0 VALUES (?, ?)")
            .bind(Identifier(MIGRATIONS_TABLE))
            .bind(migration.version)
            .bind(migration.name)
            .execute();
        self.within(note).await?;
        // Column lists learnt before the step do not hold any more.
        self.client.clear_cached_metadata().await;
        Ok(())
    }
}
