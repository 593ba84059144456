//! ABI 1.0 as it was frozen: its test vectors and its golden guests through this host.
//!
//! What breaks here breaks plugins that are out there: the host is to be mended, not the
//! vectors or the guests.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::Arc;

use kasho_plugin_sdk::abi::{self, Use};
use kasho_plugin_sdk::batch::{Allowed, Decision, NO_SLOT, Reply};
use kasho_plugin_sdk::keys::DomainKey;
use kasho_plugin_sdk::{Op, Relation};
use serde_json::{Value, json};

use crate::batch::Batch;

use super::config::NewColumns;
use super::exchange::{Fault, Link};
use super::instance::{Ceilings, Failure, Instance};
use super::outcome::{Decided, cell};
use super::testing::{Guest, Setup, catalog, host, insert, push, shown, table, transaction, users};
use format::{Cell, Column, Effects, Life, ReplyVector, Rows, Side, Step, load, unhex};

#[path = "../../../plugin-sdk/tests/vectors/format.rs"]
mod format;

/// A golden guest.
pub(super) fn golden(file: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/abi-1.0/");
    std::fs::read(format!("{folder}{file}")).unwrap()
}

/// As the tests' tables and rows have it.
fn written(cell: &Cell) -> &str {
    match cell {
        Cell::Absent => "-",
        Cell::Null => "NULL",
        Cell::Unchanged => "~",
        Cell::Text(text) => text,
    }
}

/// A guest that accepts one block, byte for byte, and answers with this one.
fn replies(vector: &ReplyVector, block: &[u8], reply: &[u8]) -> Guest {
    let columns = vector.slots.iter().enumerate();
    let columns = columns.map(|(n, usage)| json!({"name": format!("c{n}"), "use": usage}));
    let mut guest = Guest::new(&[]);
    guest.wanted = json!({"ok": {
        "columns": columns.collect::<Vec<_>>(),
        "ops": Op::ALL,
    }});
    guest.needs = json!({"ok": {"texts": vec!["a text"; vector.texts]}});
    guest.data = vec![(0x8000, reply.to_vec()), (0x10000, block.to_vec())];
    let answer = 0x8000_u64 << 32 | reply.len() as u64;
    guest.body(&format!(
        "(local $i i32)
         (if (i32.ne (local.get $n) (i32.const {len})) (then unreachable))
         (loop $next
           (if (i32.ne (i32.load8_u (i32.add (local.get $p) (local.get $i)))
                       (i32.load8_u offset=0x10000 (local.get $i))) (then unreachable))
           (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (br_if $next (i32.lt_u (local.get $i) (i32.const {len}))))
         i64.const {answer}",
        len = block.len()
    ))
}

/// The rows of a vector as a source makes them.
fn rows(vector: &ReplyVector, relation: &Arc<Relation>) -> Batch {
    let mut batch = transaction();
    let told = &vector.rows;
    let value = |slot: usize, image: Side, row: usize| {
        let of = |c: &&Column| usize::from(c.slot) == slot && c.image == image;
        told.columns.iter().find(of).map_or(&Cell::Absent, |column| &column.values[row])
    };
    for (row, op) in told.ops.iter().enumerate() {
        let image = |image: Side| {
            let cells: Vec<&Cell> = (0..vector.slots.len()).map(|s| value(s, image, row)).collect();
            let there = cells.iter().any(|cell| **cell != Cell::Absent);
            let texts = cells.into_iter().map(written);
            if there { texts.collect() } else { Vec::new() }
        };
        push(&mut batch, relation, *op, &image(Side::New), &image(Side::Old));
    }
    batch
}

/// What the host does with the answer of a vector, and the rows afterwards.
fn called(vector: &ReplyVector) -> (Result<Vec<Decided>, Failure>, Batch) {
    let names: Vec<String> = (0..vector.slots.len()).map(|n| format!("c{n}!")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let relation = table(vector.rows.relation, "users", &names);
    let guest = replies(vector, &vector.rows.block(), &unhex(&vector.reply));
    let mut setup = Setup::new(&guest);
    let binding = setup.binding();
    (binding.new_columns, binding.allow_unmasked) = (NewColumns::Pass, true);
    let generation = setup.load(&catalog(&[&relation])).unwrap();
    let plans = &generation.plans;
    let plan = plans.iter().find(|plan| plan.relation == relation).unwrap();
    let plan = plan.links[0].clone().unwrap();
    let mut link = Link::new(Arc::clone(&generation.bound[0]), None);
    let mut batch = rows(vector, &relation);
    let all: Vec<u32> = (0..).take(batch.rows.len()).collect();
    let outcome = link.call(&host(), &mut batch, &plan, &all, 1_000);
    let outcome = outcome.map_err(|fault| match fault {
        Fault::Start(failure) | Fault::Call(failure) => failure,
    });
    (outcome, batch)
}

#[test]
fn the_vectors_of_replies_hold_through_the_host() {
    let vectors: Vec<ReplyVector> = load("reply.json");
    assert!(vectors.len() > 90);
    for vector in &vectors {
        let name = &vector.name;
        let (outcome, batch) = called(vector);
        match (outcome, &vector.effects, &vector.refused) {
            (Ok(decided), Some(effects), None) => done(vector, effects, &decided, &batch),
            (Err(Failure::Malformed(flaw)), None, Some(why)) => {
                assert_eq!(&flaw.to_string(), why, "{name}");
            }
            (Err(Failure::Unmasked(_)), None, Some(why)) => {
                assert!(why.contains("masked"), "{name}: {why}");
            }
            (Err(Failure::BadPointer), None, Some(_)) => {
                assert!(vector.reply.len() < 16, "{name}: no answer is so short");
            }
            (told, ..) => panic!("{name}: {told:?}"),
        }
    }
}

/// That a batch is what a reply makes of it.
fn done(vector: &ReplyVector, effects: &Effects, decided: &[Decided], batch: &Batch) {
    let name = &vector.name;
    for (row, verdict) in (0_u32..).zip(&effects.verdicts) {
        let told = decided.iter().find(|d| d.row == row);
        let decision = told.map_or(Decision::Keep, |d| d.decision);
        assert_eq!(decision as u8, *verdict, "{name}, row {row}");
        let want = effects.errors.iter().find(|e| e.row == row);
        let want = want.map(|e| (e.text, e.slot.unwrap_or(NO_SLOT)));
        assert_eq!(told.and_then(|d| d.error), want, "{name}, row {row}");
    }
    for column in &vector.rows.columns {
        for (row, was) in column.values.iter().enumerate() {
            let patch = effects.patches.iter();
            let patch = patch.filter(|p| (p.slot, p.image) == (column.slot, column.image));
            let is = patch.filter_map(|p| p.values.get(&row)).next().unwrap_or(was);
            let row = u32::try_from(row).unwrap();
            let cell = cell(batch, row, column.image.into(), usize::from(column.slot));
            let text = match is {
                Cell::Text(text) => Some(text.as_bytes()),
                _ => None,
            };
            assert_eq!(batch.text(cell), text, "{name}, row {row}");
            assert_eq!(cell == crate::batch::Cell::Null, *is == Cell::Null, "{name}, row {row}");
        }
    }
}

fn ceilings() -> Ceilings {
    Ceilings {
        binding: Arc::from("golden"),
        memory_bytes: 64 << 20,
        deadline_ms: 10_000,
        init_ms: 10_000,
        lines: Arc::default(),
    }
}

#[test]
fn the_golden_puppet_lives_as_it_did() {
    let lives: Vec<Life> = load("puppet.json");
    let host = host();
    let compiled = host.compile(&golden("puppet.wasm"), 1 << 20, false).unwrap();
    for life in &lives {
        let instance = Instance::new(&host, &compiled, &ceilings()).unwrap();
        let master = unhex(&life.master).try_into().unwrap();
        let mut living = Living { instance, master, texts: 0, slots: Vec::new() };
        for step in &life.steps {
            let answer = match step.call.as_str() {
                "init" => living.init(step),
                "relation" => living.relation(step),
                _ => living.batch(step),
            };
            assert_eq!(answer, step.answer, "{}: {}", life.name, step.name);
        }
    }
}

struct Living {
    instance: Instance,
    master: [u8; 32],
    texts: usize,
    /// Of the relation told last.
    slots: Vec<(u32, Vec<bool>)>,
}

impl Living {
    fn init(&mut self, step: &Step) -> Value {
        let init: abi::Init = serde_json::from_value(step.says.clone()).unwrap();
        let answer = self.instance.init(&init).unwrap();
        if let abi::Answer::Ok(needs) = &answer {
            self.texts = needs.texts.len();
            let state = self.instance.state();
            state.counters = vec![0; needs.texts.len()];
            let key = |domain: &String| DomainKey::derive(&self.master, domain);
            state.domains = needs.domains.iter().map(key).collect();
        }
        serde_json::to_value(answer).unwrap()
    }

    fn relation(&mut self, step: &Step) -> Value {
        if step.says.get("gone").is_some() {
            let id = u32::try_from(step.says["id"].as_u64().unwrap()).unwrap();
            self.instance.forget(id).unwrap();
            return json!(1);
        }
        let relation: Relation = serde_json::from_value(step.says.clone()).unwrap();
        let id = relation.id;
        let Some(answer) = self.instance.relation(&Arc::new(relation)).unwrap() else {
            return json!(1);
        };
        if let abi::Answer::Ok(wanted) = &answer {
            let may = |c: &abi::ColumnUse| matches!(c.usage, Use::Write | Use::Mask);
            self.slots.push((id, wanted.columns.iter().map(may).collect()));
        }
        serde_json::to_value(answer).unwrap()
    }

    fn batch(&mut self, step: &Step) -> Value {
        let rows: Rows = serde_json::from_value(step.says.clone()).unwrap();
        let mut builder = rows.builder();
        let block = builder.finish().unwrap().to_vec();
        assert_eq!(&format::hex(&block), step.block.as_ref().unwrap(), "{}", step.name);
        let (_, patchable) = self.slots.iter().rfind(|(id, _)| *id == rows.relation).unwrap();
        let allowed = Allowed { texts: self.texts, patchable };
        match self.instance.batch(&block, 1 << 20, 10_000).unwrap() {
            None => json!(1),
            Some(reply) => {
                let reply = Reply::read(reply, builder.sent(), allowed).unwrap();
                serde_json::to_value(Effects::of(&reply, rows.ops.len())).unwrap()
            }
        }
    }
}

#[test]
fn the_guest_written_by_hand_masks() {
    let source = String::from_utf8(golden("by-hand.wat")).unwrap();
    for wasm in [golden("by-hand.wasm"), wat::parse_str(&source).unwrap()] {
        let setup = Setup::new(&Guest::new(&[]));
        setup.write("mask.wasm", &wasm);
        let mut chain = setup.chain(&[&users()]);
        let mut batch = transaction();
        for (op, new, old) in [
            (Op::Insert, &["1", "ada"][..], &[][..]),
            (Op::Read, &["2", "NULL"], &[]),
            (Op::Update, &["3", "~"], &[]),
            (Op::Update, &["4", "b"], &["5", "-"]),
            (Op::Delete, &[], &["1", "-"]),
        ] {
            push(&mut batch, &users(), op, new, old);
        }
        chain.apply(&mut batch).unwrap();
        let want = [
            "insert public.users [1 x@y.z] []",
            "read public.users [2 NULL] []",
            "update public.users [3 ~] []",
            "update public.users [4 x@y.z] [5 -]",
            "delete public.users [] [1 -]",
        ];
        assert_eq!(shown(&batch), want);
        assert_eq!(chain.generation().figures()["mask"].counted()["rows"], 5);
        // A table of that name that is another one: the first is gone, and told so.
        let anew = table(9, "users", &["id!", "email"]);
        let mut batch = transaction();
        push(&mut batch, &anew, Op::Insert, &["1", "ada"], &[]);
        push(&mut batch, &users(), Op::Insert, &["2", "bob"], &[]);
        chain.apply(&mut batch).unwrap();
        let want = ["1", "2"].map(|id| format!("insert public.users [{id} x@y.z] []"));
        assert_eq!(shown(&batch), want);
    }
}

#[test]
fn a_guest_that_does_not_forget_is_not_run() {
    let mut guest = Guest::new(&[("email", "mask"), ("id", "pass")]);
    guest.needs = json!({"ok": {}});
    let mut chain = Setup::new(&guest).chain(&[&users()]);
    let mut batch = insert("ada");
    batch.rows.clear();
    push(&mut batch, &table(9, "users", &["id!", "email"]), Op::Insert, &["1", "ada"], &[]);
    let error = chain.apply(&mut batch).unwrap_err().to_string();
    assert!(error.contains("does not forget a table"), "{error}");
}
