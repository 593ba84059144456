//! `kasho apply`, which is also pg-translicator: the streams are applied to a database. Ends by
//! SIGTERM or SIGINT at the end of the source's transaction; a second signal ends it at once.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::Told;
use super::run::Signals;
use crate::apply::{self, Options, Until};
use crate::config::Config;
use crate::log;
use crate::position::EpochPosition;

/// How it starts, and when it ends by itself.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// End when the initial load is applied.
    #[arg(long, group = "end")]
    until_loaded: bool,
    /// End when the load is applied and nothing more waits in Redis; where changes never pause,
    /// with everything that the source had when this began.
    #[arg(long, group = "end")]
    until_caught_up: bool,
    /// End when the target has everything through this position, and take no further transaction:
    /// one that it lies inside of is the last, and of the load all is applied.
    #[arg(long, group = "end", value_name = "POSITION")]
    until: Option<EpochPosition>,
    /// The schema change at this position was made by hand in the target.
    #[arg(long, value_name = "POSITION")]
    ddl_done: Option<EpochPosition>,
}

impl Arguments {
    fn until(&self) -> Until {
        match (self.until, self.until_loaded, self.until_caught_up) {
            (Some(position), ..) => Until::Position(position),
            (None, true, _) => Until::Loaded,
            (None, false, true) => Until::CaughtUp,
            (None, false, false) => Until::Stopped,
        }
    }
}

/// Applies.
///
/// # Errors
/// The configuration; what the applier cannot go on from. Where the log is JSON, the latter is
/// one of its lines and told nowhere else.
pub async fn run(arguments: &Arguments, path: &Path) -> anyhow::Result<()> {
    // What is wrong with the engine's own sections is the engine's business.
    let config = Config::load_parts(path, &["apply", "redis", "http", "log"])?;
    let format = config.log.format;
    let _log = log::init(&config.log)?;
    let stop = CancellationToken::new();
    tokio::spawn(Signals::new()?.obey(stop.clone()));
    let options = Options { until: arguments.until(), ddl_done: arguments.ddl_done };
    match apply::run(&config, options, stop).await {
        Err(error) if format == log::Format::Json => {
            tracing::error!(%error, "applying ended");
            Err(Told.into())
        }
        ended => Ok(ended?),
    }
}
