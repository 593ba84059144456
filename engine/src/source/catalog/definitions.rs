//! What decides whether a table takes the rows that another one like it holds: its columns,
//! keys and checks, and the types beneath. Not told is what that is; only that it is the same.
//!
//! What can go wrong: a row of the catalogues that was written anew without a change to it
//! makes two that are alike look different. Then a table is loaded later than it could be.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use tokio_postgres::Client;
use tokio_postgres::types::Oid;

use crate::source::error::SourceError;

/// Each row of a catalogue tells by its `xmin` when it was last written. Foreign keys and
/// triggers say nothing about rows that are loaded.
const DEFINITIONS: &str = "
SELECT c.oid, concat_ws(';',
    (SELECT string_agg(a.attnum || ':' || a.xmin::text, ',' ORDER BY a.attnum)
       FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0),
    (SELECT string_agg(k.oid || ':' || k.xmin::text, ',' ORDER BY k.oid)
       FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype NOT IN ('f', 't')),
    (SELECT string_agg(i.indexrelid || ':' || i.xmin::text, ',' ORDER BY i.indexrelid)
       FROM pg_catalog.pg_index i
      WHERE i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion)),
    (WITH RECURSIVE need (oid) AS (
         SELECT a.atttypid FROM pg_catalog.pg_attribute a
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         UNION
         SELECT beneath.oid FROM need JOIN pg_catalog.pg_type t ON t.oid = need.oid
         CROSS JOIN LATERAL (SELECT t.typbasetype UNION ALL SELECT t.typelem UNION ALL
             SELECT a.atttypid FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) beneath (oid)
          WHERE beneath.oid <> 0)
     SELECT string_agg(concat_ws(':', t.oid, t.xmin,
                (SELECT string_agg(e.oid || '-' || e.xmin::text, '+' ORDER BY e.oid)
                   FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid),
                (SELECT string_agg(k.oid || '-' || k.xmin::text, '+' ORDER BY k.oid)
                   FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid)), ',' ORDER BY t.oid)
       FROM need JOIN pg_catalog.pg_type t ON t.oid = need.oid WHERE t.oid >= 16384))
  FROM pg_catalog.pg_class c WHERE c.oid = ANY($1)";

/// By table.
pub(super) async fn read(
    client: &Client,
    tables: &[Oid],
) -> Result<BTreeMap<Oid, String>, SourceError> {
    let doing = "reading the definitions of published tables";
    let rows = client.query(DEFINITIONS, &[&tables]).await;
    let rows = rows.map_err(|error| SourceError::sql(doing, &error))?;
    let digest = |text: String| {
        let digest = Sha256::digest(text.as_bytes());
        digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    };
    Ok(rows.iter().map(|row| (row.get(0), digest(row.get(1)))).collect())
}
