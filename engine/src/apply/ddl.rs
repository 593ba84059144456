//! Schema changes, made in the target in the source's transaction, as far as the policy
//! (`apply.ddl`) goes.
//!
//! What can go wrong: a change of which no text was sent, or which the target refuses: a
//! person makes it, and says so (`kasho apply --ddl-done POSITION`). What the target has
//! already, or of what it has nothing, is told and passed over: whoever looks after it may
//! have been quicker, and need not have every table.

use std::sync::atomic::Ordering::Relaxed;

use kasho_plugin_sdk::event::quote_identifier;

use super::config::Ddl;
use super::error::{ApplyError, meaning};
use super::progress::{At, PROVISIONAL, UNMADE};
use super::settings;
use super::stream::Applier;
use super::table::look;
use crate::batch::{DdlDetail, DdlObject};
use crate::ddl::{Kind, Scanned, kind, scan_under, standard_strings};
use crate::error::Class;
use crate::position::EpochPosition;
use crate::quote::{identifier, literal};
use crate::sink::entry::Field;

/// What it is about exists already: of a table, a column, a schema, anything else.
const THERE: [&str; 5] = ["42P07", "42701", "42P06", "42710", "42723"];
/// It is of something that does not exist: a table, a schema, a type, a function.
const ABSENT: [&str; 4] = ["42P01", "3F000", "42704", "42883"];

/// A schema change as its entry tells of it.
pub(super) struct Told {
    pub(super) tag: String,
    pub(super) identity: String,
    pub(super) text: Option<String>,
    pub(super) detail: DdlDetail,
}

impl Told {
    /// From the row of `kasho.ddl` and what stands beside it.
    pub(super) fn new(columns: &[String], new: &[Field], detail: DdlDetail) -> Told {
        let of = |name: &str| {
            let at = columns.iter().position(|column| column == name);
            match at.and_then(|at| new.get(at)) {
                Some(Field::Text(text)) => Some(text.to_string()),
                _ => None,
            }
        };
        let named = |name: &str| of(name).unwrap_or_default();
        Told { tag: named("tag"), identity: named("identity"), text: of("text"), detail }
    }

    /// Of values that the target makes by itself, which need not be the source's.
    fn warn(&self, at: EpochPosition) {
        for table in &self.detail.recomputed {
            tracing::warn!(
                position = %at, table,
                "the change computes values of its own in the target: load the table again (kasho \
                 bootstrap --table)"
            );
        }
    }
}

/// What is done about it.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// Nothing.
    Leave,
    /// A table was made of a query's rows: they are what makes it here.
    Made,
    /// This statement is run.
    Run(String),
    /// A person has to make it.
    ByHand(&'static str),
}

fn decide(policy: Ddl, told: &Told) -> Decision {
    let view = told.tag.ends_with("VIEW");
    match (policy, kind(&told.tag)) {
        (Ddl::None, _) | (_, Kind::Local | Kind::Remark) => Decision::Leave,
        _ if told.detail.done => Decision::Leave,
        (_, Kind::Query) => Decision::Made,
        (Ddl::Tables, Kind::Code) => Decision::Leave,
        (Ddl::Tables, Kind::Structure) if view => Decision::Leave,
        (Ddl::Tables | Ddl::All, Kind::Structure | Kind::Code) => statement(told),
    }
}

/// The one statement that the text is, of the kind that the tag says: nothing else is run.
fn statement(told: &Told) -> Decision {
    let Some(text) = &told.text else { return Decision::ByHand("its text was not sent") };
    let standard = standard_strings(&told.detail.settings);
    let scanned = scan_under(text, standard).unwrap_or_default();
    let [only] = scanned.as_slice() else {
        return Decision::ByHand("its text is not one statement");
    };
    if !only.has_tag(&told.tag) || only.ends_transactions() {
        return Decision::ByHand("its text is of another kind");
    }
    Decision::Run(without_concurrently(text, only))
}

/// What is done concurrently is done outside of any transaction; the applier, whose table it
/// is alone, need not wait for that.
fn without_concurrently(text: &str, only: &Scanned) -> String {
    match &only.concurrently {
        Some(word) => {
            let (before, after) =
                (&text[only.range.start..word.start], &text[word.end..only.range.end]);
            format!("{before}{}", after.trim_start())
        }
        None => text[only.range.clone()].to_owned(),
    }
}

/// The `search_path` of the source's session, for another role here.
fn path(detail: &DdlDetail) -> String {
    let user = quote_identifier(&detail.username);
    detail.search_path.replace("\"$user\"", &user)
}

/// As the stream calls it.
pub(super) fn name(object: &DdlObject) -> Option<String> {
    let (schema, name) = (object.schema.as_ref()?, object.name.as_ref()?);
    Some(format!("{}.{}", quote_identifier(schema), quote_identifier(name)))
}

impl Applier {
    /// Makes a schema change.
    ///
    /// # Errors
    /// The target refuses it, or there is nothing that could be run.
    pub(super) async fn schema_change(
        &mut self,
        told: Told,
        at: EpochPosition,
    ) -> Result<(), ApplyError> {
        self.separate().await?;
        self.altered = true;
        self.begin(at).await?;
        self.flush().await?;
        self.pipe.drain().await?;
        let by_hand = self.ddl_done.is_some_and(|done| done.position == at.position);
        match decide(self.config.ddl, &told) {
            _ if by_hand => tracing::info!(position = %at, "a schema change was made by hand"),
            Decision::Leave => {
                tracing::info!(
                    position = %at, tag = told.tag, object = told.identity,
                    "a schema change is left to whoever looks after the target"
                );
            }
            Decision::Made => {
                self.complete(&told, at).await?;
                self.made(&told, at).await?;
            }
            Decision::Run(text) => self.run_ddl(&text, &told, at).await?,
            Decision::ByHand(why) => return Err(by_hand_error(&told, at, why)),
        }
        // Tables may be others now, and by hand, too.
        self.tables.forget();
        self.pipe.forget();
        Ok(())
    }

    /// A table was made of a query's rows. Where it had none, the first row makes it.
    async fn made(&mut self, told: &Told, at: EpochPosition) -> Result<(), ApplyError> {
        for name in told.detail.objects.iter().filter(|o| !o.dropped).filter_map(name) {
            self.provisional.retain(|made| *made != name);
            let (epoch, was) = (self.progress.main.epoch, self.progress.tables.get(&name).copied());
            let position = match look(self.pipe.client(), &self.traits, &name).await? {
                Some(_) if was.is_none_or(|was| was.position != PROVISIONAL) => {
                    self.note(&name);
                    continue;
                }
                Some(_) => at.position,
                None => UNMADE,
            };
            self.note_table(&name, was, At { epoch, position }).await?;
        }
        Ok(())
    }

    pub(super) async fn run_ddl(
        &mut self,
        text: &str,
        told: &Told,
        at: EpochPosition,
    ) -> Result<(), ApplyError> {
        let names = self.names_before(text, at).await?;
        let client = self.pipe.client();
        let doing = format!("{} ({})", told.tag, told.identity);
        let failed = |e: tokio_postgres::Error| ApplyError::row(&doing, at, &e);
        let set = "SELECT pg_catalog.set_config('search_path', $1, true)";
        // Constraints are looked at over whole tables.
        let begin = "SAVEPOINT kasho_ddl; SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; \
                     SET LOCAL enable_mergejoin = on";
        client.batch_execute(begin).await.map_err(failed)?;
        client.execute(set, &[&path(&told.detail)]).await.map_err(failed)?;
        let ours = settings::set(client, &told.detail.settings).await.map_err(failed)?;
        // By the extended protocol, which takes one statement and no more.
        let run = client.execute(text, &[]).await;
        match run {
            Ok(_) => {
                let end = "RELEASE kasho_ddl; SET LOCAL search_path = ''; SET LOCAL enable_seqscan = off; \
                           SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";
                client.batch_execute(end).await.map_err(failed)?;
                settings::set(client, &ours).await.map_err(failed)?;
                self.follow(&names, at).await?;
                self.figures.schema_changes.fetch_add(1, Relaxed);
                let (tag, object) = (&told.tag, &told.identity);
                tracing::info!(position = %at, tag, object, "a schema change is made");
            }
            Err(error) => {
                let code = error.code().map_or("", |code| code.code()).to_owned();
                let known = [
                    (&THERE[..], "it is there already"),
                    (&ABSENT[..], "it is of nothing that is there"),
                ];
                let why = known.into_iter().find(|(codes, _)| codes.contains(&code.as_str()));
                let Some((_, why)) = why else {
                    // A server that stops, or a deadlock: it is made when it is tried again.
                    let told_as = ApplyError::row(&doing, at, &error);
                    if told_as.class() == Class::Retry {
                        return Err(told_as);
                    }
                    return Err(match error.as_db_error() {
                        Some(_) => by_hand_error(told, at, &refused(&code)),
                        None => failed(error),
                    });
                };
                let back = "ROLLBACK TO kasho_ddl";
                client.batch_execute(back).await.map_err(failed)?;
                self.figures.schema_changes_passed.fetch_add(1, Relaxed);
                tracing::warn!(
                    position = %at, tag = told.tag, object = told.identity, sqlstate = code, why,
                    "a schema change is passed over"
                );
            }
        }
        told.warn(at);
        Ok(())
    }

    /// Before a part is committed: which tables are in question is known after a restart, too.
    ///
    /// # Errors
    /// As [`Applier::take`].
    pub(super) async fn keep_provisional(&mut self) -> Result<(), ApplyError> {
        let then = At { epoch: self.progress.main.epoch, position: PROVISIONAL };
        for name in self.provisional.clone() {
            let was = self.progress.tables.get(&name).copied();
            if was != Some(then) {
                self.unnote(&name);
                self.note_table(&name, was, then).await?;
            }
        }
        Ok(())
    }

    /// A transaction has made a table by its rows alone, and ends.
    pub(super) fn untold(&self, table: String, at: EpochPosition) -> ApplyError {
        let kept = self.progress.tables.get(&table).is_some_and(|at| at.position == PROVISIONAL);
        match kept {
            false => self.missing(table, at),
            true => ApplyError::Refused(format!(
                "the target had no table {table}, and a part of the transaction at {at}, which is \
                 larger than Redis's budget, is committed with one made of what its rows say. Make \
                 it what it is at the source (types, keys, defaults); then DELETE FROM \
                 kasho.applied WHERE consumer = {} AND relation = {}; then start again",
                literal(&self.progress.consumer),
                literal(&table)
            )),
        }
    }

    /// Makes a table of what its first row says of it: one that a query's rows make at the
    /// source, whose schema change comes behind its rows.
    ///
    /// # Errors
    /// A type that the target does not have.
    pub(super) async fn make(
        &mut self,
        table: &str,
        columns: &[String],
        oids: &[u32],
        at: EpochPosition,
    ) -> Result<(), ApplyError> {
        self.begin(at).await?;
        self.flush().await?;
        self.pipe.drain().await?;
        let client = self.pipe.client();
        let doing = format!("CREATE TABLE {table}");
        let failed = |e: tokio_postgres::Error| ApplyError::row(&doing, at, &e);
        let ask = "SELECT pg_catalog.format_type(t.oid, -1) FROM unnest($1::oid[]) WITH ORDINALITY o(oid, n) \
                   LEFT JOIN pg_catalog.pg_type t ON t.oid = o.oid AND o.oid < 16384 ORDER BY n";
        let rows = client.query(ask, &[&oids]).await.map_err(failed)?;
        let mut definitions = Vec::with_capacity(columns.len());
        for (column, row) in columns.iter().zip(&rows) {
            let Some(kind) = row.get::<_, Option<String>>(0) else {
                return Err(ApplyError::Refused(format!(
                    "{at} makes the table {table} of a query's rows, and its column {column:?} is \
                     of a type of the source's own, whose name they do not say: make the \
                     type if the target lacks it, and CREATE TABLE {table} by hand, as pg_dump \
                     --section=pre-data --table={table} of the source shows it; then start again"
                )));
            };
            definitions.push(format!("{} {kind}", identifier(column)));
        }
        let create = format!("{doing} ({})", definitions.join(", "));
        client.batch_execute(&create).await.map_err(failed)?;
        self.figures.schema_changes.fetch_add(1, Relaxed);
        let epoch = self.progress.main.epoch;
        match self.progress.tables.get(table).copied() {
            Some(was) if was.position == UNMADE => {
                let now = At { epoch, position: at.position };
                self.note_table(table, Some(was), now).await?;
            }
            _ => self.provisional.push(table.to_owned()),
        }
        Ok(())
    }
}

/// Why a statement that succeeded at the source does not here.
fn refused(code: &str) -> String {
    // Rows that rules keep away, or whose table is loaded behind this, are no fault of anybody.
    let more = match code {
        "23503" => {
            "; rows that it refers to may be kept away by rules, or come with a table that is still to \
             be loaded (kasho status): the same with NOT VALID can be made now, and VALIDATE \
             CONSTRAINT follows when they are there"
        }
        _ => "",
    };
    format!("the target refuses it (SQLSTATE {code}: {}{more})", meaning(code))
}

fn by_hand_error(told: &Told, at: EpochPosition, why: &str) -> ApplyError {
    ApplyError::Refused(format!(
        "the schema change {} of {} at {at} cannot be made: {why}. Make it by hand in the target, \
         as it stands at the source; then start again, with --ddl-done {at}",
        told.tag,
        if told.identity.is_empty() { "an object" } else { &told.identity },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(tag: &str, text: Option<&str>) -> Told {
        let (tag, text) = (tag.to_owned(), text.map(str::to_owned));
        Told { tag, identity: "public.t".to_owned(), text, detail: DdlDetail::default() }
    }

    #[test]
    fn the_policy_decides() {
        let create = told("CREATE TABLE", Some("CREATE TABLE t (id int)"));
        let run = Decision::Run("CREATE TABLE t (id int)".to_owned());
        assert_eq!(decide(Ddl::Tables, &create), run);
        assert_eq!(decide(Ddl::None, &create), Decision::Leave);
        let function =
            told("CREATE FUNCTION", Some("CREATE FUNCTION f() RETURNS int AS 'x' LANGUAGE sql"));
        assert_eq!(decide(Ddl::Tables, &function), Decision::Leave);
        assert!(matches!(decide(Ddl::All, &function), Decision::Run(_)));
        let view = told("CREATE VIEW", Some("CREATE VIEW v AS SELECT 1"));
        assert_eq!(decide(Ddl::Tables, &view), Decision::Leave);
        let query = told("CREATE TABLE AS", Some("CREATE TABLE t AS SELECT 1"));
        assert_eq!(decide(Ddl::Tables, &query), Decision::Made);
        assert_eq!(decide(Ddl::All, &told("GRANT", Some("GRANT ALL ON t TO u"))), Decision::Leave);
    }

    #[test]
    fn nothing_is_run_but_the_one_statement_that_the_tag_says() {
        for text in [
            None,
            Some("CREATE TABLE t (id int); DROP TABLE u"),
            Some("DROP TABLE t"),
            Some("CREATE TABLE t AS SELECT 1"),
            Some(""),
            Some("CREATE TABLE t (id int DEFAULT 'x"),
        ] {
            let decided = decide(Ddl::All, &told("CREATE TABLE", text));
            assert!(matches!(decided, Decision::ByHand(_)), "{text:?}: {decided:?}");
        }
    }

    #[test]
    fn an_index_is_made_within_the_transaction() {
        for (text, expected) in [
            ("CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)", "CREATE UNIQUE INDEX i ON t (a)"),
            ("drop index  concurrently i", "drop index  i"),
            (
                "/* ours */ CREATE /* a long\nword */ UNIQUE INDEX CONCURRENTLY\"I\" ON t (a)",
                "CREATE /* a long\nword */ UNIQUE INDEX \"I\" ON t (a)",
            ),
            (
                "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (concurrently(a))",
                "CREATE INDEX IF NOT EXISTS i ON t (concurrently(a))",
            ),
            ("CREATE INDEX i ON t (a) -- INDEX CONCURRENTLY", "CREATE INDEX i ON t (a)"),
            (
                "ALTER TABLE p DETACH PARTITION s.\"Part\" CONCURRENTLY",
                "ALTER TABLE p DETACH PARTITION s.\"Part\" ",
            ),
            ("ALTER TABLE t ADD c concurrently", "ALTER TABLE t ADD c concurrently"),
        ] {
            let scanned = crate::ddl::scan(text).unwrap();
            assert_eq!(without_concurrently(text, &scanned[0]), expected);
        }
    }

    #[test]
    fn the_sources_user_is_named_in_the_path() {
        let detail = DdlDetail {
            search_path: "\"$user\", public".to_owned(),
            username: "A b".to_owned(),
            ..DdlDetail::default()
        };
        assert_eq!(path(&detail), "\"A b\", public");
    }
}
