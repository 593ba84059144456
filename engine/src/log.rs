//! What the service says about itself: to standard error, as text or JSON, at a level
//! that can be changed while it runs. Standard output belongs to a command's answer.

use std::io::IsTerminal;

use serde::Deserialize;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::Findings;

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as
    /// `info,kasho::source=debug`. Changes at run time.
    pub level: String,
    /// How lines look.
    pub format: Format,
}

impl Default for Config {
    fn default() -> Config {
        Config { level: "info".to_owned(), format: Format::Text }
    }
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// What makes no sense.
    pub(crate) fn invalid(&self) -> Findings {
        let mut found = Findings::default();
        let level = EnvFilter::try_new(&self.level).is_ok();
        found.must(level, "level", "is no level (error, warn, info, debug, trace) or directive");
        found
    }
}

/// The running log.
#[derive(Clone, Debug)]
pub struct Log {
    level: Handle<EnvFilter, Registry>,
}

/// Starts logging. `config` comes from a checked file, so its level is one.
///
/// # Errors
/// Logging was started before.
pub fn init(config: &Config) -> Result<Log, TryInitError> {
    let (filter, level) = reload::Layer::new(EnvFilter::new(&config.level));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
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
