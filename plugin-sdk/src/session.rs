//! A plugin driven by the bytes of ABI 1: what the exports of a guest call, and what
//! native tests call in their place.
//!
//! What the host says wrongly is an error of the call, never a guess; what the plugin
//! refuses is an answer that says so.

use std::collections::BTreeMap;

use crate::abi::{Announcement, Answer, ColumnUse, Complaint, DDL_RELATION, Init};
use crate::abi::{Use, Wanted};
use crate::batch::{Flaw, Input, Malformed, NO_SLOT, ReplyBuilder};
use crate::event::{Op, Relation};
use crate::plugin::{Declaration, Declared, Error, Plugin, Result, Setup, Table};
use crate::rows::{Batch, Work};

/// How a relation's columns are dealt out to declarations.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) relation: Relation,
    /// The slot of each declared column; [`NO_SLOT`] where it is not of this relation.
    pub(crate) slots: Vec<u16>,
}

/// What a call answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered<'a> {
    /// 1: keep all, or not wanted.
    Nothing,
    /// A block or a JSON text, 8-byte aligned in memory.
    Bytes(&'a [u8]),
}

/// One instance of a plugin.
#[derive(Debug)]
pub struct Session<P> {
    plugin: Option<P>,
    declared: Declared,
    relations: BTreeMap<u32, Bound>,
    work: Work,
    reply: ReplyBuilder,
    json: Vec<u8>,
}

impl<P> Default for Session<P> {
    fn default() -> Self {
        Session {
            plugin: None,
            declared: Declared::default(),
            relations: BTreeMap::new(),
            work: Work::default(),
            reply: ReplyBuilder::default(),
            json: Vec::new(),
        }
    }
}

impl<P: Plugin> Session<P> {
    /// `kasho_init`.
    pub fn init(&mut self, json: &[u8]) -> Answered<'_> {
        let answer = match self.set_up(json) {
            Ok(()) => Answer::Ok(&self.declared.needs),
            Err(error) => Answer::Error(error.0),
        };
        write_json(&mut self.json, &answer)
    }

    fn set_up(&mut self, json: &[u8]) -> Result<()> {
        let init: Init = serde_json::from_slice(json)
            .map_err(|e| Error::new(format!("cannot read the host's init call: {e}")))?;
        let mut setup = Setup::new(&init);
        let plugin = P::new(&mut setup)?;
        self.declared = setup.finish()?;
        self.relations.clear();
        self.plugin = Some(plugin);
        Ok(())
    }

    /// `kasho_relation`.
    pub fn relation(&mut self, json: &[u8]) -> Answered<'_> {
        let announced = serde_json::from_slice(json)
            .map_err(|e| Error::new(format!("cannot read the host's relation call: {e}")));
        let answer = match announced.and_then(|announced| self.announce(announced)) {
            Ok(None) => return Answered::Nothing,
            Ok(Some(wanted)) => Answer::Ok(wanted),
            Err(error) => Answer::Error(error.0),
        };
        write_json(&mut self.json, &answer)
    }

    fn announce(&mut self, announced: Announcement) -> Result<Option<Wanted>> {
        let Some(plugin) = &mut self.plugin else { return Err(Error::new("not initialised")) };
        let relation = match announced {
            Announcement::Gone { id, .. } => {
                self.relations.remove(&id);
                return Ok(None);
            }
            Announcement::Is(relation) => relation,
        };
        self.relations.remove(&relation.id);
        let name = relation.qualified();
        let Dealt { mut wanted, slots, columns } =
            deal(&self.declared, &relation).map_err(|e| e.at(&name))?;
        let tables = self.declared.tables.iter().filter(|(table, _)| table.matches(&relation));
        let listed = tables.clone().next().is_some();
        let filters = tables.filter_map(|(table, rows)| Some((table.weight(), rows.as_ref()?)));
        wanted.rows = filters.max_by_key(|(weight, _)| *weight).map(|(_, rows)| rows.clone());
        let renames = self.declared.renames.iter();
        let mut rename =
            renames.filter(|(table, _)| table.matches(&relation)).map(|(_, names)| names);
        wanted.rename = rename.next().cloned();
        if wanted.columns.is_empty() && !listed && wanted.rename.is_none() {
            return Ok(None);
        }
        let table = Table { relation: &relation, columns: &columns };
        plugin.relation(&table).map_err(|e| e.at(&name))?;
        wanted.drop = plugin.drops(&table);
        self.relations.insert(relation.id, Bound { relation, slots });
        Ok(Some(wanted))
    }

    /// `kasho_batch`.
    ///
    /// # Errors
    /// The host broke the contract; the answer is then 0.
    pub fn batch(&mut self, block: &[u8]) -> Result<Answered<'_>, Malformed> {
        let input = Input::read(block)?;
        let bound = self.relations.get(&input.relation);
        let bound = bound.filter(|bound| bound.relation.version == input.version);
        let (Some(bound), Some(plugin)) = (bound, &mut self.plugin) else {
            return Err(Malformed::new(12, Flaw::Missing("announcement of the relation")));
        };
        let mut batch = Batch::new(input, bound, &mut self.work)?;
        plugin.batch(&mut batch);
        let reply = batch.finish(&mut self.reply);
        Ok(reply?.map_or(Answered::Nothing, Answered::Bytes))
    }
}

/// Puts JSON where its address is 8-byte aligned.
fn write_json<'j>(json: &'j mut Vec<u8>, answer: &impl serde::Serialize) -> Answered<'j> {
    let refusal = br#"{"error":{"text":"the answer cannot be written"}}"#;
    let text = serde_json::to_vec(answer).unwrap_or_else(|_| refusal.to_vec());
    json.clear();
    json.reserve(text.len() + 8);
    let start = json.as_ptr().align_offset(8);
    json.resize(start, 0);
    json.extend_from_slice(&text);
    Answered::Bytes(json.get(start..).unwrap_or_default())
}

struct Dealt {
    wanted: Wanted,
    /// By declaration: slot.
    slots: Vec<u16>,
    /// By declaration: place in the relation.
    columns: Vec<Option<usize>>,
}

/// Deals a relation's columns out to the declarations that match them.
fn deal(declared: &Declared, relation: &Relation) -> Result<Dealt> {
    let here: Vec<usize> = (0..declared.columns.len())
        .filter(|i| declared.columns[*i].pattern.table.matches(relation))
        .collect();
    let mut dealt = Dealt {
        wanted: Wanted {
            ops: ops(declared, relation),
            commit_time: declared.commit_time,
            ..Wanted::default()
        },
        slots: vec![NO_SLOT; declared.columns.len()],
        columns: vec![None; declared.columns.len()],
    };
    for (place, column) in relation.columns.iter().enumerate() {
        let matching: Vec<usize> = here
            .iter()
            .copied()
            .filter(|i| declared.columns[*i].names(&declared.columns, relation, place))
            .collect();
        let Some((usage, chosen)) = choose(&declared.columns, &matching, &column.name)? else {
            continue;
        };
        let passes =
            usage == Use::Read && chosen.iter().any(|i| declared.columns[*i].usage == Use::Pass);
        let slot = u16::try_from(dealt.wanted.columns.len()).unwrap_or(NO_SLOT);
        for i in &chosen {
            dealt.slots[*i] = slot;
            dealt.columns[*i] = Some(place);
        }
        let fingerprint = chosen.iter().find_map(|i| declared.columns[*i].fingerprint.clone());
        let (name, reads) = (column.name.clone(), Vec::new());
        dealt.wanted.columns.push(ColumnUse { name, usage, fingerprint, reads, passes });
    }
    for (i, declaration) in declared.columns.iter().enumerate() {
        let reads = declaration.reads.iter().filter_map(|r| dealt.columns[usize::from(*r)]);
        let reads: Vec<_> = reads.map(|place| relation.columns[place].name.clone()).collect();
        if let Some(column) = dealt.wanted.columns.get_mut(usize::from(dealt.slots[i])) {
            column.reads.extend(reads);
        }
    }
    Ok(dealt)
}

/// Which of the declarations that match a column hold for it: all reads, and of the
/// others the one that names it most exactly.
fn choose(
    all: &[Declaration],
    matching: &[usize],
    name: &str,
) -> Result<Option<(Use, Vec<usize>)>> {
    let rules = || matching.iter().copied().filter(|i| all[*i].usage != Use::Read);
    let weight = |i: &usize| all[*i].pattern.weight();
    let Some(heaviest) = rules().max_by_key(weight) else {
        let chosen = (!matching.is_empty()).then(|| (Use::Read, matching.to_vec()));
        return Ok(chosen);
    };
    if let Some(other) = rules().find(|i| *i != heaviest && weight(i) == weight(&heaviest)) {
        let (a, b) = (&all[other].pattern, &all[heaviest].pattern);
        return Err(Error::new(format!(
            "column {name} is ruled on by `{a}` and by `{b}`: one must name it more exactly"
        )));
    }
    let usage = all[heaviest].usage;
    let is_read = |i: &usize| all[*i].usage == Use::Read;
    let reads = matching.iter().any(is_read);
    if usage == Use::Drop && reads {
        return Err(Error::new(format!(
            "column {name} is dropped, so nothing may read it: pass it, \
             or take the rule out that reads it"
        )));
    }
    let usage = if usage == Use::Pass && reads { Use::Read } else { usage };
    let chosen = matching.iter().copied().filter(|i| *i == heaviest || is_read(i)).collect();
    Ok(Some((usage, chosen)))
}

/// The operations that rows of this relation are wanted of.
fn ops(declared: &Declared, relation: &Relation) -> Vec<Op> {
    if relation.is_virtual() {
        let ddl = relation.table == DDL_RELATION.1;
        return vec![if ddl { Op::Ddl } else { Op::Message }];
    }
    let truncate = declared.truncate.then_some(Op::Truncate);
    [Op::Insert, Op::Update, Op::Delete, Op::Read].into_iter().chain(truncate).collect()
}

impl From<Complaint> for Error {
    fn from(complaint: Complaint) -> Error {
        Error(complaint)
    }
}
