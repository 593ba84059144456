//! Every small history of a table, loaded again at every point of it, read by the real
//! reader from its start and from every position on the way: what is built is the source.
//!
//! The histories and the question are those of the design's model of a load resumed at a
//! later snapshot. Whoever applies is strict here: a row that is inserted twice, changed
//! or deleted without being there fails the test at once.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::*;
use crate::sink::entry::Field;
use crate::sink::memory::{MemoryServer, MemoryStore};
use crate::sink::publisher::{Description, NewEpoch, begin_epoch};
use crate::sink::store::{Append, Connect, Dead, Finish, Guard, Load, NewEntry, Store};

/// Key to `(a, big)`; `big` is TOASTed: an update does not send it.
type Table = BTreeMap<String, (String, String)>;

const KEYS: [&str; 2] = ["1", "2"];
/// Changes of the longest histories.
const DEPTH: usize = 4;

/// Where a transaction of the history commits, and what comes before it.
fn commit(n: usize) -> u64 {
    0x100 * (n as u64 + 1)
}

/// A load point that sees the first `n` transactions.
fn point(n: usize) -> u64 {
    0x100 * n as u64 + 0x80
}

/// A mark behind the first `n` transactions; before every load point that is taken later.
fn mark(n: usize) -> u64 {
    0x100 * n as u64 + 0x40
}

#[derive(Clone, Debug)]
struct Change {
    op: &'static str,
    data: Value,
}

fn change(op: &'static str, new: Option<Value>, old: Option<&str>) -> Change {
    let mut data = json!({"xid": 1, "ts": 0, "cols": ["k", "a", "big"], "oids": [25, 25, 25]});
    if let Some(new) = new {
        data["new"] = new;
    }
    if let Some(old) = old {
        data["old"] = json!([old, false, false]);
    }
    Change { op, data }
}

/// Every change that is possible in a state, with the state after it. A value names the
/// change, so that each write differs.
fn changes(state: &Table, n: usize) -> Vec<(Change, Table)> {
    let mut all = Vec::new();
    let a = n.to_string();
    for key in KEYS {
        let mut next = state.clone();
        let Some((_, big)) = next.remove(key) else {
            let big = format!("b{n}");
            next.insert(key.into(), (a.clone(), big.clone()));
            all.push((change("insert", Some(json!([key, a, big])), None), next));
            continue;
        };
        all.push((change("delete", None, Some(key)), next.clone()));
        for to in KEYS.into_iter().filter(|to| !next.contains_key(*to)) {
            let mut moved = next.clone();
            moved.insert(to.into(), (a.clone(), big.clone()));
            let old = (to != key).then_some(key);
            all.push((change("update", Some(json!([to, a, true])), old), moved));
        }
    }
    all
}

/// Every history of up to `depth` changes: the changes, and the state before each and
/// after the last.
fn histories(depth: usize) -> Vec<(Vec<Change>, Vec<Table>)> {
    let row = |key: &str, big: &str| (key.to_owned(), ("0".to_owned(), big.to_owned()));
    let beginnings = [
        Table::new(),
        Table::from([row("1", "b0")]),
        Table::from([row("1", "b0"), row("2", "c0")]),
    ];
    let mut all: Vec<_> = beginnings.map(|state| (Vec::new(), vec![state])).into();
    let mut at = 0;
    while at < all.len() {
        let (history, states): (Vec<Change>, Vec<Table>) = all[at].clone();
        at += 1;
        if history.len() == depth {
            continue;
        }
        for (change, state) in changes(&states[history.len()], history.len() + 1) {
            let (mut history, mut states) = (history.clone(), states.clone());
            history.push(change);
            states.push(state);
            all.push((history, states));
        }
    }
    all
}

/// Both streams as the engine writes them.
struct World {
    server: MemoryServer,
    store: MemoryStore,
    last: Id,
    changes: Id,
    state: Option<Vec<u8>>,
    /// Rows that come together stand in one entry.
    together: bool,
}

impl World {
    async fn new(together: bool) -> World {
        let server = MemoryServer::default();
        let description =
            Description { options: "o".into(), chain: "c".into(), key_fingerprint: "k".into() };
        let new = NewEpoch {
            encoding: crate::sink::config::Encoding::Msgpack,
            load_rows: 500,
            slot: "s",
            system_id: "1",
            timeline: 1,
            start_lsn: Lsn(point(0)),
            description,
            generation: 1,
            state: None,
            catalog: None,
        };
        let mut store = server.connect().await.unwrap();
        begin_epoch(&mut store, &new).await.unwrap();
        World { server, store, last: Id::ZERO, changes: Id::ZERO, state: None, together }
    }

    /// Appends to the bootstrap stream.
    async fn load(&mut self, op: &'static str, data: &Value) {
        self.load_many(op, data, 1).await;
    }

    /// Appends an entry that counts for so many.
    async fn load_many(&mut self, op: &'static str, data: &Value, count: u64) {
        let lease = Duration::from_secs(30);
        self.store.lease(Epoch(1), "e", "w", lease).await.unwrap();
        let guard = Guard { epoch: Epoch(1), writer: "w".into(), last: self.last };
        let id = Id { high: self.last.high + count, low: 1 };
        let data = data.to_string();
        let table = if op == "end" { "" } else { "public.t" };
        let entry = NewEntry { id, op, table, data: data.as_bytes(), last: false };
        if op == "end" {
            let new = self.last.to_string().into_bytes();
            let old = self.state.replace(new.clone());
            let finish =
                Finish { end: entry, generation: 1, old_state: old.as_deref(), new_state: &new };
            self.store.finish(&guard, &finish).await.unwrap();
        } else {
            let load = Load {
                generation: 1,
                entries: vec![entry],
                progress: vec![],
                lease,
                dead: Dead::default(),
            };
            self.store.load(&guard, &load).await.unwrap();
        }
        self.last = id;
    }

    async fn rows(&mut self, rows: &Table, count: usize) {
        if self.together && rows.len().min(count) > 1 {
            let rows: Vec<_> =
                rows.iter().take(count).map(|(key, (a, big))| json!([key, a, big])).collect();
            let mut data = change("read", None, None).data;
            data["rows"] = json!(rows);
            return self.load_many("rows", &data, rows.len() as u64).await;
        }
        for (key, (a, big)) in rows.iter().take(count) {
            let change = change("read", Some(json!([key, a, big])), None);
            self.load("read", &change.data).await;
        }
    }

    async fn restart(&mut self, attempt: u64, lsn: u64) {
        let data = json!({"attempt": attempt, "load_lsn": Lsn(lsn).to_string()});
        self.load("restart", &data).await;
    }

    async fn end(&mut self, point: Option<u64>, after: Option<u64>) {
        let points: BTreeMap<_, _> =
            point.map(|lsn| ("public.t", Lsn(lsn).to_string())).into_iter().collect();
        let mut data = json!({"start_lsn": "0/80", "load_points": points});
        if let Some(after) = after {
            data["after"] = json!(Lsn(after).to_string());
        }
        self.load("end", &data).await;
    }

    async fn append(&mut self, id: Id, op: &str, table: &str, data: &Value, last: bool) {
        let checkpoint = self.store.inspect().await.unwrap().checkpoint.unwrap();
        let guard = Guard { epoch: Epoch(1), writer: checkpoint.writer, last: self.changes };
        let data = data.to_string();
        let entry = NewEntry { id, op, table, data: data.as_bytes(), last };
        let append =
            Append { generation: 1, entries: vec![entry], fields: vec![], dead: Dead::default() };
        self.store.append(&guard, &append).await.unwrap();
        self.changes = id;
    }

    /// Transactions `from..to` of the history. Each also has a row of another table, which
    /// nothing that happens to this one may hide.
    async fn stream(&mut self, history: &[Change], from: usize, to: usize) {
        for (n, Change { op, data }) in history.iter().enumerate().take(to).skip(from) {
            let id = |low| Id { high: commit(n), low };
            self.append(id(1), op, "public.t", data, false).await;
            let other = change("insert", Some(json!([n.to_string(), "", ""])), None).data;
            self.append(id(2), "insert", "public.u", &other, true).await;
        }
    }

    async fn mark(&mut self, n: usize, section: u64) {
        let data = json!({"section": section, "tables": ["public.t"]});
        self.append(Id { high: mark(n), low: 0 }, "restart", "public.t", &data, true).await;
    }

    async fn read(&self, from: From, built: &mut Built) -> Vec<(EpochPosition, Built)> {
        let store = self.server.connect().await.unwrap();
        let mut reader = StreamReader::open(store, from, 64).await.unwrap();
        let mut steps = Vec::new();
        while let Some(entry) = reader.next(Duration::ZERO).await.unwrap() {
            built.apply(&entry);
            steps.push((reader.position(), built.clone()));
        }
        steps
    }

    /// Reads from the start, and, of all but the longest histories, from every position that
    /// a reader may have stopped at.
    async fn check(&self, expected: &Table, transactions: usize, case: &str) {
        let mut whole = Built::default();
        let steps = self.read(From::Start, &mut whole).await;
        assert_eq!(whole.t, *expected, "{case}");
        assert_eq!(whole.u, transactions, "{case}");
        let all: Vec<_> = steps.iter().map(|step| step.0).collect();
        for (at, (position, mut built)) in steps.into_iter().enumerate() {
            if transactions == DEPTH {
                break;
            }
            let rest = self.read(From::After(position), &mut built).await;
            let rest: Vec<_> = rest.into_iter().map(|step| step.0).collect();
            assert_eq!(rest, all[at + 1..], "{case}, after {position}");
            assert_eq!((&built.t, built.u), (expected, transactions), "{case}, after {position}");
        }
    }
}

/// What whoever reads has built.
#[derive(Clone, Debug, Default)]
struct Built {
    t: Table,
    u: usize,
}

impl Built {
    fn apply(&mut self, entry: &Entry) {
        let text = |field: &Field| match field {
            Field::Text(text) => Some(text.to_string()),
            _ => None,
        };
        match &entry.content {
            Content::Restart { .. } | Content::Mark { .. } => self.t.clear(),
            Content::Row { new, .. } if entry.table == "public.u" => {
                let number = text(&new.as_ref().unwrap()[0]).unwrap();
                assert_eq!(number, self.u.to_string(), "in order, once");
                self.u += 1;
            }
            Content::Row { new, old, .. } => {
                let old = old.as_ref().map(|old| text(&old[0]).unwrap());
                let Some(new) = new else {
                    assert!(self.t.remove(&old.unwrap()).is_some(), "{entry:?} is not there");
                    return;
                };
                let (key, a) = (text(&new[0]).unwrap(), text(&new[1]).unwrap());
                let big = text(&new[2]).unwrap_or_else(|| {
                    let before = self.t.remove(old.as_ref().unwrap_or(&key));
                    before.unwrap_or_else(|| panic!("{entry:?} is not there")).1
                });
                assert_eq!(self.t.insert(key, (a, big)), None, "{entry:?} is there already");
            }
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_went_on_at_a_later_snapshot_is_exact_in_every_history() {
    let mut cases = 0;
    for (history, states) in histories(DEPTH) {
        let n = history.len();
        for later in 0..=n {
            let mut world = World::new(cases % 3 > 0).await;
            // What the first attempt had published before the holder died.
            world.rows(&states[0], later % 3).await;
            world.restart(2, point(later)).await;
            world.rows(&states[later], 2).await;
            world.end((later > 0).then(|| point(later)), None).await;
            world.stream(&history, 0, n).await;
            let case = format!("{history:?}, load point after {later}");
            world.check(&states[n], n, &case).await;
            cases += 1;
        }
    }
    assert!(cases > 2_000, "{cases}");
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "is there already")]
async fn without_a_load_point_the_model_sees_what_comes_twice() {
    for (history, states) in histories(1) {
        let mut world = World::new(false).await;
        world.rows(&states[history.len()], 2).await;
        world.end(None, None).await;
        world.stream(&history, 0, history.len()).await;
        world.check(&states[history.len()], history.len(), "no load point").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_table_loaded_again_at_a_mark_is_exact_in_every_history() {
    let mut cases = 0;
    for (history, states) in histories(DEPTH) {
        let n = history.len();
        for at in 0..=n {
            for later in at..=n {
                let mut world = World::new(cases % 3 > 0).await;
                world.rows(&states[0], 2).await;
                world.end(None, None).await;
                let section = world.last.high + 1;
                world.stream(&history, 0, at).await;
                world.mark(at, section).await;
                world.stream(&history, at, n).await;
                // The first attempt at it was cut off, as everything may be.
                if later > at {
                    world.rows(&states[at], 1).await;
                    world.restart(3, point(later)).await;
                }
                world.rows(&states[later], 2).await;
                world.end(Some(point(later)), Some(mark(at))).await;
                let case = format!("{history:?}, mark after {at}, load point after {later}");
                world.check(&states[n], n, &case).await;
                cases += 1;
            }
        }
    }
    assert!(cases > 5_000, "{cases}");
}

#[tokio::test(start_paused = true)]
async fn a_table_loaded_again_twice_is_exact_in_every_history() {
    for (history, states) in histories(2) {
        let n = history.len();
        for (first, second) in (0..=n).flat_map(|first| (first..=n).map(move |s| (first, s))) {
            let mut world = World::new(true).await;
            world.rows(&states[0], 2).await;
            world.end(None, None).await;
            let section = world.last.high + 1;
            world.stream(&history, 0, first).await;
            world.mark(first, section).await;
            world.rows(&states[first], 2).await;
            world.end(Some(point(first)), Some(mark(first))).await;
            // The second mark comes after the first section's end, so after its load point.
            let at = mark(second) + if second == first { 0x50 } else { 0 };
            world.stream(&history, first, second).await;
            let (section, data) = (world.last.high + 1, ["public.t"]);
            let data = json!({"section": section, "tables": data});
            world.append(Id { high: at, low: 0 }, "restart", "public.t", &data, true).await;
            world.rows(&states[second], 2).await;
            world.end(Some(at + 0x10), Some(at)).await;
            world.stream(&history, second, n).await;
            let case = format!("{history:?}, marks after {first} and {second}");
            world.check(&states[n], n, &case).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_at_a_mark_waits_for_the_end_of_its_section() {
    let (history, states) = histories(2).pop().unwrap();
    let mut world = World::new(false).await;
    world.rows(&states[0], 2).await;
    world.end(None, None).await;
    let section = world.last.high + 1;
    world.mark(0, section).await;
    world.stream(&history, 0, 2).await;
    let mut built = Built::default();
    let steps = world.read(From::Start, &mut built).await;
    assert!((built.t.is_empty(), built.u) == (true, 0), "nothing behind the mark");
    let at_mark = steps.last().unwrap().0;
    assert_eq!(at_mark.position, Position::Wal { commit_lsn: Lsn(mark(0)), ordinal: 0 });
    world.rows(&states[1], 1).await;
    let steps = world.read(From::After(at_mark), &mut built).await;
    assert_eq!((steps.len(), built.u), (states[1].len().min(1), 0), "nor behind half a section");
    world.rows(&states[1].iter().skip(1).map(|(k, v)| (k.clone(), v.clone())).collect(), 2).await;
    world.end(Some(point(1)), Some(mark(0))).await;
    let position = steps.last().map_or(at_mark, |step| step.0);
    world.read(From::After(position), &mut built).await;
    assert_eq!((built.t, built.u), (states[2].clone(), 2));
}
