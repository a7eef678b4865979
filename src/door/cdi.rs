//! `nvoci cdi`: writes, lists, checks and moves CDI specifications.

mod options;

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use lexopt::Arg;
use serde_json::json;

use super::{inject, mig};
use crate::cdi::explicit::{Mode, explicit};
use crate::cdi::generate::{self, Naming, Options, dynamic};
use crate::cdi::read::{self, Format};
use crate::cdi::registry::{Standing, Trust, spec_file};
use crate::cdi::{CdiSpec, Registry, check, emit, transform, validate};
use crate::config::Config;
use crate::error::{Code, Error, Escaped, IoContext as _, Result};
use crate::host::{Host, Platform, Roots, create};
use crate::ldso::Warnings;
use crate::request::split_kind;
use crate::sys::budget::Budget;
use crate::sys::program::Program;
use crate::sys::root::{Root, split};
use options::Generate;

/// `nvoci cdi --help`.
pub const HELP: &str = "\
CDI specifications: how Docker, Podman, containerd and CRI-O give containers devices by name.

Usage: nvoci cdi generate [OPTIONS]        write the specification of this host
       nvoci cdi list [--spec-dir DIR]...  the devices that engines see
       nvoci cdi check [--spec-dir DIR]... what is wrong with the specifications, ours or not
       nvoci cdi transform root --from ROOT --to ROOT [--input FILE] [--output FILE]
                                [--relative-to host|container]

generate
  --output FILE     write to FILE (.yaml or .json) instead of standard output; readable by all, at once
  --format yaml|json
  --static          name every driver file, for gVisor, toolbx and Kata; right for one driver version
  --mode MODE       auto, management, gds, mofed, gdrcopy, nvswitch or imex; all but auto are static
  --device-name-strategy index|uuid|type-index   may be repeated; default index and uuid
  --device-id ID    only this device (index, GPU:MIG, UUID; `none`: one that gives nothing); may be repeated
  --no-all-device   without the device `all`
  --vendor V, --class C   default nvidia.com and gpu
  --driver-root DIR, --dev-root DIR   where the driver and its device nodes are
  --hook-path FILE  default /usr/bin/nvoci; with --static /usr/bin/nvidia-cdi-hook
  --additional-gids containers join the groups of nodes that not everybody may open (needs CDI 0.7.0)
  --create-nodes    load the driver's modules and make its missing device nodes first
  --config FILE     another configuration
  --library-search-path DIR   where the driver's libraries are, before the usual places; may be repeated
  --disable-hook NAME|all, --enable-hook NAME, --ldconfig-path FILE, --feature-flag disable-ipc-discoverer
                    what hooks and mounts the static form has, which these imply; may be repeated
Every option of the NVIDIA Container Toolkit may come from its variable (NVIDIA_CTK_CDI_OUTPUT_FILE_PATH, …) instead.

The specification names devices and one hook, which finds the driver when a container starts: it stays
right over driver updates, and may be there before the driver is. check exits with 1 if it finds errors.
";

/// Runs the command.
pub fn run(mut args: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    let verb = args.next();
    let mut parser = lexopt::Parser::from_args(args);
    match verb.as_deref().and_then(OsStr::to_str) {
        Some("generate") => generate(&mut parser),
        Some("list") => list(&mut parser),
        Some("check") => check_all(&mut parser),
        Some("transform") => transform_root(&mut parser),
        Some("--help" | "-h" | "help") => {
            super::print(HELP)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(other) => Err(usage(&format!("there is no `{other}`"))),
        None => Err(usage("generate, list, check or transform?")),
    }
}

fn usage(why: &str) -> Error {
    Error::new(Code::Usage, "nvoci cdi", why).fix("see `nvoci cdi --help`")
}

fn text(parser: &mut lexopt::Parser) -> Result<String> {
    let value = parser.value().map_err(|e| usage(&e.to_string()))?;
    value
        .into_string()
        .map_err(|_| usage("an argument is not UTF-8 text"))
}

fn unexpected(arg: &Arg<'_>) -> Error {
    let shown = match arg {
        Arg::Short(c) => format!("-{c}"),
        Arg::Long(name) => format!("--{name}"),
        Arg::Value(word) => word.to_string_lossy().into_owned(),
    };
    usage(&format!("`{shown}` is not an option here"))
}

fn generate(parser: &mut lexopt::Parser) -> Result<ExitCode> {
    let Some(asked) = options::parse(parser, |name| std::env::var(name).ok())? else {
        super::print(HELP)?;
        return Ok(ExitCode::SUCCESS);
    };
    let mut config = super::load_config(asked.config.as_deref())?;
    if let Some(root) = &asked.driver_root {
        config.driver_root.value.clone_from(root);
    }
    if let Some(root) = &asked.dev_root {
        config.dev_root.value = Some(root.clone());
    }
    config
        .library_dirs
        .value
        .extend(asked.library_dirs.iter().cloned());
    let spec = build(&asked, &config, hook_of(&asked)?)?;
    let format = asked
        .format
        .or_else(|| Format::of(asked.output.as_deref()?))
        .unwrap_or(Format::Yaml);
    write(&spec, format, asked.output.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

fn path(parser: &mut lexopt::Parser) -> Result<PathBuf> {
    let value = parser.value().map_err(|e| usage(&e.to_string()))?;
    std::path::absolute(value).context(Code::Usage, || "a path of the command line")
}

/// What `nvoci cdi generate` prints, for containers whose hook is the program `hook`.
///
/// # Errors
/// As of the command.
pub fn of_this_host(hook: &Program) -> Result<String> {
    let asked = Generate::default();
    Ok(emit::yaml(&build(
        &asked,
        &super::load_config(None)?,
        hook.text(),
    )?))
}

/// The program that a specification names as its hook.
///
/// One that a person names may be another machine's, and is taken as it is. Ours is written to a file only where nobody
/// else can replace it. What is printed is executed by nobody yet, and names the packages' path instead.
///
/// # Errors
/// [`Code::LooseProgram`].
fn hook_of(asked: &Generate) -> Result<String> {
    if let Some(path) = &asked.hook_path {
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
    let explicitly = asked.explicit || asked.mode.is_some();
    let name = if explicitly { "nvidia-cdi-hook" } else { "nvoci" };
    match super::installed(name) {
        Ok(program) => Ok(program.text()),
        Err(e) if e.code() != Code::NoProgram && asked.output.is_some() => {
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

/// Looks at the host and makes its specification.
fn build(asked: &Generate, config: &Config, hook_path: String) -> Result<CdiSpec> {
    let vendor = asked.vendor.as_deref().unwrap_or("nvidia.com");
    let class = asked.class.as_deref().unwrap_or("gpu");
    let kind = format!("{vendor}/{class}");
    if split_kind(&kind).is_none() {
        let why = format!(
            "`{kind}` is not vendor/class: each of letters, digits, `_`, `-`, `.`, at least two, beginning with a \
             letter and ending with a letter or digit (Docker, Podman and containerd crash on a part of one letter)"
        );
        return Err(Error::new(Code::Usage, "CDI kind", why).fix("choose another --vendor or --class"));
    }
    let locations = super::locations(config);
    let roots = Roots::open(&locations)?;
    let mut host = Host::discover(&roots, &locations)?;
    if asked.create_nodes {
        let wanted = create::Options {
            load_kmods: *config.load_kmods,
            uvm: true,
            modeset: true,
            imex_channels: Vec::new(),
        };
        for done in create::create_missing(&roots, &mut host, &wanted) {
            inject::say(&Escaped(&done.to_string()).to_string());
        }
    }
    let naming = if asked.naming.is_empty() {
        vec![Naming::Index, Naming::Uuid]
    } else {
        asked.naming.clone()
    };
    let explicitly = asked.explicit || asked.mode.is_some();
    if naming.contains(&Naming::Uuid) {
        mig::learn(&mut host, &roots);
    }
    let options = Options {
        kind,
        naming,
        all: !asked.no_all && !asked.ids.iter().any(|id| id == generate::NONE),
        hook_path,
        additional_gids: asked.additional_gids,
        ids: asked.ids.clone(),
        explicit: asked.only_explicit.clone(),
        extra: config.extra.clone(),
    };
    let by_gpu = asked.mode.is_none_or(|m| m == Mode::Gpus) && host.platform != Platform::Wsl2;
    if let Some(id) = options.unknown_id(&host).filter(|_| by_gpu) {
        return Err(Error::new(
            Code::UnknownDevice,
            format!("device {id}"),
            "this host has no such device",
        ));
    }
    let (spec, left_out) = if explicitly {
        explicit(&host, &roots, &options, asked.mode.unwrap_or(Mode::Gpus))?
    } else {
        (dynamic(&host, &roots, &options), Vec::new())
    };
    inject::warn(&host.warnings);
    inject::warn(&left_out);
    let shut = host
        .nodes
        .iter()
        .find(|n| n.present && generate::needs_group(n) && host.platform != Platform::Wsl2);
    if let (Some(node), false) = (shut, asked.additional_gids) {
        inject::warn(&[format!(
            "{} is for its group {} only, so a user of a container other than root cannot open it; \
             --additional-gids lets them, and makes the specification one of CDI 0.7.0",
            node.path.display(),
            node.gid
        )]);
    }
    validate::validate(&spec).map_err(|why| Error::new(Code::Cdi, "the specification of this host", why))?;
    Ok(spec)
}

/// Writes a specification: to a file that is there as a whole or not at all, or to standard output.
fn write(spec: &CdiSpec, format: Format, output: Option<&Path>) -> Result<()> {
    let text = match format {
        Format::Yaml => emit::yaml(spec),
        Format::Json => emit::json(spec),
    };
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
    let root = Root::open("/").context(Code::System, || "open /")?;
    let (dir, name) = split(output).context(Code::System, what)?;
    let dir = root.mkdir_all(dir, 0o755).context(Code::System, what)?;
    // Written even if it is the same: engines keep the device numbers that they found first until a file changes.
    dir.write_file_durably(name, 0o644, text.as_bytes())
        .context(Code::System, what)
}

struct Look {
    dirs: Vec<PathBuf>,
    json: bool,
}

fn look(parser: &mut lexopt::Parser) -> Result<Option<Look>> {
    let mut look = Look {
        dirs: Vec::new(),
        json: false,
    };
    while let Some(arg) = parser.next().map_err(|e| usage(&e.to_string()))? {
        match arg {
            Arg::Long("help") | Arg::Short('h') => {
                super::print(HELP)?;
                return Ok(None);
            }
            Arg::Long("spec-dir") => look.dirs.push(path(parser)?),
            Arg::Long("json") => look.json = true,
            other => return Err(unexpected(&other)),
        }
    }
    if look.dirs.is_empty() {
        look.dirs.clone_from(&Config::load()?.cdi_spec_dirs);
    }
    Ok(Some(look))
}

fn list(parser: &mut lexopt::Parser) -> Result<ExitCode> {
    let Some(look) = look(parser)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let (text, warnings) = listed(&look);
    inject::warn(&warnings);
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What `list` prints, and what it warns of.
fn listed(look: &Look) -> (String, Vec<String>) {
    let registry = Registry::load(&look.dirs, Trust::Anyone, &Budget::default());
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
    let text = if look.json {
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

fn check_all(parser: &mut lexopt::Parser) -> Result<ExitCode> {
    let Some(look) = look(parser)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let (text, bad) = checked(&look, &installed());
    super::print(&text)?;
    Ok(ExitCode::from(u8::from(bad)))
}

/// What `check` prints, and whether it found an error.
fn checked(look: &Look, engines: &[check::Engine]) -> (String, bool) {
    let findings = check::check(&look.dirs, engines, &Budget::default());
    let text = if look.json {
        let all: Vec<_> = findings
            .iter()
            .map(|f| json!({"severity": f.severity.name(), "path": f.path, "text": f.text}))
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

/// What `list` and `check` say of `dirs`, for people or as JSON.
pub(super) fn rehearse(dirs: &[PathBuf], json: bool, engines: &[check::Engine]) -> Rehearsal {
    let look = Look {
        dirs: dirs.to_vec(),
        json,
    };
    let (list, warnings) = listed(&look);
    let (check, bad) = checked(&look, engines);
    Rehearsal {
        list,
        warnings,
        check,
        bad,
    }
}

/// What `nvoci cdi list` and `nvoci cdi check` print of some directories.
#[derive(Debug)]
pub struct Rehearsal {
    /// The devices.
    pub list: String,
    /// What `list` warns of.
    pub warnings: Vec<String>,
    /// The findings.
    pub check: String,
    /// Whether a finding is an error.
    pub bad: bool,
}

/// A finding, for a terminal: the name of the file is whoever's who could make it.
fn line(f: &check::Finding) -> String {
    format!(
        "{}: {}: {}",
        f.severity.name(),
        Escaped(&f.path.display().to_string()),
        Escaped(&f.text)
    )
}

/// The engines of this machine, asked for their versions.
fn installed() -> Vec<check::Engine> {
    const LIMIT: Duration = Duration::from_secs(3);
    let mut found = Vec::new();
    for program in ["dockerd", "podman", "containerd", "crio"] {
        let Some(at) = Program::find(program) else {
            continue;
        };
        // `podman version 4.3.1`, `Docker version 28.5.2+dfsg1, build …`, `containerd github.com/… 2.1.9~ds1 …`
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

fn transform_root(parser: &mut lexopt::Parser) -> Result<ExitCode> {
    let (mut from, mut to) = (None, PathBuf::new());
    let (mut input, mut output, mut side) = (None, None, transform::Side::Host);
    let mut what = None;
    while let Some(arg) = parser.next().map_err(|e| usage(&e.to_string()))? {
        match arg {
            Arg::Long("from") => from = Some(PathBuf::from(text(parser)?)),
            Arg::Long("to") => to = PathBuf::from(text(parser)?),
            Arg::Long("input") => input = Some(text(parser)?).filter(|p| p != "-"),
            Arg::Long("output") => output = Some(path(parser)?),
            Arg::Long("relative-to") => {
                side = match text(parser)?.as_str() {
                    "host" => transform::Side::Host,
                    "container" => transform::Side::Container,
                    other => return Err(usage(&format!("`{other}` is neither host nor container"))),
                };
            }
            Arg::Value(word) if what.is_none() && word == "root" => what = Some(word),
            other => return Err(unexpected(&other)),
        }
    }
    let from = from.filter(|_| what.is_some());
    let from = from.ok_or_else(|| usage("transform takes `root` and --from"))?;
    let (mut spec, format) = match input {
        Some(file) => from_file(&file)?,
        None => from_standard_input()?,
    };
    transform::root(&mut spec, &from, &to, side);
    let format = output.as_deref().and_then(Format::of).unwrap_or(format);
    write(&spec, format, output.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

fn from_file(file: &str) -> Result<(CdiSpec, Format)> {
    let file = std::path::absolute(file).context(Code::Usage, || "--input")?;
    let spec = spec_file(&file, Trust::Anyone, &Budget::default())?
        .ok_or_else(|| Error::new(Code::Cdi, file.display().to_string(), "there is no such file"))?;
    Ok((spec, Format::of(&file).unwrap_or(Format::Yaml)))
}

fn from_standard_input() -> Result<(CdiSpec, Format)> {
    if std::io::stdin().is_terminal() {
        return Err(usage("--input, or a specification on standard input"));
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

    /// toolkit-features 12, quirk 12: `x.yml` became `x.yml.yaml`, and the name decided against `--format`.
    #[test]
    fn quirk_12_a_file_has_the_name_and_the_format_that_were_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        for (name, format, start) in [("x.yml", Format::Yaml, "---\n"), ("y.yaml", Format::Json, "{")] {
            write(&CdiSpec::default(), format, Some(&dir.path().join(name))).unwrap();
            let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(text.starts_with(start), "{text}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
