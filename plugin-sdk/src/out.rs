//! How a closure says what becomes of a value: it writes into [`Out`], or returns it.
//!
//! Writing goes straight into the patch; a returned text takes the place of whatever was
//! written. The only thing that can go wrong is a `Display` of the plugin's own that
//! fails, which is its bug and panics.

use std::borrow::Cow;
use std::fmt;

use crate::plugin::Reason;

/// Microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

/// Where a closure writes a new value.
#[derive(Debug)]
pub struct Out<'a> {
    text: &'a mut String,
    start: usize,
}

impl<'a> Out<'a> {
    #[inline]
    pub(crate) fn new(text: &'a mut String) -> Out<'a> {
        let start = text.len();
        Out { text, start }
    }

    /// Appends text.
    #[inline]
    pub fn push_str(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Appends a character.
    #[inline]
    pub fn push(&mut self, c: char) {
        self.text.push(c);
    }

    /// What was written so far.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text.get(self.start..).unwrap_or_default()
    }

    /// Takes back what was written so far.
    pub fn clear(&mut self) {
        self.text.truncate(self.start);
    }

    /// What `write!(out, …)` calls, no import needed.
    ///
    /// # Errors
    /// Only what a `Display` of the plugin's own makes.
    pub fn write_fmt(&mut self, arguments: fmt::Arguments<'_>) -> fmt::Result {
        fmt::Write::write_fmt(self.text, arguments)
    }
}

/// What a closure's result makes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patched {
    /// What stands in [`Out`] is the new value.
    Written,
    /// The new value is NULL.
    Null,
    /// The value stays; a masked column may not.
    Same,
    /// The row is in error.
    Error(Reason),
}

/// What closures of `rewrite` may return.
pub trait IntoPatch {
    /// Puts a returned text into `out`; says what is to be done.
    fn into_patch(self, out: &mut Out<'_>) -> Patched;
}

impl IntoPatch for Patched {
    fn into_patch(self, _: &mut Out<'_>) -> Patched {
        self
    }
}

impl IntoPatch for () {
    #[inline]
    fn into_patch(self, _: &mut Out<'_>) -> Patched {
        Patched::Written
    }
}

impl IntoPatch for fmt::Result {
    #[inline]
    fn into_patch(self, _: &mut Out<'_>) -> Patched {
        assert!(self.is_ok(), "a Display implementation failed");
        Patched::Written
    }
}

impl IntoPatch for &str {
    fn into_patch(self, out: &mut Out<'_>) -> Patched {
        out.clear();
        out.push_str(self);
        Patched::Written
    }
}

impl IntoPatch for String {
    fn into_patch(self, out: &mut Out<'_>) -> Patched {
        self.as_str().into_patch(out)
    }
}

impl IntoPatch for Cow<'_, str> {
    fn into_patch(self, out: &mut Out<'_>) -> Patched {
        self.as_ref().into_patch(out)
    }
}

impl<T: IntoPatch> IntoPatch for Option<T> {
    fn into_patch(self, out: &mut Out<'_>) -> Patched {
        self.map_or(Patched::Null, |value| value.into_patch(out))
    }
}

impl<T: IntoPatch> IntoPatch for Result<T, Reason> {
    fn into_patch(self, out: &mut Out<'_>) -> Patched {
        self.map_or_else(Patched::Error, |value| value.into_patch(out))
    }
}
