//! `nvidia-container-cli`, the program of libnvidia-container. LXC, Incus, enroot, Apptainer,
//! Charliecloud, gVisor and containerd's `ctr --gpus` call it.
//!
//! The command line, the output and the first words of an error are those of libnvidia-container
//! 1.20. The effect is that of every entry point of nvoci. It executes nothing and loads no library
//! of the driver.

mod configure;
mod inventory;
mod options;

use std::ffi::OsString;
use std::process::ExitCode;

use self::options::{Command, Global};
use crate::config::Config;
use crate::error::{Code, Result};
use crate::host::{Host, Locations, Roots};

const CLI_VERSION: &str = super::toolkit_version!();

pub(super) const HELP: &str = "\
Usage: nvidia-container-cli [OPTIONS] COMMAND [ARG...]

Gives a container that another program is making the host's GPUs, or shows what
the host has.

Options, before the command
  -k, --load-kmods         load missing kernel modules, make missing nodes
  -r, --root=PATH          the driver root (default: as configured, else /)
  -l, --ldcache=FILE       the driver root's loader cache
  -u, --user[=UID[:GID]]   accepted: nothing here needs another user
  -n, --no-pivot           accepted: nothing here changes the root directory
  -d, --debug=FILE         log to this file; root alone may change its directory
      --no-create-imex-channels
  -V, --version            -?, --help

Commands
  info [--csv]             driver and GPUs
  list [OPTIONS]           host paths that a container would get, one a line
    -d, --device=ID  -l, --libraries  -b, --binaries  -i, --ipcs
    -f, --firmwares  --compat32
    --mig-config=ID  --mig-monitor=ID  --imex-channel=N
    --no-persistenced  --no-fabricmanager  --no-gsp-firmware
  configure [OPTIONS] ROOTFS
    -p, --pid=PID          a process of the container; without it the caller's
                           own mount namespace
    -d, --device=ID        index, UUID, MIG device, all; may be repeated
    -c, --compute  -u, --utility  -v, --video  -g, --graphics  -D, --display
    -n, --ngx  --compat32
    -r, --require=EXPR     a condition such as cuda>=12.4
    --mig-config=ID  --mig-monitor=ID  --imex-channel=N
    --no-cgroups           leave the device cgroup alone
    --no-devbind           leave the device nodes alone
    --no-persistenced  --no-fabricmanager  --no-gsp-firmware
    --cuda-compat-mode=mount|ldconfig|disabled
    -l, --ldconfig=PATH    accepted: the loader's cache is written without
                           executing anything
";

/// libnvidia-container's name of the stage at which an error occurred.
const STAGES: &[(Code, &str)] = &[
    (Code::Capability, "input error"),
    (Code::Cgroup, "mount error"),
    (Code::Config, "input error"),
    (Code::DeviceNode, "mount error"),
    (Code::Malformed, "input error"),
    (Code::Mount, "mount error"),
    (Code::NoDriver, "initialization error"),
    (Code::NoLibraries, "initialization error"),
    (Code::NotAContainer, "container error"),
    (Code::Privilege, "permission error"),
    (Code::Requirement, "requirement error"),
    (Code::UnknownDevice, "device error"),
    (Code::UnsafeOwner, "mount error"),
    (Code::UnsafePath, "mount error"),
    (Code::UnsafeRootfs, "input error"),
    (Code::Usage, "input error"),
    (Code::VersionMismatch, "initialization error"),
    (Code::Wsl, "initialization error"),
];

/// Runs the command line after the program's name. An error has libnvidia-container's form, and the
/// exit status is 1.
pub fn run(args: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    let (global, command) = match options::parse(args) {
        Ok(parsed) => parsed,
        Err(e) => return Ok(complain(&e)),
    };
    let done = match &command {
        Command::Help => super::print(HELP),
        Command::Version => super::print(&version()),
        Command::Info { csv } => {
            discover_host(&global).and_then(|(host, _)| super::print(&inventory::info(&host, *csv)))
        }
        Command::List(list) => discover_host(&global)
            .and_then(|(host, config)| super::print(&inventory::list(&host, &config, list)?)),
        Command::Configure(configure) => configure::run(&global, configure),
    };
    Ok(done.map_or_else(|e| complain(&e), |()| ExitCode::SUCCESS))
}

fn complain(e: &crate::error::Error) -> ExitCode {
    let stage = STAGES
        .iter()
        .find(|(code, _)| *code == e.code())
        .map_or("container error", |(_, stage)| *stage);
    // If the reader is gone, the exit status is the same.
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("nvidia-container-cli: {stage}: {e}\n").as_bytes(),
    );
    ExitCode::FAILURE
}

fn version() -> String {
    format!(
        "cli-version: {CLI_VERSION}\nlib-version: {CLI_VERSION}\nbuild date: -\nbuild revision: {}\n\
         build compiler: rustc\nbuild platform: {}\nbuild flags: -\n",
        super::VERSION.trim_end().replace(' ', "-"),
        std::env::consts::ARCH,
    )
}

/// The host's configuration with the command line's changes.
fn config_of(global: &Global) -> Result<Config> {
    let mut config = *super::load_config(None)?;
    if let Some(root) = &global.root {
        config.driver_root.value.clone_from(root);
    }
    if let Some(file) = &global.ldcache {
        config.ldcache.value.clone_from(file);
    }
    if let Some(file) = &global.debug {
        config.log_file.value = Some(file.clone());
    }
    config.load_kmods.value = global.load_kmods;
    if global.no_create_imex_channels {
        config.create_imex_channels.value = false;
    }
    Ok(config)
}

fn discover_host(global: &Global) -> Result<(Host, Config)> {
    let config = config_of(global)?;
    let locations: Locations = super::locations(&config);
    let roots = Roots::open(&locations)?;
    let mut host = Host::discover(&roots, &locations)?;
    host.check_versions()?;
    // Callers mount the files that this lists.
    let walk = roots.walk();
    host.files
        .retain(|file| match walk.find(&file.found, file.wanted()) {
            Ok(_) => true,
            Err(e) => {
                super::inject::warn(&[e.to_string()]);
                false
            }
        });
    Ok((host, config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_has_the_form_that_callers_parse() {
        // gVisor and Apptainer search for this line.
        assert!(version().starts_with("cli-version: 1."));
        assert_eq!(version().lines().count(), 7);
    }

    #[test]
    fn every_stage_is_for_one_code() {
        let codes: std::collections::HashSet<_> = STAGES.iter().map(|(code, _)| code).collect();
        assert_eq!(codes.len(), STAGES.len());
    }
}
