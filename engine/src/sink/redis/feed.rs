//! The readers' side.

use std::time::Duration;

use redis::Value;

use super::{RedisStore, array, bytes, id, script, text, unexpected};
use crate::position::Epoch;
use crate::sink::entry::RawEntry;
use crate::sink::id::{Id, Lane};
use crate::sink::store::{Feed, Most, Page, StoreError};

/// A reply to a blocked read comes this much after its own timeout at the latest.
const WAIT_SLACK: Duration = Duration::from_secs(5);

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
        let keys = [self.keys.checkpoint(), self.keys.stream(epoch, lane), self.keys.load(epoch)];
        let mut call = script::PAGE.on(&keys);
        call.arg(trim).arg(after.to_string()).arg(most.entries).arg(most.bytes);
        let reply = array(self.call(&script::PAGE, call).await?)?;
        let Ok([epoch, trim, entries, end, runs]) = <[Value; 5]>::try_from(reply) else {
            return Err(unexpected());
        };
        let epoch = match epoch {
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
