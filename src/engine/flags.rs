//! Parses the command lines of running daemons, such as `dockerd --config-file
//! /etc/docker/daemon.json`.
//!
//! A flag that is in no table is skipped with its value. No part of another process's command line
//! becomes an argument of ours.

use std::path::{Component, Path, PathBuf};

use crate::error::{Code, Error, Result};
use crate::sys::daemon::{self, Daemon, Fault};
use crate::sys::owned;

use super::model::Engine;

/// The form of a flag's value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// No value, unless after `=`.
    Switch,
    /// An absolute path without `..`.
    Path,
    /// Any text.
    Text,
    /// With this flag the process prints something and exits.
    Ends,
}

struct Flag {
    /// The long name first, without dashes.
    names: &'static [&'static str],
    kind: Kind,
}

const fn flag(names: &'static [&'static str], kind: Kind) -> Flag {
    Flag { names, kind }
}

/// dockerd(8). Switches have their letters here, since letters can be joined (`-DH unix://…`).
const DOCKER: &[Flag] = &[
    flag(&["config-file"], Kind::Path),
    flag(&["data-root", "g", "graph"], Kind::Path),
    flag(&["exec-root"], Kind::Path),
    flag(&["host", "H"], Kind::Text),
    flag(&["add-runtime"], Kind::Text),
    flag(&["default-runtime"], Kind::Text),
    flag(&["feature"], Kind::Text),
    flag(&["group", "G"], Kind::Text),
    flag(&["pidfile", "p"], Kind::Text),
    flag(&["storage-driver", "s"], Kind::Text),
    flag(&["bridge", "b"], Kind::Text),
    flag(&["log-level", "l"], Kind::Text),
    flag(&["debug", "D"], Kind::Switch),
    flag(&["validate"], Kind::Ends),
    flag(&["version", "v"], Kind::Ends),
    flag(&["help", "h"], Kind::Ends),
];
/// containerd(8).
const CONTAINERD: &[Flag] = &[
    flag(&["config", "c"], Kind::Path),
    flag(&["root"], Kind::Path),
    flag(&["state"], Kind::Path),
    flag(&["address", "a"], Kind::Text),
    flag(&["log-level", "l"], Kind::Text),
    flag(&["version", "v"], Kind::Ends),
    flag(&["help", "h"], Kind::Ends),
];
/// crio(8).
const CRIO: &[Flag] = &[
    flag(&["config", "c"], Kind::Text),
    flag(&["config-dir", "d"], Kind::Text),
    flag(&["version", "v"], Kind::Ends),
    flag(&["help", "h"], Kind::Ends),
];

/// Directories in which the file of a daemon's command line may be edited, by engine.
const DOCKER_DIRS: &[&str] = &["/etc/docker", "/usr/local/etc/docker"];
const CONTAINERD_DIRS: &[&str] = &[
    "/etc/containerd",
    "/usr/local/etc/containerd",
    "/etc/k0s",
    "/var/snap/microk8s",
];

/// The longest value, in bytes: no path is longer.
const MAX_VALUE: usize = 4096;

/// The flags of a daemon that are in its table.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Flags(Vec<(&'static str, String)>);

impl Flags {
    /// The value of a flag by its long name; the last one counts.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    /// Every value of a flag.
    pub fn all<'a>(&'a self, name: &str) -> impl DoubleEndedIterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(n, _)| *n == name)
            .map(|(_, v)| v.as_str())
    }
}

/// The meaning of a command line.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Line {
    /// A daemon that serves, with these flags.
    Serves(Flags),
    /// Another command of the program.
    Other,
    /// The value of this flag does not have its form.
    Bad(&'static str),
}

fn parse(engine: Engine, args: &[Vec<u8>]) -> Line {
    let table = match engine {
        Engine::Docker => DOCKER,
        Engine::Containerd => CONTAINERD,
        Engine::Crio => CRIO,
        // Podman has no daemon.
        Engine::Podman => return Line::Other,
    };
    let known = |name: &str| table.iter().find(|f| f.names.contains(&name));
    // dockerd's flags are of pflag's kind. The others' are of Go's own: any name after one or two
    // dashes.
    let joined = engine == Engine::Docker;
    let mut found = Flags::default();
    let mut args = args.iter().map(|a| str::from_utf8(a).ok()).peekable();
    while let Some(arg) = args.next() {
        let Some(arg) = arg else {
            // A value that is not UTF-8 belongs to a flag that is not in the table.
            continue;
        };
        let (name, value) = match (arg.strip_prefix("--"), arg.strip_prefix('-')) {
            (Some(""), _) => {
                return if args.peek().is_none() {
                    Line::Serves(found)
                } else {
                    Line::Other
                };
            }
            (None, Some(letters)) if joined => letter(letters, &known),
            (Some(long), _) | (None, Some(long)) => match long.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (long, None),
            },
            // A word that is not a flag's value: one of the program's commands.
            (None, None) => return Line::Other,
        };
        let Some(flag) = known(name) else {
            // It may or may not take a value; a daemon has no other words.
            args.next_if(|next| value.is_none() && next.is_none_or(|n| !n.starts_with('-')));
            continue;
        };
        let long = flag.names.first().copied().unwrap_or_default();
        match flag.kind {
            Kind::Switch => continue,
            Kind::Ends
                if value.is_some_and(|v| matches!(v, "false" | "0" | "f" | "F" | "FALSE" | "False")) =>
            {
                continue;
            }
            Kind::Ends => return Line::Other,
            Kind::Path | Kind::Text => {}
        }
        let value = match value {
            Some(value) => Some(value),
            None => args.next().flatten(),
        };
        match value {
            Some(value) if fits(flag.kind, value) => found.0.push((long, value.to_owned())),
            _ => return Line::Bad(long),
        }
    }
    Line::Serves(found)
}

/// Splits joined letters: switches come first, and the first letter with a value takes the rest.
fn letter<'a>(
    letters: &'a str,
    known: &impl Fn(&str) -> Option<&'static Flag>,
) -> (&'a str, Option<&'a str>) {
    let mut rest = letters;
    loop {
        let end = rest.char_indices().nth(1).map_or(rest.len(), |(at, _)| at);
        let (name, after) = rest.split_at(end);
        let switch = known(name).is_some_and(|f| matches!(f.kind, Kind::Switch));
        if after.is_empty() || !switch {
            let value = after.strip_prefix('=').unwrap_or(after);
            return (name, (!after.is_empty()).then_some(value));
        }
        rest = after;
    }
}

fn fits(kind: Kind, value: &str) -> bool {
    let plain = value.len() <= MAX_VALUE && !value.chars().any(char::is_control);
    let path = || {
        let path = Path::new(value);
        path.is_absolute() && !path.components().any(|c| c == Component::ParentDir)
    };
    plain && (kind != Kind::Path || path())
}

/// A daemon that serves, and its flags.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub process: Daemon,
    /// The flags of its command line.
    pub flags: Flags,
}

/// The daemons of one engine.
#[derive(Debug, Default)]
pub struct Daemons {
    /// Daemons that serve.
    pub running: Vec<Running>,
    /// Processes of root with the name that do not count, each with the reason, as lines for a
    /// person.
    pub notes: Vec<String>,
    /// Processes of other users and of containers with the name.
    pub of_others: Vec<daemon::Refused>,
}

/// The name of an engine's daemon; `None` for Podman.
pub const fn program(engine: Engine) -> Option<&'static str> {
    match engine {
        Engine::Docker => Some("dockerd"),
        Engine::Containerd => Some("containerd"),
        Engine::Crio => Some("crio"),
        Engine::Podman => None,
    }
}

/// The engine's daemons on this host. Docker's snap has another root directory, so it is in
/// [`Daemons::of_others`].
pub fn daemons(engine: Engine) -> Daemons {
    let Some(name) = program(engine) else {
        return Daemons::default();
    };
    let scan = daemon::find(name);
    let mut found = Daemons::default();
    for refused in scan.refused {
        if refused.fault == Fault::Program {
            found.notes.push(format!(
                "process {} is named {name} but does not count as the daemon: {}; if it is the daemon, pass its file with --config",
                refused.pid, refused.why
            ));
        } else {
            found.of_others.push(refused);
        }
    }
    for process in scan.daemons {
        match parse(engine, &process.args) {
            Line::Serves(flags) => found.running.push(Running { process, flags }),
            Line::Other => {}
            Line::Bad(flag) => found.notes.push(format!(
                "process {} ({name}): the value of --{flag} on its command line is not usable, so the process is skipped",
                process.pid
            )),
        }
    }
    found
}

/// The file of a daemon's command line, if it may be edited.
///
/// # Errors
/// [`Code::DaemonFile`] if it is not below the engine's own directories, or another user could have
/// made it.
pub fn configuration(engine: Engine, running: &Running) -> Result<Option<PathBuf>> {
    let (name, dirs) = match engine {
        Engine::Docker => ("config-file", DOCKER_DIRS),
        Engine::Containerd => ("config", CONTAINERD_DIRS),
        Engine::Crio | Engine::Podman => return Ok(None),
    };
    let Some(file) = running.flags.get(name).map(Path::new) else {
        return Ok(None);
    };
    let refused = |why: String| {
        Error::new(
            Code::DaemonFile,
            file.display().to_string(),
            format!("process {} was started with --{name} {why}", running.process.pid),
        )
        .fix(format!(
            "if it is the right file, pass it: `nvoci install {} --config FILE`",
            engine.name()
        ))
    };
    if !dirs.iter().any(|d| file.starts_with(d)) {
        return Err(refused(format!("outside of {}", dirs.join(", "))));
    }
    match owned::find(file) {
        Ok(_) => Ok(Some(file.to_owned())),
        Err(e) => Err(refused(format!(
            "on a file that is not root's alone: {}: {}",
            e.what(),
            e.why()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(engine: Engine, line: &str) -> Line {
        let args: Vec<Vec<u8>> = line.split_whitespace().map(|w| w.as_bytes().to_vec()).collect();
        parse(engine, &args)
    }

    fn flags(engine: Engine, text: &str) -> Flags {
        match line(engine, text) {
            Line::Serves(flags) => flags,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn flags_are_read_in_all_forms() {
        for text in [
            "--config-file /etc/docker/a.json",
            "--config-file=/etc/docker/a.json",
            "--debug --config-file=/x --config-file=/etc/docker/a.json -H fd://",
            "--unknown value --config-file /etc/docker/a.json",
            "--unknown --config-file /etc/docker/a.json",
            "--validate=false --config-file /etc/docker/a.json",
        ] {
            assert_eq!(
                flags(Engine::Docker, text).get("config-file"),
                Some("/etc/docker/a.json"),
                "{text}"
            );
        }
        for text in [
            "-H unix:///a",
            "-Hunix:///a",
            "-H=unix:///a",
            "-DH unix:///a",
            "--host=unix:///a",
            "-DHunix:///a",
        ] {
            assert_eq!(
                flags(Engine::Docker, text).get("host"),
                Some("unix:///a"),
                "{text}"
            );
        }
        for text in [
            "-c /etc/containerd/a",
            "-config=/etc/containerd/a",
            "--config /etc/containerd/a",
            "-l debug -c=/etc/containerd/a",
        ] {
            assert_eq!(
                flags(Engine::Containerd, text).get("config"),
                Some("/etc/containerd/a"),
                "{text}"
            );
        }
        let all = flags(Engine::Docker, "--add-runtime a=/b --add-runtime=c=/d");
        assert_eq!(all.all("add-runtime").collect::<Vec<_>>(), ["a=/b", "c=/d"]);
    }

    #[test]
    fn other_commands_of_the_program_are_no_daemon() {
        for (engine, text) in [
            (Engine::Docker, "--validate --config-file=/etc/sudoers.d/zz"),
            (Engine::Docker, "--config-file=/etc/docker/a.json --version"),
            (Engine::Docker, "-- --config-file=/a"),
            (Engine::Containerd, "config dump"),
            (
                Engine::Containerd,
                "-c /etc/containerd/config.toml config default",
            ),
            (Engine::Crio, "--config /a config"),
            (Engine::Crio, "wipe"),
            (Engine::Podman, "system service"),
        ] {
            assert_eq!(line(engine, text), Line::Other, "{text}");
        }
    }

    #[test]
    fn values_are_checked() {
        for text in [
            "--config-file daemon.json",
            "--config-file=",
            "--config-file",
            "--config-file=/etc/docker/../sudoers",
        ] {
            assert_eq!(line(Engine::Docker, text), Line::Bad("config-file"), "{text}");
        }
        let control = [b"--config-file".to_vec(), b"/etc/docker/\x1b[2J".to_vec()];
        assert_eq!(parse(Engine::Docker, &control), Line::Bad("config-file"));
        let no_text = [b"--config-file".to_vec(), b"/etc/docker/\xff".to_vec()];
        assert_eq!(parse(Engine::Docker, &no_text), Line::Bad("config-file"));
        let long = [format!("--config-file=/{}", "a".repeat(5000)).into_bytes()];
        assert_eq!(parse(Engine::Docker, &long), Line::Bad("config-file"));
    }

    #[test]
    fn a_file_outside_the_engines_directories_is_refused() {
        let running = |text: &str| Running {
            process: Daemon::made_up(0, &[]),
            flags: flags(Engine::Docker, text),
        };
        for file in ["/etc/sudoers.d/zz", "/etc/docker-evil/a", "/tmp/a", "/etc/passwd"] {
            let e = configuration(Engine::Docker, &running(&format!("--config-file={file}"))).unwrap_err();
            assert_eq!(e.code(), Code::DaemonFile, "{file}");
            assert!(e.to_string().contains("--config FILE"), "{e}");
        }
        let fine = configuration(Engine::Docker, &running("--config-file=/etc/docker/other.json")).unwrap();
        assert_eq!(fine.as_deref(), Some(Path::new("/etc/docker/other.json")));
        assert_eq!(configuration(Engine::Docker, &running("--debug")).unwrap(), None);
    }
}
