//! The watcher of the host's files (`integration/hostile/watch.c`). A state before and after shows
//! no file that was only read, and none that was made and removed.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::CANARY;
use crate::fault::{Fault, Kind};
use crate::process::{becomes_readable, ends_within};

const LIMIT: Duration = Duration::from_secs(10);

/// An event that a case causes itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Touch {
    /// Without one, every event.
    events: Option<&'static [&'static str]>,
    path: &'static str,
    /// Everything in the directory too.
    below: bool,
    /// Without one, any program.
    program: Option<&'static str>,
}

impl Touch {
    /// Any program opens and reads a file.
    pub(crate) const fn reads(path: &'static str) -> Self {
        Self {
            events: Some(&["OPEN", "READ"]),
            path,
            below: false,
            program: None,
        }
    }

    /// Any program opens a file.
    pub(crate) const fn opens(path: &'static str) -> Self {
        Self {
            events: Some(&["OPEN"]),
            ..Self::anything(path)
        }
    }

    /// Any program changes the attributes of a file.
    pub(crate) const fn attributes(path: &'static str) -> Self {
        Self {
            events: Some(&["ATTRIB"]),
            path,
            below: false,
            program: None,
        }
    }

    /// Any program does anything with a file.
    pub(crate) const fn anything(path: &'static str) -> Self {
        Self {
            events: None,
            path,
            below: false,
            program: None,
        }
    }

    /// The same with everything in the directory.
    pub(crate) const fn and_below(self) -> Self {
        Self { below: true, ..self }
    }

    /// This program alone.
    pub(crate) const fn by(self, program: &'static str) -> Self {
        Self {
            program: Some(program),
            ..self
        }
    }

    /// Whether this is a line of the watcher: `EVENT[,EVENT] PATH by PROGRAM`.
    fn allows(&self, line: &str) -> bool {
        let Some((events, rest)) = line.split_once(' ') else {
            return false;
        };
        let Some((path, program)) = rest.rsplit_once(" by ") else {
            return false;
        };
        // A process that ends before the watcher reads its name has none.
        let fits = |wanted: &str| program == wanted || program.starts_with("process-");
        let is_below = || self.below && Path::new(path).starts_with(self.path);
        let is_event = |event| self.events.is_none_or(|events| events.contains(&event));
        (path == self.path || is_below()) && events.split(',').all(is_event) && self.program.is_none_or(fits)
    }
}

/// A running watcher.
#[derive(Debug)]
pub(crate) struct Watcher {
    child: Child,
    output: ChildStdout,
}

impl Watcher {
    /// Starts `program`, and waits until it watches everything in the canary, and every change of
    /// the host's own file system, `/dev` and `/tmp`.
    pub(crate) fn begin(program: &str) -> Result<Self, Fault> {
        Self::start(program).map_err(|e| not_watched(&e.to_string()))
    }

    fn start(program: &str) -> io::Result<Self> {
        let trees = [
            "--tree",
            CANARY,
            "--changes",
            "/",
            "--changes",
            "/dev",
            "--changes",
            "/tmp",
        ];
        let mut child = Command::new(program)
            .args(trees)
            .args(["--except", CANARY, "--except", "/plainroot"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut watcher = Self { child, output };
        let line = watcher.first_line()?;
        if line.starts_with("watching ") {
            Ok(watcher)
        } else {
            // It ends at the end of its input.
            drop(watcher.child.stdin.take());
            watcher.child.wait()?;
            Err(io::Error::other(if line.is_empty() {
                "no answer".to_owned()
            } else {
                line
            }))
        }
    }

    fn first_line(&mut self) -> io::Result<String> {
        let deadline = Instant::now() + LIMIT;
        let mut line = Vec::new();
        let mut byte = [0];
        while becomes_readable(&self.output, deadline.saturating_duration_since(Instant::now()))?
            && self.output.read(&mut byte)? == 1
            && byte != *b"\n"
        {
            line.extend(byte);
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Ends the watcher. A line that no touch allows is a fault.
    pub(crate) fn end(self, touches: &[Touch]) -> Option<Fault> {
        let lines = match self.lines() {
            Ok(lines) => lines,
            Err(e) => return Some(not_watched(&e.to_string())),
        };
        let lines = lines.lines();
        let mut seen: Vec<&str> = lines
            .filter(|line| !touches.iter().any(|touch| touch.allows(line)))
            .collect();
        seen.sort_unstable();
        seen.dedup();
        seen.truncate(8);
        (!seen.is_empty()).then(|| {
            let text = format!("the host was touched: {}", seen.join("|"));
            Fault::new(Kind::HostTouched, text)
        })
    }

    fn lines(mut self) -> io::Result<String> {
        drop(self.child.stdin.take());
        let mut lines = Vec::new();
        let mut part = [0; 1 << 13];
        let deadline = Instant::now() + LIMIT;
        loop {
            if !becomes_readable(&self.output, deadline.saturating_duration_since(Instant::now()))? {
                return Err(io::Error::other("the watcher does not end"));
            }
            match self.output.read(&mut part)? {
                0 => break,
                count => lines.extend(part.iter().take(count)),
            }
        }
        if !ends_within(&self.child, LIMIT)? {
            return Err(io::Error::other("the watcher does not end"));
        }
        let status = self.child.wait()?;
        let lines = String::from_utf8_lossy(&lines).into_owned();
        if status.success() {
            Ok(lines)
        } else {
            Err(io::Error::other(format!(
                "{status}: {}",
                lines.lines().next().unwrap_or_default()
            )))
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It has ended already, but for a case that failed half-way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What runs out of the watcher's sight is not proved, so this is a fault of the case.
fn not_watched(why: &str) -> Fault {
    Fault::new(Kind::NotWatched, format!("the host is not watched: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_touch_allows_its_own_events_alone() {
        let touch = Touch::reads("/canary/volume");
        assert!(touch.allows("OPEN,READ /canary/volume by nvoci"));
        assert!(touch.allows("READ /canary/volume by process-17"));
        assert!(!touch.allows("OPEN,WRITE /canary/volume by nvoci"));
        assert!(!touch.allows("OPEN /canary/volume/keep by nvoci"));
        assert!(!touch.allows("the queue ran over"));
        let touch = Touch::attributes("/dev/null").by("runsc");
        assert!(touch.allows("ATTRIB /dev/null by runsc"));
        assert!(!touch.allows("ATTRIB /dev/null by nvoci"));
    }

    #[test]
    fn a_watcher_that_does_not_watch_is_a_fault() {
        for program in ["/bin/false", "/nonexistent"] {
            let fault = Watcher::begin(program).unwrap_err();
            assert_eq!(fault.kind, Kind::NotWatched, "{fault}");
        }
    }
}
