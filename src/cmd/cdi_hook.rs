//! `nvidia-cdi-hook`, and `nvidia-ctk hook`: the hooks that the vendor's CDI specifications name.
//!
//! A hook that is not known must not keep a container from starting: specifications outlive programs.

use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::vec::IntoIter;

use lexopt::Arg;

use super::cli::{Foreign, Page, argument, help};
use super::inject;
use crate::apply::cdi_hooks::{CdiHook, run as run_hook};
use crate::apply::record::Errors;
use crate::apply::{Container, Mounts};
use crate::compat::forward::DEFAULT_DIR;
use crate::config::CudaCompat;
use crate::error::{Code, Error, IoContext as _, Result};
use crate::oci::State;
use crate::sys::budget::Budget;
use crate::sys::process;

pub(super) static COMMAND: Foreign = Foreign {
    page: Page {
        name: "nvoci cdi-hook",
        summary: "run as the hooks that the vendor's CDI specifications name",
        usage: &[
            "nvoci cdi-hook [--debug] [--quiet] HOOK [OPTIONS]",
            "nvidia-cdi-hook [--debug] [--quiet] HOOK [OPTIONS]",
        ],
        about: &[
            "The hooks that CDI specifications made by the NVIDIA Container Toolkit name.",
            "A runtime calls them at createContainer, with the container's state on standard input (or in the \
             file that --container-spec names). Nothing is executed and nothing on a volume is changed. An \
             unknown hook does nothing.",
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
            argument("noop", "does nothing"),
        ],
        ..Page::EMPTY
    },
    run,
};

/// Words and links of one command line; a specification has about a hundred.
const MAX_ITEMS: usize = 4096;

/// Runs a hook.
fn run(mut args: IntoIter<OsString>) -> Result<ExitCode> {
    let name = loop {
        let word = args.next();
        match word.as_deref().and_then(OsStr::to_str) {
            Some("--debug" | "-d" | "--quiet") => {}
            Some("--help" | "-h" | "help") => {
                super::print(&help(&COMMAND))?;
                return Ok(ExitCode::SUCCESS);
            }
            Some("--version" | "-v") => {
                super::print(concat!(
                    "NVIDIA CDI Hook version ",
                    env!("CARGO_PKG_VERSION"),
                    "\n"
                ))?;
                return Ok(ExitCode::SUCCESS);
            }
            Some(name) => break name.to_owned(),
            None => {
                inject::warn(&["no CDI hook was named, and nothing is done".to_owned()]);
                return Ok(ExitCode::SUCCESS);
            }
        }
    };
    let Some(mut hook) = by_name(&name) else {
        if name != "noop" {
            inject::warn(&[format!("there is no CDI hook `{name}` here, and nothing is done")]);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let mut parser = lexopt::Parser::from_args(args);
    let state_file = match options(&mut parser, &mut hook)? {
        Input::Help => {
            super::print(&help(&COMMAND))?;
            return Ok(ExitCode::SUCCESS);
        }
        Input::Standard => None,
        Input::File(path) => Some(path),
    };
    if does_nothing(&hook) {
        return Ok(ExitCode::SUCCESS);
    }
    process::isolate().context(Code::System, || "cutting off what was inherited")?;
    if matches!(hook, CdiHook::EnableCudaCompat { .. })
        && *super::load_config(None)?.cuda_compat == CudaCompat::Off
    {
        return Ok(ExitCode::SUCCESS);
    }
    let state = match state_file {
        None => State::read(std::io::stdin().lock().by_ref())?,
        Some(path) => {
            let file = std::fs::File::open(&path).context(Code::State, || path.display().to_string())?;
            State::read(file)?
        }
    };
    let errors = Errors::open();
    let result = in_container(&hook, &state);
    if let (Err(error), Ok(errors)) = (&result, &errors) {
        // The refusal itself is what counts; that it could not be kept as well changes nothing.
        let _ = errors.keep(&state.id, error);
    }
    inject::warn(&result?);
    Ok(ExitCode::SUCCESS)
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

/// Where the container's state comes from.
enum Input {
    /// Standard input.
    Standard,
    /// This file.
    File(PathBuf),
    /// Nowhere: help was asked for.
    Help,
}

/// Reads a hook's options.
fn options(parser: &mut lexopt::Parser, hook: &mut CdiHook) -> Result<Input> {
    let mut state = Input::Standard;
    let mut count = 0;
    while let Some(arg) = parser.next().map_err(|e| usage(&e.to_string()))? {
        count += 1;
        if count > MAX_ITEMS {
            return Err(usage("there are too many options"));
        }
        let name = match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(Input::Help),
            Arg::Long(name) => name.to_owned(),
            other => return Err(usage(&other.unexpected().to_string())),
        };
        let value = parser.value().map_err(|e| usage(&e.to_string()))?;
        let text = value
            .to_str()
            .ok_or_else(|| usage("an option is not UTF-8 text"))?;
        match (name.as_str(), &mut *hook) {
            ("container-spec", _) => {
                state = match text {
                    "" | "-" => Input::Standard,
                    path => Input::File(PathBuf::from(path)),
                };
            }
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
            _ => return Err(usage(&format!("--{name} is not an option of this hook"))),
        }
    }
    if matches!(hook, CdiHook::Chmod { mode: 0, .. }) {
        return Err(usage("chmod needs --mode"));
    }
    Ok(state)
}

fn link(text: &str) -> Result<(PathBuf, PathBuf)> {
    let mut parts = text.split("::");
    match (parts.next(), parts.next(), parts.next()) {
        (Some(target), Some(at), None) if !target.is_empty() => Ok((PathBuf::from(target), absolute(at)?)),
        _ => Err(usage(&format!("`{text}` is not TARGET::LINK"))),
    }
}

/// A path of the container; it is walked from the container's root, so a relative one means the same.
fn absolute(text: &str) -> Result<PathBuf> {
    if text.is_empty() {
        return Err(usage("a path is empty"));
    }
    Ok(PathBuf::from("/").join(text))
}

/// What needs no container to be looked at.
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
        options(&mut lexopt::Parser::from_args(words), &mut hook).map(|_| hook)
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

    /// toolkit-features 12, quirk 5: there, a path with a comma became two.
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
    fn hooks_that_nobody_knows_are_harmless() {
        let run = |words: &[&str]| run(words.iter().map(OsString::from).collect::<Vec<_>>().into_iter());
        for words in [
            &["noop"][..],
            &[],
            &["--quiet"],
            &["brand-new", "--flag", "x"],
            &["create-symlinks"],
        ] {
            assert_eq!(run(words).unwrap(), ExitCode::SUCCESS, "{words:?}");
        }
    }
}
