//! `nvidia-cdi-hook`, and `nvidia-ctk hook`: the hooks that the vendor's CDI specifications name.
//!
//! An unknown hook must not keep a container from starting, since a specification may be newer than
//! nvoci.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::vec::IntoIter;

use lexopt::{Arg, Parser};

use super::cli::{Foreign, Page, argument, help, switched};
use super::inject;
use crate::apply::cdi_hooks::{CdiHook, run as run_hook};
use crate::apply::record::Errors;
use crate::apply::{Container, Mounts};
use crate::compat::forward::DEFAULT_DIR;
use crate::config::{Choice, Config, CudaCompat};
use crate::error::{Code, Error, IoContext as _, Result};
use crate::oci::State;
use crate::request::{self, EntryPoint};
use crate::sys::budget::Budget;
use crate::sys::process;
use crate::sys::root::Root;

pub(super) static COMMAND: Foreign = Foreign {
    page: Page {
        name: "nvoci cdi-hook",
        summary: "run as the hooks that the vendor's CDI specifications name",
        usage: &[
            "nvoci cdi-hook [--debug[=BOOL]] [--quiet[=BOOL]] HOOK [OPTIONS]",
            "nvidia-cdi-hook [--debug[=BOOL]] [--quiet[=BOOL]] HOOK [OPTIONS]",
        ],
        about: &[
            "The hooks that CDI specifications made by the NVIDIA Container Toolkit name.",
            "A runtime calls them at createContainer, with the container's state on standard input (or in the \
             file that --container-spec names). Nothing is executed and nothing on a volume is changed.",
            "An unknown hook does nothing, with a warning: a specification may be newer than nvoci. An unknown option \
             of a known hook is an error. --debug and --quiet have no effect, and may stand after the hook too.",
        ],
        arguments: &[
            argument("create-symlinks", "--link TARGET::LINK..."),
            argument("update-ldcache", "[--folder DIR]..."),
            argument(
                "enable-cuda-compat",
                "[--host-driver-version V] [--host-cuda-version V] [--cuda-compat-container-root DIR]",
            ),
            argument(
                "disable-device-node-modification",
                "keeps the driver from making device nodes",
            ),
            argument(
                "update-application-profile",
                "names the container's GPUs in the driver's profile",
            ),
            argument("chmod", "--mode OCTAL [--path PATH]..."),
            argument(
                "apply-cuda-memory-limits",
                "[--gpu-id UUID]... warns of a limit, which nvoci does not set",
            ),
            argument("noop", "does nothing"),
        ],
        ..Page::EMPTY
    },
    run: |args| Ok(run(args)?),
};

/// The most words and links of one command line; a specification has about a hundred.
const MAX_ITEMS: usize = 4096;

/// Runs a hook.
fn run(args: IntoIter<OsString>) -> Result<ExitCode> {
    let mut parser = Parser::from_args(args);
    let shown = |text: &str| super::print(text).map(|()| ExitCode::SUCCESS);
    let name = match start(&mut parser)? {
        Start::Help => return shown(&help(&COMMAND)),
        Start::Name(name) => name,
        Start::Nothing => {
            inject::warn(&["no CDI hook was named, and nothing is done".to_owned()]);
            return Ok(ExitCode::SUCCESS);
        }
        Start::Version => {
            return shown(concat!(
                "NVIDIA CDI Hook version ",
                super::toolkit_version!(),
                "\ncommit: nvoci-",
                env!("CARGO_PKG_VERSION"),
                "\n"
            ));
        }
    };
    if name == MEMORY_LIMITS {
        return warn_of_memory_limits(&mut parser);
    }
    let Some(mut hook) = by_name(&name) else {
        if name != "noop" {
            inject::warn(&[format!("there is no CDI hook `{name}` here, and nothing is done")]);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let input = options(&mut parser, &mut hook)?;
    if input == Input::Help {
        return shown(&help(&COMMAND));
    }
    if does_nothing(&hook) {
        return Ok(ExitCode::SUCCESS);
    }
    process::isolate().context(Code::System, || "cutting off what was inherited")?;
    let state = read_state(&input)?;
    if matches!(hook, CdiHook::EnableCudaCompat { .. }) && compat_is_off(&state)? {
        return Ok(ExitCode::SUCCESS);
    }
    let errors = Errors::open();
    let result = in_container(&hook, &state);
    if let (Err(error), Ok(errors)) = (&result, &errors) {
        // The error itself is reported; a failure to record it changes nothing.
        let _ = errors.keep(&state.id, error);
    }
    inject::warn(&result?);
    Ok(ExitCode::SUCCESS)
}

/// Whether the host or the container turns the compatibility libraries off. A bundle that the hook
/// may not read has no setting of its own.
fn compat_is_off(state: &State) -> Result<bool> {
    let config = super::load_config(None)?;
    let Ok((_, spec)) = inject::open_bundle(&state.bundle, None, &config, &Budget::default()) else {
        return Ok(*config.cuda_compat == CudaCompat::Off);
    };
    let mut notes = Vec::new();
    let key = Choice::CudaCompat(CudaCompat::Off).key();
    let chosen = inject::with_inputs(&spec, EntryPoint::Cdi, |inputs| {
        request::settings_of(inputs, &config, key, &mut notes)
    });
    let mut compat = *config.cuda_compat;
    for one in &chosen {
        match one.choice() {
            Choice::CudaCompat(value) => compat = value,
            _ => notes.push(format!(
                "{} has no effect: the container's CDI specification names each file and device",
                one.name()
            )),
        }
    }
    inject::warn(&notes);
    Ok(compat == CudaCompat::Off)
}

/// The vendor's hook that limits a container's GPU memory, in toolkits from 1.20.1 on. nvoci sets
/// no limit, so the container starts with a warning if it has one.
const MEMORY_LIMITS: &str = "apply-cuda-memory-limits";

fn warn_of_memory_limits(parser: &mut Parser) -> Result<ExitCode> {
    let input = options_of(parser, &mut |name, value| match name {
        "gpu-id" if value.trim().is_empty() => Err(usage("--gpu-id is empty")),
        "driver-root" | "gpu-id" => Ok(true),
        _ => Ok(false),
    })?;
    if input == Input::Help {
        super::print(&help(&COMMAND))?;
        return Ok(ExitCode::SUCCESS);
    }
    process::isolate().context(Code::System, || "cutting off what was inherited")?;
    let notes = read_state(&input).and_then(|state| {
        let config = Config::default();
        let (_, spec) = inject::open_bundle(&state.bundle, None, &config, &Budget::default())?;
        Ok(inject::with_inputs(
            &spec,
            EntryPoint::Cdi,
            request::memory_limits,
        ))
    });
    inject::warn(&notes.unwrap_or_else(|e| vec![format!("{MEMORY_LIMITS}: no limit was read: {e}")]));
    Ok(ExitCode::SUCCESS)
}

fn read_state(input: &Input) -> Result<State> {
    match input {
        Input::File(path) => State::read_from(
            open_state(path)?,
            &format!("container state in {}", path.display()),
        ),
        Input::Help | Input::Standard => State::read(std::io::stdin().lock().by_ref()),
    }
}

/// Opens a state file. A FIFO is refused: the open of one waits for a writer, and the container
/// waits with it.
fn open_state(path: &Path) -> Result<std::fs::File> {
    let shown = || path.display().to_string();
    let path = std::path::absolute(path).context(Code::State, shown)?;
    let root = Root::open("/").context(Code::State, shown)?;
    let node = root.resolve(path).context(Code::State, shown)?;
    if !node.is_file() {
        let why = "the state is not a regular file";
        return Err(Error::new(Code::State, shown(), why).fix("name a file, or `-` for standard input"));
    }
    node.open_read().context(Code::State, shown)
}

fn in_container(hook: &CdiHook, state: &State) -> Result<Vec<String>> {
    let budget = Budget::default();
    let (rootfs, spec) = super::hook::bundle::rootfs(state, &budget)?;
    super::hook::inside_a_container()?;
    process::drop_capabilities();
    let image = hook.read(&rootfs)?;
    process::confine();
    let mounts = Mounts {
        tmpfs: &super::hook::tmpfs_destinations(&spec),
        by_runtime: true,
        host: None,
    };
    let container = Container::open(&rootfs, mounts)?;
    run_hook(hook, &container, image, &budget)
}

/// The words before a hook's options.
enum Start {
    Help,
    /// A hook's name, or a word in the place of one.
    Name(String),
    Nothing,
    Version,
}

/// Parses the words before a hook's options.
///
/// A specification may be of a newer toolkit, so an unknown option before an unknown hook is no
/// error. Before a hook of [`by_name`] it is an error: without the hook the container would start
/// without its libraries.
fn start(parser: &mut Parser) -> Result<Start> {
    let mut unknown = None;
    let name = loop {
        let arg = parser.next().map_err(|e| usage(&e.to_string()))?;
        let option = match arg {
            None => break None,
            Some(Arg::Value(word)) => break Some(word.to_string_lossy().into_owned()),
            Some(Arg::Long("help") | Arg::Short('h')) => return Ok(Start::Help),
            Some(Arg::Long("version") | Arg::Short('v')) => return Ok(Start::Version),
            Some(Arg::Long(name)) => format!("--{name}"),
            Some(Arg::Short(short)) => format!("-{short}"),
        };
        if is_global(&option) {
            switch(&option, parser)?;
        } else {
            parser.optional_value();
            unknown.get_or_insert(option);
        }
    };
    if let Some(option) = unknown {
        // The word in the place of the name may be the option's value.
        let after = parser.raw_args().map_err(|e| usage(&e.to_string()))?;
        let after = after.map(|word| word.to_string_lossy().into_owned());
        if name
            .iter()
            .cloned()
            .chain(after)
            .any(|word| word == MEMORY_LIMITS || by_name(&word).is_some())
        {
            return Err(usage(&format!("there is no option `{option}`")));
        }
    }
    Ok(match name.as_deref() {
        None => Start::Nothing,
        Some("help") => Start::Help,
        Some(name) => Start::Name(name.to_owned()),
    })
}

/// Options before or after a hook's name. They set the log level of the vendor's program.
fn is_global(option: &str) -> bool {
    ["--debug", "-d", "--quiet"].contains(&option)
}

/// Reads the value of a switch: none, `=true`, or the word `true`, which is no hook.
fn switch(option: &str, parser: &mut Parser) -> Result<()> {
    let mut value = parser.optional_value();
    if value.is_none()
        && let Some(mut words) = parser.try_raw_args()
    {
        value = words.next_if(|word| word == "true" || word == "false");
    }
    if let Some(value) = value {
        switched(&value.to_string_lossy()).map_err(|why| usage(&format!("{option}: {why}")))?;
    }
    Ok(())
}

fn by_name(name: &str) -> Option<CdiHook> {
    Some(match name {
        "create-symlinks" => CdiHook::CreateSymlinks(Vec::new()),
        "update-ldcache" => CdiHook::UpdateLdcache(Vec::new()),
        "chmod" => CdiHook::Chmod {
            mode: 0,
            paths: Vec::new(),
        },
        "enable-cuda-compat" => CdiHook::EnableCudaCompat {
            driver: None,
            cuda: None,
            dir: PathBuf::from(DEFAULT_DIR),
        },
        "disable-device-node-modification" => CdiHook::DisableDeviceNodeModification,
        "update-application-profile" => CdiHook::UpdateApplicationProfile,
        _ => return None,
    })
}

/// The source of the container's state.
#[derive(Debug, Eq, PartialEq)]
enum Input {
    /// Standard input.
    Standard,
    /// This file.
    File(PathBuf),
    /// None, since the command prints help.
    Help,
}

/// Reads a hook's options.
fn options(parser: &mut Parser, hook: &mut CdiHook) -> Result<Input> {
    let input = options_of(parser, &mut |name, value| set_option(hook, name, value))?;
    if matches!(hook, CdiHook::Chmod { mode: 0, .. }) && input != Input::Help {
        return Err(usage("chmod needs --mode"));
    }
    Ok(input)
}

/// Reads the options that every hook has. `set` gets each other one with its value, and returns
/// whether the hook has it.
fn options_of(parser: &mut Parser, set: &mut dyn FnMut(&str, &str) -> Result<bool>) -> Result<Input> {
    let mut state = Input::Standard;
    let mut count = 0;
    while let Some(arg) = parser.next().map_err(|e| usage(&e.to_string()))? {
        count += 1;
        if count > MAX_ITEMS {
            return Err(usage("there are too many options"));
        }
        let name = match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(Input::Help),
            Arg::Short('d') => {
                switch("-d", parser)?;
                continue;
            }
            Arg::Long(name) => name.to_owned(),
            other => return Err(usage(&other.unexpected().to_string())),
        };
        if is_global(&format!("--{name}")) {
            switch(&format!("--{name}"), parser)?;
            continue;
        }
        let value = parser.value().map_err(|e| usage(&e.to_string()))?;
        let text = value
            .to_str()
            .ok_or_else(|| usage("an option is not UTF-8 text"))?;
        if name == "container-spec" {
            state = match text {
                "" | "-" | "/dev/fd/0" | "/dev/stdin" | "/proc/self/fd/0" => Input::Standard,
                path => Input::File(PathBuf::from(path)),
            };
        } else if !set(&name, text)? {
            return Err(usage(&format!("--{name} is not an option of this hook")));
        }
    }
    Ok(state)
}

/// Sets one option of a hook. `false` if the hook does not have it.
fn set_option(hook: &mut CdiHook, name: &str, text: &str) -> Result<bool> {
    match (name, hook) {
        ("link", CdiHook::CreateSymlinks(links)) => links.push(link(text)?),
        ("folder", CdiHook::UpdateLdcache(dirs)) => dirs.push(absolute(text)?),
        // Nothing is executed, so it does not matter where it would be.
        ("ldconfig-path", CdiHook::UpdateLdcache(_)) => {}
        ("mode", CdiHook::Chmod { mode, .. }) => {
            *mode = u32::from_str_radix(text, 8)
                .ok()
                .filter(|m| *m <= 0o1777)
                .ok_or_else(|| usage(&format!("`{text}` is not a mode")))?;
        }
        ("path", CdiHook::Chmod { paths, .. }) => paths.push(absolute(text)?),
        ("host-driver-version", CdiHook::EnableCudaCompat { driver, .. }) => {
            *driver = Some(text.to_owned()).filter(|t| !t.is_empty());
        }
        ("host-cuda-version", CdiHook::EnableCudaCompat { cuda, .. }) => {
            *cuda = Some(text.to_owned()).filter(|t| !t.is_empty());
        }
        ("cuda-compat-container-root", CdiHook::EnableCudaCompat { dir, .. }) => *dir = absolute(text)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn link(text: &str) -> Result<(PathBuf, PathBuf)> {
    let mut parts = text.split("::");
    match (parts.next(), parts.next(), parts.next()) {
        (Some(target), Some(at), None) if !target.is_empty() => Ok((PathBuf::from(target), absolute(at)?)),
        _ => Err(usage(&format!("`{text}` is not TARGET::LINK"))),
    }
}

/// A path of the container. It is resolved from the container's root, so a relative path means the
/// same.
fn absolute(text: &str) -> Result<PathBuf> {
    if text.is_empty() {
        return Err(usage("a path is empty"));
    }
    Ok(PathBuf::from("/").join(text))
}

/// Whether the hook has nothing to do in any container.
fn does_nothing(hook: &CdiHook) -> bool {
    match hook {
        CdiHook::CreateSymlinks(links) => links.is_empty(),
        CdiHook::Chmod { paths, .. } => paths.is_empty(),
        CdiHook::EnableCudaCompat { driver, cuda, .. } => driver.is_none() && cuda.is_none(),
        _ => false,
    }
}

fn usage(why: &str) -> Error {
    Error::new(Code::Usage, "nvidia-cdi-hook", why).fix("see `nvidia-cdi-hook --help`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, words: &[&str]) -> Result<CdiHook> {
        let mut hook = by_name(name).unwrap();
        options(&mut Parser::from_args(words), &mut hook).map(|_| hook)
    }

    #[test]
    fn the_vendors_command_lines_are_understood() {
        let link = |t: &str, l: &str| (PathBuf::from(t), PathBuf::from(l));
        assert_eq!(
            parse(
                "create-symlinks",
                &["--link", "libcuda.so.1::/usr/lib/libcuda.so", "--link=a::b"]
            )
            .unwrap(),
            CdiHook::CreateSymlinks(vec![link("libcuda.so.1", "/usr/lib/libcuda.so"), link("a", "/b")])
        );
        assert_eq!(
            parse(
                "update-ldcache",
                &["--ldconfig-path", "/sbin/ldconfig", "--folder", "/x"]
            )
            .unwrap(),
            CdiHook::UpdateLdcache(vec!["/x".into()])
        );
        assert!(matches!(
            parse("chmod", &["--mode", "755", "--path", "/dev/dri"]).unwrap(),
            CdiHook::Chmod { mode: 0o755, .. }
        ));
        for bad in [
            &["--link", "a"][..],
            &["--link", "a::b::c"],
            &["--folder", "/x"],
            &["word"],
        ] {
            assert!(parse("create-symlinks", bad).is_err(), "{bad:?}");
        }
        assert!(parse("chmod", &["--path", "/dev"]).is_err());
        assert!(parse("chmod", &["--mode", "6755"]).is_err());
    }

    /// toolkit-features 12, quirk 5: the vendor's hook splits a path with a comma.
    #[test]
    fn quirk_05_a_comma_is_part_of_a_path() {
        assert_eq!(
            parse("create-symlinks", &["--link", "a,b::/c,d"]).unwrap(),
            CdiHook::CreateSymlinks(vec![("a,b".into(), "/c,d".into())])
        );
        assert_eq!(
            parse("update-ldcache", &["--folder", "/x,y"]).unwrap(),
            CdiHook::UpdateLdcache(vec!["/x,y".into()])
        );
    }

    #[test]
    fn unknown_hooks_are_harmless() {
        let run = |words: &[&str]| run(words.iter().map(OsString::from).collect::<Vec<_>>().into_iter());
        for words in [
            &["noop"][..],
            &[],
            &["--quiet"],
            &["brand-new", "--flag", "x"],
            &["create-symlinks"],
            &["--new", "brand-new", "--flag"],
            &["--new=x"],
        ] {
            assert_eq!(run(words).unwrap(), ExitCode::SUCCESS, "{words:?}");
        }
    }

    fn started(words: &[&str]) -> Option<String> {
        match start(&mut Parser::from_args(words)).ok()? {
            Start::Name(name) => Some(name),
            _ => None,
        }
    }

    #[test]
    fn a_global_option_is_not_a_hooks_name() {
        for words in [
            &["--debug=true", "update-ldcache"][..],
            &["--debug", "true", "update-ldcache"],
            &["--debug", "update-ldcache"],
            &["-d", "--quiet=false", "update-ldcache"],
            &["-d=1", "--quiet", "false", "update-ldcache", "--unknown"],
        ] {
            assert_eq!(started(words).as_deref(), Some("update-ldcache"), "{words:?}");
        }
        for words in [
            &["--debug=true"][..],
            &["--quiet=false"],
            &["-d"],
            &["--debug", "false"],
            &["--debug"],
        ] {
            let all: Vec<&str> = words.iter().chain(&["--folder", "/x"]).copied().collect();
            assert!(parse("update-ldcache", &all).is_ok(), "{all:?}");
            let all: Vec<&str> = ["--folder=/x"].iter().chain(words).copied().collect();
            assert!(parse("update-ldcache", &all).is_ok(), "{all:?}");
        }
    }

    #[test]
    fn an_unknown_option_of_a_known_hook_is_an_error() {
        for words in [
            &["--foo", "update-ldcache"][..],
            &["--foo=1", "update-ldcache"],
            &["--foo", "value", "update-ldcache", "--folder", "/x"],
            &["-x", "chmod"],
            &["--debug=maybe", "update-ldcache"],
        ] {
            assert!(start(&mut Parser::from_args(words)).is_err(), "{words:?}");
        }
        assert!(parse("update-ldcache", &["--foo", "/x"]).is_err());
        assert!(parse("update-ldcache", &["--debug=2"]).is_err());
    }
}
