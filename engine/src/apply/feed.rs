//! The entries, read ahead by a task of its own, bounded in bytes.
//!
//! What can go wrong is what can go wrong with reading: see [`ReaderError`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::error::ApplyError;
use crate::reader::{ReaderError, StreamReader};
use crate::sink::entry::Entry;
use crate::sink::id::Id;
use crate::sink::runs::Runs;
use crate::sink::store::Backend;

/// Entries that travel together.
const CHUNK_BYTES: usize = 128 << 10;
/// After so long without an entry, that is told.
pub(super) const WAIT: Duration = Duration::from_millis(500);
/// An entry's values and names take so many times its bytes once they are decoded.
const DECODED: usize = 2;

/// Some entries, in order.
#[derive(Debug)]
pub(super) struct Chunk {
    /// None if nothing waits.
    pub(super) entries: Vec<Entry>,
    /// The load lies behind.
    pub(super) changes: bool,
    /// Through here the stream was read.
    pub(super) through: Id,
    /// Who wrote these entries, if they are of the load.
    pub(super) runs: Arc<Runs>,
    _room: Option<OwnedSemaphorePermit>,
}

/// What reads ahead.
#[derive(Debug)]
pub(super) struct Feed {
    chunks: mpsc::Receiver<Result<Chunk, ReaderError>>,
    /// Ends with this.
    _task: JoinSet<()>,
}

impl Feed {
    /// Reads ahead as long as no more than `most` bytes wait.
    pub(super) fn start<S>(reader: StreamReader<S>, most: usize) -> Feed
    where
        S: Backend + 'static,
    {
        let (to, chunks) = mpsc::channel(64);
        let room = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut reader = reader;
            loop {
                let chunk = read(&mut reader, &room, most).await;
                let over = chunk.is_err();
                if to.send(chunk).await.is_err() || over {
                    return;
                }
            }
        });
        Feed { chunks, _task: task }
    }

    /// The next entries; an empty chunk where none has come for a while.
    ///
    /// # Errors
    /// Reading ended.
    pub(super) async fn next(&mut self) -> Result<Chunk, ApplyError> {
        match self.chunks.recv().await {
            Some(chunk) => chunk.map_err(overtaken),
            // The task ends by itself after an error only.
            None => Err(ApplyError::Refused(
                "reading the streams ended in a panic, which is a bug: the log's line of it says \
                 where. Report it; the target has what is committed, and a start goes on from there"
                    .to_owned(),
            )),
        }
    }

    /// Whether some wait already.
    pub(super) fn waits(&self) -> bool {
        !self.chunks.is_empty()
    }
}

async fn read<S: Backend>(
    reader: &mut StreamReader<S>,
    room: &Arc<Semaphore>,
    most: usize,
) -> Result<Chunk, ReaderError> {
    let Some(first) = reader.next(WAIT).await? else {
        return Ok(chunk(reader, Vec::new(), None));
    };
    let mut bytes = first.weight;
    let mut entries = vec![first];
    while bytes < CHUNK_BYTES
        && let Some(entry) = reader.buffered()
    {
        bytes += entry.weight;
        entries.push(entry);
    }
    let wanted = u32::try_from((bytes * DECODED).min(most)).unwrap_or(u32::MAX);
    // Never closed, so never refused.
    let room = Arc::clone(room).acquire_many_owned(wanted).await.ok();
    Ok(chunk(reader, entries, room))
}

fn chunk<S: Backend>(
    reader: &StreamReader<S>,
    entries: Vec<Entry>,
    room: Option<OwnedSemaphorePermit>,
) -> Chunk {
    let (changes, through) = (reader.reads_changes(), reader.cursor());
    Chunk { entries, changes, through, runs: reader.runs(), _room: room }
}

/// Where this comes while reading, and not with the start, the next start tells more.
fn overtaken(error: ReaderError) -> ApplyError {
    match error {
        ReaderError::OutOfRange { .. } => ApplyError::Overtaken(error),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_panicked_is_no_stream_without_an_epoch() {
        let (to, chunks) = mpsc::channel(1);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let _to = to;
            panic!("a bug");
        });
        let told = Feed { chunks, _task: task }.next().await.unwrap_err().to_string();
        assert!(told.contains("a panic") && !told.contains("no bootstrap"), "{told}");
    }
}
