//! The data of the fake server and the scripts over it. Each function is one script of
//! `redis/*.lua`, with the same comparisons in the same order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::position::Epoch;
use crate::sink::entry::RawEntry;
use crate::sink::id::{Id, Keys, Lane};
use crate::sink::store::{
    Acked, Answer, Append, Begin, Begun, Checkpoint, Consumer, Dead, Fence, Finish, Finished,
    Guard, Inspection, LEASE_UNTIL, Leased, Load, NewEntry, StoreError, Trim,
};

type Hash = BTreeMap<String, String>;

/// Bytes that an entry costs beside its fields.
const ENTRY_BYTES: u64 = 32;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct World {
    pub(super) checkpoint: Hash,
    pub(super) state: Option<Vec<u8>>,
    pub(super) catalog: Option<Vec<u8>>,
    pub(super) coverage: Option<Vec<u8>>,
    pub(super) consumers: Hash,
    /// Dead letters, and the id of the newest that there ever was.
    pub(super) dead: (Vec<(Id, Vec<u8>)>, u64),
    pub(super) epochs: BTreeMap<u64, EpochData>,
    pub(super) wrong: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct EpochData {
    pub(super) changes: Stream,
    pub(super) bootstrap: Stream,
    load: Hash,
    acks: Hash,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Stream {
    pub(super) entries: Vec<Arc<RawEntry>>,
    last: Id,
    weight: u64,
}

impl Stream {
    fn push(&mut self, new: &NewEntry<'_>, generation: u64) {
        let field = |name: &'static str, value: &[u8]| {
            (Bytes::from_static(name.as_bytes()), Bytes::copy_from_slice(value))
        };
        let mut fields = vec![field("o", new.op.as_bytes())];
        if !new.table.is_empty() {
            fields.push(field("t", new.table.as_bytes()));
        }
        fields.push(field("d", new.data));
        fields.push(field("g", generation.to_string().as_bytes()));
        if new.last {
            fields.push(field("l", b"1"));
        }
        let entry = RawEntry { id: new.id, fields };
        self.weight += entry.weight() as u64 + ENTRY_BYTES;
        self.last = new.id;
        self.entries.push(Arc::new(entry));
    }

    pub(super) fn after(&self, id: Id) -> usize {
        self.entries.partition_point(|entry| entry.id <= id)
    }

    /// Removes what lies below `cut`; answers how many and the newest of them.
    fn trim(&mut self, cut: Id) -> Option<(u64, Id)> {
        let count = self.entries.partition_point(|entry| entry.id < cut);
        let newest = self.entries[..count].last()?.id;
        for entry in self.entries.drain(..count) {
            self.weight -= entry.weight() as u64 + ENTRY_BYTES;
        }
        Some((count as u64, newest))
    }

    pub(super) fn weight(&self) -> u64 {
        self.weight
    }
}

impl EpochData {
    pub(super) fn stream(&self, lane: Lane) -> &Stream {
        match lane {
            Lane::Changes => &self.changes,
            Lane::Bootstrap => &self.bootstrap,
        }
    }
}

fn get<'a>(hash: &'a Hash, field: &str) -> &'a str {
    hash.get(field).map_or("", String::as_str)
}

/// The comparison that begins every guarded write.
fn refused(found: &Hash, checkpoint: &Hash, stream: &Stream, guard: &Guard) -> Option<Answer> {
    let (writer, epoch) = (get(found, "writer"), get(checkpoint, "epoch"));
    if (!epoch.is_empty() && epoch != guard.epoch.0.to_string())
        || (!writer.is_empty() && writer != guard.writer)
    {
        return Some(Answer::Fenced { writer: writer.to_owned(), epoch: epoch.to_owned() });
    }
    let last = get(found, "last");
    let lost = epoch.is_empty() || writer.is_empty();
    if lost || last != guard.last.to_string() || stream.last != guard.last {
        let top = stream.last.to_string();
        return Some(Answer::Moved { top, last: last.to_owned() });
    }
    None
}

impl World {
    pub(super) fn weight(&self) -> u64 {
        let streams = self.epochs.values().map(|e| e.changes.weight + e.bootstrap.weight);
        streams.sum()
    }

    fn epoch(&mut self, epoch: Epoch) -> &mut EpochData {
        self.epochs.entry(epoch.0).or_default()
    }

    pub(super) fn current(&self) -> Option<Epoch> {
        get(&self.checkpoint, "epoch").parse().ok().map(Epoch)
    }

    pub(super) fn trimmed(&self, lane: Lane) -> Id {
        let field = if lane == Lane::Changes { "trim" } else { "trim_bootstrap" };
        get(&self.checkpoint, field).parse().unwrap_or(Id::ZERO)
    }

    pub(super) fn inspect(&self, keys: &Keys) -> Result<Inspection, StoreError> {
        let epoch = self.current().unwrap_or(Epoch(0));
        let all = [
            (keys.checkpoint(), "hash"),
            (keys.state(), "string"),
            (keys.catalog(), "string"),
            (keys.consumers(), "hash"),
            (keys.dead(), "stream"),
            (keys.stream(epoch, Lane::Changes), "stream"),
            (keys.stream(epoch, Lane::Bootstrap), "stream"),
            (keys.load(epoch), "hash"),
            (keys.acks(epoch), "hash"),
        ];
        for (key, expected) in all {
            if self.wrong.contains(&key) {
                return Err(StoreError::WrongType { key, found: "zset".to_owned(), expected });
            }
        }
        let hash: HashMap<_, _> = self.checkpoint.clone().into_iter().collect();
        let last = |lane| self.epochs.get(&epoch.0).map_or(Id::ZERO, |e| e.stream(lane).last);
        Ok(Inspection {
            checkpoint: Checkpoint::parse(&hash)?,
            changes: last(Lane::Changes),
            bootstrap: last(Lane::Bootstrap),
            entries: self
                .epochs
                .get(&epoch.0)
                .map_or(0, |e| e.stream(Lane::Changes).entries.len() as u64),
            letters: self.dead.0.len() as u64,
        })
    }

    pub(super) fn begin(&mut self, begin: &Begin<'_>) -> Begun {
        if self.current() != begin.before {
            return Begun::Moved;
        }
        if begin.state.is_some_and(|(old, _)| self.state.as_deref() != old) {
            return Begun::Moved;
        }
        if self.epochs.contains_key(&begin.epoch.0) {
            return Begun::Taken;
        }
        self.checkpoint.clear();
        self.dead.0.clear();
        self.set(&begin.fields);
        if let Some((_, new)) = begin.state {
            self.state = Some(new.to_vec());
        }
        if let Some(catalog) = begin.catalog {
            self.catalog = Some(catalog.to_vec());
        }
        Begun::Done
    }

    fn set(&mut self, fields: &[(&'static str, String)]) {
        for (field, value) in fields {
            self.checkpoint.insert((*field).to_owned(), value.clone());
        }
    }

    pub(super) fn fence(&mut self, fence: &Fence) -> Answer {
        let (writer, last) = (get(&self.checkpoint, "writer"), get(&self.checkpoint, "last"));
        let epoch = get(&self.checkpoint, "epoch");
        if epoch != fence.epoch.0.to_string() || writer != fence.writer {
            return Answer::Fenced { writer: writer.to_owned(), epoch: epoch.to_owned() };
        }
        let top = self.epochs.get(&fence.epoch.0).map_or(Id::ZERO, |e| e.changes.last);
        let position = get(&self.checkpoint, "position");
        if last != fence.last || top != fence.top || position != fence.position {
            return Answer::Moved { top: top.to_string(), last: last.to_owned() };
        }
        self.set(&fence.fields);
        Answer::Done
    }

    pub(super) fn append(&mut self, guard: &Guard, append: &Append<'_>) -> Answer {
        let checkpoint = self.checkpoint.clone();
        let empty = Stream::default();
        let stream = self.epochs.get(&guard.epoch.0).map_or(&empty, |e| &e.changes);
        if let Some(answer) = refused(&checkpoint, &checkpoint, stream, guard) {
            return answer;
        }
        if let Some(full) = self.dead_full(&append.dead) {
            return full;
        }
        self.dead_letters(&append.dead);
        if let Some(last) = append.entries.last() {
            self.checkpoint.insert("last".to_owned(), last.id.to_string());
            let stream = &mut self.epoch(guard.epoch).changes;
            for entry in &append.entries {
                stream.push(entry, append.generation);
            }
        }
        self.set(&append.fields);
        Answer::Done
    }

    fn dead_full(&self, dead: &Dead) -> Option<Answer> {
        let there = self.dead.0.len() as u64;
        let left = there.saturating_sub(dead.closed.len() as u64);
        let added = dead.letters.len() as u64;
        let full = added > 0 && left > 0 && left + added > dead.limit;
        full.then_some(Answer::Full { there })
    }

    fn dead_letters(&mut self, dead: &Dead) {
        let (letters, newest) = &mut self.dead;
        letters.retain(|(id, _)| !dead.closed.contains(&id.to_string()));
        for letter in &dead.letters {
            *newest += 1;
            letters.push((Id { high: *newest, low: 0 }, letter.clone()));
        }
    }

    pub(super) fn lease(
        &mut self,
        epoch: Epoch,
        (owner, writer): (&str, &str),
        lease_ms: u64,
        now_ms: u64,
    ) -> Leased {
        if self.current() != Some(epoch) {
            return Leased::OtherEpoch(get(&self.checkpoint, "epoch").to_owned());
        }
        let data = self.epoch(epoch);
        let held = get(&data.load, "owner").to_owned();
        let until: u64 = get(&data.load, "until").parse().unwrap_or(0);
        if !held.is_empty() && held != owner && until > now_ms {
            return Leased::Held { owner: held, remaining_ms: until - now_ms };
        }
        let top = data.bootstrap.last;
        let last = data.load.get("last").cloned().unwrap_or_else(|| Id::ZERO.to_string());
        if top.to_string() != last {
            return Leased::Torn { top: top.to_string(), last };
        }
        for (field, value) in [("owner", owner), ("writer", writer), ("last", &last)] {
            data.load.insert(field.to_owned(), value.to_owned());
        }
        data.load.insert("until".to_owned(), (now_ms + lease_ms).to_string());
        let mut runs: Vec<&str> = get(&data.load, "runs").split_whitespace().collect();
        let start = format!("{}:", top.high);
        runs.pop_if(|run| run.starts_with(&start));
        let run = format!("{start}{writer}");
        runs.push(&run);
        let runs = runs.join(" ");
        data.load.insert("runs".to_owned(), runs);
        Leased::Yes { last: top, progress: self.progress(epoch) }
    }

    pub(super) fn progress(&self, epoch: Epoch) -> HashMap<String, String> {
        let fields = self.epochs.get(&epoch.0).into_iter().flat_map(|data| &data.load);
        let own = |(field, value): (&String, &String)| {
            Some((field.strip_prefix("p:")?.to_owned(), value.clone()))
        };
        fields.filter_map(own).collect()
    }

    pub(super) fn seen_progress(&self, epoch: Epoch) -> HashMap<String, String> {
        let until = self.epochs.get(&epoch.0).and_then(|data| data.load.get("until"));
        let until = until.map(|until| (LEASE_UNTIL.to_owned(), until.clone()));
        self.progress(epoch).into_iter().chain(until).collect()
    }

    pub(super) fn load(&mut self, guard: &Guard, load: &Load<'_>, now_ms: u64) -> Answer {
        let checkpoint = self.checkpoint.clone();
        let data = self.epochs.get(&guard.epoch.0);
        let (empty, none) = (Stream::default(), Hash::new());
        let (hash, stream) = data.as_ref().map_or((&none, &empty), |e| (&e.load, &e.bootstrap));
        if let Some(answer) = refused(hash, &checkpoint, stream, guard) {
            return answer;
        }
        if data.is_none() {
            return Answer::Done;
        }
        if let Some(full) = self.dead_full(&load.dead) {
            return full;
        }
        self.dead_letters(&load.dead);
        let data = self.epoch(guard.epoch);
        for entry in &load.entries {
            data.bootstrap.push(entry, load.generation);
        }
        data.load.insert("last".to_owned(), data.bootstrap.last.to_string());
        let lease_ms = u64::try_from(load.lease.as_millis()).unwrap_or(u64::MAX / 2);
        data.load.insert("until".to_owned(), (now_ms + lease_ms).to_string());
        for (field, value) in &load.progress {
            let field = format!("p:{field}");
            match value {
                Some(value) => data.load.insert(field, value.clone()),
                None => data.load.remove(&field),
            };
        }
        Answer::Done
    }

    pub(super) fn finish(&mut self, guard: &Guard, finish: &Finish<'_>) -> Finished {
        let checkpoint = self.checkpoint.clone();
        let data = self.epoch(guard.epoch);
        if let Some(answer) = refused(&data.load, &checkpoint, &data.bootstrap, guard) {
            return Finished::Answer(answer);
        }
        if self.state.as_deref() != finish.old_state {
            return Finished::OtherState(self.state.clone());
        }
        let data = self.epoch(guard.epoch);
        data.bootstrap.push(&finish.end, finish.generation);
        data.load.insert("last".to_owned(), finish.end.id.to_string());
        data.load.insert("end".to_owned(), finish.end.id.to_string());
        data.load.insert("writer".to_owned(), "finished".to_owned());
        data.load.remove("owner");
        data.load.remove("until");
        self.state = Some(finish.new_state.to_vec());
        Finished::Answer(Answer::Done)
    }

    /// The newest `end` of the bootstrap stream.
    pub(super) fn end(&self, epoch: Epoch) -> Id {
        let data = self.epochs.get(&epoch.0);
        data.and_then(|data| data.load.get("end")?.parse().ok()).unwrap_or(Id::ZERO)
    }

    /// Who wrote which entries of the bootstrap stream.
    pub(super) fn runs(&self, epoch: Epoch) -> String {
        let data = self.epochs.get(&epoch.0);
        data.map_or("", |data| get(&data.load, "runs")).to_owned()
    }

    /// Through where a consumer has the bootstrap stream: all of it if it reads changes,
    /// but for the sections whose mark is to come.
    fn has_load(&self, consumer: &Consumer) -> Id {
        if consumer.changes == Id::ZERO {
            return consumer.bootstrap;
        }
        let data = self.current().and_then(|epoch| self.epochs.get(&epoch.0));
        let sections = data.into_iter().flat_map(|data| &data.load).filter_map(|(field, first)| {
            let high = field.strip_prefix("p:section:")?.parse().ok()?;
            let first: u64 = first.parse().ok()?;
            let to_come = Id { high, low: 0 } >= consumer.changes;
            to_come.then_some(first)
        });
        match sections.min() {
            None => MAX,
            Some(first) if consumer.bootstrap < (Id { high: first, low: 0 }) => {
                Id { high: first.saturating_sub(2), low: 1 }
            }
            Some(_) => consumer.bootstrap,
        }
    }

    pub(super) fn release(&mut self, epoch: Epoch, writer: &str) {
        let Some(data) = self.epochs.get_mut(&epoch.0) else { return };
        if get(&data.load, "writer") == writer {
            data.load.remove("owner");
            data.load.remove("until");
        }
    }

    pub(super) fn all_consumers(&self) -> Vec<Consumer> {
        let none = Hash::new();
        let acks = self.current().and_then(|e| self.epochs.get(&e.0)).map_or(&none, |e| &e.acks);
        let id = |name: &str, lane: &str| get(acks, &format!("{name}:{lane}")).parse();
        let one = |(name, since): (&String, &String)| Consumer {
            name: name.clone(),
            since_ms: since.parse().unwrap_or(0),
            seen_ms: get(acks, &format!("{name}:t")).parse().ok(),
            bootstrap: id(name, "b").unwrap_or(Id::ZERO),
            changes: id(name, "c").unwrap_or(Id::ZERO),
        };
        self.consumers.iter().map(one).collect()
    }

    pub(super) fn acknowledge(
        &mut self,
        name: &str,
        epoch: Epoch,
        (lane, id): (Lane, Id),
        now_ms: u64,
    ) -> Acked {
        if !self.consumers.contains_key(name) {
            return Acked::Unregistered;
        }
        if self.current() != Some(epoch) {
            return Acked::OtherEpoch;
        }
        let data = self.epoch(epoch);
        let id = id.min(data.stream(lane).last);
        let acks = &mut data.acks;
        let field = format!("{name}:{}", if lane == Lane::Changes { "c" } else { "b" });
        if get(acks, &field).parse().unwrap_or(Id::ZERO) < id {
            acks.insert(field, id.to_string());
        }
        acks.insert(format!("{name}:t"), now_ms.to_string());
        Acked::Done
    }

    pub(super) fn remove_consumer(&mut self, name: &str) -> bool {
        for data in self.epochs.values_mut() {
            for lane in ["b", "c", "t"] {
                data.acks.remove(&format!("{name}:{lane}"));
            }
        }
        self.consumers.remove(name).is_some()
    }

    pub(super) fn trim(&mut self, trim: Trim) -> u64 {
        if self.current() != Some(trim.epoch) {
            return 0;
        }
        let all = self.all_consumers();
        let changes = all.iter().map(|c| c.changes).min();
        let load = all.iter().map(|consumer| self.has_load(consumer)).min();
        let end = Some(self.end(trim.epoch)).filter(|end| *end > Id::ZERO);
        let ceiling = trim.ceiling.map(start);
        let data = self.epoch(trim.epoch);
        let mut gone = Vec::new();
        if let Some(last) = data.changes.entries.last().map(|entry| entry.id) {
            let newest = start(last);
            let wanted = |acked| data.changes.entries.get(data.changes.after(acked));
            let cut = changes.map(|acked| {
                let inside = if trim.pressed { acked.min(last) } else { Id::ZERO };
                let cut = wanted(acked).map_or(newest, |entry| start(entry.id)).max(inside);
                // A mark that was acknowledged last stays.
                if acked.low == 0 { cut.min(acked) } else { cut }
            });
            if let Some(cut) = cut.max(ceiling.map(|ceiling| ceiling.min(newest))) {
                gone.push(("trim", data.changes.trim(cut)));
            }
        }
        if let (Some(load), Some(last)) = (load, data.bootstrap.entries.last().map(|e| e.id)) {
            let wanted = data.bootstrap.entries.get(data.bootstrap.after(load));
            // What was acknowledged last stays.
            let cut = wanted.map_or(last, |_| load);
            let cut = cut.min(end.unwrap_or(cut));
            gone.push(("trim_bootstrap", data.bootstrap.trim(cut)));
        }
        let mut removed = 0;
        for (field, (count, newest)) in gone.into_iter().filter_map(|(f, gone)| Some((f, gone?))) {
            self.checkpoint.insert(field.to_owned(), newest.to_string());
            removed += count;
        }
        removed
    }
}

const MAX: Id = Id { high: u64::MAX, low: u64::MAX };

/// Where the transaction of an entry begins.
fn start(id: Id) -> Id {
    Id { high: id.high, low: 0 }
}
