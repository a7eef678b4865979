//! Queries a running Docker daemon, or Podman's service, over its socket.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The longest time for a whole answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest answer, in bytes; `/info` of a large daemon has some hundred kilobytes.
const MAX_ANSWER: u64 = 8 << 20;

/// The daemon that Docker's command line uses because of `DOCKER_HOST`.
pub fn docker_host() -> Option<OsString> {
    std::env::var_os("DOCKER_HOST").filter(|h| !h.is_empty())
}

/// Sends `GET path` and returns the JSON of the answer.
///
/// The request is HTTP/1.0, so the answer is one piece that ends with the connection.
///
/// # Errors
/// Those of reaching the socket, `TimedOut`, or `InvalidData` with the daemon's message.
pub fn get(socket: &Path, path: &str) -> io::Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    let end = Instant::now() + PATIENCE;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(
        format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    let mut part = vec![0; 64 * 1024];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(part.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(e) => return Err(e),
        }
        if answer.len() as u64 > MAX_ANSWER {
            return Err(bad("its answer is too long"));
        }
    }
    parse(&answer)
}

fn parse(answer: &[u8]) -> io::Result<Value> {
    let end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .ok_or_else(|| bad("its answer is not HTTP"))?;
    let (head, body) = answer.split_at(end + 4);
    let status = head.split(|b| *b == b' ').nth(1).unwrap_or_default();
    let value: Value =
        serde_json::from_slice(body).map_err(|e| bad(&format!("its answer is not JSON: {e}")))?;
    if status == b"200" {
        Ok(value)
    } else {
        let message = value["message"]
            .as_str()
            .unwrap_or("it refused the request without a message");
        Err(bad(message))
    }
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn served(answer: &'static [u8]) -> io::Result<Value> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 256];
            let n = stream.read(&mut request).unwrap();
            assert!(request[..n].starts_with(b"GET /info HTTP/1.0\r\n"));
            let _ = stream.write_all(answer);
        });
        let got = get(&socket, "/info");
        server.join().unwrap();
        got
    }

    #[test]
    fn answers_and_refusals() {
        let ok = served(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"ID\":\"x\"}").unwrap();
        assert_eq!(ok["ID"], "x");
        let e = served(b"HTTP/1.0 404 Not Found\r\n\r\n{\"message\":\"No such container: y\"}").unwrap_err();
        assert!(e.to_string().contains("No such container"));
        assert!(served(b"SSH-2.0\r\n").is_err() && served(b"").is_err());
        assert!(get(Path::new("/nowhere/s"), "/info").is_err());
    }
}
