//! The suite's own proof: each case finds the naive hook guilty, and nothing passes unwatched.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::case::{Bite, Case, HANGS};
use crate::fault::{Fault, Kind, shortened};
use crate::host::Host;
use crate::hostile::{HARMLESS, LINK_OUT};
use crate::run::{Row, trial};
use crate::trial::{Tool, Trial};
use crate::way::{Runtime, Way};

/// Runs a row whose tool must be found guilty. The faults are the suite's.
pub(crate) fn faults(
    host: &Host,
    row: &Row,
    runtime: Runtime,
    number: u32,
    evidence: &Path,
) -> io::Result<Vec<Fault>> {
    let of = |case, way| trial(host, case, runtime, way, number, evidence);
    match *row {
        Row::Case(..) => Ok(Vec::new()),
        Row::Bite(case, way, also) => {
            let naive = Trial {
                tool: Tool::Naive,
                limit: naive_limit(case),
                ..of(case, way)
            };
            let bite = if also {
                Bite::Guilty(Kind::HostChanged)
            } else {
                case.bites
            };
            convicted(&naive, |found| guilty(found, bite))
        }
        Row::Peek(what, event) => {
            let peek = Trial {
                tool: Tool::Peek(what),
                limit: naive_limit(&LINK_OUT),
                ..of(&LINK_OUT, Way::CreateContainer)
            };
            convicted(&peek, |found| watched(found, event))
        }
        Row::Idle => {
            let idle = Trial {
                tool: Tool::Idle,
                ..of(&HARMLESS, Way::CreateContainer)
            };
            convicted(&idle, |found| guilty(found, Bite::Guilty(Kind::Decision)))
        }
        Row::Unwatched => {
            let unwatched = Trial {
                watcher: "/bin/false",
                ..of(&HARMLESS, Way::CreateContainer)
            };
            convicted(&unwatched, |found| guilty(found, Bite::Guilty(Kind::NotWatched)))
        }
    }
}

/// A naive hook that waits has had enough time after a few seconds; a slow one may have more.
fn naive_limit(case: &Case) -> u64 {
    if case.bites == HANGS { 4000 } else { 20_000 }
}

/// Runs a trial that must fail, and removes what its tool left.
fn convicted(trial: &Trial<'_>, verdict: impl Fn(&[Fault]) -> Option<Fault>) -> io::Result<Vec<Fault>> {
    let before = processes()?;
    let found = trial.faults();
    let text: Vec<String> = found.iter().map(ToString::to_string).collect();
    fs::write(trial.evidence.join("found"), text.join("\n"))?;
    // A tool that reads for ever does so after its runtime has gone. This process namespace is the
    // host's own, so each new process is the tool's.
    for process in processes()?.difference(&before) {
        if let Some(process) = Pid::from_raw(*process) {
            let _ = kill_process(process, Signal::KILL);
        }
    }
    while unmount("/usr/local/nvidia", UnmountFlags::DETACH).is_ok() {}
    Ok(verdict(&found).into_iter().collect())
}

fn processes() -> io::Result<BTreeSet<i32>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

/// The tool is guilty of the case's fault, or of none where the image is harmless.
fn guilty(found: &[Fault], bite: Bite) -> Option<Fault> {
    let fits = match bite {
        Bite::Guilty(kind) => found.iter().any(|fault| fault.kind == kind),
        Bite::Nothing => true,
        Bite::Passes => found.is_empty(),
    };
    (!fits).then(|| wanted(&format!("{bite:?}"), found))
}

/// The watcher finds the tool guilty by this event, and the states before and after are the same.
fn watched(found: &[Fault], event: &str) -> Option<Fault> {
    let changed = found.iter().any(|fault| fault.kind == Kind::HostChanged);
    let touched = found
        .iter()
        .any(|fault| fault.kind == Kind::HostTouched && fault.text.contains(event));
    (changed || !touched).then(|| wanted(&format!("{event} by the watcher alone"), found))
}

fn wanted(what: &str, found: &[Fault]) -> Fault {
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    let found = found.join("; ");
    Fault::new(
        Kind::Suite,
        format!("wanted {what}, got '{}'", shortened(&found, 300)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(kind: Kind) -> Fault {
        Fault::new(kind, "the host was touched: CREATE /x by y")
    }

    #[test]
    fn a_case_that_does_not_bite_fails() {
        let bite = Bite::Guilty(Kind::HostChanged);
        assert!(guilty(&[fault(Kind::HostTouched), fault(Kind::HostChanged)], bite).is_none());
        assert!(guilty(&[fault(Kind::HostTouched)], bite).is_some());
        assert!(guilty(&[], bite).is_some());
        assert!(guilty(&[], Bite::Passes).is_none());
        assert!(guilty(&[fault(Kind::Hang)], Bite::Passes).is_some());
    }

    #[test]
    fn the_watcher_convicts_alone() {
        assert!(watched(&[fault(Kind::HostTouched)], "CREATE").is_none());
        assert!(watched(&[fault(Kind::HostTouched)], "OPEN").is_some());
        assert!(watched(&[fault(Kind::HostTouched), fault(Kind::HostChanged)], "CREATE").is_some());
        assert!(watched(&[], "CREATE").is_some());
    }
}
