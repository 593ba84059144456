//! The optional imports of ABI 1, module `kasho_1`, and their native stand-ins.
//!
//! A Rust guest imports only what its code can reach: the linker drops the rest, so a
//! plugin that never hashes has no `prf`. Natively there is no host; the `testing` feature
//! brings one, and without it these functions cannot be reached by anything but a plugin
//! that calls them outside a host, which is its bug and panics.

use crate::hash::Hash;

/// Values laid out as in a block: little-endian offsets and bytes.
///
/// ```
/// use kasho_plugin_sdk::Texts;
///
/// let mut texts = Texts::default();
/// texts.push("ada");
/// texts.push("bob");
/// assert_eq!(texts.iter().collect::<Vec<_>>(), ["ada", "bob"]);
/// assert_eq!(texts.len(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct Texts {
    offsets: Vec<[u8; 4]>,
    bytes: String,
}

impl Default for Texts {
    fn default() -> Self {
        Texts { offsets: vec![[0; 4]], bytes: String::new() }
    }
}

impl Texts {
    /// Forgets all values, keeps the memory.
    pub fn clear(&mut self) {
        self.offsets.truncate(1);
        self.bytes.clear();
    }

    /// Adds a value.
    pub fn push(&mut self, text: &str) {
        self.bytes.push_str(text);
        // A guest's memory is far below 4 GiB; were it not, the host refuses the offset.
        let end = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.offsets.push(end.to_le_bytes());
    }

    /// Values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.len() == 1
    }

    /// The values.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let edge = |o: [u8; 4]| u32::from_le_bytes(o) as usize;
        self.offsets
            .windows(2)
            .map(move |edges| self.bytes.get(edge(edges[0])..edge(edges[1])).unwrap_or_default())
    }

    pub(crate) fn prf(&self, domain: u16, out: &mut Vec<Hash>) {
        prf(domain, &self.offsets, &self.bytes, out);
    }
}

/// One hash for each value, in place of what `out` held.
pub(crate) fn prf(domain: u16, offsets: &[[u8; 4]], bytes: &str, out: &mut Vec<Hash>) {
    out.clear();
    out.resize(offsets.len().saturating_sub(1), Hash::default());
    if !out.is_empty() {
        sys::prf(domain, offsets, bytes, out);
    }
}

#[cfg(target_arch = "wasm32")]
pub(crate) use wasm as sys;

#[cfg(target_arch = "wasm32")]
pub(crate) mod wasm {
    //! The imports themselves. The host checks every range it is given.

    use crate::hash::Hash;

    #[expect(unsafe_code, reason = "imports are foreign functions; these five lines are all")]
    mod raw {
        #[link(wasm_import_module = "kasho_1")]
        unsafe extern "C" {
            pub(super) safe fn prf(domain: u32, offsets: u32, bytes: u32, n: u32, out: u32);
            #[cfg(feature = "fail")]
            pub(super) safe fn fail(m: u32, len: u32, file: u32, flen: u32, line: u32, col: u32);
            pub(super) safe fn log(level: u32, ptr: u32, len: u32);
            pub(super) safe fn count(text: u32, delta: i64);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a pointer of wasm32 has 32 bits")]
    fn at<T>(values: &[T]) -> u32 {
        values.as_ptr().expose_provenance() as u32
    }

    #[expect(clippy::cast_possible_truncation, reason = "a length of wasm32 has 32 bits")]
    fn len<T>(values: &[T]) -> u32 {
        values.len() as u32
    }

    pub(crate) fn prf(domain: u16, offsets: &[[u8; 4]], bytes: &str, out: &mut [Hash]) {
        let place = out.as_mut_ptr().expose_provenance();
        #[expect(clippy::cast_possible_truncation, reason = "a pointer of wasm32 has 32 bits")]
        raw::prf(u32::from(domain), at(offsets), at(bytes.as_bytes()), len(out), place as u32);
        std::hint::black_box(out);
    }

    #[cfg(feature = "fail")]
    pub(crate) fn fail(message: &str, file: &str, line: u32, column: u32) {
        let (message, file) = (message.as_bytes(), file.as_bytes());
        raw::fail(at(message), len(message), at(file), len(file), line, column);
    }

    pub(crate) fn log(level: u32, text: &str) {
        raw::log(level, at(text.as_bytes()), len(text.as_bytes()));
    }

    pub(crate) fn count(text: u16, delta: i64) {
        raw::count(u32::from(text), delta);
    }
}

#[cfg(all(not(target_arch = "wasm32"), feature = "testing"))]
pub(crate) use crate::testing::imports as sys;

#[cfg(all(not(target_arch = "wasm32"), not(feature = "testing")))]
pub(crate) mod sys {
    //! No host at all.

    use crate::hash::Hash;

    pub(crate) fn prf(_: u16, _: &[[u8; 4]], _: &str, _: &mut [Hash]) {
        panic!("a keyed hash needs a host: natively, the SDK's feature `testing`");
    }

    pub(crate) fn log(_: u32, _: &str) {}

    pub(crate) fn count(_: u16, _: i64) {}
}
