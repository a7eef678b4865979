//! Runs an engine's own programs with a time limit, such as `dockerd --validate`. A program is a
//! [`Program`], which only root can replace, and is never searched for in the caller's `PATH`.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::sys::program::{PATH, Program};

/// The most bytes of a program's output that are read.
const MAX_OUTPUT: u64 = 4 << 20;

/// The result of a program.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Whether it exited with status 0.
    pub ok: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Answer {
    /// The last line of its standard error, or else of its standard output.
    pub fn complaint(&self) -> &str {
        let text = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        text.lines()
            .rev()
            .find(|l| !l.trim().is_empty())
            .unwrap_or("it failed and printed nothing")
            .trim()
    }
}

/// Runs a program for at most `limit`, without input, and with no environment but `PATH` and `env`.
///
/// # Errors
/// `TimedOut` if it took longer (it is killed with its process group), or those of starting it.
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
        .process_group(0)
        .spawn()?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > limit {
            // Its id is the group's, and is not given away before the wait.
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            child.wait()?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {} s", limit.as_secs()),
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    // A grandchild may keep the pipe open; the output until then is enough.
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
            // Reads to the end, so that a closed pipe does not kill the program.
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

    #[test]
    fn a_program_that_takes_too_long_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("left");
        let script = format!("(sleep 1; echo >{}) & wait", left.display());
        let sh = Program::find("sh").unwrap();
        run(&sh, &["-c", &script], &[], Duration::from_millis(200)).unwrap_err();
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!left.exists(), "a child outlives the program");
    }
}
