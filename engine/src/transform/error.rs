//! What the station says when it refuses or stops. No row's value is in any of it.

use std::fmt;

use kasho_plugin_sdk::Op;

use crate::error::Class;
use crate::pipeline::Classified;
use crate::position::Position;

/// One thing wrong with a configuration, a plugin, or how the two fit the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// Name of the binding, if it is about one.
    pub binding: Option<String>,
    /// The setting, table or column it is about.
    pub at: String,
    /// What is wrong and what to do.
    pub text: String,
}

impl LoadError {
    /// About a binding.
    pub(super) fn binding(name: &str, at: impl Into<String>, text: impl Into<String>) -> LoadError {
        LoadError { binding: Some(name.to_owned()), at: at.into(), text: text.into() }
    }

    /// About the whole.
    pub(super) fn whole(at: impl Into<String>, text: impl Into<String>) -> LoadError {
        LoadError { binding: None, at: at.into(), text: text.into() }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(binding) = &self.binding {
            write!(f, "transform `{binding}`: ")?;
        }
        write!(f, "{}: {}", self.at, self.text)
    }
}

impl std::error::Error for LoadError {}

/// Why the stream stops for one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The policy says so.
    Halt,
    /// It was to be set aside, and nothing says which row it is.
    NoKey,
    /// It was to be set aside, and there is no key that letters are sealed under.
    NoDeadKey,
    /// It was to be set aside, and its key cannot be sealed.
    NoSeal,
}

impl Stop {
    /// Why a row cannot be set aside; nothing if it was not to be.
    pub(super) fn lacks(self) -> &'static str {
        match self {
            Stop::Halt => "",
            Stop::NoKey => "nothing says which row it is",
            Stop::NoDeadKey => "dead_letter_key cannot be read (put the key back, or name another)",
            Stop::NoSeal => "this system has no random numbers to seal its key with",
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Halt => f.write_str("on_error = \"halt\" stops here"),
            Stop::NoKey | Stop::NoDeadKey | Stop::NoSeal => write!(
                f,
                "on_error = \"dead_letter\" cannot set it aside, for {}: the stream stops here",
                self.lacks()
            ),
        }
    }
}

/// Why a batch does not pass. Nothing of it may be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransformError {
    /// A plugin says that a row is in error, or failed on it, and the policy is to halt.
    #[error(
        "transform `{binding}` ({plugin}): {table}, {} at {position}: {reason}; {policy}",
        op.name()
    )]
    Row {
        /// The binding.
        binding: String,
        /// Its plugin.
        plugin: String,
        /// Table in the source.
        table: String,
        /// The row's operation.
        op: Op,
        /// Where it stands.
        position: Position,
        /// What the plugin declared, or how it failed.
        reason: String,
        /// Why the stream stops for it.
        policy: Stop,
    },
    /// A plugin gave no answer in ten times its deadline.
    #[error(
        "transform `{binding}` ({plugin}): {table} from {position}: {reason}, ten times its \
         deadline: it hangs, or this machine is far too busy"
    )]
    Deadline {
        /// The binding.
        binding: String,
        /// Its plugin.
        plugin: String,
        /// Table in the source.
        table: String,
        /// First row of the call.
        position: Position,
        /// How long it had.
        reason: String,
    },
    /// A table may not pass, or a rule does not fit it.
    #[error("{table} at {position}: {reason}")]
    Table {
        /// Table in the source.
        table: String,
        /// Its first row.
        position: Position,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A schema change may not leave, by policy or for want of its text.
    #[error(
        "schema change {what} at {position}: {reason}. Change the targets by hand as they need it, \
         then `kasho ddl done {position}`; or leave it out of them: `kasho ddl skip {position}`"
    )]
    Ddl {
        /// Its command tag and the object concerned, never its text.
        what: String,
        /// Where it stands.
        position: Position,
        /// Why.
        reason: String,
    },
    /// A plugin that ran cannot be started again.
    #[error("transform `{binding}` ({plugin}) does not start: {reason}")]
    Start {
        /// The binding.
        binding: String,
        /// Its plugin.
        plugin: String,
        /// Why.
        reason: String,
    },
    /// The host's own bug.
    #[error("transform: {0} (a bug in the engine)")]
    Internal(&'static str),
}

impl Classified for TransformError {
    /// Always halt: the same row meets the same rules again.
    fn class(&self) -> Class {
        Class::Halt
    }
}
