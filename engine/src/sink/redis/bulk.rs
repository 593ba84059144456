//! Rows of the load, past Lua: what a script is given is copied there and hashed byte by byte,
//! which took more than all the rest of Redis's work. So the guard is asked first, by a script
//! without rows, while everything that it looks at is watched; then the rows go in a
//! transaction, which does nothing if any of that has changed.
//!
//! What can go wrong is what can go wrong with the script, which also takes over wherever
//! somebody else writes too often. Nothing is written twice: a transaction that was not
//! done has done nothing.

use redis::Cmd;

use super::sizes::{Zone, largest, measured};
use super::{RedisStore, answer, script, texts, unexpected};
use crate::sink::id::Id;
use crate::sink::store::{Answer, Guard, Load, NewEntry, StoreError};

/// From so many bytes on it is worth the second round trip.
const WORTH: usize = 32 << 10;
/// After a transaction that was not done, so many steps go by script.
const CALM: u32 = 32;

impl RedisStore {
    /// Appends to the load. None: it is to be done by script, and nothing was done.
    pub(super) async fn bulk_load(
        &mut self,
        guard: &Guard,
        load: &Load<'_>,
    ) -> Result<Option<Answer>, StoreError> {
        let bytes: usize = load.entries.iter().map(|entry| entry.data.len()).sum();
        let letters = !load.dead.letters.is_empty() || !load.dead.closed.is_empty();
        let Some(last) = load.entries.last().filter(|_| bytes >= WORTH && !letters) else {
            return Ok(None);
        };
        if self.disturbed > 0 {
            self.disturbed -= 1;
            return Ok(None);
        }
        if !self.transacts().await? {
            return Ok(None);
        }
        let [load_key, stream, checkpoint] = self.load_keys(guard.epoch);
        let mut watch = redis::cmd("WATCH");
        watch.arg(&load_key).arg(&stream).arg(&checkpoint);
        let lease = u64::try_from(load.lease.as_millis()).unwrap_or(u64::MAX);
        let mut ask = script::LOADABLE.on(&[&load_key, &stream, &checkpoint]);
        ask.arg(&guard.writer).arg(guard.epoch.0).arg(guard.last.to_string()).arg(lease);
        let reply = match self.pipeline([watch, ask]).await {
            Ok(replies) => replies.into_iter().nth(1).ok_or_else(unexpected)?,
            Err(StoreError::Refused(code)) if code == "NOSCRIPT" => {
                self.run(&script::LOADABLE.load()).await?;
                return Ok(None);
            }
            Err(StoreError::Denied(_)) => {
                self.transacts = Some(false);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let words = texts(reply.clone())?;
        let [may, until, noted] = &words[..] else { return self.refused(reply).await };
        if may != "MAY" {
            return self.refused(reply).await;
        }
        let mut commands = rows(&stream, load);
        let noted = measured(noted);
        commands.extend(progress(
            &load_key,
            load,
            (last.id, until),
            now_measured(guard, load, noted),
        ));
        let done = self.transaction(commands).await?;
        if done.is_none() {
            self.disturbed = CALM;
        }
        Ok(done.map(|_| Answer::Done))
    }

    async fn refused(&mut self, reply: redis::Value) -> Result<Option<Answer>, StoreError> {
        self.run(&redis::cmd("UNWATCH")).await?;
        answer(reply).map(Some)
    }
}

/// What appends the entries.
fn rows(stream: &str, load: &Load<'_>) -> Vec<Cmd> {
    let add = |entry: &NewEntry<'_>| {
        let mut add = Cmd::with_capacity(12, entry.data.len() + entry.table.len() + 256);
        add.arg("XADD").arg(stream).arg(entry.id.to_string()).arg("o").arg(entry.op);
        if !entry.table.is_empty() {
            add.arg("t").arg(entry.table);
        }
        add.arg("d").arg(entry.data).arg("g").arg(load.generation);
        if entry.last {
            add.arg("l").arg("1");
        }
        add
    };
    load.entries.iter().map(add).collect()
}

/// As the script measures.
fn now_measured(guard: &Guard, load: &Load<'_>, noted: Option<Zone>) -> Option<usize> {
    let before = match noted {
        Some(noted) => (noted.through == guard.last).then_some(noted.largest)?,
        None => (guard.last == Id::ZERO).then_some(0)?,
    };
    Some(largest(&load.entries).max(before))
}

/// What is stored with the entries.
fn progress(
    key: &str,
    load: &Load<'_>,
    (last, until): (Id, &str),
    largest: Option<usize>,
) -> Vec<Cmd> {
    let mut set = redis::cmd("HSET");
    set.arg(key).arg("last").arg(last.to_string()).arg("until").arg(until);
    let mut forget = redis::cmd("HDEL");
    forget.arg(key);
    match largest {
        Some(largest) => set.arg("measured").arg(format!("{last} {largest}")),
        None => forget.arg("measured"),
    };
    let mut forgets = largest.is_none();
    for (field, value) in &load.progress {
        let field = format!("p:{field}");
        match value {
            Some(value) => set.arg(field).arg(value),
            None => forget.arg(field),
        };
        forgets |= value.is_none();
    }
    if forgets { vec![set, forget] } else { vec![set] }
}
