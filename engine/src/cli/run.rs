//! `kasho run`: the service. Ends by SIGTERM or SIGINT, after the batch in flight; a
//! second signal ends it at once.

use std::path::Path;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::{engine, log};

/// How it starts.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Go on although Redis has lost changes that PostgreSQL no longer has. The gap stays.
    #[arg(long)]
    accept_gap: bool,
}

/// Runs the service.
///
/// # Errors
/// The configuration, or what [`engine::run`] refuses to start with.
pub async fn run(arguments: &Arguments, path: &Path) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    let _log = log::init(&config.log)?;
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let asked = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to end");
        asked.cancel();
    });
    Ok(engine::run(config, path.to_owned(), arguments.accept_gap, stop).await?)
}
