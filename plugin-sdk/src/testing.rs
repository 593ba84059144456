//! A plugin driven natively, by the very blocks that a host sends: feature `testing`.
//!
//! A [`Fixture`] does what the host does around a batch: it announces tables, checks the
//! reply, applies patches and verdicts, and enforces masks. Whatever the contract forbids
//! panics with the reason, which is how a test fails. The master key is 32 times the byte
//! 7, so expected fakes can be written down.
//!
//! ```
//! use kasho_plugin_sdk::{*, testing::*};
//! # struct Upper(Col);
//! # impl Plugin for Upper {
//! #     fn new(cx: &mut Setup) -> Result<Self> { Ok(Upper(cx.write("public.users.name")?)) }
//! #     fn row(&mut self, row: &mut Row) -> Verdict {
//! #         row.rewrite(self.0, |name, _| name.to_uppercase());
//! #         Verdict::Keep
//! #     }
//! # }
//! let mut fixture = Fixture::<Upper>::new(serde_json::Value::Null).unwrap();
//! let users = table("public.users(id int8 key, name varchar(20) not null)");
//! fixture.relation(&users).unwrap();
//! let out = fixture.run(&users, &[insert([("id", "1"), ("name", "Ada")])]);
//! assert_eq!(out[0].after("name"), Value::Text("ADA"));
//! ```

mod files;
pub(crate) mod imports;
mod outcome;
mod refusals;

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::abi::{Answer, Complaint, Needs, Use, Wanted};
use crate::batch::{Allowed, Image, InputBuilder, Reply};
use crate::event::{Op, Relation};
use crate::fixture::{Cells, parse_table};
use crate::plugin::{Error, Plugin};
use crate::session::{Answered, Session};

pub use crate::fixture::Cell;
pub use crate::keys::TEST_MASTER as MASTER;
pub use files::run_fixtures;
pub use imports::{counted, logged};
pub use outcome::Outcome;
pub use refusals::Refusals;

/// The relation of [`parse_table`], for a line that stands in a test.
///
/// # Panics
/// If the line is no such thing.
#[must_use]
pub fn table(line: &str) -> Relation {
    parse_table(line).unwrap_or_else(|e| panic!("{e}"))
}

/// A change to be sent through a plugin.
#[derive(Clone, Debug)]
pub struct TestRow {
    op: Op,
    new: Option<Cells>,
    old: Option<Cells>,
}

fn cells<const N: usize, V: Into<Cell>>(values: [(&str, V); N]) -> Option<Cells> {
    Some(values.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect())
}

/// An INSERT; columns that are not named are NULL.
pub fn insert<const N: usize, V: Into<Cell>>(new: [(&str, V); N]) -> TestRow {
    TestRow { op: Op::Insert, new: cells(new), old: None }
}

/// A row of the initial load; columns that are not named are NULL.
pub fn read<const N: usize, V: Into<Cell>>(new: [(&str, V); N]) -> TestRow {
    TestRow { op: Op::Read, new: cells(new), old: None }
}

/// An UPDATE that leaves the identity alone.
pub fn update<const N: usize, V: Into<Cell>>(new: [(&str, V); N]) -> TestRow {
    TestRow { op: Op::Update, new: cells(new), old: None }
}

/// An UPDATE with an old image; its columns that are not named are absent.
pub fn update_from<const N: usize, const M: usize, V: Into<Cell>, W: Into<Cell>>(
    old: [(&str, W); M],
    new: [(&str, V); N],
) -> TestRow {
    TestRow { op: Op::Update, new: cells(new), old: cells(old) }
}

/// A DELETE; columns that are not named are absent.
pub fn delete<const N: usize, V: Into<Cell>>(old: [(&str, V); N]) -> TestRow {
    TestRow { op: Op::Delete, new: None, old: cells(old) }
}

/// A TRUNCATE.
#[must_use]
pub fn truncate() -> TestRow {
    TestRow { op: Op::Truncate, new: None, old: None }
}

impl TestRow {
    fn image(&self, image: Image, relation: &Relation) -> Vec<Cell> {
        let (cells, missing) = match image {
            Image::New => (&self.new, Cell::Null),
            Image::Old => (&self.old, Cell::Absent),
        };
        let column = |name: &String| match cells {
            Some(cells) => cells.get(name).cloned().unwrap_or_else(|| missing.clone()),
            None => Cell::Absent,
        };
        let named = [&self.new, &self.old].into_iter().flatten().flat_map(|cells| cells.keys());
        for name in named {
            assert!(relation.column(name).is_some(), "{} has no {name}", relation.qualified());
        }
        relation.columns.iter().map(|c| column(&c.name)).collect()
    }
}

/// A plugin, set up, and what it answered of tables.
#[derive(Debug)]
pub struct Fixture<P> {
    session: Session<P>,
    needs: Needs,
    keys: imports::Keys,
    wanted: BTreeMap<u32, Option<Wanted>>,
    call: u32,
}

impl<P: Plugin> Fixture<P> {
    /// Sets a plugin up with these rules.
    ///
    /// # Errors
    /// What the plugin finds wrong with them.
    pub fn new(rules: Json) -> Result<Fixture<P>, Error> {
        Fixture::with_key(rules, &MASTER)
    }

    /// The same with another master key.
    ///
    /// # Errors
    /// What the plugin finds wrong with the rules.
    pub fn with_key(rules: Json, master: &[u8; 32]) -> Result<Fixture<P>, Error> {
        let mut session = Session::default();
        let init = json!({
            "abi": crate::abi::VERSION, "host": "testing", "rules": rules,
            "features": ["prf", "commit_time"],
            "limits": { "memory_mib": 64, "deadline_ms": 100 },
        });
        let needs: Needs = answered(session.init(init.to_string().as_bytes()))?
            .unwrap_or_else(|| panic!("init answers with 1, which means nothing"));
        let keys = imports::Keys::derive(&needs.domains, master);
        Ok(Fixture { session, needs, keys, wanted: BTreeMap::new(), call: 0 })
    }

    /// What the plugin asked for at init.
    #[must_use]
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Announces a table and gives what the plugin wants of it; `None` if nothing.
    ///
    /// # Errors
    /// Why the plugin cannot handle it.
    pub fn relation(&mut self, relation: &Relation) -> Result<Option<&Wanted>, Error> {
        self.keys.install(&self.needs.texts);
        let json = serde_json::to_vec(relation).unwrap_or_default();
        let wanted: Option<Wanted> = answered(self.session.relation(&json))?;
        Ok(self.wanted.entry(relation.id).insert_entry(wanted).into_mut().as_ref())
    }

    /// Sends rows of an announced table through the plugin, in one batch.
    ///
    /// # Panics
    /// On whatever a host refuses, a text left unmasked among it.
    pub fn run(&mut self, relation: &Relation, rows: &[TestRow]) -> Vec<Outcome> {
        let Some(wanted) = self.wanted.get(&relation.id) else {
            panic!("announce {} by `relation` first", relation.qualified())
        };
        let mut outcomes: Vec<Outcome> =
            rows.iter().map(|row| Outcome::unchanged(row, relation)).collect();
        let Some(wanted) = wanted else { return outcomes };
        let sent: Vec<usize> =
            (0..rows.len()).filter(|i| wanted.ops.contains(&rows[*i].op)).collect();
        if !sent.is_empty() {
            self.keys.install(&self.needs.texts);
            self.call += 1;
            let mut builder = build(relation, wanted, rows, &sent, self.call);
            let block = builder.finish().unwrap_or_else(|e| panic!("{e}")).to_vec();
            let answer = self.session.batch(&block).unwrap_or_else(|e| panic!("the plugin: {e}"));
            apply(answer, &builder, wanted, &self.needs, &sent, &mut outcomes);
        }
        outcomes.iter_mut().for_each(|outcome| outcome.strip(wanted, relation));
        outcomes
    }
}

fn answered<T: serde::de::DeserializeOwned>(answered: Answered<'_>) -> Result<Option<T>, Error> {
    let Answered::Bytes(json) = answered else { return Ok(None) };
    assert_eq!(json.as_ptr().align_offset(8), 0, "an answer is 8-byte aligned");
    match serde_json::from_slice(json) {
        Ok(Answer::Ok(value)) => Ok(Some(value)),
        Ok(Answer::Error(complaint)) => Err(Error::from(complaint)),
        Err(error) => Err(Error::from(Complaint {
            text: format!("the answer is not what ABI 1 has: {error}"),
            at: None,
        })),
    }
}

/// The columns that a guest sees.
fn seen(wanted: &Wanted) -> impl Iterator<Item = (u16, &str)> {
    let columns = (0_u16..).zip(&wanted.columns);
    columns
        .filter(|(_, c)| !matches!(c.usage, Use::Pass | Use::Drop))
        .map(|(slot, c)| (slot, c.name.as_str()))
}

fn build(
    relation: &Relation,
    wanted: &Wanted,
    rows: &[TestRow],
    sent: &[usize],
    call: u32,
) -> InputBuilder {
    let mut builder = InputBuilder::default();
    builder.begin(relation.id, relation.version, call, sent.iter().map(|i| rows[*i].op));
    if wanted.commit_time {
        let times = sent.iter().map(|_| 1_700_000_000_000_000);
        builder.commit_us(times).unwrap_or_else(|e| panic!("{e}"));
    }
    for image in Image::ALL {
        let images: Vec<_> = sent.iter().map(|i| rows[*i].image(image, relation)).collect();
        for (slot, name) in seen(wanted) {
            let Some(place) = relation.column(name) else { panic!("a column {name} is answered") };
            let fields = images.iter().map(|cells| cells[place].field());
            builder.column(slot, image, fields).unwrap_or_else(|e| panic!("{e}"));
        }
    }
    builder
}

fn apply(
    answer: Answered<'_>,
    builder: &InputBuilder,
    wanted: &Wanted,
    needs: &Needs,
    sent: &[usize],
    outcomes: &mut [Outcome],
) {
    let patchable: Vec<bool> =
        wanted.columns.iter().map(|c| matches!(c.usage, Use::Write | Use::Mask)).collect();
    let allowed = Allowed { texts: needs.texts.len(), patchable: &patchable };
    let nothing;
    let reply = match answer {
        Answered::Bytes(block) => block,
        Answered::Nothing => {
            let mut empty = crate::batch::ReplyBuilder::default();
            let rows = u32::try_from(sent.len()).unwrap_or(0);
            let block = empty.write(builder.sent().call(), rows, &[], &[], std::iter::empty());
            nothing = block.unwrap_or_default().to_vec();
            &nothing
        }
    };
    let reply = Reply::read(reply, builder.sent(), allowed)
        .unwrap_or_else(|e| panic!("the reply is malformed: {e}"));
    for (slot, column) in (0_u16..).zip(&wanted.columns).filter(|(_, c)| c.usage == Use::Mask) {
        for image in Image::ALL {
            if let Some(row) = reply.first_unmasked(slot, image, builder.sent()) {
                let (name, row) = (&column.name, sent[row]);
                panic!("row {row}: the {image:?} value of masked column {name} is left as it was");
            }
        }
    }
    for patch in reply.patches() {
        let name = &wanted.columns[usize::from(patch.slot)].name;
        for (row, text) in patch.entries() {
            outcomes[sent[row]].set(patch.image, name, Cell::from(text));
        }
    }
    for (row, i) in sent.iter().enumerate() {
        outcomes[*i].decide(reply.decision(row));
    }
    for error in reply.errors() {
        let column = wanted.columns.get(usize::from(error.slot)).map(|c| c.name.clone());
        let text = needs.texts[usize::from(error.text)].clone();
        outcomes[sent[error.row as usize]].fail(text, column);
    }
}
