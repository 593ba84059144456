//! The three sides of a store over the fake server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{MemoryStore, Step};
use crate::position::Epoch;
use crate::sink::config::Durability;
use crate::sink::entry::RawEntry;
use crate::sink::id::{Id, Lane};
use crate::sink::store::{
    Acked, Answer, Append, Begin, Begun, Consumer, Feed, Fence, Finish, Finished, Guard,
    Inspection, Leased, Load, Most, Page, Registry, Server, Store, StoreError, Trim, Usage,
    in_order,
};

impl Store for MemoryStore {
    async fn server(&mut self) -> Result<Server, StoreError> {
        let (policy, primary) = {
            let inner = self.server.lock();
            (inner.policy.clone(), !inner.read_only)
        };
        let version = "memory".to_owned();
        let server = Server { version, policy, primary, persistent: true, max_bulk_len: 512 << 20 };
        self.step(Step::Read, |_, _| Ok(server)).await
    }

    async fn inspect(&mut self) -> Result<Inspection, StoreError> {
        let keys = self.server.keys.clone();
        self.step(Step::Read, |world, _| world.inspect(&keys)).await
    }

    async fn begin(&mut self, begin: &Begin<'_>) -> Result<Begun, StoreError> {
        self.step(Step::Begin, |world, _| Ok(world.begin(begin))).await
    }

    async fn fence(&mut self, fence: &Fence) -> Result<Answer, StoreError> {
        self.step(Step::Fence, |world, _| Ok(world.fence(fence))).await
    }

    async fn append(&mut self, guard: &Guard, append: &Append<'_>) -> Result<Answer, StoreError> {
        in_order(guard, &append.entries)?;
        let step = match append.entries.len() + append.dead.letters.len() {
            0 => Step::Mark,
            n => Step::Append(n),
        };
        self.step(step, |world, _| Ok(world.append(guard, append))).await
    }

    async fn lease(
        &mut self,
        epoch: Epoch,
        owner: &str,
        writer: &str,
        lease: Duration,
    ) -> Result<Leased, StoreError> {
        let ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX / 2);
        let who = (owner, writer);
        self.step(Step::Lease, |world, now| Ok(world.lease(epoch, who, ms, now))).await
    }

    async fn load(&mut self, guard: &Guard, load: &Load<'_>) -> Result<Answer, StoreError> {
        in_order(guard, &load.entries)?;
        let step = Step::Load(load.entries.len() + load.dead.letters.len());
        self.step(step, |world, now| Ok(world.load(guard, load, now))).await
    }

    async fn finish(&mut self, guard: &Guard, finish: &Finish<'_>) -> Result<Finished, StoreError> {
        in_order(guard, std::slice::from_ref(&finish.end))?;
        self.step(Step::Finish, |world, _| Ok(world.finish(guard, finish))).await
    }

    async fn release(&mut self, epoch: Epoch, writer: &str) -> Result<(), StoreError> {
        self.step(Step::Lease, |world, _| {
            world.release(epoch, writer);
            Ok(())
        })
        .await
    }

    async fn durable(&mut self, durability: Durability, _: Duration) -> Result<(), StoreError> {
        self.step(Step::Durable, |_, _| Ok(())).await?;
        if durability != Durability::Reply {
            self.server.lock().journal.clear();
        }
        Ok(())
    }

    async fn usage(&mut self, epoch: Epoch) -> Result<Usage, StoreError> {
        let (limit, policy, foreign) = {
            let inner = self.server.lock();
            (inner.limit, inner.policy.clone(), inner.foreign_bytes)
        };
        self.step(Step::Read, |world, now_ms| {
            let data = world.epochs.get(&epoch.0);
            Ok(Usage {
                changes: data.map_or(0, |data| data.changes.weight()),
                bootstrap: data.map_or(0, |data| data.bootstrap.weight()),
                used: world.weight() + foreign,
                limit,
                policy,
                length: data.map_or(0, |data| data.changes.entries.len() as u64),
                now_ms,
            })
        })
        .await
    }

    async fn trim(&mut self, trim: Trim) -> Result<u64, StoreError> {
        self.step(Step::Write, |world, _| Ok(world.trim(trim))).await
    }

    async fn discard(&mut self, epoch: Epoch) -> Result<(), StoreError> {
        self.step(Step::Write, |world, _| {
            world.epochs.remove(&epoch.0);
            Ok(())
        })
        .await
    }
}

impl Registry for MemoryStore {
    async fn state(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        self.step(Step::Read, |world, _| Ok(world.state.clone())).await
    }

    async fn swap_state(&mut self, old: Option<&[u8]>, new: &[u8]) -> Result<bool, StoreError> {
        self.step(Step::Write, |world, _| {
            let same = world.state.as_deref() == old;
            if same {
                world.state = Some(new.to_vec());
            }
            Ok(same)
        })
        .await
    }

    async fn catalog(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        self.step(Step::Read, |world, _| Ok(world.catalog.clone())).await
    }

    async fn set_catalog(&mut self, catalog: &[u8]) -> Result<(), StoreError> {
        self.step(Step::Write, |world, _| {
            world.catalog = Some(catalog.to_vec());
            Ok(())
        })
        .await
    }

    async fn coverage(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        self.step(Step::Read, |world, _| Ok(world.coverage.clone())).await
    }

    async fn swap_coverage(&mut self, old: Option<&[u8]>, new: &[u8]) -> Result<bool, StoreError> {
        self.step(Step::Write, |world, _| {
            let same = world.coverage.as_deref() == old;
            if same {
                world.coverage = Some(new.to_vec());
            }
            Ok(same)
        })
        .await
    }

    async fn letters(&mut self, after: Id, most: usize) -> Result<Vec<(Id, Vec<u8>)>, StoreError> {
        self.step(Step::Read, |world, _| {
            let letters = world.dead.0.iter().filter(|(id, _)| *id > after);
            Ok(letters.take(most).cloned().collect())
        })
        .await
    }

    async fn forget(&mut self, letters: &[Id]) -> Result<u64, StoreError> {
        self.step(Step::Write, |world, _| {
            let before = world.dead.0.len();
            world.dead.0.retain(|(id, _)| !letters.contains(id));
            Ok((before - world.dead.0.len()) as u64)
        })
        .await
    }

    async fn progress(&mut self, epoch: Epoch) -> Result<HashMap<String, String>, StoreError> {
        self.step(Step::Read, |world, _| Ok(world.seen_progress(epoch))).await
    }

    async fn add_consumer(&mut self, name: &str) -> Result<bool, StoreError> {
        self.step(Step::Write, |world, now| {
            let new = !world.consumers.contains_key(name);
            world.consumers.entry(name.to_owned()).or_insert_with(|| now.to_string());
            Ok(new)
        })
        .await
    }

    async fn remove_consumer(&mut self, name: &str) -> Result<bool, StoreError> {
        self.step(Step::Write, |world, _| Ok(world.remove_consumer(name))).await
    }

    async fn consumers(&mut self) -> Result<Vec<Consumer>, StoreError> {
        self.step(Step::Read, |world, _| Ok(world.all_consumers())).await
    }

    async fn acknowledge(
        &mut self,
        name: &str,
        epoch: Epoch,
        lane: Lane,
        id: Id,
    ) -> Result<Acked, StoreError> {
        self.step(Step::Write, |world, now| Ok(world.acknowledge(name, epoch, (lane, id), now)))
            .await
    }
}

impl Feed for MemoryStore {
    async fn page(
        &mut self,
        epoch: Epoch,
        lane: Lane,
        after: Id,
        most: impl Into<Most> + Send,
    ) -> Result<Page, StoreError> {
        let most = most.into();
        self.step(Step::Read, |world, _| {
            let stream = world.epochs.get(&epoch.0).map(|data| data.stream(lane));
            let entries = stream.map_or(Vec::new(), |stream| {
                let mut bytes = 0;
                let fits = |entry: &&Arc<RawEntry>| {
                    let before = bytes;
                    bytes += entry.weight();
                    before < most.bytes
                };
                let after = stream.entries[stream.after(after)..].iter().take(most.entries);
                after.take_while(fits).map(|entry| RawEntry::clone(entry)).collect()
            });
            let (trim, end) = (world.trimmed(lane), world.end(epoch));
            let runs = world.runs(epoch);
            Ok(Page { epoch: world.current(), trim, end, runs, entries })
        })
        .await
    }

    async fn wait(
        &mut self,
        epoch: Epoch,
        lane: Lane,
        after: Id,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        let mut changed = self.server.changed.subscribe();
        let arrival = async {
            loop {
                changed.mark_unchanged();
                let next = Epoch(epoch.0 + 1);
                let begun = self.page(next, Lane::Bootstrap, Id::ZERO, 1).await?;
                let found = self.page(epoch, lane, after, 1).await?;
                if !found.entries.is_empty() || !begun.entries.is_empty() {
                    return Ok(());
                }
                if changed.changed().await.is_err() {
                    return Ok(());
                }
            }
        };
        tokio::time::timeout(timeout, arrival).await.unwrap_or(Ok(()))
    }

    async fn before(
        &mut self,
        epoch: Epoch,
        lane: Lane,
        through: Id,
    ) -> Result<Option<RawEntry>, StoreError> {
        self.step(Step::Read, |world, _| {
            let stream = world.epochs.get(&epoch.0).map(|data| data.stream(lane));
            let found = stream.and_then(|stream| stream.entries[..stream.after(through)].last());
            Ok(found.map(|entry| RawEntry::clone(entry)))
        })
        .await
    }
}
