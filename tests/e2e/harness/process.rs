//! A process under watch: its output line by line, its end, its signals.
//!
//! Nothing outlives the test binary: processes are started with a parent-death signal,
//! which Linux sends when the *thread* ends that forked. So one thread, which never
//! ends, starts them all.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{read, retry_on_intr};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use super::{PATIENCE, logs};

/// Whether a process' output belongs in the register that is searched for canaries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Voice {
    /// Ours: searched.
    Engine,
    /// A server's own log: it may hold rows.
    Server,
}

/// A running process. Dropping it kills it.
pub(crate) struct Process {
    name: String,
    pid: u32,
    lines: Arc<Mutex<Vec<String>>>,
    /// Changes with new lines; closed when both pipes are.
    said: watch::Receiver<usize>,
    exit: watch::Receiver<Option<ExitStatus>>,
    pipes: Vec<Arc<OwnedFd>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts `command` with both outputs collected under `name`.
    pub(crate) fn spawn(name: &str, command: Command, voice: Voice) -> std::io::Result<Process> {
        let mut child = spawn_mortal(command)?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (say, said) = watch::channel(0);
        let mut readers = Vec::new();
        let pipes = [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(Into::into)];
        let pipes: Vec<Arc<OwnedFd>> = pipes.into_iter().flatten().map(Arc::new).collect();
        for pipe in pipes.clone() {
            let (lines, say, name) = (lines.clone(), say.clone(), name.to_owned());
            readers.push(std::thread::spawn(move || collect(&pipe, &name, voice, &lines, &say)));
        }
        let pid = child.id();
        let (ended, exit) = watch::channel(None);
        std::thread::spawn(move || ended.send(child.wait().ok()));
        Ok(Process { name: name.to_owned(), pid, lines, said, exit, pipes, readers })
    }

    /// The process' id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Every line so far, of both outputs.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its exit status, once it ended.
    pub(crate) fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits for a line that contains `text`; `None` if the process ended without it.
    pub(crate) async fn try_wait_for(&self, text: &str) -> Option<String> {
        self.try_wait_from(0, text).await
    }

    /// As [`Process::try_wait_for`], leaving out the first `from` lines.
    pub(crate) async fn try_wait_from(&self, from: usize, text: &str) -> Option<String> {
        let mut said = self.said.clone();
        let look = async {
            loop {
                let open = said.has_changed().is_ok();
                said.mark_unchanged();
                let found = self.lines().into_iter().skip(from).find(|line| line.contains(text));
                if found.is_some() || !open {
                    return found;
                }
                // An error is the end of both pipes: one more look, then that is all.
                let _ = said.changed().await;
            }
        };
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(found) => found,
            Err(_) => panic!(
                "{} did not say {text:?} in {PATIENCE:?}, but:\n{}",
                self.name,
                self.lines().join("\n")
            ),
        }
    }

    /// Waits for a line that contains `text` and returns it.
    pub(crate) async fn wait_for(&self, text: &str) -> String {
        let found = self.try_wait_for(text).await;
        found.unwrap_or_else(|| {
            panic!("{} ended without saying {text:?}:\n{}", self.name, self.lines().join("\n"))
        })
    }

    /// Waits for its end, and until every line that it had ended by then is in [`Process::lines`].
    pub(crate) async fn wait_exit(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        let ended = tokio::time::timeout(PATIENCE, exit.wait_for(Option::is_some)).await;
        let Ok(Ok(status)) = ended.map(|ended| ended.map(|status| *status)) else {
            panic!("{} did not end:\n{}", self.name, self.lines().join("\n"));
        };
        // Not until the pipes are closed: what it started may live on, and holds them.
        while self.pipes.iter().any(|pipe| readable(pipe, Some(&Timespec::default()))) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        status.expect("waited for Some")
    }

    /// Sends a signal by name (`TERM`, `STOP`, …), unless it ended already.
    pub(crate) fn signal(&self, name: &str) {
        if self.exited().is_none() {
            kill(self.pid, name);
        }
    }

    /// `kill -9`, and waits for the end.
    pub(crate) async fn kill9(&self) {
        self.signal("KILL");
        self.wait_exit().await;
    }

    /// Kills it and waits for its last words.
    pub(crate) fn finish(&mut self) {
        self.signal("KILL");
        self.drain();
    }

    /// Waits until nobody holds its outputs any more: it, and whatever it started.
    pub(crate) fn drain(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal("KILL");
    }
}

/// Sends a signal to a process by its id; at once, for who is killed in the middle of something
/// must not come to its end meanwhile.
pub(crate) fn kill(pid: u32, signal: &str) {
    let signal = match signal {
        "CONT" => Signal::CONT,
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        "KILL" => Signal::KILL,
        "QUIT" => Signal::QUIT,
        "STOP" => Signal::STOP,
        "TERM" => Signal::TERM,
        other => panic!("SIG{other}?"),
    };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    // It may have ended by itself.
    let _ = kill_process(pid, signal);
}

/// Whether there is something to read, waited for this long (`None`: until there is, or the end).
fn readable(pipe: &OwnedFd, wait: Option<&Timespec>) -> bool {
    let mut pipes = [PollFd::new(pipe, PollFlags::IN)];
    retry_on_intr(|| poll(&mut pipes, wait)).expect("poll");
    pipes[0].revents().contains(PollFlags::IN)
}

/// Reads a pipe to its end. What was read is among the lines before the lock is let go that
/// was taken before it was read: where nothing is left to read, nothing is under way.
fn collect(
    pipe: &OwnedFd,
    name: &str,
    voice: Voice,
    lines: &Mutex<Vec<String>>,
    say: &watch::Sender<usize>,
) {
    let (mut rest, mut chunk) = (Vec::new(), [0; 8192]);
    loop {
        readable(pipe, None);
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        let read = retry_on_intr(|| read(pipe, &mut chunk)).expect("a pipe");
        rest.extend_from_slice(&chunk[..read]);
        let ended = read == 0;
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let bytes: Vec<u8> = rest.drain(..if ended { rest.len() } else { whole }).collect();
        for line in String::from_utf8_lossy(&bytes).lines() {
            if voice == Voice::Engine {
                logs::record(name, line);
            }
            lines.push(line.trim_end().to_owned());
        }
        drop(lines);
        if ended {
            return;
        }
        say.send_modify(|count| *count += 1);
    }
}

type Job = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Starts a process that dies when this one does.
fn spawn_mortal(command: Command) -> std::io::Result<Child> {
    static STARTER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, reply) in queue {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let (reply, child) = mpsc::channel();
    let job = (mortal(command), reply);
    starter.lock().unwrap_or_else(PoisonError::into_inner).send(job).expect("the starter lives");
    child.recv().expect("the starter answers")
}

/// The same command under `setpriv --pdeathsig`, its outputs piped.
fn mortal(command: Command) -> Command {
    let mut mortal = Command::new("setpriv");
    // setpriv itself takes more options, so a command that is one already is extended.
    mortal.args(["--pdeathsig", "KILL"]);
    if command.get_program() != "setpriv" {
        mortal.arg("--").arg(command.get_program());
    }
    mortal.args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => mortal.env(key, value),
            None => mortal.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        mortal.current_dir(folder);
    }
    mortal.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    mortal
}
