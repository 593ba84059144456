//! Host and reference guest against each other: random tables, rules and rows go through the
//! golden puppet of ABI 1.0 by the real chain, and come out as a plain model of the contract
//! has it.
//!
//! The model works on texts, row by row, and knows nothing of blocks, slots or bitmaps.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use kasho_plugin_sdk::keys::DomainKey;
use kasho_plugin_sdk::{Identity, Op, Relation};
use serde_json::json;

use crate::batch::message_relation;

use super::golden::golden;
use super::testing::{Guest, Setup, push, shown, table, transaction, truncate};
use super::{Chain, KeySource, NewColumns, OnError};

const KEY: [u8; 32] = {
    let mut key = [1_u8; 32];
    let mut n = 1;
    while n < key.len() {
        key[n] = key[n - 1] + 7;
        n += 1;
    }
    key
};

/// When every transaction of these tests committed.
const COMMIT_US: i64 = 1_000_000;

/// SplitMix64 (Steele, Lea, Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

/// A column, and what its rule says.
#[derive(Clone, Debug)]
struct Column {
    word: &'static str,
    key: bool,
    from: Option<usize>,
}

/// A table with its rules.
#[derive(Clone, Debug)]
struct Table {
    relation: Arc<Relation>,
    columns: Vec<Column>,
}

/// A value: a text, `NULL`, `~` unchanged, `-` absent; as the tests write rows.
type Cells = Vec<String>;

#[derive(Clone, Debug)]
struct Change {
    table: usize,
    op: Op,
    new: Cells,
    old: Cells,
}

/// Everything that a run is made of.
struct World {
    tables: Vec<Table>,
    truncate: Option<&'static str>,
    commit_time: bool,
    domain: DomainKey,
}

fn is_text(value: &str) -> bool {
    !matches!(value, "NULL" | "~" | "-")
}

impl World {
    fn new(random: &mut Random) -> World {
        let tables = (0..1 + random.below(2)).map(|n| some_table(random, n)).collect();
        let mut world = World {
            tables,
            truncate: random.of(&[None, Some("keep"), Some("drop")]),
            commit_time: random.one_in(2),
            domain: DomainKey::derive(&KEY, "puppet"),
        };
        let word = |word| Column { word, key: false, from: None };
        let columns = vec![word("read"), word(random.of(&["write", "mask", "hash", "drop"]))];
        world.tables.push(Table { relation: message_relation(false), columns });
        world
    }

    fn chain(&self) -> Chain {
        let mut columns = BTreeMap::new();
        let mut from = BTreeMap::new();
        for Table { relation, columns: ruled } in &self.tables {
            let name = |n: usize| format!("{}.{}", relation.qualified(), relation.columns[n].name);
            for (n, column) in ruled.iter().enumerate() {
                columns.insert(name(n), column.word);
                if let Some(other) = column.from {
                    from.insert(name(n), name(other));
                }
            }
        }
        let mut rules = json!({"columns": columns, "from": from, "commit_time": self.commit_time});
        if let Some(word) = self.truncate {
            rules["truncate"] = json!(word);
        }
        let mut setup = Setup::new(&Guest::new(&[]));
        setup.write("mask.wasm", &golden("puppet.wasm"));
        setup.write("key", &KEY);
        let path = setup.folder.path().join("key");
        setup.config.keys.insert("k1".to_owned(), KeySource::File(path));
        let binding = setup.binding();
        binding.rules = toml::Table::try_from(&rules).unwrap();
        binding.tables = self.tables.iter().map(|t| t.relation.qualified()).collect();
        (binding.on_error, binding.allow_misses) = (OnError::Drop, true);
        // What is only read nobody rules on.
        (binding.new_columns, binding.allow_unmasked) = (NewColumns::Pass, true);
        let real = self.tables.iter().filter(|t| !t.relation.is_virtual());
        let relations: Vec<&Arc<Relation>> = real.map(|t| &t.relation).collect();
        setup.chain(&relations)
    }

    /// What leaves of a change, if anything.
    fn passed(&self, change: &Change) -> Option<String> {
        let table = &self.tables[change.table];
        let full = table.relation.identity == Identity::Full;
        let (mut new, mut old) = (change.new.clone(), change.old.clone());
        let dropped = change.op == Op::Truncate && self.truncate == Some("drop");
        for (n, column) in table.columns.iter().enumerate() {
            if full && !new.is_empty() && !old.is_empty() && new[n] == "~" {
                new[n] = old[n].clone();
            }
            if matches!(column.word, "mask" | "hash") && !column.key && !old.is_empty() {
                old[n] = "-".to_owned();
            }
        }
        // What a column is made from is what came, not what another rule made of it.
        let (came_new, came_old) = (new.clone(), old.clone());
        let mut failed = dropped;
        for (n, column) in table.columns.iter().enumerate() {
            for (image, came) in [(&mut new, &came_new), (&mut old, &came_old)] {
                let Some(text) = came.get(n).filter(|value| is_text(value)) else { continue };
                match self.value(column, text, &came_new) {
                    Ok(Some(value)) => image[n] = value,
                    Ok(None) => {}
                    Err(()) => failed = true,
                }
            }
        }
        let verdict = verdict(table, change.op, &came_new, &came_old);
        let (mut op, mut failed) = (change.op, failed || matches!(verdict, Some(b'd' | b'p')));
        match verdict {
            Some(b'i') if new.iter().any(|value| value == "~") => failed = true,
            Some(b'i') => (op, old) = (Op::Insert, Cells::new()),
            Some(b'x') => {
                let key = |(value, c): (&String, &Column)| match c.key {
                    true => value.clone(),
                    false => "-".to_owned(),
                };
                let keys = || new.iter().zip(&table.columns).map(key).collect();
                old = if old.is_empty() { keys() } else { old };
                (op, new) = (Op::Delete, Cells::new());
            }
            _ => {}
        }
        (!failed).then(|| {
            let kept = |image: &Cells| {
                let kept = image.iter().zip(&table.columns).filter(|(_, c)| c.word != "drop");
                kept.map(|(value, _)| value.as_str()).collect::<Vec<_>>().join(" ")
            };
            let name = table.relation.qualified();
            format!("{} {name} [{}] [{}]", op.name(), kept(&new), kept(&old))
        })
    }

    /// What a text becomes: nothing else, a value, or its row's error.
    fn value(&self, column: &Column, text: &str, new: &Cells) -> Result<Option<String>, ()> {
        let write = match column.word {
            "hash" => {
                let hash = self.domain.prf(text.as_bytes());
                return Ok(Some(hash.iter().map(|byte| format!("{byte:02x}")).collect()));
            }
            "write" => true,
            "mask" => false,
            _ => return Ok(None),
        };
        match text.as_bytes().first() {
            Some(b'n') => return Ok(Some("NULL".to_owned())),
            Some(b'e') => return Err(()),
            Some(b'k') if write => return Ok(None),
            _ => {}
        }
        let mut made = format!("<{text}");
        if let Some(from) = column.from {
            made.push('|');
            made.push_str(new.get(from).filter(|value| is_text(value)).map_or("", |v| v));
        }
        if self.commit_time && write {
            made.push_str(&format!("@{COMMIT_US}"));
        }
        Ok(Some(made + ">"))
    }
}

/// What the read columns say of a row.
fn verdict(table: &Table, op: Op, new: &Cells, old: &Cells) -> Option<u8> {
    let said =
        table.columns.iter().enumerate().filter(|(_, c)| c.word == "read").find_map(|(n, _)| {
            let text = |image: &Cells| image.get(n).filter(|value| is_text(value)).cloned();
            let first = text(new).or_else(|| text(old))?.bytes().next()?;
            let update = op == Op::Update;
            (matches!(first, b'd' | b'p') || update && matches!(first, b'i' | b'x'))
                .then_some(first)
        });
    said.filter(|_| op != Op::Truncate)
}

fn some_table(random: &mut Random, n: usize) -> Table {
    let full = random.one_in(3);
    let count = 2 + random.below(5);
    let keys = 1 + random.below(2);
    let mut columns: Vec<Column> = (0..count)
        .map(|n| {
            let key = full || n < keys;
            let words: &[&'static str] = match key {
                true => &["pass", "read", "write", "mask", "hash"],
                false => &["pass", "read", "read", "write", "mask", "hash", "drop"],
            };
            Column { word: random.of(words), key, from: None }
        })
        .collect();
    for n in 0..count {
        let other = random.below(count);
        let may = !columns[n].key || columns[other].key;
        if columns[n].word == "write" && columns[other].word == "read" && may {
            columns[n].from = Some(other);
        }
    }
    let names: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(n, c)| format!("c{n}{}", if c.key { "!" } else { "" }))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let id = 20_000 + u32::try_from(n).unwrap();
    let relation = table(id, &format!("t{n}"), &names);
    let identity = if full { Identity::Full } else { Identity::Default };
    Table { relation: Arc::new(Relation { identity, ..Relation::clone(&relation) }), columns }
}

/// A text that tells the puppet something; seldom that it panic, which costs instances.
fn text(random: &mut Random) -> String {
    let first = match random.one_in(60) {
        true => "p",
        false => random.of(&["a", "b", "", "k", "n", "ß", "日", "z", "e", "d", "i", "x", "q", "r"]),
    };
    let rest =
        ["", "1", "22", "éé", "a longer text than most, beyond sixty-four bytes of it, to be sure"];
    format!("{first}{}", random.of(&rest))
}

fn change(random: &mut Random, world: &World) -> Change {
    let at = random.below(world.tables.len());
    let table = &world.tables[at];
    let full = table.relation.identity == Identity::Full;
    let (message, op) = match table.relation.is_virtual() {
        true => (true, Op::Message),
        false => (
            false,
            random.of(&[Op::Insert, Op::Read, Op::Update, Op::Update, Op::Delete, Op::Truncate]),
        ),
    };
    let mut new = Cells::new();
    let mut old = Cells::new();
    for column in &table.columns {
        let value = match random.below(6) {
            0 if !column.key && !message => "NULL".to_owned(),
            1 if op == Op::Update && (full || !column.key) => "~".to_owned(),
            _ => text(random),
        };
        new.push(value);
        let before = match random.below(5) {
            _ if !column.key => "-".to_owned(),
            0 if full => "NULL".to_owned(),
            1 if new.last().is_some_and(|value| is_text(value)) => new.last().unwrap().clone(),
            _ => text(random),
        };
        old.push(before);
    }
    let has_old = op == Op::Delete || op == Op::Update && (full || random.one_in(2));
    let has_new = matches!(op, Op::Insert | Op::Read | Op::Update | Op::Message);
    let none = Cells::new;
    let (new, old) = (if has_new { new } else { none() }, if has_old { old } else { none() });
    Change { table: at, op, new, old }
}

#[test]
fn random_rows_come_out_as_the_contract_has_it() {
    let mut seen = BTreeMap::<&str, usize>::new();
    for seed in 0..40 {
        let mut random = Random(seed);
        let world = World::new(&mut random);
        let mut chain = world.chain();
        for size in [1, 1, 3, 40, 90] {
            let changes: Vec<Change> = (0..size).map(|_| change(&mut random, &world)).collect();
            let mut batch = transaction();
            for Change { table, op, new, old } in &changes {
                let relation = &world.tables[*table].relation;
                let new: Vec<&str> = new.iter().map(String::as_str).collect();
                let old: Vec<&str> = old.iter().map(String::as_str).collect();
                match op {
                    Op::Truncate => truncate(&mut batch, &[relation]),
                    _ => push(&mut batch, relation, *op, &new, &old),
                }
                *seen.entry(op.name()).or_default() += 1;
            }
            chain.apply(&mut batch).unwrap();
            let want: Vec<String> = changes.iter().filter_map(|c| world.passed(c)).collect();
            assert_eq!(shown(&batch), want, "seed {seed}: {:?}\n{changes:#?}", world.tables);
            *seen.entry("left").or_default() += want.len();
        }
    }
    // Each kind often enough to mean something, and not everything was refused.
    assert!(seen.len() == 7 && seen.values().all(|n| *n > 100), "{seen:?}");
}
