//! `nvoci cdi`: writes, lists, checks and moves CDI specifications.

mod options;

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::cli::{Command, Flag, Group, Page, Words, flag};
use super::{inject, is_taken, mig, variables};
use crate::cdi::csv::DISPLAY;
use crate::cdi::explicit::{Mode, explicit};
use crate::cdi::generate::{self, Naming, Options, dynamic};
use crate::cdi::read::{self, Format};
use crate::cdi::registry::{Standing, Trust, spec_file};
use crate::cdi::{CdiSpec, Registry, Valid, check, emit, transform};
use crate::config::Config;
use crate::error::{Code, Error, Escaped, IoContext as _, Result};
use crate::host::{Host, Platform, Roots, create};
use crate::ldso::Warnings;
use crate::request::{DeviceRequest, split_kind};
use crate::sys::budget::Budget;
use crate::sys::owned;
use crate::sys::program::Program;
use crate::sys::root::{Node, split};
use options::Generate;

pub(super) static COMMAND: Command<()> = Command {
    page: Page {
        name: "nvoci cdi",
        summary: "write, list, check and transform CDI specifications",
        about: &[
            "CDI specifications: how Docker, Podman, containerd and CRI-O give containers devices by name.",
        ],
        examples: &[
            (
                "nvoci cdi generate --output /etc/cdi/nvidia.yaml",
                "let engines find this host's GPUs",
            ),
            (
                "nvoci cdi check",
                "find what is wrong with the specifications that engines see",
            ),
        ],
        ..Page::EMPTY
    },
    commands: &[Group {
        heading: "Commands",
        commands: &[&options::GENERATE, &LIST, &CHECK, &TRANSFORM],
    }],
    ..Command::of(|()| Err(COMMAND.usage_error("no command was given: generate, list, check or transform")))
};

static LIST: Command<Shown> = Command {
    page: Page {
        name: "nvoci cdi list",
        summary: "list the devices that engines see",
        about: &["Lists the devices of the CDI specifications, as engines see them."],
        ..Page::EMPTY
    },
    flags: SHOWN,
    variables: variables::of,
    ..Command::of(list)
};

static CHECK: Command<Shown> = Command {
    page: Page {
        name: "nvoci cdi check",
        summary: "find what is wrong with the specifications, ours or not",
        about: &["Checks the CDI specifications for what engines refuse, ignore or understand differently."],
        exit: &[
            ("0", "no errors; there may be warnings"),
            ("1", "a specification has an error"),
        ],
        ..Page::EMPTY
    },
    flags: SHOWN,
    variables: variables::of,
    ..Command::of(check_all)
};

const SHOWN: &[Flag<Shown>] = &[
    flag("spec-dir", "a directory in place of the configured ones")
        .variable("NVIDIA_CTK_CDI_SPEC_DIRS")
        .list("DIR", |o, dir| {
            o.dirs.push(options::absolute(dir.as_ref())?);
            Ok(())
        }),
    flag("config", "use another configuration")
        .variable("NVIDIA_CTK_CONFIG")
        .path("FILE", |o, file| o.config = Some(file)),
    flag("json", "print JSON").switch(|o| o.json = true),
];

static TRANSFORM: Command<Transform> = Command {
    page: Page {
        name: "nvoci cdi transform",
        summary: "move the paths of a specification to another root",
        usage: &["nvoci cdi transform root --from ROOT --to ROOT [OPTIONS]"],
        about: &["Replaces the root directory of the paths in a specification."],
        ..Page::EMPTY
    },
    flags: &[
        flag("from", "the root that the specification's paths have")
            .path("ROOT", |o, root| o.from = Some(root)),
        flag("to", "the root that they get").path("ROOT", |o, root| o.to = root),
        flag("input", "read FILE instead of standard input").path("FILE", |o, file| {
            o.input = Some(file).filter(|file| file != Path::new("-"));
        }),
        flag("output", "write to FILE instead of standard output").value("FILE", |o, file| {
            o.output = Some(options::absolute(&file)?);
            Ok(())
        }),
        flag("relative-to", "which paths are moved (default host)")
            .values(&["host", "container"])
            .text("", |o, side| {
                o.side = match side.as_str() {
                    "host" => transform::Side::Host,
                    "container" => transform::Side::Container,
                    other => return Err(format!("`{other}` is neither host nor container")),
                };
                Ok(())
            }),
    ],
    words: Words::One(|o, word| {
        if word != "root" {
            return Err(format!(
                "there is no transformation `{}`: it is `root`",
                word.display()
            ));
        }
        o.root = true;
        Ok(())
    }),
    ..Command::of(transform_root)
};

fn generate(flags: &Generate) -> Result<ExitCode> {
    let mut config = super::load_config(flags.config.as_deref())?;
    if let Some(root) = &flags.driver_root {
        config.driver_root.value.clone_from(root);
    }
    if let Some(root) = &flags.dev_root {
        config.dev_root.value = Some(root.clone());
    }
    config
        .library_dirs
        .value
        .extend(flags.library_dirs.iter().cloned());
    let spec = build(flags, &config, hook_of(flags)?)?;
    let of_name = flags.output.as_deref().and_then(Format::of);
    if let (Some(output), Some(named), Some(format)) = (&flags.output, of_name, flags.format)
        && named != format
    {
        // Engines choose the parser by the name, and YAML in x.json is broken for them.
        inject::warn(&[format!(
            "{} is written in the format of its name, and not as --format says",
            output.display()
        )]);
    }
    let format = of_name.or(flags.format).unwrap_or(Format::Yaml);
    write(&spec, format, flags.output.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

/// The output of `nvoci cdi generate`, for containers whose hook is the program `hook`.
///
/// # Errors
/// As of the command.
pub fn of_this_host(hook: &Program) -> Result<String> {
    let flags = Generate::default();
    Ok(emit::yaml(&build(
        &flags,
        &*super::load_config(None)?,
        hook.text(),
    )?))
}

/// The program that a specification names as its hook.
///
/// A program that a person names may be another machine's, so it is taken unchecked. nvoci writes
/// its own to a file only if nobody but root can replace it. Printed text is not executed yet, so
/// it may name the packages' path instead.
///
/// # Errors
/// [`Code::LooseProgram`].
fn hook_of(flags: &Generate) -> Result<String> {
    if let Some(path) = &flags.hook_path {
        if let Err(e) = Program::prove(Path::new(path)) {
            inject::warn(&[if e.code() == Code::NoProgram {
                format!("{path}: {}: containers need it to start", e.why())
            } else {
                format!(
                    "{path}: {}; root executes it for every container [{}]",
                    e.why(),
                    e.code()
                )
            }]);
        }
        return Ok(path.clone());
    }
    let explicitly = flags.explicit || flags.mode.is_some();
    let name = if explicitly { "nvidia-cdi-hook" } else { "nvoci" };
    match super::installed(name) {
        Ok(program) => Ok(program.text()),
        Err(e) if e.code() != Code::NoProgram && flags.output.is_some() => {
            Err(e.fix("install nvoci's package and run that nvoci, or name the program: `--hook-path FILE`"))
        }
        Err(e) if e.code() == Code::NoProgram => {
            inject::warn(&[format!("{}: {}: containers need it to start", e.what(), e.why())]);
            Ok(super::installation(name).display().to_string())
        }
        Err(e) => {
            let usual = Path::new(super::PACKAGED).join(name);
            inject::warn(&[format!("{} is named instead of {e}", usual.display())]);
            if let Err(e) = Program::prove(&usual) {
                inject::warn(&[format!("{}: {}: containers need it to start", e.what(), e.why())]);
            }
            Ok(usual.display().to_string())
        }
    }
}

/// Discovers the host and makes its specification.
fn build(flags: &Generate, config: &Config, hook_path: String) -> Result<Valid> {
    let vendor = flags.vendor.as_deref().unwrap_or("nvidia.com");
    let class = flags.class.as_deref().unwrap_or("gpu");
    let kind = format!("{vendor}/{class}");
    if split_kind(&kind).is_none() {
        let why = format!(
            "`{kind}` is not vendor/class: each of letters, digits, `_`, `-`, `.`, at least two, beginning with a \
             letter and ending with a letter or digit (Docker, Podman and containerd crash on a part of one letter)"
        );
        return Err(Error::new(Code::Usage, "CDI kind", why).fix("choose another --vendor or --class"));
    }
    let mut locations = super::locations(config);
    if flags.mode == Some(Mode::Csv) {
        locations.site_devices.push(PathBuf::from(DISPLAY));
        locations.csv = Some(flags.csv.clone());
    }
    let roots = Roots::open(&locations)?;
    let mut host = Host::discover(&roots, &locations)?;
    if flags.only_wsl && host.platform != Platform::Wsl2 {
        let why = "this host is not WSL2, and another mode was not asked for";
        return Err(Error::new(Code::Wsl, "CDI mode wsl", why).fix("leave --mode out"));
    }
    if flags.create_nodes {
        let wanted = create::Options {
            load_kmods: *config.load_kmods,
            uvm: true,
            modeset: true,
            imex_channels: Vec::new(),
        };
        for done in create::create_missing(&roots, &mut host, &wanted) {
            inject::write_line(&Escaped(&done.to_string()).to_string());
        }
    }
    let naming = if flags.naming.is_empty() {
        vec![Naming::Index, Naming::Uuid]
    } else {
        flags.naming.clone()
    };
    let explicitly = flags.explicit || flags.mode.is_some();
    if naming.contains(&Naming::Uuid) {
        mig::learn(&mut host, &roots, &DeviceRequest::All);
    }
    let options = Options {
        kind,
        naming,
        all: !flags.no_all && !flags.ids.iter().any(|id| id == generate::NONE),
        hook_path,
        additional_gids: flags.additional_gids,
        ids: flags.ids.clone(),
        explicit: flags.only_explicit.clone(),
        extra: config.extra.clone(),
    };
    let by_gpu = flags.mode.is_none_or(|m| m == Mode::Gpus) && host.platform != Platform::Wsl2;
    if let Some(id) = options.unknown_id(&host).filter(|_| by_gpu) {
        return Err(Error::new(
            Code::UnknownDevice,
            format!("device {id}"),
            "this host has no such device",
        ));
    }
    // A warning may be the cause of the next error. Several files may have one fault.
    host.warnings.dedup();
    inject::warn(&host.warnings);
    let (spec, left_out) = if explicitly {
        explicit(&host, &roots, &options, flags.mode.unwrap_or(Mode::Gpus))?
    } else {
        (dynamic(&host, &roots, &options), Vec::new())
    };
    inject::warn(&left_out);
    let shut = host
        .nodes
        .iter()
        .find(|n| n.present && generate::needs_group(n) && host.platform != Platform::Wsl2);
    if let (Some(node), false) = (shut, flags.additional_gids) {
        inject::warn(&[format!(
            "{} is for its group {} only, so a user of a container other than root cannot open it; \
             --additional-gids lets them, and makes the specification one of CDI 0.7.0",
            node.path.display(),
            node.gid
        )]);
    }
    Valid::of(spec).map_err(|why| Error::new(Code::Cdi, "the specification of this host", why))
}

/// Writes a specification to standard output, or to a file, which is replaced atomically.
///
/// # Errors
/// [`Code::Cdi`] and [`Code::TooLarge`] if a reader would refuse the text.
fn write(spec: &Valid, format: Format, output: Option<&Path>) -> Result<()> {
    let text = match format {
        Format::Yaml => emit::yaml(spec),
        Format::Json => emit::json(spec),
    };
    read::parse(text.as_bytes(), format, "to be written", &Budget::default())?;
    let Some(output) = output else {
        return super::print(&text);
    };
    let what = || format!("CDI specification {}", output.display());
    if Format::of(output).is_none() {
        inject::warn(&[format!(
            "no engine reads {}: the name must end in .yaml or .json",
            output.display()
        )]);
    }
    let (dir, name) = split(output).context(Code::System, what)?;
    let dir = make_dir_of(dir, &what)?;
    if is_taken(&dir, name) {
        let why = "it exists and is no regular file";
        let fix = "name another file; without --output the specification goes to standard output";
        return Err(Error::new(Code::System, what(), why).fix(fix));
    }
    // Written even if it is the same, since engines cache the device numbers until a file changes.
    dir.write_file_durably(name, 0o644, text.as_bytes())
        .context(Code::System, what)
}

/// Opens the directory of an output, and makes what is missing of it. A link of another user on
/// the way is refused: that user would choose where root writes.
fn make_dir_of(dir: &Path, what: &dyn Fn() -> String) -> Result<Node> {
    let mut missing = Vec::new();
    let mut at = dir;
    let mut node = loop {
        let found = owned::find_by_own_links(at);
        if let Some(node) = found.map_err(|e| e.fix("name a directory without that link"))? {
            break node;
        }
        let (parent, name) = split(at).context(Code::System, what)?;
        missing.push(name);
        at = parent;
    };
    for name in missing.into_iter().rev() {
        node = node.mkdir(name, 0o755).context(Code::System, what)?;
    }
    Ok(node)
}

/// The directories whose specifications are shown, and the form.
#[derive(Default)]
struct Shown {
    config: Option<PathBuf>,
    dirs: Vec<PathBuf>,
    json: bool,
}

impl Shown {
    /// Fills in the configured directories if none is named.
    fn with_dirs(mut self) -> Result<Self> {
        if self.dirs.is_empty() {
            let config = super::load_config(self.config.as_deref())?;
            self.dirs.clone_from(&config.cdi_spec_dirs);
        }
        Ok(self)
    }
}

fn list(shown: Shown) -> Result<ExitCode> {
    let (text, warnings) = listed(&shown.with_dirs()?);
    inject::warn(&warnings);
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The output and the warnings of `list`.
fn listed(flags: &Shown) -> (String, Vec<String>) {
    let registry = Registry::load(&flags.dirs, Trust::Anyone, &Budget::default());
    let mut shown = Vec::new();
    let mut warnings = Warnings::default();
    for (name, standing) in registry.devices() {
        match standing {
            Standing::Good(at) => shown.push((name, registry.loaded[at].path.display().to_string())),
            Standing::Conflict(at) => {
                const SHOWN: usize = 8;
                let files: Vec<String> = at
                    .iter()
                    .take(SHOWN)
                    .map(|&i| registry.loaded[i].path.display().to_string())
                    .collect();
                let more = if at.len() > SHOWN { ", …" } else { "" };
                warnings.add(format_args!("{name} is in conflict: {}{more}", files.join(", ")));
            }
        }
    }
    for (_, problem) in &registry.problems {
        warnings.add(format_args!("{problem}"));
    }
    let text = if flags.json {
        let all: Vec<_> = shown
            .iter()
            .map(|(name, file)| json!({"name": name, "file": file}))
            .collect();
        format!("{:#}\n", serde_json::Value::from(all))
    } else {
        shown.iter().map(|(name, _)| format!("{name}\n")).collect()
    };
    (text, warnings.into_lines())
}

fn check_all(shown: Shown) -> Result<ExitCode> {
    let (text, bad) = checked(&shown.with_dirs()?, &installed());
    super::print(&text)?;
    Ok(ExitCode::from(u8::from(bad)))
}

/// The output of `check`, and whether it found an error.
fn checked(flags: &Shown, engines: &[check::Engine]) -> (String, bool) {
    let mut findings = check::check(&flags.dirs, engines, &Budget::default());
    if findings.is_empty() {
        findings.extend(check::missing(&flags.dirs, &Budget::default()));
    }
    let text = if flags.json {
        let all: Vec<_> = findings
            .iter()
            .map(|f| json!({"severity": f.severity.name(), "path": f.path.to_string_lossy(), "text": f.text}))
            .collect();
        format!("{:#}\n", serde_json::Value::from(all))
    } else if findings.is_empty() {
        "Nothing is wrong.\n".to_owned()
    } else {
        findings.iter().map(|f| line(f) + "\n").collect()
    };
    let bad = findings.iter().any(|f| f.severity == check::Severity::Error);
    (text, bad)
}

/// The results of `list` and `check` for `dirs`, as text or JSON.
pub(super) fn rehearse(dirs: &[PathBuf], json: bool, engines: &[check::Engine]) -> Rehearsal {
    let flags = Shown {
        dirs: dirs.to_vec(),
        json,
        ..Shown::default()
    };
    let (list, warnings) = listed(&flags);
    let (check, bad) = checked(&flags, engines);
    Rehearsal {
        list,
        warnings,
        check,
        bad,
    }
}

/// The results of `nvoci cdi list` and `nvoci cdi check`.
#[derive(Debug)]
pub struct Rehearsal {
    /// The devices.
    pub list: String,
    /// The warnings of `list`.
    pub warnings: Vec<String>,
    /// The findings.
    pub check: String,
    /// Whether a finding is an error.
    pub bad: bool,
}

/// A finding for a terminal. Another user may have chosen the file's name.
fn line(f: &check::Finding) -> String {
    format!(
        "{}: {}: {}",
        f.severity.name(),
        Escaped(&f.path.display().to_string()),
        Escaped(&f.text)
    )
}

/// The engines of this machine, each with the version that it prints.
fn installed() -> Vec<check::Engine> {
    const LIMIT: Duration = Duration::from_secs(3);
    let mut found = Vec::new();
    for program in ["dockerd", "podman", "containerd", "crio"] {
        let Some(at) = Program::find(program) else {
            continue;
        };
        // `podman version 4.3.1`, `Docker version 28.5.2+dfsg1, build …`, `containerd
        // github.com/… 2.1.9~ds1 …`
        if let Ok(text) = mig::output_within(at.path(), &["--version"], LIMIT) {
            let version = text
                .split_whitespace()
                .map(|w| w.trim_start_matches('v'))
                .find(|w| w.starts_with(|c: char| c.is_ascii_digit()) && w.contains('.'));
            found.extend(version.and_then(|v| check::Engine::of(program, v.trim_end_matches(','))));
        }
    }
    found
}

#[derive(Default)]
struct Transform {
    root: bool,
    from: Option<PathBuf>,
    to: PathBuf,
    input: Option<PathBuf>,
    output: Option<PathBuf>,
    side: transform::Side,
}

fn transform_root(flags: Transform) -> Result<ExitCode> {
    let Transform {
        root,
        from,
        to,
        input,
        output,
        side,
    } = flags;
    if !root {
        return Err(TRANSFORM.usage_error("the word `root` is missing"));
    }
    let from = from.ok_or_else(|| TRANSFORM.usage_error("--from is missing"))?;
    let (mut spec, format) = match input {
        Some(file) => from_file(&file)?,
        None => from_standard_input()?,
    };
    transform::root(&mut spec, &from, &to, side);
    let spec = Valid::of(spec)
        .map_err(|why| Error::new(Code::Cdi, "the transformed specification", why).fix(TRANSFORM_FIX))?;
    let format = output.as_deref().and_then(Format::of).unwrap_or(format);
    write(&spec, format, output.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

const TRANSFORM_FIX: &str = "give absolute paths to --from and --to; nothing was written";

fn from_file(file: &Path) -> Result<(CdiSpec, Format)> {
    let file = std::path::absolute(file).context(Code::Usage, || "--input")?;
    let spec = spec_file(&file, Trust::Anyone, &Budget::default())?
        .ok_or_else(|| Error::new(Code::Cdi, file.display().to_string(), "there is no such file"))?;
    Ok((spec, Format::of(&file).unwrap_or(Format::Yaml)))
}

fn from_standard_input() -> Result<(CdiSpec, Format)> {
    if std::io::stdin().is_terminal() {
        return Err(TRANSFORM.usage_error("neither --input nor a specification on standard input"));
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(read::MAX_SIZE + 1)
        .read_to_end(&mut bytes)
        .context(Code::Cdi, || "standard input")?;
    let json = bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    let format = if json { Format::Json } else { Format::Yaml };
    let spec = read::parse(&bytes, format, "on standard input", &Budget::default())?;
    Ok((spec, format))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_does_not_reach_the_terminal() {
        let finding = check::Finding {
            severity: check::Severity::Error,
            path: PathBuf::from("/etc/cdi/\u{1b}[2J\n.json"),
            text: "\u{7}".to_owned(),
        };
        assert_eq!(line(&finding), r"error: /etc/cdi/\u{1b}[2J\n.json: \u{7}");
    }

    /// toolkit-features 12, quirk 12: `x.yml` became `x.yml.yaml`.
    #[test]
    fn quirk_12_a_file_has_the_requested_name_and_format() {
        let dir = tempfile::tempdir().unwrap();
        let text =
            "cdiVersion: 0.5.0\nkind: a.b/cd\ndevices:\n- name: 0\n  containerEdits:\n    env: [A=1]\n";
        let spec = read::parse(text.as_bytes(), Format::Yaml, "x", &Budget::default()).unwrap();
        let spec = Valid::of(spec).unwrap();
        for (name, format, start) in [("x.yml", Format::Yaml, "---\n"), ("y.yaml", Format::Json, "{")] {
            write(&spec, format, Some(&dir.path().join(name))).unwrap();
            let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(text.starts_with(start), "{text}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
