//! How a closure says what becomes of a value: it writes into [`Out`], or returns it.
//!
//! Writing goes straight into the patch; a returned text takes the place of whatever was
//! written. The only thing that can go wrong is a `Display` of the plugin's own that
//! fails, which is its bug and panics.

use std::borrow::Cow;
use std::fmt;

use crate::batch::short::value;
use crate::plugin::Reason;

/// Microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

/// Where a closure writes a new value.
///
/// ```
/// # use kasho_plugin_sdk::{*, testing::*};
/// # struct P(Col);
/// # impl Plugin for P {
/// #     fn new(cx: &mut Setup) -> Result<Self> { Ok(P(cx.write("public.users.name")?)) }
/// #     fn row(&mut self, row: &mut Row) -> Verdict {
/// row.rewrite(self.0, |name, out| {
///     out.push(name.chars().next().unwrap_or('?'));
///     out.repeat('*', name.chars().count().saturating_sub(1));
///     write!(out, " ({})", name.len())
/// });
/// #         Verdict::Keep
/// #     }
/// # }
/// # let mut fixture = Fixture::<P>::new(serde_json::Value::Null).unwrap();
/// # let users = table("public.users(id int8 key, name text)");
/// # fixture.relation(&users).unwrap();
/// # let out = fixture.run(&users, &[insert([("id", "1"), ("name", "Ada")])]);
/// assert_eq!(out[0].after("name"), Value::Text("A** (3)"));
/// ```
#[derive(Debug)]
pub struct Out<'a> {
    /// Valid UTF-8, since only whole texts and characters are appended.
    text: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Out<'a> {
    #[inline]
    pub(crate) fn new(text: &'a mut Vec<u8>) -> Out<'a> {
        let start = text.len();
        Out { text, start }
    }

    /// Appends text.
    #[inline]
    pub fn push_str(&mut self, text: &str) {
        value(self.text, text.as_bytes());
    }

    /// Appends a character.
    #[inline]
    pub fn push(&mut self, c: char) {
        match u8::try_from(c) {
            Ok(byte) if byte.is_ascii() => self.text.push(byte),
            _ => self.push_str(c.encode_utf8(&mut [0; 4])),
        }
    }

    /// Appends a character `n` times.
    pub fn repeat(&mut self, c: char, n: usize) {
        match u8::try_from(c) {
            Ok(byte) if byte.is_ascii() => self.text.resize(self.text.len() + n, byte),
            _ => (0..n).for_each(|_| self.push(c)),
        }
    }

    /// What was written so far.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.text.get(self.start..).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
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
        fmt::Write::write_fmt(&mut Writer(self), arguments)
    }
}

/// Text of a plugin's own that is written like a new value, for what a value is put
/// together from.
#[derive(Clone, Debug, Default)]
pub struct Scratch(Vec<u8>);

impl Scratch {
    /// Where to append; what was written before is not seen through it, and stays.
    pub fn out(&mut self) -> Out<'_> {
        Out::new(&mut self.0)
    }

    /// All that was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Forgets it, keeps the memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Not [`Out`] itself, or `write!` would want an import.
struct Writer<'o, 'a>(&'o mut Out<'a>);

impl fmt::Write for Writer<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push_str(text);
        Ok(())
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
///
/// ```
/// # use kasho_plugin_sdk::{*, testing::*};
/// # struct P(Col, Reason);
/// # impl Plugin for P {
/// #     fn new(cx: &mut Setup) -> Result<Self> {
/// #         Ok(P(cx.write("public.users.name")?, cx.reason("not a name")))
/// #     }
/// #     fn row(&mut self, row: &mut Row) -> Verdict {
/// let bad = self.1;
/// row.rewrite(self.0, |name, _| match name {
///     "" => Ok(None),                                  // NULL
///     "?" => Err(bad),                                 // the row's error
///     name => Ok(Some(name.to_uppercase())),           // a text
/// });
/// #         Verdict::Keep
/// #     }
/// # }
/// # let mut fixture = Fixture::<P>::new(serde_json::Value::Null).unwrap();
/// # let users = table("public.users(id int8 key, name text)");
/// # fixture.relation(&users).unwrap();
/// # let rows = ["", "?", "ada"].map(|name| insert([("id", "1"), ("name", name)]));
/// # let out = fixture.run(&users, &rows);
/// assert_eq!(out[0].after("name"), Value::Null);
/// assert_eq!(out[1].error(), Some("not a name"));
/// assert_eq!(out[2].after("name"), Value::Text("ADA"));
/// ```
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
    #[inline]
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
