//! The readers' side.

use std::time::Duration;

use redis::Value;

use super::{Measured, RedisStore, array, bytes, id, script, text, unexpected};
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
        let read = match lane {
            Lane::Changes => None,
            Lane::Bootstrap => self.measured_page(epoch, after, most, trim).await?,
        };
        let reply = match read {
            Some(reply) => reply,
            None => {
                let keys = [self.keys.checkpoint(), self.keys.stream(epoch, lane)];
                let mut call = script::PAGE.on(&[&keys[0], &keys[1], &self.keys.load(epoch)]);
                call.arg(trim).arg(after.to_string()).arg(most.entries).arg(most.bytes);
                array(self.call(&script::PAGE, call).await?)?
            }
        };
        let Ok([current, trim, entries, end, runs, largest]) = <[Value; 6]>::try_from(reply) else {
            return Err(unexpected());
        };
        if lane == Lane::Bootstrap {
            self.measured = measured(epoch, &largest)?;
        }
        let epoch = match current {
            Value::Nil => None,
            value => Some(text(&value)?.parse().map(Epoch).map_err(|_| unexpected())?),
        };
        Ok(Page {
            epoch,
            trim: match trim {
                Value::Nil => Id::ZERO,
                value => id(&text(&value)?)?,
            },
            end: match end {
                Value::Nil => Id::ZERO,
                value => id(&text(&value)?)?,
            },
            runs: match runs {
                Value::Nil => String::new(),
                value => text(&value)?,
            },
            entries: array(entries)?.into_iter().map(entry).collect::<Result<_, _>>()?,
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
    /// A page of the load, as the script would answer, if it is known how large the entries are
    /// of which it may consist, and they are small.
    async fn measured_page(
        &mut self,
        epoch: Epoch,
        after: Id,
        most: Most,
        trim: &str,
    ) -> Result<Option<Vec<Value>>, StoreError> {
        let known = self.measured.filter(|known| known.epoch == epoch && after < known.through);
        let Some(known) = known else { return Ok(None) };
        let count = (most.bytes / known.largest.max(1)).min(most.entries);
        if count < MEASURED || !self.transacts().await? {
            return Ok(None);
        }
        let mut checkpoint = redis::cmd("HMGET");
        checkpoint.arg(self.keys.checkpoint()).arg("epoch").arg(trim);
        let mut page = redis::cmd("XRANGE");
        page.arg(self.keys.stream(epoch, Lane::Bootstrap)).arg(format!("({after}"));
        page.arg(known.through.to_string()).arg("COUNT").arg(count);
        let mut load = redis::cmd("HMGET");
        load.arg(self.keys.load(epoch)).arg("end").arg("runs").arg("measured");
        let done = self.transaction(vec![checkpoint, page, load]).await?.ok_or_else(unexpected)?;
        let Ok([checkpoint, entries, load]) = <[Value; 3]>::try_from(done) else {
            return Err(unexpected());
        };
        // There may be some behind those.
        if matches!(&entries, Value::Array(entries) if entries.is_empty()) {
            return Ok(None);
        }
        let mut reply = array(checkpoint)?;
        reply.push(entries);
        reply.extend(array(load)?);
        Ok(Some(reply))
    }
}

/// What is noted of the sizes: an entry's id, and the largest through it.
pub(super) fn measured(epoch: Epoch, noted: &Value) -> Result<Option<Measured>, StoreError> {
    let Value::BulkString(_) = noted else { return Ok(None) };
    let noted = text(noted)?;
    let known = noted.split_once(' ').and_then(|(through, largest)| {
        let (through, largest) = (through.parse().ok()?, largest.parse().ok()?);
        Some(Measured { epoch, through, largest })
    });
    Ok(known)
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
        pairs.push((field.unwrap_or_default(), value.unwrap_or_default()));
    }
    Ok(RawEntry { id: id(&text(&name)?)?, fields: pairs })
}
