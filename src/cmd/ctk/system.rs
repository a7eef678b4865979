//! `nvidia-ctk system`: the driver's device nodes, and the links by which systemd finds them.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cmd::cli::{Command, Flag, Group, Page, flag};
use crate::cmd::inject::warn;
use crate::cmd::{load_config, locations, print};
use crate::error::{Code, Error, Result};
use crate::host::create::{Done, Options, create_missing};
use crate::host::{Host, NodeKind, Roots};

pub(super) static COMMAND: Command<()> = Command {
    page: Page {
        name: "nvidia-ctk system",
        summary: "make the driver's device nodes and the links to them",
        ..Page::EMPTY
    },
    commands: &[Group {
        heading: "Commands",
        commands: &[&NODES, &LINKS],
    }],
    ..Command::of(|()| super::show_help(&COMMAND))
};

static NODES: Command<Asked> = Command {
    page: Page {
        name: "nvidia-ctk system create-device-nodes",
        summary: "make the nodes and the links",
        about: ABOUT,
        ..Page::EMPTY
    },
    flags: FLAGS,
    ..Command::of(run)
};

static LINKS: Command<Asked> = Command {
    page: Page {
        name: "nvidia-ctk system create-dev-char-symlinks",
        summary: "the same",
        about: ABOUT,
        ..Page::EMPTY
    },
    flags: FLAGS,
    ..Command::of(run)
};

const ABOUT: &[&str] = &[
    "Loads what is missing of the driver's modules, makes the device nodes that the driver knows \
     and /dev lacks, with the owner and mode that the driver wants, and the links below /dev/char. Existing nodes and \
     links stay.",
];

const FLAGS: &[Flag<Asked>] = &[
    flag("driver-root", "the driver's root directory (default /)")
        .aliases(&["root"])
        .path("DIR", |o: &mut Asked, dir| o.driver_root = Some(dir)),
    flag(
        "dev-root",
        "the root directory of the nodes (default: the driver's)",
    )
    .path("DIR", |o: &mut Asked, dir| o.dev_root = Some(dir)),
    flag("dry-run", "print what is missing and make nothing").switch(|o: &mut Asked| o.dry_run = true),
    flag("control-devices", "accepted: it is always done").switch(|_| {}),
    flag("load-kernel-modules", "accepted: it is always done").switch(|_| {}),
    flag("create-all", "accepted: it is always done").switch(|_| {}),
    flag("create-device-nodes", "accepted: it is always done").switch(|_| {}),
];

#[derive(Default)]
struct Asked {
    driver_root: Option<PathBuf>,
    dev_root: Option<PathBuf>,
    dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// [`Code::NoDriver`] where no module is loaded; [`Code::DeviceNode`] when something could not be made.
fn run(asked: Asked) -> Result<ExitCode> {
    let mut config = load_config(None)?;
    if let Some(root) = asked.driver_root {
        config.driver_root.value = root;
    }
    if asked.dev_root.is_some() {
        config.dev_root.value = asked.dev_root;
    }
    let locations = locations(&config);
    let roots = Roots::open(&locations)?;
    let mut host = Host::discover(&roots, &locations)?;
    let mut out = String::new();
    if asked.dry_run {
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
