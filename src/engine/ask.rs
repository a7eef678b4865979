//! Running an engine's own programs, bounded: to validate a configuration, to learn what a restart
//! would hit, to restart. Programs come from the fixed search path, never from `$PATH`.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const DIRS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];
/// The search path of every program that is run.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
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

/// The program of that name.
pub fn program(name: &str) -> Option<PathBuf> {
    DIRS.iter().map(|d| Path::new(d).join(name)).find(|p| {
        p.metadata()
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    })
}

/// Runs a program with an empty environment but for `PATH` and `env`, no input, at most `limit` long.
///
/// # Errors
/// `TimedOut` when it took longer (it is killed), or why it could not be started.
pub fn run<S: AsRef<OsStr>>(
    program: &Path,
    args: &[S],
    env: &[(&str, &OsStr)],
    limit: Duration,
) -> io::Result<Answer> {
    let mut child = Command::new(program)
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

/// A daemon that runs with the same root directory as we do.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// Its process id.
    pub pid: i32,
    /// Its arguments, without its own name.
    pub args: Vec<String>,
}

impl Daemon {
    /// The value of a flag, as `--flag value` or `--flag=value`; the last one counts.
    pub fn flag(&self, names: &[&str]) -> Option<&str> {
        let mut found = None;
        let mut args = self.args.iter().peekable();
        while let Some(arg) = args.next() {
            let (name, value) = match arg.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (arg.as_str(), None),
            };
            if names.contains(&name) {
                found = value.or_else(|| args.peek().map(|a| a.as_str()));
            }
        }
        found
    }

    /// Its age.
    pub fn age(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        // Field 22, counted from after the name, which may hold blanks and parentheses.
        let ticks: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()?;
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        let (seconds, _) = uptime.split_once('.')?;
        let uptime: u64 = seconds.parse().ok()?;
        Some(Duration::from_secs(
            uptime.saturating_sub(ticks / rustix::param::clock_ticks_per_second()),
        ))
    }
}

/// The running daemons of that name; those in containers and snaps have another root and do not count.
pub fn daemons(name: &str) -> Vec<Daemon> {
    const MAX_PROCESSES: usize = 65_536;
    let id = |path: &Path| path.metadata().map(|m| (m.dev(), m.ino())).ok();
    let own = id(Path::new("/"));
    let Ok(all) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    all.take(MAX_PROCESSES)
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let dir = entry.path();
            let comm = std::fs::read_to_string(dir.join("comm")).ok()?;
            if comm.trim_end() != name || id(&dir.join("root/")) != own {
                return None;
            }
            let line = std::fs::read(dir.join("cmdline")).ok()?;
            let args = line
                .split(|b| *b == 0)
                .skip(1)
                .map(|a| String::from_utf8_lossy(a).into_owned())
                .filter(|a| !a.is_empty())
                .collect();
            Some(Daemon { pid, args })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_bounded_in_time_and_blind() {
        let sh = program("sh").unwrap();
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
    fn flags_are_read_in_both_forms() {
        let d = Daemon {
            pid: 1,
            args: vec!["-c".into(), "/a".into(), "--config=/b".into()],
        };
        assert_eq!(d.flag(&["-c", "--config"]), Some("/b"));
        assert_eq!(d.flag(&["-c"]), Some("/a"));
    }
}
