//! Parses the low-level runtime's command line as runc (Go's flags) and crun (GNU getopt) do.
//!
//! It extracts only what decides whether and where a spec is edited. The runtime gets every word
//! unchanged.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use crate::error::{Code, Error, Result};

/// The parsed command line.
#[derive(Clone, Debug)]
pub struct CommandLine {
    /// The container of `create` or `run`, whose spec is edited before the runtime starts; none for
    /// every other command. [`Code::Usage`] if an option lacks its value.
    pub target: Result<Option<Target>>,
    /// `--log`: the file in which the engine reads the reason of a failure.
    pub log: Option<PathBuf>,
    /// `--log-format json`.
    pub log_json: bool,
}

/// The container that `create` or `run` makes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The bundle directory as given; `.` by default.
    pub bundle: PathBuf,
    /// crun's `--config`: another file than the bundle's config.json.
    pub config: Option<PathBuf>,
    /// The container's id; empty if there is none.
    pub id: String,
}

/// The effect of an option here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Use {
    Flag,
    /// Requests help or the version: nothing is run.
    Info,
    /// Has a value for runc and crun, and none for runsc, where the command follows.
    Switch,
    /// Has a value for the runtime only.
    Value,
    Log,
    LogFormat,
    Bundle,
    Config,
}

impl Use {
    fn takes_value(self) -> bool {
        !matches!(self, Self::Flag | Self::Info)
    }
}

/// Options before the command, of runc, crun, youki and runsc.
const GLOBAL: &[(&str, Use)] = &[
    ("?", Use::Info),
    ("V", Use::Info),
    ("cgroup-manager", Use::Value),
    ("criu", Use::Value),
    ("debug", Use::Flag),
    ("h", Use::Info),
    ("help", Use::Info),
    ("l", Use::Log),
    ("log", Use::Log),
    ("log-format", Use::LogFormat),
    ("log-level", Use::Value),
    ("r", Use::Value),
    ("root", Use::Value),
    ("rootless", Use::Switch),
    ("s", Use::Flag),
    ("systemd-cgroup", Use::Flag),
    ("usage", Use::Info),
    ("v", Use::Info),
    ("version", Use::Info),
];

/// Options of `create` and `run`.
const CREATE: &[(&str, Use)] = &[
    ("?", Use::Info),
    ("b", Use::Bundle),
    ("bundle", Use::Bundle),
    ("config", Use::Config),
    ("console-socket", Use::Value),
    ("d", Use::Flag),
    ("detach", Use::Flag),
    ("f", Use::Config),
    ("h", Use::Info),
    ("help", Use::Info),
    ("keep", Use::Flag),
    ("no-new-keyring", Use::Flag),
    ("no-pivot", Use::Flag),
    ("no-subreaper", Use::Flag),
    ("pid-file", Use::Value),
    ("pidfd-socket", Use::Value),
    ("preserve-fds", Use::Value),
    ("usage", Use::Info),
];

/// The commands' names, to distinguish one from the value of an unknown option.
const COMMANDS: &[&str] = &[
    "checkpoint",
    "create",
    "delete",
    "events",
    "exec",
    "features",
    "help",
    "info",
    "init",
    "kill",
    "list",
    "mounts",
    "pause",
    "ps",
    "restore",
    "resume",
    "run",
    "spec",
    "start",
    "state",
    "update",
];

fn is_command(word: &OsStr) -> bool {
    COMMANDS.iter().any(|command| word == *command)
}

impl CommandLine {
    /// Parses the words after the program's name.
    pub fn parse(args: &[OsString]) -> Self {
        let mut line = Self {
            target: Ok(None),
            log: None,
            log_json: false,
        };
        let mut words = args.iter().map(OsString::as_os_str).peekable();
        let mut info = false;
        let mut after_unknown = false;
        let command = loop {
            let Some(word) = words.next() else { return line };
            if word == "--" {
                break words.next();
            }
            let Some(options) = options(word, GLOBAL) else {
                // An unknown option's value is no command; any other word is one.
                if after_unknown && !is_command(word) {
                    after_unknown = false;
                    continue;
                }
                break Some(word);
            };
            after_unknown = options.is_empty();
            for Opt { usage, value } in options {
                info |= usage == Use::Info;
                let value = match value {
                    None if usage == Use::Switch => {
                        words.next_if(|next| !is_command(next)).map(OsStr::to_owned)
                    }
                    None if usage.takes_value() => words.next().map(OsStr::to_owned),
                    given => given,
                };
                match (usage, value) {
                    (Use::Log, Some(v)) => line.log = log_file(v),
                    (Use::LogFormat, Some(v)) => line.log_json = v == "json",
                    _ => {}
                }
            }
        };
        if !info && command.is_some_and(|c| c == "create" || c == "run") {
            line.target = Target::parse(words);
        }
        line
    }
}

impl Target {
    /// Parses the words after `create` or `run`; `None` if they request help.
    fn parse<'a>(mut words: impl Iterator<Item = &'a OsStr>) -> Result<Option<Self>> {
        let mut target = Self {
            bundle: PathBuf::from("."),
            config: None,
            id: String::new(),
        };
        let mut positional = Vec::new();
        // runc accepts options after the id too.
        while let Some(word) = words.next() {
            if word == "--" {
                positional.extend(words.by_ref());
                break;
            }
            let Some(options) = options(word, CREATE) else {
                positional.push(word);
                continue;
            };
            for Opt { usage, value } in options {
                let value = match value {
                    None if usage.takes_value() => {
                        let lacking = || {
                            let what = format!("option {}", word.to_string_lossy());
                            Error::new(Code::Usage, what, "it needs a value").fix("give it a value")
                        };
                        Some(words.next().ok_or_else(lacking)?.to_owned())
                    }
                    given => given,
                };
                match (usage, value) {
                    (Use::Info, _) => return Ok(None),
                    (Use::Bundle, Some(v)) => target.bundle = v.into(),
                    (Use::Config, Some(v)) => target.config = Some(v.into()),
                    _ => {}
                }
            }
        }
        if let Some(id) = positional.first() {
            target.id = id.to_string_lossy().into_owned();
        }
        // runc treats an empty bundle as none.
        if target.bundle.as_os_str().is_empty() {
            target.bundle = PathBuf::from(".");
        }
        Ok(Some(target))
    }
}

struct Opt {
    usage: Use,
    value: Option<OsString>,
}

/// The options in a word: one, or several for `-db`. Empty if the table has none of that name,
/// `None` if the word is no option.
fn options(word: &OsStr, table: &[(&str, Use)]) -> Option<Vec<Opt>> {
    let bytes = word.as_bytes();
    let name = bytes.strip_prefix(b"-").filter(|n| !n.is_empty())?;
    let (long, double) = match name.strip_prefix(b"-") {
        Some(long) => (long, true),
        None => (name, false),
    };
    let (key, value) = match long.iter().position(|b| *b == b'=') {
        Some(at) => (&long[..at], Some(OsString::from_vec(long[at + 1..].to_vec()))),
        None => (long, None),
    };
    if let Some(usage) = find(key, table).or_else(|| double.then(|| abbreviated(key, table))?) {
        return Some(vec![Opt { usage, value }]);
    }
    Some(if double { Vec::new() } else { cluster(name, table) })
}

fn find(key: &[u8], table: &[(&str, Use)]) -> Option<Use> {
    table
        .iter()
        .find(|(name, _)| name.as_bytes() == key)
        .map(|(_, usage)| *usage)
}

/// crun accepts a unique prefix of a long option.
fn abbreviated(key: &[u8], table: &[(&str, Use)]) -> Option<Use> {
    let mut matches = table
        .iter()
        .filter(|(name, _)| name.len() > 1 && name.as_bytes().starts_with(key));
    match (matches.next(), matches.next()) {
        (Some((_, usage)), None) if !key.is_empty() => Some(*usage),
        _ => None,
    }
}

/// crun's `-db DIR`, `-dbDIR`: one-letter options in one word. Empty if a letter is unknown.
fn cluster(letters: &[u8], table: &[(&str, Use)]) -> Vec<Opt> {
    let mut found = Vec::new();
    for (at, letter) in letters.iter().enumerate() {
        let Some(usage) = find(&[*letter], table) else {
            return Vec::new();
        };
        let rest = &letters[at + 1..];
        if usage.takes_value() {
            let value = (!rest.is_empty()).then(|| OsString::from_vec(rest.to_vec()));
            found.push(Opt { usage, value });
            break;
        }
        found.push(Opt { usage, value: None });
    }
    found
}

/// The file of a `--log` value. crun also accepts `file:PATH`, and `syslog:` and `journald:`, which
/// are no files.
fn log_file(value: OsString) -> Option<PathBuf> {
    let bytes = value.as_bytes();
    if bytes.is_empty() || bytes.starts_with(b"syslog:") || bytes.starts_with(b"journald:") {
        return None;
    }
    match bytes.strip_prefix(b"file:") {
        Some(path) => Some(OsStr::from_bytes(path).into()),
        None => Some(value.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> CommandLine {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        CommandLine::parse(&words)
    }

    fn bundle(line: &str) -> Option<String> {
        let target = parse(line).target.unwrap()?;
        Some(target.bundle.to_string_lossy().into_owned())
    }

    #[test]
    fn create_and_run_are_modified_and_nothing_else() {
        for line in [
            "create c1",
            "run c1",
            "create",
            "--debug run -d c1",
            "-- create c1",
            "--rootless create c1",
            "--rootless --debug create c1",
            "--rootless true create c1",
            "--rootless=auto create c1",
        ] {
            assert_eq!(bundle(line).as_deref(), Some("."), "{line}");
        }
        let untouched = [
            "",
            "features",
            "--version",
            "-v",
            "--help",
            "state c1",
            "start c1",
            "kill c1 KILL",
            "delete --force c1",
            "exec c1 create",
            "exec --pid-file /p c1 sh -c create",
            "list",
            "help create",
            "--version create c1",
            "create --help",
            "run -h",
            "-h create c1",
            "restore --bundle /b c1",
            "unknown create c1",
            "-",
            "init",
            "events --stats c1",
            "spec --bundle /b",
            "createx c1",
            "Create c1",
        ];
        for line in untouched {
            assert_eq!(parse(line).target.unwrap(), None, "{line}");
        }
    }

    /// toolkit-features 12, quirk 16: there, any command changes the spec of a container named
    /// `create`.
    #[test]
    fn quirk_16_a_container_named_create_is_no_create() {
        for line in [
            "start create",
            "delete create",
            "state create",
            "--root create start create",
            "--log create kill create",
        ] {
            assert_eq!(parse(line).target.unwrap(), None, "{line}");
        }
        let target = parse("--root create create --pid-file create create")
            .target
            .unwrap()
            .unwrap();
        assert_eq!(
            (target.id.as_str(), target.bundle),
            ("create", PathBuf::from("."))
        );
    }

    /// toolkit-features 12, quirk 16, second half: there, `run` is not handled.
    #[test]
    fn quirk_16_run_is_a_create() {
        assert_eq!(bundle("--root /r run --bundle /b c1").as_deref(), Some("/b"));
    }

    #[test]
    fn the_bundle_in_every_form() {
        for line in [
            "create --bundle /b c1",
            "create --bundle=/b c1",
            "create -bundle /b c1",
            "create -bundle=/b c1",
            "create -b /b c1",
            "create -b=/b c1",
            "create -b/b c1",
            "run -db /b c1",
            "run -db/b c1",
            "create --bun /b c1",
            "create c1 --bundle /b",
            "create --bundle /a --bundle /b c1",
            "create --bundle create -b /b c1",
            "create --unknown --bundle /b c1",
            "create --pid-file --bundle --bundle /b c1",
            "--log /l --log-format json --root /r --systemd-cgroup create --bundle /b --pid-file /p c1",
            "--log=/l --root=/r --rootless true --criu /c --debug=true create --no-pivot --preserve-fds 3 -b /b c1",
            "--cgroup-manager systemd --future value create --console-socket /s --bundle /b c1",
            "--future create --bundle /b c1",
            "--future=x create --bundle /b c1",
        ] {
            assert_eq!(bundle(line).as_deref(), Some("/b"), "{line}");
        }
        for line in ["create --bundle", "create -b", "run -db", "create --pid-file"] {
            assert_eq!(parse(line).target.unwrap_err().code(), Code::Usage, "{line}");
        }
        // After `--` there are no options.
        assert_eq!(bundle("create -- --bundle /b").as_deref(), Some("."));
        assert_eq!(bundle("create --bundle= c1").as_deref(), Some("."));
        assert_eq!(bundle("create --bundle -- c1").as_deref(), Some("--"));
    }

    #[test]
    fn id_and_crun_config() {
        let target = parse("run -f /other.json -b /b c1").target.unwrap().unwrap();
        assert_eq!(
            (target.id.as_str(), target.config),
            ("c1", Some(PathBuf::from("/other.json")))
        );
        assert_eq!(parse("create -- -c1").target.unwrap().unwrap().id, "-c1");
    }

    #[test]
    fn the_log_in_every_form() {
        for line in [
            "--log /l --log-format json start c",
            "--log=/l --log-format=json create c",
            "-log /l -log-format=json state c",
            "--debug --log file:/l --log-format json",
            "--log /a --log /l --log-format text --log-format json create c",
        ] {
            let parsed = parse(line);
            assert_eq!(
                (parsed.log, parsed.log_json),
                (Some(PathBuf::from("/l")), true),
                "{line}"
            );
        }
        for line in [
            "--log",
            "--log= create c",
            "--log syslog:x create c",
            "exec c --log /l",
            "create --log /l c",
        ] {
            assert_eq!(parse(line).log, None, "{line}");
        }
    }

    #[test]
    fn words_need_not_be_text() {
        let odd = OsString::from_vec(b"/b\xff".to_vec());
        let line = CommandLine::parse(&["create".into(), "-b".into(), odd.clone(), odd.clone()]);
        assert_eq!(line.target.unwrap().unwrap().bundle.as_os_str(), odd);
    }
}
