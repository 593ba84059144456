//! A whole life of the puppet: every call a host makes of a guest, and what it answers.

use std::collections::BTreeMap;

use kasho_plugin_sdk::Op;
use kasho_plugin_sdk::abi::{Answer, Needs, Use, Wanted};
use kasho_plugin_sdk::batch::{Allowed, Reply};
use kasho_plugin_sdk::session::{Answered, Session};
use kasho_plugin_sdk::testing::{Fixture, MASTER};
use serde_json::{Value, json};

use super::format::{Cell, Effects, Life, Rows, Side, Step, hex};
use super::inputs::{column, text};
use super::puppet::Puppet;

const USERS: u32 = 16_384;

/// A puppet that lives, and what is written down of it.
struct Living {
    session: Session<Puppet>,
    texts: usize,
    wanted: BTreeMap<u32, Wanted>,
    steps: Vec<Step>,
}

impl Living {
    fn new() -> Living {
        let (wanted, steps) = (BTreeMap::new(), Vec::new());
        Living { session: Session::default(), texts: 0, wanted, steps }
    }

    fn told(self, name: &str) -> Life {
        Life { name: name.to_owned(), master: hex(&MASTER), steps: self.steps }
    }

    fn step(&mut self, name: &str, call: &str, says: Value, block: Option<String>, answer: Value) {
        let (name, call) = (name.to_owned(), call.to_owned());
        self.steps.push(Step { name, call, says, block, answer });
    }

    fn init(&mut self, name: &str, says: Value) {
        let answer: Answer<Needs> =
            json_of(self.session.init(says.to_string().as_bytes())).unwrap();
        if let Answer::Ok(needs) = &answer {
            self.texts = needs.texts.len();
        }
        self.step(name, "init", says, None, serde_json::to_value(answer).unwrap());
    }

    fn relation(&mut self, name: &str, says: Value) {
        let answer: Option<Answer<Wanted>> =
            json_of(self.session.relation(says.to_string().as_bytes()));
        if let Some(Answer::Ok(wanted)) = &answer {
            let id = says["id"].as_u64().and_then(|id| u32::try_from(id).ok()).unwrap();
            self.wanted.insert(id, wanted.clone());
        }
        let answer = answer.map_or(json!(1), |answer| serde_json::to_value(answer).unwrap());
        self.step(name, "relation", says, None, answer);
    }

    fn batch(&mut self, name: &str, rows: &Rows) {
        let mut builder = rows.builder();
        let block = builder.finish().unwrap().to_vec();
        let wanted = &self.wanted[&rows.relation];
        let patchable = wanted.columns.iter().map(|c| matches!(c.usage, Use::Write | Use::Mask));
        let patchable: Vec<bool> = patchable.collect();
        let allowed = Allowed { texts: self.texts, patchable: &patchable };
        let answer = match self.session.batch(&block).unwrap() {
            Answered::Nothing => json!(1),
            Answered::Bytes(reply) => {
                let reply = Reply::read(reply, builder.sent(), allowed).unwrap();
                serde_json::to_value(Effects::of(&reply, rows.ops.len())).unwrap()
            }
        };
        let says = serde_json::to_value(rows).unwrap();
        self.step(name, "batch", says, Some(hex(&block)), answer);
    }
}

fn json_of<T: serde::de::DeserializeOwned>(answered: Answered<'_>) -> Option<T> {
    match answered {
        Answered::Nothing => None,
        Answered::Bytes(json) => Some(serde_json::from_slice(json).unwrap()),
    }
}

fn init(rules: &Value) -> Value {
    json!({
        "abi": "1.0", "host": "0.1.0", "features": ["prf", "commit_time", "of_a_later_minor"],
        "rules": rules, "limits": {"memory_mib": 64, "deadline_ms": 100}, "of_a_later_minor": 1,
    })
}

fn relation(id: u32, version: u32, name: (&str, &str), columns: &[(&str, &str)]) -> Value {
    let columns = columns.iter().map(|(name, ty)| {
        let key = name.ends_with('!');
        json!({
            "name": name.trim_end_matches('!'), "type": ty, "oid": 25, "base": ty, "typmod": -1,
            "key": key, "not_null": key, "unique": key, "toastable": !key, "elem": null,
            "labels": null,
        })
    });
    json!({
        "id": id, "version": version, "schema": name.0, "table": name.1, "identity": "default",
        "columns": columns.collect::<Vec<_>>(),
    })
}

fn rules() -> Value {
    json!({
        "columns": {
            "public.users.id": "pass", "public.users.code": "mask", "public.users.email": "hash",
            "public.users.name": "mask", "public.users.note": "write",
            "public.users.status": "read", "public.users.ssn": "drop",
            "kasho.message.prefix": "read", "kasho.message.content": "write",
            "kasho.ddl.tag": "read", "kasho.ddl.object_type": "pass", "kasho.ddl.identity": "pass",
            "kasho.ddl.text": "mask",
        },
        "from": {"public.users.note": "public.users.status"},
        "rows": {"public.users": "puppet/1"},
        "truncate": "drop",
        "commit_time": true,
        "gone": "public.scratch",
    })
}

fn users(version: u32, xml: bool) -> Value {
    let columns = [
        ("id!", "int8"),
        ("code!", "text"),
        ("email", "text"),
        ("name", "text"),
        ("note", if xml { "xml" } else { "text" }),
        ("status", "text"),
        ("ssn", "text"),
    ];
    relation(USERS, version, ("public", "users"), &columns)
}

/// Slots: 0 id, 1 code, 2 email, 3 name, 4 note, 5 status, 6 ssn.
fn rows() -> Rows {
    use Cell::{Absent, Null, Unchanged};
    let t = text;
    let ops = [
        Op::Insert,
        Op::Update,
        Op::Delete,
        Op::Read,
        Op::Update,
        Op::Update,
        Op::Insert,
        Op::Read,
    ];
    let code = [t("c1"), t("c2"), Absent, t("c4"), t("c5"), t("c6"), t("c7"), t("c8")];
    let old_code = [Absent, t("c1"), t("c9"), Absent, Absent, t("c0"), Absent, Absent];
    let email = [
        t("ada@example.org"),
        Unchanged,
        Absent,
        Null,
        t("ada@example.org"),
        t(""),
        t("grüße@example.org"),
        t("z"),
    ];
    let name = [t("Ada"), t("nobody"), Absent, t("Bob"), t("Carl"), t("Dora"), t("error"), Null];
    let note = [t("hello"), t("keep it"), Absent, t("a"), Unchanged, t("n"), t("b"), t("ß")];
    let status =
        [t("on"), Null, Absent, t("drop it"), t("insert it"), t("x: delete it"), t("on"), t("")];
    let columns = vec![
        column(1, Side::New, &code),
        column(1, Side::Old, &old_code),
        column(2, Side::New, &email),
        column(3, Side::New, &name),
        column(4, Side::New, &note),
        column(5, Side::New, &status),
    ];
    let commit_us = Some((0..8).map(|n| 1_700_000_000_000_000 + n).collect());
    Rows { relation: USERS, version: 1, call: 1, ops: ops.to_vec(), commit_us, columns }
}

pub(crate) fn vectors() -> Vec<Life> {
    let mut life = Living::new();
    life.init("rules that it refuses", init(&json!({"columns": {"public.users.id": "shred"}})));
    vec![life.told("a short one"), long().told("a long one")]
}

fn long() -> Living {
    // What a fixture announces installs the keys of this thread, as a host's are.
    let mut keys = Fixture::<Puppet>::new(rules()).unwrap();
    keys.relation(&serde_json::from_value(users(1, false)).unwrap()).unwrap();
    let mut life = Living::new();
    life.init("rules", init(&rules()));
    life.relation("a table that it refuses", users(1, true));
    life.relation("a table", users(1, false));
    let other = relation(16_400, 1, ("public", "other"), &[("id!", "int8")]);
    life.relation("a table that it does not want", other);
    let scratch = relation(16_401, 1, ("public", "scratch"), &[("id!", "int8")]);
    life.relation("a table of which nothing leaves", scratch);
    life.batch("rows of every kind", &rows());
    let one = |op, call, columns| Rows {
        relation: USERS,
        version: 1,
        call,
        ops: vec![op],
        commit_us: Some(vec![0]),
        columns,
    };
    life.batch("a truncate", &one(Op::Truncate, 2, Vec::new()));
    let code = |side| vec![column(1, side, &[text("c1")])];
    life.batch("the same value is the same in the old image", &one(Op::Delete, 3, code(Side::Old)));
    life.batch("and in the new one", &one(Op::Insert, 4, code(Side::New)));
    life.relation("the table again, described otherwise", users(2, false));
    life.batch(
        "a row of the new description",
        &Rows { version: 2, ..one(Op::Read, 5, code(Side::New)) },
    );
    events(&mut life);
    life.relation("the table is gone", json!({"id": USERS, "gone": true}));
    life.relation("and comes again", users(3, false));
    life
}

/// What is no row of a table.
fn events(life: &mut Living) {
    let columns = [("prefix", "text"), ("content", "text")];
    life.relation("logical messages", relation(1, 1, ("kasho", "message"), &columns));
    let message = |call, prefix: &str, content: &str| Rows {
        relation: 1,
        version: 1,
        call,
        ops: vec![Op::Message],
        commit_us: Some(vec![5]),
        columns: vec![
            column(0, Side::New, &[text(prefix)]),
            column(1, Side::New, &[text(content)]),
        ],
    };
    life.batch("a message is rewritten", &message(6, "app", "hello"));
    life.batch("a message is dropped", &message(7, "drop", "hello"));
    let columns = ["tag", "object_type", "identity", "text"].map(|name| (name, "text"));
    life.relation("schema changes", relation(2, 1, ("kasho", "ddl"), &columns));
    let ddl = |call, tag: &str| Rows {
        relation: 2,
        version: 1,
        call,
        ops: vec![Op::Ddl],
        commit_us: Some(vec![5]),
        columns: vec![
            column(0, Side::New, &[text(tag)]),
            column(3, Side::New, &[text("ALTER TABLE users ADD note text")]),
        ],
    };
    life.batch("a schema change is rewritten", &ddl(8, "ALTER TABLE"));
    life.batch("a schema change is dropped", &ddl(9, "drop table"));
}
