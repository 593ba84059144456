//! Compressed files: gzip of several members, zstd and lz4 of several frames. All
//! decoders are Rust, since a dump may come from anywhere.
//!
//! What can go wrong: damage, which checksums show; and a file that was cut. lz4's decoder
//! takes that for the end, so every frame has to end by itself before the data does.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder as ZstdFrame};

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
    Lz4,
}

/// Window of a zstd frame at most: what `zstd --long` makes. It is memory of ours.
const ZSTD_WINDOW: u64 = 1 << 27;

impl Compression {
    /// By the first bytes: RFC 1952, RFC 8878 and the description of lz4's frames.
    pub(super) fn of(head: &[u8]) -> Option<Compression> {
        match head {
            [0x1F, 0x8B, ..] => Some(Compression::Gzip),
            // A frame, or one to be skipped in front of it.
            [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => {
                Some(Compression::Zstd)
            }
            [0x04, 0x22, 0x4D, 0x18, ..] => Some(Compression::Lz4),
            _ => None,
        }
    }

    /// What people call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::Lz4 => "lz4",
        }
    }

    /// The text in `packed`.
    pub(super) fn decoder(self, packed: Box<dyn Read + Send>) -> Box<dyn Read + Send> {
        let packed = BufReader::with_capacity(256 << 10, packed);
        match self {
            Compression::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Compression::Zstd => Box::new(Zstd {
                packed: Edge { inner: packed, ended: false },
                frame: Box::new(zstd_frame()),
                open: false,
            }),
            Compression::Lz4 => Box::new(Lz4::Between(Edge { inner: packed, ended: false })),
        }
    }
}

/// Remembers that a reader wanted more than there was.
struct Edge<R> {
    inner: R,
    ended: bool,
}

impl<R: BufRead> Edge<R> {
    /// Nothing is left; asked between frames, where that is in order.
    fn is_empty(&mut self) -> io::Result<bool> {
        Ok(self.inner.fill_buf()?.is_empty())
    }

    /// What a decoder's error is, now that it has come.
    fn error(&self, error: io::Error) -> io::Error {
        if self.ended { cut() } else { error }
    }
}

impl<R: Read> Read for Edge<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.ended |= n == 0 && !buffer.is_empty();
        Ok(n)
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it ends in the middle of a frame")
}

fn damaged(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

struct Zstd<R> {
    packed: Edge<R>,
    frame: Box<ZstdFrame>,
    /// In the middle of a frame.
    open: bool,
}

fn zstd_frame() -> ZstdFrame {
    let mut frame = ZstdFrame::new();
    frame.set_max_window_size(ZSTD_WINDOW);
    frame
}

impl<R: BufRead> Zstd<R> {
    /// Begins the next frame; false if there is none.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.packed.is_empty()? {
            match self.frame.reset(&mut self.packed) {
                Ok(()) => {
                    self.open = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let skipped = (&mut self.packed).take(length);
                    if io::copy(&mut { skipped }, &mut io::sink())? < length {
                        return Err(cut());
                    }
                }
                Err(error) => return Err(self.packed.error(damaged(error))),
            }
        }
        Ok(false)
    }

    fn end(&mut self) -> io::Result<()> {
        self.open = false;
        match (self.frame.get_checksum_from_data(), self.frame.get_calculated_checksum()) {
            (Some(written), Some(found)) if written != found => {
                Err(damaged("its checksum is another one"))
            }
            _ => Ok(()),
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.open && !self.begin()? {
                return Ok(0);
            }
            let n = self.frame.read(buffer)?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            if self.frame.is_finished() {
                self.end()?;
                continue;
            }
            let step = BlockDecodingStrategy::UptoBlocks(1);
            let decoded = self.frame.decode_blocks(&mut self.packed, step);
            decoded.map_err(|error| self.packed.error(damaged(error)))?;
        }
    }
}

enum Lz4<R: Read> {
    Between(Edge<R>),
    Within(Box<lz4_flex::frame::FrameDecoder<Edge<R>>>),
    Spent,
}

impl<R: BufRead> Read for Lz4<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            *self = match std::mem::replace(self, Lz4::Spent) {
                Lz4::Spent => return Ok(0),
                Lz4::Between(mut packed) => match packed.is_empty()? {
                    true => return Ok(0),
                    false => Lz4::Within(Box::new(lz4_flex::frame::FrameDecoder::new(packed))),
                },
                Lz4::Within(mut frame) => {
                    let n = frame.read(buffer).map_err(|error| frame.get_ref().error(error))?;
                    if n > 0 || buffer.is_empty() {
                        *self = Lz4::Within(frame);
                        return Ok(n);
                    }
                    if frame.get_ref().ended {
                        return Err(cut());
                    }
                    Lz4::Between(frame.into_inner())
                }
            };
        }
    }
}

#[cfg(test)]
mod tests;
