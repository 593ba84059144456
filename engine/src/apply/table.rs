//! What the target's tables are made of, as its catalogue says: columns, keys, what a row
//! may be found by, what rows may be joined into one statement.
//!
//! What can go wrong: a table that is not there, a role without rights, triggers and keys
//! that would act on rows that were acted upon at the source.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::Client;

use super::error::ApplyError;
use super::session::{Traits, Triggers, remedy};
use crate::position::EpochPosition;

/// A column of a table of the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    /// Its type as a cast has it, without a length.
    pub(super) cast: String,
    /// The target makes its values.
    pub(super) generated: bool,
    /// GENERATED ALWAYS AS IDENTITY: an UPDATE may not name it.
    pub(super) always: bool,
    /// The operator by which values of its type are equal, as SQL; none has json, for one.
    pub(super) equal: Option<String>,
    /// Values are equal if and only if their texts are.
    pub(super) exact: bool,
    /// It is part of a unique or exclusion index.
    pub(super) unique: bool,
}

/// Columns by which at most one row is found, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Places in [`Table::columns`].
    pub(super) columns: Vec<usize>,
    /// The index's own equality operators.
    pub(super) equal: Vec<String>,
}

/// A table of the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// As the stream calls it, quoted.
    pub(super) name: String,
    /// The same as SQL has it, key words in quotes too.
    pub(super) sql: String,
    pub(super) oid: u32,
    /// Its rows stand in other tables.
    pub(super) partitioned: bool,
    pub(super) columns: Vec<Column>,
    /// The primary key first.
    pub(super) keys: Vec<Key>,
    /// A unique or exclusion index over an expression or a part of the rows: which columns
    /// an update of it touches is not known.
    pub(super) opaque: bool,
    /// A foreign key leads from it, or to it.
    pub(super) foreign: bool,
    /// What is done to it acts on no other table, and nothing else acts on it: no trigger and
    /// no rule fires, foreign keys are not looked at, its rows stand in it alone.
    pub(super) alone: bool,
}

impl Table {
    /// The place of a column.
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Its name where rows of tables that inherit from it are not meant.
    pub(super) fn only(&self) -> String {
        match self.partitioned {
            true => self.sql.clone(),
            false => format!("ONLY {}", self.sql),
        }
    }
}

/// The tables looked up so far, and how the columns of entries map to theirs.
#[derive(Debug)]
pub(super) struct Tables {
    traits: Traits,
    known: HashMap<String, (Arc<Table>, Arc<Mapping>)>,
}

/// Where the columns of an entry are in a table of the target.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    pub(super) of: Arc<[String]>,
    /// One for each of them; none is made by the target itself.
    pub(super) places: Vec<Option<usize>>,
}

const COLUMNS: &str = "
SELECT a.attnum::int4, a.attname::text, pg_catalog.format_type(a.atttypid, -1),
    a.attgenerated <> '', a.attidentity = 'a', eq.name, COALESCE(eq.exact AND (a.attcollation = 0 OR l.collisdeterministic), false)
FROM pg_catalog.pg_attribute a
LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
LEFT JOIN LATERAL (
    WITH RECURSIVE b(oid) AS (
        SELECT a.atttypid
        UNION ALL
        SELECT t.typbasetype FROM b JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE t.typtype = 'd')
    SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname) AS name,
        t.oid IN (16, 20, 21, 23, 25, 26, 1043, 1082, 1114, 1184, 2950) AS exact
    FROM b JOIN pg_catalog.pg_type t ON t.oid = b.oid AND t.typtype NOT IN ('d', 'c')
    LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
    JOIN pg_catalog.pg_opclass oc ON oc.opcdefault AND oc.opcintype = CASE
        WHEN t.typtype = 'e' THEN 3500 WHEN t.typtype = 'r' THEN 3831 WHEN t.typtype = 'm' THEN 4537
        WHEN e.oid IS NOT NULL THEN 2277 WHEN t.oid = 1043 THEN 25 ELSE t.oid END
    JOIN pg_catalog.pg_am am ON am.oid = oc.opcmethod AND am.amname = 'btree'
    JOIN pg_catalog.pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amoplefttype = oc.opcintype
        AND ao.amoprighttype = oc.opcintype AND ao.amopstrategy = 3
    JOIN pg_catalog.pg_operator o ON o.oid = ao.amopopr
    JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
    WHERE e.oid IS NULL OR e.typtype IN ('e', 'r') OR e.oid = 1043 OR EXISTS (
        SELECT FROM pg_catalog.pg_opclass x JOIN pg_catalog.pg_am m ON m.oid = x.opcmethod
        WHERE m.amname = 'btree' AND x.opcdefault AND x.opcintype = e.oid)
    LIMIT 1) eq ON true
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum";

const INDEXES: &str = "
SELECT i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL,
    i.indpred IS NOT NULL OR i.indexprs IS NOT NULL,
    ARRAY(SELECT k::int4 FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(k, n) WHERE n <= i.indnkeyatts ORDER BY n),
    ARRAY(SELECT COALESCE((
            SELECT format('OPERATOR(%I.%s)', ns.nspname, o.oprname)
            FROM pg_catalog.pg_opclass oc
            JOIN pg_catalog.pg_am am ON am.oid = oc.opcmethod AND am.amname = 'btree'
            JOIN pg_catalog.pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3
                AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
            JOIN pg_catalog.pg_operator o ON o.oid = ao.amopopr
            JOIN pg_catalog.pg_namespace ns ON ns.oid = o.oprnamespace
            WHERE oc.oid = u.c), '')
        FROM unnest(i.indclass::oid[]) WITH ORDINALITY u(c, n) WHERE n <= i.indnkeyatts ORDER BY n)
FROM pg_catalog.pg_index i
WHERE i.indrelid = $1 AND (i.indisunique OR i.indisexclusion) AND i.indislive
ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid";

const RELATION: &str = "
SELECT c.oid, c.relkind::text, array_to_string(ARRAY(
    SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) p
    WHERE NOT pg_catalog.has_table_privilege(c.oid, p)), ', '),
    EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')),
    EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' AND c.oid IN (k.conrelid, k.confrelid)
        AND NOT (k.condeferrable AND k.confdeltype = 'a' AND k.confupdtype = 'a')),
    EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' AND c.oid IN (k.conrelid, k.confrelid)),
    pg_catalog.format('%I.%I', n.nspname, c.relname),
    c.relkind = 'r' AND NOT c.relispartition AND NOT c.relhasrules AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgenabled IN ('A', 'R'))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = pg_catalog.to_regclass($1)";

impl Tables {
    /// None known yet.
    pub(super) fn new(traits: Traits) -> Tables {
        Tables { traits, known: HashMap::new() }
    }

    /// Forgets everything: the target's schema has changed.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    /// The table of this name, and where `columns` are in it.
    ///
    /// # Errors
    /// There is none, it lacks one of them, or must not be written to.
    pub(super) async fn find(
        &mut self,
        client: &Client,
        name: &str,
        columns: &Arc<[String]>,
        at: EpochPosition,
    ) -> Result<(Arc<Table>, Arc<Mapping>), ApplyError> {
        if let Some((table, mapping)) = self.known.get(name)
            && (Arc::ptr_eq(&mapping.of, columns) || mapping.of == *columns)
        {
            return Ok((Arc::clone(table), Arc::clone(mapping)));
        }
        let table = match self.known.get(name) {
            Some((table, _)) => Arc::clone(table),
            None => {
                let found = look(client, &self.traits, name).await?;
                let missing = || ApplyError::MissingTable { table: name.to_owned(), at };
                Arc::new(found.ok_or_else(missing)?)
            }
        };
        let place = |column: &String| match table.place(column) {
            Some(place) => Ok((!table.columns[place].generated).then_some(place)),
            None => Err(ApplyError::MissingColumn {
                table: name.to_owned(),
                column: column.clone(),
                at,
            }),
        };
        let places = columns.iter().map(place).collect::<Result<_, _>>()?;
        let mapping = Arc::new(Mapping { of: Arc::clone(columns), places });
        self.known.insert(name.to_owned(), (Arc::clone(&table), Arc::clone(&mapping)));
        Ok((table, mapping))
    }
}

/// What the target's catalogue says of a table; none if there is none.
///
/// # Errors
/// It must not be written to; the server's.
pub(super) async fn look(
    client: &Client,
    traits: &Traits,
    name: &str,
) -> Result<Option<Table>, ApplyError> {
    let doing = format!("looking at table {name}");
    let failed = |e: tokio_postgres::Error| match e.code().map(|code| code.code()) {
        Some("42501") => ApplyError::Refused(format!(
            "role {role:?} of the target may not look into the schema of {name}: GRANT USAGE ON \
             SCHEMA … TO {role:?}; then start again",
            role = traits.role
        )),
        _ => ApplyError::sql(&doing, &e),
    };
    let Some(row) = client.query_opt(RELATION, &[&name]).await.map_err(failed)? else {
        return Ok(None);
    };
    let (oid, kind): (u32, String) = (row.get(0), row.get(1));
    if !["r", "p"].contains(&kind.as_str()) {
        return Err(ApplyError::Refused(format!(
            "{name} of the target is no table: rename it, and make the table; then start again"
        )));
    }
    guard(traits, name, &row)?;
    let mut table = Table {
        name: name.to_owned(),
        oid,
        partitioned: kind == "p",
        foreign: row.get(5),
        sql: row.get(6),
        alone: traits.triggers == Triggers::Off && row.get(7),
        ..Table::default()
    };
    let mut numbers = Vec::new();
    for row in client.query(COLUMNS, &[&oid]).await.map_err(failed)? {
        numbers.push(row.get::<_, i32>(0));
        table.columns.push(Column {
            name: row.get(1),
            cast: row.get(2),
            generated: row.get(3),
            always: row.get(4),
            equal: row.get(5),
            exact: row.get(6),
            unique: false,
        });
    }
    for row in client.query(INDEXES, &[&oid]).await.map_err(failed)? {
        let (finds, opaque): (bool, bool) = (row.get(0), row.get(1));
        let (keys, equal): (Vec<i32>, Vec<String>) = (row.get(2), row.get(3));
        let places: Vec<usize> =
            keys.iter().filter_map(|key| numbers.iter().position(|n| n == key)).collect();
        places.iter().for_each(|place| table.columns[*place].unique = true);
        table.opaque |= opaque;
        if finds && places.len() == keys.len() && equal.iter().all(|operator| !operator.is_empty())
        {
            table.keys.push(Key { columns: places, equal });
        }
    }
    Ok(Some(table))
}

/// Refuses what the session could not write to as it should be written.
fn guard(traits: &Traits, name: &str, row: &tokio_postgres::Row) -> Result<(), ApplyError> {
    let lacks: String = row.get(2);
    if !lacks.is_empty() {
        return Err(ApplyError::Privilege {
            role: traits.role.clone(),
            quoted: kasho_plugin_sdk::event::quote_identifier(&traits.role),
            table: name.to_owned(),
            lacks,
        });
    }
    let (triggers, foreign): (bool, bool) = (row.get(3), row.get(4));
    if traits.triggers == Triggers::Deferred && (triggers || foreign) {
        let what = match triggers {
            true => "triggers, which would act a second time on what they did at the source",
            false => {
                "foreign keys that are not deferrable, which rows in the stream's order need \
                      not meet"
            }
        };
        return Err(ApplyError::Refused(format!(
            "table {name} of the target has {what}, and role {:?} may not turn them off: {}; or \
             drop them in the target; then start again",
            traits.role,
            remedy(traits)
        )));
    }
    Ok(())
}
