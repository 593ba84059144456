//! The readers' side.

use std::time::Duration;

use bytes::Bytes;
use redis::Value;

use super::sizes::{self, Sizes};
use super::tap::{Keeping, Replies};
use super::{Known, RedisStore, array, bytes, id, script, text, unexpected};
use crate::position::Epoch;
use crate::sink::entry::RawEntry;
use crate::sink::id::{Id, Lane};
use crate::sink::store::{Feed, Most, Page, StoreError};

/// A reply to a blocked read comes this much after its own timeout at the latest.
const WAIT_SLACK: Duration = Duration::from_secs(5);

/// Entries from which on a page is worth to be read without a script.
const MEASURED: usize = 4;

impl Feed for RedisStore {
    async fn page(
        &mut self,
        epoch: Epoch,
        lane: Lane,
        after: Id,
        most: impl Into<Most> + Send,
    ) -> Result<Page, StoreError> {
        let trim = match lane {
            Lane::Changes => "trim",
            Lane::Bootstrap => "trim_bootstrap",
        };
        let most = most.into();
        let found = match self.known_page(epoch, lane, after, most, trim).await? {
            Some(found) => found,
            None => {
                let keys = [self.keys.checkpoint(), self.keys.stream(epoch, lane)];
                let mut call = script::PAGE.on(&[&keys[0], &keys[1], &self.keys.load(epoch)]);
                call.arg(trim).arg(after.to_string()).arg(most.entries).arg(most.bytes);
                Found::of(array(self.call(&script::PAGE, call).await?)?)?
            }
        };
        let [current, trim, sizes] = found.checkpoint;
        let [end, runs, measured] = found.load;
        let current = current.map(|text| text.parse().map(Epoch)).transpose();
        let current = current.map_err(|_| unexpected())?;
        let sizes = match lane {
            // The checkpoint's are those of its own epoch.
            Lane::Changes if current != Some(epoch) => None,
            Lane::Changes => sizes.as_deref().map(Sizes::parse),
            Lane::Bootstrap => measured.as_deref().and_then(sizes::measured).map(Sizes::of),
        };
        self.known = sizes.map(|sizes| Known { epoch, lane, sizes });
        let newest = |text: Option<String>| text.as_deref().map_or(Ok(Id::ZERO), id);
        Ok(Page {
            epoch: current,
            trim: newest(trim)?,
            end: newest(end)?,
            runs: runs.unwrap_or_default(),
            entries: found.entries,
        })
    }

    async fn wait(
        &mut self,
        epoch: Epoch,
        lane: Lane,
        after: Id,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        let mut command = redis::cmd("XREAD");
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
        command.arg("COUNT").arg(1).arg("BLOCK").arg(millis).arg("STREAMS");
        // With its first row the next epoch begins for who waits for more of this one.
        let next = self.keys.stream(Epoch(epoch.0 + 1), Lane::Bootstrap);
        command.arg(self.keys.stream(epoch, lane)).arg(next);
        command.arg(after.to_string()).arg(Id::ZERO.to_string());
        self.run_within(&command, timeout + WAIT_SLACK).await.map(drop)
    }

    async fn before(
        &mut self,
        epoch: Epoch,
        lane: Lane,
        through: Id,
    ) -> Result<Option<RawEntry>, StoreError> {
        let mut command = redis::cmd("XREVRANGE");
        command.arg(self.keys.stream(epoch, lane)).arg(through.to_string()).arg("-");
        command.arg("COUNT").arg(1);
        array(self.run(&command).await?)?.into_iter().next().map(entry).transpose()
    }
}

impl RedisStore {
    /// A page, as the script would answer, if it is known how large the entries are of which
    /// it may consist, and they are small.
    async fn known_page(
        &mut self,
        epoch: Epoch,
        lane: Lane,
        after: Id,
        most: Most,
        trim: &str,
    ) -> Result<Option<Found>, StoreError> {
        let known = self.known.as_ref().filter(|known| known.epoch == epoch && known.lane == lane);
        let Some(zone) = known.and_then(|known| known.sizes.behind(after)) else {
            return Ok(None);
        };
        let entries = (most.bytes / zone.largest.max(1)).min(most.entries);
        if entries < MEASURED || !self.transacts().await? {
            return Ok(None);
        }
        let mut checkpoint = redis::cmd("HMGET");
        checkpoint.arg(self.keys.checkpoint()).arg("epoch").arg(trim).arg("sizes");
        let mut page = redis::cmd("XRANGE");
        page.arg(self.keys.stream(epoch, lane)).arg(format!("({after}"));
        page.arg(zone.through.to_string()).arg("COUNT").arg(entries);
        let mut load = redis::cmd("HMGET");
        load.arg(self.keys.load(epoch)).arg("end").arg("runs").arg("measured");
        let commands = vec![checkpoint, page, load];
        let count = commands.len();
        // And that of MULTI, and that of EXEC.
        let keeping = self.tap.as_ref().and_then(|tap| tap.keep(count + 2));
        let done = self.transaction(commands).await;
        let found = match keeping.and_then(Keeping::take) {
            Some(kept) => Found::kept(kept, count).ok_or_else(unexpected)?,
            None => Found::done(done?.ok_or_else(unexpected)?)?,
        };
        // There may be some behind those.
        Ok((!found.entries.is_empty()).then_some(found))
    }
}

/// A page as the server answered.
struct Found {
    /// Epoch, trim point, and what is noted of the changes' sizes.
    checkpoint: [Option<String>; 3],
    entries: Vec<RawEntry>,
    /// The load's end, who wrote it, and what is noted of its sizes.
    load: [Option<String>; 3],
}

impl Found {
    /// Of a transaction.
    fn done(done: Vec<Value>) -> Result<Found, StoreError> {
        let Ok([checkpoint, entries, load]) = <[Value; 3]>::try_from(done) else {
            return Err(unexpected());
        };
        let mut reply = array(checkpoint)?;
        reply.push(entries);
        reply.extend(array(load)?);
        Found::of(reply)
    }

    /// Of the script.
    fn of(reply: Vec<Value>) -> Result<Found, StoreError> {
        let Ok([epoch, trim, sizes, entries, end, runs, measured]) = <[Value; 7]>::try_from(reply)
        else {
            return Err(unexpected());
        };
        let word = |value: Value| match value {
            Value::Nil => Ok(None),
            value => text(&value).map(Some),
        };
        Ok(Found {
            checkpoint: [word(epoch)?, word(trim)?, word(sizes)?],
            entries: array(entries)?.into_iter().map(entry).collect::<Result<_, _>>()?,
            load: [word(end)?, word(runs)?, word(measured)?],
        })
    }

    /// Of a transaction of so many commands whose replies were kept from the driver.
    fn kept(kept: Bytes, commands: usize) -> Option<Found> {
        let mut replies = Replies::of(kept);
        (0..=commands).try_for_each(|_| replies.pass())?;
        let words = |replies: &mut Replies| {
            let three = replies.array()? == 3;
            let mut word = || Some(replies.value()?.map(|text| lossy(&text)));
            three.then_some([word()?, word()?, word()?])
        };
        (replies.array()? == commands).then_some(())?;
        let checkpoint = words(&mut replies)?;
        let entries =
            (0..replies.array()?).map(|_| kept_entry(&mut replies)).collect::<Option<_>>()?;
        Some(Found { checkpoint, entries, load: words(&mut replies)? })
    }
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn kept_entry(replies: &mut Replies) -> Option<RawEntry> {
    (replies.array()? == 2).then_some(())?;
    let id = std::str::from_utf8(&replies.value()??).ok()?.parse().ok()?;
    let words = replies.array()?;
    let pairs = (0..words / 2).map(|_| Some((replies.value()??, replies.value()??)));
    Some(RawEntry { id, fields: pairs.collect::<Option<_>>()? })
}

fn entry(value: Value) -> Result<RawEntry, StoreError> {
    let mut parts = array(value)?.into_iter();
    let (Some(name), Some(fields)) = (parts.next(), parts.next()) else {
        return Err(unexpected());
    };
    let mut words = array(fields)?.into_iter();
    let mut pairs = Vec::with_capacity(words.len() / 2);
    while let (Some(field), Some(value)) = (words.next(), words.next()) {
        let (field, value) = (bytes(field)?, bytes(value)?);
        pairs.push((field.unwrap_or_default().into(), value.unwrap_or_default().into()));
    }
    Ok(RawEntry { id: id(&text(&name)?)?, fields: pairs })
}
