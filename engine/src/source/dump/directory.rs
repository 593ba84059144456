//! A folder that `pg_dump -Fd` made: the schema before the data, then the tables, several
//! at once, each through a pg_restore of its own, then what comes after them.
//!
//! Each of these is a *unit* with a text of its own; a mark lists the units that were
//! begun and not ended. What can go wrong: as with one text, in any of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use tempfile::NamedTempFile;

use super::archive::{Input, PgRestore};
use super::archive_header::version;
use super::error::{DumpError, Place};
use super::mark::{Identity, Mark, Spot};
use super::opened::{piece, same};
use super::report::Report;
use super::stream::{Said, Shared, Stream};
use super::text::{Packing, Source, Text};
use super::{Piece, archive};

/// A part of the archive with a text of its own.
struct Unit {
    /// Arguments of pg_restore beside the folder.
    section: &'static str,
    /// Entries of the table of contents; none: all of the section.
    entries: Option<String>,
    /// Bytes of its data as stored.
    bytes: u64,
}

/// The archive, and how its units are read.
struct Plan {
    path: PathBuf,
    program: PgRestore,
    units: Vec<Unit>,
    shared: Shared,
}

/// A unit to be read, from its beginning or from where it was left.
type Task = (u32, Option<Spot>);

/// What comes from a worker.
enum Message {
    Said(u32, Box<Said>),
    Done(u32, Box<Report>),
    Failed(Box<DumpError>),
}

/// What is being read.
enum Phase {
    /// One unit.
    Alone(u32, Box<Stream>),
    /// Several at once.
    Tables(mpsc::Receiver<Message>),
    /// Nothing; what comes next has to be begun.
    Between,
}

/// The folder being read.
pub(super) struct Folder {
    plan: Arc<Plan>,
    identity: Identity,
    phase: Phase,
    /// What is still to be begun, in order.
    todo: Vec<Task>,
    /// Units up to here were begun.
    next: u32,
    /// Units begun and not ended, and how far they are handed out.
    begun: BTreeMap<u32, Spot>,
    report: Report,
    read: u64,
}

impl Folder {
    pub(super) fn open(
        path: &Path,
        shared: Shared,
        from: Option<&Mark>,
    ) -> Result<Folder, DumpError> {
        let program = PgRestore::find(shared.options.pg_restore.as_deref())?;
        let contents = path.join("toc.dat");
        let toc = fs::read(&contents).map_err(|source| DumpError::Io {
            doing: format!("opening {}, the beginning of pg_dump -Fd", contents.display()),
            source,
        })?;
        program.reads(version(&toc))?;
        let units = units(path, &program)?;
        let size = size(path).map_err(|source| DumpError::Io {
            doing: format!("listing {}", path.display()),
            source,
        })?;
        let identity = Identity::of(Some(size), &[&toc, program.version().as_bytes()]);
        if let Some(mark) = from {
            same(mark, &identity, true)?;
        }
        let (next, begun) = from
            .map_or((0, BTreeMap::new()), |mark| (mark.next, mark.spots.iter().cloned().collect()));
        let count = u32::try_from(units.len()).unwrap_or(u32::MAX);
        let left = begun
            .iter()
            .map(|(unit, spot): (&u32, &Spot)| (*unit, (spot.offset > 0).then(|| spot.clone())));
        let todo = left.chain((next..count).map(|unit| (unit, None))).collect::<Vec<_>>();
        let done = |unit: u32| !todo.iter().any(|(other, _)| *other == unit);
        let read = (0..count).zip(&units).filter(|(n, _)| done(*n)).map(|(_, u)| u.bytes).sum();
        let plan = Arc::new(Plan { path: path.to_owned(), program, units, shared });
        let (phase, report) = (Phase::Between, Report::default());
        Ok(Folder { plan, identity, phase, todo, next, begun, report, read })
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn report(&self) -> &Report {
        &self.report
    }

    pub(super) fn read_bytes(&self) -> u64 {
        self.read
    }

    pub(super) fn next(&mut self) -> Result<Option<Piece>, DumpError> {
        loop {
            let message = match &mut self.phase {
                Phase::Between if self.todo.is_empty() => return Ok(None),
                Phase::Between => {
                    self.phase = self.begin()?;
                    continue;
                }
                Phase::Alone(unit, stream) => match stream.next()? {
                    Some(said) => Message::Said(*unit, Box::new(said)),
                    None => Message::Done(*unit, Box::new(stream.report().clone())),
                },
                Phase::Tables(messages) => match messages.recv() {
                    Ok(message) => message,
                    // All workers have ended.
                    Err(mpsc::RecvError) => {
                        self.phase = Phase::Between;
                        continue;
                    }
                },
            };
            match message {
                Message::Failed(error) => {
                    self.phase = Phase::Between;
                    self.todo.clear();
                    return Err(*error);
                }
                Message::Done(unit, report) => self.done(unit, &report),
                Message::Said(unit, said) => {
                    self.begun_up_to(unit);
                    let mark = |spot| {
                        self.begun.insert(unit, spot);
                        let spots = self.begun.iter().map(|(n, spot)| (*n, spot.clone()));
                        let (identity, next) = (self.identity.clone(), self.next);
                        Mark { identity, next, spots: spots.collect() }
                    };
                    return Ok(Some(piece(*said, mark)));
                }
            }
        }
    }

    /// A unit is begun in turn, so those before it are, whether they said anything or not.
    fn begun_up_to(&mut self, unit: u32) {
        for n in self.next..=unit {
            self.begun.insert(n, Spot::default());
        }
        self.next = self.next.max(unit + 1);
    }

    fn done(&mut self, unit: u32, report: &Report) {
        self.begun_up_to(unit);
        self.begun.remove(&unit);
        self.report.add(report);
        self.read += self.plan.units[unit as usize].bytes;
        if matches!(self.phase, Phase::Alone(..)) {
            self.phase = Phase::Between;
        }
    }

    /// Begins what comes next: the schema, all tables, or one of the rest.
    fn begin(&mut self) -> Result<Phase, DumpError> {
        let plan = Arc::clone(&self.plan);
        let is_table = |task: &Task| plan.units[task.0 as usize].section == TABLE;
        let tables: Vec<Task> =
            self.todo.iter().take_while(|task| is_table(task)).cloned().collect();
        if tables.is_empty() {
            let (unit, spot) = self.todo.remove(0);
            return Ok(Phase::Alone(unit, Box::new(plan.open(unit, spot.as_ref())?)));
        }
        self.todo.drain(..tables.len());
        let jobs = self.plan.shared.options.jobs.clamp(1, tables.len());
        let (sender, messages) = mpsc::sync_channel(jobs);
        let (tables, next) = (Arc::new(tables), Arc::new(AtomicUsize::new(0)));
        for _ in 0..jobs {
            let (plan, sender) = (Arc::clone(&plan), sender.clone());
            let (tables, next) = (Arc::clone(&tables), Arc::clone(&next));
            std::thread::spawn(move || {
                while let Some(task) = tables.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !plan.work(task, &sender) {
                        return;
                    }
                }
            });
        }
        Ok(Phase::Tables(messages))
    }
}

/// `--section` of a table's data.
const TABLE: &str = "data";

impl Plan {
    fn open(&self, unit: u32, spot: Option<&Spot>) -> Result<Stream, DumpError> {
        let Unit { section, entries, .. } = &self.units[unit as usize];
        let section = if *section == REST { TABLE } else { section };
        let mut arguments: Vec<OsString> = vec![format!("--section={section}").into()];
        // Read when the child begins to write, which it does before it reads the data.
        let mut list = None;
        if let Some(entries) = entries {
            let written = NamedTempFile::new().and_then(|mut file| {
                file.write_all(entries.as_bytes())?;
                Ok(file)
            });
            let doing = "writing pg_restore's list of entries".to_owned();
            let file = written.map_err(|source| DumpError::Io { doing, source })?;
            arguments.extend(["-L".into(), file.path().into()]);
            list = Some(file);
        }
        arguments.extend(["-f".into(), "-".into(), self.path.clone().into()]);
        let restored = self.program.start(&arguments, Input::None)?;
        let source = Source::Stream(Box::new(WithList { restored, _list: list }), Packing::Archive);
        let text = Text::new(source, self.path.display().to_string());
        Stream::open(text, self.shared.clone(), false, spot)
    }

    /// Reads one unit to its end; false if nobody wants more.
    fn work(&self, (unit, spot): &Task, to: &mpsc::SyncSender<Message>) -> bool {
        let mut stream = match self.open(*unit, spot.as_ref()) {
            Ok(stream) => stream,
            Err(error) => {
                // Nobody listens any more if the reader was dropped.
                let _ = to.send(Message::Failed(Box::new(error)));
                return false;
            }
        };
        loop {
            let (message, more) = match stream.next() {
                Ok(Some(said)) => (Message::Said(*unit, Box::new(said)), true),
                Ok(None) => (Message::Done(*unit, Box::new(stream.report().clone())), false),
                Err(error) => {
                    let _ = to.send(Message::Failed(Box::new(error)));
                    return false;
                }
            };
            if to.send(message).is_err() {
                return false;
            }
            if !more {
                return true;
            }
        }
    }
}

/// Keeps the list of entries as long as the child may read it.
struct WithList {
    restored: archive::Restored,
    _list: Option<NamedTempFile>,
}

impl io::Read for WithList {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.restored.read(buffer)
    }
}

/// The units of an archive: its schema, each table's data, the rest of the data
/// (sequences, large objects), the rest of the schema.
fn units(path: &Path, program: &PgRestore) -> Result<Vec<Unit>, DumpError> {
    let arguments: [OsString; 2] = ["-l".into(), path.into()];
    let listed = program.start(&arguments, Input::None)?.into_text();
    let listed = listed.map_err(|error| match error.downcast::<archive::Failed>() {
        Ok(archive::Failed { status, said }) => {
            DumpError::PgRestore { place: Place { offset: 0, line: 1 }, status, said }
        }
        Err(source) => {
            DumpError::Io { doing: format!("listing {} by pg_restore", path.display()), source }
        }
    })?;
    let listed = String::from_utf8_lossy(&listed);
    let entries = listed.lines().filter(|line| !line.starts_with(';') && !line.is_empty());
    let mut units = vec![Unit { section: "pre-data", entries: None, bytes: 0 }];
    let mut rest = String::new();
    for entry in entries {
        if is_table_data(entry) {
            let bytes = data_size(path, entry);
            units.push(Unit { section: TABLE, entries: Some(format!("{entry}\n")), bytes });
        } else {
            rest.push_str(entry);
            rest.push('\n');
        }
    }
    units.push(Unit { section: REST, entries: Some(rest), bytes: 0 });
    units.push(Unit { section: "post-data", entries: None, bytes: 0 });
    Ok(units)
}

/// What of the data section is no table's.
const REST: &str = "rest";

/// `3419; 0 16386 TABLE DATA public t owner`.
fn is_table_data(entry: &str) -> bool {
    let mut words = entry.split(' ').skip(3);
    (words.next(), words.next()) == (Some("TABLE"), Some("DATA"))
}

/// Bytes of the file that holds a table's data, compressed or not.
fn data_size(path: &Path, entry: &str) -> u64 {
    let number = entry.split(';').next().unwrap_or("");
    let names = ["", ".gz", ".lz4", ".zst"].map(|end| format!("{number}.dat{end}"));
    names.iter().find_map(|name| fs::metadata(path.join(name)).ok()).map_or(0, |data| data.len())
}

/// Bytes of all files.
fn size(path: &Path) -> io::Result<u64> {
    fs::read_dir(path)?.try_fold(0, |sum, entry| Ok(sum + entry?.metadata()?.len()))
}
