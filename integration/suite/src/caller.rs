//! Callers beside a privileged runtime: a user's own, and an engine that applies CDI. Each is set
//! up once on a host.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, mount_remount};
use serde_json::Value;

use crate::bundle::BUNDLES;
use crate::host::{CANARY, WORLD, give};
use crate::image::{PLAIN_ROOT, remove};
use crate::process::{run_silently, words};

/// The user, and where the user's image is.
const USER: u32 = 1500;
pub(crate) const USERS_IMAGE: &str = "/scratch/users-image";
/// Runs a command in the user's namespace, as rootless Podman has it.
pub(crate) const AS_USER: &str = "/scratch/as-user";
const CDI: &str = "/scratch/cdi.json";
const AS_USER_SCRIPT: &str = "#!/bin/sh
cd /
exec setpriv --reuid 1500 --regid 1500 --init-groups env -i HOME=/home/u USER=u XDG_RUNTIME_DIR=/run/user/1500 PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \\
  unshare --user --mount --map-root-user --map-auto -- \"$@\"
";

/// Makes the user, and a copy of the image that is the user's.
pub(crate) fn prepare_user() -> io::Result<()> {
    if Path::new(AS_USER).exists() {
        return Ok(());
    }
    // The user may be there.
    let _ = command(&["useradd", "-M", "-d", "/home/u", "-u", "1500", "u"]);
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        if !text.lines().any(|line| line.starts_with("u:")) {
            fs::write(file, format!("{text}u:100000:65536\n"))?;
        }
    }
    let directories = ["/home/u", "/run/user/1500"];
    for directory in directories {
        command(&[
            "install", "-d", "-o", "1500", "-g", "1500", "-m", "700", directory,
        ])?;
    }
    remove(Path::new(USERS_IMAGE))?;
    command(&["cp", "-a", &format!("{WORLD}/images/bookworm"), USERS_IMAGE])?;
    give(Path::new(USERS_IMAGE), USER, |_| true)?;
    for directory in ["/scratch", BUNDLES] {
        fs::create_dir_all(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    }
    fs::write(AS_USER, AS_USER_SCRIPT)?;
    fs::set_permissions(AS_USER, fs::Permissions::from_mode(0o755))
}

/// Gives the user a bundle. There are no devices in what a user mounts, and an escape would have
/// the user's rights: the canary is the user's.
pub(crate) fn give_to_user(bundle: &Path) -> io::Result<()> {
    let plain = Path::new(PLAIN_ROOT);
    if plain.exists() {
        give(plain, USER, |_| true)?;
    }
    give(&bundle.join("upper"), USER, |owner| owner == 0)?;
    for own in [bundle.to_owned(), bundle.join("config.json")] {
        std::os::unix::fs::chown(own, Some(USER), Some(USER))?;
    }
    let root = bundle.join("rootfs");
    if root.join("usr").exists() {
        // A case may have another file system there.
        let _ = mount_remount(&root, MountFlags::BIND | MountFlags::NODEV, "");
    }
    give(Path::new(CANARY), USER, |_| true)
}

/// The static specification of this host.
pub(crate) fn cdi() -> io::Result<Value> {
    if !Path::new(CDI).exists() {
        link_cdi_hook()?;
        let out = fs::File::create(CDI)?;
        let generate = ["cdi", "generate", "--static", "--format", "json"];
        let mut nvoci = std::process::Command::new("nvoci");
        if !nvoci.args(generate).stdout(out).status()?.success() {
            remove(Path::new(CDI))?;
            return Err(io::Error::other("nvoci cdi generate failed"));
        }
    }
    Ok(serde_json::from_slice(&fs::read(CDI)?)?)
}

/// The hook of a specification.
pub(crate) fn link_cdi_hook() -> io::Result<()> {
    let hook = Path::new("/usr/bin/nvidia-cdi-hook");
    remove(hook)?;
    symlink("nvoci", hook)
}

/// The `nvidia-container-cli` that runsc calls.
pub(crate) fn link_container_cli(target: &str) -> io::Result<()> {
    let cli = Path::new("/usr/bin/nvidia-container-cli");
    remove(cli)?;
    symlink(target, cli)
}

fn command(line: &[&str]) -> io::Result<()> {
    let ended = run_silently(&words(line), Duration::from_secs(120))?;
    if ended.status == 0 {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "{}: exit status {}",
            line.join(" "),
            ended.status
        )))
    }
}
