//! What a seed does to its tables: a few sessions whose statements are dealt in turn, by lot.
//! One statement at a time runs, so that the order is the seed's; a session that meets
//! another's lock gives up soon, and rolls back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_postgres::Client;

use super::random::Random;
use super::schema::{Schema, Table};

/// Rows of a huge transaction.
const HUGE: u64 = 2_500;

/// Whoever runs statements: a session, or a test that only reads them.
pub(super) trait Run {
    /// Whether it succeeded.
    async fn run(&mut self, session: usize, statement: &str) -> bool;
}

/// The statements of all seeds.
#[derive(Default)]
pub(super) struct Count {
    pub(super) played: AtomicU64,
    /// Those that change rows, and those of them that did not fail.
    changes: AtomicU64,
    changed: AtomicU64,
    /// Those that change the schema, and those of them that did not fail.
    schema: AtomicU64,
    altered: AtomicU64,
}

impl Count {
    /// Errors are part of the game; a game of nothing but errors proves nothing.
    pub(super) fn assert_most_succeed(&self) -> String {
        let [changes, changed] =
            [&self.changes, &self.changed].map(|count| count.load(Ordering::Relaxed));
        let told = format!("{changed} of {changes} changes succeeded");
        assert!(changed > 0 && changed * 3 >= changes * 2, "only {told}");
        told
    }

    /// As [`Count::assert_most_succeed`], where the schema changes, too: its changes are not
    /// those that most often fit, and wait for one another.
    pub(super) fn assert_many_succeed(&self) -> String {
        let counts = [&self.changes, &self.changed, &self.schema, &self.altered];
        let [changes, changed, schema, altered] = counts.map(|count| count.load(Ordering::Relaxed));
        let told = format!(
            "{changed} of {changes} changes of rows and {altered} of {schema} of the schema succeeded"
        );
        assert!(changed * 2 >= changes && altered * 3 >= schema && altered > 0, "only {told}");
        told
    }
}

/// Sessions of a database.
pub(super) struct Sessions {
    clients: Vec<Client>,
    count: Arc<Count>,
    /// Before each statement, so that there is something to play while Kasho suffers.
    pause: Duration,
}

impl Sessions {
    pub(super) async fn open(
        clients: Vec<Client>,
        schema: &Schema,
        count: Arc<Count>,
        pause: Duration,
    ) -> Sessions {
        for client in &clients {
            let set = format!(
                "SET search_path = {}; SET lock_timeout = '300ms'; SET client_min_messages = error",
                schema.name
            );
            client.batch_execute(&set).await.expect("SET");
        }
        Sessions { clients, count, pause }
    }
}

impl Run for Sessions {
    async fn run(&mut self, session: usize, statement: &str) -> bool {
        self.count.played.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(self.pause).await;
        let word = statement.split(' ').next().unwrap_or_default();
        let change = u64::from(["INSERT", "UPDATE", "DELETE", "TRUNCATE"].contains(&word));
        let schema = u64::from(["CREATE", "ALTER", "DROP", "DO", "SELECT"].contains(&word));
        self.count.changes.fetch_add(change, Ordering::Relaxed);
        self.count.schema.fetch_add(schema, Ordering::Relaxed);
        match self.clients[session].batch_execute(statement).await {
            Ok(()) => {
                self.count.changed.fetch_add(change, Ordering::Relaxed);
                self.count.altered.fetch_add(schema, Ordering::Relaxed);
                true
            }
            // Unique violations, locks, values that do not fit: part of the game.
            Err(error) if error.as_db_error().is_some() => false,
            Err(error) => panic!("{statement}: {error:?}"),
        }
    }
}

/// Where a session is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) transaction: bool,
    pub(super) savepoints: u32,
    statements: u64,
}

/// Runs so many statements, and then commits what is open.
pub(super) async fn play(
    schema: &Schema,
    random: &mut Random,
    sessions: usize,
    steps: u64,
    run: &mut impl Run,
) {
    let mut open = vec![Open::default(); sessions];
    for _ in 0..steps {
        let at = usize::try_from(random.below(sessions as u64)).expect("few");
        let words = control(random, &mut open[at]);
        let statement = words.unwrap_or_else(|| change(schema, random));
        if !run.run(at, &statement).await && open[at].transaction {
            // Back to the last savepoint, or to the beginning.
            match open[at].savepoints {
                0 => {
                    run.run(at, "ROLLBACK").await;
                    open[at] = Open::default();
                }
                n => drop(run.run(at, &format!("ROLLBACK TO s{n}")).await),
            }
        }
    }
    for (at, open) in open.iter().enumerate().filter(|(_, open)| open.transaction) {
        let end = if random.often(800) { "COMMIT" } else { "ROLLBACK" };
        if !run.run(at, end).await && open.transaction {
            run.run(at, "ROLLBACK").await;
        }
    }
}

/// The next statement of a session, if it begins, ends or divides a transaction.
pub(super) fn control(random: &mut Random, open: &mut Open) -> Option<String> {
    if !open.transaction {
        if random.often(300) {
            return None;
        }
        *open = Open { transaction: true, ..Open::default() };
        return Some("BEGIN".to_owned());
    }
    open.statements += 1;
    let long = open.statements > 12;
    match random.below(100) {
        n if n < 12 || long && n < 40 => {
            *open = Open::default();
            Some("COMMIT".to_owned())
        }
        n if n < 17 || long && n < 50 => {
            *open = Open::default();
            Some("ROLLBACK".to_owned())
        }
        n if n < 27 => {
            open.savepoints += 1;
            Some(format!("SAVEPOINT s{}", open.savepoints))
        }
        n if n < 32 && open.savepoints > 0 => Some(format!("ROLLBACK TO s{}", open.savepoints)),
        n if n < 35 && open.savepoints > 0 => {
            open.savepoints -= 1;
            Some(format!("RELEASE s{}", open.savepoints + 1))
        }
        _ => None,
    }
}

/// A statement that changes rows.
pub(super) fn change(schema: &Schema, random: &mut Random) -> String {
    let at = usize::try_from(random.below(schema.tables.len() as u64)).expect("few");
    let table = &schema.tables[at];
    let (k, to) = (random.within(1, 60), random.within(1, 60));
    let (low, high) = (k.min(to), k.max(to));
    let name = &table.name;
    match random.below(100) {
        n if n < 30 || !table.changes() => match random.often(60) {
            true => table.insert_many(1_000 * k, random.within(2, 60), random),
            false => table.insert(k, random),
        },
        n if n < 55 => format!("UPDATE {name} SET {} WHERE k = {k}", table.set(random)),
        n if n < 63 => {
            format!("UPDATE {name} SET {} WHERE k BETWEEN {low} AND {high}", table.set(random))
        }
        n if n < 71 => keys(table, random, (k, to)),
        n if n < 76 && table.shifts => shift(table, random),
        n if n < 88 => format!("DELETE FROM {name} WHERE k = {k}"),
        n if n < 91 => format!("DELETE FROM {name} WHERE k BETWEEN {low} AND {high}"),
        n if n < 92 => truncate(schema, random),
        n if n < 93 => table.insert_many(100_000 + 10_000 * k, HUGE, random),
        n if n < 94 => format!("UPDATE {name} SET {}", table.set(random)),
        n if n < 95 => format!("DELETE FROM {name} WHERE k > 1000"),
        _ => format!("UPDATE {name} SET {} WHERE k > 1000 AND k % 7 = 0", table.set(random)),
    }
}

/// Keys move: one to another, all of them up, or two change places.
fn keys(table: &Table, random: &mut Random, (k, to): (u64, u64)) -> String {
    let name = &table.name;
    if table.identity == super::schema::Identity::Always {
        return format!("UPDATE {name} SET {} WHERE k = {k}", table.set(random));
    }
    match random.below(4) {
        0 => format!("UPDATE {name} SET k = k + 500, {} WHERE k = {k}", table.set(random)),
        1 => format!("UPDATE {name} SET k = {to} WHERE k = {k}"),
        2 => format!("UPDATE {name} SET k = k + 100 WHERE k BETWEEN 1 AND 60"),
        _ => format!(
            "UPDATE {name} SET k = -1 WHERE k = {k}; UPDATE {name} SET k = {k} WHERE k = {to}; \
             UPDATE {name} SET k = {to} WHERE k = -1"
        ),
    }
}

/// Unique values move over one another.
fn shift(table: &Table, random: &mut Random) -> String {
    let name = &table.name;
    match random.below(3) {
        0 => format!(
            "UPDATE {name} SET u = n FROM (SELECT k AS i, row_number() OVER (ORDER BY k) AS n \
             FROM {name}) x WHERE k = i"
        ),
        1 => format!("UPDATE {name} SET u = u + 1"),
        _ => format!("UPDATE {name} SET u = (SELECT max(u) FROM {name}) - u + 1"),
    }
}

fn truncate(schema: &Schema, random: &mut Random) -> String {
    let mut names: Vec<&str> = schema
        .tables
        .iter()
        .filter(|_| random.often(400))
        .map(|table| table.name.as_str())
        .collect();
    if names.is_empty() {
        names.push(&schema.tables[0].name);
    }
    let more = random.one(&["", " RESTART IDENTITY", " CASCADE"]);
    format!("TRUNCATE {}{more}", names.join(", "))
}
