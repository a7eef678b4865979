//! Reads a person's answer from a terminal.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Reads one line of at most `max` bytes, without its end. The end of the input ends it too.
///
/// # Errors
/// `TimedOut` if the line is not complete after `patience`, or those of reading.
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
    line.truncate(max);
    let end = line.iter().position(|b| *b == b'\n').unwrap_or(line.len());
    line.truncate(end);
    Ok(String::from_utf8_lossy(&line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn the_end_and_the_limit_end_a_line() {
        for (text, max, line) in [("", 8, ""), ("yes", 8, "yes"), ("yesyesyes\n", 4, "yesy")] {
            let (from, mut to) = io::pipe().unwrap();
            to.write_all(text.as_bytes()).unwrap();
            drop(to);
            assert_eq!(read_line(&from, max, Duration::from_secs(20)).unwrap(), line);
        }
    }
}
