//! A schema change: what plugins see of it as a row of `kasho.ddl`, and what stands beside
//! that row for whoever applies it. Names and settings only; no value of any row. Nothing
//! can go wrong here.

use std::collections::BTreeMap;

use kasho_plugin_sdk::event::quote_identifier;
use serde::{Deserialize, Serialize};

use super::{Batch, Cell, DDL_RELATION_ID, Detail, Image, Span};

/// An object that a schema change made, changed or dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DdlObject {
    /// PostgreSQL's word for its kind: `table`, `table column`, `index`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Its `object_identity`, quoted where SQL needs it.
    pub identity: String,
    /// The schema that it is in, if it is in one; not quoted.
    pub schema: Option<String>,
    /// Its name, where that identifies it; not quoted.
    pub name: Option<String>,
    /// It is gone.
    pub dropped: bool,
    /// Of a schema that gets another name, or a table that gets another name or schema: the name
    /// that it had; not quoted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// Of such a table: the schema that it was in; not quoted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was_in: Option<String>,
    /// Of a table that is new: the publications that bring every row it gets. The engine's
    /// own business.
    #[serde(skip_serializing)]
    pub published: Vec<String>,
}

/// What stands beside the row of `kasho.ddl`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DdlDetail {
    /// `search_path` that the statement was run with.
    pub search_path: String,
    /// Who ran it: the session's user.
    pub username: String,
    /// The database it was run in.
    pub database: String,
    /// Settings of its session that decide what its literals mean, and what values of one type
    /// are as another (`TimeZone`, `DateStyle`, …).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// What it concerned.
    pub objects: Vec<DdlObject>,
    /// Tables whose values the source computed anew (a volatile default): running the
    /// statement elsewhere makes other ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recomputed: Vec<String>,
    /// It makes tables, which are empty then or filled by its own transaction.
    #[serde(skip)]
    pub makes: bool,
    /// An operator has said that it is done on the target by hand: not to be run again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
}

impl DdlDetail {
    /// The schemas that get another name by it: which one they had, and the new one; neither
    /// is quoted.
    pub fn renamed_schemas(&self) -> impl Iterator<Item = (&str, &str)> {
        let schemas = self.objects.iter().filter(|object| object.kind == "schema");
        schemas.filter_map(|object| Some((object.was.as_deref()?, object.name.as_deref()?)))
    }

    /// Everything that tables are called otherwise by from here on.
    pub fn renames(&self) -> impl Iterator<Item = Rename<'_>> {
        let schemas = self.renamed_schemas().map(|(from, to)| Rename::Schema { from, to });
        let tables = self.objects.iter().filter(|object| object.kind == "table");
        let tables = tables.filter_map(|object| {
            let from = qualified(object.was_in.as_deref()?, object.was.as_deref()?);
            let to = qualified(object.schema.as_deref()?, object.name.as_deref()?);
            Some(Rename::Table { from, to })
        });
        schemas.chain(tables)
    }
}

/// Another name for a schema, or for a table alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rename<'a> {
    /// Of all tables in it. Neither name is quoted.
    Schema {
        /// The name that it had.
        from: &'a str,
        /// The name that it has.
        to: &'a str,
    },
    /// Both as `schema.table`, quoted where SQL needs it.
    Table {
        /// The name that it had.
        from: String,
        /// The name that it has.
        to: String,
    },
}

impl Rename<'_> {
    /// What a table (`schema.table`, quoted where SQL needs it) is called by it; none if it has
    /// no other name.
    #[must_use]
    pub fn moved(&self, table: &str) -> Option<String> {
        match self {
            Rename::Schema { from, to } => moved(table, (from, to)),
            Rename::Table { from, to } => (table == from).then(|| to.clone()),
        }
    }
}

fn qualified(schema: &str, table: &str) -> String {
    format!("{}.{}", quote_identifier(schema), quote_identifier(table))
}

/// The name of a table (`schema.table`, quoted where SQL needs it) once its schema `from` is
/// called `to`; none if it is in another one. Neither of these is quoted.
#[must_use]
pub fn moved(table: &str, (from, to): (&str, &str)) -> Option<String> {
    let rest = table.strip_prefix(&quote_identifier(from))?.strip_prefix('.')?;
    Some(format!("{}.{rest}", quote_identifier(to)))
}

/// A schema change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DdlEvent {
    /// The command's tag, `ALTER TABLE`.
    pub tag: String,
    /// Kind of the first object concerned.
    pub object_type: String,
    /// Identity of the first object concerned.
    pub identity: String,
    /// The statement's own text, if it is known.
    pub text: Option<String>,
    /// The rest.
    pub detail: DdlDetail,
}

impl Batch {
    /// Whether there may be schema changes in it.
    #[must_use]
    pub fn has_ddl(&self) -> bool {
        self.relations.iter().any(|relation| relation.id == DDL_RELATION_ID)
    }
}

impl DdlEvent {
    /// The columns of `kasho.ddl`, in their order.
    pub(crate) fn values(&self) -> [Option<&str>; 4] {
        let (tag, kind) = (self.tag.as_str(), self.object_type.as_str());
        [Some(tag), Some(kind), Some(&self.identity), self.text.as_deref()]
    }

    /// What stands beside its row.
    pub(crate) fn beside(&self) -> Detail {
        Detail::Ddl(Box::new(self.detail.clone()))
    }

    /// Adds its image to a batch, in a segment of its own.
    pub(crate) fn push(&self, batch: &mut Batch) -> Image {
        let mut text = Vec::new();
        let segment = super::index(batch.segments.len());
        let cells = self.values().map(|value| match value {
            Some(value) => {
                let start = super::index(text.len());
                text.extend_from_slice(value.as_bytes());
                Cell::Text(Span { segment, start, len: super::index(value.len()) })
            }
            None => Cell::Null,
        });
        batch.push_segment(text.into());
        batch.push_image(cells)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_goes_with_its_schema_and_with_no_other() {
        assert_eq!(moved("a.t", ("a", "B")).unwrap(), "\"B\".t");
        assert_eq!(moved("\"a.b\".\"T.x\"", ("a.b", "c")).unwrap(), "c.\"T.x\"");
        for other in ["ab.t", "\"a.b\".t", "b.a.t", "a"] {
            assert_eq!(moved(other, ("a", "c")), None, "{other}");
        }
    }

    #[test]
    fn schemas_and_tables_get_other_names_and_nothing_else_does() {
        let object = |kind: &str, was: Option<&str>, was_in: Option<&str>| DdlObject {
            kind: kind.into(),
            schema: Some("public".into()),
            name: Some("New".into()),
            was: was.map(str::to_owned),
            was_in: was_in.map(str::to_owned),
            ..DdlObject::default()
        };
        let objects = vec![
            object("table", Some("o.ld"), Some("a")),
            object("table", None, None),
            object("index", Some("i"), Some("a")),
            object("schema", Some("old"), None),
        ];
        let detail = DdlDetail { objects, ..DdlDetail::default() };
        let renames: Vec<Rename<'_>> = detail.renames().collect();
        let table = Rename::Table { from: "a.\"o.ld\"".into(), to: "public.\"New\"".into() };
        assert_eq!(renames, [Rename::Schema { from: "old", to: "New" }, table]);
        let moved = |name| renames[1].moved(name);
        assert_eq!(moved("a.\"o.ld\"").as_deref(), Some("public.\"New\""));
        assert_eq!((moved("a.o"), moved("public.\"New\"")), (None, None));
        assert_eq!(renames[0].moved("old.t").as_deref(), Some("\"New\".t"));
    }
}
