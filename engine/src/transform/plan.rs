//! What becomes of one relation: who sees which of its columns, what never leaves, and
//! whether its rows pass at all.
//!
//! A plan is made once for each description of a table, from the answers of the bindings
//! that name it, and is refused where an answer contradicts the table or the contract. A
//! column that nobody speaks of is the operator's decision (`new_columns`), never an
//! accident.

use std::sync::Arc;

use kasho_plugin_sdk::abi::{Rename, Use, Wanted};
use kasho_plugin_sdk::{Column, Identity, Op, Relation, abi};

use serde::{Deserialize, Serialize};

use super::config::{NewColumns, OnError, Unruled};
use super::ddl::Ddl;
use super::gate;
use super::rename::Renames;

/// How exactly rules name a column or a table. The order is that of exactness: a lost line
/// can leave a pattern in force, but no line that names this very column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Named {
    /// By a pattern of columns, or not at all.
    #[default]
    No,
    /// Its name, in whatever tables a pattern matches.
    Pattern,
    /// Table and column by their names.
    Exactly,
}

/// One column that a binding spoke of; its place is its slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Place in the relation.
    pub(super) column: usize,
    /// What the plugin does with it.
    pub(super) usage: Use,
    /// It is looked at, and a rule says that it passes.
    pub(super) passes: bool,
    /// Columns its new value is made from, beside itself.
    pub(super) reads: Vec<usize>,
    /// What it becomes: part of the identity of rows, if it is a key.
    pub(super) mapping: String,
    /// How exactly the rules name it.
    pub(super) named: Named,
}

impl Slot {
    /// Whether its values are sent.
    fn sees(&self) -> bool {
        matches!(self.usage, Use::Read | Use::Write | Use::Mask)
    }

    /// Whether it says what becomes of the column.
    fn rules(&self) -> bool {
        self.usage != Use::Read || self.passes
    }
}

/// What one binding does with one relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkPlan {
    /// The relation.
    pub(super) relation: Arc<Relation>,
    /// Columns by slot.
    pub(super) slots: Vec<Slot>,
    /// Whether a slot may be patched.
    pub(super) patchable: Vec<bool>,
    /// The slots whose values are sent, each with its column.
    seen: Vec<(usize, usize)>,
    /// None of the rows leaves.
    pub(super) drops: bool,
    /// What it removes rows by, if it does: a fingerprint.
    pub(super) rows: Option<String>,
    /// It said so itself; otherwise it only could.
    pub(super) declared: bool,
    /// How exactly the rules name the table.
    pub(super) named: Named,
    /// Operations it is called for, a bit each.
    ops: u8,
    /// It wants commit times.
    pub(super) commit_time: bool,
    /// New names that it gives.
    pub(super) rename: Option<Rename>,
}

impl LinkPlan {
    /// Checks a plugin's answer against the relation.
    ///
    /// `mapping` is the fingerprint of a column whose mask has none of its own.
    pub(super) fn new(
        relation: &Arc<Relation>,
        wanted: &Wanted,
        mapping: impl Fn(Option<&str>) -> String,
    ) -> Result<LinkPlan, Vec<String>> {
        let mut wrong = Vec::new();
        let place = |name: &str| relation.column(name);
        let mut slots: Vec<Slot> = Vec::new();
        for column in &wanted.columns {
            let Some(at) = place(&column.name) else {
                wrong.push(format!(
                    "the plugin speaks of column {}, which its table does not have: see ABI.md",
                    gate::harmless(&column.name)
                ));
                continue;
            };
            if slots.iter().any(|s| s.column == at) {
                wrong.push(format!(
                    "the plugin speaks twice of column {}: once is what it may",
                    column.name
                ));
            }
            let mut reads = Vec::new();
            for name in &column.reads {
                match place(name) {
                    Some(read) => reads.push(read),
                    None => wrong.push(format!(
                        "{} reads column {}, which its table does not have: see ABI.md",
                        column.name,
                        gate::harmless(name)
                    )),
                }
            }
            let mapping = match column.usage {
                Use::Mask | Use::Write => mapping(column.fingerprint.as_deref()),
                Use::Pass | Use::Read | Use::Drop => String::new(),
            };
            let (usage, passes, named) = (column.usage, column.passes, Named::No);
            slots.push(Slot { column: at, usage, passes, reads, mapping, named });
        }
        wrong.extend(contradictions(relation, wanted, &slots));
        let patchable = slots.iter().map(|s| matches!(s.usage, Use::Write | Use::Mask)).collect();
        let seen = slots.iter().enumerate().filter(|(_, s)| s.sees());
        let seen = seen.map(|(slot, s)| (slot, s.column)).collect();
        let ops = wanted.ops.iter().fold(0, |bits, op| bits | 1 << *op as u8);
        let relation = Arc::clone(relation);
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let (drops, commit_time) = (wanted.drop, wanted.commit_time);
        let (rows, declared) = removes(wanted, &slots, || mapping(None));
        let named = Named::No;
        Ok(LinkPlan {
            relation,
            slots,
            patchable,
            seen,
            drops,
            rows,
            declared,
            named,
            ops,
            commit_time,
            rename: wanted.rename.clone(),
        })
    }

    /// Notes how exactly the rules name the table and its columns.
    pub(super) fn name(&mut self, table: Named, column: impl Fn(&str) -> Named) {
        self.named = table;
        for slot in &mut self.slots {
            slot.named = column(&self.relation.columns[slot.column].name);
        }
    }

    /// Whether it is called for this operation.
    pub(super) fn wants(&self, op: Op) -> bool {
        self.ops >> op as u8 & 1 == 1
    }

    /// The operations that it is called for with rows, a bit each: all it wants but
    /// TRUNCATE, which has calls of its own.
    pub(super) fn row_ops(&self) -> u8 {
        self.ops & !(1 << Op::Truncate as u8)
    }

    /// The slots whose values are sent, each with its column.
    #[inline]
    pub(super) fn seen(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.seen.iter().copied()
    }

    /// The columns it uses in this way.
    pub(super) fn used(&self, usage: Use) -> impl Iterator<Item = usize> + '_ {
        self.slots.iter().filter(move |s| s.usage == usage).map(|s| s.column)
    }

    fn accounts_for(&self, column: usize) -> bool {
        self.slots.iter().any(|s| s.column == column && s.rules())
    }
}

/// The fingerprint of what removes rows, and whether the plugin has said that it does.
/// Where it says nothing and rewrites nothing, removing rows is all it can do: then its
/// code and its rules are the fingerprint. An empty text says that none is removed.
fn removes(wanted: &Wanted, slots: &[Slot], whole: impl Fn() -> String) -> (Option<String>, bool) {
    let reads = slots.is_empty() || slots.iter().any(|s| s.usage == Use::Read);
    let only = reads && slots.iter().all(|s| matches!(s.usage, Use::Read | Use::Pass));
    match &wanted.rows {
        Some(rows) => ((!rows.is_empty() || wanted.drop).then(|| rows.clone()), true),
        None => ((only || wanted.drop).then(whole), wanted.drop),
    }
}

/// What an answer may not say of this relation.
fn contradictions(relation: &Relation, wanted: &Wanted, slots: &[Slot]) -> Vec<String> {
    let mut wrong = Vec::new();
    for slot in slots {
        let column = &relation.columns[slot.column];
        if !column.key || relation.is_virtual() {
            continue;
        }
        let name = &column.name;
        if slot.usage == Use::Drop {
            wrong.push(format!("column {name} identifies rows and cannot be dropped: mask it"));
        }
        let foreign = slot.reads.iter().find(|r| !relation.columns[**r].key);
        if let (Use::Write | Use::Mask, Some(read)) = (slot.usage, foreign) {
            let read = &relation.columns[*read].name;
            wrong.push(format!(
                "column {name} identifies rows; it cannot be made from {read}, which does not: \
                 a DELETE could not be mapped. Make it from columns that do, or from itself"
            ));
        }
    }
    let masks = slots.iter().any(|s| s.usage == Use::Mask);
    let missing: Vec<_> = carries(relation)
        .iter()
        .filter(|op| !wanted.ops.contains(op))
        .map(|op| op.name())
        .collect();
    if masks && !missing.is_empty() {
        let missing = missing.join(", ");
        wrong.push(format!(
            "the plugin masks, but does not want {missing}: a mask has to see every row, so it has to want them"
        ));
    }
    wrong
}

/// Operations of a relation that carry values.
fn carries(relation: &Relation) -> &'static [Op] {
    if !relation.is_virtual() {
        &[Op::Insert, Op::Update, Op::Delete, Op::Read]
    } else if relation.table == abi::DDL_RELATION.1 {
        &[Op::Ddl]
    } else {
        &[Op::Message]
    }
}

/// Why a table may not be called as it is, if so: it would be taken for what it is not.
pub(super) fn impostor(relation: &Relation) -> Option<String> {
    let name = (relation.schema.as_str(), relation.table.as_str());
    let taken = [abi::DDL_RELATION, abi::MESSAGE_RELATION].contains(&name);
    (taken && !relation.is_virtual()).then(|| {
        format!(
            "a table is called {}, which is the name of events that are no rows: rename it, or take \
             it out of the publication",
            relation.qualified()
        )
    })
}

/// Whether rows of a relation go anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// They pass, through the links that want them.
    Pass,
    /// They are dropped.
    Drop,
    /// The first one stops the stream, for this reason.
    Halt(String),
}

/// The relation without the columns that never leave, under the names that it leaves by.
#[derive(Clone, Debug)]
pub(super) struct Leaves {
    /// As it leaves.
    pub(super) relation: Arc<Relation>,
    /// The columns that leave.
    pub(super) kept: Vec<usize>,
    /// Some do not.
    pub(super) fewer: bool,
}

/// What becomes of one relation.
#[derive(Clone, Debug)]
pub(super) struct RelationPlan {
    /// The relation as it arrives.
    pub(super) relation: Arc<Relation>,
    /// For each binding of the chain what it does, if anything.
    pub(super) links: Vec<Option<Arc<LinkPlan>>>,
    /// Whether its rows pass.
    pub(super) fate: Fate,
    /// Masked columns that are not part of the identity: removed from old images.
    pub(super) strip_old: Vec<usize>,
    /// Columns nobody speaks of that leave as NULL.
    pub(super) nulled: Vec<usize>,
    /// Columns nobody speaks of that pass, by policy.
    pub(super) open: Vec<usize>,
    /// Columns nobody speaks of, for which the rows do not pass.
    pub(super) unruled: Vec<usize>,
    /// Set if columns are dropped, or names are new.
    pub(super) leaves: Option<Leaves>,
    /// Rows may be lost on the way, or were: later changes may find none.
    pub(super) lossy: bool,
    /// Because they may be by these bindings' policies.
    pub(super) loses: bool,
    /// Nothing to do: rows pass untouched.
    pub(super) idle: bool,
}

/// The policies of a chain that a relation's plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    /// Some binding masks or drops a column, or may.
    pub(super) masks: bool,
    /// What the file says of tables nobody names.
    pub(super) unruled: Option<Unruled>,
    /// What the file says of schema changes.
    pub(super) ddl: Option<Ddl>,
}

impl Policy {
    /// What becomes of a table that nobody names.
    pub(super) fn unnamed(self) -> Unruled {
        self.unruled.unwrap_or(if self.masks { Unruled::Halt } else { Unruled::Pass })
    }
}

impl RelationPlan {
    /// Puts the answers of the bindings together. `new_columns` is each binding's policy.
    pub(super) fn new(
        relation: &Arc<Relation>,
        links: Vec<Option<Arc<LinkPlan>>>,
        new_columns: &[NewColumns],
        policy: Policy,
    ) -> RelationPlan {
        let bound =
            || links.iter().zip(new_columns).filter_map(|(l, n)| l.as_ref().map(|l| (l, n)));
        let ruled = bound().next().is_some();
        // The host drops these itself: whatever the guest then says of rows is not asked for.
        let gone = bound().any(|(l, _)| l.drops);
        // Whoever rules one column of a table rules the table, whether anything is masked or not.
        let speaks = bound().any(|(l, _)| l.slots.iter().any(Slot::rules));
        let counts = ruled && !gone && (policy.masks || speaks);
        let masked = |c: usize| bound().any(|(l, _)| l.used(Use::Mask).any(|m| m == c));
        let all = || 0..relation.columns.len();
        let strip_old = all().filter(|c| masked(*c) && !relation.columns[*c].key).collect();
        let dropped: Vec<usize> =
            all().filter(|c| bound().any(|(l, _)| l.used(Use::Drop).any(|d| d == *c))).collect();
        let strangers: Vec<usize> =
            all().filter(|c| counts && !bound().any(|(l, _)| l.accounts_for(*c))).collect();
        let rule = bound().map(|(_, n)| *n).max().unwrap_or_default();
        let mut fate = match ruled {
            _ if gone => Fate::Drop,
            true => Fate::Pass,
            false => unnamed(relation, policy),
        };
        let (mut nulled, mut open, mut unruled) = (Vec::new(), Vec::new(), Vec::new());
        match rule {
            NewColumns::Halt if !strangers.is_empty() => {
                fate = Fate::Halt(no_rule(relation, &strangers));
                unruled = strangers;
            }
            NewColumns::Null => match strangers.iter().find(|c| relation.columns[**c].key) {
                Some(key) => {
                    let (key, text) = (&relation.columns[*key].name, no_rule(relation, &strangers));
                    fate = Fate::Halt(format!("{key} is a key, which cannot become NULL; {text}"));
                    unruled = strangers;
                }
                None => nulled = strangers,
            },
            NewColumns::Pass => open = strangers,
            NewColumns::Halt => {}
        }
        let leaves = (!dropped.is_empty()).then(|| without(relation, &dropped));
        let idle = fate == Fate::Pass && !ruled && nulled.is_empty() && leaves.is_none();
        RelationPlan {
            relation: Arc::clone(relation),
            links,
            fate,
            strip_old,
            nulled,
            open,
            unruled,
            leaves,
            lossy: false,
            loses: false,
            idle,
        }
    }

    /// The same, of bindings with these policies; `lost`: rows may have been lost before.
    pub(super) fn losing(mut self, policies: &[OnError], lost: bool) -> RelationPlan {
        let mut bound = self.links.iter().zip(policies).filter(|(link, _)| link.is_some());
        let loses = |policy: OnError| matches!(policy, OnError::Drop | OnError::DeadLetter);
        self.loses |= bound.any(|(_, policy)| loses(*policy));
        self.lossy = lost || self.loses;
        self.idle &= !self.lossy;
        self
    }

    /// Gives it the names that it leaves under. `names` are the bindings'.
    pub(super) fn renamed(mut self, renames: &Renames, names: &[&str]) -> RelationPlan {
        let answers = self.links.iter().zip(names);
        let answers =
            answers.filter_map(|(link, name)| Some((*name, link.as_ref()?.rename.as_ref()?)));
        let all: Vec<usize> = (0..self.relation.columns.len()).collect();
        let kept = self.leaves.as_ref().map_or(&all, |leaves| &leaves.kept);
        match renames.leaving(&self.relation, answers, kept) {
            Ok(None) => {}
            Ok(Some(leaving)) => {
                let column = |at: &usize| Column {
                    name: leaving.columns[*at].clone(),
                    ..self.relation.columns[*at].clone()
                };
                let relation = Relation {
                    schema: leaving.schema.clone(),
                    table: leaving.table.clone(),
                    columns: kept.iter().map(column).collect(),
                    ..Relation::clone(&self.relation)
                };
                let (kept, fewer) = (kept.clone(), kept.len() < all.len());
                self.leaves = Some(Leaves { relation: Arc::new(relation), kept, fewer });
                self.idle = false;
            }
            Err(reason) if self.fate == Fate::Pass => self.fate = Fate::Halt(reason),
            Err(_) => {}
        }
        self
    }

    /// The relation as its rows leave.
    pub(super) fn leaving(&self) -> &Arc<Relation> {
        self.leaves.as_ref().map_or(&self.relation, |leaves| &leaves.relation)
    }

    /// Whether the host itself has something to do to the rows of this relation; `old`:
    /// some of them have an old image.
    pub(super) fn prepares(&self, old: bool) -> bool {
        let strips = old && (!self.strip_old.is_empty() || self.fills());
        strips || self.fate != Fate::Pass || !self.nulled.is_empty()
    }

    /// Whether unchanged values of `new` are to be filled from `old`.
    pub(super) fn fills(&self) -> bool {
        self.relation.identity == Identity::Full && !self.idle
    }
}

fn unnamed(relation: &Relation, policy: Policy) -> Fate {
    let table = relation.qualified();
    if relation.is_virtual() && relation.table == abi::DDL_RELATION.1 {
        // Each statement is looked at by itself.
        return Fate::Pass;
    }
    if relation.is_virtual() && policy.masks && policy.unnamed() != Unruled::Drop {
        return Fate::Halt(format!(
            "no transform subscribes to {table} by name, and its text could hold what others mask: \
             name it in `tables` of one that has a rule for it, or set unruled_tables = \"drop\""
        ));
    }
    match policy.unnamed() {
        Unruled::Pass => Fate::Pass,
        Unruled::Drop => Fate::Drop,
        Unruled::Halt => Fate::Halt(format!(
            "no transform names {table}, so it does not leave: give it rules, or decide with \
             unruled_tables = \"drop\" (or \"pass\", with allow_unmasked = true)"
        )),
    }
}

/// What is missing, as TOML to paste.
fn no_rule(relation: &Relation, columns: &[usize]) -> String {
    let lines: Vec<String> = columns
        .iter()
        .map(|c| {
            let column = kasho_plugin_sdk::event::quote_identifier(&relation.columns[*c].name);
            let path = format!("{}.{column}", relation.qualified());
            format!("{} = \"pass\"", toml::Value::String(path))
        })
        .collect();
    format!(
        "columns without a rule (mask, pass or drop each, or set new_columns); to let them \
         pass, add under [transform.rules]: {}",
        lines.join("  ")
    )
}

fn without(relation: &Relation, dropped: &[usize]) -> Leaves {
    let kept: Vec<usize> = (0..relation.columns.len()).filter(|c| !dropped.contains(c)).collect();
    let columns = kept.iter().map(|c| relation.columns[*c].clone()).collect();
    Leaves { relation: Arc::new(Relation { columns, ..relation.clone() }), kept, fewer: true }
}
