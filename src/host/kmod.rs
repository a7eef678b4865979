//! Loads kernel modules. No other code of `host` starts a program.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Code, Error, IoContext as _, Result};
use crate::sys::root::{Node, Root};

/// A kernel module that a request can use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Module {
    /// The name, such as `nvidia-uvm`.
    pub name: &'static str,
    /// Whether the request cannot be met without it.
    pub needed: bool,
}

/// The outcome for a module.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Loading {
    /// It was loaded.
    Loaded,
    /// It was not loaded, and the request can be met: the reason.
    LeftOut(&'static str),
}

/// The directories that describe the running kernel.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'r> {
    /// `/proc`.
    pub proc: &'r Root,
    /// `/sys`, if it exists.
    pub sys: Option<&'r Root>,
    /// The directory that contains `lib/modules`.
    pub root: &'r Root,
}

/// Loads `module` with the kernel's own helper program (`/proc/sys/kernel/modprobe`).
///
/// The program must belong to root and be writable by nobody else. nvoci executes it by descriptor,
/// with its path as `argv[0]` (it is usually a link to `kmod`, which reads that name), with
/// `PATH=/sbin` as its whole environment and `/dev/null` as its standard streams.
///
/// No error for a module that the kernel has already, nor for one that the request does not need
/// and that is not installed or that the host's settings forbid.
///
/// # Errors
/// [`Code::UnsafeOwner`] if another user could change the program, [`Code::System`] if it is
/// missing or fails.
pub fn load(kernel: Kernel<'_>, module: Module) -> Result<Loading> {
    let Err(error) = execute(kernel.proc, module.name) else {
        return Ok(Loading::Loaded);
    };
    match kernel.without(module) {
        Some(why) => Ok(Loading::LeftOut(why)),
        None => Err(error),
    }
}

impl Kernel<'_> {
    /// The reason why the request can be met although loading failed. `None`: it cannot.
    fn without(self, module: Module) -> Option<&'static str> {
        let dir = self.modules();
        // Checked first: on a host without displays each container with `graphics` comes here.
        if !module.needed && !self.lists(dir.as_deref(), "modules.dep", module.name) {
            return Some("it is not installed for the running kernel");
        }
        let loaded = format!("module/{}", module.name.replace('-', "_"));
        if self.sys.is_some_and(|sys| sys.exists(&loaded)) {
            return Some("the kernel has it");
        }
        if self.lists(dir.as_deref(), "modules.builtin", module.name) {
            return Some("it is built into the kernel");
        }
        let setting = |name: &str| self.proc.read_text(name, 4096).unwrap_or_default();
        if module.needed {
            None
        } else if setting("sys/kernel/modprobe").trim().is_empty() {
            Some("the kernel's setting kernel.modprobe names no program")
        } else if setting("sys/kernel/modules_disabled").trim() == "1" {
            Some("the kernel loads no modules any more (kernel.modules_disabled)")
        } else {
            None
        }
    }

    /// The directory of the running kernel's modules.
    fn modules(self) -> Option<PathBuf> {
        let release = self.proc.read_text("sys/kernel/osrelease", 256).ok()?;
        let release = release.trim();
        let plain = !matches!(release, "" | "." | "..") && !release.contains('/');
        plain.then(|| Path::new("lib/modules").join(release))
    }

    /// Whether one of depmod's lists has the module. Debian's packages add the driver's branch to
    /// the file's name (`nvidia-current-modeset.ko`) and load it by an `install` line for modprobe.
    fn lists(self, dir: Option<&Path>, list: &str, module: &str) -> bool {
        /// In bytes. The list of a distribution's kernel has 1 MB.
        const MAX: u64 = 8 << 20;
        let Some(bytes) = dir.and_then(|dir| self.root.read(dir.join(list), MAX).ok()) else {
            return false;
        };
        let own = module.strip_prefix("nvidia").unwrap_or(module);
        String::from_utf8_lossy(&bytes).lines().any(|line| {
            let path = line.split(':').next().unwrap_or(line);
            let file = path.rsplit('/').next().unwrap_or(path);
            let stem = file.split(".ko").next().unwrap_or(file).replace('_', "-");
            // `nvidiafb` and the kernel's other drivers are not `nvidia`.
            let branded = !own.is_empty() && stem.starts_with("nvidia-") && stem.ends_with(own);
            stem == module || branded
        })
    }
}

fn execute(proc: &Root, module: &str) -> Result<()> {
    let what = || format!("load kernel module {module}");
    let path = proc
        .read_text("sys/kernel/modprobe", 4096)
        .context(Code::System, what)?;
    let path = Path::new(path.trim());
    if !path.is_absolute() {
        let why = "/proc/sys/kernel/modprobe names no program";
        let fix = format!("load it at boot: `echo {module} >> /etc/modules-load.d/nvidia.conf`");
        return Err(Error::new(Code::System, what(), why).fix(fix));
    }
    let cannot = |e: io::Error| {
        let error = Error::io(Code::System, format!("{}: {}", what(), path.display()), &e);
        if e.kind() == io::ErrorKind::NotFound {
            error.fix("install kmod on the host, which has modprobe")
        } else {
            error.fix(by_hand(module))
        }
    };
    let program = Root::open("/")
        .and_then(|host| host.resolve(path))
        .map_err(cannot)?;
    check(&program, path)?;
    let status = run(&program, path, module).map_err(cannot)?;
    if status.success() {
        Ok(())
    } else {
        let why = format!("{} ended with {status}", path.display());
        Err(Error::new(Code::System, what(), why).fix(by_hand(module)))
    }
}

/// The fix for a modprobe that fails: by hand it prints the kernel's reason.
fn by_hand(module: &str) -> String {
    format!("run `modprobe {module}` on the host, which prints the reason")
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

    const UVM: Module = Module {
        name: "nvidia-uvm",
        needed: true,
    };
    const MODESET: Module = Module {
        name: "nvidia-modeset",
        needed: false,
    };

    /// A host with these files, on which `path` is the kernel's modprobe.
    fn host(path: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let modprobe = format!("{path}\n");
        let own = [
            ("sys/kernel/modprobe", modprobe.as_str()),
            ("sys/kernel/osrelease", "6.1.0-test\n"),
        ];
        for (file, text) in own.iter().chain(files) {
            let at = dir.path().join(file);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(at, text).unwrap();
        }
        dir
    }

    fn load_on(dir: &tempfile::TempDir, module: Module) -> Result<Loading> {
        let root = Root::open(dir.path()).unwrap();
        let kernel = Kernel {
            proc: &root,
            sys: Some(&root),
            root: &root,
        };
        load(kernel, module)
    }

    fn with_modprobe(path: &str) -> Result<Loading> {
        load_on(&host(path, &[]), UVM)
    }

    /// On a host without modprobe, and on one whose modprobe fails.
    #[test]
    fn an_installed_module_that_fails_is_an_error() {
        let dep = "lib/modules/6.1.0-test/modules.dep";
        let installed = [
            "updates/dkms/nvidia-modeset.ko: updates/dkms/nvidia.ko\n",
            "kernel/a.ko.zst:\nupdates/dkms/nvidia-modeset.ko.zst: updates/dkms/nvidia.ko.zst\n",
            "updates/dkms/nvidia-current-modeset.ko: updates/dkms/nvidia-current.ko\n",
            "extra/nvidia_modeset.ko.xz:\n",
        ];
        let not = [
            "",
            "updates/dkms/nvidia.ko:\n",
            "kernel/drivers/gpu/i915.ko: nvidia-modeset.ko\n",
            "kernel/x/modeset.ko:\n",
        ];
        for (modprobe, fix) in [
            ("/nowhere/modprobe", "fix: install kmod"),
            ("/bin/false", "fix: run `modprobe nvidia-modeset`"),
        ] {
            for text in installed {
                let e = load_on(&host(modprobe, &[(dep, text)]), MODESET).unwrap_err();
                assert!(e.to_string().contains(fix), "{text}: {e}");
            }
            for text in not {
                let silent = load_on(&host(modprobe, &[(dep, text)]), MODESET).unwrap();
                assert!(
                    matches!(silent, Loading::LeftOut(why) if why.contains("not installed")),
                    "{text}"
                );
            }
            assert!(load_on(&host(modprobe, &[]), MODESET).is_ok(), "no list at all");
        }
    }

    #[test]
    fn a_module_that_the_kernel_has_or_refuses_is_left_out() {
        let dep = (
            "lib/modules/6.1.0-test/modules.dep",
            "extra/nvidia-modeset.ko:\nextra/nvidia-uvm.ko:\n",
        );
        let why =
            |modprobe: &str, module, file: (&str, &str)| match load_on(&host(modprobe, &[dep, file]), module)
            {
                Ok(Loading::LeftOut(why)) => why.to_owned(),
                other => panic!("{file:?}: {other:?}"),
            };
        let builtin = "lib/modules/6.1.0-test/modules.builtin";
        for module in [UVM, MODESET] {
            let path = format!("kernel/drivers/video/{}.ko\n", module.name);
            assert!(why("/bin/false", module, (builtin, &path)).contains("built into"));
            let loaded = format!("module/{}/refcnt", module.name.replace('-', "_"));
            assert!(why("/bin/false", module, (&loaded, "0")).contains("the kernel has it"));
        }
        let nvidia = Module {
            name: "nvidia",
            needed: true,
        };
        let others = "kernel/drivers/video/fbdev/nvidia/nvidiafb.ko\nkernel/x/nvidia-wmi-ec-backlight.ko\n";
        assert!(load_on(&host("/bin/false", &[(builtin, others)]), nvidia).is_err());
        assert!(why("", MODESET, ("x", "")).contains("kernel.modprobe"));
        let disabled = ("sys/kernel/modules_disabled", "1\n");
        assert!(why("/bin/false", MODESET, disabled).contains("modules_disabled"));
        // A needed module that cannot be loaded is always an error with a fix.
        let e = load_on(&host("/bin/false", &[dep, disabled]), UVM).unwrap_err();
        assert!(e.to_string().contains("fix: run `modprobe nvidia-uvm`"), "{e}");
        let e = load_on(&host("", &[]), UVM).unwrap_err();
        assert!(e.to_string().contains("/etc/modules-load.d/"), "{e}");
    }

    /// The kernel's release must name one directory, and the lists have a limit.
    #[test]
    fn a_strange_release_or_list_is_no_module() {
        for release in ["", "..", "../../etc", "a/b"] {
            let dir = host("/bin/false", &[("sys/kernel/osrelease", release)]);
            assert!(load_on(&dir, MODESET).is_ok(), "{release:?}");
        }
        let dir = host("/bin/false", &[("lib/modules/6.1.0-test/x", "")]);
        let list = dir.path().join("lib/modules/6.1.0-test/modules.dep");
        let file = std::fs::File::create(list).unwrap();
        file.set_len(9 << 20).unwrap();
        assert!(load_on(&dir, MODESET).is_ok());
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
