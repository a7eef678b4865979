//! Running an engine's own programs, bounded: to validate a configuration, to learn what a restart
//! would hit, to restart. A program is a [`Program`]: root's alone, and never looked up in the caller's `PATH`.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::sys::program::{PATH, Program};

/// No answer that is read here is longer than this many bytes.
const MAX_OUTPUT: u64 = 4 << 20;

/// What a program said.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Whether it ended with status 0.
    pub ok: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Answer {
    /// The last line that it complained with.
    pub fn complaint(&self) -> &str {
        let said = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        said.lines()
            .rev()
            .find(|l| !l.trim().is_empty())
            .unwrap_or("it failed without a word")
            .trim()
    }
}

/// Runs a program with an empty environment but for `PATH` and `env`, no input, at most `limit` long.
///
/// # Errors
/// `TimedOut` when it took longer (it is killed), or why it could not be started.
pub fn run<S: AsRef<OsStr>>(
    program: &Program,
    args: &[S],
    env: &[(&str, &OsStr)],
    limit: Duration,
) -> io::Result<Answer> {
    let mut child = Command::new(program.path())
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .envs(env.iter().copied())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {} s", limit.as_secs()),
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    // A grandchild may hold the pipe open; what came by then is enough.
    let text = |from: &mpsc::Receiver<Vec<u8>>| {
        let bytes = from.recv_timeout(Duration::from_secs(2)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(Answer {
        ok: status.success(),
        stdout: text(&stdout),
        stderr: text(&stderr),
    })
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.by_ref().take(MAX_OUTPUT).read_to_end(&mut bytes);
            let _ = send.send(bytes);
            // Read on, so that the program is not killed by a closed pipe.
            let _ = io::copy(&mut pipe, &mut io::sink());
        }
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_bounded_in_time_and_blind() {
        let sh = Program::find("sh").unwrap();
        let a = run(
            &sh,
            &["-c", "env; cat; echo bad >&2; exit 3"],
            &[],
            Duration::from_secs(20),
        )
        .unwrap();
        assert!(
            !a.ok && a.stdout.contains("PATH=") && !a.stdout.contains("CARGO"),
            "{a:?}"
        );
        assert_eq!(a.complaint(), "bad");
        let e = run(&sh, &["-c", "sleep 30"], &[], Duration::from_millis(50)).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::TimedOut);
    }
}
