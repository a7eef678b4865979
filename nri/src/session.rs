//! One connection to the engine, from registration to its end, and the loop that reconnects.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::decide::decide;
use crate::kubelet;
use crate::messages::{self, Create};
use crate::options::Options;
use crate::proto::Malformed;
use crate::status::Status;
use crate::text::{log, shown};
use crate::trunk;
use crate::ttrpc::{self, Code, Inbox, Message, Request};

/// The kubelet's answer must be there after this time, so that the plugin's is there after 50 ms.
const ALLOCATION_TIME: Duration = Duration::from_millis(40);
/// The engine answers a registration in 5 s, or never.
const REGISTRATION_TIME: Duration = Duration::from_secs(10);
/// The engine reads each answer at once, or has a fault.
const WRITE_TIME: Duration = Duration::from_secs(2);
/// The first and the longest wait before a new attempt to connect.
const WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// The stream of the registration, the plugin's only request.
const REGISTRATION: u32 = 1;

/// Connects to the engine again and again.
pub fn forever(options: &Options, status: &Status) -> ! {
    let mut wait = WAITS.0;
    let mut last = String::new();
    loop {
        let before = status.sessions.load(Relaxed);
        let result = UnixStream::connect(&options.socket).and_then(|stream| serve(&stream, options, status));
        status.registered.store(false, Relaxed);
        if status.sessions.load(Relaxed) > before {
            wait = WAITS.0;
            last.clear();
        }
        let end = result.map_or_else(
            |e| e.to_string(),
            |()| "the engine closed the connection".to_owned(),
        );
        // A missing engine is one line in the log, not one for each attempt.
        if end != last {
            log(&format!("{}: {end}; reconnecting", options.socket.display()));
            last = end;
        }
        std::thread::sleep(wait);
        wait = (wait * 2).min(WAITS.1);
    }
}

/// Registers, and answers requests until the connection ends.
fn serve(stream: &UnixStream, options: &Options, status: &Status) -> io::Result<()> {
    stream.set_write_timeout(Some(WRITE_TIME))?;
    stream.set_read_timeout(Some(REGISTRATION_TIME))?;
    let mut reader = io::BufReader::new(stream.try_clone()?);
    let mut session = Session {
        out: stream,
        options,
        status,
        environment_only: false,
    };
    session.register()?;
    let mut inboxes = (Inbox::default(), Inbox::default());
    let mut waits = true;
    loop {
        if waits && status.registered.load(Relaxed) {
            stream.set_read_timeout(None)?;
            waits = false;
        }
        let read = trunk::read_frame(&mut reader, |number, piece| match number {
            trunk::PLUGIN => inboxes.0.push(piece, |message| session.answer(&message)),
            trunk::RUNTIME => inboxes.1.push(piece, |message| session.accept(&message)),
            // The protocol ignores connections that nobody opened.
            _ => Ok(()),
        });
        match read {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
    }
}

/// The state of one connection.
#[derive(Debug)]
pub struct Session<'a, W> {
    /// The trunk.
    pub out: W,
    /// The settings.
    pub options: &'a Options,
    /// The counters.
    pub status: &'a Status,
    /// The engine is too old for CDI devices in an answer.
    pub environment_only: bool,
}

impl<W: Write> Session<'_, W> {
    fn register(&mut self) -> io::Result<()> {
        let payload = messages::register(self.options.index);
        let request = ttrpc::request(REGISTRATION, messages::RUNTIME, "RegisterPlugin", &payload);
        trunk::write(&mut self.out, trunk::RUNTIME, &request)
    }

    /// Reads the response to the registration.
    pub fn accept(&mut self, message: &Message) -> io::Result<()> {
        if message.kind != ttrpc::RESPONSE || message.stream != REGISTRATION {
            return Ok(());
        }
        match ttrpc::failure(&message.body) {
            Ok(None) => Ok(()),
            Ok(Some(e)) => Err(io::Error::other(format!(
                "the engine refused the plugin: {}",
                shown(&e)
            ))),
            Err(e) => Err(io::Error::other(e.to_string())),
        }
    }

    /// Answers one request of the engine.
    pub fn answer(&mut self, message: &Message) -> io::Result<()> {
        if message.kind != ttrpc::REQUEST {
            return Ok(());
        }
        let result = match Request::read(&message.body) {
            Ok(request) if request.service == messages::PLUGIN => self.method(&request),
            Ok(_) => Err((Code::Unimplemented, "no such service".to_owned())),
            Err(e) => Err(malformed(e)),
        };
        let result = result.as_deref().map_err(|(code, text)| (*code, text.as_str()));
        trunk::write(
            &mut self.out,
            trunk::PLUGIN,
            &ttrpc::response(message.stream, result),
        )
    }

    fn method(&mut self, request: &Request<'_>) -> Result<Vec<u8>, (Code, String)> {
        match request.method {
            "Configure" => {
                let (name, version) = messages::engine(request.payload).map_err(malformed)?;
                log(&format!("registered with {} {}", shown(name), shown(version)));
                self.environment_only =
                    name == "containerd" && version.trim_start_matches('v').starts_with("1.");
                if self.environment_only {
                    log(
                        "containerd 1 takes no CDI devices from a plugin: NVIDIA_VISIBLE_DEVICES is set instead",
                    );
                }
                Ok(messages::subscription())
            }
            "Synchronize" => {
                let response = messages::synchronized(request.payload).map_err(malformed)?;
                if !self.status.registered.swap(true, Relaxed) {
                    self.status.sessions.fetch_add(1, Relaxed);
                }
                Ok(response)
            }
            "CreateContainer" => {
                let begin = Instant::now();
                let result = self.create(request.payload, begin);
                self.status.answered(begin.elapsed());
                result
            }
            "Shutdown" | "StateChange" => Ok(Vec::new()),
            _ => Err((Code::Unimplemented, "no such method".to_owned())),
        }
    }

    fn create(&self, payload: &[u8], begin: Instant) -> Result<Vec<u8>, (Code, String)> {
        let create = Create::read(payload).map_err(malformed)?;
        let place = (create.namespace, create.pod, create.container);
        let who = format!("{}/{}/{}", shown(place.0), shown(place.1), shown(place.2));
        let allocation = || kubelet::allocation(&self.options.kubelet, place, begin + ALLOCATION_TIME);
        let mut answer = decide(&self.options.rules, &create, allocation).map_err(|refusal| {
            self.status.refused.fetch_add(1, Relaxed);
            log(&format!("{who}: {refusal}"));
            let code = match refusal {
                crate::decide::Refusal::Unreadable(_) => Code::Unavailable,
                _ => Code::PermissionDenied,
            };
            (code, refusal.to_string())
        })?;
        let count = match (&answer.note, answer.adjustment.cdi.is_empty()) {
            (Some(note), _) => {
                log(&format!("{who}: {note}"));
                &self.status.dropped
            }
            (None, true) => &self.status.unchanged,
            (None, false) => &self.status.injected,
        };
        count.fetch_add(1, Relaxed);
        if self.environment_only && !answer.adjustment.cdi.is_empty() {
            answer.adjustment.visible = Some(std::mem::take(&mut answer.adjustment.cdi).join(","));
        }
        Ok(answer.adjustment.write())
    }
}

fn malformed(e: Malformed) -> (Code, String) {
    (Code::InvalidArgument, e.to_string())
}
