//! The engine's side of a holder: starting it, hearing from it, adopting it, finding it
//! again after a restart, letting it go.
//!
//! What can go wrong: the program cannot be started, or ends without an answer. A holder
//! that is dropped before [`Holder::adopt`] undoes what it has done by itself.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_postgres::Client;

use crate::bootstrap::Blocking;
use crate::source::error::SourceError;
use crate::source::snapshot::SnapshotError;
use crate::source::snapshot::holder::{Event, HolderSpec, Report};
use crate::source::wal::SlotName;

/// How long a holder may take to undo what it has made.
const GIVE_UP: Duration = Duration::from_secs(9);

/// A holder that the engine has not adopted yet.
pub struct Holder {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    /// Starts `program snapshot --hold` with its task. The task goes through a pipe: the
    /// URL in it holds a password, and a command line can be seen by everybody.
    ///
    /// # Errors
    /// The program cannot be started.
    pub async fn spawn(program: &Path, spec: &HolderSpec) -> Result<Holder, SnapshotError> {
        let failed = |source| SnapshotError::Spawn { program: program.to_owned(), source };
        let mut child = Command::new(program)
            .args(["snapshot", "--hold", "--log-format", crate::log::format().name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // The service speaks for itself.
            .env_remove("NOTIFY_SOCKET")
            .spawn()
            .map_err(failed)?;
        let closed = || failed(std::io::Error::other("its pipes are closed"));
        let mut stdin = child.stdin.take().ok_or_else(closed)?;
        let stdout = child.stdout.take().ok_or_else(closed)?;
        let mut task = serde_json::to_vec(spec).map_err(|error| failed(error.into()))?;
        task.push(b'\n');
        stdin.write_all(&task).await.map_err(failed)?;
        Ok(Holder { child, stdin, stdout: BufReader::new(stdout).lines() })
    }

    /// Waits until slot, snapshot and locks stand. `waiting` is told whenever slot
    /// creation begins to wait for somebody else.
    ///
    /// # Errors
    /// What the holder says; nothing of it stands then.
    pub async fn ready(
        &mut self,
        mut waiting: impl FnMut(Option<Blocking>),
    ) -> Result<Report, SnapshotError> {
        let doing = "listening to the snapshot holder";
        while let Some(line) =
            self.stdout.next_line().await.map_err(|e| SourceError::io(doing, e))?
        {
            match serde_json::from_str(&line) {
                Ok(Event::Waiting { blocking }) => waiting(blocking),
                Ok(Event::Ready(report)) => return Ok(*report),
                Ok(Event::Failed { text, retry }) => {
                    return Err(SnapshotError::Holder { text, retry });
                }
                Err(_) => return Err(SourceError::protocol(doing, "a line that is none").into()),
            }
        }
        let status = self.child.wait().await;
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        Err(SnapshotError::HolderEnded(status))
    }

    /// Has the holder undo what it has made, and returns when it has ended: nothing is left then
    /// that stands in the way of another one.
    pub async fn give_up(self) {
        let Holder { mut child, stdin, stdout } = self;
        // The end of its input is what it is told by; nobody listens any more.
        drop((stdin, stdout));
        if tokio::time::timeout(GIVE_UP, child.wait()).await.is_err() {
            tracing::warn!("the snapshot holder has not ended yet: a slot may be left over");
        }
    }

    /// Lets the holder stay, whatever becomes of this process. To be called once the
    /// phase is stored.
    ///
    /// # Errors
    /// It has ended meanwhile.
    pub async fn adopt(mut self) -> Result<(), SnapshotError> {
        let doing = "adopting the snapshot holder";
        let said = async {
            self.stdin.write_all(b"adopt\n").await?;
            self.stdin.flush().await
        };
        said.await.map_err(|error| SourceError::io(doing, error))?;
        // Collects its exit status whenever that comes, so that no zombie stays.
        tokio::spawn(async move { self.child.wait().await });
        Ok(())
    }
}

/// How many sessions of the holder called `application_name` keep their snapshots.
///
/// # Errors
/// The query failed.
pub async fn holder_lives(client: &Client, application_name: &str) -> Result<bool, SourceError> {
    let found = client
        .query_opt(
            "SELECT FROM pg_stat_activity WHERE application_name = $1 \
             AND usename = current_user AND datname = current_database() LIMIT 1",
            &[&application_name],
        )
        .await;
    Ok(found.map_err(|error| SourceError::sql("looking for the holder", &error))?.is_some())
}

/// Ends the sessions of a holder, and with them its snapshots, its locks, and itself.
/// Returns how many there were.
///
/// # Errors
/// The query failed.
pub async fn release(client: &Client, application_name: &str) -> Result<u64, SourceError> {
    client
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 \
             AND usename = current_user AND datname = current_database()",
            &[&application_name],
        )
        .await
        .map_err(|error| SourceError::sql("ending the holder's sessions", &error))
}

/// Ends the sessions of every holder of `slot`, of whatever epoch, but of the one called
/// `keep`. Returns how many there were.
///
/// # Errors
/// The query failed.
pub async fn release_others(
    client: &Client,
    slot: &SlotName,
    keep: Option<&str>,
) -> Result<u64, SourceError> {
    client
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE application_name = left('kasho holder ' || split_part(application_name, ' ', 3) \
                 || ' ' || $1::text, 63) \
             AND application_name IS DISTINCT FROM $2::text \
             AND usename = current_user AND datname = current_database()",
            &[&slot.as_str(), &keep],
        )
        .await
        .map_err(|error| SourceError::sql("ending holders that are left over", &error))
}
