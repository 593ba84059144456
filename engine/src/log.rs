//! What the service says about itself: to standard error, as text or JSON, at a level
//! that can be changed while it runs. Standard output belongs to a command's answer.
//!
//! What can go wrong: a dependency says too much. The driver tells every statement with its
//! literals, an HTTP library its headers: below a warning only our own words are told, at
//! whatever level, for only of those it is known that no row value and no secret is in them.

use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use serde::Deserialize;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
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
    /// `info,kasho::source=debug`. Changes at run time. Dependencies are heard from `warn`
    /// up, whatever stands here.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
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

impl Format {
    /// As the configuration has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::Json => "json",
        }
    }
}

/// How this process's lines look, once [`init`] was called: a child that shares its
/// output has to speak alike.
#[must_use]
pub fn format() -> Format {
    FORMAT.get().copied().unwrap_or(Format::Text)
}

static FORMAT: OnceLock<Format> = OnceLock::new();

/// Our own packages.
const OURS: [&str; 2] = ["kasho", "kasho_plugin_sdk"];

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
    // The filters are layers of their own, below: they decide for all.
    let harmless = filter_fn(is_harmless);
    tracing_subscriber::registry().with(filter).with(harmless).with(lines).try_init()?;
    let _ = FORMAT.set(config.format);
    std::panic::set_hook(Box::new(|panic| tracing::error!("{}", panicked(panic))));
    Ok(Log { level })
}

/// Whether a line may be told, as far as that depends on who says it.
fn is_harmless(line: &Metadata<'_>) -> bool {
    let told_by = line.target().split("::").next();
    *line.level() <= Level::WARN || told_by.is_some_and(|name| OURS.contains(&name))
}

/// A panic is a bug of ours, and a line of the log as any other. Words that were put
/// together at run time may quote a row: of them only the place is told.
fn panicked(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let words = panic.payload().downcast_ref::<&str>().copied();
    format!("panicked at {place}: {}", words.unwrap_or("in words that are not told"))
}

impl Log {
    /// Takes over another level, from a checked file.
    pub fn set_level(&self, level: &str) {
        // Fails only when the subscriber is gone, and then nobody listens.
        let _ = self.level.reload(EnvFilter::new(level));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_others_say_below_a_warning_is_told_at_no_level() {
        for level in ["trace", "tokio_postgres=trace,kasho=trace"] {
            let lines = Lines::default();
            let to = lines.clone();
            let told = fmt::layer().with_writer(move || to.clone());
            let all = tracing_subscriber::registry().with(EnvFilter::new(level));
            tracing::subscriber::with_default(all.with(filter_fn(is_harmless)).with(told), || {
                tracing::info!(target: "tokio_postgres::connection", "NOTICE: theirs");
                tracing::debug!(target: "tokio_postgres::query", "theirs");
                tracing::trace!(target: "kashohyper", "theirs");
                let _span = tracing::trace_span!(target: "h2", "theirs").entered();
                tracing::warn!(target: "tokio_postgres::connection", "a warning");
                tracing::trace!(target: "kasho::apply", "one of ours");
                tracing::debug!(target: "kasho", "another one");
            });
            let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            for words in ["a warning", "one of ours", "another one"] {
                assert!(lines.contains(words), "{level}: {words}: {lines}");
            }
            assert!(!lines.contains("theirs"), "{level}: {lines}");
        }
    }

    #[test]
    fn a_panic_tells_its_place_and_no_value() {
        static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let me = std::thread::current().id();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().id() == me {
                TOLD.lock().unwrap().push(panicked(panic));
            }
        }));
        let value = std::hint::black_box("hunter2");
        let _ = std::panic::catch_unwind(|| panic!("a row with {value}"));
        let _ = std::panic::catch_unwind(|| panic!("a bug"));
        std::panic::set_hook(before);
        let told = TOLD.lock().unwrap();
        assert_eq!(told.len(), 2);
        assert!(told[0].contains("log.rs:") && !told[0].contains("hunter2"), "{told:?}");
        assert!(told[1].ends_with(": a bug"), "{told:?}");
    }
}
