//! The writers' side: arguments in, answer out. The scripts say what each word means.

use std::time::Duration;

use redis::Cmd;

use super::{
    RedisStore, answer, array, bytes, id, number, pairs, progress, script, text, texts, unexpected,
};
use crate::position::Epoch;
use crate::sink::config::Durability;
use crate::sink::id::{Id, Lane};
use crate::sink::store::{
    Answer, Append, Begin, Begun, Checkpoint, Dead, Fence, Finish, Finished, Guard, Inspection,
    Leased, Load, NewEntry, Server, Store, StoreError, Trim, Usage, in_order,
};

fn guard_args(call: &mut Cmd, guard: &Guard, generation: u64) {
    call.arg(&guard.writer).arg(guard.epoch.0).arg(guard.last.to_string()).arg(generation);
}

fn entry_args(call: &mut Cmd, entries: &[NewEntry<'_>]) {
    for entry in entries {
        call.arg(entry.id.to_string()).arg(entry.op).arg(entry.table).arg(entry.data);
        call.arg(if entry.last { "1" } else { "" });
    }
}

fn dead_args(call: &mut Cmd, dead: &Dead) {
    call.arg(dead.limit).arg(dead.closed.len()).arg(dead.letters.len());
    for id in &dead.closed {
        call.arg(id);
    }
    for letter in &dead.letters {
        call.arg(letter);
    }
}

fn optional(call: &mut Cmd, value: Option<&[u8]>) {
    call.arg(if value.is_some() { "1" } else { "" }).arg(value.unwrap_or_default());
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Store for RedisStore {
    async fn server(&mut self) -> Result<Server, StoreError> {
        self.describe().await
    }

    async fn inspect(&mut self) -> Result<Inspection, StoreError> {
        let keys = &self.keys;
        let keys = [keys.checkpoint(), keys.state(), keys.catalog(), keys.consumers(), keys.dead()];
        let mut call = script::INSPECT.on(&keys);
        call.arg(&self.tag);
        let words = texts(self.call(&script::INSPECT, call).await?)?;
        match &words[..] {
            [kind, key, found, expected] if kind == "WRONGTYPE" => Err(StoreError::WrongType {
                key: key.clone(),
                found: found.clone(),
                expected: ["hash", "string", "stream"]
                    .into_iter()
                    .find(|name| name == expected)
                    .unwrap_or("key of ours"),
            }),
            [kind, changes, bootstrap, entries, letters, fields @ ..] if kind == "FOUND" => {
                Ok(Inspection {
                    checkpoint: Checkpoint::parse(&pairs(fields))?,
                    changes: id(changes)?,
                    bootstrap: id(bootstrap)?,
                    entries: entries.parse().map_err(|_| unexpected())?,
                    letters: letters.parse().map_err(|_| unexpected())?,
                })
            }
            _ => Err(unexpected()),
        }
    }

    async fn begin(&mut self, begin: &Begin<'_>) -> Result<Begun, StoreError> {
        let (keys, epoch) = (&self.keys, begin.epoch);
        let mut call = script::BEGIN.on(&[
            keys.checkpoint(),
            keys.stream(epoch, Lane::Changes),
            keys.stream(epoch, Lane::Bootstrap),
            keys.load(epoch),
            keys.acks(epoch),
            keys.state(),
            keys.catalog(),
            keys.consumers(),
            keys.dead(),
        ]);
        call.arg(begin.before.map_or(String::new(), |before| before.0.to_string()));
        call.arg(if begin.state.is_some() { "1" } else { "" });
        let (old, new) = begin.state.unwrap_or((None, b""));
        optional(&mut call, old);
        call.arg(new);
        optional(&mut call, begin.catalog);
        for (field, value) in &begin.fields {
            call.arg(*field).arg(value);
        }
        match texts(self.call(&script::BEGIN, call).await?)?.first().map(String::as_str) {
            Some("DONE") => Ok(Begun::Done),
            Some("TAKEN") => Ok(Begun::Taken),
            Some("MOVED") => Ok(Begun::Moved),
            _ => Err(unexpected()),
        }
    }

    async fn fence(&mut self, fence: &Fence) -> Result<Answer, StoreError> {
        let keys = [self.keys.checkpoint(), self.keys.stream(fence.epoch, Lane::Changes)];
        let mut call = script::FENCE.on(&keys);
        call.arg(fence.epoch.0).arg(&fence.writer).arg(&fence.last).arg(fence.top.to_string());
        call.arg(&fence.position);
        for (field, value) in &fence.fields {
            call.arg(*field).arg(value);
        }
        answer(self.call(&script::FENCE, call).await?)
    }

    async fn append(&mut self, guard: &Guard, append: &Append<'_>) -> Result<Answer, StoreError> {
        in_order(guard, &append.entries)?;
        let noted = self.note(guard, &append.entries).await?;
        let grows = !append.entries.is_empty() || !append.dead.letters.is_empty();
        let script = if grows { &script::APPEND } else { &script::MARK };
        let keys = &self.keys;
        let keys = [keys.checkpoint(), keys.stream(guard.epoch, Lane::Changes), keys.dead()];
        let mut call = script.on(&keys);
        guard_args(&mut call, guard, append.generation);
        let sizes = noted.told();
        call.arg((append.fields.len() + usize::from(sizes.is_some())) * 2);
        for (field, value) in &append.fields {
            call.arg(*field).arg(value);
        }
        if let Some(sizes) = sizes {
            call.arg("sizes").arg(sizes);
        }
        dead_args(&mut call, &append.dead);
        entry_args(&mut call, &append.entries);
        let answer = answer(self.call(script, call).await?)?;
        if answer == Answer::Done {
            self.noted = Some(noted);
        }
        Ok(answer)
    }

    async fn lease(
        &mut self,
        epoch: Epoch,
        owner: &str,
        writer: &str,
        lease: Duration,
    ) -> Result<Leased, StoreError> {
        let keys = &self.keys;
        let keys = [keys.load(epoch), keys.stream(epoch, Lane::Bootstrap), keys.checkpoint()];
        let mut call = script::LEASE.on(&keys);
        call.arg(epoch.0).arg(owner).arg(writer).arg(millis(lease));
        let words = texts(self.call(&script::LEASE, call).await?)?;
        match &words[..] {
            [kind, epoch] if kind == "EPOCH" => Ok(Leased::OtherEpoch(epoch.clone())),
            [kind, top, last] if kind == "TORN" => {
                Ok(Leased::Torn { top: top.clone(), last: last.clone() })
            }
            [kind, owner, remaining] if kind == "HELD" => Ok(Leased::Held {
                owner: owner.clone(),
                remaining_ms: remaining.parse().map_err(|_| unexpected())?,
            }),
            [kind, last, fields @ ..] if kind == "YES" => {
                Ok(Leased::Yes { last: id(last)?, progress: progress(fields) })
            }
            _ => Err(unexpected()),
        }
    }

    async fn load(&mut self, guard: &Guard, load: &Load<'_>) -> Result<Answer, StoreError> {
        in_order(guard, &load.entries)?;
        if let Some(answer) = self.bulk_load(guard, load).await? {
            return Ok(answer);
        }
        let grows = !load.entries.is_empty() || !load.dead.letters.is_empty();
        let script = if grows { &script::LOAD } else { &script::RENEW };
        let [load_key, stream, checkpoint] = self.load_keys(guard.epoch);
        let mut call = script.on(&[load_key, stream, checkpoint, self.keys.dead()]);
        guard_args(&mut call, guard, load.generation);
        let set = load.progress.iter().filter(|(_, value)| value.is_some()).count();
        call.arg(millis(load.lease)).arg(set * 2).arg(load.progress.len() - set);
        for (field, value) in &load.progress {
            if let Some(value) = value {
                call.arg(field).arg(value);
            }
        }
        for (field, _) in load.progress.iter().filter(|(_, value)| value.is_none()) {
            call.arg(field);
        }
        dead_args(&mut call, &load.dead);
        entry_args(&mut call, &load.entries);
        answer(self.call(script, call).await?)
    }

    async fn finish(&mut self, guard: &Guard, finish: &Finish<'_>) -> Result<Finished, StoreError> {
        in_order(guard, std::slice::from_ref(&finish.end))?;
        let [load, stream, checkpoint] = self.load_keys(guard.epoch);
        let mut call = script::FINISH.on(&[load, stream, checkpoint, self.keys.state()]);
        guard_args(&mut call, guard, finish.generation);
        optional(&mut call, finish.old_state);
        call.arg(finish.new_state);
        entry_args(&mut call, std::slice::from_ref(&finish.end));
        let reply = self.call(&script::FINISH, call).await?;
        let mut words = array(reply)?;
        if words.first().map(text).transpose()?.as_deref() == Some("STATE") {
            let state = if words.len() > 1 { bytes(words.remove(1))? } else { None };
            return Ok(Finished::OtherState(state));
        }
        Ok(Finished::Answer(answer(redis::Value::Array(words))?))
    }

    async fn release(&mut self, epoch: Epoch, writer: &str) -> Result<(), StoreError> {
        let mut call = script::RELEASE.on(&[self.keys.load(epoch)]);
        call.arg(writer);
        self.call(&script::RELEASE, call).await.map(drop)
    }

    async fn durable(
        &mut self,
        durability: Durability,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        self.wait_durable(durability, timeout).await
    }

    async fn usage(&mut self, epoch: Epoch) -> Result<Usage, StoreError> {
        self.memory(epoch).await
    }

    async fn trim(&mut self, trim: Trim) -> Result<u64, StoreError> {
        let (keys, epoch) = (&self.keys, trim.epoch);
        let mut call = script::TRIM.on(&[
            keys.checkpoint(),
            keys.stream(epoch, Lane::Changes),
            keys.stream(epoch, Lane::Bootstrap),
            keys.acks(epoch),
            keys.consumers(),
            keys.load(epoch),
        ]);
        call.arg(epoch.0);
        call.arg(trim.ceiling.as_ref().map_or(String::new(), Id::to_string));
        call.arg(if trim.pressed { "1" } else { "" });
        number(&self.call(&script::TRIM, call).await?)
    }

    async fn discard(&mut self, epoch: Epoch) -> Result<(), StoreError> {
        let keys = &self.keys;
        let mut command = redis::cmd("UNLINK");
        command.arg(keys.stream(epoch, Lane::Changes)).arg(keys.stream(epoch, Lane::Bootstrap));
        command.arg(keys.load(epoch)).arg(keys.acks(epoch));
        self.run(&command).await.map(drop)
    }
}

impl RedisStore {
    pub(super) fn load_keys(&self, epoch: Epoch) -> [String; 3] {
        let keys = &self.keys;
        [keys.load(epoch), keys.stream(epoch, Lane::Bootstrap), keys.checkpoint()]
    }
}
