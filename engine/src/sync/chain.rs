//! The chain that the rows of a dump pass: the engine's own, made once more from the same
//! files. Whether it is the same is decided by the digest that stands in the checkpoint,
//! now and as long as the load goes on: a rule that was made stricter at noon counts for
//! the rest of the dump too. What its rows show of tables is not written down here: the
//! engine was shown the same catalogue when the bootstrap began, and knows as much.
//!
//! What can go wrong: files that are not there, or say something else ([`ChainError`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::SecretString;

use crate::config::{Config, Errors};
use crate::engine::chain_catalog;
use crate::sink::store::Checkpoint;
use crate::source::catalog::Catalog;
use crate::transform::{self, Generation, Handle, Host, LoadError};

/// The rows cannot pass the chain that they have to pass.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// What was given makes another chain than the engine's.
    #[error(
        "the rows have to pass the plugin chain of {epoch} (digest {wanted}), and what \
         pg-bootstrap-sync was given is another one ({given}): rows that left unmasked could not be \
         taken back. Give it the engine's configuration, with the plugins and keys that it names:\n  \
         {command}"
    )]
    Other {
        /// The epoch.
        epoch: crate::position::Epoch,
        /// Digest in the checkpoint, its beginning.
        wanted: String,
        /// What was given, in words.
        given: String,
        /// The whole command that would do.
        command: String,
    },
    /// The configuration.
    #[error(transparent)]
    Config(#[from] Errors),
    /// Everything that is wrong with plugins and rules.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Load(Vec<LoadError>),
    /// The WASM host cannot be set up.
    #[error("plugins: {0}")]
    Host(String),
}

/// Where a chain comes from.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The configuration file, if there is one.
    pub path: Option<PathBuf>,
    /// What was said of Redis beside it.
    pub redis_url: Option<SecretString>,
    /// The command that would do if this one does not.
    pub command: String,
}

impl Recipe {
    /// Reads the configuration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn config(&self) -> Result<Config, Errors> {
        Config::load_for_redis(self.path.as_deref(), self.redis_url.as_ref())
    }
}

/// The chain as it is in force.
#[derive(Clone)]
pub(super) struct Chain {
    recipe: Recipe,
    host: Arc<Host>,
    tables: transform::Catalog,
    pub(super) handle: Arc<Handle>,
    /// Digest and number in the checkpoint that this one was found equal to.
    agreed: (String, u64),
}

impl Chain {
    /// Loads the chain and holds it against the checkpoint. Blocks: files, the compiler.
    pub(super) fn load(
        recipe: &Recipe,
        catalog: &Catalog,
        checkpoint: &Checkpoint,
    ) -> Result<Chain, ChainError> {
        let host = Host::new(None).map_err(ChainError::Host)?;
        let tables = chain_catalog(catalog, false);
        let generation = generation(recipe, &host, &tables, checkpoint)?;
        let (recipe, handle) = (recipe.clone(), Handle::new(generation));
        Ok(Chain { recipe, host, tables, handle, agreed: agreed(checkpoint) })
    }

    /// Whether the engine has another chain since.
    pub(super) fn is_old(&self, checkpoint: &Checkpoint) -> bool {
        self.agreed != agreed(checkpoint)
    }

    /// Loads it anew, as [`Chain::load`]; whoever passes rows through it takes the new one.
    pub(super) fn reload(mut self, checkpoint: &Checkpoint) -> Result<Chain, ChainError> {
        let generation = generation(&self.recipe, &self.host, &self.tables, checkpoint)?;
        self.handle.publish(generation);
        self.agreed = agreed(checkpoint);
        Ok(self)
    }
}

fn agreed(checkpoint: &Checkpoint) -> (String, u64) {
    (checkpoint.chain.clone(), checkpoint.generation)
}

fn generation(
    recipe: &Recipe,
    host: &Arc<Host>,
    tables: &transform::Catalog,
    checkpoint: &Checkpoint,
) -> Result<Generation, ChainError> {
    let config = recipe.config()?.chain();
    let number = checkpoint.generation.max(1);
    let options = transform::Options { number, ..transform::Options::default() };
    let loaded = transform::load(host, &config, tables, options).map_err(ChainError::Load)?;
    if loaded.digest() == checkpoint.chain {
        return Ok(loaded);
    }
    let from = match recipe.path.as_deref() {
        Some(path) => format!("digest {}, from {}", short(loaded.digest()), path.display()),
        None => format!(
            "none: there is no {}, and neither --config nor KASHO_CONFIG names another file",
            Path::new(crate::config::DEFAULT_PATH).display()
        ),
    };
    Err(ChainError::Other {
        epoch: checkpoint.epoch,
        wanted: short(&checkpoint.chain).to_owned(),
        given: from,
        command: recipe.command.clone(),
    })
}

/// Enough of a digest to tell two apart.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
