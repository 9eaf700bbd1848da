//! The producer of a member: it starts, writes transactions and rolls them back as
//! `connectors/kafka/src/writer.rs` does.

use std::time::Duration;

use tokio::time::Instant;

use super::broker::Broker;
use super::member::MemoryMember;
use super::refusal::Refusal;
use crate::fault::Fault;
use crate::kafka::OutRecord;
use crate::testing::Dice;

/// How often a step is tried again that waits for a transaction to end.
const STEP: Duration = Duration::from_millis(10);
/// Longest wait for a transaction to be ended.
const TRANSACTION_WAIT: Duration = Duration::from_secs(30);

impl MemoryMember {
    /// Writes records and commits positions in one transaction.
    pub(super) async fn write(
        &self,
        records: Vec<OutRecord>,
        consumed: &[(i32, u64)],
    ) -> Result<(), Fault> {
        let id = self.writes()?.transactional_id.clone();
        for (partition, _) in consumed {
            self.check_held(*partition)?;
        }
        self.check_undisturbed()?;
        let epoch = self.client(|client| client.epoch);
        let epoch = epoch.ok_or_else(|| Fault::new(Refusal::NotStarted))?;
        self.until_ended(|broker, _| {
            let begun = broker.begin(&id, epoch)?;
            Ok(begun.then_some(()))
        })
        .await?;
        let done = self.transaction((&id, epoch), records, consumed).await;
        if done.is_err() {
            // The rollback may fail as well: then the transaction stays open.
            if self.process.pass("log.abort").await.is_ok() {
                let abort =
                    |broker: &mut Broker, dice: &mut Dice| broker.finish((&id, epoch), false, dice);
                self.broker(abort).ok();
            }
            return done;
        }
        self.process.pass("log.transaction_committed").await
    }

    fn writes(&self) -> Result<&super::Writes, Fault> {
        let writes = self.membership.writes.as_ref();
        writes.ok_or_else(|| Fault::new(Refusal::ReadOnly))
    }

    /// Waits until a step that depends on the end of the last transaction succeeds.
    async fn until_ended<T>(
        &self,
        mut step: impl FnMut(&mut Broker, &mut Dice) -> Result<Option<T>, Refusal>,
    ) -> Result<T, Fault> {
        let deadline = Instant::now() + TRANSACTION_WAIT;
        loop {
            let done = self.broker(|broker, dice| {
                broker.advance(dice);
                step(broker, dice)
            })?;
            if let Some(done) = done {
                return Ok(done);
            }
            if Instant::now() >= deadline {
                return Err(Fault::new(Refusal::UnstableOffsets));
            }
            tokio::time::sleep(STEP).await;
            self.process.run().await;
        }
    }

    /// Refuses to go on after a broker restarted: see `connectors/kafka/src/writer.rs`.
    fn check_undisturbed(&self) -> Result<(), Fault> {
        let since = self.client(|client| client.restarts);
        if self.log.with(|broker, _| broker.restarts) == since {
            return Ok(());
        }
        Err(Fault::new(Refusal::Disturbed))
    }

    /// Fences every older holder of the id and rolls back what it left open, wherever it is.
    pub(super) async fn start_producer(&self) -> Result<(), Fault> {
        let writes = self.writes()?;
        self.process.pass("log.begin").await?;
        let id = writes.transactional_id.as_str();
        let restarts = self.log.with(|broker, _| broker.restarts);
        self.client(|client| client.restarts = restarts);
        let epoch = self
            .until_ended(|broker, dice| Ok(broker.start_producer(id, dice)))
            .await?;
        self.client(|client| client.epoch = Some(epoch));
        self.process.pass("log.begin").await?;
        let group = self.membership.group.as_deref();
        self.until_ended(|broker, dice| {
            let cleared = broker.clear((id, epoch), &writes.topics, group, dice)?;
            Ok(cleared.then_some(()))
        })
        .await?;
        self.process.pass("log.begin").await
    }

    /// The steps of a transaction. On an error it is rolled back by the caller.
    async fn transaction(
        &self,
        (id, epoch): (&str, u32),
        records: Vec<OutRecord>,
        consumed: &[(i32, u64)],
    ) -> Result<(), Fault> {
        self.process.pass("log.transaction_begun").await?;
        let count = records.len();
        for (index, record) in records.into_iter().enumerate() {
            if !self.writes()?.topics.contains(&record.topic) {
                return Err(Fault::new(Refusal::ForeignTopic(record.topic.name())));
            }
            let headers = record.headers()?;
            self.broker(|broker, dice| broker.produce((id, epoch), &record, headers, dice))?;
            if index == count / 2 {
                self.process.pass("log.transaction_half_produced").await?;
            }
        }
        self.process.pass("log.transaction_produced").await?;
        if !consumed.is_empty() {
            self.send_offsets((id, epoch), consumed)?;
            self.process.pass("log.transaction_offsets_sent").await?;
        }
        self.check_undisturbed()?;
        self.broker(|broker, dice| {
            broker.advance(dice);
            broker.finish((id, epoch), true, dice)
        })
    }

    fn send_offsets(&self, producer: (&str, u32), consumed: &[(i32, u64)]) -> Result<(), Fault> {
        let group = self.membership.group.as_deref().unwrap_or_default();
        let (member, generation) = self.client(|client| (client.id, client.generation));
        self.broker(|broker, dice| {
            broker.advance_group(group, dice);
            let lenient = broker.accepts_stale_commits;
            let member = member.ok_or(Refusal::NotJoined)?;
            if let Some(state) = broker.groups.get(group)
                && !lenient
            {
                state.check(member, generation)?;
            }
            broker.send_offsets(producer, group, consumed)
        })
    }
}
