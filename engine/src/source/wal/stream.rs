//! The task that owns the socket of a running stream: it reads into a queue bounded by
//! bytes, and answers the server whatever its consumer does.
//!
//! What can go wrong, and what is done about it:
//! - The consumer stalls: the queue fills, the socket is read no more, status updates go
//!   on by their timer, so the server does not give us up.
//! - The server shuts down: it ends only when its whole log is acknowledged, and asks
//!   again the moment it is answered. Answers to such asking are at least
//!   [`ANSWER_PAUSE`] apart, and after a grace period the connection is closed: a
//!   server must never hang because of us.
//! - That it shuts down is not even heard, because the queue is full: a session beside the
//!   stream (`heartbeat`) sounds the alarm when the server ends it.
//! - A publication is missing: versions before 18 end the stream, later ones warn and leave
//!   its rows out, so that warning ends the stream too.
//! - The network dies without a word: an answer is asked for, and missed.
//!
//! Format: the PostgreSQL manual, 55.4 "Streaming Replication Protocol".

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::super::conninfo::Stream;
use super::super::error::{ServerError, SourceError};
use super::frames::{COPY_DATA, KEEPALIVE, XLOG};
use super::lowat::LowWater;
use super::queue::{End, Item, Shared};
use crate::position::Lsn;

/// A reply that was asked for, but would not say what the server waits for, is held back
/// this long; so a shutting-down server asks ten times a second and not 30,000 times.
const ANSWER_PAUSE: Duration = Duration::from_millis(100);
/// An acknowledgement that nobody asked for is told at most this often.
const ACK_PAUSE: Duration = Duration::from_secs(1);
/// A pipeline that has moved nothing for this long is not waited for any longer by a server
/// that is known to shut down.
const STALLED: Duration = Duration::from_secs(1);
/// How long the last words may take, the server's included.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);
/// What is read at once, at most; and the least room worth reading into.
const READ: usize = 256 << 10;
const LEAST_READ: usize = 32 << 10;

/// How the task behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamOptions {
    /// A status update at least this often.
    pub(super) status_interval: Duration,
    /// Received and not yet consumed, in bytes.
    pub(super) queue_bytes: usize,
    /// The largest message that is buffered.
    pub(super) max_message_bytes: usize,
    /// How long a server that shuts down is let wait for acknowledgements.
    pub(super) shutdown_grace: Duration,
    /// A question sooner after our answer than this is no keepalive of an idle server.
    pub(super) impatience: Duration,
    /// Nothing heard for this long, although asked: the connection is dead.
    pub(super) silence: Duration,
}

/// Questions of the server that keep coming.
#[derive(Default)]
struct Asking {
    /// The server waits for a reply since then.
    since: Option<Instant>,
    /// `wal_end` of the last question.
    at: Lsn,
    /// Since when questions have come at once after our answers, at the same `wal_end`.
    storm: Option<Instant>,
}

/// The task.
pub(super) struct Task {
    stream: Stream,
    buf: BytesMut,
    low: LowWater,
    shared: Arc<Shared>,
    options: StreamOptions,
    received: Lsn,
    sent_at: Instant,
    sent_flush: Lsn,
    heard_at: Instant,
    asking: Asking,
    /// Since when the queue is full while the alarm sounds.
    stuck: Option<Instant>,
    /// Since when the alarm sounds.
    alarmed: Option<Instant>,
    /// Bytes handed to the queue, and how many up to the last that were no keepalive.
    pushed: (u64, u64),
    /// Bytes that the consumer took, without keepalives behind them, and what is durable;
    /// and since when it is so much.
    moved: ((u64, Lsn), Instant),
    /// The server has said that the copy is over.
    ending: bool,
}

impl Task {
    pub(super) fn new(
        stream: Stream,
        buf: BytesMut,
        shared: Arc<Shared>,
        options: StreamOptions,
    ) -> Task {
        shared.figures.connected.store(true, Ordering::Relaxed);
        let now = Instant::now();
        Task {
            stream,
            buf,
            low: LowWater::default(),
            shared,
            options,
            received: Lsn::ZERO,
            // At once: the server learns what is durable from the start.
            sent_at: now.checked_sub(options.status_interval).unwrap_or(now),
            sent_flush: Lsn::ZERO,
            heard_at: now,
            asking: Asking::default(),
            stuck: None,
            alarmed: None,
            pushed: (0, 0),
            moved: ((0, Lsn::ZERO), now),
            ending: false,
        }
    }

    /// Runs to the end of the stream and puts that end into the queue.
    pub(super) async fn run(mut self) {
        let end = self.pump().await;
        self.shared.figures.connected.store(false, Ordering::Relaxed);
        if let Some(end) = end {
            self.shared.push(Item::End(end));
        }
        self.part().await;
    }

    /// The last word: what is durable now, and good-bye. The server has heard it, and let go
    /// of the slot, when it hangs up. Nobody waits for it long.
    async fn part(&mut self) {
        let farewell = async {
            let mut out = BytesMut::new();
            if !self.ending {
                self.status_into(&mut out, false);
                postgres_protocol::message::frontend::copy_done(&mut out);
            }
            postgres_protocol::message::frontend::terminate(&mut out);
            self.stream.write_all(&out).await?;
            self.stream.shutdown().await?;
            self.buf = BytesMut::with_capacity(LEAST_READ);
            while self.stream.read_buf(&mut self.buf).await? > 0 {
                self.buf.clear();
            }
            io::Result::Ok(())
        };
        // A broken connection cannot be left more orderly than this.
        let _: Result<io::Result<()>, _> = tokio::time::timeout(FAREWELL, farewell).await;
    }

    /// `None` when the consumer has gone.
    async fn pump(&mut self) -> Option<End> {
        let shared = Arc::clone(&self.shared);
        loop {
            if shared.gone.load(Ordering::SeqCst) {
                return None;
            }
            // What came with the answer to START_REPLICATION is looked at first.
            match self.scan() {
                Ok(None) if self.ending => return Some(End::Closed),
                Ok(None) => {}
                Ok(Some(end)) => return Some(end),
                Err(error) => return Some(End::Failed(error)),
            }
            match self.duties().await {
                Ok(false) => {}
                Ok(true) => return Some(End::Closed),
                Err(error) => return Some(End::Failed(error)),
            }
            let room = shared.figures.queued_bytes() < self.options.queue_bytes;
            let due = self.due(room);
            if self.buf.capacity() - self.buf.len() < LEAST_READ {
                self.buf.reserve(READ);
            }
            let read = read(&mut self.stream, &mut self.buf, &mut self.low);
            tokio::select! {
                n = read, if room => match n {
                    Ok(0) => {
                        let closed = io::ErrorKind::UnexpectedEof.into();
                        return Some(End::Failed(SourceError::io("streaming", closed)));
                    }
                    Ok(_) => self.heard_at = Instant::now(),
                    Err(error) => return Some(End::Failed(SourceError::io("streaming", error))),
                },
                () = tokio::time::sleep_until(due) => {}
                () = shared.wake.notified() => {}
            }
            if !room {
                // Unread is not unheard.
                self.heard_at = Instant::now();
            }
        }
    }

    /// Hands whole messages to the queue; says how the stream ends, if it does.
    fn scan(&mut self) -> Result<Option<End>, SourceError> {
        let mut whole = 0;
        let (mut end, mut data) = (None, false);
        while let Some((header, body)) = self.buf[whole..].split_first_chunk::<5>() {
            let [kind, len @ ..] = *header;
            let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
            let len = len.checked_sub(4);
            let len = len.ok_or_else(|| SourceError::protocol("streaming", "a length below 4"))?;
            if len > self.options.max_message_bytes {
                if kind == COPY_DATA && body.len() < 30 && body.len() < len {
                    break; // a little more tells whose change it is
                }
                end = Some(End::TooLarge { bytes: len, relation: relation_of(body) });
                break;
            }
            let Some(body) = body.get(..len) else {
                // With room to spare, or the last bytes would move it all once more.
                self.buf.reserve(len + LEAST_READ);
                break;
            };
            match kind {
                COPY_DATA => {
                    let lsn = header_lsn(body);
                    self.received = self.received.max(lsn);
                    match body.first() {
                        Some(&XLOG) => {
                            self.asking.storm = None;
                            self.shared.figures.carried.fetch_max(lsn.0, Ordering::Relaxed);
                            data = true;
                        }
                        Some(&KEEPALIVE) => self.note_keepalive(lsn, body.get(17) == Some(&1)),
                        _ => {}
                    }
                }
                b'N' if skips(&self.buf[whole..whole + 5 + len]) => {
                    end = Some(End::Skipped);
                    break;
                }
                b'N' | b'S' | b'Z' => {}
                b'c' | b'C' => self.ending = true,
                b'E' => {
                    end = Some(End::Failed(stream_error(&self.buf[whole..whole + 5 + len])));
                    break;
                }
                _ => return Err(SourceError::protocol("streaming", "an unexpected message")),
            }
            whole += 5 + len;
        }
        self.shared.figures.received.store(self.received.0, Ordering::Relaxed);
        if whole > 0 {
            self.pushed.0 += whole as u64;
            if data {
                self.pushed.1 = self.pushed.0;
            }
            self.shared.push(Item::Chunk(self.buf.split_to(whole).freeze()));
        }
        Ok(end)
    }

    fn note_keepalive(&mut self, wal_end: Lsn, asks: bool) {
        self.shared.figures.wal_end.fetch_max(wal_end.0, Ordering::Relaxed);
        if !asks {
            return;
        }
        let now = Instant::now();
        let at_once = now.duration_since(self.sent_at) < self.options.impatience;
        let again = wal_end == self.asking.at && at_once;
        self.asking.storm = if again { self.asking.storm.or(Some(now)) } else { None };
        self.asking.at = wal_end;
        self.asking.since = self.asking.since.or(Some(now));
    }

    /// Sends what is due; true = the connection is to be closed for the server's sake.
    async fn duties(&mut self) -> Result<bool, SourceError> {
        let now = Instant::now();
        let flush = self.flush();
        let since_sent = now.duration_since(self.sent_at);
        let asked = self.asking.since.is_some();
        let satisfied = flush >= self.asking.at;
        let answer = asked && (satisfied || since_sent >= ANSWER_PAUSE);
        let news = flush > self.sent_flush && since_sent >= ACK_PAUSE;
        if answer || news || since_sent >= self.options.status_interval {
            // While something is heard nobody need be asked for a sign of life.
            let silent = now.duration_since(self.heard_at) >= self.options.status_interval;
            self.send_status(silent).await?;
        }
        let queued = self.shared.figures.queued_bytes();
        let taken = self.shared.taken.load(Ordering::Relaxed).min(self.pushed.1);
        let done = (taken, flush);
        if self.moved.0 != done {
            self.moved = (done, now);
        }
        let since = |is: bool, t: Option<Instant>| is.then(|| t.unwrap_or(now));
        self.alarmed = since(self.shared.alarm.load(Ordering::SeqCst), self.alarmed);
        let full = queued >= self.options.queue_bytes;
        self.stuck = since(full && self.alarmed.is_some(), self.stuck);
        if self.leave_at().is_some_and(|at| now >= at) {
            tracing::info!("closing the stream: the server shuts down and waits for us");
            return Ok(true);
        }
        let silence = now.duration_since(self.heard_at);
        if silence >= self.options.silence {
            return Err(SourceError::Silent { ms: silence.as_millis() });
        }
        Ok(false)
    }

    /// When something is due next.
    fn due(&self, room: bool) -> Instant {
        let mut due = self.sent_at + self.options.status_interval;
        if self.asking.since.is_some() {
            self.shared.awaited.store(true, Ordering::SeqCst);
            due = due.min(self.sent_at + ANSWER_PAUSE);
            // Acknowledged between the look at it and the request to be woken.
            if self.flush() >= self.asking.at {
                due = Instant::now();
            }
        } else {
            self.shared.awaited.store(false, Ordering::SeqCst);
        }
        if self.flush() > self.sent_flush {
            due = due.min(self.sent_at + ACK_PAUSE);
        }
        if let Some(at) = self.leave_at() {
            due = due.min(at);
        }
        if room { due.min(self.heard_at + self.options.silence) } else { due }
    }

    /// When the connection is to be closed, if the server waits for us in order to end. An
    /// alarm that is false is over within moments: the other session stands again.
    fn leave_at(&self) -> Option<Instant> {
        let grace = self.options.shutdown_grace;
        let asked = self.asking.storm.map(|t| t + grace);
        let known = self.alarmed.map(|t| t + grace);
        let waits = [self.asking.storm, self.stuck].into_iter().flatten().min();
        let waits = waits.filter(|_| self.alarmed.is_some());
        let stalled = waits.map(|t| self.moved.1.max(t) + STALLED.min(grace));
        [asked, known, stalled].into_iter().flatten().min()
    }

    fn flush(&self) -> Lsn {
        Lsn(self.shared.flush.load(Ordering::SeqCst))
    }

    async fn send_status(&mut self, ask: bool) -> Result<(), SourceError> {
        let mut out = BytesMut::with_capacity(64);
        self.status_into(&mut out, ask);
        self.asking.since = None;
        self.sent_at = Instant::now();
        let write = async {
            self.stream.write_all(&out).await?;
            self.stream.flush().await
        };
        let written = tokio::time::timeout(self.options.silence, write).await;
        let written = written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        written.map_err(|e| SourceError::io("a status update", e))
    }

    /// Standby status update: written, flushed, applied, clock, and whether we ask.
    fn status_into(&mut self, out: &mut BytesMut, ask: bool) {
        let flush = self.flush();
        let written = self.received.max(flush);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.ok().and_then(|d| i64::try_from(d.as_micros()).ok()).unwrap_or(0);
        out.extend_from_slice(&[COPY_DATA, 0, 0, 0, 4 + 34, b'r']);
        for lsn in [written, flush, flush] {
            out.extend_from_slice(&lsn.0.to_be_bytes());
        }
        out.extend_from_slice(&super::pgoutput::wire_us(now).to_be_bytes());
        out.extend_from_slice(&[u8::from(ask)]);
        self.sent_flush = flush;
        self.shared.figures.updates.fetch_add(1, Ordering::Relaxed);
        self.shared.figures.acknowledged.store(flush.0, Ordering::Relaxed);
    }
}

/// The LSN in the header of a stream message.
fn header_lsn(body: &[u8]) -> Lsn {
    Lsn(body.get(1..9).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes))
}

/// Reads what is there, at least one byte. Cancel-safe.
async fn read(stream: &mut Stream, buf: &mut BytesMut, low: &mut LowWater) -> io::Result<usize> {
    if low.raised() {
        // Coalescing is worth this much latency and no more.
        if let Ok(read) = tokio::time::timeout(LowWater::PATIENCE, stream.read_buf(buf)).await {
            return read;
        }
        low.lower(stream);
    }
    let n = stream.read_buf(buf).await?;
    low.after_read(stream, n);
    Ok(n)
}

/// The relation in the beginning of an insert, update or delete.
fn relation_of(body: &[u8]) -> Option<u32> {
    match body.get(25..30)? {
        [b'I' | b'U' | b'D', a, b, c, d] => Some(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

/// Whether a notice says that rows are left out: of the warnings in mid-stream only that of
/// a missing publication has this SQLSTATE.
fn skips(message: &[u8]) -> bool {
    let Ok(Some(Message::NoticeResponse(body))) = Message::parse(&mut BytesMut::from(message))
    else {
        return false;
    };
    let (mut warning, mut state) = (false, false);
    let mut fields = body.fields();
    // The severity in `S` is translated, that in `V` is not.
    while let Ok(Some(field)) = fields.next() {
        warning |= field.type_() == b'V' && field.value_bytes() == b"WARNING";
        state |= field.type_() == b'C' && field.value_bytes() == b"55000";
    }
    warning && state
}

/// An error in mid-stream may quote a row: only its code and names are kept.
fn stream_error(message: &[u8]) -> SourceError {
    match Message::parse(&mut BytesMut::from(message)) {
        Ok(Some(Message::ErrorResponse(body))) => SourceError::Server {
            doing: "streaming".to_owned(),
            server: Box::new(ServerError::from_response(&body, false)),
        },
        _ => SourceError::protocol("streaming", "a malformed error"),
    }
}

#[cfg(test)]
mod tests;
