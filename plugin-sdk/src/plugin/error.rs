//! Why a plugin is not loaded, or does not take a table. Nothing can go wrong here.

use std::fmt;

use crate::abi::Complaint;

/// The result of what can be wrong with rules or tables.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with rules or a table, for the operator.
#[doc = concat!("\n", include_str!("../examples/error.md"))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(pub(crate) Complaint);

impl Error {
    /// An error with this text: what is wrong, and how to mend it.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Error {
        Error(Complaint { text: text.into(), at: None })
    }

    /// The same, about this rule, column or setting.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Error {
        self.0.at.get_or_insert(place.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.at {
            Some(at) => write!(f, "{at}: {}", self.0.text),
            None => f.write_str(&self.0.text),
        }
    }
}

impl std::error::Error for Error {}

impl From<&str> for Error {
    fn from(text: &str) -> Error {
        Error::new(text)
    }
}

impl From<String> for Error {
    fn from(text: String) -> Error {
        Error::new(text)
    }
}
