//! The phase, the catalogue, and the consumers.

use std::collections::HashMap;

use redis::Value;

use super::{
    RedisStore, array, bytes, id, number, pairs, progress, script, text, texts, unexpected,
};
use crate::position::Epoch;
use crate::sink::id::{Id, Lane};
use crate::sink::store::{Acked, Consumer, LEASE_UNTIL, Registry, StoreError};

impl RedisStore {
    async fn get(&mut self, key: String) -> Result<Option<Vec<u8>>, StoreError> {
        let mut command = redis::cmd("GET");
        command.arg(key);
        bytes(self.run(&command).await?)
    }

    /// What was stored of the source's invalid indexes.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn indexes(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(self.keys.indexes()).await
    }

    /// Stores that.
    ///
    /// # Errors
    /// Redis does not answer, or has no room.
    pub async fn set_indexes(&mut self, indexes: &[u8]) -> Result<(), StoreError> {
        let mut command = redis::cmd("SET");
        command.arg(self.keys.indexes()).arg(indexes);
        self.run(&command).await.map(drop)
    }

    async fn swap(
        &mut self,
        key: String,
        old: Option<&[u8]>,
        new: &[u8],
    ) -> Result<bool, StoreError> {
        let mut call = script::STATE.on(&[key]);
        call.arg(if old.is_some() { "1" } else { "" }).arg(old.unwrap_or_default()).arg(new);
        Ok(number(&self.call(&script::STATE, call).await?)? == 1)
    }

    fn consumer_keys(&self) -> [String; 2] {
        [self.keys.checkpoint(), self.keys.consumers()]
    }
}

impl Registry for RedisStore {
    async fn state(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(self.keys.state()).await
    }

    async fn swap_state(&mut self, old: Option<&[u8]>, new: &[u8]) -> Result<bool, StoreError> {
        self.swap(self.keys.state(), old, new).await
    }

    async fn catalog(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(self.keys.catalog()).await
    }

    async fn set_catalog(&mut self, catalog: &[u8]) -> Result<(), StoreError> {
        let mut command = redis::cmd("SET");
        command.arg(self.keys.catalog()).arg(catalog);
        self.run(&command).await.map(drop)
    }

    async fn coverage(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(self.keys.coverage()).await
    }

    async fn swap_coverage(&mut self, old: Option<&[u8]>, new: &[u8]) -> Result<bool, StoreError> {
        self.swap(self.keys.coverage(), old, new).await
    }

    async fn letters(&mut self, after: Id, most: usize) -> Result<Vec<(Id, Vec<u8>)>, StoreError> {
        let mut command = redis::cmd("XRANGE");
        command.arg(self.keys.dead()).arg(format!("({after}")).arg("+").arg("COUNT").arg(most);
        let entries = array(self.run(&command).await?)?;
        entries.into_iter().map(letter).collect()
    }

    async fn forget(&mut self, letters: &[Id]) -> Result<u64, StoreError> {
        let mut command = redis::cmd("XDEL");
        command.arg(self.keys.dead());
        for letter in letters {
            command.arg(letter.to_string());
        }
        match letters.is_empty() {
            true => Ok(0),
            false => number(&self.run(&command).await?),
        }
    }

    async fn progress(&mut self, epoch: Epoch) -> Result<HashMap<String, String>, StoreError> {
        let mut command = redis::cmd("HGETALL");
        command.arg(self.keys.load(epoch));
        let words = texts(self.run(&command).await?)?;
        let mut fields = progress(&words);
        fields.extend(pairs(&words).remove("until").map(|until| (LEASE_UNTIL.to_owned(), until)));
        Ok(fields)
    }

    async fn add_consumer(&mut self, name: &str) -> Result<bool, StoreError> {
        let mut call = script::ADD_CONSUMER.on(&self.consumer_keys());
        call.arg(&self.tag).arg(name);
        Ok(number(&self.call(&script::ADD_CONSUMER, call).await?)? == 1)
    }

    async fn remove_consumer(&mut self, name: &str) -> Result<bool, StoreError> {
        let mut call = script::REMOVE_CONSUMER.on(&self.consumer_keys());
        call.arg(&self.tag).arg(name);
        Ok(number(&self.call(&script::REMOVE_CONSUMER, call).await?)? == 1)
    }

    async fn consumers(&mut self) -> Result<Vec<Consumer>, StoreError> {
        let mut call = script::CONSUMERS.on(&self.consumer_keys());
        call.arg(&self.tag);
        let rows = array(self.call(&script::CONSUMERS, call).await?)?;
        let mut all = rows.into_iter().map(consumer).collect::<Result<Vec<_>, _>>()?;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    async fn acknowledge(
        &mut self,
        name: &str,
        epoch: Epoch,
        lane: Lane,
        through: Id,
    ) -> Result<Acked, StoreError> {
        let keys = &self.keys;
        let stream = keys.stream(epoch, lane);
        let keys = [keys.checkpoint(), keys.consumers(), keys.acks(epoch), stream];
        let mut call = script::ACK.on(&keys);
        let lane = if lane == Lane::Changes { "c" } else { "b" };
        call.arg(epoch.0).arg(name).arg(lane).arg(through.to_string());
        match text(&self.call(&script::ACK, call).await?)?.as_str() {
            "DONE" => Ok(Acked::Done),
            "UNREGISTERED" => Ok(Acked::Unregistered),
            "EPOCH" => Ok(Acked::OtherEpoch),
            _ => Err(unexpected()),
        }
    }
}

/// An entry of the dead letters: its id, and the field `d`.
fn letter(entry: Value) -> Result<(Id, Vec<u8>), StoreError> {
    let mut entry = array(entry)?.into_iter();
    let (Some(at), Some(words)) = (entry.next(), entry.next()) else { return Err(unexpected()) };
    let mut words = array(words)?.into_iter();
    let data = match (words.next(), words.next()) {
        (Some(_), Some(data)) => bytes(data)?.unwrap_or_default(),
        _ => return Err(unexpected()),
    };
    Ok((id(&text(&at)?)?, data))
}

fn consumer(row: Value) -> Result<Consumer, StoreError> {
    let words = texts(row)?;
    let [name, since, seen, bootstrap, changes] = &words[..] else { return Err(unexpected()) };
    Ok(Consumer {
        name: name.clone(),
        since_ms: since.parse().map_err(|_| unexpected())?,
        seen_ms: seen.parse().ok(),
        bootstrap: id(bootstrap)?,
        changes: id(changes)?,
    })
}
