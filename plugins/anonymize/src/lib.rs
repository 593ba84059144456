//! The `anonymize` plugin: a table of rules, one transform a column.
//!
//! ```toml
//! [transform.rules]
//! "public.users.email" = { transform = "fake_email", unique = true }
//! "public.users.name"  = "fake_name"
//! "public.users.ssn"   = { transform = "mask", keep_last = 4 }
//! "billing.*.phone"    = "fake_phone"
//! "public.users.id"    = "pass"
//! "public.plans.*"     = "pass"
//! ```
//!
//! Fakes are pure functions of the host's keyed hash: the same value has the same fake in
//! every column of its domain, for ever. NULL stays NULL. What cannot work (a wrong type, a
//! fake too long, a unique column whose fakes could collide) is refused when rules or
//! tables are read, with the way on; a row can only be in error where a value itself is the
//! reason: no match of a pattern, digits that are no phone number, a replacement that is too
//! long.
//!
//! What there is stands in [`catalog`].

pub mod catalog;
mod check;
mod dictionary;
mod leaf;
mod make;
mod paths;
mod permute;
mod pieces;
mod row;
mod rules;
mod split;

use std::collections::BTreeMap;

use kasho_plugin_sdk::pattern::ColumnPattern;
use kasho_plugin_sdk::{
    Batch, Col, Domain, Error, Identity, Level, Plugin, Result, Setup, Table, export_plugin, log,
    metadata, quote_identifier,
};

use crate::check::Target;
use crate::leaf::{Leaf, Reasons};
use crate::make::fake::Part;
use crate::make::password::{Kept, Password};
use crate::make::{Make, fake};
use crate::rules::{By, Rule};

/// Columns of an identity that `by = "row"` can have.
const MOST_KEYS: usize = 8;
/// Results below which counting them undoes a fake.
const FEW: u128 = 1000;

/// A rule bound to its column.
struct Bound {
    col: Col,
    /// The column as its rule names it.
    rule: String,
    /// The column's own name.
    name: String,
    leaf: Leaf,
    /// Of `json`: the rules of its paths.
    inner: Vec<Leaf>,
    /// What is hashed in place of the value.
    by: Vec<Col>,
    /// The columns of a template; `None` is its own.
    fields: Vec<Option<Col>>,
    kept: Kept,
}

/// The plugin.
pub struct Anonymize {
    rules: Vec<Bound>,
    reasons: Reasons,
    /// By relation: the rules that hold there, in the order in which they are applied.
    tables: BTreeMap<u32, Vec<Holding>>,
}

/// A rule that holds for a column of a table.
struct Holding {
    /// Index of the rule.
    rule: usize,
    /// Where its results go.
    target: Target,
}

impl Plugin for Anonymize {
    fn new(cx: &mut Setup<'_>) -> Result<Self> {
        let reasons = Reasons::declare(cx);
        let mut rules = Vec::new();
        for (column, rule) in rules::read(cx.rules()?)? {
            if matches!(rule.make, Make::Pass) {
                cx.pass(&column)?;
                continue;
            }
            rules.push(bind(&column, rule, cx).map_err(|e| e.at(&column))?);
        }
        demand(&rules, cx);
        Ok(Anonymize { rules, reasons, tables: BTreeMap::new() })
    }

    fn relation(&mut self, table: &Table<'_>) -> Result<()> {
        let mut holding = Vec::new();
        for (rule, bound) in self.rules.iter().enumerate() {
            let Some(column) = table.column_of(bound.col) else { continue };
            let at = || format!("{}.{}", table.qualified(), quote_identifier(&column.name));
            let target = check::check(&bound.leaf.rule, column, table).map_err(|e| e.at(at()))?;
            readable(bound, table).map_err(|e| e.at(at()))?;
            holding.push(Holding { rule, target });
        }
        self.tables.insert(table.id, self.ordered(holding)?);
        Ok(())
    }

    fn batch(&mut self, batch: &mut Batch<'_>) {
        let holding = self.tables.get(&batch.table().id).map_or(&[][..], Vec::as_slice);
        for holding in holding {
            if let Some(bound) = self.rules.get_mut(holding.rule) {
                rewrite(bound, &holding.target, &self.reasons, batch);
            }
        }
    }
}

/// Declares all that a rule needs.
fn bind(column: &str, rule: Rule, cx: &mut Setup<'_>) -> Result<Bound> {
    let pattern = ColumnPattern::parse(column)?;
    let (table, name) = (pattern.table.to_string(), pattern.column.text().to_owned());
    if let Make::Template(template) = &rule.make
        && template.holds(&name)
    {
        return Err(Error::new(format!(
            "the template holds all of its own column as it came, or two parts that may be all of it, \
             which is what is to be masked: take one part of it, as by `{{{{.{name} | after \"@\"}}}}`, or another column"
        )));
    }
    let mut col = cx.mask(column)?;
    cx.fingerprint(col, rule.fingerprint.clone());
    if let Some(keying) = &rule.keying {
        col = col.normalised(keying.normaliser);
    }
    let read = |cx: &mut Setup<'_>, name: &str| {
        cx.read(&format!("{table}.\"{}\"", name.replace('"', "\"\"")))
    };
    let by = match rule.by() {
        By::Value => Vec::new(),
        By::Row => cx.read_identity(&table, MOST_KEYS)?,
        By::Columns(names) => names.iter().map(|name| read(cx, name)).collect::<Result<_>>()?,
    };
    let mut fields = Vec::new();
    for field in rule.make.fields() {
        fields.push(if *field == name { None } else { Some(read(cx, field)?) });
    }
    let others: Vec<Col> = by.iter().copied().chain(fields.iter().flatten().copied()).collect();
    cx.depends(col, &others);
    let inner = rule.paths.iter().map(|(_, rule)| Leaf::declare(rule.clone(), cx)).collect();
    let leaf = Leaf::declare(rule, cx);
    Ok(Bound { col, rule: column.to_owned(), name, leaf, inner, by, fields, kept: Kept::default() })
}

/// Asks for what hashing passwords costs, and says what everybody should know.
fn demand(rules: &[Bound], cx: &mut Setup<'_>) {
    let (mut millis, mut mib, mut rows) = (0_u32, 0, 1024);
    for Bound { rule: column, leaf, .. } in rules {
        let rule = &leaf.rule;
        // Before any row the host prints what it is told: names are those of the rules.
        let tell = |level, text: &str| log(level, &format!("{column}: {text}"));
        if rule.unique() && rule.entry.unique == catalog::Unique::Suffix {
            tell(
                Level::Info,
                "with `unique = true`, two of a million values have one fake with odds of 1 : 2 × 10¹²",
            );
        }
        if *rule.by() == By::Value && rule.make.results().is_some_and(|n| n < FEW) {
            tell(
                Level::Warn,
                "the rule has fewer than 1,000 results and goes by the value, so that counting them tells which value is which: give it by = \"row\" or a column",
            );
        }
        let Make::Password(password) = &rule.make else { continue };
        let cost = password.cost();
        mib = mib.max(cost.mib);
        let each = if password.per_row() { rows_of(password) } else { 1 };
        if password.per_row() {
            rows = rows.min(each);
            tell(
                Level::Warn,
                "the rule hashes a password for each row, and all that its algorithm costs with it",
            );
        }
        millis = millis.saturating_add(cost.millis.saturating_mul(each));
    }
    if rows < 1024 {
        cx.max_rows(rows);
    }
    if millis > 50 {
        cx.deadline_ms(millis.saturating_add(100));
    }
    if mib > 32 {
        cx.memory_mib(mib.saturating_add(32));
    }
}

/// Rows of which the passwords are hashed in some two seconds.
fn rows_of(password: &Password) -> u32 {
    (2000 / password.cost().millis.max(1)).clamp(1, 1024)
}

/// Whether all columns that a rule reads are there.
fn readable(bound: &Bound, table: &Table<'_>) -> Result<()> {
    match bound.leaf.rule.by() {
        By::Value => {}
        By::Row => {
            let keys = table.columns.iter().filter(|column| column.key).count();
            let known = matches!(table.identity, Identity::Default | Identity::Index);
            if !known || !(1..=MOST_KEYS).contains(&keys) {
                return Err(Error::new(
                    "by = \"row\" needs a replica identity of 1 to 8 columns (a primary key): give \
                     by = \"<column>\"",
                ));
            }
        }
        By::Columns(names) => {
            for (name, col) in names.iter().zip(&bound.by) {
                if table.column_of(*col).is_none() {
                    return Err(Error::new(format!("`by`: there is no column {name}")));
                }
            }
        }
    }
    for (name, col) in bound.leaf.rule.make.fields().iter().zip(&bound.fields) {
        if col.is_some_and(|col| table.column_of(col).is_none()) {
            return Err(Error::new(format!("the template's column {name} does not exist")));
        }
    }
    Ok(())
}

impl Anonymize {
    /// The rules in an order in which templates come behind what they are made of.
    fn ordered(&self, holding: Vec<Holding>) -> Result<Vec<Holding>> {
        let bound = |holding: &Holding| &self.rules[holding.rule];
        let (mut later, mut ordered): (Vec<_>, Vec<_>) =
            holding.into_iter().partition(|holding| !bound(holding).fields.is_empty());
        while !later.is_empty() {
            let names: Vec<&str> = later.iter().map(|h| bound(h).name.as_str()).collect();
            let waits = |h: &Holding| {
                let own = &bound(h).name;
                let fields = bound(h).leaf.rule.make.fields();
                fields.iter().any(|field| field != own && names.contains(&field.as_str()))
            };
            let (waiting, ready): (Vec<_>, Vec<_>) =
                later.iter().map(waits).enumerate().partition(|(_, waits)| *waits);
            if ready.is_empty() {
                return Err(Error::new(format!(
                    "the templates of {} are made of one another: one must do without",
                    names.join(", ")
                )));
            }
            let waiting: Vec<usize> = waiting.into_iter().map(|(i, _)| i).collect();
            let mut rest = Vec::new();
            for (i, holding) in later.into_iter().enumerate() {
                if waiting.contains(&i) { rest.push(holding) } else { ordered.push(holding) }
            }
            later = rest;
        }
        Ok(ordered)
    }
}

/// Applies one rule to its column of a batch.
fn rewrite(bound: &mut Bound, target: &Target, reasons: &Reasons, batch: &mut Batch<'_>) {
    if matches!(bound.leaf.rule.make, Make::Template(_) | Make::Password(_)) {
        return row::rewrite(bound, target, reasons, batch);
    }
    if target.array || !bound.leaf.is_direct() || !bound.by.is_empty() {
        return pieces::rewrite(bound, target, reasons, batch);
    }
    let Bound { col, leaf, .. } = bound;
    let unique = leaf.rule.unique();
    match (&leaf.rule.make, leaf.domain) {
        // What masks most columns goes without a detour.
        (Make::Fake(parts), Some(domain)) if std::ptr::eq(*parts, &fake::EMAIL) => {
            words(*col, domain, &fake::EMAIL, unique, batch);
        }
        (Make::Fake(parts), Some(domain)) if std::ptr::eq(*parts, &fake::NAME) => {
            words(*col, domain, &fake::NAME, unique, batch);
        }
        (Make::Fake(parts), Some(domain)) => words(*col, domain, parts, unique, batch),
        (Make::Mask { first, last, with }, _) => {
            batch.rewrite(*col, |value, out| fake::hide(value, *first, *last, *with, out));
        }
        // How long it is was looked at with the column.
        (Make::Constant(text), _) => batch.rewrite(*col, |_, out| out.push_str(text)),
        (_, Some(domain)) => batch.rewrite_hashed(*col, domain, |value, hash, out| {
            leaf.result(value, hash, target, reasons, out)
        }),
        (_, None) => batch.rewrite(*col, |value, out| {
            leaf.result(value, kasho_plugin_sdk::Hash::default(), target, reasons, out)
        }),
    }
}

/// Writes fakes of these parts; inlined, so that known parts are known to the compiler.
#[inline(always)]
fn words(col: Col, domain: Domain, parts: &[Part], unique: bool, batch: &mut Batch<'_>) {
    batch.rewrite_hashed(col, domain, |_, hash, out| fake::words(parts, hash, unique, out));
}

export_plugin!(Anonymize);
metadata!("../transforms.json");
