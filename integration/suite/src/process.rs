//! Commands with a time limit. Their output goes to files: a container keeps the writing end of a
//! pipe open, and a reader would wait for it.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// The exit status of a command that took longer than its limit, as `timeout` has it.
const TOO_LONG: i32 = 124;

/// How a command ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) milliseconds: u128,
}

/// Runs a command in a process group of its own. The files `NAME.cmd`, `NAME.out` and `NAME.err` of
/// `evidence` have the command and its output.
pub(crate) fn run(command: &[String], limit: Duration, evidence: &Path, name: &str) -> io::Result<Ended> {
    fs::write(evidence.join(format!("{name}.cmd")), command.join(" "))?;
    let out = File::create(evidence.join(format!("{name}.out")))?;
    let err = File::create(evidence.join(format!("{name}.err")))?;
    run_to(command, limit, out.into(), err.into())
}

/// Runs a command and discards its output.
pub(crate) fn run_silently(command: &[String], limit: Duration) -> io::Result<Ended> {
    run_to(command, limit, Stdio::null(), Stdio::null())
}

fn run_to(command: &[String], limit: Duration, out: Stdio, err: Stdio) -> io::Result<Ended> {
    let [program, arguments @ ..] = command else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let begin = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .spawn()?;
    let status = wait(&mut child, limit)?;
    Ok(Ended {
        status,
        milliseconds: begin.elapsed().as_millis(),
    })
}

/// Waits for a process that leads its own group, and ends the group after the limit.
fn wait(child: &mut Child, limit: Duration) -> io::Result<i32> {
    if !ends_within(child, limit)? {
        let group = Pid::from_child(child);
        // The group may have ended meanwhile.
        let _ = kill_process_group(group, Signal::TERM);
        if !ends_within(child, Duration::from_secs(2))? {
            let _ = kill_process_group(group, Signal::KILL);
        }
        child.wait()?;
        return Ok(TOO_LONG);
    }
    let status = child.wait()?;
    Ok(status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// Whether a child ends before the time is over.
pub(crate) fn ends_within(child: &Child, time: Duration) -> io::Result<bool> {
    let descriptor = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    becomes_readable(&descriptor, time)
}

/// Whether a descriptor can be read before the time is over.
pub(crate) fn becomes_readable(descriptor: &impl std::os::fd::AsFd, time: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut waiting = [PollFd::new(descriptor, PollFlags::IN)];
        match poll(&mut waiting, Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// The words of a command.
pub(crate) fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_ends_at_its_limit() {
        let begin = Instant::now();
        let sleep = words(&["sh", "-c", "sleep 30 & wait"]);
        let ended = run_silently(&sleep, Duration::from_millis(100)).unwrap();
        assert_eq!(ended.status, TOO_LONG);
        assert!(ended.milliseconds >= 100 && begin.elapsed() < Duration::from_secs(5));
        let seven = words(&["sh", "-c", "exit 7"]);
        assert_eq!(run_silently(&seven, Duration::from_secs(5)).unwrap().status, 7);
        let killed = words(&["sh", "-c", "kill -9 $$"]);
        assert_eq!(run_silently(&killed, Duration::from_secs(5)).unwrap().status, 137);
    }
}
