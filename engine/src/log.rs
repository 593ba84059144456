//! What the service says about itself: to standard error, as text or JSON, at a level
//! that can be changed while it runs. Standard output belongs to a command's answer.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::{LogConfig, LogFormat};

/// The running log.
#[derive(Clone, Debug)]
pub struct Log {
    level: Handle<EnvFilter, Registry>,
}

/// Starts logging. `config` comes from a checked file, so its level is one.
///
/// # Errors
/// Logging was started before.
pub fn init(config: &LogConfig) -> Result<Log, TryInitError> {
    let (filter, level) = reload::Layer::new(EnvFilter::new(&config.level));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // The filter is a layer of its own, below: it decides for all.
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(Log { level })
}

impl Log {
    /// Takes over another level, from a checked file.
    pub fn set_level(&self, level: &str) {
        // Fails only when the subscriber is gone, and then nobody listens.
        let _ = self.level.reload(EnvFilter::new(level));
    }
}
