//! `nvidia-ctk system`: the driver's device nodes, and the links by which systemd finds them.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::{Arg, Parser};

use super::usage;
use crate::door::inject::warn;
use crate::door::{load_config, locations, print};
use crate::error::{Code, Error, Result};
use crate::host::create::{Done, Options, create_missing};
use crate::host::{Host, NodeKind, Roots};

const HELP: &str = "\
Usage: nvidia-ctk system create-device-nodes [--control-devices] [--load-kernel-modules] [OPTIONS]
       nvidia-ctk system create-dev-char-symlinks [--create-all] [OPTIONS]

Loads what is missing of the driver's modules, makes the device nodes that the driver knows and /dev lacks, with the owner
and mode that the driver wants, and the links below /dev/char. What is there stays.

  --driver-root=DIR, --root=DIR   (/)
  --dev-root=DIR                  (the driver root)
  --dry-run                       say what is missing and make nothing

Accepted, since it is always done: --control-devices --load-kernel-modules --create-all --create-device-nodes.
";

/// Runs the command.
///
/// # Errors
/// [`Code::Usage`]; [`Code::NoDriver`] where no module is loaded; [`Code::DeviceNode`] when something could not be made.
pub(super) fn run(mut args: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    match args.next().as_deref().and_then(OsStr::to_str) {
        Some("create-device-nodes" | "create-dev-char-symlinks") => {}
        Some("--help" | "-h") | None => {
            print(HELP)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(other) => return Err(usage(format!("`system` has no command `{other}`"))),
    }
    let mut config = load_config(None)?;
    let mut dry_run = false;
    let mut parser = Parser::from_args(args);
    let bad = |e: lexopt::Error| usage(e.to_string());
    while let Some(arg) = parser.next().map_err(bad)? {
        match arg {
            Arg::Long("help") | Arg::Short('h') => {
                print(HELP)?;
                return Ok(ExitCode::SUCCESS);
            }
            Arg::Long("dry-run") => dry_run = true,
            Arg::Long("driver-root" | "root") => {
                config.driver_root.value = parser.value().map_err(bad)?.into();
            }
            Arg::Long("dev-root") => {
                config.dev_root.value = Some(PathBuf::from(parser.value().map_err(bad)?));
            }
            Arg::Long("control-devices" | "load-kernel-modules" | "create-all" | "create-device-nodes") => {}
            other => return Err(bad(other.unexpected())),
        }
    }
    let locations = locations(&config);
    let roots = Roots::open(&locations)?;
    let mut host = Host::discover(&roots, &locations)?;
    let mut out = String::new();
    if dry_run {
        for node in host.nodes.iter().filter(|n| !n.present) {
            out += &format!(
                "would make {} c {} mode {:04o}\n",
                node.path.display(),
                node.number,
                node.mode
            );
        }
        print(&out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let everything = Options {
        load_kmods: true,
        uvm: true,
        modeset: true,
        imex_channels: Vec::new(),
    };
    let done = create_missing(&roots, &mut host, &everything);
    let (failed, made): (Vec<&Done>, Vec<&Done>) = done.iter().partition(|d| matches!(d, Done::Failed(_)));
    for what in made {
        out += &format!("{what}\n");
    }
    print(&out)?;
    if host.kernel.is_none() {
        return Err(Error::new(
            Code::NoDriver,
            "NVIDIA driver",
            "no kernel module is loaded",
        ));
    }
    for why in &failed {
        warn(&[why.to_string()]);
    }
    // A machine without a display has no nvidia-modeset.
    let missing = host
        .nodes
        .iter()
        .find(|n| !n.present && n.kind != NodeKind::Modeset);
    match missing {
        Some(node) => Err(Error::new(
            Code::DeviceNode,
            node.path.display().to_string(),
            "it could not be made",
        )),
        None => Ok(ExitCode::SUCCESS),
    }
}
