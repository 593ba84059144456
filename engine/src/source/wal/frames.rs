//! Whole protocol messages in a received chunk, one after the other.
//!
//! What can go wrong: a chunk that does not hold whole messages; the task that fills
//! chunks has looked at every length, so that would be its bug, and it is an error here.

use bytes::Bytes;

use super::super::error::SourceError;
use crate::position::Lsn;

pub(super) const COPY_DATA: u8 = b'd';
pub(super) const XLOG: u8 = b'w';
pub(super) const KEEPALIVE: u8 = b'k';
/// `w`, two LSNs and a time.
const XLOG_HEADER: usize = 25;

/// One message of the stream.
pub(super) enum Frame<'a> {
    /// A `pgoutput` message.
    Data {
        /// LSN in its header.
        lsn: Lsn,
        /// When it was sent, in the wire's microseconds.
        sent: i64,
        /// Where `message` begins in the chunk.
        at: usize,
        /// The message.
        message: &'a [u8],
    },
    /// The server's log has been read up to here.
    Keepalive(Lsn),
    /// Nothing of interest.
    Other,
}

/// The frame at `offset` and where the next one begins; `None` at the end.
pub(super) fn frame(
    chunk: &Bytes,
    offset: usize,
) -> Option<Result<(Frame<'_>, usize), SourceError>> {
    let rest = chunk.get(offset..).filter(|rest| !rest.is_empty())?;
    Some(parse(rest, offset).ok_or_else(|| {
        SourceError::protocol("streaming", format!("half a message at byte {offset} of a chunk"))
    }))
}

fn parse(rest: &[u8], offset: usize) -> Option<(Frame<'_>, usize)> {
    let (&[kind, a, b, c, d], body) = rest.split_first_chunk::<5>()?;
    let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?.checked_sub(4)?;
    let body = body.get(..len)?;
    let next = offset + 5 + len;
    if kind != COPY_DATA {
        return Some((Frame::Other, next));
    }
    let number = |at: usize| body.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
    let frame = match *body.first()? {
        XLOG => Frame::Data {
            lsn: Lsn(number(1)?),
            sent: number(17)?.cast_signed(),
            at: offset + 5 + XLOG_HEADER,
            message: body.get(XLOG_HEADER..)?,
        },
        KEEPALIVE => Frame::Keepalive(Lsn(number(1)?)),
        _ => Frame::Other,
    };
    Some((frame, next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_follow_one_another() {
        let mut chunk = vec![b'd', 0, 0, 0, 4 + 26, b'w'];
        chunk.extend_from_slice(&7u64.to_be_bytes());
        chunk.extend_from_slice(&7u64.to_be_bytes());
        chunk.extend_from_slice(&(-3i64).to_be_bytes());
        chunk.push(b'B');
        chunk.extend_from_slice(&[b'N', 0, 0, 0, 4]);
        chunk.extend_from_slice(&[b'd', 0, 0, 0, 4 + 18, b'k']);
        chunk.extend_from_slice(&9u64.to_be_bytes());
        chunk.extend_from_slice(&[0; 9]);
        let chunk = Bytes::from(chunk);
        let (first, next) = frame(&chunk, 0).unwrap().unwrap();
        assert!(matches!(first, Frame::Data { lsn: Lsn(7), sent: -3, at: 30, message: b"B" }));
        let (second, next) = frame(&chunk, next).unwrap().unwrap();
        assert!(matches!(second, Frame::Other));
        let (third, next) = frame(&chunk, next).unwrap().unwrap();
        assert!(matches!(third, Frame::Keepalive(Lsn(9))));
        assert!(frame(&chunk, next).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let chunk = Bytes::from(bytes);
            let mut at = 0;
            while let Some(Ok((_, next))) = frame(&chunk, at) {
                prop_assert!(next > at);
                at = next;
            }
        }
    }
}
