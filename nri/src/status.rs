//! Health and metrics over HTTP, one request at a time.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The upper bounds of the histogram of answer times, in milliseconds.
const BOUNDS: [u64; 6] = [1, 2, 5, 10, 25, 50];

/// What the plugin did since its start.
#[derive(Debug, Default)]
pub struct Status {
    /// The engine accepted the plugin and sends it events.
    pub registered: AtomicBool,
    /// Sessions that the engine accepted.
    pub sessions: AtomicU64,
    /// Containers that got devices.
    pub injected: AtomicU64,
    /// Containers without a change.
    pub unchanged: AtomicU64,
    /// Containers whose request for a GPU was hidden or dropped.
    pub dropped: AtomicU64,
    /// Refused containers.
    pub refused: AtomicU64,
    times: [AtomicU64; BOUNDS.len()],
    microseconds: AtomicU64,
    answers: AtomicU64,
}

impl Status {
    /// Records the time of one answer.
    pub fn answered(&self, time: Duration) {
        for (bound, count) in BOUNDS.iter().zip(&self.times) {
            if time <= Duration::from_millis(*bound) {
                count.fetch_add(1, Relaxed);
            }
        }
        self.microseconds
            .fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
        self.answers.fetch_add(1, Relaxed);
    }

    /// The metrics in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let mut out = format!("# TYPE nvoci_nri_info gauge\nnvoci_nri_info{{version=\"{version}\"}} 1\n");
        let registered = u64::from(self.registered.load(Relaxed));
        out += &format!("# TYPE nvoci_nri_registered gauge\nnvoci_nri_registered {registered}\n");
        let sessions = self.sessions.load(Relaxed);
        out += &format!("# TYPE nvoci_nri_sessions_total counter\nnvoci_nri_sessions_total {sessions}\n");
        out += "# TYPE nvoci_nri_containers_total counter\n";
        let results = [
            ("injected", &self.injected),
            ("unchanged", &self.unchanged),
            ("dropped", &self.dropped),
            ("refused", &self.refused),
        ];
        for (result, count) in results {
            out += &format!(
                "nvoci_nri_containers_total{{result=\"{result}\"}} {}\n",
                count.load(Relaxed)
            );
        }
        out += "# TYPE nvoci_nri_answer_seconds histogram\n";
        for (bound, count) in BOUNDS.iter().zip(&self.times) {
            let line = format!("{{le=\"0.{bound:03}\"}} {}\n", count.load(Relaxed));
            out += &format!("nvoci_nri_answer_seconds_bucket{line}");
        }
        let (answers, micros) = (self.answers.load(Relaxed), self.microseconds.load(Relaxed));
        let seconds = Duration::from_micros(micros).as_secs_f64();
        out += &format!("nvoci_nri_answer_seconds_bucket{{le=\"+Inf\"}} {answers}\n");
        out + &format!("nvoci_nri_answer_seconds_sum {seconds}\nnvoci_nri_answer_seconds_count {answers}\n")
    }

    /// Serves requests without end.
    pub fn serve(&self, listener: &TcpListener) {
        for stream in listener.incoming() {
            match stream {
                // A client that goes away is its own loss.
                Ok(stream) => drop(self.respond(stream)),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn respond(&self, mut stream: TcpStream) -> io::Result<()> {
        let limit = Some(Duration::from_millis(500));
        stream.set_read_timeout(limit)?;
        stream.set_write_timeout(limit)?;
        let mut request = [0; 2048];
        let length = stream.read(&mut request)?;
        let line = request.get(..length).unwrap_or_default();
        let (state, body) = match line {
            _ if line.starts_with(b"GET /metrics ") => ("200 OK", self.metrics()),
            _ if !line.starts_with(b"GET /healthz ") => ("404 Not Found", "no such page\n".to_owned()),
            _ if self.registered.load(Relaxed) => ("200 OK", "registered\n".to_owned()),
            _ => (
                "503 Service Unavailable",
                "not registered with the engine\n".to_owned(),
            ),
        };
        let head =
            format!("HTTP/1.1 {state}\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n");
        stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
    }
}
