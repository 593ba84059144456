//! Loads that go on, and tables that are loaded again: what the engine does around the
//! loader and the holder. The order of the steps is [`crate::bootstrap`]'s; here each is
//! done, and done again after whatever interrupted it.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::effects::unavailable;
use super::{Engine, Event, Running, World, loading};
use crate::batch::Mark;
use crate::bootstrap::{
    self, Command, Definitions, Facts, Load, Phase, Refusal, Reload, Streaming, Transition,
};
use crate::control::{Answer, Reply};
use crate::quote::identifier;
use crate::sink::store::Registry;
use crate::source::RELOAD_PREFIX;
use crate::source::catalog::Catalog;
use crate::source::snapshot::{Holder, HolderSpec, Report};
use crate::source::wal::emit_message;
use crate::transform::Run;
use crate::transform::reload::Poke;

/// How often is looked whether a mark is published.
const LOOK: Duration = Duration::from_millis(200);
/// A mark that was not seen for so long was lost with the server, and is written again.
const LOST: Duration = Duration::from_secs(10);

/// Tables by the names that they are published under, and what those are.
pub(super) type Named = (Vec<String>, Definitions);

impl Engine {
    /// Goes on with whatever has to be loaded in this phase.
    pub(super) fn go_on_loading(&mut self) {
        match &self.phase {
            Phase::Streaming(Streaming { reload: Some(reload), .. }) if reload.mark.0 == 0 => {
                self.mark();
            }
            _ => self.begin_load(),
        }
    }

    pub(super) fn begin_load(&mut self) {
        let Some(load) = self.phase.open_load() else { return };
        if load.holder.is_none() {
            self.rehold();
            return;
        }
        let section = match &self.phase {
            Phase::Streaming(Streaming { reload: Some(reload), .. }) => {
                Some((reload.mark, reload.section))
            }
            _ => None,
        };
        let loading = loading::Loading {
            world: Arc::clone(&self.world),
            load: load.clone(),
            section,
            shared: self.load.clone(),
            events: self.events.clone(),
        };
        self.troubles.load = None;
        let running = Running::spawn(|stop| loading.run(stop)).publishing(&self.load.sink);
        self.load_by(running);
    }

    /// Nobody else loads from now on.
    fn load_by(&mut self, running: Running) {
        if let Some(before) = self.loading.replace(running) {
            tokio::spawn(before.end());
        }
    }

    /// A later snapshot for the tables that are not loaded, after a pause that grows as long as
    /// none is finished.
    pub(super) fn rehold(&mut self) {
        let Some(load) = self.phase.open_load() else { return };
        let spec = self.world.holder_spec(load.epoch, load.mode, None);
        let range_blocks = match load.range_blocks {
            0 => spec.range_blocks,
            // The tables that stay are cut as they were, and so are the others.
            cut => cut,
        };
        let spec = HolderSpec { later: true, range_blocks, ..spec };
        let events = self.events.clone();
        // The mark is published and the snapshot is not taken: what changes in between is
        // skipped, so rules that map these tables' keys otherwise are taken here, or not at all.
        // What an earlier snapshot has loaded stays, and so do its keys.
        let moving = match &self.phase {
            Phase::Streaming(Streaming { reload: Some(reload), .. }) => reload.unloaded(),
            _ => Vec::new(),
        };
        let (world, poke) = (Arc::clone(&self.world), self.reload.poker());
        let pause = self.reholding.next();
        tracing::info!(pause_ms = pause.as_millis(), "a later snapshot is about to be taken");
        self.load_by(Running::spawn(move |stop| async move {
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            if !moving.is_empty() {
                world.let_move(moving, &poke, &stop).await;
            }
            loading::rehold(&world, spec, events, stop).await;
        }));
    }

    /// A later snapshot and its locks stand: the load goes on with it.
    pub(super) async fn reheld(&mut self, report: Report, holder: Holder, by: Run) {
        if let Some(loading) = self.loading.take() {
            loading.end().await;
        }
        if let Err(refusal) = self.go_on(report, holder, by).await {
            // The holder ends when it is dropped without being adopted.
            tracing::warn!(%refusal, "the later snapshot is not used");
            self.troubles.load = Some(refusal.text);
            // Whatever was refused, and why: the phase may have come to name a holder that
            // has ended (its reply was lost, and it was stored), and nobody else loads.
            if self.loading.is_none() {
                self.go_on_loading();
            }
        }
    }

    async fn go_on(&mut self, report: Report, holder: Holder, by: Run) -> Result<(), Refusal> {
        let command = Command::Reheld(Box::new(report.load));
        self.catch_up(Some(&command)).await?;
        let mut store = self.world.redis_store().await.map_err(unavailable)?;
        let facts = Facts { run: Some(by), ..self.facts(&mut store, &command).await? };
        let Transition { next, effects } = bootstrap::on(&self.phase, command, &facts)?;
        // Before the phase: as long as that names no holder, nobody loads by the catalogue.
        let catalog = serde_json::to_vec(&report.catalog).map_err(unavailable)?;
        store.set_catalog(&catalog).await.map_err(unavailable)?;
        self.world.take_catalog(&report.catalog, false);
        tell_apart(&self.phase, &next);
        tell_missing(&next);
        tell_later(&next);
        self.store(&mut store, &next).await?;
        self.phase = next;
        self.load = loading::Shared::default();
        if let Err(error) = holder.adopt().await {
            tracing::warn!(%error, "the holder has ended again");
        }
        self.act(effects, None).await
    }

    /// What was known of rows of before holds no more of what is loaded now: where anything was, a
    /// generation is made that knows nothing of it.
    pub(super) fn loaded_anew(&self) {
        let (handle, poke) = (Arc::clone(&self.world.handle), self.reload.poker());
        let run = handle.newest().run().clone();
        let tables = self.phase.passed(&run);
        tokio::task::spawn_blocking(move || {
            // May wait for one that is being made.
            if handle.loaded_by(&run, &tables) {
                poke.look();
            }
        });
    }

    /// Has the mark of the reload published.
    pub(super) fn mark(&mut self) {
        let Phase::Streaming(Streaming { reload: Some(reload), .. }) = &self.phase else { return };
        let Reload { nonce, section, tables, .. } = reload.as_ref().clone();
        // Figures of the load before are none of this one's.
        self.load = loading::Shared::default();
        let chain = self.world.handle.newest();
        let tables = tables.iter().map(|table| chain.leaves_as(table)).collect();
        self.world.marks.expect(Some(Mark { nonce: nonce.clone(), section, tables }));
        let (world, events) = (Arc::clone(&self.world), self.events.clone());
        self.load_by(Running::spawn(|stop| marking(world, nonce, events, stop)));
    }

    /// The stream has published the mark.
    pub(super) async fn marked(&mut self, command: Command) {
        self.loading = None;
        self.apply(command, "the mark is published").await;
        // Until that is stored the stream has to know it: Redis may lose it once more.
        if let Phase::Streaming(Streaming { reload: Some(reload), .. }) = &self.phase
            && reload.mark.0 > 0
        {
            self.world.marks.expect(None);
        }
    }

    /// What was ended, or ends by itself, goes on once it is settled what Redis holds.
    pub(super) async fn other_state(&mut self, trouble: String) {
        // The task that says so may not be gone yet, or another one may have taken its place:
        // that one has a turn of its own soon enough.
        if let Some(loading) = self.loading.take() {
            loading.end().await;
        }
        self.troubles.load = Some(trouble);
        self.debts.load = true;
        if let Err(refusal) = self.catch_up(None).await {
            tracing::warn!(%refusal, "the load does not go on yet");
        }
    }

    /// Asks how tables are published that are to be loaded again. Nobody waits for the answer:
    /// on some servers a look at the tables waits for whoever is changing one of them.
    pub(super) fn name(&self, tables: Vec<String>, reply: Option<Reply<Answer>>) -> JoinHandle<()> {
        let (world, events) = (Arc::clone(&self.world), self.events.clone());
        tokio::spawn(async move {
            let names = world.published_names(&tables).await;
            let _ = events.send(Event::Named(names, reply)).await;
        })
    }

    /// The names are known.
    pub(super) async fn named(
        &mut self,
        names: Result<Named, Refusal>,
        reply: Option<Reply<Answer>>,
    ) {
        let Some(reply) = reply else { return self.load_named(names).await };
        let answer = match names {
            Ok(named) => self.load_again(named).await,
            Err(refusal) => Err(refusal),
        };
        self.tell(reply, answer);
    }

    /// Loads single tables again, by the names that they are published under.
    pub(super) async fn load_again(&mut self, (tables, planned): Named) -> Result<Answer, Refusal> {
        let previous = self.phase.state();
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(unavailable)?;
        let nonce = random.iter().map(|byte| format!("{byte:02x}")).collect();
        self.transition(Command::Reload { tables, nonce, planned }).await?;
        Ok(self.summary(previous))
    }
}

/// A table is named as SQL would, with quotes or without; a partition stands for the relation
/// that its rows are published as.
fn published_name(catalog: &Catalog, asked: &str) -> Option<String> {
    let either = |name: &str| [name.to_owned(), identifier(name)];
    let named = |schema: &str, table: &str| {
        let mut whole = either(schema).into_iter().flat_map(|schema| {
            either(table).into_iter().map(move |table| format!("{schema}.{table}"))
        });
        whole.any(|name| name == asked)
            || (schema == "public" && either(table).iter().any(|name| name == asked))
    };
    let relation = catalog.relations.iter().find(|r| named(&r.schema, &r.table));
    let partition = || {
        let found = catalog.tables.iter().find(|t| named(&t.schema, &t.table));
        catalog.relation(found?.relation)
    };
    relation.or_else(partition).map(|relation| relation.qualified())
}

/// Refused before targets empty the tables, which then wait for rows that cannot be read.
async fn readable(client: &Client, catalog: &Catalog, names: &[String]) -> Result<(), Refusal> {
    let held = catalog.tables.iter().filter(|table| {
        catalog.relation(table.relation).is_some_and(|of| names.contains(&of.qualified()))
    });
    let oids: Vec<u32> = held.map(|table| table.oid).collect();
    let lacking = "SELECT pg_catalog.format('GRANT USAGE ON SCHEMA %I TO %I; GRANT SELECT ON %I.%I TO %I', \
                   nspname, current_user, nspname, relname, current_user) \
                   FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace \
                   WHERE c.oid = ANY ($1) AND NOT (pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
                       AND pg_catalog.has_any_column_privilege(c.oid, 'SELECT')) ORDER BY 1";
    let found = client.query(lacking, &[&oids]).await.map_err(unavailable)?;
    let grants: Vec<String> = found.iter().map(|row| row.get(0)).collect();
    match grants.is_empty() {
        true => Ok(()),
        false => Err(Refusal::precondition(format!(
            "the role of source.url may not read what is to be loaded: {}; then ask again",
            grants.join("; ")
        ))),
    }
}

/// Writes the mark, and waits until the checkpoint says that it is published: then it is,
/// in the very step that says so.
async fn marking(
    world: Arc<World>,
    nonce: String,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    let mut written: Option<Instant> = None;
    loop {
        let trouble = match look_for(&world, &nonce, &mut written).await {
            Ok(Some(command)) => {
                let _ = events.send(Event::Marked(command)).await;
                return;
            }
            Ok(None) => None,
            Err(error) => Some(format!("the mark of a table's load is not written yet: {error}")),
        };
        let _ = events.try_send(Event::LoadTrouble(trouble));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn look_for(
    world: &World,
    nonce: &str,
    written: &mut Option<Instant>,
) -> Result<Option<Command>, Box<dyn std::error::Error + Send + Sync>> {
    let checkpoint = world.inspect().await?.checkpoint;
    if checkpoint.is_some_and(|checkpoint| checkpoint.marked(nonce).is_some()) {
        return Ok(Some(Command::Marked { nonce: nonce.to_owned() }));
    }
    if written.is_none_or(|at| at.elapsed() > LOST) {
        // Should it be there twice, the second one is none: the publisher knows its word.
        let client = world.sql("kasho").await?;
        emit_message(&client, RELOAD_PREFIX, nonce).await?;
        *written = Some(Instant::now());
    }
    Ok(None)
}

impl World {
    /// The names under which the rows of these tables are published, and what those are now.
    async fn published_names(&self, asked: &[String]) -> Result<Named, Refusal> {
        let client = self.sql("kasho").await.map_err(unavailable)?;
        let publications = &self.config.source.publications;
        let catalog = Catalog::read(&client, publications).await.map_err(unavailable)?;
        let mut names = Vec::new();
        for asked in asked {
            let name = published_name(&catalog, asked).ok_or_else(|| {
                Refusal::argument(format!(
                    "table {asked:?} is not published by {}: name it as schema.table, or add it to \
                     the publication first (ALTER PUBLICATION … ADD TABLE …)",
                    publications.join(", ")
                ))
            })?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        readable(&client, &catalog, &names).await?;
        let mut planned = catalog.definitions(&client).await.map_err(unavailable)?;
        planned.retain(|name, _| names.contains(name));
        Ok((names, planned))
    }

    /// Has the files looked at once while these tables may be mapped otherwise.
    async fn let_move(&self, tables: Vec<String>, poke: &Poke, stop: &CancellationToken) {
        // Candidates are made on a thread of their own, which may be waiting for servers.
        let (moves, tables) = (Arc::clone(&self.handle), tables.into_iter().collect());
        let told = tokio::task::spawn_blocking(move || moves.may_move(tables)).await;
        // Nothing has changed on disk, and the next look may be far.
        poke.look();
        let begun = Instant::now();
        while told.is_ok() && !self.handle.has_looked() && begun.elapsed() < LOST {
            if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
                break;
            }
        }
        let moves = Arc::clone(&self.handle);
        let settled = tokio::task::spawn_blocking(move || moves.settle_moves()).await;
        if settled.is_err() {
            tracing::error!("the tables that may be mapped otherwise were not settled");
        }
    }
}

/// Says which tables that targets empty at the mark are not there any more under that name.
fn tell_missing(phase: &Phase) {
    let Phase::Streaming(Streaming { reload: Some(reload), .. }) = phase else { return };
    let tables = reload.load.tables.iter().filter(|part| !part.gone);
    let there: Vec<&str> = tables.map(|part| part.published_as.as_str()).collect();
    let later = &reload.load.later;
    let missing = |name: &&String| !there.contains(&name.as_str()) && !later.contains(name);
    for table in reload.tables.iter().filter(missing) {
        tracing::warn!(
            table,
            "the table was dropped, or got another name, after it was to be emptied in the targets: \
             nothing of it is loaded. If it has another name, its rows are missing there until that \
             one is loaded (`kasho bootstrap --table`)"
        );
    }
}

/// Says which tables are put off.
pub(super) fn tell_later(phase: &Phase) {
    let later = match phase {
        Phase::Accumulating(load) => &load.later[..],
        Phase::Streaming(Streaming { reload: Some(reload), .. }) => &reload.load.later,
        Phase::Streaming(_) | Phase::Waiting(_) => &[],
    };
    for table in later {
        tracing::warn!(
            table,
            "the table was made, altered, renamed or dropped since its load was planned, and its rows \
             would not fit what targets have then: those that there are, are loaded behind that \
             change, while changes stream"
        );
    }
}

/// Says which finished tables are not any more.
fn tell_apart(before: &Phase, after: &Phase) {
    let load = |phase: &Phase| phase.open_load().cloned();
    let (Some(before), Some(after)): (Option<Load>, Option<Load>) = (load(before), load(after))
    else {
        return;
    };
    for table in after.tables.iter().filter(|table| !table.done) {
        let finished = before.tables.iter().any(|old| {
            old.done && !old.gone && old.oid == table.oid && old.attempt < table.attempt
        });
        if finished {
            tracing::warn!(
                table = table.table,
                "the table was altered, rewritten or emptied since it was loaded: it is loaded \
                 again"
            );
        }
    }
}
