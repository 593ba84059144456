//! A dump once it is known what it is: one text, or a folder of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::{fs, io::Seek};

use super::directory::Folder;
use super::error::DumpError;
use super::input::{self, Progress};
use super::mark::{Identity, Mark, Spot};
use super::report::Report;
use super::stream::{Said, Shared, Stream, What};
use super::targets::Targets;
use super::text::Text;
use super::{Input, Options, Piece};
use crate::source::catalog::Catalog;

/// The dump.
pub(super) enum Opened {
    /// One text.
    Single(Box<Single>),
    /// A folder that `pg_dump -Fd` made.
    Folder(Box<Folder>),
}

/// One text and how far it is read.
pub(super) struct Single {
    stream: Stream,
    identity: Identity,
    progress: Progress,
}

impl Opened {
    pub(super) fn open(
        input: Input,
        catalog: &Catalog,
        options: Options,
        from: Option<&Mark>,
    ) -> Result<Opened, DumpError> {
        let targets = Targets::new(catalog, options.all_tables);
        // Spans within a batch have 32 bits.
        let max_line = options.max_line.min(1 << 30);
        let options = Arc::new(Options { max_line, ..options });
        let shared = Shared { targets: Arc::new(targets), options };
        match &input {
            Input::File(path) if path.is_dir() => {
                Ok(Opened::Folder(Box::new(Folder::open(path, shared, from)?)))
            }
            Input::File(path) => Single::open(Some(path), shared, from),
            Input::Stdin => Single::open(None, shared, from),
        }
    }

    pub(super) fn identity(&self) -> &Identity {
        match self {
            Opened::Single(single) => &single.identity,
            Opened::Folder(folder) => folder.identity(),
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<Piece>, DumpError> {
        match self {
            Opened::Single(single) => single.next(),
            Opened::Folder(folder) => folder.next(),
        }
    }

    pub(super) fn report(&self) -> &Report {
        match self {
            Opened::Single(single) => single.stream.report(),
            Opened::Folder(folder) => folder.report(),
        }
    }

    pub(super) fn total_bytes(&self) -> Option<u64> {
        self.identity().size
    }

    pub(super) fn read_bytes(&self) -> u64 {
        match self {
            Opened::Single(single) => single.read_bytes(),
            Opened::Folder(folder) => folder.read_bytes(),
        }
    }
}

impl Single {
    fn open(
        path: Option<&std::path::Path>,
        shared: Shared,
        from: Option<&Mark>,
    ) -> Result<Opened, DumpError> {
        let opened = input::open(path, &shared.options)?;
        let identity = opened.identity;
        if let Some(mark) = from {
            same(mark, &identity, opened.archive)?;
        }
        let name = path.map_or("standard input".to_owned(), |path| path.display().to_string());
        let mut text = Text::new(opened.source, name);
        let spot = from.and_then(|mark| mark.spots.first()).map(|(_, spot)| spot);
        if spot.is_none() && opened.bom > 0 {
            text.more("the text", shared.options.max_line)?;
            text.advance(opened.bom, 0);
        }
        let stream = Stream::open(text, shared, opened.crlf, spot)?;
        let progress = opened.progress;
        Ok(Opened::Single(Box::new(Single { stream, identity, progress })))
    }

    fn next(&mut self) -> Result<Option<Piece>, DumpError> {
        let identity = &self.identity;
        let mark = |spot| Mark { identity: identity.clone(), next: 1, spots: vec![(0, spot)] };
        Ok(self.stream.next()?.map(|said| piece(said, mark)))
    }

    fn read_bytes(&self) -> u64 {
        match &self.progress {
            Progress::Counted(read) => read.load(Ordering::Relaxed),
            Progress::Shared(file) => {
                let mut file: &fs::File = file;
                file.stream_position().unwrap_or(0)
            }
            Progress::Text => self.stream.place().offset,
        }
    }
}

/// Refuses a mark of another dump. A text may have grown since (a file that was cut was
/// completed): what stands before the mark is compared as well.
pub(super) fn same(mark: &Mark, found: &Identity, archive: bool) -> Result<(), DumpError> {
    let expected = &mark.identity;
    let sizes = match (expected.size, found.size) {
        (Some(expected), Some(found)) if archive => expected == found,
        (Some(expected), Some(found)) => expected <= found,
        _ => true,
    };
    if sizes && expected.head == found.head {
        return Ok(());
    }
    let (expected, found) = (Box::new(expected.clone()), Box::new(found.clone()));
    Err(DumpError::OtherDump { expected, found })
}

/// What was said, with the mark that its spot makes.
pub(super) fn piece(said: Said, mark: impl FnOnce(Spot) -> Mark) -> Piece {
    let Said { what, spot } = said;
    let mark = mark(spot);
    match what {
        What::Rows { table, batch, bytes } => Piece::Rows { table, batch, bytes, mark },
        What::Ddl { tag, text } => Piece::Ddl { tag, text, mark },
        What::Sequence { schema, name, value, is_called } => {
            Piece::Sequence { schema, name, value, is_called, mark }
        }
    }
}
