//! Decompresses layers, and charges input and output to the budget.

use std::io::{self, BufRead as _, BufReader, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::tar::Forward;
use crate::sys::budget::Budget;

/// The largest window of a frame: that of the strongest levels of engines' encoders. A decoder
/// needs up to three times as much memory.
const MAX_WINDOW: u64 = 32 << 20;
const BUFFER: usize = 64 << 10;

/// The input of a decompressor. It is read in large pieces; between two of them a decompressor may
/// work for long without output.
#[derive(Debug)]
pub(super) struct Packed<'b, R> {
    source: R,
    budget: &'b Budget,
}

impl<'b, R: Read> Packed<'b, R> {
    pub(super) fn new(source: R, budget: &'b Budget) -> BufReader<Self> {
        BufReader::with_capacity(BUFFER, Self { source, budget })
    }
}

impl<R: Read> Read for Packed<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.budget.check()?;
        self.source.read(buf)
    }
}

/// The output of a decompressor; all of it must be read.
#[derive(Debug)]
pub(super) struct Unpacked<'b, R> {
    source: R,
    budget: &'b Budget,
}

impl<'b, R: Read> Unpacked<'b, R> {
    pub(super) fn new(source: R, budget: &'b Budget) -> BufReader<Self> {
        BufReader::with_capacity(BUFFER, Self { source, budget })
    }
}

impl<R: Read> Read for Unpacked<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buf)?;
        self.budget.unpack(n as u64)?;
        self.budget.step()?;
        Ok(n)
    }
}

impl<R: Read> Forward for BufReader<Unpacked<'_, R>> {}

/// Zstandard frames in sequence, with skippable frames between them, as in `zstd:chunked` layers.
pub(super) struct Zstd<'b, R> {
    source: R,
    budget: &'b Budget,
    decoder: FrameDecoder,
    /// Whether a frame has begun.
    running: bool,
}

impl<'b, R: Read> Zstd<'b, BufReader<R>> {
    pub(super) fn new(source: BufReader<R>, budget: &'b Budget) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW);
        Self {
            source,
            budget,
            decoder,
            running: false,
        }
    }
}

impl<R: Read> Read for Zstd<'_, BufReader<R>> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bad = |e: FrameDecoderError| io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {e}"));
        loop {
            self.budget.step()?;
            if self.running {
                while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                    self.budget.step()?;
                    let some = BlockDecodingStrategy::UptoBlocks(1);
                    self.decoder.decode_blocks(&mut self.source, some).map_err(bad)?;
                }
                let n = self.decoder.read(buf)?;
                if n > 0 || buf.is_empty() {
                    return Ok(n);
                }
                self.running = false;
            }
            if self.source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            match self.decoder.init(&mut self.source) {
                Ok(()) => self.running = true,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?;
                }
                Err(e) => return Err(bad(e)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::budget::Limits;

    fn read(bytes: &[u8], budget: &Budget) -> io::Result<u64> {
        let zstd = Zstd::new(Packed::new(bytes, budget), budget);
        io::copy(&mut Unpacked::new(zstd, budget), &mut io::sink())
    }

    /// A frame of one block of `n` equal bytes, with the window of this descriptor byte.
    fn frame(window: u8, n: u32) -> Vec<u8> {
        let block = (1 | 1 << 1 | n << 3).to_le_bytes();
        [&[0x28, 0xb5, 0x2f, 0xfd, 0, window], &block[..3], b"x"].concat()
    }

    #[test]
    fn windows_of_every_size() {
        let budget = Budget::default();
        for window in 0..=u8::MAX {
            // Exponent and mantissa; 15 and 0 mean 32 MiB.
            let fits = window <= 15 << 3;
            let got = read(&frame(window, 1000), &budget);
            assert_eq!(got.is_ok(), fits, "{window}: {got:?}");
        }
    }

    #[test]
    fn single_segments_do_not_allocate_what_they_claim() {
        let budget = Budget::default();
        for size in [u64::MAX, 1 << 63, 2 << 30, (32 << 20) + 1] {
            let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0xe0];
            bytes.extend(size.to_le_bytes());
            bytes.extend(&frame(0, 10)[6..]);
            assert!(read(&bytes, &budget).is_err(), "{size}");
        }
    }

    #[test]
    fn output_is_charged() {
        let limits = Limits {
            unpacked: 1 << 20,
            ..Limits::DEFAULT
        };
        let budget = Budget::new(limits);
        let bomb = frame(0x40, 100_000).repeat(20);
        let error = read(&bomb, &budget).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn frames_without_output_end_with_the_time() {
        let limits = Limits {
            cpu: std::time::Duration::ZERO,
            ..Limits::DEFAULT
        };
        let budget = Budget::new(limits);
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0].repeat(300_000);
        read(&skipped, &budget).unwrap_err();
        budget.check().unwrap_err();
    }
}
