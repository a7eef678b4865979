//! Loads kernel modules. No other code of `host` starts a program.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Code, Error, IoContext as _, Result};
use crate::sys::root::{Node, Root};

/// Loads `module` with the kernel's own helper program (`/proc/sys/kernel/modprobe`).
///
/// The program must belong to root and be writable by nobody else. nvoci executes it by descriptor,
/// with its path as `argv[0]` (it is usually a link to `kmod`, which reads that name), with
/// `PATH=/sbin` as its whole environment and `/dev/null` as its standard streams.
///
/// # Errors
/// [`Code::UnsafeOwner`] if another user could change the program, [`Code::System`] if it is
/// missing or fails.
pub fn load(proc: &Root, module: &str) -> Result<()> {
    let what = || format!("load kernel module {module}");
    let path = proc
        .read_text("sys/kernel/modprobe", 4096)
        .context(Code::System, what)?;
    let path = Path::new(path.trim());
    if !path.is_absolute() {
        return Err(Error::new(
            Code::System,
            what(),
            "/proc/sys/kernel/modprobe names no program",
        ));
    }
    let program = Root::open("/")
        .and_then(|host| host.resolve(path))
        .context(Code::System, || format!("{}: {}", what(), path.display()))?;
    check(&program, path)?;
    let status =
        run(&program, path, module).context(Code::System, || format!("{}: {}", what(), path.display()))?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::new(
            Code::System,
            what(),
            format!("{} ended with {status}", path.display()),
        ))
    }
}

fn check(program: &Node, path: &Path) -> Result<()> {
    let stat = program.stat();
    if program.is_file() && stat.st_uid == 0 && stat.st_mode & 0o022 == 0 && stat.st_mode & 0o100 != 0 {
        return Ok(());
    }
    Err(Error::new(
        Code::UnsafeOwner,
        path.display().to_string(),
        "users other than root could change this program",
    ))
}

fn run(program: &Node, path: &Path, module: &str) -> io::Result<std::process::ExitStatus> {
    use std::os::fd::AsFd as _;
    Command::new(format!("/proc/self/fd/{}", program.as_fd().as_raw_fd()))
        .arg0(path)
        .arg(module)
        .env_clear()
        .env("PATH", "/sbin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_modprobe(path: &str) -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("sys/kernel")).unwrap();
        std::fs::write(dir.path().join("sys/kernel/modprobe"), format!("{path}\n")).unwrap();
        load(&Root::open(dir.path()).unwrap(), "nvidia-uvm")
    }

    #[test]
    fn its_result_counts() {
        assert!(with_modprobe("/bin/true").is_ok());
        let failed = with_modprobe("/bin/false").unwrap_err();
        assert!(failed.to_string().contains("nvidia-uvm"), "{failed}");
    }

    #[test]
    fn only_an_absolute_program_of_root_is_started() {
        use std::os::unix::fs::PermissionsExt as _;
        assert!(with_modprobe("").is_err());
        assert!(with_modprobe("bin/true").is_err());
        assert!(with_modprobe("/nowhere/modprobe").is_err());
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("modprobe");
        std::fs::copy("/bin/true", &copy).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o777)).unwrap();
        let refused = with_modprobe(copy.to_str().unwrap()).unwrap_err();
        assert_eq!(refused.code(), Code::UnsafeOwner);
    }
}
