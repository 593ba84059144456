//! What a plugin author writes against: the trait, and set-up.
//!
//! Everything a plugin will touch is declared in [`Plugin::new`], before any row: columns,
//! domains, texts of errors. So a wrong name fails when the plugin is loaded, and nothing
//! a guest says later can carry a row's value. What goes wrong here is an [`Error`] whose
//! text the operator reads.

mod error;
mod others;
mod rename;

use std::collections::BTreeMap;
use std::ops::Deref;

use serde::de::DeserializeOwned;

use crate::abi::{self, Limits, Needs, Use};
use crate::batch::NO_SLOT;
use crate::event::{Column, Relation};
use crate::hash::{Hash, Normaliser};
use crate::imports::{self, Texts};
use crate::pattern::{ColumnPattern, TablePattern};
use crate::rows::{Batch, Row};

pub use error::{Error, Result};

/// A plugin. Make one with [`Plugin::new`], export it with
/// [`export_plugin!`](crate::export_plugin).
pub trait Plugin: Sized + 'static {
    /// Reads the rules and declares columns, domains and texts.
    ///
    /// # Errors
    /// Whatever is wrong with the rules: the plugin is then not loaded.
    fn new(cx: &mut Setup<'_>) -> Result<Self>;

    /// Looks at a table before its first row, and again when its description changes:
    /// for a veto by type, and for state of the table. Called only for tables that a
    /// declaration matches.
    ///
    /// # Errors
    /// Why this table cannot be handled.
    fn relation(&mut self, table: &Table<'_>) -> Result<()> {
        let _ = table;
        Ok(())
    }

    /// Whether no row of this table leaves, nor TRUNCATE. The host drops them itself, so
    /// the plugin is not called for them and nobody has to rule on the columns. Asked right
    /// after [`Plugin::relation`].
    fn drops(&self, table: &Table<'_>) -> bool {
        let _ = table;
        false
    }

    /// Handles one row.
    fn row(&mut self, row: &mut Row<'_, '_>) -> Verdict {
        let _ = row;
        Verdict::Keep
    }

    /// Handles a batch of rows of one table; by default row by row.
    fn batch(&mut self, batch: &mut Batch<'_>) {
        batch.each(|row| self.row(row));
    }
}

/// What becomes of a row.
#[doc = concat!("\n", include_str!("examples/verdict.md"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, with its rewritten columns.
    Keep,
    /// It is removed.
    Drop,
    /// Of an UPDATE: it goes on as the INSERT of its new row.
    AsInsert,
    /// Of an UPDATE: it goes on as the DELETE of its old row.
    AsDelete,
    /// It cannot be handled; the binding's `on_error` decides.
    Error(Reason),
}

/// A declared column, whatever tables it is in.
#[doc = concat!("\n", include_str!("examples/col.md"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Col {
    pub(crate) index: u16,
    pub(crate) writes: bool,
    pub(crate) domain: Option<Domain>,
    pub(crate) normaliser: Normaliser,
}

impl Col {
    fn new(index: u16, usage: Use) -> Col {
        let writes = matches!(usage, Use::Write | Use::Mask);
        Col { index, writes, domain: None, normaliser: Normaliser::Exact }
    }

    /// The same column with its values hashed under `domain`; see
    /// [`Batch::rewrite_hashed`] and [`Row::hash`].
    #[must_use]
    pub fn keyed(self, domain: Domain) -> Col {
        Col { domain: Some(domain), ..self }
    }

    /// The same column with its values normalised before they are hashed.
    #[must_use]
    pub fn normalised(self, normaliser: Normaliser) -> Col {
        Col { normaliser, ..self }
    }
}

/// A declared domain of keyed hashes: the same value has the same hash in it, whatever
/// table or plugin it comes from.
#[doc = concat!("\n", include_str!("examples/domain.md"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain(u16);

impl Domain {
    /// The keyed hash of one value. Many values cost less by
    /// [`Batch::rewrite_hashed`] or [`Domain::hash_all`].
    #[must_use]
    pub fn hash(self, value: &str) -> Hash {
        let mut texts = Texts::default();
        texts.push(value);
        let mut out = Vec::new();
        self.hash_all(&texts, &mut out);
        out.first().copied().unwrap_or_default()
    }

    /// The keyed hash of each value, in place of what `out` held.
    pub fn hash_all(self, values: &Texts, out: &mut Vec<Hash>) {
        values.prf(self.0, out);
    }

    pub(crate) fn index(self) -> u16 {
        self.0
    }
}

/// A declared text that rows can be in error with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub(crate) u16);

/// A declared counter, shown in the engine's metrics.
#[doc = concat!("\n", include_str!("examples/counter.md"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter(u16);

impl Counter {
    /// Adds to it.
    pub fn add(self, delta: i64) {
        imports::sys::count(self.0, delta);
    }
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Level {
    /// Something failed.
    Error = 1,
    /// Something looks wrong.
    Warn = 2,
    /// Something happened.
    Info = 3,
    /// For whoever is looking for a mistake.
    Debug = 4,
}

/// Writes a log line. Once the plugin has been shown a row, the engine prints it only if the
/// text occurs in the `.wasm` file word by word: all else could be a row's value.
pub fn log(level: Level, text: &str) {
    imports::sys::log(level as u32, text);
}

/// A declaration about a column.
#[derive(Clone, Debug)]
pub(crate) struct Declaration {
    pub(crate) pattern: ColumnPattern,
    pub(crate) usage: Use,
    pub(crate) fingerprint: Option<String>,
    pub(crate) reads: Vec<u16>,
    /// Only the column at this place among those of the replica identity.
    pub(crate) identity: Option<usize>,
    /// Only in relations that have a column of this declaration.
    pub(crate) with: Option<u16>,
}

/// All that a plugin declared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Declared {
    pub(crate) columns: Vec<Declaration>,
    pub(crate) tables: Vec<(TablePattern, Option<String>)>,
    pub(crate) renames: Vec<(TablePattern, abi::Rename)>,
    pub(crate) needs: Needs,
    pub(crate) commit_time: bool,
    pub(crate) truncate: bool,
}

/// What a plugin can ask and declare before any row.
#[doc = concat!("\n", include_str!("examples/setup.md"))]
#[derive(Debug)]
pub struct Setup<'a> {
    init: &'a abi::Init,
    declared: Declared,
    complaint: Option<Error>,
}

impl<'a> Setup<'a> {
    pub(crate) fn new(init: &'a abi::Init) -> Setup<'a> {
        Setup { init, declared: Declared::default(), complaint: None }
    }

    pub(crate) fn finish(mut self) -> Result<Declared> {
        if let Some(error) = self.complaint {
            return Err(error);
        }
        let mut needs: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (table, _) in &self.declared.tables {
            needs.entry(table.to_string()).or_default();
        }
        for (table, rename) in &self.declared.renames {
            let columns = needs.entry(table.to_string()).or_default();
            columns.extend(rename.columns.keys().cloned());
        }
        for Declaration { pattern, .. } in &self.declared.columns {
            let columns = needs.entry(pattern.table.to_string()).or_default();
            let name = pattern.column.text();
            if !pattern.column.is_glob() && !columns.iter().any(|c| c == name) {
                columns.push(name.to_owned());
            }
        }
        self.declared.needs.needs = needs;
        Ok(self.declared)
    }

    /// The binding's rules.
    ///
    /// # Errors
    /// They do not have the shape of `T`.
    pub fn rules<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.init.rules).map_err(|e| Error::new(e.to_string()).at("rules"))
    }

    /// The ceilings of this binding.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.init.limits
    }

    /// Declares a column that is looked at. A name is `schema.table.column`; schema and
    /// table may hold `*`.
    ///
    /// # Errors
    /// It is not such a name.
    pub fn read(&mut self, column: &str) -> Result<Col> {
        self.column(column, Use::Read, &[])
    }

    /// Declares a column that may be rewritten.
    ///
    /// # Errors
    /// As [`Setup::read`].
    pub fn write(&mut self, column: &str) -> Result<Col> {
        self.column(column, Use::Write, &[])
    }

    /// Declares a column that may be rewritten from others.
    ///
    /// # Errors
    /// As [`Setup::read`].
    pub fn write_from(&mut self, column: &str, from: &[Col]) -> Result<Col> {
        self.column(column, Use::Write, from)
    }

    /// Declares a column of which every text is rewritten. The host enforces it: a text for
    /// which this plugin answers no new value is an error and goes nowhere. Whether the new
    /// value differs from the old one is the plugin's business.
    ///
    /// # Errors
    /// As [`Setup::read`].
    pub fn mask(&mut self, column: &str) -> Result<Col> {
        self.column(column, Use::Mask, &[])
    }

    /// Declares a column that leaves as it is, so that it counts as ruled on. Here the
    /// column may be or hold `*`, too.
    ///
    /// # Errors
    /// As [`Setup::read`].
    pub fn pass(&mut self, column: &str) -> Result<()> {
        self.declare(column, Use::Pass, &[]).map(|_| ())
    }

    /// Declares a column that never leaves. The column may be or hold `*`.
    ///
    /// # Errors
    /// As [`Setup::read`].
    pub fn drop(&mut self, column: &str) -> Result<()> {
        self.declare(column, Use::Drop, &[]).map(|_| ())
    }

    /// Declares tables of which rows are wanted even where no column is: `schema.table`,
    /// either may hold `*`.
    ///
    /// # Errors
    /// It is not such a name.
    pub fn table(&mut self, table: &str) -> Result<()> {
        self.declared.tables.push((TablePattern::parse(table)?, None));
        Ok(())
    }

    /// As [`Setup::table`], for tables of which rows are removed by a rule. `fingerprint`
    /// is the rule: the host refuses to loosen it unasked, as it does with masks. Of
    /// several declarations the one that names a table most exactly holds.
    ///
    /// # Errors
    /// As [`Setup::table`].
    pub fn filter(&mut self, table: &str, fingerprint: impl Into<String>) -> Result<()> {
        self.declared.tables.push((TablePattern::parse(table)?, Some(fingerprint.into())));
        Ok(())
    }

    /// Says what the new values of a column depend on besides the old ones and the key:
    /// transform, version, options, domain. Where it changes, rows that left before carry
    /// other values, and the host says so or refuses.
    pub fn fingerprint(&mut self, col: Col, text: impl Into<String>) {
        if let Some(declaration) = self.declared.columns.get_mut(usize::from(col.index)) {
            declaration.fingerprint = Some(text.into());
        }
    }

    /// Declares a domain of keyed hashes.
    pub fn domain(&mut self, name: &str) -> Domain {
        if !self.init.features.iter().any(|f| f == abi::FEATURE_PRF) {
            self.complain(
                "the rules need a masking key, and there is none (feature `prf`): add `k1 = { file \
                 = \"…\" }` under [keys] (`openssl rand -hex 32` makes one)",
            );
        }
        self.uses(abi::FEATURE_PRF);
        let (index, fault) = intern(&mut self.declared.needs.domains, name);
        self.check(fault);
        Domain(index)
    }

    /// Declares a text that a row can be in error with.
    pub fn reason(&mut self, text: &str) -> Reason {
        let (index, fault) = intern(&mut self.declared.needs.texts, text);
        self.check(fault);
        Reason(index)
    }

    /// Declares a counter.
    pub fn counter(&mut self, text: &str) -> Counter {
        Counter(self.reason(text).0)
    }

    /// Asks for at most so many rows in a batch.
    pub fn max_rows(&mut self, rows: u32) {
        self.declared.needs.max_rows = Some(rows);
    }

    /// Asks for so much time a call, in milliseconds; the binding is the ceiling.
    pub fn deadline_ms(&mut self, deadline_ms: u32) {
        self.declared.needs.deadline_ms = Some(deadline_ms);
    }

    /// Asks for so much memory, in MiB; the binding is the ceiling.
    pub fn memory_mib(&mut self, memory_mib: u32) {
        self.declared.needs.memory_mib = Some(memory_mib);
    }

    /// Asks for commit times ([`Row::commit_time`]).
    pub fn commit_time(&mut self) {
        if !self.init.features.iter().any(|f| f == abi::FEATURE_COMMIT_TIME) {
            self.complain(
                "this host offers no commit times (feature `commit_time`): take a newer host",
            );
        }
        self.uses(abi::FEATURE_COMMIT_TIME);
        self.declared.commit_time = true;
    }

    /// Asks for TRUNCATE, too: a row of which every column is absent, to keep or to drop.
    pub fn truncates(&mut self) {
        self.declared.truncate = true;
    }

    fn column(&mut self, name: &str, usage: Use, from: &[Col]) -> Result<Col> {
        Ok(Col::new(self.declare(name, usage, from)?, usage))
    }

    fn declare(&mut self, name: &str, usage: Use, from: &[Col]) -> Result<u16> {
        let pattern = ColumnPattern::parse(name)?;
        if pattern.column.is_glob() && !matches!(usage, Use::Pass | Use::Drop) {
            return Err(
                Error::new("name one column: `*` may stand for schema and table only").at(name)
            );
        }
        self.push(name, usage, from)
    }

    fn push(&mut self, name: &str, usage: Use, from: &[Col]) -> Result<u16> {
        let pattern = ColumnPattern::parse(name)?;
        let reads = from.iter().map(|col| col.index).collect();
        let index = u16::try_from(self.declared.columns.len()).unwrap_or(NO_SLOT);
        if index == NO_SLOT {
            return Err(Error::new(
                "more than 65,534 columns are declared: one pattern may name many",
            )
            .at(name));
        }
        self.declared.columns.push(Declaration::new(pattern, usage, reads));
        Ok(index)
    }

    fn uses(&mut self, feature: &str) {
        let uses = &mut self.declared.needs.uses;
        if !uses.iter().any(|f| f == feature) {
            uses.push(feature.to_owned());
        }
    }

    fn check(&mut self, fault: Option<&'static str>) {
        if let Some(fault) = fault {
            self.complain(fault);
        }
    }

    fn complain(&mut self, text: &str) {
        self.complaint.get_or_insert_with(|| Error::new(text));
    }
}

/// The index of `text`, added if it is new; and what is wrong with that, if anything.
fn intern(texts: &mut Vec<String>, text: &str) -> (u16, Option<&'static str>) {
    let index = texts.iter().position(|t| t == text).unwrap_or_else(|| {
        texts.push(text.to_owned());
        texts.len() - 1
    });
    let fault = if texts.len() > abi::MAX_TEXTS {
        Some("more than 256 texts or domains are declared: several columns may share one")
    } else if text.len() > abi::MAX_TEXT_BYTES {
        Some("a declared text or domain is longer than 200 bytes: shorten it")
    } else {
        None
    };
    (u16::try_from(index).unwrap_or(0), fault)
}

/// A table, and which declared columns it has.
#[doc = concat!("\n", include_str!("examples/table.md"))]
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    pub(crate) relation: &'a Relation,
    pub(crate) columns: &'a [Option<usize>],
}

impl<'a> Table<'a> {
    /// The column that `col` is here. `None` if there is no such column, or if another
    /// declaration that names it more exactly took its place.
    #[must_use]
    pub fn column_of(&self, col: Col) -> Option<&'a Column> {
        let place = self.columns.get(usize::from(col.index)).copied().flatten()?;
        self.relation.columns.get(place)
    }
}

impl Deref for Table<'_> {
    type Target = Relation;

    fn deref(&self) -> &Relation {
        self.relation
    }
}
