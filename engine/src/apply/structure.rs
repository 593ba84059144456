//! A table that a query makes: its rows come before its schema change, so the first of them
//! has made it of what a row tells. That is neither lengths nor collations; these follow with
//! the structure that the event triggers write. One that no row has made is made of that.
//!
//! What can go wrong: a type that the target does not have.

use super::ddl::{Told, name};
use super::error::ApplyError;
use super::stream::Applier;
use super::table::look;
use crate::batch::DdlObject;
use crate::ddl::scan;
use crate::position::EpochPosition;
use crate::quote::identifier;

/// What has to be changed of the columns of the second table, so that they are of the types of
/// the first.
const DIFFERING: &str = "SELECT pg_catalog.string_agg(pg_catalog.format(\
    'ALTER COLUMN %1$I TYPE %2$s%3$s', n.attname, pg_catalog.format_type(n.atttypid, n.atttypmod), \
    CASE WHEN n.attcollation <> 0 THEN ' COLLATE ' || n.attcollation::pg_catalog.regcollation ELSE '' \
    END), ', ' ORDER BY n.attnum) \
    FROM pg_catalog.pg_attribute n LEFT JOIN pg_catalog.pg_attribute o \
    ON o.attrelid = $2::pg_catalog.text::pg_catalog.regclass AND o.attname = n.attname \
    WHERE n.attrelid = $1::pg_catalog.text::pg_catalog.regclass AND n.attnum > 0 AND NOT n.attisdropped \
    AND (n.atttypid, n.atttypmod, n.attcollation) IS DISTINCT FROM (o.atttypid, o.atttypmod, o.attcollation)";

/// Where a table stands while another one has its name.
const ASIDE: &str = "\"kasho aside\"";

/// The structure of a table that a query has made, as the event triggers write it. Its query
/// never runs again.
fn structure(told: &Told) -> Option<&str> {
    let text = told.text.as_deref()?;
    match scan(text).ok()?.as_slice() {
        [only] if only.has_tag("CREATE TABLE") && !only.ends_transactions() => {
            Some(&text[only.range.clone()])
        }
        _ => None,
    }
}

fn quoted(name: Option<&String>) -> String {
    identifier(name.map_or("", String::as_str))
}

impl Applier {
    /// Makes of a table that a query has made what it is at the source.
    ///
    /// # Errors
    /// The target's.
    pub(super) async fn complete(
        &mut self,
        told: &Told,
        at: EpochPosition,
    ) -> Result<(), ApplyError> {
        let Some(structure) = structure(told) else { return Ok(()) };
        let tables = told.detail.objects.iter().filter(|o| !o.dropped && o.kind == "table");
        for table in tables {
            let Some(name) = name(table) else { continue };
            if self.provisional.contains(&name) {
                self.change_types(table, structure, told, at).await?;
            } else if look(self.pipe.client(), &self.traits, &name).await?.is_none() {
                self.run_ddl(structure, told, at).await?;
            }
        }
        Ok(())
    }

    async fn change_types(
        &mut self,
        object: &DdlObject,
        structure: &str,
        told: &Told,
        at: EpochPosition,
    ) -> Result<(), ApplyError> {
        let (schema, plain) = (quoted(object.schema.as_ref()), quoted(object.name.as_ref()));
        let (table, aside) = (format!("{schema}.{plain}"), format!("{schema}.{ASIDE}"));
        let doing = format!("{} ({})", told.tag, told.identity);
        let failed = |e: tokio_postgres::Error| ApplyError::row(&doing, at, &e);
        let away = format!("ALTER TABLE {table} RENAME TO {ASIDE}");
        self.pipe.client().batch_execute(&away).await.map_err(failed)?;
        self.run_ddl(structure, told, at).await?;
        let client = self.pipe.client();
        let differing = client.query_one(DIFFERING, &[&table, &aside]).await.map_err(failed)?;
        let back = format!("DROP TABLE {table}; ALTER TABLE {aside} RENAME TO {plain}");
        client.batch_execute(&back).await.map_err(failed)?;
        if let Some(changes) = differing.get::<_, Option<String>>(0) {
            let alter = format!("ALTER TABLE {table} {changes}");
            client.batch_execute(&alter).await.map_err(failed)?;
        }
        Ok(())
    }
}
