//! The `filter` plugin: which rows of which tables go on.
//!
//! ```toml
//! [transform.rules]
//! "public.audit"  = "drop"
//! "public.events" = { drop_ops = ["delete", "truncate"] }
//! "public.orders" = { keep = { column = "tenant_id", in = [1, 2] } }
//! "log.*"         = { drop = { column = "level", equals = "debug" }, insert_only = true }
//! ```
//!
//! A table that is dropped as a whole is dropped by the host, before any plugin sees a row,
//! and its columns need no rules. A condition has SQL's three values: `keep` keeps the rows where it is true, `drop`
//! drops those. On a table that publishes UPDATE or DELETE it may read identity columns
//! only, as PostgreSQL's own row filters, and an UPDATE that moves a row in or out of what
//! is kept goes on as the INSERT or DELETE it then is. What goes wrong with a row is one
//! thing: a value the condition needs was not sent.

mod condition;
mod rules;

use std::collections::BTreeMap;

use kasho_plugin_sdk::{
    Error, Identity, Op, Plugin, Reason, Result, Row, Setup, Table, Verdict, export_plugin,
    quote_identifier,
};

use crate::condition::{Compare, Condition, Side, Test};
use crate::rules::{Action, Rule};

/// The plugin.
pub struct Filter {
    rules: Vec<Rule>,
    unsent: Reason,
    /// By relation: its rule, and the condition as its columns' types have it.
    tables: BTreeMap<u32, (usize, Option<Condition>)>,
}

impl Plugin for Filter {
    fn new(cx: &mut Setup<'_>) -> Result<Self> {
        cx.truncates();
        let unsent = cx.reason(
            "the condition reads a value that PostgreSQL did not send (unchanged, out of line): \
             ALTER TABLE … REPLICA IDENTITY FULL",
        );
        let rules = rules::read(cx)?;
        Ok(Filter { rules, unsent, tables: BTreeMap::new() })
    }

    fn relation(&mut self, table: &Table<'_>) -> Result<()> {
        self.tables.remove(&table.id);
        let Some(chosen) = choose(&self.rules, table)? else { return Ok(()) };
        let rule = &self.rules[chosen];
        let condition = match &rule.action {
            Action::Drop | Action::Keep => None,
            Action::Where(condition) => {
                check(condition, rule, table).map_err(|e| e.at(rule.pattern.to_string()))?;
                Some(typed(condition, table))
            }
        };
        self.tables.insert(table.id, (chosen, condition));
        Ok(())
    }

    fn drops(&self, table: &Table<'_>) -> bool {
        let rule = self.tables.get(&table.id).and_then(|(rule, _)| self.rules.get(*rule));
        rule.is_some_and(|rule| matches!(rule.action, Action::Drop))
    }

    fn row(&mut self, row: &mut Row<'_, '_>) -> Verdict {
        let Some((rule, condition)) = self.tables.get(&row.table().id) else {
            return Verdict::Keep;
        };
        let Some(rule) = self.rules.get(*rule) else { return Verdict::Keep };
        if matches!(rule.action, Action::Drop) || rule.drop_ops.contains(&row.op()) {
            return Verdict::Drop;
        }
        match condition {
            Some(condition) => self.judge(condition, row),
            None => Verdict::Keep,
        }
    }
}

impl Filter {
    fn judge(&self, condition: &Condition, row: &Row<'_, '_>) -> Verdict {
        let of = |side| condition.holds(row, side).map(|truth| truth == Some(true));
        let judged = match row.op() {
            Op::Truncate | Op::Ddl | Op::Message => Ok(Verdict::Keep),
            Op::Insert | Op::Read => of(Side::New).map(keep),
            Op::Delete => of(Side::Old).map(keep),
            Op::Update => of(Side::New).and_then(|new| {
                // Without an old image the identity, and so the answer, did not change.
                let old = if condition.has_old(row) { of(Side::Old)? } else { new };
                Ok(match (old, new) {
                    (true, true) => Verdict::Keep,
                    (true, false) => Verdict::AsDelete,
                    (false, true) => Verdict::AsInsert,
                    (false, false) => Verdict::Drop,
                })
            }),
        };
        judged.unwrap_or(Verdict::Error(self.unsent))
    }
}

fn keep(kept: bool) -> Verdict {
    if kept { Verdict::Keep } else { Verdict::Drop }
}

/// The rule that names a table most exactly.
fn choose(rules: &[Rule], table: &Table<'_>) -> Result<Option<usize>> {
    let matching = || (0..rules.len()).filter(|i| rules[*i].pattern.matches(table));
    let weight = |i: &usize| rules[*i].pattern.weight();
    let Some(heaviest) = matching().max_by_key(weight) else { return Ok(None) };
    match matching().find(|i| *i != heaviest && weight(i) == weight(&heaviest)) {
        None => Ok(Some(heaviest)),
        Some(other) => Err(Error::new(format!(
            "both `{}` and `{}` rule on this table: one must name it more exactly",
            rules[other].pattern, rules[heaviest].pattern
        ))),
    }
}

/// Whether every column of a condition is there, and may be read in what is published.
fn check(condition: &Condition, rule: &Rule, table: &Table<'_>) -> Result<()> {
    let changes = [Op::Update, Op::Delete].iter().any(|op| !rule.drop_ops.contains(op));
    let mut fault = Ok(());
    condition.each(&mut |test| {
        if fault.is_err() {
            return;
        }
        fault = match table.column_of(test.col) {
            None => Err(Error::new(format!("{} has no column {}", table.qualified(), test.column))),
            Some(column) if changes && !column.key => Err(not_identity(&column.name, table)),
            Some(_) => Ok(()),
        };
    });
    fault
}

fn not_identity(column: &str, table: &Table<'_>) -> Error {
    let name = quote_identifier(column);
    let why = match table.identity {
        Identity::Nothing => "the table has no replica identity",
        Identity::Default | Identity::Index | Identity::Full => {
            "it is not part of the replica identity"
        }
    };
    Error::new(format!(
        "the condition reads {name}, but {why}, so the old row of an UPDATE or DELETE does not \
         have it: ALTER TABLE {} REPLICA IDENTITY FULL, or set `insert_only = true`",
        table.qualified()
    ))
}

/// The condition with each test comparing as its column's type does.
fn typed(condition: &Condition, table: &Table<'_>) -> Condition {
    let mut condition = condition.clone();
    condition.each_mut(&mut |test: &mut Test| {
        let base = table.column_of(test.col).map_or("", |column| column.base.as_str());
        test.compare_as(match base {
            "int2" | "int4" | "int8" | "numeric" | "float4" | "float8" => Compare::Numeric,
            "bpchar" => Compare::Padded,
            "citext" => Compare::Lower,
            _ => Compare::Exact,
        });
    });
    condition
}

export_plugin!(Filter);
