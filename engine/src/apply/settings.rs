//! Settings of the source's session, under which a schema change means what it meant there:
//! `'1/2/2024'` is a date of January or of February, and what a timestamp with time zone is as
//! one without depends on where the session was.
//!
//! What can go wrong: a value that the target does not know (a time zone); then the change is
//! not made.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Error};

/// Sets what is not so yet, until the end of the transaction; answers what it was.
const SET: &str = "SELECT s.name, pg_catalog.current_setting(s.name), \
    pg_catalog.set_config(s.name, s.value, true) FROM unnest($1::text[], $2::text[]) AS s(name, value) \
    WHERE pg_catalog.current_setting(s.name) IS DISTINCT FROM s.value";

/// Sets these for the rest of the transaction; answers with what has to be set for it to be as
/// it was.
///
/// # Errors
/// The server's.
pub(super) async fn set(
    client: &Client,
    settings: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Error> {
    let (names, values): (Vec<&str>, Vec<&str>) =
        settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).unzip();
    let rows = client.query(SET, &[&names, &values]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
