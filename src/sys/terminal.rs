//! Reads a person's answer from a terminal.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{QueueSelector, tcflush};

/// Drops the input that was typed and not read yet. What is no terminal keeps its input.
pub fn forget_typed(from: impl AsFd) {
    let _ = tcflush(from, QueueSelector::IFlush);
}

/// Reads one line of less than `max` bytes, without its end. The end of the input ends it too.
///
/// # Errors
/// `TimedOut` if the line is not complete after `patience`, `InvalidData` if it is longer, or those
/// of reading.
pub fn read_line(from: impl AsFd, max: usize, patience: Duration) -> io::Result<String> {
    let until = Instant::now() + patience;
    let mut line = Vec::new();
    let mut part = [0; 64];
    while line.len() < max && !line.contains(&b'\n') {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&from, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        }
        match rustix::io::read(&from, &mut part) {
            Ok(0) => break,
            Ok(n) => line.extend_from_slice(part.get(..n).unwrap_or_default()),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let end = line.iter().position(|b| *b == b'\n').unwrap_or(line.len());
    // A part of a longer line is no answer.
    if end >= max {
        return Err(io::ErrorKind::InvalidData.into());
    }
    line.truncate(end);
    Ok(String::from_utf8_lossy(&line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
    use std::io::Write as _;

    #[test]
    fn a_line_in_pieces_is_read_and_a_dribble_is_bounded() {
        let (from, mut to) = io::pipe().unwrap();
        let writer = std::thread::spawn(move || {
            for piece in ["y", "e", "s\nno\n"] {
                to.write_all(piece.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        assert_eq!(read_line(&from, 64, Duration::from_secs(20)).unwrap(), "yes");
        writer.join().unwrap();

        let (from, mut to) = io::pipe().unwrap();
        let writer = std::thread::spawn(move || {
            while to.write_all(b"y").is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let e = read_line(&from, usize::MAX, Duration::from_millis(100)).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::TimedOut);
        drop(from);
        writer.join().unwrap();
    }

    #[test]
    fn the_end_ends_a_line_and_a_longer_one_is_an_error() {
        let read = |text: &str, max: usize| {
            let (from, mut to) = io::pipe().unwrap();
            to.write_all(text.as_bytes()).unwrap();
            drop(to);
            read_line(&from, max, Duration::from_secs(20)).map_err(|e| e.kind())
        };
        for (text, max, line) in [("", 8, ""), ("yes", 8, "yes"), ("yes\nno", 4, "yes")] {
            assert_eq!(read(text, max).unwrap(), line);
        }
        assert_eq!(read("yesyesyes\n", 4), Err(io::ErrorKind::InvalidData));
    }

    #[test]
    fn type_ahead_is_forgotten_on_a_terminal_only() {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let master = openpt(flags).unwrap();
        unlockpt(&master).unwrap();
        let from = ioctl_tiocgptpeer(&master, flags).unwrap();
        rustix::io::write(&master, b"y\n").unwrap();
        forget_typed(&from);
        rustix::io::write(&master, b"n\n").unwrap();
        assert_eq!(read_line(&from, 64, Duration::from_secs(20)).unwrap(), "n");

        let (from, mut to) = io::pipe().unwrap();
        to.write_all(b"y\n").unwrap();
        forget_typed(&from);
        assert_eq!(read_line(&from, 64, Duration::from_secs(20)).unwrap(), "y");
    }
}
