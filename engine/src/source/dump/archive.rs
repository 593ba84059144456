//! pg_restore as a child: archives come out of it as SQL text.
//!
//! It never meets a server, so what it says of itself holds no row; the end of what it
//! said becomes the error. What can go wrong: it is not there, it is older than the
//! archive, the archive is damaged. Dropping the reader ends the child.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use super::archive_header::{major, needed};
use super::error::DumpError;

/// Bytes kept of what it says.
const WORDS: usize = 2048;

/// The program.
#[derive(Clone, Debug)]
pub(super) struct PgRestore {
    program: PathBuf,
    /// What it calls itself.
    version: String,
}

impl PgRestore {
    /// Asks the program who it is.
    pub(super) fn find(program: Option<&Path>) -> Result<PgRestore, DumpError> {
        let program = program.map_or_else(|| PathBuf::from("pg_restore"), Path::to_owned);
        let output = Command::new(&program).arg("--version").stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.success() => {
                let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                Ok(PgRestore { program, version })
            }
            Ok(output) => {
                let source = io::Error::other(format!("--version: {}", output.status));
                Err(DumpError::NoPgRestore { program, source })
            }
            Err(source) => Err(DumpError::NoPgRestore { program, source }),
        }
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Refuses an archive of a format that it does not read, `1.minor`.
    pub(super) fn reads(&self, minor: Option<u8>) -> Result<(), DumpError> {
        let old = minor.zip(major(&self.version)).filter(|(minor, own)| *own < needed(*minor));
        match old {
            None => Ok(()),
            Some((minor, _)) => Err(DumpError::OldPgRestore {
                archive: format!("1.{minor}"),
                version: self.version.clone(),
                needed: needed(minor),
            }),
        }
    }

    /// Starts it; what it writes is read from the answer.
    pub(super) fn start<A: AsRef<OsStr>>(
        &self,
        arguments: &[A],
        input: Input,
    ) -> Result<Restored, DumpError> {
        let (stdin, feed) = match input {
            Input::None => (Stdio::null(), None),
            Input::File(file) => (Stdio::from(file), None),
            Input::Stream(stream) => (Stdio::piped(), Some(stream)),
        };
        let spawned = Command::new(&self.program)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let no = |source| DumpError::NoPgRestore { program: self.program.clone(), source };
        let mut child = spawned.map_err(no)?;
        if let (Some(mut to), Some(mut from)) = (child.stdin.take(), feed) {
            // If the input fails the child finds its archive cut, and says so.
            std::thread::spawn(move || io::copy(&mut from, &mut to).is_ok());
        }
        let stderr = child.stderr.take();
        let words = std::thread::spawn(move || stderr.map(last_words).unwrap_or_default());
        let stdout = child.stdout.take();
        Ok(Restored { child, stdout, words: Some(words) })
    }
}

/// What the child reads.
pub(super) enum Input {
    /// It is told by name.
    None,
    /// From where the file stands.
    File(std::fs::File),
    /// What a thread gives it.
    Stream(Box<dyn Read + Send>),
}

/// The end of what is said, in one line.
fn last_words(mut from: impl Read) -> String {
    let (mut words, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        words.extend_from_slice(&buffer[..n]);
        words.drain(..words.len().saturating_sub(WORDS));
    }
    let words = String::from_utf8_lossy(&words).into_owned();
    words.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// It ended badly; carried through [`io::Error`].
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) status: String,
    pub(super) said: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.said)
    }
}

impl std::error::Error for Failed {}

/// The text that comes out.
pub(super) struct Restored {
    child: Child,
    stdout: Option<ChildStdout>,
    words: Option<JoinHandle<String>>,
}

impl Restored {
    /// All of it, for what is known to be short.
    pub(super) fn into_text(mut self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        self.read_to_end(&mut text)?;
        Ok(text)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.stdout = None;
        let status = self.child.wait()?;
        let said = self.words.take().and_then(|words| words.join().ok()).unwrap_or_default();
        if status.success() {
            return Ok(());
        }
        Err(io::Error::other(Failed { status: status.to_string(), said }))
    }
}

impl Read for Restored {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(stdout) = &mut self.stdout else { return Ok(0) };
        let n = stdout.read(buffer)?;
        if n == 0 && !buffer.is_empty() {
            self.finish()?;
        }
        Ok(n)
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        if self.stdout.take().is_some() {
            // It may have ended by itself, and then there is nothing to kill.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
