//! Which rules are in force: those of the generation that published last, which the
//! checkpoint names. Redis keeps what it covers, the store of plugins keeps what it is made
//! of. Before anything was published the files decide.
//!
//! What can go wrong: Redis does not answer; or the plugins are asked for (to tell a leak from
//! a fake that equals an original by chance) and are not kept here.

use std::sync::Arc;

use super::error::VerifyError;
use crate::config::Config;
use crate::engine::{Remembered, chain_catalog};
use crate::position::Epoch;
use crate::sink::redis::RedisConnector;
use crate::sink::store::{Checkpoint, Connect, Registry, Store};
use crate::source::catalog::Catalog;
use crate::transform::{self, Archive, Coverage, Generation, Host, KeySources, LoadError, Options};

/// The rules by which the target was filled.
pub(super) struct Rules {
    pub(super) coverage: Coverage,
    /// With its plugins, if they were asked for.
    pub(super) generation: Option<Arc<Generation>>,
    /// Which they are.
    pub(super) told: String,
    /// The current epoch, if there ever was one.
    pub(super) epoch: Option<Epoch>,
}

impl Rules {
    /// Finds them; `plugins` says whether rows have to be passed through them.
    pub(super) async fn in_force(
        config: &Config,
        catalog: &Catalog,
        plugins: bool,
    ) -> Result<Rules, VerifyError> {
        let mut store = RedisConnector::new(&config.redis).connect().await?;
        let checkpoint = store.inspect().await?.checkpoint;
        let epoch = checkpoint.as_ref().map(|checkpoint| checkpoint.epoch);
        let Some(checkpoint) = checkpoint.filter(|checkpoint| !checkpoint.chain.is_empty()) else {
            let generation = Arc::new(from_files(config, catalog)?);
            let told = "of the files, for nothing was published yet".to_owned();
            let coverage = generation.coverage().clone();
            return Ok(Rules { coverage, generation: Some(generation), told, epoch });
        };
        let stored = store.coverage().await?;
        let stored: Vec<Remembered> =
            stored.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let stored = stored.into_iter().find(|stored| stored.digest == checkpoint.chain);
        let told = format!(
            "of generation {}, digest {}",
            checkpoint.generation,
            checkpoint.chain.get(..12).unwrap_or(&checkpoint.chain)
        );
        match (stored, plugins) {
            (Some(stored), false) => {
                Ok(Rules { coverage: stored.coverage, generation: None, told, epoch })
            }
            (stored, _) => {
                let generation = Arc::new(kept(config, catalog, &checkpoint)?);
                let own = || generation.coverage().clone();
                let coverage = stored.map_or_else(own, |stored| stored.coverage);
                Ok(Rules { coverage, generation: Some(generation), told, epoch })
            }
        }
    }
}

/// The generation that the checkpoint names, as it is kept, or from the files if they are
/// still what they were.
fn kept(
    config: &Config,
    catalog: &Catalog,
    checkpoint: &Checkpoint,
) -> Result<Generation, VerifyError> {
    let host = Host::new(Some(&config.plugins.store)).map_err(VerifyError::Rules)?;
    let whose = format!("{} {}", config.redis.prefix, config.source.slot);
    let archive = Archive::open(&config.plugins.store, &whose).map_err(VerifyError::Rules)?;
    let tables = chain_catalog(catalog, false);
    let why = match archive.find(&checkpoint.chain) {
        Ok(kept) => {
            let number = checkpoint.generation;
            let keys =
                KeySources { keys: config.keys.clone(), dead: config.dead_letter_key.clone() };
            match transform::restore(&host, &kept, &keys, &tables, number) {
                Ok(generation) => return Ok(generation),
                Err(errors) => told(&errors),
            }
        }
        Err(why) => why,
    };
    match from_files(config, catalog) {
        Ok(generation) if generation.digest() == checkpoint.chain => Ok(generation),
        _ => Err(VerifyError::Rules(format!(
            "{why}. Run this where the engine runs, with its configuration"
        ))),
    }
}

fn from_files(config: &Config, catalog: &Catalog) -> Result<Generation, VerifyError> {
    let host = Host::new(None).map_err(VerifyError::Rules)?;
    let (tables, options) =
        (chain_catalog(catalog, true), Options { number: 1, ..Options::default() });
    let loaded = transform::load(&host, &config.chain(), &tables, options);
    loaded.map_err(|errors| VerifyError::Rules(told(&errors)))
}

fn told(errors: &[LoadError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
