//! `nvidia-ctk system`: the driver's device nodes, and the links by which systemd finds them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cmd::cli::{Command, Flag, Group, Page, flag};
use crate::cmd::inject::warn;
use crate::cmd::{load_config, locations, print, variables};
use crate::error::{Code, Error, IoContext as _, Result};
use crate::host::create::{self, Done, Steps};
use crate::host::{Host, Locations, NodeKind, Roots};
use crate::sys::owned;
use crate::sys::root::Root;

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

static NODES: Command<Options> = Command {
    page: Page {
        name: "nvidia-ctk system create-device-nodes",
        summary: "make the nodes and the links",
        about: ABOUT,
        ..Page::EMPTY
    },
    flags: &[
        DRIVER_ROOT,
        DEV_ROOT,
        DRY_RUN,
        LOAD,
        flag("control-devices", "accepted: all nodes are made").toggle(|_, _| {}),
    ],
    variables: variables::of,
    ..Command::of(|options| run(&options))
};

static LINKS: Command<Options> = Command {
    page: Page {
        name: "nvidia-ctk system create-dev-char-symlinks",
        summary: "make the links of /dev/char, and the nodes that they lead to",
        about: ABOUT,
        ..Page::EMPTY
    },
    flags: &[
        DRIVER_ROOT,
        DEV_ROOT,
        DRY_RUN,
        LOAD,
        flag("dev-char-path", "make the links in DIR instead of /dev/char")
            .more("They lead to /dev/nvidia0 and so on, whatever the root directories are.")
            .variable("DEV_CHAR_PATH")
            .path("DIR", |o, dir| o.links = Some(dir)),
        flag("create-device-nodes", "`=false`: make links alone")
            .variable("CREATE_DEVICE_NODES")
            .toggle(|o, on| o.no_nodes = !on),
        flag("create-all", "accepted: every node of the driver gets its link")
            .variable("CREATE_ALL")
            .toggle(|_, _| {}),
    ],
    variables: variables::of,
    ..Command::of(|options| run(&options))
};

const ABOUT: &[&str] = &[
    "Loads the driver's missing modules. Makes the driver's device nodes that /dev lacks, with the owner and mode \
     that the driver wants, and the links below /dev/char. Existing nodes and links stay.",
];

const DRIVER_ROOT: Flag<Options> = flag("driver-root", "the driver's root directory (default /)")
    .aliases(&["root"])
    .variable("NVIDIA_DRIVER_ROOT")
    .path("DIR", |o, dir| o.driver_root = Some(dir));

const DEV_ROOT: Flag<Options> = flag(
    "dev-root",
    "the root directory of the nodes (default: the driver's)",
)
.variable("NVIDIA_DEV_ROOT")
.path("DIR", |o, dir| o.dev_root = Some(dir));

const DRY_RUN: Flag<Options> = flag("dry-run", "print what is missing and make nothing")
    .variable("DRY_RUN")
    .toggle(|o, on| o.dry_run = on);

const LOAD: Flag<Options> = flag("load-kernel-modules", "`=false`: load no kernel module")
    .variable("LOAD_KERNEL_MODULES")
    .toggle(|o, on| o.no_modules = !on);

#[derive(Default)]
struct Options {
    driver_root: Option<PathBuf>,
    dev_root: Option<PathBuf>,
    /// The directory of the links in place of `/dev/char`.
    links: Option<PathBuf>,
    dry_run: bool,
    no_modules: bool,
    no_nodes: bool,
}

/// Runs the command.
///
/// # Errors
/// [`Code::NoDriver`] if no module is loaded; [`Code::DeviceNode`] if a node or link could not be
/// made.
fn run(options: &Options) -> Result<ExitCode> {
    let mut config = load_config(None)?;
    if let Some(root) = &options.driver_root {
        config.driver_root.value.clone_from(root);
    }
    if options.dev_root.is_some() {
        config.dev_root.value.clone_from(&options.dev_root);
    }
    let locations = locations(&config);
    if !options.dry_run && (options.driver_root.is_some() || options.dev_root.is_some()) {
        prove_dev(&Roots::open(&locations)?)?;
    }
    print(&work(options, &locations)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses a directory in which a user other than root could move the nodes to another place.
fn prove_dev(roots: &Roots) -> Result<()> {
    owned::find_lasting(&roots.dev_path).map(drop)
}

/// Makes the nodes and links, or lists them with `--dry-run`. Returns a line for each.
fn work(options: &Options, locations: &Locations) -> Result<String> {
    let roots = Roots::open(locations)?;
    let mut host = Host::discover(&roots, locations)?;
    if options.dry_run {
        return Ok(list_missing(options, &host));
    }
    let mut out = make_nodes(options, &roots, &mut host)?;
    if let Some(dir) = &options.links {
        out += &make_links(dir, &host)?;
    }
    if !options.no_nodes {
        check_nodes(&host)?;
    }
    Ok(out)
}

/// The nodes and links that the command would make.
fn list_missing(options: &Options, host: &Host) -> String {
    let nodes = host.nodes.iter().filter(|n| !n.present && !options.no_nodes);
    let nodes = nodes.map(|n| {
        format!(
            "would make {} c {} mode {:04o}\n",
            n.path.display(),
            n.number,
            n.mode
        )
    });
    let mut out: String = nodes.collect();
    if let Some(dir) = &options.links {
        for (name, target) in links(host) {
            out += &format!("would link {} -> {target}\n", dir.join(name).display());
        }
    }
    out
}

/// Loads the missing modules, and makes the missing nodes and their usual links. Prints a warning
/// for each failed step.
///
/// # Errors
/// [`Code::NoDriver`] if no module is loaded afterwards.
fn make_nodes(options: &Options, roots: &Roots, host: &mut Host) -> Result<String> {
    let wanted = create::Options {
        load_kmods: true,
        uvm: true,
        modeset: true,
        imex_channels: Vec::new(),
    };
    let steps = Steps {
        modules: !options.no_modules,
        nodes: !options.no_nodes,
        links: options.links.is_none(),
    };
    let mut out = String::new();
    let mut failed = Vec::new();
    for done in create::create(roots, host, &wanted, steps) {
        match done {
            Done::Failed(why) => failed.push(why),
            made => out += &format!("{made}\n"),
        }
    }
    if host.kernel.is_none() {
        let why = "no kernel module is loaded";
        return Err(Error::new(Code::NoDriver, "NVIDIA driver", why));
    }
    for why in failed {
        warn(&[why]);
    }
    Ok(out)
}

/// Checks that no node of the driver is missing, except nvidia-modeset, which a machine without a
/// display lacks.
fn check_nodes(host: &Host) -> Result<()> {
    let mut missing = host.nodes.iter().filter(|n| !n.present);
    match missing.find(|n| n.kind != NodeKind::Modeset) {
        None => Ok(()),
        Some(node) => {
            let what = node.path.display().to_string();
            Err(Error::new(Code::DeviceNode, what, "it could not be made"))
        }
    }
}

/// The names and targets of the links: `195:0`, `/dev/nvidia0`.
fn links(host: &Host) -> impl Iterator<Item = (String, String)> {
    let nodes = host.nodes.iter().filter(|n| n.present && n.kind.is_drivers_own());
    nodes.map(|n| (n.number.to_string(), n.path.display().to_string()))
}

/// Makes the links in a directory of the command line.
fn make_links(dir: &Path, host: &Host) -> Result<String> {
    let what = || format!("directory {}", dir.display());
    let dir = std::path::absolute(dir).context(Code::Usage, what)?;
    // Refused if a user other than root can change where the path leads.
    owned::find_lasting(&dir)?;
    let root = Root::open("/").context(Code::System, || "open /")?;
    let opened = root.mkdir_all(&dir, 0o755).context(Code::DeviceNode, what)?;
    let mut out = String::new();
    for (name, target) in links(host) {
        if opened.child(&name).is_ok() {
            continue;
        }
        let shown = format!("{} -> {target}", dir.join(&name).display());
        let made = rustix::fs::symlinkat(&target, &opened, name.as_str()).map_err(std::io::Error::from);
        made.context(Code::DeviceNode, || format!("link {shown}"))?;
        out += &format!("linked {shown}\n");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testhost::TestHost;

    #[test]
    fn nodes_are_made_where_only_root_decides() {
        use std::os::unix::fs::{lchown, symlink};
        let host = TestHost::bare();
        host.module("550.163.01", 1);
        let proven = || prove_dev(&Roots::open(&host.locations()).unwrap());
        proven().unwrap();
        if !rustix::process::geteuid().is_root() {
            return;
        }
        std::fs::rename(host.path().join("dev"), host.path().join("elsewhere")).unwrap();
        symlink("elsewhere", host.path().join("dev")).unwrap();
        proven().unwrap();
        lchown(host.path().join("dev"), Some(1000), Some(1000)).unwrap();
        assert_eq!(proven().unwrap_err().code(), Code::UnsafeOwner);
    }

    #[test]
    fn links_are_made_in_the_directory_that_is_named_and_nowhere_else() {
        let host = TestHost::bare();
        host.module("550.163.01", 1);
        std::fs::create_dir(host.path().join("dev/char")).unwrap();
        if !(host.device("nvidia0", 195, 0, 0o666) && host.device("nvidiactl", 195, 255, 0o666)) {
            return;
        }
        let links = host.path().join("host-dev-char");
        let options = Options {
            links: Some(links.clone()),
            no_modules: true,
            no_nodes: true,
            ..Options::default()
        };
        let before = host.path().join("dev/nvidia-uvm").exists();
        let dry = Options {
            dry_run: true,
            ..Options {
                links: options.links.clone(),
                no_nodes: true,
                ..Options::default()
            }
        };
        assert!(
            work(&dry, &host.locations())
                .unwrap()
                .contains("195:0 -> /dev/nvidia0\n")
        );
        assert!(!links.exists());
        let out = work(&options, &host.locations()).unwrap();
        assert!(out.contains("195:0 -> /dev/nvidia0\n"), "{out}");
        assert_eq!(
            std::fs::read_link(links.join("195:0")).unwrap(),
            Path::new("/dev/nvidia0")
        );
        assert_eq!(
            std::fs::read_link(links.join("195:255")).unwrap(),
            Path::new("/dev/nvidiactl")
        );
        assert_eq!(
            std::fs::read_dir(host.path().join("dev/char")).unwrap().count(),
            0
        );
        assert_eq!(host.path().join("dev/nvidia-uvm").exists(), before);
        // Existing links stay.
        assert_eq!(work(&options, &host.locations()).unwrap(), "");
    }
}
