//! What Kasho needs in the source database, made and taken away: role, grants, publication,
//! event triggers. First everything is looked at, then a list of statements says what is
//! missing, then they are run, if that is asked for. Nothing is done twice.
//!
//! What can go wrong: a statement that waits for a lock would make the application wait
//! behind it, so each gives up after [`LOCK_TIMEOUT_MS`] and is tried again; and a table
//! whose updates would fail if it were published, so it is left out and named.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::quote::literal;
use crate::source::conninfo::{Conninfo, sql_connect_with};
use crate::source::error::SourceError;

mod facts;
mod plan;
mod teardown;
mod triggers;

pub use facts::{Facts, Function, Role, Table, look};
pub use plan::plan;
pub use teardown::teardown;
pub use triggers::SQL as TRIGGERS;

/// Longest wait for a lock, milliseconds: so long may others have to wait behind us.
pub const LOCK_TIMEOUT_MS: u64 = 2_000;
/// How often a statement is tried that gets no lock, and the pause between, milliseconds.
const TRIES: u32 = 30;
const PAUSE_MS: u64 = 1_000;

/// What setup is asked to make.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The role that reads.
    pub role: String,
    /// The slot.
    pub slot: String,
    /// Publications that are read; the first is made if there is none.
    pub publications: Vec<String>,
    /// Publish every table there is and will be.
    pub all_tables: bool,
    /// Publish these alone, as schema.table; empty: every table that can be.
    pub tables: Vec<String>,
    /// Install the event triggers.
    pub triggers: bool,
}

/// One statement, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it does, for a person.
    pub what: String,
    /// The statement, to be run as it stands.
    pub sql: String,
}

impl Step {
    fn new(what: impl Into<String>, sql: impl Into<String>) -> Step {
        Step { what: what.into(), sql: sql.into() }
    }
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What setup does not do itself: it needs a restart, a decision, or another right. Each
    /// with what mends it.
    pub notes: Vec<String>,
    /// What it does.
    pub steps: Vec<Step>,
    /// The role is made, and needs a password.
    pub password: bool,
}

impl Plan {
    /// As a script for psql.
    #[must_use]
    pub fn script(&self) -> String {
        let mut out = String::new();
        for note in &self.notes {
            out += &format!("-- note: {}\n", comment(note));
        }
        if self.steps.is_empty() {
            return out + "-- nothing is left to do\n";
        }
        out += &format!("SET lock_timeout = '{LOCK_TIMEOUT_MS}ms';\n");
        for step in &self.steps {
            let (what, sql) = (comment(&step.what), step.sql.trim_end_matches(';'));
            out += &format!("\n-- {what}\n{sql};\n");
        }
        if self.password {
            out += "\n-- and give the role its password, the one in source.url: \\password\n";
        }
        out
    }
}

/// A statement failed.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// PostgreSQL does not answer, or a look at it failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Somebody keeps a lock.
    #[error(
        "{what}: no lock in {TRIES} tries, because of {by}. Nothing waits for it any more; end that \
         transaction, or run the same command again later: what is done is not done twice"
    )]
    Locked {
        /// The step.
        what: String,
        /// Who keeps it.
        by: String,
    },
    /// A statement was refused.
    #[error("{what}: {source}. What was done before it stays, and is not done twice")]
    Refused {
        /// The step.
        what: String,
        /// What the server said.
        source: SourceError,
    },
}

/// A session for these statements.
///
/// # Errors
/// The server does not answer, or refuses.
pub async fn connect(info: &Conninfo) -> Result<Client, SetupError> {
    let timeout = format!("{LOCK_TIMEOUT_MS}");
    let settings = [("lock_timeout", timeout.as_str()), ("statement_timeout", "0")];
    Ok(sql_connect_with(info, "kasho setup", &settings).await?)
}

/// Runs one statement; again as long as somebody else keeps a lock that it needs, which is
/// `told` each time.
///
/// # Errors
/// It was refused, or got no lock.
pub async fn run(client: &Client, step: &Step, told: fn(&str)) -> Result<(), SetupError> {
    let what = || step.what.clone();
    for _ in 0..TRIES {
        match client.batch_execute(&step.sql).await {
            Ok(()) => return Ok(()),
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                roll_back(client).await;
                let by = holders(client).await.unwrap_or_default();
                told(&format!("{}: waiting for a lock; open: {by}", step.what));
                tokio::time::sleep(std::time::Duration::from_millis(PAUSE_MS)).await;
            }
            Err(error) => {
                roll_back(client).await;
                let source = SourceError::sql("setting up", &error);
                return Err(SetupError::Refused { what: what(), source });
            }
        }
    }
    let by = holders(client).await.unwrap_or_else(|_| "an open transaction".to_owned());
    Err(SetupError::Locked { what: what(), by })
}

/// A step may be a transaction of several statements. Where it was none, this is a warning.
async fn roll_back(client: &Client) {
    if let Err(error) = client.batch_execute("ROLLBACK").await {
        tracing::debug!(%error, "rolling back");
    }
}

/// The sessions with the oldest open transactions.
async fn holders(client: &Client) -> Result<String, tokio_postgres::Error> {
    const SQL: &str = "SELECT coalesce(string_agg(format('pid %s (%s), in a transaction for %s s',
                pid, application_name, extract(epoch FROM now() - xact_start)::int8), ', '), '')
          FROM (SELECT * FROM pg_catalog.pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()
                   AND xact_start < now() - interval '2 s' AND backend_type = 'client backend'
                 ORDER BY xact_start LIMIT 3) a";
    let found: String = client.query_one(SQL, &[]).await?.get(0);
    Ok(if found.is_empty() { "an open transaction".to_owned() } else { found })
}

/// A text of several lines within a comment: each of them begins one again. A comment ends at
/// either sort of line end, and names of objects may hold both.
fn comment(text: &str) -> String {
    text.replace("\r\n", "\n").split(['\n', '\r']).collect::<Vec<_>>().join("\n--   ")
}

/// What setup makes says so itself, in a comment of its own: teardown takes away nothing else.
const MARK: &str = "made by kasho setup";

/// Marks what the step before has made.
fn mark(object: &str) -> Step {
    let sql = format!("COMMENT ON {object} IS {}", literal(MARK));
    Step::new("by which kasho teardown knows it", sql)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_comment_of_the_script_is_a_statement() {
        let ends = ["a\rDROP TABLE t;", "a\nDROP TABLE t;", "a\r\n\rDROP TABLE t;", "a\n\nDROP"];
        let plan = Plan {
            notes: ends.map(str::to_owned).to_vec(),
            steps: ends.iter().map(|what| Step::new(*what, "SELECT 1")).collect(),
            password: false,
        };
        let script = plan.script();
        for line in script.split(['\n', '\r']).filter(|line| line.contains("DROP")) {
            assert!(line.starts_with("--"), "{script:?}");
        }
        assert_eq!(script.matches("DROP").count(), 8);
    }
}
