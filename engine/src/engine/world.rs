//! What every task of the engine shares: the configuration, ways to both servers, the
//! generations of the chain, and the tables as they are known.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::generations::Course;
use super::prepare::EngineError;
use crate::bootstrap::{self, LoadMode, Phase, SlotFact, Snapshot};
use crate::config::Config;
use crate::pipeline::Figures;
use crate::position::{Epoch, Lsn};
use crate::sink::SinkError;
use crate::sink::publisher::Description;
use crate::sink::redis::{RedisConnector, RedisStore};
use crate::sink::store::{Connect, Inspection, Registry, Store};
use crate::source::catalog::{Catalog, ConstraintKind};
use crate::source::conninfo::{Conninfo, sql_connect_with};
use crate::source::error::SourceError;
use crate::source::marks::Marks;
use crate::source::retries::Retries;
use crate::source::snapshot::{HolderSpec, check_server, slot_fact};
use crate::source::wal::{self, KnownRelations, ReplSession, SlotName, slot_status};
use crate::transform::{self, Archive, ForeignKey, Generation, Handle, Host};

/// How long slot creation may wait for open transactions.
const SLOT_TIMEOUT_S: u64 = 600;
const BLOCK_BYTES: u64 = 8 << 10;
/// Of a session for short questions: some of them, about tables, wait for whoever changes one,
/// and that may last for hours. They are asked again.
const SETTINGS: [(&str, &str); 4] = [
    ("statement_timeout", "0"),
    ("lock_timeout", "2s"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
];

/// Everything that does not change while the service runs, and the chain, which does.
pub(super) struct World {
    pub(super) config: Config,
    pub(super) path: PathBuf,
    pub(super) info: Conninfo,
    pub(super) slot: SlotName,
    pub(super) handle: Arc<Handle>,
    pub(super) host: Arc<Host>,
    /// Go on although Redis lost what PostgreSQL no longer has; until the stream is open.
    pub(super) accept_gap: AtomicBool,
    /// Every table as last described: load and stream share its versions.
    pub(super) known: KnownRelations,
    /// The mark that the stream is to know when it comes by.
    pub(super) marks: Marks,
    /// Rows that the stream is to read again.
    pub(super) retries: Retries,
    pub(super) tables: Mutex<transform::Catalog>,
    /// Whose turn it is to write down what generations cover.
    pub(super) learning: Arc<tokio::sync::Mutex<()>>,
    /// Nothing is loaded, and nothing is under way.
    pub(super) waiting: AtomicBool,
    /// Generations, kept from start to start.
    pub(super) archive: Arc<Archive>,
    /// What became of generations in this process's life.
    pub(super) course: Mutex<Course>,
}

impl World {
    /// Checks everything that can be checked without asking a server.
    pub(super) fn new(
        config: Config,
        path: PathBuf,
        accept_gap: bool,
    ) -> Result<World, EngineError> {
        let info = wal::conninfo(&config.source).map_err(EngineError::Url)?;
        let slot = SlotName::new(&config.source.slot)?;
        let host = Host::new(Some(&config.plugins.store)).map_err(EngineError::Host)?;
        // Nothing passes through this one: the chain is loaded once the tables are known.
        let none = transform::Config::default();
        let tables = transform::Catalog::default();
        let empty = transform::load(&host, &none, &tables, transform::Options::default());
        let empty = empty.map_err(|errors| EngineError::Chain(errors.into()))?;
        let handle = Handle::sampling(empty, config.plugins.probe_rows);
        let whose = format!("{} {}", config.redis.prefix, config.source.slot);
        let archive = Archive::open(&config.plugins.store, &whose).map_err(EngineError::Host)?;
        let tables = Mutex::new(tables);
        let (known, course) = (KnownRelations::default(), Mutex::default());
        let accept_gap = AtomicBool::new(accept_gap);
        let (marks, retries) = (Marks::default(), Retries::default());
        Ok(World {
            config,
            path,
            info,
            slot,
            handle,
            host,
            accept_gap,
            known,
            marks,
            retries,
            tables,
            learning: Arc::default(),
            waiting: AtomicBool::default(),
            archive,
            course,
        })
    }

    /// A session on the source for short questions.
    pub(super) async fn sql(&self, name: &str) -> Result<Client, SourceError> {
        sql_connect_with(&self.info, name, &SETTINGS).await
    }

    pub(super) async fn redis_store(&self) -> Result<RedisStore, SinkError> {
        Ok(RedisConnector::new(&self.config.redis).connect().await?)
    }

    pub(super) async fn inspect(&self) -> Result<Inspection, SinkError> {
        Ok(self.redis_store().await?.inspect().await?)
    }

    /// Stores a phase over `old`, durably.
    pub(super) async fn swap_state(
        &self,
        store: &mut RedisStore,
        old: Option<&[u8]>,
        new: &[u8],
    ) -> Result<(), SinkError> {
        if !store.swap_state(old, new).await? {
            return Err(SinkError::OtherState);
        }
        let redis = &self.config.redis;
        let timeout = Duration::from_millis(redis.durability_timeout_ms);
        Ok(store.durable(redis.durability, timeout).await?)
    }

    /// Expects no mark of a reload that Redis does not know: nobody would write its section. To
    /// be called once the stream is open: with a server that loses its last writes after
    /// that the stream is lost too.
    pub(super) async fn settle_marks(&self) -> Result<(), SinkError> {
        let stored = self.redis_store().await?.state().await?;
        let phase = stored.and_then(|text| bootstrap::load(&String::from_utf8_lossy(&text)).ok());
        let reload = match &phase {
            Some(Phase::Streaming(streaming)) => streaming.reload.as_ref(),
            _ => None,
        };
        self.marks.keep(|mark| reload.is_some_and(|reload| reload.nonce == mark.nonce));
        Ok(())
    }

    pub(super) async fn slot_fact(&self) -> Result<SlotFact, SourceError> {
        slot_fact(&self.sql("kasho").await?, &self.info, &self.slot).await
    }

    /// What PostgreSQL was told of our slot.
    pub(super) async fn confirmed_flush(&self) -> Result<Lsn, SourceError> {
        let status = slot_status(&self.sql("kasho").await?, &self.slot).await?;
        let missing = || SourceError::SlotMissing { slot: self.slot.to_string() };
        Ok(status.ok_or_else(missing)?.confirmed_flush.unwrap_or(Lsn::ZERO))
    }

    /// Lets standbys keep a copy of the slot, if that is asked for and not so yet.
    pub(super) async fn keep_slot(&self, session: &mut ReplSession) -> Result<(), SourceError> {
        if !self.config.source.failover {
            return Ok(());
        }
        match slot_status(&self.sql("kasho").await?, &self.slot).await? {
            Some(status) if !status.failover => session.keep_through_failover(&self.slot).await,
            _ => Ok(()),
        }
    }

    /// What a refusal to read the slot means. PostgreSQL says 55000 of a slot that is lost,
    /// and of several things that pass; and of another server's slots nobody asked. Its
    /// catalog tells them apart.
    pub(super) async fn refused(&self, error: SourceError, system_id: &str) -> SourceError {
        let slot = self.slot.to_string();
        let (fact, sqlstate) = match &error {
            SourceError::SlotMissing { .. } => (self.judged(system_id).await, "55000"),
            SourceError::SlotLost { sqlstate, .. } => {
                (self.judged(system_id).await, sqlstate.as_str())
            }
            // Before 16 a standby decodes for nobody.
            other if other.sqlstate() == Some("0A000") => {
                let judged = self.judged(system_id).await;
                return judged.err().unwrap_or(error);
            }
            _ => return error,
        };
        match fact {
            Err(error) => error,
            Ok(SlotFact::Absent) => SourceError::SlotMissing { slot },
            Ok(SlotFact::Usable) if sqlstate == "55000" => SourceError::SlotUnready { slot },
            Ok(SlotFact::Usable) => error,
            Ok(SlotFact::Lost(reason) | SlotFact::Foreign(reason)) => {
                let (sqlstate, reason) = (sqlstate.to_owned(), Some(reason));
                SourceError::SlotLost { slot, sqlstate, reason }
            }
        }
    }

    /// What the server that is being copied says of the slot.
    async fn judged(&self, system_id: &str) -> Result<SlotFact, SourceError> {
        let client = self.sql("kasho").await?;
        check_server(&client, Some(system_id)).await?;
        slot_fact(&client, &self.info, &self.slot).await
    }

    /// The digests that stand in the checkpoint beside a generation's number.
    pub(super) fn description(&self, generation: &Generation) -> Description {
        let source = &self.config.source;
        let options = format!("{:?} {:?}", source.publications, source.messages);
        let options = Sha256::digest(options.as_bytes());
        let checks = generation.key_checks();
        let keys: Vec<String> =
            checks.iter().map(|(name, check)| format!("{name}:{check}")).collect();
        Description {
            options: options[..8].iter().map(|byte| format!("{byte:02x}")).collect(),
            chain: generation.digest().to_owned(),
            key_fingerprint: keys.join(","),
        }
    }

    /// Takes over the tables of a new load or start; the chain is asked about them.
    pub(super) fn take_catalog(&self, catalog: &Catalog, caught_up: bool) {
        *self.tables.lock().unwrap_or_else(PoisonError::into_inner) = tables(catalog, caught_up);
    }

    pub(super) fn tables(&self) -> transform::Catalog {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reloads the chain when files change; ends when what comes back is dropped.
    pub(super) fn watch(
        self: &Arc<World>,
        pipeline: &Arc<Figures>,
        stop: &CancellationToken,
    ) -> Result<transform::reload::Watch, String> {
        let path = self.path.clone();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folders =
            vec![folder.unwrap_or(Path::new(".")).to_owned(), self.config.plugins.folder.clone()];
        // Candidates are made on a thread of their own, which may wait for servers, until the
        // service stops.
        let (ends, stopped) = (stop.clone(), stop.clone());
        let runtime = tokio::runtime::Handle::current();
        let (looking, looks, figures) = (Arc::clone(self), runtime.clone(), Arc::clone(pipeline));
        let waits = Arc::clone(self);
        let (keeping, plugins) = (Arc::clone(self), self.config.plugins.clone());
        let sources = transform::reload::Sources {
            folders,
            poll: Duration::from_millis(self.config.plugins.poll_ms),
            config: Box::new(move || match Config::load(&path) {
                // Where plugins are is not changed while the service runs.
                Ok(config) => Ok(transform::Config { plugins: plugins.clone(), ..config.chain() }),
                Err(errors) => Err(errors.to_string()),
            }),
            fresh: Box::new(move || waits.waiting.load(Relaxed)),
            catalog: Box::new(move || {
                let tables = ends.run_until_cancelled(looking.look_at_tables(&figures));
                looks.block_on(tables).unwrap_or_else(|| looking.tables())
            }),
            keep: Box::new(move |generation| {
                match runtime.block_on(stopped.run_until_cancelled(keeping.remember(generation))) {
                    Some(Ok(held)) => Ok(Box::new(held)),
                    Some(Err(error)) => Err(error.to_string()),
                    None => Err("the service is stopping".to_owned()),
                }
            }),
        };
        transform::reload::watch(&self.handle, &self.host, sources)
    }

    pub(super) fn holder_spec(
        &self,
        epoch: Epoch,
        mode: LoadMode,
        given: Option<Snapshot>,
    ) -> HolderSpec {
        let url = self.config.source.url.as_ref();
        let blocks = self.config.bootstrap.range_mib.saturating_mul(1 << 20) / BLOCK_BYTES;
        HolderSpec {
            url: url.map(|url| url.expose_secret().to_owned()).unwrap_or_default(),
            slot: self.slot.to_string(),
            publications: self.config.source.publications.clone(),
            epoch: epoch.0,
            mode,
            given,
            later: false,
            range_blocks: u32::try_from(blocks).unwrap_or(u32::MAX).max(1),
            slot_timeout_s: SLOT_TIMEOUT_S,
            connect_timeout_ms: self.config.source.connect_timeout_ms,
        }
    }
}

/// The catalogue in the chain's words.
pub(crate) fn tables(catalog: &Catalog, caught_up: bool) -> transform::Catalog {
    let name = |oid: u32| {
        catalog.relation(oid).map(|relation| (relation.schema.clone(), relation.table.clone()))
    };
    let foreign = catalog.constraints.iter().filter(|c| c.kind == ConstraintKind::ForeignKey);
    let foreign_keys = foreign.filter_map(|key| {
        Some(ForeignKey {
            name: key.name.clone(),
            table: name(key.relation)?,
            columns: key.columns.clone(),
            referenced: (key.references_schema.clone(), key.references_table.clone()),
            referenced_columns: key.references_columns.clone(),
        })
    });
    transform::Catalog {
        relations: catalog.relations.clone(),
        foreign_keys: foreign_keys.collect(),
        caught_up,
    }
}
