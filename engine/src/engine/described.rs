//! A sink that writes down, with the first batch of a generation, which chain that is:
//! a transaction that is half published at a crash is finished by the chain it began with.

use std::sync::Arc;

use arc_swap::ArcSwap;

use tokio::sync::mpsc;

use super::Event;
use super::backoff::Backoff;
use super::schema::Seen;
use super::world::World;
use crate::batch::Batch;
use crate::pipeline;
use crate::position::{Lsn, Position};
use crate::sink::publisher::Publisher;
use crate::sink::redis::RedisStore;
use crate::sink::{Sink, SinkError};
use crate::transform::{self, Generation, TransformError};

/// The generation that the batch in flight passes.
type Adopted = Arc<ArcSwap<Generation>>;

/// The chain, which says what it adopts.
pub(super) struct Chains {
    chains: transform::Chains,
    world: Arc<World>,
    adopted: Adopted,
}

/// A publisher and what it has to tell of the chain.
pub(super) struct Described {
    publisher: Publisher<RedisStore>,
    world: Arc<World>,
    events: mpsc::Sender<Event>,
    adopted: Adopted,
    /// The chain itself, not its number: one that finishes what another process began goes
    /// under that one's number, which may be given here too.
    told: Option<Arc<Generation>>,
    /// The generation of which was written down what rows showed it, and how much.
    learned: Option<(Arc<Generation>, u64)>,
    /// The last row of the batch whose schema changes the engine was told last.
    noted: Option<Position>,
}

/// A chain and a sink that belong together. `began` is what a half published transaction
/// has to be finished with, before the newest generation is adopted.
pub(super) fn pair(
    world: &Arc<World>,
    publisher: Publisher<RedisStore>,
    events: mpsc::Sender<Event>,
    began: Option<Arc<Generation>>,
) -> (Chains, Described) {
    let generation = began.unwrap_or_else(|| world.handle.newest());
    let chains = transform::Chains::beginning_with(&world.handle, Arc::clone(&generation));
    world.adopts(&generation);
    let adopted = Arc::new(ArcSwap::new(generation));
    let (world, own) = (Arc::clone(world), Arc::clone(world));
    let adopts = Arc::clone(&adopted);
    let (told, learned, noted) = (None, None, None);
    let described = Described { publisher, world, events, adopted: adopts, told, learned, noted };
    (Chains { chains, world: own, adopted }, described)
}

impl pipeline::Chains for Chains {
    type Error = TransformError;

    fn adopted(&self) -> u64 {
        self.adopted.load().number()
    }

    fn adopt(&mut self) -> u64 {
        let number = self.chains.adopt();
        let current = self.chains.current();
        if !Arc::ptr_eq(current, &self.adopted.load()) {
            self.world.adopts(current);
            self.adopted.store(Arc::clone(current));
        }
        number
    }

    async fn apply(&mut self, batch: Batch) -> Result<Batch, TransformError> {
        self.chains.apply(batch).await
    }
}

impl Described {
    /// A start holds the files against what rows have shown of tables too, so that stands
    /// somewhere before the rows do.
    async fn write_down(&mut self, adopted: &Arc<Generation>) -> Result<(), SinkError> {
        let learned = adopted.learned();
        let same =
            |(of, number): &(Arc<Generation>, u64)| Arc::ptr_eq(of, adopted) && *number == learned;
        if learned > 0 && !self.learned.as_ref().is_some_and(same) {
            self.world.learn(adopted).await?;
            self.learned = Some((Arc::clone(adopted), learned));
        }
        Ok(())
    }
}

/// The chain of a load: what it learns of tables is written down before it lets their rows
/// out.
pub(super) struct Learning {
    chains: transform::Chains,
    world: Arc<World>,
    learned: u64,
}

impl Learning {
    /// Takes generations as the stream does.
    pub(super) fn new(world: &Arc<World>) -> Learning {
        let chains = transform::Chains::new(&world.handle);
        Learning { chains, world: Arc::clone(world), learned: 0 }
    }
}

impl pipeline::Chains for Learning {
    type Error = TransformError;

    fn adopted(&self) -> u64 {
        self.chains.adopted()
    }

    fn adopt(&mut self) -> u64 {
        self.chains.adopt()
    }

    async fn apply(&mut self, batch: Batch) -> Result<Batch, TransformError> {
        let batch = self.chains.apply(batch).await?;
        let learned = self.chains.current().learned();
        let mut backoff = Backoff::default();
        while self.learned != learned {
            match self.world.learn(self.chains.current()).await {
                Ok(()) => self.learned = learned,
                Err(error) => {
                    tracing::warn!(%error, "what is known of tables is not written down yet");
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
        Ok(batch)
    }
}

impl Sink for Described {
    type Error = SinkError;

    async fn publish(
        &mut self,
        batch: Batch,
        generation: u64,
        confirmed: Lsn,
    ) -> Result<(), SinkError> {
        let adopted = self.adopted.load_full();
        self.write_down(&adopted).await?;
        let known = self.told.as_ref().is_some_and(|told| Arc::ptr_eq(told, &adopted));
        if !known && !batch.continues() {
            self.publisher.describe(self.world.description(&adopted));
            let from = batch.pieces.first().map_or(Lsn::ZERO, |piece| piece.commit_lsn);
            self.world.passes(&adopted, from);
            self.told = Some(adopted);
        }
        let seen = Seen::of(&batch, &self.world.config.source.publications);
        let last = batch.rows.last().map(|row| row.position);
        // First: what is noted of one that is not published is too much, not too little. And
        // once, however often publishing it is tried.
        if !seen.is_empty() && self.noted != last {
            let _ = self.events.send(Event::SchemaChanged(seen)).await;
            self.noted = last;
        }
        // Before whoever delivers them can take their rows for published.
        for stays in &batch.aside.stays {
            self.world.retries.fail(&stays.letter, &stays.why);
        }
        self.publisher.publish(batch, generation, confirmed).await
    }

    async fn confirm(&mut self, position: Lsn, confirmed: Lsn) -> Result<(), SinkError> {
        self.publisher.confirm(position, confirmed).await
    }

    async fn flush(&mut self) -> Result<(), SinkError> {
        self.publisher.flush().await
    }
}
