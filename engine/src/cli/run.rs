//! `kasho run`: the service. Ends by SIGTERM or SIGINT, after the batch in flight; a
//! second signal ends it at once.

use std::path::Path;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Told;
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
/// The configuration, or what [`engine::run`] refuses to start with. Where the log is
/// JSON, the latter is one of its lines and told nowhere else.
pub async fn run(arguments: &Arguments, path: &Path) -> anyhow::Result<()> {
    let config = Config::load_serving(path)?;
    let format = config.log.format;
    let _log = log::init(&config.log)?;
    let stop = CancellationToken::new();
    let signals = Signals::new()?;
    tokio::spawn(signals.obey(stop.clone()));
    match engine::run(config, path.to_owned(), arguments.accept_gap, stop).await {
        Err(error) if format == log::Format::Json => {
            tracing::error!(%error, "the service does not start");
            Err(Told.into())
        }
        ended => Ok(ended?),
    }
}

/// The signals that end the service.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> anyhow::Result<Signals> {
        let terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        Ok(Signals { terminate, interrupt })
    }

    /// The next one: its number.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => libc::SIGTERM,
            _ = self.interrupt.recv() => libc::SIGINT,
        }
    }

    #[expect(clippy::disallowed_methods, reason = "whoever asks twice wants no drain")]
    pub(super) async fn obey(mut self, stop: CancellationToken) {
        self.next().await;
        tracing::info!("asked to end: the batch in flight is finished first");
        stop.cancel();
        let signal = self.next().await;
        tracing::warn!("asked again: ending at once; nothing is lost by that");
        // As a shell tells of a process that a signal ended.
        std::process::exit(128 + signal);
    }
}
