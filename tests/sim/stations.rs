//! The stations around the pipeline as the engine sets them up: a source that holds a slot
//! and loses it, chains that drop rows and say which generation they are, a sink that
//! writes down what it is told of them. Where a run is to be spoilt on purpose
//! ([`Sabotage`]), it is done here.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kasho::ack::Durable;
use kasho::batch::{Batch, Cell, Closing, Letter, Row, Span};
use kasho::error::Class;
use kasho::pipeline::Chains;
use kasho::position::{Lsn, Position};
use kasho::sink::id::Id;
use kasho::sink::memory::MemoryStore;
use kasho::sink::publisher::{Description, Publisher};
use kasho::sink::{Sink, SinkError};
use kasho::source::memory::{MemoryError, MemorySource};
use kasho::source::retries::{Again, Retries, Told};
use kasho::source::{RETRY_PREFIX, Received, Source};
use kasho_plugin_sdk::Op;

use crate::process::Memory;
use crate::random::mix;
use crate::world::World;

/// What is broken on purpose, to see that the check complains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    None,
    /// The sink forgets a row now and then.
    LoseRows,
    /// The chain changes in the middle of a transaction.
    MixGenerations,
    /// The sink says "durable" without having waited.
    LieAboutDurability,
    /// A half published transaction is finished by the newest chain.
    ForgetWhatBegan,
    /// A row comes as often as its message was written.
    DeliverTwice,
}

/// Which rows a chain keeps: 0 all, 1 none, the others two of three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule(pub(crate) u64);

impl Rule {
    pub(crate) const ALL: [Rule; 5] = [Rule(0), Rule(1), Rule(2), Rule(3), Rule(4)];

    pub(crate) fn keeps(self, position: Position) -> bool {
        let Position::Wal { commit_lsn, ordinal } = position else { return true };
        match self.0 {
            0 => true,
            1 => false,
            rule => !mix(mix(rule, commit_lsn.0), ordinal).is_multiple_of(3),
        }
    }

    /// The digest of the chain, and the mark it leaves in rows.
    pub(crate) fn digest(self) -> String {
        format!("rule {}", self.0)
    }

    pub(crate) fn description(self) -> Description {
        let (options, key_fingerprint) = ("options".to_owned(), "none".to_owned());
        Description { options, chain: self.digest(), key_fingerprint }
    }
}

/// A rule under its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation {
    pub(crate) number: u64,
    pub(crate) rule: Rule,
}

/// A reader of the slot. One that lost it hands out what it had received before, and is
/// heard no more.
pub(crate) struct SimSource {
    world: Arc<World>,
    inner: MemorySource,
    retries: Retries,
    session: u64,
    received: u64,
}

impl SimSource {
    pub(crate) fn new(world: &Arc<World>, memory: &Memory, session: u64) -> SimSource {
        let inner = world.postgres().open(Lsn::ZERO, world.limits);
        let (world, retries) = (Arc::clone(world), memory.retries.clone());
        SimSource { world, inner, retries, session, received: session % 4 }
    }

    /// As the engine's: in the place of a message that was announced its row comes, which
    /// here is the message itself; one that was not is nothing.
    fn again(&self, batch: &mut Batch) {
        for at in 0..batch.rows.len() {
            let row = &batch.rows[at];
            let (position, image) = (row.position, row.new);
            let texts: Vec<Vec<u8>> = match (row.op, image) {
                (Op::Message, Some(image)) => {
                    let cells = batch.cells(image).iter();
                    cells.filter_map(|cell| batch.text(*cell).map(<[u8]>::to_vec)).collect()
                }
                _ => continue,
            };
            let Position::Wal { commit_lsn: lsn, .. } = position else { continue };
            let [prefix, word] = texts.as_slice() else { continue };
            if prefix != RETRY_PREFIX.as_bytes() {
                continue;
            }
            match self.matching(word, lsn) {
                Some((word, again)) => {
                    self.world.trace.met("row read again");
                    let letter = again.letter.clone();
                    let closing = Closing { position, letter, row: true, closes: true };
                    batch.aside.closings.push(closing);
                    self.retries.tell(&word, Told::Read(lsn));
                }
                None => batch.rows[at].dropped = true,
            }
        }
    }

    fn matching(&self, word: &[u8], lsn: Lsn) -> Option<(String, Arc<Again>)> {
        if self.world.sabotage == Sabotage::DeliverTwice
            && let Some(Told::Read(first)) = self.retries.told(std::str::from_utf8(word).unwrap())
        {
            return self.retries.matching(word, first);
        }
        self.retries.matching(word, lsn)
    }

    fn holds(&self) -> bool {
        self.world.holder() == Some(self.session)
    }
}

impl Source for SimSource {
    type Error = MemoryError;

    async fn next(&mut self) -> Result<Received, MemoryError> {
        if !self.holds() {
            self.received = self.received.checked_sub(1).ok_or(MemoryError(Class::Retry))?;
        }
        let mut received = self.inner.next().await?;
        if let Received::Batch(batch) = &mut received {
            self.again(batch);
        }
        Ok(received)
    }

    fn acknowledge(&mut self, durable: Durable) {
        if self.holds() {
            self.world.acknowledged(durable.lsn());
            self.inner.acknowledge(durable);
        }
    }
}

impl Drop for SimSource {
    fn drop(&mut self) {
        self.world.release(self.session);
    }
}

/// The generation that the batch in flight passes.
type Adopted = Arc<Mutex<Generation>>;

/// As the engine's: takes the newest generation of its process.
pub(crate) struct SimChains {
    world: Arc<World>,
    memory: Arc<Memory>,
    adopted: Adopted,
}

/// As the engine's: tells the publisher which chain it is, with its first batch.
pub(crate) struct SimSink {
    publisher: Publisher<MemoryStore>,
    memory: Arc<Memory>,
    adopted: Adopted,
    told: Option<Generation>,
    sabotage: Sabotage,
}

/// A chain and a sink that belong together; `began` has to finish what is half published.
pub(crate) fn pair(
    world: &Arc<World>,
    memory: &Arc<Memory>,
    publisher: Publisher<MemoryStore>,
    began: Option<Generation>,
) -> (SimChains, SimSink) {
    let adopted = Arc::new(Mutex::new(began.unwrap_or_else(|| memory.newest())));
    let (world, sabotage) = (Arc::clone(world), world.sabotage);
    let (chains, memory) = (Arc::clone(memory), Arc::clone(memory));
    let chains = SimChains { world, memory: chains, adopted: Arc::clone(&adopted) };
    (chains, SimSink { publisher, memory, adopted, told: None, sabotage })
}

impl Chains for SimChains {
    type Error = Infallible;

    fn adopted(&self) -> u64 {
        self.adopted.lock().unwrap().number
    }

    fn adopt(&mut self) -> u64 {
        let newest = self.memory.newest();
        *self.adopted.lock().unwrap() = newest;
        newest.number
    }

    async fn apply(&mut self, mut batch: Batch) -> Result<Batch, Infallible> {
        tokio::task::yield_now().await;
        let mut rule = self.adopted.lock().unwrap().rule;
        if self.world.sabotage == Sabotage::MixGenerations && batch.continues() {
            rule = self.memory.newest().rule;
        }
        for piece in batch.pieces.iter().filter(|piece| !piece.rows.is_empty()) {
            self.world.work(|log| log.passes(piece.xid, piece.commit_lsn, rule));
        }
        let digest = rule.digest();
        let len = u32::try_from(digest.len()).unwrap();
        let segment = batch.push_segment(Bytes::from(digest));
        let mark = Cell::Text(Span { segment, start: 0, len });
        for at in 0..batch.rows.len() {
            let row = &mut batch.rows[at];
            if row.dropped {
                continue;
            }
            row.dropped = !rule.keeps(row.position);
            let comes = |closing: &&Closing| closing.position == row.position;
            let again = batch.aside.closings.iter().find(comes);
            let again = again.map(|closing| closing.letter.clone());
            let aside = row.dropped.then(|| letter(row, &rule, again));
            let (new, old) = (row.new, row.old);
            for image in [new, old].into_iter().flatten() {
                batch.cells_mut(image)[1] = mark;
            }
            batch.aside.letters.extend(aside);
        }
        Ok(batch)
    }
}

/// Every row that is dropped is set aside.
fn letter(row: &Row, rule: &Rule, again: Option<String>) -> Letter {
    Letter {
        position: row.position,
        op: row.op,
        oid: 0,
        table: String::new(),
        binding: String::new(),
        plugin: String::new(),
        sha256: String::new(),
        index: None,
        reason: rule.digest(),
        key: Vec::new(),
        again,
    }
}

impl Sink for SimSink {
    type Error = SinkError;

    async fn publish(
        &mut self,
        mut batch: Batch,
        generation: u64,
        confirmed: Lsn,
    ) -> Result<(), SinkError> {
        let adopted = *self.adopted.lock().unwrap();
        if self.told != Some(adopted) && !batch.continues() {
            self.publisher.describe(adopted.rule.description());
            self.memory.pass(adopted);
            self.told = Some(adopted);
        }
        if self.sabotage == Sabotage::LoseRows {
            let unlucky = |row: &&mut Row| mix(Id::of(row.position).high, 77).is_multiple_of(4);
            batch.rows.iter_mut().filter(unlucky).for_each(|row| row.dropped = true);
        }
        self.publisher.publish(batch, generation, confirmed).await
    }

    async fn confirm(&mut self, position: Lsn, confirmed: Lsn) -> Result<(), SinkError> {
        self.publisher.confirm(position, confirmed).await
    }

    async fn flush(&mut self) -> Result<(), SinkError> {
        match self.sabotage {
            Sabotage::LieAboutDurability => Ok(()),
            _ => self.publisher.flush().await,
        }
    }
}
