//! How far the target is, in the target: `kasho.applied`, changed in the same transaction
//! as the rows, by compare-and-set. That is what makes every row applied exactly once, and
//! it is the fence too: an applier that was thought dead finds another writer's token there
//! and can commit nothing.
//!
//! What can go wrong: the role may not make the table; the set finds something else than it
//! compares with ([`FENCED`]).

use std::collections::BTreeMap;

use kasho_plugin_sdk::event::quote_identifier;
use tokio_postgres::Client;

use super::change::Value;
use super::error::ApplyError;
use crate::position::{Epoch, EpochPosition, Position};
use crate::sink::runs::Runs;

/// The SQLSTATE by which a compare-and-set says no: it divides by the rows it changed, so
/// that the COMMIT sent right behind it is a rollback.
pub(super) const FENCED: &str = "22012";

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS kasho.applied (
    consumer text NOT NULL,
    relation text NOT NULL,
    stream text NOT NULL,
    epoch bigint NOT NULL,
    position text NOT NULL,
    writer text NOT NULL,
    system text NOT NULL DEFAULT '',
    run text NOT NULL DEFAULT '',
    born text NOT NULL DEFAULT '',
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, relation));
COMMENT ON TABLE kasho.applied IS 'How far each applier of Kasho is; an empty relation is the applier as a whole';";

/// Columns that the first version of the table had not, …
const ADDED: i64 = 2;
/// … and what adds them.
const ADD: &str = "
ALTER TABLE kasho.applied
    ADD COLUMN IF NOT EXISTS run text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS born text NOT NULL DEFAULT ''";

/// Compares and moves the applier's own row: consumer, writer, old epoch, old position, new
/// epoch, new position, stream, system, run, born.
pub(super) const MOVE: &str = "
WITH moved AS (
    UPDATE kasho.applied SET epoch = $5::int8, position = $6::text, stream = $7::text, system = $8::text, run = $9::text, born = $10::text, applied_at = now()
    WHERE consumer = $1::text AND relation = '' AND writer = $2::text AND epoch = $3::int8 AND position = $4::text
    RETURNING 1)
SELECT 1 / count(*) FROM moved";

/// Compares and moves a table's row, or makes it: consumer, writer, relation, epoch, position,
/// old epoch, old position, run. Holds the applier's own row, so that nobody takes over meanwhile.
pub(super) const MOVE_TABLE: &str = "
WITH fence AS (
    SELECT 1 FROM kasho.applied WHERE consumer = $1::text AND relation = '' AND writer = $2::text
    FOR KEY SHARE),
moved AS (
    INSERT INTO kasho.applied AS a (consumer, writer, relation, epoch, position, stream, run)
    SELECT $1::text, $2::text, $3::text, $4::int8, $5::text, 'bootstrap', $8::text FROM fence
    ON CONFLICT (consumer, relation) DO UPDATE
    SET writer = excluded.writer, epoch = excluded.epoch, position = excluded.position, run = excluded.run, applied_at = now()
    WHERE a.epoch = $6::int8 AND a.position = $7::text
    RETURNING 1)
SELECT 1 / count(*) FROM moved";

/// Where a table is that no load and no row has made yet. No load comes that far.
pub(super) const UNMADE: Position = Position::Bootstrap(u64::MAX);
/// Where a table is that rows have made, which are committed in part, and of which no schema
/// change has told yet.
pub(super) const PROVISIONAL: Position = Position::Bootstrap(NOWHERE);
/// From here on it is no entry of a load.
const NOWHERE: u64 = u64::MAX - 1;

/// Where a table, or the applier as a whole, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) epoch: Epoch,
    pub(super) position: Position,
}

impl At {
    /// As it is told.
    pub(super) fn told(self) -> EpochPosition {
        EpochPosition { epoch: Some(self.epoch), position: self.position }
    }

    /// Who wrote the entry of the load that this is.
    pub(super) fn run(self, runs: &Runs) -> &str {
        match self.position {
            Position::Bootstrap(n) if n < NOWHERE => runs.of(n),
            _ => "",
        }
    }
}

/// What was found when the writer's token was put in place.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// Under which name.
    pub(super) consumer: String,
    /// This writer's token.
    pub(super) writer: String,
    /// The applier as a whole; epoch 0 if it never was one.
    pub(super) main: At,
    /// `IDENTIFY_SYSTEM`'s systemid of what it was applied from.
    pub(super) system: String,
    /// The token of the epoch; empty if that is not known.
    pub(super) born: String,
    /// The tables it has filled.
    pub(super) tables: BTreeMap<String, At>,
    /// Entries of the load that it has, and who wrote each.
    pub(super) loaded: Vec<(At, String)>,
}

/// Makes the table, unless it is there.
///
/// # Errors
/// The role may not.
pub(super) async fn prepare(client: &Client, role: &str) -> Result<(), ApplyError> {
    let (doing, named) = ("looking for kasho.applied", quote_identifier(role));
    let sql = "SELECT count(a.attname) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
               ON n.oid = c.relnamespace LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
               AND NOT a.attisdropped AND a.attname IN ('run', 'born') \
               WHERE n.nspname = 'kasho' AND c.relname = 'applied' GROUP BY c.oid";
    let row = client.query_opt(sql, &[]).await.map_err(|e| ApplyError::sql(doing, &e))?;
    if row.is_some() {
        may_use(client, role).await?;
    }
    match row.map(|row| row.get::<_, i64>(0)) {
        Some(ADDED) => return Ok(()),
        Some(_) => return add_columns(client, role).await,
        None => {}
    }
    let (mut made, mut mend) = (client.batch_execute(TABLE).await, "ALTER SCHEMA kasho OWNER TO");
    // Only where it is missing: to say IF NOT EXISTS takes the right to make one.
    if made.as_ref().is_err_and(|e| e.code().is_some_and(|code| code.code() == "3F000")) {
        made = client.batch_execute(&format!("CREATE SCHEMA kasho; {TABLE}")).await;
        mend = "CREATE SCHEMA kasho AUTHORIZATION";
    }
    match made {
        Ok(()) => Ok(()),
        Err(error) if error.code().is_some_and(|code| code.code() == "42501") => {
            Err(ApplyError::Refused(format!(
                "role {role:?} of the target may not make the schema kasho, in which progress \
                 stands, or a table in it: {mend} {named}; then start again"
            )))
        }
        // Another one was quicker.
        Err(error)
            if error.code().is_some_and(|c| ["42P06", "42P07", "23505"].contains(&c.code())) =>
        {
            Ok(())
        }
        Err(error) => Err(ApplyError::sql("making kasho.applied", &error)),
    }
}

/// Another role may have made the table.
async fn may_use(client: &Client, role: &str) -> Result<(), ApplyError> {
    let sql = "SELECT pg_catalog.has_schema_privilege(relnamespace, 'USAGE') AND \
                      pg_catalog.has_table_privilege(c.oid, 'SELECT') AND \
                      pg_catalog.has_table_privilege(c.oid, 'INSERT') AND \
                      pg_catalog.has_table_privilege(c.oid, 'UPDATE') AND \
                      pg_catalog.has_table_privilege(c.oid, 'DELETE') \
               FROM pg_catalog.pg_class c WHERE relname = 'applied' AND relnamespace = ( \
                   SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'kasho')";
    let row = client.query_one(sql, &[]).await;
    let row = row.map_err(|e| ApplyError::sql("looking at the rights to kasho.applied", &e))?;
    if row.get(0) {
        return Ok(());
    }
    let named = quote_identifier(role);
    Err(ApplyError::Refused(format!(
        "progress stands in kasho.applied of the target, which role {role:?} may not use: ALTER SCHEMA \
         kasho OWNER TO {named}; ALTER TABLE kasho.applied OWNER TO {named}; then start again"
    )))
}

/// Makes a table fit that an earlier version has made.
async fn add_columns(client: &Client, role: &str) -> Result<(), ApplyError> {
    match client.batch_execute(ADD).await {
        Ok(()) => Ok(()),
        Err(error) if error.code().is_some_and(|code| code.code() == "42501") => {
            Err(ApplyError::Refused(format!(
                "kasho.applied of the target was made by an earlier version and lacks a column, \
                 which role {role:?} may not add: ALTER TABLE kasho.applied OWNER TO {}; then \
                 start again",
                quote_identifier(role)
            )))
        }
        Err(error) => Err(ApplyError::sql("adding to kasho.applied", &error)),
    }
}

/// Puts this writer's token in place: from now on no other can commit. Waits for commits
/// that are under way.
///
/// # Errors
/// The server's; a row that nobody of us wrote.
pub(super) async fn take_over(
    client: &mut Client,
    consumer: &str,
    writer: &str,
) -> Result<Progress, ApplyError> {
    let doing = "taking over in kasho.applied";
    let failed = |e: tokio_postgres::Error| ApplyError::sql(doing, &e);
    let transaction = client.transaction().await.map_err(failed)?;
    let own = "INSERT INTO kasho.applied (consumer, relation, stream, epoch, position, writer) \
               VALUES ($1, '', 'bootstrap', 0, 'bootstrap:0', $2) ON CONFLICT DO NOTHING";
    transaction.execute(own, &[&consumer, &writer]).await.map_err(failed)?;
    let lock = "SELECT FROM kasho.applied WHERE consumer = $1 AND relation = '' FOR UPDATE";
    transaction.execute(lock, &[&consumer]).await.map_err(failed)?;
    let mark = "UPDATE kasho.applied SET writer = $2 WHERE consumer = $1";
    transaction.execute(mark, &[&consumer, &writer]).await.map_err(failed)?;
    let look = "SELECT relation, epoch, position, system, run, born FROM kasho.applied WHERE consumer = $1";
    let rows = transaction.query(look, &[&consumer]).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    let mut found = Progress {
        consumer: consumer.to_owned(),
        writer: writer.to_owned(),
        main: At { epoch: Epoch(0), position: Position::START },
        system: String::new(),
        born: String::new(),
        tables: BTreeMap::new(),
        loaded: Vec::new(),
    };
    for row in rows {
        let relation: String = row.get(0);
        let position: String = row.get(2);
        let epoch = Epoch(u64::try_from(row.get::<_, i64>(1)).unwrap_or(0));
        let position = position.parse().map_err(|_| {
            ApplyError::Refused(format!(
                "kasho.applied of the target holds no position for {relation:?}: it was changed \
                 by something else"
            ))
        })?;
        let at = At { epoch, position };
        found.loaded.push((at, row.get(4)));
        match relation.is_empty() {
            true => (found.main, found.system, found.born) = (at, row.get(3), row.get(5)),
            false => drop(found.tables.insert(relation, at)),
        }
    }
    Ok(found)
}

/// The token that stands there now.
///
/// # Errors
/// The server's.
pub(super) async fn owner(client: &Client, consumer: &str) -> Result<Option<String>, ApplyError> {
    let sql = "SELECT writer FROM kasho.applied WHERE consumer = $1 AND relation = ''";
    let row = client.query_opt(sql, &[&consumer]).await;
    let row = row.map_err(|e| ApplyError::sql("reading kasho.applied", &e))?;
    Ok(row.map(|row| row.get(0)))
}

impl Progress {
    /// Tables of which a part was committed, and no schema change has told yet.
    pub(super) fn provisional(&self) -> Vec<String> {
        let then = At { epoch: self.main.epoch, position: PROVISIONAL };
        let all = self.tables.iter().filter(|(_, at)| **at == then);
        all.map(|(name, _)| name.clone()).collect()
    }

    /// Whether the rows that it has of the load of `epoch` are those that Redis holds under the
    /// same numbers, of which there are `loaded`.
    ///
    /// # Errors
    /// Redis has lost some since, and other rows stand there or will.
    pub(super) fn is_of(&self, epoch: Epoch, runs: &Runs, loaded: u64) -> Result<(), ApplyError> {
        for (at, run) in self.loaded.iter().filter(|(at, _)| at.epoch == epoch) {
            match at.position {
                Position::Bootstrap(n) if n < NOWHERE && !runs.keeps(n, run, loaded) => {
                    return Err(ApplyError::Refused(format!(
                        "Redis has lost its latest data since the target took {} of the load: \
                         other rows have come, or will, under the numbers after that. Load \
                         again: kasho reset, then kasho bootstrap, which empties these tables",
                        at.told()
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether an error is a compare-and-set's no.
pub(super) fn is_fenced(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code() == FENCED)
}

/// An epoch as the table stores it.
pub(super) fn number(epoch: Epoch) -> i64 {
    i64::try_from(epoch.0).unwrap_or(i64::MAX)
}

/// The parameters of [`MOVE_TABLE`].
pub(super) fn table_params(
    progress: &Progress,
    name: &str,
    was: Option<At>,
    (to, run): (At, &str),
) -> Vec<Value> {
    let was_epoch = was.map_or(0, |was| number(was.epoch));
    let was_position = was.map_or(String::new(), |was| was.position.to_string());
    let params = [
        progress.consumer.clone(),
        progress.writer.clone(),
        name.to_owned(),
        number(to.epoch).to_string(),
        to.position.to_string(),
        was_epoch.to_string(),
        was_position,
        run.to_owned(),
    ];
    params.into_iter().map(|text| Some(text.into())).collect()
}
