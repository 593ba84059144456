//! A seed that changes its schema while it changes rows: sessions as in `workload`, and what
//! each of them knows to be there: what others have committed, and what it has done itself
//! since. So most of what it says fits, whatever was rolled back.

use std::collections::BTreeMap;

use super::changes::{self, Scene};
use super::random::Random;
use super::schema::{Schema, Table};
use super::workload::{Open, Run, control};

/// Something that schema changes are about.
#[derive(Clone, Debug)]
pub(super) enum Object {
    Table(Table),
    /// Its name, quoted, with its schema.
    Index(String),
    /// Quoted, with its schema; and whether it is materialized.
    View(String, bool),
    Sequence(String),
    /// Quoted; and the number of its table.
    Constraint(u64, String),
    /// A label that the seed's enum got.
    Label(String),
    Schema(String),
}

/// What is there, by number.
pub(super) type Objects = BTreeMap<u64, Object>;
/// What a statement makes other or takes away, if it succeeds.
pub(super) type Edits = Vec<(u64, Option<Object>)>;

/// A session, and what it has done since its transaction began.
#[derive(Default)]
struct Session {
    open: Open,
    edits: Edits,
    /// How many edits there were at each savepoint.
    saved: Vec<usize>,
    /// Those of its statements that have made or changed something.
    said: Vec<String>,
    /// It has given a schema another name.
    renames: bool,
    /// It has made an index, or a table like another one.
    indexes: bool,
}

/// The sessions of a seed.
pub(super) struct Changing {
    schema: String,
    committed: Objects,
    sessions: Vec<Session>,
    next: u64,
    /// Tables are loaded for the first time.
    pub(super) loading: bool,
}

impl Changing {
    /// The schema as it is made.
    pub(super) fn new(schema: &Schema, sessions: usize) -> Changing {
        let tables = schema.tables.iter().cloned().map(Object::Table);
        let committed: Objects = (0..).zip(tables).collect();
        let sessions = (0..sessions).map(|_| Session::default()).collect();
        Changing { schema: schema.name.clone(), next: 1_000, committed, sessions, loading: false }
    }

    /// Runs so many statements, and then commits what is open.
    pub(super) async fn play(&mut self, random: &mut Random, steps: u64, run: &mut impl Run) {
        for _ in 0..steps {
            let at = usize::try_from(random.below(self.sessions.len() as u64)).expect("few");
            self.step(at, random, run).await;
        }
        for at in 0..self.sessions.len() {
            if self.sessions[at].open.transaction {
                let end = if random.often(800) { "COMMIT" } else { "ROLLBACK" };
                self.sessions[at].open = Open::default();
                let done = run.run(at, end).await;
                if !done {
                    run.run(at, "ROLLBACK").await;
                }
                self.controlled(at, end, done);
            }
        }
    }

    async fn step(&mut self, at: usize, random: &mut Random, run: &mut impl Run) {
        let was = self.sessions[at].open;
        if let Some(words) = control(random, &mut self.sessions[at].open) {
            let done = run.run(at, &words).await;
            if !done && was.transaction {
                run.run(at, "ROLLBACK").await;
                self.sessions[at].open = Open::default();
                self.controlled(at, "ROLLBACK", true);
            } else {
                self.controlled(at, &words, done);
            }
            return;
        }
        let (statement, edits) = self.statement(at, random);
        let done = run.run(at, &statement).await;
        let session = &mut self.sessions[at];
        session.renames |= session.open.transaction && statement.contains("ALTER SCHEMA");
        let index = statement.contains("INDEX") || statement.contains("LIKE");
        session.indexes |= session.open.transaction && index;
        let makes = ["CREATE ", "ALTER ", "DROP "].iter().any(|word| statement.contains(word));
        session.said.extend(Some(statement).filter(|_| session.open.transaction && makes));
        match (done, session.open.transaction, session.open.savepoints) {
            (true, true, _) => session.edits.extend(edits),
            (true, false, _) => apply(&mut self.committed, edits),
            (false, false, _) => {}
            (false, true, 0) => {
                run.run(at, "ROLLBACK").await;
                self.sessions[at].open = Open::default();
                self.controlled(at, "ROLLBACK", true);
            }
            (false, true, n) => {
                let back = format!("ROLLBACK TO s{n}");
                run.run(at, &back).await;
                self.controlled(at, &back, true);
            }
        }
    }

    /// A statement that changes rows, the schema, or both.
    fn statement(&mut self, at: usize, random: &mut Random) -> (String, Edits) {
        let session = &self.sessions[at];
        let mut objects = self.committed.clone();
        apply(&mut objects, session.edits.clone());
        let labels = self.committed.values().filter_map(|object| match object {
            Object::Label(label) => Some(label.clone()),
            _ => None,
        });
        let others = || self.sessions.iter().enumerate().filter(|(other, _)| *other != at);
        let mut scene = Scene {
            others: others().flat_map(|(_, other)| other.edits.clone()).collect(),
            others_said: others().flat_map(|(_, other)| other.said.clone()).collect(),
            others_rename: others().any(|(_, other)| other.renames),
            others_index: others().any(|(_, other)| other.indexes),
            schema: self.schema.clone(),
            objects,
            loading: self.loading,
            labels: labels.collect(),
            next: self.next,
            edits: Vec::new(),
        };
        let statement = changes::statement(&mut scene, random);
        self.next = scene.next;
        (statement, scene.edits)
    }

    /// What follows from words that begin and end transactions.
    fn controlled(&mut self, at: usize, words: &str, done: bool) {
        let session = &mut self.sessions[at];
        let number = || words.rsplit('s').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(1);
        match words {
            "COMMIT" | "ROLLBACK" => {
                let edits = std::mem::take(&mut session.edits);
                session.saved.clear();
                (session.renames, session.indexes) = (false, false);
                session.said.clear();
                if words == "COMMIT" && done {
                    apply(&mut self.committed, edits);
                }
            }
            _ if words.starts_with("SAVEPOINT") => session.saved.push(session.edits.len()),
            _ if words.starts_with("ROLLBACK TO") => {
                session.saved.truncate(number());
                session.edits.truncate(session.saved.last().copied().unwrap_or_default());
            }
            _ if words.starts_with("RELEASE") => session.saved.truncate(number() - 1),
            _ => {}
        }
    }
}

fn apply(objects: &mut Objects, edits: Edits) {
    for (number, object) in edits {
        match object {
            Some(object) => drop(objects.insert(number, object)),
            None => drop(objects.remove(&number)),
        }
    }
}
