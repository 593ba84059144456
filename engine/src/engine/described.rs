//! Chains and a sink that write down what has to outlive the rows they let through: with the
//! first batch of a generation which chain that is, for a transaction that is half published
//! at a crash is finished by the chain it began with; and before a batch what its rows show
//! of tables, so that a rename unmasks nothing, whoever runs then. The engine is told what
//! the batch means for it first, too: schema changes, which it stores, and rows that were
//! lost once more.
//!
//! What can go wrong: Redis does not take it, and then the rows wait.

use std::sync::Arc;

use arc_swap::ArcSwap;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

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
    adopted: Adopted,
    /// The chain itself, not its number: one that finishes what another process began goes
    /// under that one's number, which may be given here too.
    told: Option<Arc<Generation>>,
    learned: Learned,
    notes: Notes,
}

/// A chain and a sink that belong together. `began` is what a half published transaction
/// has to be finished with, before the newest generation is adopted.
pub(super) fn pair(
    world: &Arc<World>,
    publisher: Publisher<RedisStore>,
    notes: Notes,
    began: Option<Arc<Generation>>,
) -> (Chains, Described) {
    let generation = began.unwrap_or_else(|| world.handle.newest());
    let chains = transform::Chains::beginning_with(&world.handle, Arc::clone(&generation));
    world.adopts(&generation);
    let adopted = Arc::new(ArcSwap::new(generation));
    let (world, own) = (Arc::clone(world), Arc::clone(world));
    let adopts = Arc::clone(&adopted);
    let (told, learned) = (None, Learned::default());
    let described = Described { publisher, world, adopted: adopts, told, learned, notes };
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
        if let Some(learned) = self.learned.lacks(adopted) {
            self.world.learn(adopted).await?;
            self.learned.is(adopted, learned);
        }
        Ok(())
    }
}

/// The generation of which was written down what rows showed it, and how much: what is known
/// of one is not known of the next, however little is new.
#[derive(Default)]
struct Learned(Option<(Arc<Generation>, u64)>);

impl Learned {
    /// How much there is by now, if some of it is not written down.
    fn lacks(&self, generation: &Arc<Generation>) -> Option<u64> {
        let learned = generation.learned();
        let same = |(of, number): &(Arc<Generation>, u64)| {
            Arc::ptr_eq(of, generation) && *number == learned
        };
        (learned > 0 && !self.0.as_ref().is_some_and(same)).then_some(learned)
    }

    fn is(&mut self, generation: &Arc<Generation>, learned: u64) {
        self.0 = Some((Arc::clone(generation), learned));
    }
}

/// Has the engine note what schema changes mean, before they are published.
pub(super) struct Notes {
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
    /// The last row of the batch that was noted last.
    noted: Option<Position>,
}

impl Notes {
    /// `stop` is whoever ends the stream, and does nothing else until it has ended.
    pub(super) fn new(events: mpsc::Sender<Event>, stop: CancellationToken) -> Notes {
        Notes { events, stop, noted: None }
    }

    /// Returns when it is stored what the batch that ends at `last` means, which is asked for
    /// once, however often publishing it is tried.
    async fn take(&mut self, seen: Seen, last: Option<Position>) -> Result<(), SinkError> {
        if seen.is_empty() || self.noted == last {
            return Ok(());
        }
        let asking = async {
            let (told, stored) = oneshot::channel();
            self.events.send(Event::SchemaChanged(seen, told)).await.ok()?;
            stored.await.ok()
        };
        match self.stop.run_until_cancelled(asking).await.flatten() {
            Some(Ok(())) => {
                self.noted = last;
                Ok(())
            }
            Some(Err(refusal)) => Err(SinkError::Unnoted { why: refusal.text }),
            None => Err(SinkError::Unnoted { why: "the stream is being ended".to_owned() }),
        }
    }
}

/// The chain of a load: what it learns of tables is written down before it lets their rows
/// out.
pub(super) struct Learning {
    chains: transform::Chains,
    world: Arc<World>,
    learned: Learned,
}

impl Learning {
    /// Takes generations as the stream does.
    pub(super) fn new(world: &Arc<World>) -> Learning {
        let chains = transform::Chains::new(&world.handle);
        Learning { chains, world: Arc::clone(world), learned: Learned::default() }
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
        let (current, mut backoff) = (self.chains.current(), Backoff::default());
        while let Some(learned) = self.learned.lacks(current) {
            match self.world.learn(current).await {
                Ok(()) => self.learned.is(current, learned),
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
        // First: what is noted of one that is not published is too much, not too little.
        self.notes.take(seen, last).await?;
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use kasho_plugin_sdk::{Op, Relation};

    use super::*;
    use crate::batch::{DdlDetail, Detail, Row, ddl_relation};
    use crate::bootstrap::Refusal;
    use crate::error::Class;
    use crate::transform::{Catalog, Chain, Config, Handle, Host, Options};

    /// Has a generation pass a row of a table that was made after it was loaded.
    fn see(generation: &Arc<Generation>, table: &str) {
        let id = 17_000 + u32::try_from(table.len()).unwrap();
        let (schema, table) = ("public".into(), table.into());
        let relation = Relation { id, schema, table, ..Relation::clone(&ddl_relation()) };
        let mut batch = Batch::default();
        let relation = batch.relation_index(&Arc::new(relation));
        let position = Position::Wal { commit_lsn: Lsn(10), ordinal: 1 };
        let (op, new, old, detail, dropped) = (Op::Insert, None, None, None, false);
        batch.rows.push(Row { position, op, relation, new, old, detail, dropped });
        Chain::new(Arc::clone(generation)).apply(&mut batch).unwrap();
    }

    /// Of a batch that has made a table stale.
    fn seen() -> Seen {
        let mut batch = Batch::default();
        batch.relations.push(ddl_relation());
        let detail = DdlDetail { recomputed: vec!["public.t".into()], ..DdlDetail::default() };
        let detail = Some(Box::new(Detail::Ddl(Box::new(detail))));
        let (position, op) = (Position::Bootstrap(1), Op::Ddl);
        let row = Row { position, op, relation: 0, new: None, old: None, detail, dropped: false };
        batch.rows.push(row);
        Seen::of(&batch, &[])
    }

    #[tokio::test]
    async fn nothing_is_published_before_the_engine_has_stored_what_it_means() {
        let (events, mut inbox) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let mut notes = Notes::new(events, stop.clone());
        let at = |n| Some(Position::Bootstrap(n));
        notes.take(Seen::default(), at(1)).await.unwrap();
        // Heard is not stored.
        {
            let mut taking = std::pin::pin!(notes.take(seen(), at(2)));
            assert!(taking.as_mut().now_or_never().is_none());
            let Some(Event::SchemaChanged(_, told)) = inbox.recv().await else { panic!() };
            assert!(taking.as_mut().now_or_never().is_none());
            told.send(Err(Refusal::precondition("Redis is away"))).unwrap();
            let error = taking.await.unwrap_err();
            assert!(error.to_string().contains("Redis is away"), "{error}");
            assert_eq!(error.class(), Class::Retry);
        }
        // It is asked for again until it is, and then no more.
        {
            let mut taking = std::pin::pin!(notes.take(seen(), at(2)));
            assert!(taking.as_mut().now_or_never().is_none());
            let Some(Event::SchemaChanged(_, told)) = inbox.recv().await else { panic!() };
            told.send(Ok(())).unwrap();
            taking.await.unwrap();
        }
        notes.take(seen(), at(2)).await.unwrap();
        assert!(inbox.try_recv().is_err());
        // Whoever ends the stream answers nothing any more.
        {
            let mut taking = std::pin::pin!(notes.take(seen(), at(3)));
            assert!(taking.as_mut().now_or_never().is_none());
            stop.cancel();
            assert!(matches!(taking.await, Err(SinkError::Unnoted { .. })));
        }
        let (events, inbox) = mpsc::channel(1);
        drop(inbox);
        let mut notes = Notes::new(events, CancellationToken::new());
        assert!(matches!(notes.take(seen(), at(4)).await, Err(SinkError::Unnoted { .. })));
    }

    #[test]
    fn what_was_written_down_for_one_generation_is_not_for_the_next() {
        let host = Host::new(None).unwrap();
        let load = || {
            let (config, tables) = (Config::default(), Catalog::default());
            transform::load(&host, &config, &tables, Options::default()).unwrap()
        };
        let handle = Handle::new(load());
        let (first, mut learned) = (handle.newest(), Learned::default());
        assert_eq!(learned.lacks(&first), None, "there is nothing yet");
        see(&first, "t");
        assert_eq!(learned.lacks(&first), Some(1));
        learned.is(&first, 1);
        assert_eq!(learned.lacks(&first), None);
        handle.publish(load());
        assert_eq!(learned.lacks(&handle.newest()), Some(1), "nothing is new but the generation");
        see(&first, "tt");
        assert_eq!(learned.lacks(&first), Some(2));
    }
}
