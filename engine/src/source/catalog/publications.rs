//! Which relations the publications carry, with column lists and row filters. PostgreSQL
//! 14 has neither of the two; its view says less.

use std::collections::BTreeMap;

use kasho_plugin_sdk::event::quote_identifier;
use tokio_postgres::Client;
use tokio_postgres::types::Oid;

use crate::source::catalog::CatalogError;
use crate::source::error::SourceError;

/// A relation as published; a partition root where `publish_via_partition_root` says so.
pub(super) struct Published {
    /// Names of the published columns; none: every column that is not generated.
    pub(super) columns: Option<Vec<String>>,
    /// The row filters of all publications, joined as PostgreSQL joins them.
    pub(super) filter: Option<String>,
}

/// Changes whenever a publication is altered, whatever the server's version has.
pub(super) async fn stamp(
    client: &Client,
    names: &[String],
    version: u32,
) -> Result<String, CatalogError> {
    let doing = "reading the publications";
    let sql = |error| SourceError::sql(doing, &error);
    let rows = client
        .query("SELECT pubname::text, oid FROM pg_publication WHERE pubname = ANY($1)", &[&names])
        .await
        .map_err(sql)?;
    for name in names {
        if !rows.iter().any(|row| row.get::<_, &str>(0) == name) {
            return Err(CatalogError::NoPublication { name: name.clone() });
        }
    }
    let oids: Vec<Oid> = rows.iter().map(|row| row.get(1)).collect();
    let schemas = "UNION ALL SELECT 'n', oid, xmin FROM pg_publication_namespace \
                   WHERE pnpubid = ANY($1) ";
    let statement = format!(
        "SELECT coalesce(string_agg(kind || oid || ':' || xmin, ',' ORDER BY kind, oid), '') \
         FROM (SELECT 'p' AS kind, oid, xmin FROM pg_publication WHERE oid = ANY($1) UNION ALL \
               SELECT 'r', oid, xmin FROM pg_publication_rel WHERE prpubid = ANY($1) {}) all_rows",
        if version >= 150_000 { schemas } else { "" }
    );
    Ok(client.query_one(&statement, &[&oids]).await.map_err(sql)?.get(0))
}

pub(super) async fn read(
    client: &Client,
    names: &[String],
    version: u32,
) -> Result<BTreeMap<Oid, Published>, CatalogError> {
    // From 18 on a generated column may be published; before it never is, even where an
    // early release of 15 lists it.
    let columns = match version {
        180_000.. => "p.attnames::text[], p.rowfilter",
        150_000.. => {
            "array(SELECT x.name FROM unnest(p.attnames::text[]) WITH ORDINALITY AS x (name, n) \
                   JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = x.name \
                   WHERE a.attgenerated = '' ORDER BY x.n), p.rowfilter"
        }
        _ => "NULL::text[], NULL::text",
    };
    let statement = format!(
        "SELECT c.oid, n.nspname || '.' || c.relname, {columns} \
         FROM pg_publication_tables p JOIN pg_namespace n ON n.nspname = p.schemaname \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename \
         WHERE p.pubname = ANY($1) ORDER BY c.oid, p.pubname"
    );
    let rows = client
        .query(&statement, &[&names])
        .await
        .map_err(|error| SourceError::sql("reading the published tables", &error))?;
    let mut published: BTreeMap<Oid, Published> = BTreeMap::new();
    for row in rows {
        let (columns, filter): (Option<Vec<String>>, Option<String>) = (row.get(2), row.get(3));
        match published.get_mut(&row.get(0)) {
            None => {
                published.insert(row.get(0), Published { columns, filter });
            }
            Some(other) if other.columns != columns => {
                return Err(CatalogError::ColumnLists {
                    table: row.get(1),
                    publications: names.join(", "),
                });
            }
            // A row passes if one of the publications lets it pass.
            Some(other) => {
                other.filter = match (other.filter.take(), filter) {
                    (Some(a), Some(b)) if a != b => Some(format!("({a}) OR ({b})")),
                    (Some(a), Some(_)) => Some(a),
                    (None, _) | (_, None) => None,
                };
            }
        }
    }
    Ok(published)
}

/// The names of everything that is published, as the stream's rows carry them.
///
/// # Errors
/// The query failed.
pub async fn names(client: &Client, publications: &[String]) -> Result<Vec<String>, SourceError> {
    let doing = "asking what is published";
    let sql = "SELECT DISTINCT schemaname::text, tablename::text FROM pg_publication_tables \
               WHERE pubname = ANY($1) ORDER BY 1, 2";
    let rows = client.query(sql, &[&publications]).await;
    let rows = rows.map_err(|error| SourceError::sql(doing, &error))?;
    let name = |row: &tokio_postgres::Row| {
        format!("{}.{}", quote_identifier(row.get(0)), quote_identifier(row.get(1)))
    };
    Ok(rows.iter().map(name).collect())
}
