//! Waking rarely under load: the socket's low-water mark follows the stream.
//!
//! After a large read the kernel is told to wake us for 32 KiB and not for every row,
//! which saves five sixths of the reader's CPU; when that does not come within 2 ms the
//! mark is one byte again, so a single commit is not late. TCP on Linux only: on Unix
//! sockets waiting halves the throughput. What can go wrong: the option is refused; then
//! it is never tried again.

use std::time::Duration;

use super::super::conninfo::Stream;
use super::super::sockopt;

const HIGH: u32 = 32 << 10;
const LARGE_READ: usize = 4 << 10;

#[derive(Default)]
pub(super) struct LowWater {
    raised: bool,
    refused: bool,
}

impl LowWater {
    /// How long a raised mark may delay what has come.
    pub(super) const PATIENCE: Duration = Duration::from_millis(2);

    pub(super) fn raised(&self) -> bool {
        self.raised
    }

    pub(super) fn lower(&mut self, stream: &Stream) {
        self.raised = false;
        if let Some(tcp) = stream.tcp() {
            self.refused |= sockopt::receive_low_water(tcp, 1).is_err();
        }
    }

    pub(super) fn after_read(&mut self, stream: &Stream, n: usize) {
        if n < LARGE_READ || self.raised || self.refused {
            return;
        }
        match stream.tcp().map(|tcp| sockopt::receive_low_water(tcp, HIGH)) {
            Some(Ok(())) => self.raised = true,
            Some(Err(_)) | None => self.refused = true,
        }
    }
}
