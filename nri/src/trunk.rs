//! NRI's trunk: several logical connections over one socket.
//!
//! A frame is a connection's number and a length, both 32 bits and big endian, then the payload.
//! A frame's payload is any piece of its connection's byte stream.

use std::io::{self, Read, Write};

use crate::proto;

/// The connection on which the plugin serves the engine's requests.
pub const PLUGIN: u32 = 1;
/// The connection on which the engine serves the plugin's requests.
pub const RUNTIME: u32 = 2;

/// The engine's reader fills a buffer of this size, and fails on a larger piece.
const PIECE: usize = 4096;
/// The most bytes in a frame: one ttrpc message and its header.
const LARGEST: u32 = 10 + (4 << 20);
/// A frame is read in steps of this size, so a length alone allocates nothing.
const STEP: usize = 16 << 10;

/// Reads one frame and hands its pieces to `sink`, with the connection's number.
pub fn read_frame(
    from: &mut impl Read,
    mut sink: impl FnMut(u32, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let (mut number, mut length) = ([0; 4], [0; 4]);
    from.read_exact(&mut number)?;
    from.read_exact(&mut length)?;
    let (number, length) = (u32::from_be_bytes(number), u32::from_be_bytes(length));
    if length > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes"),
        ));
    }
    let mut left = length as usize;
    let mut step = [0; STEP];
    while left > 0 {
        let piece = &mut step[..left.min(STEP)];
        from.read_exact(piece)?;
        left -= piece.len();
        sink(number, piece)?;
    }
    Ok(())
}

/// Writes a message to a connection, in one system call for a message of usual size.
pub fn write(to: &mut impl Write, number: u32, message: &[u8]) -> io::Result<()> {
    for piece in message.chunks(PIECE) {
        let mut frame = Vec::with_capacity(8 + PIECE);
        frame.extend_from_slice(&number.to_be_bytes());
        frame.extend_from_slice(&proto::length(piece).to_be_bytes());
        frame.extend_from_slice(piece);
        to.write_all(&frame)?;
    }
    to.flush()
}
