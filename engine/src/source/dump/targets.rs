//! Where a dump's rows go: the tables it names, found in the catalogue, and its columns
//! brought to those of the relation that the rows are published as.
//!
//! What can go wrong: the dump and the catalogue do not describe the same table, or the
//! publication carries only some of its rows ([`DumpError::Shape`], [`DumpError::Filter`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kasho_plugin_sdk::event::quote_identifier;
use kasho_plugin_sdk::{Column, Identity, Relation};

use super::error::{DumpError, Place};
use super::statement::Named;
use crate::source::catalog::{Catalog, Shape, Table};

/// OID of `text`.
const TEXT: u32 = 25;

/// A table whose rows are wanted, with the columns of one statement.
#[derive(Debug)]
pub(super) struct Target {
    /// `pg_class.oid`.
    pub(super) id: u32,
    /// `schema.table`, quoted where SQL needs it.
    pub(super) name: String,
    /// What the rows are published as.
    pub(super) relation: Arc<Relation>,
    /// One for each field of the statement's rows.
    pub(super) slots: Vec<Slot>,
    /// The statement did not name its columns.
    pub(super) unnamed: bool,
}

/// What becomes of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Its column of the relation; none: not published.
    pub(super) to: Option<usize>,
    /// Where in its text something depends on settings.
    pub(super) shape: Option<Shape>,
}

/// What the catalogue says of a name.
#[derive(Debug)]
pub(super) enum Found {
    /// Rows are wanted.
    Target(Arc<Target>),
    /// No publication carries them.
    Skip(String),
}

/// The catalogue, by name.
#[derive(Debug)]
pub(super) struct Targets {
    catalog: Catalog,
    /// By schema and name; indexes into the catalogue's tables.
    tables: HashMap<(String, String), usize>,
    /// Roots of partitions: indexes into its relations.
    roots: HashMap<(String, String), usize>,
    /// Rows of unpublished tables are wanted too.
    all_tables: bool,
    /// What these are called, and the relations made for them.
    unlisted: Mutex<HashMap<String, Arc<Relation>>>,
}

impl Targets {
    pub(super) fn new(catalog: &Catalog, all_tables: bool) -> Targets {
        let by_name =
            |(n, table): (usize, &Table)| ((table.schema.clone(), table.table.clone()), n);
        let tables: HashMap<_, _> = catalog.tables.iter().enumerate().map(by_name).collect();
        let root = |(n, relation): (usize, &Arc<Relation>)| {
            let name = (relation.schema.clone(), relation.table.clone());
            (!tables.contains_key(&name)).then_some((name, n))
        };
        let roots = catalog.relations.iter().enumerate().filter_map(root).collect();
        let (catalog, unlisted) = (catalog.clone(), Mutex::new(HashMap::new()));
        Targets { catalog, tables, roots, all_tables, unlisted }
    }

    /// Finds the table that a statement names.
    pub(super) fn find(
        &self,
        named: &Named,
        search_path: &str,
        place: Place,
    ) -> Result<Found, DumpError> {
        let unqualified = || DumpError::Unqualified { place, table: named.name.clone() };
        let schemas: Vec<String> = match &named.schema {
            Some(schema) => vec![schema.clone()],
            None => schemas(search_path),
        };
        let first = schemas.first().ok_or_else(unqualified)?;
        let known = schemas.iter().find_map(|schema| {
            let name = (schema.clone(), named.name.clone());
            let table = self.tables.get(&name).map(|n| self.of_table(&self.catalog.tables[*n]));
            table.or_else(|| {
                self.roots.get(&name).map(|n| self.of_root(&self.catalog.relations[*n]))
            })
        });
        let name = format!("{}.{}", quote_identifier(first), quote_identifier(&named.name));
        match known {
            Some(known) => known.target(named, &self.catalog, place),
            None if self.all_tables => self.unlisted(first, named, name, place),
            None => Ok(Found::Skip(name)),
        }
    }

    fn of_table<'a>(&'a self, table: &'a Table) -> Known<'a> {
        Known {
            id: table.oid,
            relation: self.catalog.relation(table.relation),
            name: table.qualified(),
            columns: &table.all_columns,
            filter: table.filter.is_some(),
        }
    }

    fn of_root<'a>(&'a self, relation: &'a Arc<Relation>) -> Known<'a> {
        let mut leaves = self.catalog.tables.iter().filter(|table| table.relation == relation.id);
        Known {
            id: relation.id,
            relation: Some(relation),
            name: relation.qualified(),
            columns: self
                .catalog
                .tables
                .iter()
                .find(|table| table.relation == relation.id)
                .map_or(&[], |leaf| &leaf.all_columns),
            filter: leaves.any(|table| table.filter.is_some()),
        }
    }

    /// A table that no publication carries, all of its columns as text.
    fn unlisted(
        &self,
        schema: &str,
        named: &Named,
        name: String,
        place: Place,
    ) -> Result<Found, DumpError> {
        let Some(columns) = &named.columns else {
            let what = "the dump does not name its columns, and the catalogue does not know the \
                        table; dump it with --column-inserts or as COPY, which name them";
            return Err(DumpError::Shape { place, table: name, what: what.to_owned() });
        };
        let mut known = self.unlisted.lock().unwrap_or_else(PoisonError::into_inner);
        let id = u32::MAX - u32::try_from(known.len()).unwrap_or(0);
        let relation = known.entry(name.clone()).or_insert_with(|| {
            let columns = columns.iter().map(|name| text_column(name)).collect();
            Arc::new(Relation {
                id,
                version: 1,
                schema: schema.to_owned(),
                table: named.name.clone(),
                identity: Identity::Nothing,
                columns,
            })
        });
        let slots = columns.iter().map(|name| Slot { to: relation.column(name), shape: None });
        let (slots, relation) = (slots.collect(), Arc::clone(relation));
        let id = relation.id;
        Ok(Found::Target(Arc::new(Target { id, name, relation, slots, unnamed: false })))
    }
}

/// The schemas of a search path: names, quoted or not, separated by commas.
fn schemas(search_path: &str) -> Vec<String> {
    let mut tokens = super::token::Tokens::new(search_path.as_bytes());
    let mut found = Vec::new();
    while let Some(name) = tokens.name() {
        found.push(name);
        if !tokens.mark(b',') {
            break;
        }
    }
    found.retain(|name| name != "pg_catalog" && !name.is_empty());
    found
}

fn text_column(name: &str) -> Column {
    Column {
        name: name.to_owned(),
        type_name: "text".to_owned(),
        oid: TEXT,
        base: "text".to_owned(),
        typmod: -1,
        key: false,
        not_null: false,
        unique: false,
        toastable: true,
        elem: None,
        labels: None,
    }
}

/// A table of the catalogue.
struct Known<'a> {
    id: u32,
    relation: Option<&'a Arc<Relation>>,
    name: String,
    /// All of its columns; of a root, in a leaf's order.
    columns: &'a [String],
    filter: bool,
}

impl Known<'_> {
    fn target(self, named: &Named, catalog: &Catalog, place: Place) -> Result<Found, DumpError> {
        let wrong = |what: String| DumpError::Shape { place, table: self.name.clone(), what };
        let Some(relation) = self.relation else {
            return Err(wrong(
                "the catalogue lacks its relation: kasho reset, bootstrap again".into(),
            ));
        };
        if self.filter {
            return Err(DumpError::Filter { place, table: self.name });
        }
        let columns = match &named.columns {
            Some(columns) => columns,
            None if self.columns.is_empty() && relation.columns.is_empty() => self.columns,
            // A root's own order is not known here.
            None if self.columns.is_empty() || self.is_root(catalog) => {
                return Err(wrong(
                    "the dump does not name its columns, and the catalogue does not know their \
                     order: dump it as COPY or with --column-inserts, which name them"
                        .into(),
                ));
            }
            None => self.columns,
        };
        let mut slots = Vec::with_capacity(columns.len());
        for column in columns {
            let to = relation.column(column);
            if to.is_none() && !self.columns.contains(column) {
                return Err(wrong(format!(
                    "the catalogue does not know the dump's column {column:?}: the table was \
                     altered between the dump and StartBootstrap, or the dump is another \
                     database's; take the dump from the snapshot of this bootstrap"
                )));
            }
            let shape = to.and_then(|to| catalog.shapes.get(&relation.columns[to].oid).cloned());
            slots.push(Slot { to, shape });
        }
        let there = |n: usize| slots.iter().any(|slot| slot.to == Some(n));
        if let Some(missing) = (0..relation.columns.len()).find(|n| !there(*n)) {
            return Err(wrong(format!(
                "the dump lacks the published column {:?}: take the dump from the snapshot of this \
                 bootstrap; if the column is generated, no dump holds it: load with --direct",
                relation.columns[missing].name
            )));
        }
        let relation = Arc::clone(relation);
        let unnamed = named.columns.is_none();
        let (id, name) = (self.id, self.name);
        Ok(Found::Target(Arc::new(Target { id, name, relation, slots, unnamed })))
    }

    /// It holds no rows itself, so its columns' order is not in the catalogue.
    fn is_root(&self, catalog: &Catalog) -> bool {
        !catalog.tables.iter().any(|table| table.oid == self.id)
    }
}
