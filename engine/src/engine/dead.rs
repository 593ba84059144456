//! Dead letters are delivered again: the key is unsealed, a message in the source's log
//! marks the place, the stream reads the row when it comes there and publishes it, and the
//! letter is closed in that very step. Why that is right: [`crate::source::retries`].
//!
//! What can go wrong is told letter by letter: the key does not open it, the row cannot be
//! read, it fails once more (then there is a new letter), or the stream does not get there.

use std::sync::Arc;

use futures_util::future::join_all;
use kasho_plugin_sdk::Op;
use tokio::time::{Duration, Instant, sleep};

use super::effects::unavailable;
use super::{Engine, World};
use crate::bootstrap::Refusal;
use crate::config::Config;
use crate::control::{Reply, RetryOutcome};
use crate::position::{Lsn, Position};
use crate::sink::dead::{StoredLetter, list};
use crate::sink::id::Id;
use crate::sink::redis::RedisStore;
use crate::source::RETRY_PREFIX;
use crate::source::retries::{Again, Told};
use crate::source::wal::emit_message;
use crate::transform::DeadKey;

/// How often is looked whether the stream came by.
const LOOK: Duration = Duration::from_millis(100);
/// A message that was not seen for so long was lost with the server, and is written again.
const LOST: Duration = Duration::from_secs(10);
/// How long the stream may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Letters at a time.
const TOGETHER: usize = 16;

/// What became of one row.
enum Outcome {
    /// It stands in the stream at this message.
    Published(Lsn),
    /// It is not there any more.
    Gone,
    /// The letter stays, for this reason.
    Stays(String),
}

impl Engine {
    /// Delivers letters again, by a task of its own: the engine does not wait for it.
    pub(super) fn retry(&self, ids: Vec<String>, reply: Reply<Vec<RetryOutcome>>) {
        if self.phase.epoch().is_none() || !self.stream_open {
            let text = "the changes are not being streamed: a row is published in their order, or \
                        not at all (see `kasho status`)";
            let _ = reply.send(Err(Refusal::precondition(text)));
            return;
        }
        let world = Arc::clone(&self.world);
        tokio::spawn(async move {
            let _ = reply.send(retry(&world, &ids).await);
        });
    }
}

async fn retry(world: &World, ids: &[String]) -> Result<Vec<RetryOutcome>, Refusal> {
    // The file may name a key since this process was started.
    let config = Config::load(&world.path).map(|config| config.dead_letter_key);
    let source = config.unwrap_or_else(|_| world.config.dead_letter_key.clone());
    let key = source.as_ref().map(DeadKey::read).transpose();
    let key = key.map_err(|e| Refusal::precondition(e.to_string()))?.ok_or_else(|| {
        Refusal::precondition(
            "there is no dead_letter_key in the configuration file: without it \
                               nobody can say which rows are meant",
        )
    })?;
    let mut store = world.redis_store().await.map_err(unavailable)?;
    let all = list(&mut store).await.map_err(unavailable)?;
    let unknown = ids.iter().filter(|id| !all.iter().any(|letter| letter.id.to_string() == **id));
    let mut outcomes: Vec<RetryOutcome> =
        unknown.map(|id| told(id, "unknown", "there is no letter with this id")).collect();
    let asked: Vec<&StoredLetter> = all
        .iter()
        .filter(|letter| ids.is_empty() || ids.contains(&letter.id.to_string()))
        .collect();
    for some in asked.chunks(TOGETHER) {
        outcomes.extend(join_all(some.iter().map(|letter| one(world, &key, letter))).await);
    }
    Ok(outcomes)
}

fn told(id: &str, outcome: &str, detail: impl Into<String>) -> RetryOutcome {
    let (id, outcome, detail) = (id.to_owned(), outcome.to_owned(), detail.into());
    RetryOutcome { id, outcome, detail }
}

async fn one(world: &World, key: &DeadKey, letter: &StoredLetter) -> RetryOutcome {
    let id = letter.id.to_string();
    let opened = letter.sealed().and_then(|sealed| key.open(&letter.table, &sealed));
    let Some(row) = opened else {
        let text = "dead_letter_key does not open it: it was sealed under another one";
        return told(&id, "failed", text);
    };
    let outcome = deliver(world, &steps(&id, letter, row)).await;
    let outcome = match outcome {
        Outcome::Stays(why) => return told(&id, "failed", why),
        outcome => closed(world, letter.id).await.map(|()| outcome),
    };
    match outcome {
        Ok(Outcome::Published(lsn)) => {
            let position = Position::Wal { commit_lsn: lsn, ordinal: 0 };
            told(&id, "published", format!("at {position}"))
        }
        Ok(_) => told(&id, "gone", "the row is not in the source any more: the letter is closed"),
        Err(Failed::Again(new, reason)) => {
            told(&id, "again", format!("it failed once more, letter {new}: {reason}"))
        }
        Err(Failed::Open(why)) => told(&id, "failed", why),
    }
}

/// The rows of a letter: what it was before, if its key changed, and what it is now.
fn steps(id: &str, letter: &StoredLetter, row: crate::transform::RowKey) -> Vec<Again> {
    let again = |values: Vec<Option<String>>, op, delete, closes| Again {
        letter: id.to_owned(),
        oid: letter.oid,
        columns: row.columns.clone(),
        values,
        op,
        delete,
        closes,
    };
    let added = [Op::Insert.name(), Op::Read.name()].contains(&letter.op.as_str());
    let op = if added { Op::Insert } else { Op::Update };
    match (row.new.clone(), row.old.clone()) {
        (Some(new), Some(old)) => {
            vec![again(old, Op::Insert, true, false), again(new, op, false, true)]
        }
        (Some(new), None) => vec![again(new, op, false, true)],
        (None, Some(old)) => vec![again(old, Op::Insert, true, true)],
        (None, None) => Vec::new(),
    }
}

async fn deliver(world: &World, steps: &[Again]) -> Outcome {
    let mut outcome = Outcome::Stays("the letter does not say which row it is".to_owned());
    for step in steps {
        outcome = match place(world, step).await {
            Ok(Told::Read(lsn)) => Outcome::Published(lsn),
            Ok(Told::Gone(_)) => Outcome::Gone,
            Ok(Told::Failed(why)) | Err(why) => return Outcome::Stays(why),
        };
    }
    outcome
}

/// Expects a word until this is dropped.
struct Expected<'a>(&'a World, String);

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.0.retries.forget(&self.1);
    }
}

/// Marks a place in the log, and waits until the stream came by.
async fn place(world: &World, step: &Again) -> Result<Told, String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|e| e.to_string())?;
    let word: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    world.retries.expect(&word, step.clone());
    let expected = Expected(world, word);
    let (begun, mut written): (_, Option<Instant>) = (Instant::now(), None);
    loop {
        if let Some(told) = world.retries.told(&expected.1) {
            // The word stays known until what it brought is published.
            if let Told::Read(lsn) | Told::Gone(lsn) = told {
                passed(world, lsn, begun).await?;
            }
            return Ok(told);
        }
        if begun.elapsed() > PATIENCE {
            return Err(LATE.to_owned());
        }
        if written.is_none_or(|at| at.elapsed() > LOST) {
            let client = world.sql("kasho").await.map_err(|e| e.to_string())?;
            let sent = emit_message(&client, RETRY_PREFIX, &expected.1).await;
            sent.map_err(|e| e.to_string())?;
            written = Some(Instant::now());
        }
        sleep(LOOK).await;
    }
}

const LATE: &str = "the stream has not come that far within a minute: the letter stays if the row \
                    is not published yet (see `kasho status`, and try again)";

/// Waits until the checkpoint says that everything up to a message is published.
async fn passed(world: &World, lsn: Lsn, begun: Instant) -> Result<(), String> {
    let goal = Position::Wal { commit_lsn: lsn, ordinal: 0 };
    loop {
        let found = world.inspect().await.map_err(|e| e.to_string())?;
        if found.checkpoint.is_some_and(|checkpoint| checkpoint.position >= goal) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(LATE.to_owned());
        }
        sleep(LOOK).await;
    }
}

/// Why a letter is not what it should be by now.
enum Failed {
    Again(String, String),
    Open(String),
}

/// That a letter is closed, and no other has taken its place.
async fn closed(world: &World, id: Id) -> Result<(), Failed> {
    let look = async {
        let mut store: RedisStore = world.redis_store().await?;
        list(&mut store).await
    };
    let all = look.await.map_err(|e| Failed::Open(e.to_string()))?;
    let ours = id.to_string();
    if let Some(new) = all.iter().find(|letter| letter.again.as_ref() == Some(&ours)) {
        return Err(Failed::Again(new.id.to_string(), new.reason.clone()));
    }
    match all.iter().any(|letter| letter.id == id) {
        true => {
            let text = "the row was read, and its letter is still there: try again";
            Err(Failed::Open(text.to_owned()))
        }
        false => Ok(()),
    }
}
