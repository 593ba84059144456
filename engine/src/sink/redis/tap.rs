//! Pages as they come from the server: of a stream's entries the driver would make some
//! dozen values each, which took more than all that is done with them. So a reply that is
//! asked for is kept from it, and it gets one of the same number of parts that say nothing.
//!
//! What can go wrong: a reply that holds an error is the driver's, which knows what it means;
//! so is whatever comes while nothing was asked for. A reply that is none ends the connection.
//!
//! Format: the Redis serialization protocol, version 2.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// What the driver gets for a part of a reply that was kept from it.
const NOTHING: &[u8] = b"+OK\r\n";
/// Room for what comes next, at least, …
const ROOM: usize = 64 << 10;
/// … and at most, whatever length the server tells.
const MOST_ROOM: usize = 4 << 20;

/// Asks for replies.
#[derive(Clone, Debug, Default)]
pub(super) struct Tap(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// So many replies are asked for.
    wanted: usize,
    scan: Scan,
    raw: BytesMut,
    taken: Option<Bytes>,
    /// Nothing is kept any more.
    over: bool,
}

impl State {
    /// What was asked for, once it is there.
    fn whole(&mut self) -> io::Result<Option<(usize, Bytes)>> {
        if !self.scan.go_on(&self.raw)? {
            return Ok(None);
        }
        let kept = self.raw.split_to(self.scan.at).freeze();
        Ok(Some((std::mem::take(&mut self.wanted), kept)))
    }
}

impl std::fmt::Debug for State {
    /// What it holds is row data.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl Tap {
    /// The next so many replies are to be kept: of what the server is asked for behind this call,
    /// and nothing else before them. None: the driver gets them.
    pub(super) fn keep(&self, replies: usize) -> Option<Keeping> {
        let mut state = self.state();
        if state.wanted > 0 || state.over {
            return None;
        }
        *state = State { wanted: replies, scan: Scan::of(replies), ..State::default() };
        Some(Keeping(self.clone()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replies that are asked for, as long as somebody waits for them.
#[derive(Debug)]
pub(super) struct Keeping(Tap);

impl Keeping {
    /// What was kept; none if there was an error among them.
    pub(super) fn take(self) -> Option<Bytes> {
        self.0.state().taken.take()
    }
}

impl Drop for Keeping {
    /// Where whoever waited has gone before all of it was there, nobody knows whether the server
    /// was asked at all, and so whose answer comes next: from then on the driver gets all that
    /// begins.
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.over |= state.wanted > 0;
        if state.raw.is_empty() {
            state.wanted = 0;
        }
    }
}

/// A connection that hands its replies to whoever asks for them.
pub(super) struct Tapped<C> {
    stream: C,
    tap: Tap,
    /// What the driver is to read before anything else.
    rest: BytesMut,
}

impl<C> Tapped<C> {
    pub(super) fn new(stream: C, tap: Tap) -> Tapped<C> {
        Tapped { stream, tap, rest: BytesMut::new() }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Tapped<C> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Tapped { stream, tap, rest } = self.get_mut();
        loop {
            if !rest.is_empty() {
                let some = rest.len().min(buf.remaining());
                buf.put_slice(&rest[..some]);
                rest.advance(some);
                return Poll::Ready(Ok(()));
            }
            let mut state = tap.state();
            if state.wanted == 0 {
                return Pin::new(stream).poll_read(cx, buf);
            }
            let room = state.scan.lacks(state.raw.len()).clamp(ROOM, MOST_ROOM);
            state.raw.reserve(room);
            if ready!(poll_read_buf(Pin::new(stream), cx, &mut state.raw))? == 0 {
                if state.raw.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                // An error may be among it, which says why there is no more.
                (state.wanted, *rest) = (0, std::mem::take(&mut state.raw));
                continue;
            }
            if let Some((replies, kept)) = state.whole()? {
                // Nobody has asked for more yet.
                let beyond = std::mem::take(&mut state.raw);
                match state.scan.failed {
                    true => rest.extend_from_slice(&kept),
                    false => {
                        (0..replies).for_each(|_| rest.extend_from_slice(NOTHING));
                        state.taken = Some(kept);
                    }
                }
                rest.extend_from_slice(&beyond);
            }
        }
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Tapped<C> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Looks for the end of replies, as far as they are there.
#[derive(Debug, Default)]
struct Scan {
    /// Everything before is whole.
    at: usize,
    /// Values to come.
    open: usize,
    /// Where the value ends that is not whole.
    until: usize,
    /// One of them is an error.
    failed: bool,
}

impl Scan {
    fn of(replies: usize) -> Scan {
        Scan { open: replies, ..Scan::default() }
    }

    /// Bytes that are known to be missing, of so many.
    fn lacks(&self, there: usize) -> usize {
        self.until.saturating_sub(there)
    }

    /// Whether all of them are whole.
    fn go_on(&mut self, raw: &[u8]) -> io::Result<bool> {
        while self.open > 0 && self.until <= raw.len() {
            let Some((kind, line, end)) = line(raw, self.at)? else { return Ok(false) };
            match kind {
                b'+' | b':' => (self.at, self.open) = (end, self.open - 1),
                b'-' => (self.at, self.open, self.failed) = (end, self.open - 1, true),
                b'$' => {
                    // Nothing, or its bytes and a line's end.
                    let value = length(line)?.map_or(0, |bytes| bytes.saturating_add(2));
                    self.until = end.saturating_add(value);
                    if self.until <= raw.len() {
                        (self.at, self.open) = (self.until, self.open - 1);
                    }
                }
                b'*' => {
                    let values = length(line)?.unwrap_or(0);
                    (self.at, self.open) = (end, (self.open - 1).saturating_add(values));
                }
                _ => return Err(no_reply()),
            }
        }
        Ok(self.open == 0)
    }
}

/// The line at this place, without its kind, and where it ends; none if it is not whole.
fn line(raw: &[u8], at: usize) -> io::Result<Option<(u8, &[u8], usize)>> {
    let Some((kind, rest)) = raw.get(at..).and_then(<[u8]>::split_first) else { return Ok(None) };
    let Some(end) = memchr(b'\r', rest) else { return Ok(None) };
    match rest.get(end + 1) {
        Some(b'\n') => Ok(Some((*kind, &rest[..end], at + end + 3))),
        Some(_) => Err(no_reply()),
        None => Ok(None),
    }
}

/// None: there is no value.
fn length(line: &[u8]) -> io::Result<Option<usize>> {
    if line == b"-1" {
        return Ok(None);
    }
    let text = std::str::from_utf8(line).ok();
    text.and_then(|text| text.parse().ok()).map(Some).ok_or_else(no_reply)
}

fn no_reply() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this is no reply of Redis")
}

/// Reads what was kept. None: it is something else.
#[derive(Debug)]
pub(super) struct Replies {
    raw: Bytes,
    at: usize,
}

impl Replies {
    pub(super) fn of(raw: Bytes) -> Replies {
        Replies { raw, at: 0 }
    }

    /// A line, such as `+OK`.
    pub(super) fn pass(&mut self) -> Option<()> {
        let (_, _, end) = line(&self.raw, self.at).ok()??;
        self.at = end;
        Some(())
    }

    /// How many values an array has.
    pub(super) fn array(&mut self) -> Option<usize> {
        let (kind, text, end) = line(&self.raw, self.at).ok()??;
        let count = length(text).ok()?.unwrap_or(0);
        self.at = end;
        (kind == b'*').then_some(count)
    }

    /// A value, which may be nothing: a slice of what was kept.
    pub(super) fn value(&mut self) -> Option<Option<Bytes>> {
        let (kind, text, end) = line(&self.raw, self.at).ok()??;
        let length = length(text).ok()?;
        if kind != b'$' {
            return None;
        }
        let Some(length) = length else {
            self.at = end;
            return Some(None);
        };
        let through = end.checked_add(length).filter(|through| *through <= self.raw.len())?;
        self.at = through + 2;
        Some(Some(self.raw.slice(end..through)))
    }
}

#[cfg(test)]
mod tests;
