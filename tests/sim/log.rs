//! What really happened in the database: every transaction as it was committed, written
//! down beside the server's own log, and the workload that commits them.

use std::collections::BTreeSet;
use std::sync::Arc;

use kasho::position::{Lsn, Position};
use kasho::sink::contract::sample;
use kasho::source::memory::{MemoryServer, Transaction};
use kasho::source::{HEARTBEAT_PREFIX, RETRY_PREFIX};
use kasho_plugin_sdk::{Op, Relation, Value};

use crate::random::Random;
use crate::stations::Rule;

/// The prefix of messages that are published.
pub(crate) const LISTED: &str = "app";
/// Transaction ids of the server begin after this.
const FIRST_XID: u32 = 700;

/// One event, in the words of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) ordinal: u64,
    pub(crate) op: Op,
    /// Field `t`.
    pub(crate) table: String,
    /// The first value of its image; none for a truncate.
    pub(crate) id: Option<String>,
}

/// A transaction, or a message outside any (`xid` 0).
#[derive(Clone, Debug)]
pub(crate) struct Happened {
    pub(crate) xid: u32,
    pub(crate) lsn: Lsn,
    /// Told to be durable at or after here, it is not sent again.
    pub(crate) end: Lsn,
    /// Only those that are to be published.
    pub(crate) events: Vec<Event>,
    /// The chains that any process passed it through.
    pub(crate) passed: BTreeSet<Rule>,
    /// Of a message in whose place a row is to come again: where the row stood at first.
    pub(crate) retry: Option<Position>,
}

/// Commits, and remembers what.
pub(crate) struct Log {
    pub(crate) server: MemoryServer,
    pub(crate) happened: Vec<Happened>,
    tables: Vec<Arc<Relation>>,
    xid: u32,
    next_id: u64,
}

impl Log {
    pub(crate) fn new(server: MemoryServer) -> Log {
        let tables = ["ledger", "Account"].map(sample::relation).to_vec();
        Log { server, happened: Vec::new(), tables, xid: FIRST_XID, next_id: 0 }
    }

    /// Notes that a transaction, or a message, passes a chain.
    pub(crate) fn passes(&mut self, xid: u32, lsn: Lsn, rule: Rule) {
        let at = self.happened.partition_point(|happened| happened.lsn < lsn);
        let same = |happened: &&mut Happened| happened.lsn == lsn && happened.xid == xid;
        if let Some(happened) = self.happened[at..].iter_mut().take(2).find(same) {
            happened.passed.insert(rule);
        }
    }

    /// A server takes over that has the log up to `at`, where a transaction ends; from
    /// there it uses the same addresses for others.
    pub(crate) fn promote(&mut self, at: Lsn) {
        self.server = self.server.promoted(at);
        self.happened.retain(|happened| happened.end <= at);
    }

    /// A transaction of `rows` inserts.
    pub(crate) fn inserts(&mut self, rows: u64) -> Lsn {
        self.transaction((0..rows).map(|_| Kind::Insert), false)
    }

    /// A message outside any transaction, and a transaction that begins at its very LSN.
    pub(crate) fn message_then(&mut self, kinds: &[Kind]) -> Lsn {
        self.message(LISTED);
        self.transaction(kinds.iter().copied(), true)
    }

    /// Something that a seed thinks of.
    pub(crate) fn anything(&mut self, random: &mut Random) {
        match random.below(20) {
            0 => drop(self.server.advance(random.within(1, 500))),
            1 => self.message(LISTED),
            2 => self.message("unlisted"),
            3 => self.message(HEARTBEAT_PREFIX),
            4 | 5 => {
                self.message(random.one(&[LISTED, LISTED, HEARTBEAT_PREFIX]));
                let rows = random.within(0, 12);
                self.random_transaction(rows, true, random);
            }
            6 | 7 => self.random_transaction(0, false, random),
            8 => {
                let rows = random.within(20, 60);
                self.random_transaction(rows, false, random);
            }
            9 if random.often(20) => {
                self.transaction([Kind::Fat; 5].into_iter(), false);
            }
            _ => {
                let rows = random.within(1, 14);
                self.random_transaction(rows, false, random);
            }
        }
    }

    fn random_transaction(&mut self, rows: u64, logged: bool, random: &mut Random) {
        let kinds: Vec<Kind> = (0..rows).map(|_| random.one(&KINDS)).collect();
        self.transaction(kinds.into_iter(), logged);
    }

    /// A message outside any transaction.
    pub(crate) fn message(&mut self, prefix: &str) {
        self.lone(prefix, "content", None);
    }

    /// A message in whose place a row comes that stood at `origin` at first, if somebody
    /// expects this word.
    pub(crate) fn retry(&mut self, word: &str, origin: Position) -> Lsn {
        self.lone(RETRY_PREFIX, word, Some(origin))
    }

    fn lone(&mut self, prefix: &str, content: &str, retry: Option<Position>) -> Lsn {
        let lsn = self.server.emit(prefix, content.as_bytes());
        let (ordinal, op, table) = (0, Op::Message, "kasho.message".to_owned());
        let event = Event { ordinal, op, table, id: Some(prefix.to_owned()) };
        let listed = prefix == LISTED || retry.is_some();
        let (events, passed) = (listed.then_some(event).into_iter().collect(), BTreeSet::new());
        self.happened.push(Happened { xid: 0, lsn, end: lsn, events, passed, retry });
        lsn
    }

    pub(crate) fn transaction(&mut self, kinds: impl Iterator<Item = Kind>, logged: bool) -> Lsn {
        let (mut transaction, mut events) = (Transaction::new(), Vec::new());
        for (kind, ordinal) in kinds.zip(1..) {
            let event;
            (transaction, event) = self.change(transaction, kind, ordinal);
            events.extend(event);
        }
        self.xid += 1;
        let lsn = match logged {
            true => self.server.commit_logged(transaction),
            false => self.server.commit(transaction),
        };
        let (xid, end, passed) = (self.xid, self.server.wal_end(), BTreeSet::new());
        self.happened.push(Happened { xid, lsn, end, events, passed, retry: None });
        lsn
    }

    /// Adds a change, and says what is to be seen of it.
    fn change(
        &mut self,
        transaction: Transaction,
        kind: Kind,
        ordinal: u64,
    ) -> (Transaction, Option<Event>) {
        self.next_id += 1;
        let id = self.next_id.to_string();
        let table = &self.tables[usize::try_from(self.next_id % 2).unwrap()];
        let image = [Value::Text(&id), Value::Text("note")];
        let event = |op| Event { ordinal, op, table: table.qualified(), id: Some(id.clone()) };
        match kind {
            Kind::Insert => (transaction.insert(table, &image), Some(event(Op::Insert))),
            Kind::Update => {
                (transaction.update(table, Some(&image), &image), Some(event(Op::Update)))
            }
            Kind::Delete => (transaction.delete(table, &image), Some(event(Op::Delete))),
            Kind::Truncate => {
                let names: Vec<String> = self.tables.iter().map(|t| t.qualified()).collect();
                let event = Event { table: names.join(","), id: None, ..event(Op::Truncate) };
                (transaction.truncate(&self.tables, false), Some(event))
            }
            Kind::Message | Kind::Unlisted => {
                let prefix = if kind == Kind::Message { LISTED } else { "unlisted" };
                let table = "kasho.message".to_owned();
                let id = Some(prefix.to_owned());
                let event = Event { ordinal, op: Op::Message, table, id };
                let listed = (kind == Kind::Message).then_some(event);
                (transaction.message(prefix, b"content"), listed)
            }
            Kind::Fat => {
                // Five of these are more than one call to Redis carries.
                let text = format!("{id}{}", " ".repeat(FAT_BYTES));
                let image = [Value::Text(&text), Value::Text("note")];
                let event = Event { id: Some(text.clone()), ..event(Op::Insert) };
                (transaction.insert(table, &image), Some(event))
            }
        }
    }
}

/// What a change may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Insert,
    Update,
    Delete,
    Truncate,
    Message,
    Unlisted,
    Fat,
}

/// Mostly rows.
const KINDS: [Kind; 12] = {
    use Kind::{Delete, Insert, Message, Truncate, Unlisted, Update};
    [
        Insert, Insert, Insert, Insert, Insert, Update, Update, Delete, Delete, Truncate, Message,
        Unlisted,
    ]
};

const FAT_BYTES: usize = 900_000;
