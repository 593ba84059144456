//! The text of a dump as a window that slides over it: a chunk at a time, what is in use
//! carried over to the next one.
//!
//! Rows are slices of a chunk, which lives as long as they do. What can go wrong: the
//! source fails or is damaged; a row is longer than allowed ([`DumpError`]).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use bytes::Bytes;

use super::archive::Failed;
use super::error::{DumpError, Place};
use super::lexer::newlines;
use super::mark::{Spot, tail_hash};

/// Bytes read at once. A few batches are slices of one chunk and keep it in memory.
const CHUNK: usize = 1 << 20;
/// Bytes before a mark that are compared when a load goes on.
const TAIL: usize = 256;

/// Where the text comes from.
pub(super) enum Source {
    /// A file that is text as it stands.
    File(File),
    /// Anything else; what it is, for messages.
    Stream(Box<dyn Read + Send>, Packing),
}

/// What the text is packed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// In nothing.
    Plain,
    /// Compressed so.
    Compressed(&'static str),
    /// pg_restore unpacks it.
    Archive,
}

/// The window.
pub(super) struct Text {
    source: Source,
    name: String,
    chunk: Bytes,
    /// The window's begin in the chunk.
    at: usize,
    /// Bytes of text before the chunk.
    base: u64,
    /// Line of the window's begin, from 1.
    line: u64,
    ended: bool,
}

impl Text {
    /// A text at its beginning; `name` is how messages call it.
    pub(super) fn new(source: Source, name: String) -> Text {
        Text { source, name, chunk: Bytes::new(), at: 0, base: 0, line: 1, ended: false }
    }

    /// What is there of the text from the current place on.
    pub(super) fn window(&self) -> &[u8] {
        &self.chunk[self.at..]
    }

    /// The chunk, and the window's begin in it.
    pub(super) fn chunk(&self) -> (&Bytes, usize) {
        (&self.chunk, self.at)
    }

    /// Nothing comes after the window.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// The window's begin.
    pub(super) fn place(&self) -> Place {
        Place { offset: self.base + self.at as u64, line: self.line }
    }

    /// The place so many bytes into the window.
    pub(super) fn place_in(&self, bytes: usize) -> Place {
        let before = &self.window()[..bytes.min(self.window().len())];
        let Place { offset, line } = self.place();
        Place { offset: offset + before.len() as u64, line: line + newlines(before) }
    }

    /// The place of a byte of the chunk before the window.
    pub(super) fn place_before(&self, at: usize) -> Place {
        let Place { offset, line } = self.place();
        let between = &self.chunk[at.min(self.at)..self.at];
        Place { offset: offset - between.len() as u64, line: line - newlines(between) }
    }

    /// Leaves so many bytes behind, which hold that many line ends.
    pub(super) fn advance(&mut self, bytes: usize, lines: u64) {
        self.at = (self.at + bytes).min(self.chunk.len());
        self.line += lines;
    }

    /// Leaves so many bytes behind.
    pub(super) fn advance_over(&mut self, bytes: usize) {
        let lines = newlines(&self.window()[..bytes]);
        self.advance(bytes, lines);
    }

    /// Some of the bytes before the window, but none before an offset, and their hash. An
    /// archive's text is not the same each time.
    pub(super) fn tail(&self, first: u64) -> (u32, u64) {
        let after = usize::try_from(self.place().offset - first).unwrap_or(usize::MAX);
        let archive = self.packing() == Packing::Archive;
        let len = if archive { 0 } else { TAIL.min(self.at).min(after) };
        let tail = &self.chunk[self.at - len..self.at];
        (u32::try_from(len).unwrap_or(0), tail_hash(tail))
    }

    /// Makes the window longer; at the text's end it stays as it is.
    pub(super) fn more(&mut self, what: &'static str, limit: usize) -> Result<(), DumpError> {
        let kept = self.chunk.len() - self.at;
        if kept > limit {
            return Err(DumpError::TooLong { what, place: self.place(), limit });
        }
        // Doubling, so that a long row is not carried over a thousand times.
        let mut buffer = vec![0; CHUNK.max(kept * 2)];
        buffer[..kept].copy_from_slice(&self.chunk[self.at..]);
        let filled = self.fill(&mut buffer, kept)?;
        self.ended = filled < buffer.len();
        buffer.truncate(filled);
        self.base += self.at as u64;
        self.at = 0;
        self.chunk = Bytes::from(buffer);
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8], mut filled: usize) -> Result<usize, DumpError> {
        while filled < buffer.len() {
            let reader: &mut dyn Read = match &mut self.source {
                Source::File(file) => file,
                Source::Stream(stream, _) => stream,
            };
            match reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error, filled)),
            }
        }
        Ok(filled)
    }

    fn packing(&self) -> Packing {
        match &self.source {
            Source::File(_) => Packing::Plain,
            Source::Stream(_, packing) => *packing,
        }
    }

    fn failed(&self, error: io::Error, window: usize) -> DumpError {
        let Place { offset, line } = self.place();
        // The lines of what was read and not yet looked at are not counted.
        let place = Place { offset: offset + window as u64, line };
        match (self.packing(), error.downcast::<Failed>()) {
            (_, Ok(Failed { status, said })) => DumpError::PgRestore { place, status, said },
            (Packing::Compressed(format), Err(source)) => {
                DumpError::Packing { format, place, source }
            }
            (_, Err(source)) => DumpError::Io { doing: format!("reading {}", self.name), source },
        }
    }

    /// Goes forward to where an earlier reader stopped, and checks that the text before
    /// it is the same.
    pub(super) fn go_to(&mut self, spot: &Spot) -> Result<(), DumpError> {
        let (len, hash) = spot.tail;
        let place = Place { offset: spot.offset, line: spot.line };
        let begin = spot.offset.saturating_sub(u64::from(len));
        self.skip_to(begin, place)?;
        while self.window().len() < len as usize && !self.ended {
            self.more("the text before a mark", CHUNK)?;
        }
        let tail = self.window().get(..len as usize);
        if tail.is_none_or(|tail| len > 0 && tail_hash(tail) != hash) {
            return Err(DumpError::Changed { place });
        }
        self.advance(len as usize, 0);
        self.line = spot.line;
        Ok(())
    }

    /// Goes forward to an offset; by the file system where that can be.
    pub(super) fn skip_to(&mut self, offset: u64, place: Place) -> Result<(), DumpError> {
        let ahead = offset.checked_sub(self.place().offset).ok_or(DumpError::Changed { place })?;
        let window = self.window().len() as u64;
        if let (Source::File(file), true) = (&mut self.source, ahead > window) {
            let doing = || format!("reading {}", self.name);
            let found = file.seek(SeekFrom::Start(offset));
            found.map_err(|source| DumpError::Io { doing: doing(), source })?;
            (self.chunk, self.at, self.base, self.ended) = (Bytes::new(), 0, offset, false);
            return Ok(());
        }
        loop {
            let left = offset - self.place().offset;
            let step = self.window().len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.advance(step, 0);
            if self.place().offset == offset {
                return Ok(());
            }
            if self.ended {
                return Err(DumpError::Changed { place });
            }
            self.more("the text before a mark", CHUNK)?;
        }
    }

    /// Sets the line, after going to a place whose line is known.
    pub(super) fn at_line(&mut self, line: u64) {
        self.line = line;
    }
}
