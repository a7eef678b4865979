//! `nvoci install ENGINE...` and `nvoci uninstall ENGINE...`: register nvoci with engines, and
//! revert it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::cli::{Argument, Command, Doc, Flag, Page, Words, argument, flag};
use super::inject;
use crate::cdi::Registry;
use crate::cdi::registry::{Standing, Trust};
use crate::config::Config;
use crate::engine::job::{Checked, Job, Outcome, Report};
use crate::engine::place::{self, Session, User};
use crate::engine::restart::{self, Activation, Need};
use crate::engine::{Engine, SPEC, Settings, monitors, register};
use crate::error::{Code, Error, Escaped, IoContext as _, Line, Result};
use crate::sys::budget::Budget;
use crate::sys::program::Program;
use crate::sys::root::Root;
use crate::sys::terminal;

/// The most bytes of an answer to a question that are read.
const MAX_ANSWER: usize = 64;
/// The longest wait for an answer. A terminal may be a job's, with nobody at it.
const PATIENCE: Duration = Duration::from_secs(120);

/// The command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verb {
    /// Register nvoci.
    Install,
    /// Revert the registration.
    Uninstall,
}

impl Verb {
    fn command(self) -> &'static Command<Options> {
        match self {
            Self::Install => &INSTALL,
            Self::Uninstall => &UNINSTALL,
        }
    }
}

pub(super) static INSTALL: Command<Options> = Command {
    page: Page {
        name: "nvoci install",
        summary: "register nvoci with docker, podman, containerd or crio",
        about: &[
            "Registers nvoci's runtime with each engine. `nvoci uninstall` reverts exactly that.",
            "Where no CDI specification names this host's GPUs, also writes /etc/cdi/nvidia.yaml (see \
             `nvoci cdi generate --help`).",
        ],
        arguments: &[engines("ENGINE...")],
        examples: &[
            ("nvoci install docker --dry-run", "show the change and make none"),
            (
                "nvoci install docker containerd --restart",
                "register with both, and restart them",
            ),
        ],
        ..Page::EMPTY
    },
    flags: &flags(Verb::Install),
    words: ENGINE,
    ..Command::of(|options| run(Verb::Install, options))
};

pub(super) static UNINSTALL: Command<Options> = Command {
    page: Page {
        name: "nvoci uninstall",
        summary: "revert what install did",
        about: &[
            "Reverts exactly what `nvoci install` did to each engine.",
            "With --if-unused and without an engine it only checks.",
        ],
        arguments: &[engines("[ENGINE...]")],
        ..Page::EMPTY
    },
    flags: &flags(Verb::Uninstall),
    words: ENGINE,
    ..Command::of(|options| run(Verb::Uninstall, options))
};

/// The argument of both commands. `nvoci uninstall --if-unused` needs none.
const fn engines(name: &'static str) -> Argument {
    argument(name, "docker, podman, containerd or crio").values(&["docker", "podman", "containerd", "crio"])
}

const ENGINE: Words<Options> = Words::Many(|options, name| {
    let name = name.to_string_lossy();
    let engine = Engine::from_name(&name)
        .ok_or_else(|| format!("there is no engine `{name}`: name docker, podman, containerd or crio"))?;
    if !options.engines.contains(&engine) {
        options.engines.push(engine);
    }
    Ok(())
});

/// The options of both commands. Those that only an installation needs are accepted by `uninstall`,
/// so that a script can pass both the same words, and its help leaves them out.
const fn flags(verb: Verb) -> [Flag<Options>; 12] {
    let drop_in = match verb {
        Verb::Install => "containerd: write the runtime to FILE and import its directory; crio: write FILE",
        Verb::Uninstall => "the drop-in that `install --drop-in` wrote",
    };
    [
        flag("config", "edit this file instead of the usual one (one engine)").path("FILE", |o, file| {
            o.config = Some(file);
        }),
        flag("drop-in", drop_in).path("FILE", |o, file| o.drop_in = Some(file)),
        flag("root", "work below DIR, as if it were /").path("DIR", |o, dir| o.root = dir),
        flag(
            "runtime-name",
            "the runtime's name in the engine (default nvidia)",
        )
        .text("NAME", |o, name| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
                return Err("a name is 1 to 64 letters, digits, `-`, `_` and `.`".to_owned());
            }
            o.settings.name = name;
            Ok(())
        }),
        of_install(
            flag(
                "runtime-path",
                "the runtime's binary (default /usr/bin/nvoci-runtime)",
            )
            .more("For docker also a name, which dockerd looks up."),
            verb,
        )
        .text("FILE", |o, file| {
            if !file.starts_with('/') && (file.is_empty() || file.contains('/')) {
                return Err(format!("`{file}` is not an absolute path"));
            }
            o.runtime_path = Some(file);
            Ok(())
        }),
        of_install(
            flag("set-as-default", "make it the engine's default runtime"),
            verb,
        )
        .switch(|o| o.settings.set_as_default = true),
        of_install(flag("cdi", "turn the engine's CDI support on"), verb).switch(|o| o.settings.cdi = true),
        flag("dry-run", "show the change and make none").switch(|o| o.dry_run = true),
        flag("restart", "reload or restart the engine afterwards").switch(|o| o.restart = true),
        flag(
            "yes",
            "restart without a question; without a terminal there is none",
        )
        .switch(|o| o.yes = true),
        of_removal(
            flag(
                "if-unused",
                "change nothing while a container runs that nvoci's runtime started",
            )
            .more("The engine executes commands in it, and stops it, by that runtime."),
            verb,
        )
        .switch(|o| o.if_unused = true),
        flag("json", "print the outcome as JSON").switch(|o| o.json = true),
    ]
}

const fn of_install(flag: Doc, verb: Verb) -> Doc {
    match verb {
        Verb::Install => flag,
        Verb::Uninstall => flag.hidden(),
    }
}

const fn of_removal(flag: Doc, verb: Verb) -> Doc {
    match verb {
        Verb::Install => flag.hidden(),
        Verb::Uninstall => flag,
    }
}

pub(super) struct Options {
    engines: Vec<Engine>,
    settings: Settings,
    runtime_path: Option<String>,
    config: Option<PathBuf>,
    drop_in: Option<PathBuf>,
    root: PathBuf,
    dry_run: bool,
    restart: bool,
    yes: bool,
    if_unused: bool,
    json: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            engines: Vec::new(),
            settings: Settings::default(),
            runtime_path: None,
            config: None,
            drop_in: None,
            root: PathBuf::from("/"),
            dry_run: false,
            restart: false,
            yes: false,
            if_unused: false,
            json: false,
        }
    }
}

/// Runs it for every engine.
///
/// # Errors
/// The first engine's error. The other engines are still changed, and their errors printed.
fn run(verb: Verb, options: Options) -> Result<ExitCode> {
    let options = options.checked(verb)?;
    if options.if_unused {
        monitors::refuse_use()?;
    }
    let budget = Budget::default();
    let mut first_error = None;
    let mut all = Vec::new();
    for engine in &options.engines {
        let error = match one(verb, &options, *engine, &budget) {
            Ok(done) => {
                all.push(done.value);
                if !options.json {
                    super::print(&done.text)?;
                }
                done.error
            }
            Err(e) => {
                let error = e.to_json(e.code().class().status());
                all.push(json!({"engine": engine.name(), "error": error}));
                Some(e)
            }
        };
        if let Some(e) = error
            && let Some(e) = first_error.replace(e)
        {
            inject::write_line(&e.to_string());
        }
    }
    if options.json {
        super::print(&format!("{:#}\n", Value::Array(all)))?;
        // The document has every error, and one document is printed.
        if let Some(e) = first_error {
            inject::write_line(&e.to_string());
            return Ok(ExitCode::from(e.code().class().status()));
        }
        return Ok(ExitCode::SUCCESS);
    }
    first_error.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// The command's output for each engine in `args`, as JSON and as text.
pub(super) fn rehearse(verb: Verb, args: impl Iterator<Item = OsString>) -> Result<Vec<(Value, String)>> {
    let Some(options) = verb.command().parse(args)? else {
        return Ok(Vec::new());
    };
    let options = options.checked(verb)?;
    let budget = Budget::default();
    let engines = options.engines.iter();
    engines
        .map(|e| one(verb, &options, *e, &budget).map(|done| (done.value, done.text)))
        .collect()
}

/// The files and warnings of a `--dry-run`.
pub(super) struct Results {
    pub(super) texts: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// The files that `nvoci install` with these arguments would write; writes none.
pub(super) fn results(args: impl Iterator<Item = OsString>) -> Result<Vec<Results>> {
    let Some(mut options) = INSTALL.parse(args)? else {
        return Ok(Vec::new());
    };
    options.dry_run = true;
    let options = options.checked(Verb::Install)?;
    let budget = Budget::default();
    let mut all = Vec::new();
    for engine in &options.engines {
        let (report, _) = registered(Verb::Install, &options, *engine, &budget)?;
        all.push(Results {
            texts: report.results,
            warnings: report.warnings,
        });
    }
    Ok(all)
}

impl Options {
    /// Checks combinations of options, and the runtime's path.
    fn checked(mut self, verb: Verb) -> Result<Self> {
        let command = verb.command();
        match self.runtime_path.take() {
            Some(path) => {
                if !path.starts_with('/') && self.engines.iter().any(|e| *e != Engine::Docker) {
                    let why = format!("--runtime-path: `{path}` is a name, which docker alone looks up");
                    return Err(command.usage_error(why));
                }
                self.settings.runtime_path = path;
            }
            None if is_own(&self.root) => {
                self.settings.runtime_path = super::installation("nvoci-runtime").display().to_string();
            }
            // A runtime below another root cannot be checked from here.
            None => {}
        }
        if self.if_unused && (verb == Verb::Install || !is_own(&self.root)) {
            return Err(command.usage_error("--if-unused goes with `nvoci uninstall`, without --root"));
        }
        if self.engines.is_empty() && !self.if_unused {
            return Err(command.usage_error("no engine was named: docker, podman, containerd or crio"));
        }
        if self.config.is_some() && self.engines.len() > 1 {
            return Err(command.usage_error("--config goes with one engine"));
        }
        if let Some(file) = &self.drop_in {
            let takes = |e: &Engine| matches!(e, Engine::Containerd | Engine::Crio);
            if self.engines.len() > 1 || !self.engines.iter().all(takes) {
                return Err(
                    command.usage_error("a drop-in goes with containerd or crio, and with one engine")
                );
            }
            if !file.is_absolute() {
                return Err(command.usage_error("a drop-in is an absolute path"));
            }
            let main = Path::new("/etc/crio/crio.conf");
            if self.engines == [Engine::Crio] && self.config.as_deref().is_some_and(|config| config != main) {
                return Err(
                    command.usage_error("with --drop-in, crio takes no --config but /etc/crio/crio.conf")
                );
            }
        }
        if self.yes && !self.restart {
            return Err(command.usage_error("--yes goes with --restart"));
        }
        if self.restart && (self.dry_run || !is_own(&self.root)) {
            return Err(command.usage_error("--restart does not go with --dry-run or --root"));
        }
        Ok(self)
    }
}

/// Whether it is this machine's root directory, by any name. Programs registered there run here.
fn is_own(root: &Path) -> bool {
    let id = |path: &Path| Root::open(path)?.resolve("/").map(|dir| dir.id());
    match (id(root), id(Path::new("/"))) {
        (Ok(named), Ok(own)) => named == own,
        _ => root.as_os_str() == "/",
    }
}

/// Changes one engine's files. Returns the report, and the restart that it needs.
fn registered(
    verb: Verb,
    options: &Options,
    engine: Engine,
    budget: &Budget,
) -> Result<(Report, Option<Activation>)> {
    let root = Root::open(&options.root).context(Code::Usage, || options.root.display().to_string())?;
    let live = is_own(&options.root);
    let session = Session {
        live,
        user: if live { user()? } else { None },
    };
    // nvoci writes only a drop-in for CRI-O.
    let crio = options.drop_in.as_ref().filter(|_| engine == Engine::Crio);
    let config = match crio.or(options.config.as_ref()) {
        // A relative path is relative to the caller's directory on this root, else to the other
        // root.
        Some(file) if live => {
            Some(std::path::absolute(file).context(Code::Usage, || file.display().to_string())?)
        }
        Some(file) => Some(PathBuf::from("/").join(file)),
        None => None,
    };
    let find = match verb {
        Verb::Install => place::find,
        Verb::Uninstall => place::find_registered,
    };
    let place = find(engine, &root, &session, config.as_deref())?;
    let mut settings = options.settings.clone();
    if live && let Ok(config) = super::load_config(None) {
        let patterns = config.annotation_prefixes.iter().map(|p| format!("{p}*"));
        settings.annotations = patterns.collect();
    }
    let spec = if verb == Verb::Install && live && session.user.is_none() && config.is_none() {
        specification(&settings.runtime_path, budget)
    } else {
        None
    };
    let job = Job {
        engine,
        settings,
        spec,
        root,
        session,
        config,
        drop_in: options.drop_in.clone(),
        dry_run: options.dry_run,
    };
    let report = match verb {
        Verb::Install => register::install(&job, &place),
        Verb::Uninstall => register::uninstall(&job, &place),
    }?;
    let installing = verb == Verb::Install;
    let plan = |keys: &[Vec<String>]| restart::plan(engine, &place, &job.session, keys, installing);
    let activation = match report.outcome.changed() {
        true => live.then(|| plan(&report.keys)),
        false if options.restart => {
            let keys = restart::unread(&job, &place, &report.files, installing);
            (!keys.is_empty()).then(|| {
                let mut activation = plan(&keys);
                let note = "the running engine has not read its present files yet";
                activation.notes.insert(0, note.to_owned());
                activation
            })
        }
        false => None,
    };
    Ok((report, activation))
}

/// The output for one engine, and the error of a restart that failed after the change was made.
struct Done {
    value: Value,
    text: String,
    error: Option<Error>,
}

/// Runs it for one engine.
fn one(verb: Verb, options: &Options, engine: Engine, budget: &Budget) -> Result<Done> {
    let (report, activation) = registered(verb, options, engine, budget)?;
    let mut text = describe(engine, options, &report, activation.as_ref());
    let mut acted = false;
    let mut error = None;
    if let Some(activation) = activation
        .as_ref()
        .filter(|a| options.restart && a.need != Need::Nothing)
    {
        if !options.json {
            super::print(&std::mem::take(&mut text))?;
        }
        let agreed = if options.yes {
            Ok(true)
        } else {
            consent(engine, activation)
        };
        match agreed.and_then(|agreed| agreed.then(|| restart::act(engine, activation)).transpose()) {
            Ok(Some(done)) => {
                acted = true;
                let _ = writeln!(text, "  done: {done}");
            }
            Ok(None) => {
                let command = activation.command.join(" ");
                let _ = writeln!(
                    text,
                    "  not restarted; to take effect, run: {}",
                    Escaped(&command)
                );
            }
            Err(e) => error = Some(e),
        }
    }
    let mut value = to_json(engine, options, &report, activation.as_ref(), acted);
    if let (Some(e), Some(value)) = (&error, value.as_object_mut()) {
        value.insert("error".to_owned(), e.to_json(e.code().class().status()));
    }
    Ok(Done { value, text, error })
}

/// Whether the restart may be done. A person at a terminal decides; without one `--restart` is the
/// consent. A reload touches no container.
fn consent(engine: Engine, activation: &Activation) -> Result<bool> {
    let (answers, mut questions) = (std::io::stdin(), std::io::stderr());
    if activation.need != Need::Restart || !answers.is_terminal() || !questions.is_terminal() {
        return Ok(true);
    }
    agreed(engine, activation, answers, &mut questions, PATIENCE)
}

/// Puts the question and reads the answer, of which only `y` and `yes` agree. A question that
/// cannot be shown and an answer that cannot be read do not, nor does one that was typed before the
/// question.
///
/// # Errors
/// [`Code::Engine`] without an answer in time: the caller requested a restart that was not done.
fn agreed(
    engine: Engine,
    activation: &Activation,
    answers: impl AsFd,
    questions: &mut dyn Write,
    patience: Duration,
) -> Result<bool> {
    let stops = match activation.hit.as_slice() {
        [] => String::new(),
        hit => format!(" It stops {}.", hit.join(", ")),
    };
    let question = format!("Restart {} now?{stops}", engine.name());
    terminal::forget_typed(&answers);
    let shown = write!(questions, "{} (--yes answers this) [y/N] ", Escaped(&question))
        .and_then(|()| questions.flush());
    if shown.is_err() {
        return Ok(false);
    }
    match terminal::read_line(answers, MAX_ANSWER, patience) {
        Ok(answer) => Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")),
        Err(e) if e.kind() == std::io::ErrorKind::TimedOut => {
            let _ = writeln!(questions);
            let why = format!(
                "the question on this terminal had no answer within {} s, so nothing was restarted",
                patience.as_secs()
            );
            Err(Error::new(Code::Engine, activation.command.join(" "), why)
                .fix("run it yourself, or pass --yes; the configuration is written"))
        }
        Err(_) => Ok(false),
    }
}

/// Writes the CDI specification of this host if none names its GPUs. A failure does not stop the
/// engine's registration.
fn specification(runtime_path: &str, budget: &Budget) -> Option<String> {
    let registry = Registry::load(&Config::default().cdi_spec_dirs, Trust::Anyone, budget);
    let theirs = registry.devices().iter().any(|(name, standing)| {
        let elsewhere = match standing {
            Standing::Good(at) => registry.loaded[*at].path != Path::new(SPEC),
            Standing::Conflict(_) => true,
        };
        elsewhere && name.starts_with("nvidia.com/gpu=")
    });
    // A runtime that cannot be registered is refused later, so it needs no warning here.
    let runtime_path = Program::named(runtime_path).ok().filter(|_| !theirs)?;
    let runtime_path = runtime_path.path();
    let hook = Program::prove(&runtime_path.with_file_name("nvoci"));
    match hook.and_then(|hook| super::cdi::of_this_host(&hook)) {
        Ok(text) => Some(text),
        Err(e) => {
            inject::write_line(&format!("warning: no CDI specification is written: {e}"));
            None
        }
    }
}

/// The directories of the user who runs this; `None` for root.
fn user() -> Result<Option<User>> {
    if rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let var = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let home = var("HOME").ok_or_else(|| Error::new(Code::Usage, "HOME", "not set, and not run as root"))?;
    Ok(Some(User {
        config: var("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")),
        state: var("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state")),
    }))
}

fn describe(engine: Engine, options: &Options, report: &Report, activation: Option<&Activation>) -> String {
    let shown = |path: &PathBuf| Escaped(&path.display().to_string()).to_string();
    let files: Vec<String> = report.files.iter().map(shown).collect();
    let place = if files.is_empty() {
        String::new()
    } else {
        format!(" ({})", files.join(", "))
    };
    let mut out = if options.dry_run && report.outcome.changed() {
        let verb = if report.outcome == Outcome::Registered {
            "would be registered"
        } else {
            "would be removed"
        };
        format!("{}: {verb}{place}\n{}", engine.name(), lines(&report.diff))
    } else {
        format!("{}: {}{place}\n", engine.name(), report.outcome.text())
    };
    let mut line = |label: &str, text: &str| {
        let _ = writeln!(out, "  {label}: {}", Escaped(text));
    };
    if !options.dry_run {
        for change in &report.changes {
            line("set", change);
        }
    }
    for backup in &report.backups {
        line("backup", &backup.display().to_string());
    }
    match &report.checked {
        Some(Checked::By(command)) => line("validated", command),
        Some(Checked::Not(why)) => line("not validated", why),
        None => {}
    }
    for warning in &report.warnings {
        line("warning", warning);
    }
    if let Some(a) = activation {
        for note in &a.notes {
            line("note", note);
        }
        if !a.hit.is_empty() {
            line("a restart stops", &a.hit.join(", "));
        }
        if !a.command.is_empty() && !options.restart {
            line("to take effect, run", &a.command.join(" "));
        }
    }
    out
}

/// The lines of a text, with terminal control characters escaped.
fn lines(text: &str) -> String {
    let lines = text.split_inclusive('\n').map(|line| {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        let words: Vec<String> = line.split('\t').map(|word| Line(word).to_string()).collect();
        words.join("\t") + end
    });
    lines.collect()
}

fn to_json(
    engine: Engine,
    options: &Options,
    report: &Report,
    activation: Option<&Activation>,
    acted: bool,
) -> Value {
    let paths = |all: &[PathBuf]| all.iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
    let (by, not) = match &report.checked {
        Some(Checked::By(command)) => (Some(command), None),
        Some(Checked::Not(why)) => (None, Some(why)),
        None => (None, None),
    };
    let activation = activation.map(|a| {
        let need = match a.need {
            Need::Nothing => "nothing",
            Need::Reload => "reload",
            Need::Restart => "restart",
        };
        json!({"need": need, "command": a.command, "notes": a.notes, "stops": a.hit, "done": acted})
    });
    json!({
        "engine": engine.name(),
        "outcome": report.outcome.text(),
        "dry_run": options.dry_run,
        "files": paths(&report.files),
        "changes": report.changes,
        "diff": report.diff,
        "backups": paths(&report.backups),
        "validated_by": by,
        "not_validated": not,
        "warnings": report.warnings,
        "activation": activation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<Option<Options>> {
        let parsed = INSTALL.parse(line.split_whitespace().map(OsString::from))?;
        parsed.map(|options| options.checked(Verb::Install)).transpose()
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "",
            "lxc",
            "docker podman --config /x",
            "docker --runtime-name a/b",
            "docker --runtime-path bin/nvoci",
            "containerd --runtime-path nvoci",
            "docker --drop-in /x.json",
            "containerd crio --drop-in /x.toml",
            "containerd --drop-in x.toml",
            "docker --restart --dry-run",
            "docker --yes",
            "docker --if-unused",
            "docker --frobnicate",
        ] {
            assert_eq!(args(line).err().map(|e| e.code()), Some(Code::Usage), "{line}");
        }
        assert!(is_own(Path::new("//")) && is_own(Path::new("/.")) && is_own(Path::new("/usr/..")));
        assert!(!is_own(Path::new("/usr")) && !is_own(Path::new("/none")));
        let shown = lines("a\tb\u{1b}[2J\r\n\u{202e}c\n");
        assert_eq!(shown, "a\tb\\u{1b}[2J\\r\n\\u{202e}c\n");
        let options = args("cri-o docker crio --cdi").unwrap().unwrap();
        assert_eq!(options.engines, [Engine::Crio, Engine::Docker]);
    }

    /// The result for an answer, and the question. Without an answer nobody writes, for 50 ms.
    fn answered(answer: Option<&str>) -> (Result<bool>, String) {
        let activation = Activation {
            need: Need::Restart,
            command: vec!["systemctl".to_owned(), "restart".to_owned(), "docker".to_owned()],
            notes: Vec::new(),
            hit: vec!["3f2a web\u{1b}[2J".to_owned(), "and 4 more".to_owned()],
        };
        let (answers, mut person) = std::io::pipe().unwrap();
        let patience = Duration::from_millis(if answer.is_some() { 20_000 } else { 50 });
        let mut shown = Vec::new();
        let answering = std::thread::spawn({
            let answer = answer.map(str::to_owned);
            // A short read ends the pipe before a long answer is written.
            move || match answer {
                Some(answer) => drop(person.write_all(answer.as_bytes())),
                None => std::thread::sleep(Duration::from_millis(500)),
            }
        });
        let agreed = agreed(Engine::Docker, &activation, answers, &mut shown, patience);
        answering.join().unwrap();
        (agreed, String::from_utf8(shown).unwrap())
    }

    #[test]
    fn only_yes_restarts() {
        for (answer, agrees) in [
            ("y\n", true),
            ("YES\n", true),
            (" yes ", true),
            ("\n", false),
            ("", false),
            ("n\n", false),
            ("yep\n", false),
            ("\ny\n", false),
        ] {
            let (agreed, shown) = answered(Some(answer));
            assert_eq!(agreed.ok(), Some(agrees), "{answer:?}");
            assert_eq!(
                shown,
                "Restart docker now? It stops 3f2a web\\u{1b}[2J, and 4 more. (--yes answers this) [y/N] "
            );
        }
        let long = format!("y{}no thanks\n", " ".repeat(MAX_ANSWER - 1));
        assert_eq!(answered(Some(&long)).0.ok(), Some(false));
        assert_eq!(answered(Some(&"y".repeat(1 << 20))).0.ok(), Some(false));
    }

    #[test]
    fn a_question_that_nobody_answers_is_an_error() {
        let (agreed, shown) = answered(None);
        let e = agreed.unwrap_err();
        assert_eq!((e.code(), e.what()), (Code::Engine, "systemctl restart docker"));
        assert!(e.fix_text().contains("--yes"), "{e}");
        assert!(shown.ends_with("[y/N] \n"), "{shown:?}");
    }
}
