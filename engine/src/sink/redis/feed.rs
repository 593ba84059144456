//! The readers' side.

use std::time::Duration;

use redis::{Cmd, Value};

use super::{RedisStore, array, bytes, id, text, unexpected};
use crate::position::Epoch;
use crate::sink::entry::RawEntry;
use crate::sink::id::{Id, Lane};
use crate::sink::store::{Feed, Page, StoreError};

/// A reply to a blocked read comes this much after its own timeout at the latest.
const WAIT_SLACK: Duration = Duration::from_secs(5);

impl RedisStore {
    /// Commands in one transaction: what they read belongs together.
    async fn transaction(&mut self, commands: Vec<Cmd>) -> Result<Vec<Value>, StoreError> {
        if let Some(why) = &self.dead {
            return Err(StoreError::Unknown(why.clone()));
        }
        let mut pipe = redis::pipe();
        pipe.atomic();
        for command in commands {
            pipe.add_command(command);
        }
        self.connection.set_response_timeout(self.response_timeout);
        let reply: Result<Value, _> = pipe.query_async(&mut self.connection).await;
        let reply = reply.map_err(|error| self.failed(&error))?;
        array(reply.extract_error().map_err(|error| self.failed(&error))?)
    }
}

impl Feed for RedisStore {
    async fn page(
        &mut self,
        epoch: Epoch,
        lane: Lane,
        after: Id,
        count: usize,
    ) -> Result<Page, StoreError> {
        let trim = match lane {
            Lane::Changes => "trim",
            Lane::Bootstrap => "trim_bootstrap",
        };
        let mut fields = redis::cmd("HMGET");
        fields.arg(self.keys.checkpoint()).arg("epoch").arg(trim);
        let mut range = redis::cmd("XRANGE");
        range.arg(self.keys.stream(epoch, lane)).arg(format!("({after}")).arg("+");
        range.arg("COUNT").arg(count);
        let mut end = redis::cmd("HGET");
        end.arg(self.keys.load(epoch)).arg("end");
        let mut replies = self.transaction(vec![fields, range, end]).await?.into_iter();
        let (Some(fields), Some(range), Some(end)) =
            (replies.next(), replies.next(), replies.next())
        else {
            return Err(unexpected());
        };
        let fields = array(fields)?;
        let field = |i: usize| match fields.get(i) {
            None | Some(Value::Nil) => Ok(None),
            Some(value) => text(value).map(Some),
        };
        let number = field(0)?.map(|n| n.parse().map_err(|_| unexpected())).transpose()?;
        Ok(Page {
            epoch: number.map(Epoch),
            trim: field(1)?.map_or(Ok(Id::ZERO), |text| id(&text))?,
            end: match end {
                Value::Nil => Id::ZERO,
                value => id(&text(&value)?)?,
            },
            entries: array(range)?.into_iter().map(entry).collect::<Result<_, _>>()?,
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
        command.arg(self.keys.stream(epoch, lane)).arg(after.to_string());
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
