//! What must be right on the server before a slot is made, checked before anything is
//! touched, each finding with the statement that mends it.
//!
//! What can go wrong: a missing right hides what is asked for; then the query's own
//! error is told. The queries need no more than CONNECT.

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::error::SourceError;
use super::wal::{SlotName, SlotStatus, slot_status};
use crate::quote::identifier;

/// Something that is wrong, or will be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// Logical messages on the stream need 14.
    #[error("PostgreSQL {0} is too old: 14 is the oldest that serves")]
    ServerTooOld(String),
    /// Not set for logical decoding.
    #[error("wal_level is {0:?}, and must be logical")]
    WalLevel(String),
    /// Without an encoding nothing guarantees UTF-8.
    #[error(
        "the database is encoded as SQL_ASCII: its texts have no known encoding and cannot be \
         streamed"
    )]
    SqlAscii,
    /// The role may not stream.
    #[error("role {0:?} lacks the REPLICATION attribute")]
    RoleLacksReplication(String),
    /// The publication is not there.
    #[error("publication {0:?} does not exist; it must exist before the slot is made")]
    PublicationMissing(String),
    /// Its UPDATE and DELETE would fail on the source, or could not be applied.
    #[error(
        "table {table} has no usable replica identity ({reason}), but publication {publication:?} \
         publishes its updates and deletes"
    )]
    NoIdentity {
        /// Quoted where needed.
        table: String,
        /// One of those that publish it.
        publication: String,
        /// What it lacks.
        reason: &'static str,
    },
    /// Its DELETE arrives without any key.
    #[error(
        "table {table} is identified by the generated column {column:?}, which is not streamed"
    )]
    GeneratedIdentity {
        /// Quoted where needed.
        table: String,
        /// Its name.
        column: String,
        /// The publication that could carry it (18 and later).
        publication: Option<String>,
    },
    /// All slots are in use.
    #[error("all {0} replication slots are in use (max_replication_slots)")]
    NoFreeSlot(i64),
    /// All senders are in use.
    #[error("all {0} WAL senders are in use (max_wal_senders)")]
    NoFreeSender(i64),
    /// The slot of that name is another kind of slot.
    #[error("replication slot {slot:?} is not one of plugin pgoutput but of {plugin}")]
    SlotPlugin {
        /// Its name.
        slot: String,
        /// Its plugin, or "none (physical)".
        plugin: String,
    },
    /// The slot belongs to another database.
    #[error("replication slot {slot:?} belongs to database {database:?}, not to this one")]
    SlotDatabase {
        /// Its name.
        slot: String,
        /// The one it belongs to.
        database: String,
    },
    /// The server threw away what the slot needed.
    #[error("replication slot {0:?} is lost: the server removed log that it still needed")]
    SlotLost(String),
    /// Somebody reads it.
    #[error("replication slot {slot:?} is being read by the backend with pid {pid}")]
    SlotActive {
        /// Its name.
        slot: String,
        /// Of its reader.
        pid: i32,
    },
    /// Its UPDATE and DELETE fail on the source (18 and later).
    #[error(
        "table {table} has REPLICA IDENTITY FULL and the generated column {column:?}, which is not \
         published: PostgreSQL refuses its updates and deletes"
    )]
    UnpublishedIdentity {
        /// Quoted where needed.
        table: String,
        /// Its name.
        column: String,
        /// Stored, so that it could be published.
        stored: bool,
        /// One of those that publish the table.
        publication: String,
    },
    /// Slots do not survive a failover there.
    #[error("source.failover needs PostgreSQL 17, and this is {0}")]
    NoFailover(String),
    /// A warning: the server gives the slot up if nobody reads it for long (18 and later).
    #[error(
        "idle_replication_slot_timeout is {0}: if the engine stands still for longer, the server \
         invalidates its slot, and a new bootstrap is needed"
    )]
    IdleTimeout(String),
    /// A warning: the slot can fill the source's disk.
    #[error(
        "max_slot_wal_keep_size is -1: if the engine stands still for long, the log kept for it \
         can fill the server's disk"
    )]
    UnlimitedKeep,
}

impl Finding {
    /// Itself, with what mends it.
    #[must_use]
    pub fn told(&self) -> String {
        format!("{self}; to mend it: {}", self.remedy())
    }

    /// Whether work can go on nevertheless.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        matches!(self, Finding::UnlimitedKeep | Finding::IdleTimeout(_))
    }

    /// Whether it is about the rows of a single table.
    #[must_use]
    pub fn is_about_table(&self) -> bool {
        matches!(
            self,
            Finding::NoIdentity { .. }
                | Finding::GeneratedIdentity { .. }
                | Finding::UnpublishedIdentity { .. }
        )
    }

    /// What mends it: a statement wherever there is one.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Finding::ServerTooOld(_) => "upgrade the server to PostgreSQL 14 or later".to_owned(),
            Finding::WalLevel(_) => {
                "ALTER SYSTEM SET wal_level = 'logical'; then restart the server".to_owned()
            }
            Finding::SqlAscii => "move the data to a database with ENCODING 'UTF8'".to_owned(),
            Finding::RoleLacksReplication(role) => {
                format!("ALTER ROLE {} REPLICATION;", identifier(role))
            }
            Finding::PublicationMissing(name) => {
                format!("CREATE PUBLICATION {} FOR ALL TABLES; or FOR TABLE …", identifier(name))
            }
            Finding::NoIdentity { table, .. } => {
                format!("add a primary key, or: ALTER TABLE {table} REPLICA IDENTITY FULL;")
            }
            Finding::GeneratedIdentity { publication: Some(publication), .. }
            | Finding::UnpublishedIdentity { stored: true, publication, .. } => format!(
                "ALTER PUBLICATION {} SET (publish_generated_columns = stored);",
                identifier(publication)
            ),
            Finding::GeneratedIdentity { table, .. } => {
                format!("ALTER TABLE {table} REPLICA IDENTITY FULL;")
            }
            Finding::UnpublishedIdentity { table, .. } => {
                format!("add a primary key, and: ALTER TABLE {table} REPLICA IDENTITY DEFAULT;")
            }
            Finding::NoFailover(_) => "set source.failover = false, or upgrade".to_owned(),
            Finding::IdleTimeout(_) => {
                "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();"
                    .to_owned()
            }
            Finding::NoFreeSlot(n) => format!(
                "drop a slot that nobody needs, or: ALTER SYSTEM SET max_replication_slots = {}; \
                 then restart the server",
                n + 10
            ),
            Finding::NoFreeSender(n) => {
                format!("ALTER SYSTEM SET max_wal_senders = {}; then restart the server", n + 10)
            }
            Finding::SlotPlugin { .. } | Finding::SlotDatabase { .. } => {
                "choose another source.slot".to_owned()
            }
            Finding::SlotLost(slot) => {
                format!("SELECT pg_drop_replication_slot('{slot}'); then begin a new bootstrap")
            }
            Finding::SlotActive { pid, .. } => {
                format!("stop its reader, or: SELECT pg_terminate_backend({pid});")
            }
            Finding::UnlimitedKeep => {
                "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();"
                    .to_owned()
            }
        }
    }
}

/// All findings about a server, as seen by `client`, for a slot and its publications.
/// An existing slot is judged too; its absence is no finding.
///
/// # Errors
/// A query failed.
pub async fn preflight(
    client: &Client,
    slot: &SlotName,
    publications: &[String],
) -> Result<Vec<Finding>, SourceError> {
    let mut findings = server(client).await?;
    if findings.iter().any(|f| matches!(f, Finding::ServerTooOld(_))) {
        // The other queries are made for versions that serve.
        return Ok(findings);
    }
    findings.extend(role(client).await?);
    findings.extend(missing_publications(client, publications).await?);
    findings.extend(identities(client, publications).await?);
    let status = slot_status(client, slot).await?;
    let database: String = one(client, "SELECT current_database()::text", &[]).await?;
    match &status {
        Some(status) => findings.extend(judge_slot(slot, status, &database)),
        None => findings.extend(free_slot(client).await?),
    }
    findings.extend(free_sender(client).await?);
    Ok(findings)
}

async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(
    client: &Client,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<T, SourceError> {
    let failed = |e: tokio_postgres::Error| SourceError::sql("a preflight check", &e);
    client.query_one(sql, params).await.map_err(failed)?.try_get(0).map_err(failed)
}

/// Version, `wal_level`, encoding, and the limit on kept log.
///
/// # Errors
/// A query failed.
pub async fn server(client: &Client) -> Result<Vec<Finding>, SourceError> {
    let mut findings = Vec::new();
    let setting = "SELECT pg_catalog.current_setting($1::text)";
    let number: String = one(client, setting, &[&"server_version_num"]).await?;
    if number.parse::<u32>().is_ok_and(|n| n < 140_000) {
        let version: String = one(client, setting, &[&"server_version"]).await?;
        return Ok(vec![Finding::ServerTooOld(version)]);
    }
    let level: String = one(client, setting, &[&"wal_level"]).await?;
    if level != "logical" {
        findings.push(Finding::WalLevel(level));
    }
    let encoding: String = one(client, setting, &[&"server_encoding"]).await?;
    if encoding == "SQL_ASCII" {
        findings.push(Finding::SqlAscii);
    }
    let keep: String = one(client, setting, &[&"max_slot_wal_keep_size"]).await?;
    if keep == "-1" {
        findings.push(Finding::UnlimitedKeep);
    }
    // Versions before 18 do not know it.
    let idle = "SELECT pg_catalog.current_setting('idle_replication_slot_timeout', true)";
    let idle: Option<String> = one(client, idle, &[]).await?;
    if let Some(idle) = idle.filter(|idle| idle != "0") {
        findings.push(Finding::IdleTimeout(idle));
    }
    Ok(findings)
}

/// Whether a standby can keep a copy of a slot.
///
/// # Errors
/// A query failed.
pub async fn failover(client: &Client) -> Result<Option<Finding>, SourceError> {
    let sql = "SELECT pg_catalog.current_setting('server_version')
               WHERE pg_catalog.current_setting('server_version_num')::int4 < 170000";
    let row = client.query_opt(sql, &[]).await;
    let row = row.map_err(|e| SourceError::sql("a preflight check", &e))?;
    Ok(row.map(|row| Finding::NoFailover(row.get(0))))
}

/// Whether the connected role may stream. On Amazon RDS membership in `rds_replication`
/// stands for the attribute, which nobody has there.
///
/// # Errors
/// The query failed.
pub async fn role(client: &Client) -> Result<Option<Finding>, SourceError> {
    let sql = "SELECT rolsuper OR rolreplication OR coalesce((SELECT
                   pg_catalog.pg_has_role(r.oid, m.oid, 'member')
                   FROM pg_catalog.pg_roles m WHERE m.rolname = 'rds_replication'), false)
               FROM pg_catalog.pg_roles r WHERE rolname = current_user";
    if one(client, sql, &[]).await? {
        return Ok(None);
    }
    let role = one(client, "SELECT current_user::text", &[]).await?;
    Ok(Some(Finding::RoleLacksReplication(role)))
}

/// Publications that do not exist.
///
/// # Errors
/// The query failed.
pub async fn missing_publications(
    client: &Client,
    publications: &[String],
) -> Result<Vec<Finding>, SourceError> {
    let sql = "SELECT array_agg(pubname::text) FROM pg_catalog.pg_publication";
    let found: Option<Vec<String>> = one(client, sql, &[]).await?;
    let found = found.unwrap_or_default();
    let missing = publications.iter().filter(|name| !found.contains(name));
    Ok(missing.map(|name| Finding::PublicationMissing(name.clone())).collect())
}

/// Published tables (the leaves of partitioned ones) that publish updates or deletes,
/// whether an index identifies them, what of it is generated and not published, and from
/// 18 on, which can publish generated columns, what is so in a whole row.
const IDENTITIES: &str = "
SELECT format('%I.%I', n.nspname, c.relname), p.pubname::text, c.relreplident::text,
       i.indexrelid IS NOT NULL,
       (SELECT min(a.attname::text) FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attname = ANY (p.carried)
           AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])),
       g.attname::text, coalesce(g.attgenerated = 's', false)
  FROM (SELECT DISTINCT ON (leaf.relid) leaf.relid, pub.pubname, {carried} AS carried
          FROM pg_catalog.pg_publication pub
          JOIN LATERAL pg_catalog.pg_get_publication_tables(pub.pubname::text) t ON true
          JOIN LATERAL (SELECT t.relid WHERE NOT EXISTS (
                             SELECT FROM pg_catalog.pg_partition_tree(t.relid))
                        UNION ALL
                        SELECT tree.relid FROM pg_catalog.pg_partition_tree(t.relid) tree
                         WHERE tree.isleaf) leaf (relid) ON true
         WHERE pub.pubname = ANY ($1::text[]) AND (pub.pubupdate OR pub.pubdelete)
         ORDER BY leaf.relid, pub.pubname) p
  JOIN pg_catalog.pg_class c ON c.oid = p.relid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_index i
         ON i.indrelid = c.oid AND i.indisvalid
        AND CASE c.relreplident WHEN 'd' THEN i.indisprimary
                                WHEN 'i' THEN i.indisreplident ELSE false END
  LEFT JOIN LATERAL (SELECT a.attname, a.attgenerated FROM pg_catalog.pg_attribute a
                      WHERE {whole} AND a.attrelid = c.oid AND a.attnum > 0
                        AND NOT a.attisdropped AND a.attgenerated <> ''
                        AND NOT a.attname = ANY (p.carried)
                      ORDER BY a.attgenerated DESC LIMIT 1) g ON c.relreplident = 'f'
 ORDER BY 1";

/// [`IDENTITIES`] as this version has it.
fn identities_of(version: u32) -> String {
    let (carried, whole) = match version {
        180_000.. => (
            "array(SELECT a.attname FROM pg_catalog.pg_attribute a
                    WHERE a.attrelid = t.relid AND a.attnum = ANY (t.attrs))",
            "true",
        ),
        _ => ("'{}'::pg_catalog.name[]", "false"),
    };
    IDENTITIES.replace("{carried}", carried).replace("{whole}", whole)
}

/// Published tables whose updates and deletes could not be identified.
///
/// # Errors
/// The query failed.
pub async fn identities(
    client: &Client,
    publications: &[String],
) -> Result<Vec<Finding>, SourceError> {
    let setting = "SELECT pg_catalog.current_setting('server_version_num')";
    let version: String = one(client, setting, &[]).await?;
    let version = version.parse().unwrap_or(0);
    let rows = client.query(&identities_of(version), &[&publications]).await;
    let rows = rows.map_err(|e| SourceError::sql("a look at the published tables", &e))?;
    let judge = |row: &tokio_postgres::Row| {
        let (table, publication): (String, String) = (row.get(0), row.get(1));
        let (identity, indexed): (String, bool) = (row.get(2), row.get(3));
        if let Some(column) = row.get::<_, Option<String>>(4) {
            let publication = (version >= 180_000).then_some(publication);
            return Some(Finding::GeneratedIdentity { table, column, publication });
        }
        if let Some(column) = row.get::<_, Option<String>>(5) {
            let stored = row.get(6);
            return Some(Finding::UnpublishedIdentity { table, column, stored, publication });
        }
        let reason = match identity.as_str() {
            "f" => return None,
            _ if indexed => return None,
            "n" => "REPLICA IDENTITY NOTHING",
            "i" => "the index of its REPLICA IDENTITY is gone",
            _ => "no primary key",
        };
        Some(Finding::NoIdentity { table, publication, reason })
    };
    Ok(rows.iter().filter_map(judge).collect())
}

/// Whether a slot can be read by us from `database`.
#[must_use]
pub fn judge_slot(slot: &SlotName, status: &SlotStatus, database: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let slot = slot.as_str().to_owned();
    if status.plugin.as_deref() != Some("pgoutput") {
        let plugin = status.plugin.clone().unwrap_or_else(|| "none (physical)".to_owned());
        findings.push(Finding::SlotPlugin { slot: slot.clone(), plugin });
    }
    if let Some(other) = status.database.as_deref().filter(|other| *other != database) {
        let other = other.to_owned();
        findings.push(Finding::SlotDatabase { slot: slot.clone(), database: other });
    }
    if status.lost().is_some() {
        findings.push(Finding::SlotLost(slot.clone()));
    }
    if let Some(pid) = status.active_pid {
        findings.push(Finding::SlotActive { slot, pid });
    }
    findings
}

/// Whether a slot can be made.
///
/// # Errors
/// The query failed.
pub async fn free_slot(client: &Client) -> Result<Option<Finding>, SourceError> {
    let sql = "SELECT max FROM (SELECT current_setting('max_replication_slots')::int8 AS max) m
               WHERE max <= (SELECT count(*) FROM pg_catalog.pg_replication_slots)";
    Ok(limit(client, sql).await?.map(Finding::NoFreeSlot))
}

/// Whether a stream can be begun.
///
/// # Errors
/// The query failed.
pub async fn free_sender(client: &Client) -> Result<Option<Finding>, SourceError> {
    let sql = "SELECT max FROM (SELECT current_setting('max_wal_senders')::int8 AS max) m
               WHERE max <= (SELECT count(*) FROM pg_catalog.pg_stat_replication)";
    Ok(limit(client, sql).await?.map(Finding::NoFreeSender))
}

async fn limit(client: &Client, sql: &str) -> Result<Option<i64>, SourceError> {
    let row = client.query_opt(sql, &[]).await;
    let row = row.map_err(|e| SourceError::sql("a preflight check", &e))?;
    Ok(row.map(|row| row.get(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_judged_by_all_it_could_be() {
        let good = SlotStatus {
            plugin: Some("pgoutput".into()),
            database: Some("shop".into()),
            temporary: false,
            active_pid: None,
            confirmed_flush: None,
            restart_lsn: None,
            wal_status: Some("reserved".into()),
            retained_bytes: 0,
            catalog_xmin_age: None,
            invalidation_reason: None,
            safe_wal_bytes: None,
            failover: false,
        };
        let slot = SlotName::new("s").unwrap();
        assert_eq!(judge_slot(&slot, &good, "shop"), []);
        let bad = SlotStatus {
            plugin: None,
            database: Some("other".into()),
            active_pid: Some(7),
            wal_status: Some("lost".into()),
            ..good
        };
        assert_eq!(judge_slot(&slot, &bad, "shop").len(), 4);
    }
}
