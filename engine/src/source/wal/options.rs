//! How a stream is read: the `[source]` section as the source needs it. No I/O; what can
//! go wrong is a connection text that is missing or unusable.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::super::assemble::Limits;
use super::super::conninfo::{Conninfo, ConninfoError};
use super::super::error::SourceError;
use crate::source::config::Config;

/// How a stream is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Name of the replication slot.
    pub slot: String,
    /// Publications read by it; they must exist before the slot.
    pub publications: Vec<String>,
    /// Prefixes of logical messages that are published.
    pub messages: Vec<String>,
    /// A heartbeat after this long without anything; zero = never.
    pub heartbeat: Duration,
    /// A status update at least this often (and three times in `wal_sender_timeout`).
    pub status_interval: Duration,
    /// Received and not yet processed, in bytes, before the socket is read no more.
    pub queue_bytes: u64,
    /// The largest message that is taken into memory, in bytes.
    pub max_message_bytes: u64,
    /// How long a server that shuts down may be kept waiting for what is on its way.
    pub shutdown_grace: Duration,
    /// When a batch is full.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Options {
        Options::from(&Config::default())
    }
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Options {
        Options {
            slot: config.slot.clone(),
            publications: config.publications.clone(),
            messages: config.messages.clone(),
            heartbeat: Duration::from_millis(config.heartbeat_ms),
            status_interval: Duration::from_millis(config.status_interval_ms),
            queue_bytes: config.queue_bytes.0,
            max_message_bytes: config.max_message_bytes.0,
            shutdown_grace: Duration::from_secs(5),
            limits: Limits::default(),
        }
    }
}

/// The connection of a `[source]` section.
///
/// # Errors
/// Its URL is missing or cannot be used.
pub fn conninfo(config: &Config) -> Result<Conninfo, SourceError> {
    let url = config.url.as_ref().ok_or(ConninfoError::Missing("source.url"))?;
    let mut info = Conninfo::parse(url.expose_secret())?;
    if config.connect_timeout_ms > 0 {
        info.connect_timeout = Duration::from_millis(config.connect_timeout_ms);
    }
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_becomes_options_and_a_connection() {
        let config = Config { connect_timeout_ms: 7, ..Config::default() };
        assert_eq!(Options::default().slot, "kasho_slot");
        assert!(conninfo(&config).is_err());
        let url = secrecy::SecretString::from("postgres://u:s3cret@h/d");
        let info = conninfo(&Config { url: Some(url), ..config }).unwrap();
        assert_eq!(info.connect_timeout, Duration::from_millis(7));
    }
}
