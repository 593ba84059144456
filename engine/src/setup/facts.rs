//! What there is in the source database. Reads catalogues that everybody may read; what can
//! go wrong is a query.

use std::collections::BTreeMap;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::triggers::FUNCTIONS as NAMES;
use super::{MARK, Spec};
use crate::source::error::SourceError;
use crate::source::preflight::{self, Finding};

/// The role that reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// `pg_authid.oid`; none: there is no such role.
    pub oid: Option<u32>,
    /// It may log in.
    pub login: bool,
    /// It may do anything.
    pub superuser: bool,
    /// It may stream.
    pub replication: bool,
    /// Row security does not bind it.
    pub bypass: bool,
    /// It reads everything, by `pg_read_all_data`.
    pub reads_all: bool,
    /// It may connect to the database.
    pub connect: bool,
    /// It may write the messages that heartbeats and marks are.
    pub messages: bool,
    /// It is the one that asks.
    pub me: bool,
    /// Objects in any database that are its own.
    pub owns: bool,
    /// Setup made it.
    pub marked: bool,
}

/// A table that could be published, or a partition of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// `schema.table`, quoted.
    pub name: String,
    /// As its owner calls it, without quotes.
    pub plain: String,
    /// Its schema.
    pub schema: String,
    /// Its owner.
    pub owner: String,
    /// The table at the top of its partition tree; itself, if it is none.
    pub root: String,
    /// Row security is on.
    pub row_security: bool,
    /// The role may read it.
    pub select: bool,
    /// The role may use its schema.
    pub usage: bool,
    /// The role may read tables that its owner will make in its schema.
    pub future: bool,
    /// It is published.
    pub published: bool,
    /// Why its updates and deletes would fail if it were, and what mends it.
    pub problem: Option<(String, String)>,
}

/// A function of the event triggers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Function {
    /// What it does.
    pub body: String,
    /// It runs with the rights of its owner.
    pub definer: bool,
    /// The settings that it runs with, each `name=value` in a line.
    pub settings: String,
    /// Its owner is a superuser, or made the event trigger that calls it. Anybody else could
    /// change what superusers run without knowing.
    pub trusted: bool,
}

/// Everything that is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The database.
    pub database: String,
    /// Whoever asks is a superuser.
    pub superuser: bool,
    /// What is wrong with the server, or will be.
    pub server: Vec<Finding>,
    /// Replication slots that are free besides the one we need; senders likewise.
    pub spare: (i64, i64),
    /// `synchronized_standby_slots`, from 17 on.
    pub standby_slots: Option<String>,
    /// The role.
    pub role: Role,
    /// Configured publications that exist; whether setup made them.
    pub publications: BTreeMap<String, bool>,
    /// Tables and partitions, by name.
    pub tables: Vec<Table>,
    /// Sequences of published tables that the role may not read.
    pub sequences: Vec<(String, String)>,
    /// Functions of the event triggers.
    pub functions: BTreeMap<String, Function>,
    /// Event triggers that are enabled for every session.
    pub triggers: Vec<String>,
    /// There is a schema `kasho`.
    pub schema: bool,
    /// What is in it besides the functions of the event triggers.
    pub others: Vec<String>,
    /// Every role may write logical messages.
    pub open_messages: bool,
    /// Our slot, and the process that reads it.
    pub slot: Option<Option<i32>>,
}

const ROLE: &str = "
SELECT r.oid, r.rolcanlogin, r.rolsuper,
       r.rolreplication OR coalesce((SELECT pg_has_role(r.oid, m.oid, 'member')
          FROM pg_roles m WHERE m.rolname = 'rds_replication'), false),
       r.rolbypassrls, pg_has_role(r.oid, 'pg_read_all_data', 'usage'),
       has_database_privilege(r.oid, current_database(), 'connect'),
       (SELECT bool_and(has_function_privilege(r.oid, p.oid, 'execute')) FROM pg_proc p
         WHERE p.proname = 'pg_logical_emit_message' AND p.pronamespace = 'pg_catalog'::regnamespace),
       r.rolname = current_user,
       EXISTS (SELECT FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass
                AND d.refobjid = r.oid AND d.deptype = 'o'),
       shobj_description(r.oid, 'pg_authid') = $2
  FROM pg_roles r WHERE r.rolname = $1";

/// `$1` the role's oid or NULL, `$2` the publications. Names are the catalogue's own.
const TABLES: &str = "
WITH published AS (
     SELECT t.relid FROM pg_publication p, pg_get_publication_tables(p.pubname::text) t
      WHERE p.pubname = ANY ($2::text[])),
whole AS (
     SELECT c.oid AS root, coalesce(tree.relid::oid, c.oid) AS oid
       FROM pg_class c
       LEFT JOIN LATERAL pg_partition_tree(c.oid) tree ON c.relkind = 'p'
      WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p')
SELECT format('%I.%I', n.nspname, c.relname), n.nspname || '.' || c.relname, n.nspname::text,
       pg_get_userbyid(c.relowner)::text, format('%I.%I', rn.nspname, r.relname),
       c.relrowsecurity, coalesce(has_table_privilege($1::oid, c.oid, 'select'), false),
       coalesce(has_schema_privilege($1::oid, n.oid, 'usage'), false),
       EXISTS (SELECT FROM pg_default_acl d, aclexplode(d.defaclacl) a
                WHERE d.defaclrole = c.relowner AND d.defaclnamespace IN (n.oid, 0)
                  AND d.defaclobjtype = 'r' AND a.grantee = $1::oid AND a.privilege_type = 'SELECT'),
       EXISTS (SELECT FROM published WHERE relid = c.oid),
       CASE WHEN c.relkind = 'p' OR c.relreplident = 'f' THEN NULL
            WHEN c.relreplident = 'n' THEN 'REPLICA IDENTITY NOTHING'
            WHEN i.indexrelid IS NULL AND c.relreplident = 'i'
                 THEN 'the index of its REPLICA IDENTITY is gone'
            WHEN i.indexrelid IS NULL AND EXISTS (SELECT FROM pg_index k
                 WHERE k.indrelid = c.oid AND k.indisprimary) THEN 'its primary key is deferrable'
            WHEN i.indexrelid IS NULL THEN 'no primary key'
            WHEN g.attname IS NOT NULL THEN format('its key has the generated column %I', g.attname)
       END
  FROM whole w
  JOIN pg_class c ON c.oid = w.oid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class r ON r.oid = w.root JOIN pg_namespace rn ON rn.oid = r.relnamespace
  LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
        AND CASE c.relreplident WHEN 'd' THEN i.indisprimary
                                WHEN 'i' THEN i.indisreplident ELSE false END
  LEFT JOIN LATERAL (SELECT a.attname FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attgenerated <> ''
          AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]) LIMIT 1) g ON true
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'kasho')
   AND n.nspname NOT LIKE 'pg\\_%' AND c.relkind IN ('r', 'p')
 ORDER BY rn.nspname, r.relname, n.nspname, c.relname";

const SEQUENCES: &str = "
SELECT DISTINCT format('%I.%I', n.nspname, s.relname), format('%I.%I', tn.nspname, t.relname)
  FROM pg_depend d
  JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_namespace n ON n.oid = s.relnamespace
  JOIN pg_class t ON t.oid = d.refobjid JOIN pg_namespace tn ON tn.oid = t.relnamespace
 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
   AND d.deptype IN ('a', 'i') AND t.relkind IN ('r', 'p') AND t.relpersistence = 'p'
   AND NOT CASE WHEN s.relkind = 'S'
                THEN coalesce(has_sequence_privilege($1::oid, s.oid, 'select'), false) END
 ORDER BY 1";

const SERVER: &str = "
SELECT current_database()::text, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
       current_setting('max_replication_slots')::int8
         - (SELECT count(*) FROM pg_replication_slots WHERE slot_name <> $1),
       current_setting('max_wal_senders')::int8 - (SELECT count(*) FROM pg_stat_replication
         WHERE pid IS DISTINCT FROM (SELECT active_pid FROM pg_replication_slots
                                      WHERE slot_name = $1)),
       current_setting('synchronized_standby_slots', true),
       EXISTS (SELECT FROM pg_namespace WHERE nspname = 'kasho'),
       EXISTS (SELECT FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                WHERE p.proname = 'pg_logical_emit_message' AND a.grantee = 0)";

const FUNCTIONS: &str = "
SELECT p.proname::text, p.prosrc, p.prosecdef,
       coalesce(array_to_string(p.proconfig, chr(10)), ''),
       r.rolsuper OR EXISTS (SELECT FROM pg_event_trigger e
                              WHERE e.evtfoid = p.oid AND e.evtowner = p.proowner)
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'kasho'
  JOIN pg_roles r ON r.oid = p.proowner
 WHERE p.pronargs = 0";

const OTHERS: &str = "
SELECT pg_describe_object(d.classid, d.objid, 0)
  FROM pg_depend d JOIN pg_namespace n ON n.oid = d.refobjid AND n.nspname = 'kasho'
  LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid AND p.pronargs = 0
 WHERE d.refclassid = 'pg_namespace'::regclass AND (p.proname::text = ANY ($1)) IS NOT TRUE
 ORDER BY 1";

/// Looks at everything that setup and teardown are about.
///
/// # Errors
/// A query failed.
pub async fn look(client: &Client, spec: &Spec) -> Result<Facts, SourceError> {
    let server = preflight::server(client).await?;
    if server.iter().any(|finding| matches!(finding, Finding::ServerTooOld(_))) {
        // The other queries are made for versions that serve.
        return Ok(Facts { server, ..Facts::default() });
    }
    let facts = query(client, SERVER, &[&spec.slot]).await?;
    let first = facts.first();
    let role =
        query(client, ROLE, &[&spec.role, &MARK]).await?.first().map(role).unwrap_or_default();
    let tables = query(client, TABLES, &[&role.oid, &spec.publications]).await?;
    let sequences = query(client, SEQUENCES, &[&role.oid]).await?;
    let publications = "SELECT pubname::text,
                               coalesce(obj_description(oid, 'pg_publication') = $2, false)
                          FROM pg_publication WHERE pubname = ANY ($1::text[])";
    let publications = query(client, publications, &[&spec.publications, &MARK]).await?;
    let triggers = "SELECT evtname::text FROM pg_event_trigger WHERE evtenabled = 'A'";
    let slot = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
    Ok(Facts {
        database: first.map(|row| row.get(0)).unwrap_or_default(),
        superuser: first.and_then(|row| row.get(1)).unwrap_or_default(),
        spare: first.map(|row| (row.get(2), row.get(3))).unwrap_or_default(),
        standby_slots: first.and_then(|row| row.get(4)),
        schema: first.is_some_and(|row| row.get(5)),
        open_messages: first.is_some_and(|row| row.get(6)),
        server,
        others: query(client, OTHERS, &[&NAMES.as_slice()])
            .await?
            .iter()
            .map(|row| row.get(0))
            .collect(),
        role,
        publications: publications.iter().map(|row| (row.get(0), row.get(1))).collect(),
        tables: tables.iter().map(table).collect(),
        sequences: sequences.iter().map(|row| (row.get(0), row.get(1))).collect(),
        functions: query(client, FUNCTIONS, &[]).await?.iter().map(function).collect(),
        triggers: query(client, triggers, &[]).await?.iter().map(|row| row.get(0)).collect(),
        slot: query(client, slot, &[&spec.slot]).await?.first().map(|row| row.get(0)),
    })
}

async fn query(
    client: &Client,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, SourceError> {
    let found = client.query(sql, params).await;
    found.map_err(|e| SourceError::sql("a look at what is set up", &e))
}

fn function(row: &Row) -> (String, Function) {
    let found = Function {
        body: row.get(1),
        definer: row.get(2),
        settings: row.get(3),
        trusted: row.get(4),
    };
    (row.get(0), found)
}

fn role(row: &Row) -> Role {
    let is = |column: usize| row.get::<_, Option<bool>>(column).unwrap_or_default();
    Role {
        oid: row.get(0),
        login: is(1),
        superuser: is(2),
        replication: is(3),
        bypass: is(4),
        reads_all: is(5),
        connect: is(6),
        messages: is(7),
        me: is(8),
        owns: is(9),
        marked: is(10),
    }
}

fn table(row: &Row) -> Table {
    let name: String = row.get(0);
    let problem: Option<String> = row.get(10);
    let mended = |problem: String| {
        let generated = problem.contains("generated");
        let full = format!("ALTER TABLE {name} REPLICA IDENTITY FULL;");
        let key = if generated { full } else { format!("add a primary key, or: {full}") };
        (problem, key)
    };
    Table {
        problem: problem.map(mended),
        name: name.clone(),
        plain: row.get(1),
        schema: row.get(2),
        owner: row.get(3),
        root: row.get(4),
        row_security: row.get(5),
        select: row.get(6),
        usage: row.get(7),
        future: row.get(8),
        published: row.get(9),
    }
}
