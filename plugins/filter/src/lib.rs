//! The `filter` plugin: which rows of which tables go on.
//!
//! ```toml
//! [transform.rules]
//! "public.audit"  = "drop"
//! "public.events" = { drop_ops = ["delete", "truncate"] }
//! "public.orders" = { keep = 'status == "active" && amount > 100' }
//! "log.*"         = { drop = 'level == "debug"', insert_only = true }
//! ```
//!
//! A table that is dropped as a whole is dropped by the host, before any plugin sees a row,
//! and its columns need no rules. A condition has SQL's three values: `keep` keeps the rows
//! where it is true, `drop` drops those. On a table that publishes UPDATE or DELETE it may
//! read identity columns only, as PostgreSQL's own row filters, and an UPDATE that moves a
//! row in or out of what is kept goes on as the INSERT or DELETE it then is. What goes wrong
//! with a row: a value the condition needs was not sent, or is none of its type.

mod condition;
mod expression;
mod lexer;
mod rules;
mod typing;
mod value;

use std::collections::BTreeMap;

use kasho_plugin_sdk::{
    Error, Op, Plugin, Reason, Result, Row, Setup, Table, Verdict, export_plugin, metadata,
};

use crate::condition::{Condition, Fault, Side};
use crate::rules::{Action, Rule};

/// The plugin.
pub struct Filter {
    rules: Vec<Rule>,
    unsent: Reason,
    odd: Reason,
    /// By relation: what becomes of rows, by the number of their operation.
    tables: BTreeMap<u32, Vec<Condition>>,
}

impl Plugin for Filter {
    fn new(cx: &mut Setup<'_>) -> Result<Self> {
        cx.truncates();
        let unsent = cx.reason(
            "the condition reads a value that PostgreSQL did not send (unchanged, out of line): \
             ALTER TABLE … REPLICA IDENTITY FULL",
        );
        let odd = cx.reason("the condition reads a value that is none of its column's type");
        let rules = rules::read(cx)?;
        Ok(Filter { rules, unsent, odd, tables: BTreeMap::new() })
    }

    fn relation(&mut self, table: &Table<'_>) -> Result<()> {
        self.tables.remove(&table.id);
        let Some(chosen) = choose(&self.rules, table)? else { return Ok(()) };
        let rule = &self.rules[chosen];
        let fate = |op| fate(rule, table, op).map_err(|e| e.at(rule.pattern.to_string()));
        let fates: Vec<Condition> = Op::ALL.into_iter().map(fate).collect::<Result<_>>()?;
        self.tables.insert(table.id, fates);
        Ok(())
    }

    fn drops(&self, table: &Table<'_>) -> bool {
        let fates = self.tables.get(&table.id);
        let of_table = |op: &Op| !matches!(op, Op::Ddl | Op::Message) || table.is_virtual();
        fates.is_some_and(|fates| {
            Op::ALL
                .into_iter()
                .filter(of_table)
                .all(|op| matches!(fates[op as usize], Condition::Const(false)))
        })
    }

    fn row(&mut self, row: &mut Row<'_, '_>) -> Verdict {
        let fates = self.tables.get(&row.table().id);
        match fates.and_then(|fates| fates.get(row.op() as usize)) {
            None | Some(Condition::Const(true)) => Verdict::Keep,
            Some(Condition::Const(false)) => Verdict::Drop,
            Some(condition) => match judge(condition, row) {
                Ok(verdict) => verdict,
                Err(Fault::Unsent) => Verdict::Error(self.unsent),
                Err(Fault::Odd) => Verdict::Error(self.odd),
            },
        }
    }
}

/// Under which condition rows of an operation go on.
fn fate(rule: &Rule, table: &Table<'_>, op: Op) -> Result<Condition> {
    if rule.drop_ops.contains(&op) {
        return Ok(Condition::Const(false));
    }
    let expr = match &rule.action {
        Action::Drop => return Ok(Condition::Const(false)),
        Action::Keep => return Ok(Condition::Const(true)),
        Action::Where(expr) => expr,
    };
    let condition = typing::condition(expr, table, op)?;
    // TRUNCATE has no values: where they decide, it goes on.
    if op == Op::Truncate {
        return Ok(match condition {
            Condition::Const(truth) => Condition::Const(truth),
            _ => Condition::Const(true),
        });
    }
    let changes = matches!(op, Op::Update | Op::Delete) && !table.is_virtual();
    let relevant = !matches!(op, Op::Ddl | Op::Message) || table.is_virtual();
    if relevant {
        typing::check(expr, &condition, table, changes)?;
    }
    Ok(condition)
}

fn judge(condition: &Condition, row: &Row<'_, '_>) -> Result<Verdict, Fault> {
    let of = |side| condition.holds(row, side).map(|truth| truth == Some(true));
    let new = match row.op() {
        Op::Delete => return of(Side::Old).map(keep),
        Op::Update => of(Side::New)?,
        Op::Truncate => return Ok(Verdict::Keep),
        Op::Insert | Op::Read | Op::Ddl | Op::Message => return of(Side::New).map(keep),
    };
    // Without an old image the identity, and so the answer, did not change.
    let old = if condition.has_old(row) { of(Side::Old)? } else { new };
    Ok(match (old, new) {
        (true, true) => Verdict::Keep,
        (true, false) => Verdict::AsDelete,
        (false, true) => Verdict::AsInsert,
        (false, false) => Verdict::Drop,
    })
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

metadata!("../plugin.json");
export_plugin!(Filter);
