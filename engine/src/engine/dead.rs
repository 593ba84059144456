//! Dead letters are delivered again: the key is unsealed, a message in the source's log
//! marks the place, the stream reads the row when it comes there and publishes it, and the
//! letter is closed in that very step. Why that is right: [`crate::source::retries`].
//!
//! A change of a row's key is two rows, the one that it was and the one that it is: they are
//! delivered one behind the other, and the letter is closed with the second, which nobody
//! asks for before the first is published or known to be gone.
//!
//! What can go wrong is told letter by letter: the key does not open it, the row cannot be
//! read, it fails once more (then there is a new letter, or this one stays where there can
//! be none), or the stream does not get there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::join_all;
use kasho_plugin_sdk::Op;
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant, sleep_until};
use tokio_postgres::Client;

use super::effects::unavailable;
use super::{Engine, World};
use crate::bootstrap::Refusal;
use crate::config::Config;
use crate::control::{Reply, RetryOutcome};
use crate::position::{Lsn, Position};
use crate::sink::dead::{StoredLetter, list};
use crate::sink::id::Id;
use crate::sink::status::Status;
use crate::source::RETRY_PREFIX;
use crate::source::retries::{Again, Claim, Told};
use crate::source::wal::emit_message;
use crate::transform::{DeadKey, RowKey};

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
    /// The stream did not get there in time, and so it would be with the next one.
    Late(String),
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
        let sink = self.figures.sink.clone();
        if let Some(why) = sink.get().paused {
            let text = format!(
                "nothing is published at the moment, and a row comes behind the changes that wait: \
                 {why}"
            );
            let _ = reply.send(Err(Refusal::precondition(text)));
            return;
        }
        let delivery = Delivery { world: Arc::clone(&self.world), sink, client: Mutex::default() };
        tokio::spawn(async move {
            let _ = reply.send(delivery.run(&ids).await);
        });
    }
}

/// One call of `kasho dead retry`.
struct Delivery {
    world: Arc<World>,
    /// What the stream's publisher says.
    sink: Status,
    /// Writes the messages.
    client: Mutex<Option<Client>>,
}

impl Delivery {
    async fn run(&self, ids: &[String]) -> Result<Vec<RetryOutcome>, Refusal> {
        let key = self.key()?;
        let mut outcomes = Vec::new();
        let claims = self.claim(&self.letters().await?, ids, &mut outcomes);
        // What somebody has delivered before it could be claimed is not there any more.
        let all = self.letters().await?;
        let mine = all.iter().filter(|letter| claims.contains_key(&letter.id.to_string()));
        let mine: Vec<&StoredLetter> = mine.collect();
        let mut ended = Vec::new();
        for some in mine.chunks(TOGETHER) {
            ended.extend(join_all(some.iter().map(|letter| self.deliver(&key, letter))).await);
            if ended.iter().any(|outcome| matches!(outcome, Outcome::Late(_))) {
                break;
            }
        }
        // One look tells of all of them, however many they are.
        let now = self.letters().await.map(Now::of);
        let not_tried = std::iter::repeat_with(|| Outcome::Stays(NOT_TRIED.to_owned()));
        let ended = mine.iter().zip(ended.into_iter().chain(not_tried));
        outcomes.extend(ended.map(|(letter, outcome)| judged(letter, outcome, &now)));
        Ok(outcomes)
    }

    async fn letters(&self) -> Result<Vec<StoredLetter>, Refusal> {
        let mut store = self.world.redis_store().await.map_err(unavailable)?;
        list(&mut store).await.map_err(unavailable)
    }

    fn key(&self) -> Result<DeadKey, Refusal> {
        // The file may name a key since this process was started.
        let config = Config::load(&self.world.path).map(|config| config.dead_letter_key);
        let source = config.unwrap_or_else(|_| self.world.config.dead_letter_key.clone());
        let key = source.as_ref().map(DeadKey::read).transpose();
        key.map_err(|e| Refusal::precondition(e.to_string()))?.ok_or_else(|| {
            Refusal::precondition(
                "there is no dead_letter_key in the configuration file: without it nobody can say \
                 which rows are meant",
            )
        })
    }

    /// Takes the letters that were asked for, by id; says of the others why not.
    fn claim(
        &self,
        all: &[StoredLetter],
        ids: &[String],
        outcomes: &mut Vec<RetryOutcome>,
    ) -> HashMap<String, Claim> {
        let there: Vec<String> = all.iter().map(|letter| letter.id.to_string()).collect();
        let unknown = ids.iter().filter(|id| !there.contains(id));
        outcomes.extend(unknown.map(|id| told(id, "unknown", "there is no letter with this id")));
        let published = self.sink.get().position;
        let mut claims = HashMap::new();
        for id in there.into_iter().filter(|id| ids.is_empty() || ids.contains(id)) {
            match self.world.retries.claim(&id, published) {
                Some(claim) => drop(claims.insert(id, claim)),
                None => outcomes.push(told(&id, "failed", UNDER_WAY)),
            }
        }
        claims
    }

    async fn deliver(&self, key: &DeadKey, letter: &StoredLetter) -> Outcome {
        let opened = letter.sealed().and_then(|sealed| key.open(&letter.table, &sealed));
        let Some(row) = opened else {
            let text = "dead_letter_key does not open it: it was sealed under another one";
            return Outcome::Stays(text.to_owned());
        };
        let mut outcome = Outcome::Stays("the letter does not say which row it is".to_owned());
        // A Redis that loses what it had taken brings the stream back to the first row too.
        let mut expected = Vec::new();
        for step in steps(&letter.id.to_string(), letter, &row) {
            let (told, word) = match self.place(&step).await {
                Ok(placed) => placed,
                Err(outcome) => return outcome,
            };
            expected.push(word);
            outcome = match told {
                Told::Read(lsn) => Outcome::Published(lsn),
                Told::Gone(_) => Outcome::Gone,
                Told::Failed(why) => return Outcome::Stays(why),
            };
        }
        outcome
    }

    /// Marks a place in the log, and waits until the stream came by and what it brought is
    /// published. Until the word is dropped, a stream that comes by again brings the row again.
    async fn place(&self, step: &Again) -> Result<(Told, Expected<'_>), Outcome> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|e| Outcome::Stays(e.to_string()))?;
        let word: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        self.world.retries.expect(&word, step.clone());
        let expected = Expected(&self.world, word);
        let (end, mut due) = (Instant::now() + PATIENCE, Instant::now());
        loop {
            // Before the looks: what is said in between is not missed.
            let (told, published) = (self.world.retries.telling(), self.sink.changed());
            if let Some(told) = self.last_word(&expected.1) {
                return Ok((told, expected));
            }
            if Instant::now() >= end {
                return Err(self.late());
            }
            let unheard = self.world.retries.told(&expected.1).is_none();
            if unheard && Instant::now() >= due {
                self.write(&expected.1).await.map_err(Outcome::Stays)?;
                due = Instant::now() + LOST;
            }
            let wake = if unheard { due.min(end) } else { end };
            tokio::select! {
                () = told => {}
                () = published => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    async fn write(&self, word: &str) -> Result<(), String> {
        let mut client = self.client.lock().await;
        let open = match client.take().filter(|client| !client.is_closed()) {
            Some(open) => open,
            None => self.world.sql("kasho").await.map_err(|e| e.to_string())?,
        };
        emit_message(&open, RETRY_PREFIX, word).await.map_err(|e| e.to_string())?;
        *client = Some(open);
        Ok(())
    }

    /// What became of a message's row, once nothing changes that any more: a stream that is
    /// opened again comes to a message that is not published a second time, and may find
    /// something else.
    fn last_word(&self, word: &str) -> Option<Told> {
        // In this order: of what is published by now, what is told next is the last word.
        let published = self.sink.get().position;
        let told = self.world.retries.told(word)?;
        let there = |lsn| {
            let place = Position::Wal { commit_lsn: lsn, ordinal: 0 };
            published.is_some_and(|published| published >= place)
        };
        match told {
            Told::Read(lsn) | Told::Gone(lsn) if !there(lsn) => None,
            told => Some(told),
        }
    }

    fn late(&self) -> Outcome {
        let why = self.sink.get().paused.map_or(String::new(), |why| format!(": {why}"));
        Outcome::Late(format!("{LATE}{why}"))
    }
}

const LATE: &str = "the stream has not come that far within a minute: the letter stays if the row \
                    is not published yet (see `kasho status`, and try again)";
const GONE: &str = "the source has no row with this key any more, and the letter is closed. Most \
                    likely it was deleted; if its key was changed, that change has brought it to the \
                    targets, but not if values that are kept out of line were not sent with it: \
                    `kasho verify` names what is missing there, and `kasho bootstrap --table` loads \
                    the table again";
const NOT_TRIED: &str = "not tried, for the stream did not come as far as the one before";
const UNDER_WAY: &str = "it is being delivered already: another `kasho dead retry` goes on, also if \
                         whoever called it has hung up";

/// Expects a word until this is dropped.
struct Expected<'a>(&'a World, String);

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.0.retries.forget(&self.1);
    }
}

fn told(id: &str, outcome: &str, detail: impl Into<String>) -> RetryOutcome {
    let (id, outcome, detail) = (id.to_owned(), outcome.to_owned(), detail.into());
    RetryOutcome { id, outcome, detail }
}

/// The letters that are there when everything was tried.
struct Now {
    there: HashSet<Id>,
    /// Id and reason of each that has taken another one's place, by that one's id.
    again: HashMap<String, (Id, String)>,
}

impl Now {
    fn of(letters: Vec<StoredLetter>) -> Now {
        let there = letters.iter().map(|letter| letter.id).collect();
        let again = |letter: StoredLetter| Some((letter.again?, (letter.id, letter.reason)));
        Now { there, again: letters.into_iter().filter_map(again).collect() }
    }
}

/// What to say of a letter: it is closed, and no other has taken its place, or it was not
/// delivered.
fn judged(letter: &StoredLetter, outcome: Outcome, now: &Result<Now, Refusal>) -> RetryOutcome {
    let id = letter.id.to_string();
    let (outcome, detail) = match outcome {
        Outcome::Stays(why) | Outcome::Late(why) => return told(&id, "failed", why),
        Outcome::Published(lsn) => {
            ("published", format!("at {}", Position::Wal { commit_lsn: lsn, ordinal: 0 }))
        }
        Outcome::Gone => ("gone", GONE.to_owned()),
    };
    match now {
        Err(refusal) => told(&id, "failed", format!("its row was read; {}", refusal.text)),
        Ok(now) => match now.again.get(&id) {
            Some((new, reason)) => {
                told(&id, "again", format!("it failed once more, letter {new}: {reason}"))
            }
            None if now.there.contains(&letter.id) => {
                told(&id, "failed", "the row was read, and its letter is still there: try again")
            }
            None => told(&id, outcome, detail),
        },
    }
}

/// The rows of a letter: what it was before, if its key changed, and what it is now.
fn steps(id: &str, letter: &StoredLetter, row: &RowKey) -> Vec<Again> {
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
        // Targets have it under neither key then: the change of the key never came.
        (Some(new), Some(old)) => {
            vec![again(old, Op::Insert, true, false), again(new, Op::Insert, false, true)]
        }
        (Some(new), None) => vec![again(new, op, false, true)],
        (None, Some(old)) => vec![again(old, Op::Insert, true, true)],
        (None, None) => Vec::new(),
    }
}
