//! Sessions of the target: the pinned settings, no waiting for its disk, no triggers where
//! that may be had.
//!
//! What can go wrong: a target that is too old or a standby, a role that may not be a
//! replica's ([`Triggers::Deferred`], under which tables with triggers are refused).

use tokio_postgres::Client;

use super::error::ApplyError;
use crate::source::conninfo::{Conninfo, PATIENT, sql_connect_with};

/// The oldest server that can be applied to.
const OLDEST: u32 = 140_000;
/// Names are qualified, as for logical replication's own worker. Nothing is hidden by row
/// level security without a word. What triggers say in words is row data. A plan serves for all values, also when the table has grown: rows are found by an index. Who has gone without a word
/// does not keep the lock for hours, nor rows locked.
const SETTINGS: [(&str, &str); 13] = [
    ("synchronous_commit", "off"),
    ("search_path", ""),
    ("row_security", "off"),
    ("client_min_messages", "error"),
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
    ("idle_in_transaction_session_timeout", "300000"),
];
/// As `application_name`.
pub(super) const NAME: &str = "kasho apply";

/// Whether the target's own triggers and foreign keys act on what is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Triggers {
    /// `session_replication_role = replica`: none but those that ask for it.
    Off,
    /// The role may not: constraints wait for the commit, and tables with more are refused.
    Deferred,
}

/// How a session is, beside what it can do.
#[derive(Clone, Debug)]
pub(super) struct Traits {
    pub(super) triggers: Triggers,
    pub(super) role: String,
    pub(super) version: u32,
}

/// A session of the target. What it commits is not waited for: what is acknowledged is
/// made sure of elsewhere.
///
/// # Errors
/// None can be had; the server cannot be written to.
pub(super) async fn connect(info: &Conninfo) -> Result<(Client, Traits), ApplyError> {
    let settings: Vec<(&str, &str)> = PATIENT.into_iter().chain(SETTINGS).collect();
    let client = sql_connect_with(info, NAME, &settings).await?;
    let doing = "looking at the server";
    let sql = "SELECT current_setting('server_version_num')::int4, pg_is_in_recovery(), current_user::text";
    let row = client.query_one(sql, &[]).await.map_err(|e| ApplyError::sql(doing, &e))?;
    let read = |e: tokio_postgres::Error| ApplyError::sql(doing, &e);
    let version = u32::try_from(row.try_get::<_, i32>(0).map_err(read)?).unwrap_or(0);
    let role: String = row.try_get(2).map_err(read)?;
    if version < OLDEST {
        return Err(ApplyError::Refused(format!(
            "the target is PostgreSQL {}: 14 and later can be applied to",
            version / 10_000
        )));
    }
    if row.try_get::<_, bool>(1).map_err(read)? {
        return Err(ApplyError::Refused(
            "the target is a standby, which takes no writes: name its primary in apply.target \
             (several hosts with target_session_attrs=read-write follow a fail-over)"
                .to_owned(),
        ));
    }
    // Who has gone ends what waits here for a lock. Where the server's system cannot tell, the
    // lock does.
    let _ = client.batch_execute("SET client_connection_check_interval = '2s'").await;
    let triggers = match client.batch_execute("SET session_replication_role = replica").await {
        Ok(()) => Triggers::Off,
        Err(error) if error.code().is_some_and(|code| code.code() == "42501") => Triggers::Deferred,
        Err(error) => return Err(ApplyError::sql("SET session_replication_role", &error)),
    };
    Ok((client, Traits { triggers, role, version }))
}

/// How to let a role be a replica's.
pub(super) fn remedy(traits: &Traits) -> String {
    use kasho_plugin_sdk::event::quote_identifier;
    let role = quote_identifier(&traits.role);
    match traits.version >= 150_000 {
        true => format!("GRANT SET ON PARAMETER session_replication_role TO {role}"),
        false => format!("ALTER ROLE {role} SUPERUSER (PostgreSQL 15 has a GRANT for it)"),
    }
}
