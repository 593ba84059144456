//! What is known of each table on the stream: the stream's own description, enriched
//! from the catalog, as numbered versions.
//!
//! What can go wrong: the catalog shows the table as it is *now*, and the stream may lag
//! behind it. Names, types and keys are therefore the stream's; the catalog adds only
//! what the stream cannot say, column by column, where name and type still agree. And the
//! stream does not say that a schema has got another name ([`renames`](super::renames)).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::batch::DdlObject;
use crate::position::Lsn;
use kasho_plugin_sdk::event::quote_identifier;
use kasho_plugin_sdk::{Column, Relation};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};

use super::super::conninfo::{Conninfo, sql_connect};
use super::super::error::SourceError;
use super::pgoutput::{RelationColumn, RelationMessage};
use super::renames::Renames;

/// The last description of every table ever seen in this process. It outlives a
/// connection: a table's versions go on counting after a reconnect, and a description
/// that did not change stays the same `Arc`.
#[derive(Clone, Debug, Default)]
pub struct KnownRelations(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    last: HashMap<u32, Arc<Relation>>,
    /// Schemas that have got other names.
    renames: Renames,
}

impl KnownRelations {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last(&self, id: u32) -> Option<Arc<Relation>> {
        self.known().last.get(&id).cloned()
    }

    /// A schema was called `to` from there on (commit and ordinal), as an earlier process knew:
    /// transactions that began before it may be still to come.
    pub fn recall(&self, at: (Lsn, u64), from: &str, to: &str) {
        self.known().renames.note(at, from, to);
    }

    /// A schema is called `to` from there on. What the load has described goes with it.
    fn rename_schema(&self, at: (Lsn, u64), from: &str, to: &str) {
        let tables: Vec<Arc<Relation>> = {
            let mut known = self.known();
            known.renames.note(at, from, to);
            known.last.values().filter(|relation| relation.schema == from).cloned().collect()
        };
        for relation in tables {
            self.settle(renamed(&relation, to));
        }
    }

    /// `found` as the next version of its table, or the version there is if nothing changed.
    pub(crate) fn settle(&self, mut found: Relation) -> Arc<Relation> {
        let known = &mut self.known().last;
        if let Some(last) = known.get(&found.id) {
            found.version = last.version;
            if **last == found {
                return Arc::clone(last);
            }
            found.version = last.version.saturating_add(1);
        } else {
            found.version = 1;
        }
        let found = Arc::new(found);
        known.insert(found.id, Arc::clone(&found));
        found
    }
}

/// A table as it is described once its schema is called `to`.
fn renamed(relation: &Relation, to: &str) -> Relation {
    Relation { schema: to.to_owned(), ..Relation::clone(relation) }
}

/// What differs between two descriptions of a table, in words; nothing if no row looks
/// different for it.
fn changes(before: &Relation, now: &Relation) -> Option<String> {
    let mut told = Vec::new();
    if before.qualified() != now.qualified() {
        told.push(format!("it was called {}", before.qualified()));
    }
    let name = |column: &Column| quote_identifier(&column.name);
    let missing = |from: &Relation, of: &Relation| {
        let gone = of.columns.iter().filter(|column| from.column(&column.name).is_none());
        gone.map(name).collect::<Vec<_>>().join(", ")
    };
    let (appeared, vanished) = (missing(before, now), missing(now, before));
    if !appeared.is_empty() {
        told.push(format!("{appeared} appeared"));
    }
    if !vanished.is_empty() {
        told.push(format!("{vanished} vanished"));
    }
    for column in &now.columns {
        let old = before.column(&column.name).map(|at| &before.columns[at]);
        let other = |old: &&Column| (old.oid, old.typmod) != (column.oid, column.typmod);
        if let Some(old) = old.filter(other) {
            let (was, is) = (&old.type_name, &column.type_name);
            told.push(format!("{} changed its type from {was} to {is}", name(column)));
        }
    }
    (!told.is_empty()).then(|| told.join("; "))
}

/// Tables that are remembered as announced.
const ANNOUNCED: usize = 100_000;

/// A table of this session, and its number in the batch being built.
pub(super) struct Entry {
    pub(super) relation: Arc<Relation>,
    pub(super) batch: u64,
    pub(super) index: u32,
}

/// The relations described on this session, by OID.
pub(super) struct Relations {
    pub(super) entries: HashMap<u32, Entry>,
    known: KnownRelations,
    catalog: Catalog,
    /// Tables of which a schema change has told, and no description has come since.
    announced: HashSet<(String, String)>,
    /// Tables of which a description has come, and no change since.
    fresh: Vec<u32>,
}

impl Relations {
    pub(super) fn new(info: Conninfo, app_name: &str, known: KnownRelations) -> Relations {
        let catalog = Catalog { info, app_name: app_name.to_owned(), session: None };
        let (entries, announced, fresh) = (HashMap::new(), HashSet::new(), Vec::new());
        Relations { entries, known, catalog, announced, fresh }
    }

    /// A description of the catalogue's, of a table that the stream has not spoken of yet.
    pub(super) fn settle(&self, found: &Relation) -> Arc<Relation> {
        self.known.settle(found.clone())
    }

    /// A schema change tells of these.
    pub(super) fn announce(&mut self, objects: &[DdlObject]) {
        if self.announced.len() > ANNOUNCED {
            self.announced.clear();
        }
        let named = objects.iter().filter_map(|o| Some((o.schema.clone()?, o.name.clone()?)));
        self.announced.extend(named);
    }

    /// A change (its commit and ordinal) gives schemas other names. The server need not
    /// describe their tables again, so what is known of them changes here.
    pub(super) fn rename_schemas<'a>(
        &mut self,
        at: (Lsn, u64),
        names: impl Iterator<Item = (&'a str, &'a str)>,
    ) {
        for (from, to) in names {
            self.known.rename_schema(at, from, to);
            for entry in self.entries.values_mut().filter(|entry| entry.relation.schema == from) {
                entry.relation = self.known.settle(renamed(&entry.relation, to));
                entry.batch = u64::MAX;
            }
            tracing::info!(from, to, "a schema of the source has got another name");
        }
    }

    /// Says what has become of a table. Without event triggers nothing else does, and whoever
    /// applies its rows has to change its table by hand.
    fn tell(&mut self, before: &Relation, now: &Relation) {
        let Some(changes) = changes(before, now) else { return };
        let table = now.qualified();
        if self.announced.remove(&(now.schema.clone(), now.table.clone())) {
            tracing::info!(%table, "its columns have changed: {changes}");
        } else {
            tracing::warn!(
                %table,
                "its columns have changed, and no event trigger has told of it (`kasho setup` \
                 installs them): {changes}. Its targets have to be changed by hand"
            );
        }
    }

    /// Takes a description from the stream. Cancel-safe: it may be given again.
    ///
    /// The server repeats a description after any change that may concern it, also when
    /// the text of it is the same (a column became NOT NULL); so it always looks.
    pub(super) async fn describe(
        &mut self,
        message: &RelationMessage<'_>,
    ) -> Result<(), SourceError> {
        let columns: Vec<RelationColumn<'_>> = message.columns().collect();
        let facts = self.catalog.facts(message.id, &columns).await?;
        let columns = columns.iter().zip(facts).map(|(column, facts)| enrich(column, facts));
        let found = Relation {
            id: message.id,
            version: 0,
            schema: message.schema.to_owned(),
            table: message.table.to_owned(),
            identity: message.identity,
            columns: columns.collect(),
        };
        let before = self.known.last(found.id);
        let relation = self.known.settle(found);
        if let Some(before) = before {
            self.tell(&before, &relation);
        }
        self.entries.insert(message.id, Entry { relation, batch: u64::MAX, index: 0 });
        self.fresh.push(message.id);
        Ok(())
    }

    /// The change that the latest descriptions are for stands at `at`, and its transaction
    /// commits at `commit`: they are as that change saw their tables, whose schemas may have
    /// got other names since. (A description itself says nothing of its place.)
    pub(super) fn place(&mut self, (commit, at): (Lsn, Lsn)) {
        for id in self.fresh.drain(..) {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let seen = &entry.relation.schema;
            let now = self.known.known().renames.now(seen, (commit, at)).to_owned();
            if now != *seen {
                entry.relation = self.known.settle(renamed(&entry.relation, &now));
                entry.batch = u64::MAX;
            }
        }
    }
}

/// What the catalog says of one column.
#[derive(Debug, Default)]
struct Facts {
    type_name: Option<String>,
    base: Option<String>,
    elem: Option<String>,
    labels: Option<Vec<String>>,
    not_null: bool,
    unique: bool,
    toastable: bool,
}

fn enrich(column: &RelationColumn<'_>, facts: Facts) -> Column {
    // A type that has been dropped since: its built-in name, or at least its number.
    let fallback = || match Type::from_oid(column.oid) {
        Some(known) => known.name().to_owned(),
        None => format!("oid:{}", column.oid),
    };
    let type_name = facts.type_name.unwrap_or_else(fallback);
    Column {
        name: column.name.to_owned(),
        base: facts.base.unwrap_or_else(|| type_name.clone()),
        type_name,
        oid: column.oid,
        typmod: column.typmod,
        key: column.key,
        not_null: facts.not_null,
        unique: facts.unique,
        toastable: facts.toastable,
        elem: facts.elem,
        labels: facts.labels,
    }
}

/// An ordinary session, opened when it is first needed.
struct Catalog {
    info: Conninfo,
    app_name: String,
    session: Option<(Client, Statement)>,
}

/// One row a column, in the order given. `$1` the table, `$2` names, `$3` type OIDs.
const FACTS: &str = "
SELECT t.typname::text, base.typname::text, elem.typname::text,
       (SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder)
          FROM pg_catalog.pg_enum e WHERE e.enumtypid = base.oid),
       coalesce(a.attnotnull, false) OR coalesce(chain.not_null, false),
       EXISTS (SELECT FROM pg_catalog.pg_index i
                WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indisvalid
                  AND (a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1])
                       OR i.indexprs IS NOT NULL AND EXISTS (
                          SELECT FROM pg_catalog.pg_depend d
                           WHERE d.classid = 'pg_catalog.pg_class'::regclass
                             AND d.objid = i.indexrelid
                             AND d.refclassid = 'pg_catalog.pg_class'::regclass
                             AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum))),
       coalesce(a.attlen = -1 AND a.attstorage <> 'p', t.typlen = -1 AND t.typstorage <> 'p', false)
  FROM unnest($2::text[], $3::oid[]) WITH ORDINALITY AS col (name, typ, n)
  LEFT JOIN pg_catalog.pg_type t ON t.oid = col.typ
  LEFT JOIN LATERAL (
       WITH RECURSIVE step AS (
            SELECT t.oid, t.typtype, t.typbasetype, t.typnotnull, 1 AS depth
            UNION ALL
            SELECT b.oid, b.typtype, b.typbasetype, b.typnotnull, step.depth + 1
              FROM step JOIN pg_catalog.pg_type b ON b.oid = step.typbasetype
             WHERE step.typtype = 'd')
       SELECT (array_agg(step.oid ORDER BY step.depth DESC))[1] AS oid,
              bool_or(step.typnotnull) AS not_null
         FROM step) chain ON true
  LEFT JOIN pg_catalog.pg_type base ON base.oid = chain.oid
  LEFT JOIN pg_catalog.pg_type elem
         ON base.typcategory = 'A' AND base.typlen = -1 AND elem.oid = base.typelem
  LEFT JOIN pg_catalog.pg_attribute a
         ON a.attrelid = $1 AND a.attname = col.name AND a.atttypid = col.typ
        AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY col.n";

impl Catalog {
    async fn facts(
        &mut self,
        table: u32,
        columns: &[RelationColumn<'_>],
    ) -> Result<Vec<Facts>, SourceError> {
        let doing = "a look at the catalog";
        let failed = |e: tokio_postgres::Error| SourceError::sql(doing, &e);
        if self.session.as_ref().is_none_or(|(client, _)| client.is_closed()) {
            let client = sql_connect(&self.info, &self.app_name).await?;
            let types = [Type::OID, Type::TEXT_ARRAY, Type::OID_ARRAY];
            let statement = client.prepare_typed(FACTS, &types).await.map_err(failed)?;
            self.session = Some((client, statement));
        }
        let Some((client, statement)) = &self.session else { return Ok(Vec::new()) };
        let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
        let types: Vec<u32> = columns.iter().map(|column| column.oid).collect();
        let rows = client.query(statement, &[&table, &names, &types]).await.map_err(failed)?;
        if rows.len() != columns.len() {
            return Err(SourceError::protocol(doing, "another number of columns than asked for"));
        }
        let facts = rows.iter().map(|row| Facts {
            type_name: row.get(0),
            base: row.get(1),
            elem: row.get(2),
            labels: row.get(3),
            not_null: row.get(4),
            unique: row.get(5),
            toastable: row.get(6),
        });
        Ok(facts.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kasho_plugin_sdk::Identity;

    fn relation(table: &str) -> Relation {
        Relation {
            id: 7,
            version: 0,
            schema: "public".into(),
            table: table.into(),
            identity: Identity::Default,
            columns: vec![],
        }
    }

    #[test]
    fn versions_count_changes_only() {
        let known = KnownRelations::default();
        let first = known.settle(relation("a"));
        assert_eq!(first.version, 1);
        assert!(Arc::ptr_eq(&first, &known.settle(relation("a"))));
        let second = known.settle(relation("b"));
        assert_eq!(second.version, 2);
        assert!(Arc::ptr_eq(&second, &known.settle(relation("b"))));
        assert_eq!(known.settle(relation("a")).version, 3);
    }

    #[test]
    fn what_has_become_of_a_table_is_said_in_words() {
        let column = |name: &str, oid| Column {
            name: name.into(),
            oid,
            type_name: format!("type{oid}"),
            ..crate::batch::ddl_relation().columns[0].clone()
        };
        let before =
            Relation { columns: vec![column("id", 23), column("Old", 25)], ..relation("a") };
        let now = Relation { columns: vec![column("id", 20), column("new", 25)], ..relation("b") };
        assert_eq!(
            changes(&before, &now).unwrap(),
            "it was called public.a; new appeared; \"Old\" vanished; id changed its type from \
             type23 to type20"
        );
        let mut same = before.clone();
        same.columns[1].not_null = !same.columns[1].not_null;
        assert_eq!(changes(&before, &same), None);
    }
}
