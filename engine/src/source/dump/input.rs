//! What a dump is packed in, told by its first bytes, and its text.
//!
//! What can go wrong: it is nothing that `pg_dump` writes, or was changed on its way
//! ([`DumpError::NotADump`]).

use std::fs::File;
use std::io::{self, Cursor, Read, Seek};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memchr::memchr;

use super::Options;
use super::archive::{self, PgRestore};
use super::archive_header::Archive;
use super::compressed::Compression;
use super::error::DumpError;
use super::mark::Identity;
use super::text::{Packing, Source};

/// Bytes that tell one dump from another.
const HEAD: usize = 64 << 10;
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// How far the reading has come, in bytes as stored.
pub(super) enum Progress {
    /// Counted as they are read.
    Counted(Arc<AtomicU64>),
    /// Where a child stands in the file that it shares with us.
    Shared(File),
    /// Where the text stands: the file is that text.
    Text,
}

/// A text to be read, and what is known of it.
pub(super) struct Opened {
    pub(super) source: Source,
    pub(super) identity: Identity,
    /// It must be the very same archive; a text may have grown.
    pub(super) archive: bool,
    pub(super) progress: Progress,
    /// Its lines end in CR LF.
    pub(super) crlf: bool,
    /// Bytes of a byte order mark at its beginning.
    pub(super) bom: usize,
}

/// Opens a file, or standard input.
pub(super) fn open(path: Option<&Path>, options: &Options) -> Result<Opened, DumpError> {
    let Some(path) = path else {
        return stream(Box::new(io::stdin()), None, options);
    };
    let failed = |source| DumpError::Io { doing: format!("opening {}", path.display()), source };
    let mut file = File::open(path).map_err(failed)?;
    let data = file.metadata().map_err(failed)?;
    if !data.is_file() {
        // A pipe with a name.
        return stream(Box::new(file), None, options);
    }
    let head = head_of(&mut file).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let size = Some(data.len());
    if let Some(archive) = Archive::of(&head) {
        // The child reads from the file that we share, so its place is known to us.
        let progress = file.try_clone().map_err(failed)?;
        let input = archive::Input::File(file);
        let mut opened = restored(archive, &head, size, input, options)?;
        opened.progress = Progress::Shared(progress);
        return Ok(opened);
    }
    if Compression::of(&head).is_some() {
        return stream(Box::new(file), size, options);
    }
    text(Source::File(file), &head, size, Progress::Text)
}

/// Opens what cannot be gone back in.
fn stream(
    packed: Box<dyn Read + Send>,
    size: Option<u64>,
    options: &Options,
) -> Result<Opened, DumpError> {
    let read = Arc::new(AtomicU64::new(0));
    let counted = Counted { inner: packed, read: Arc::clone(&read) };
    let (head, whole) = peek(Box::new(counted), Packing::Plain)?;
    let (head, whole, packing) = match Compression::of(&head) {
        None => (head, whole, Packing::Plain),
        Some(compression) => {
            let packing = Packing::Compressed(compression.name());
            let (head, whole) = peek(compression.decoder(whole), packing)?;
            (head, whole, packing)
        }
    };
    let progress = Progress::Counted(read);
    match Archive::of(&head) {
        None => text(Source::Stream(whole, packing), &head, size, progress),
        Some(archive) => {
            let input = archive::Input::Stream(whole);
            Ok(Opened { progress, ..restored(archive, &head, size, input, options)? })
        }
    }
}

fn text(
    source: Source,
    head: &[u8],
    size: Option<u64>,
    progress: Progress,
) -> Result<Opened, DumpError> {
    refuse(head)?;
    let line = memchr(b'\n', head).unwrap_or(0);
    Ok(Opened {
        source,
        identity: Identity::of(size, &[head]),
        archive: false,
        progress,
        crlf: line > 0 && head[line - 1] == b'\r',
        bom: if head.starts_with(BOM) { BOM.len() } else { 0 },
    })
}

fn restored(
    archive: Archive,
    head: &[u8],
    size: Option<u64>,
    input: archive::Input,
    options: &Options,
) -> Result<Opened, DumpError> {
    let program = PgRestore::find(options.pg_restore.as_deref())?;
    program.reads(archive.version(head))?;
    let restored = program.start(&["-f", "-"], input)?;
    Ok(Opened {
        source: Source::Stream(Box::new(restored), Packing::Archive),
        identity: Identity::of(size, &[head, program.version().as_bytes()]),
        archive: true,
        progress: Progress::Text,
        crlf: false,
        bom: 0,
    })
}

/// What is no dump, by its first bytes.
fn refuse(head: &[u8]) -> Result<(), DumpError> {
    const UNPACK: &str = "Unpack it first, or pipe what it unpacks to";
    const AGAIN: &str = "Take the dump again";
    let (what, remedy) = match head {
        [] => ("the dump is empty", AGAIN),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => (
            "the dump is in UTF-16, as PowerShell's > makes it",
            "Take it again with pg_dump -f FILE",
        ),
        [b'B', b'Z', b'h', ..] => ("the dump is compressed by bzip2, which is not read", UNPACK),
        [0xFD, b'7', b'z', b'X', b'Z', ..] => {
            ("the dump is compressed by xz, which is not read", UNPACK)
        }
        [b'P', b'K', 3, 4, ..] => ("the dump is a zip file, which is not read", UNPACK),
        // The older frame of lz4 -l.
        [0x02, 0x21, 0x4C, 0x18, ..] => ("the dump is in lz4's legacy format", UNPACK),
        _ if memchr(0, &head[..head.len().min(512)]).is_some() => (
            "the dump is binary, and neither an archive of pg_dump nor compressed by gzip, zstd \
             or lz4",
            AGAIN,
        ),
        _ => return Ok(()),
    };
    Err(DumpError::NotADump { what: what.to_owned(), remedy })
}

/// The beginning of what is read, and all of it.
fn peek(
    mut reader: Box<dyn Read + Send>,
    packing: Packing,
) -> Result<(Vec<u8>, Box<dyn Read + Send>), DumpError> {
    let head = head_of(&mut reader).map_err(|source| match packing {
        Packing::Compressed(format) => {
            let place = super::error::Place { offset: 0, line: 1 };
            DumpError::Packing { format, place, source }
        }
        Packing::Plain | Packing::Archive => {
            DumpError::Io { doing: "reading the dump".to_owned(), source }
        }
    })?;
    let whole = Box::new(Cursor::new(head.clone()).chain(reader));
    Ok((head, whole))
}

fn head_of(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Counts what is read.
struct Counted {
    inner: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}
