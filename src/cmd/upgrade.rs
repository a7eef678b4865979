//! `nvoci upgrade`: replaces this program by another one, if that one serves the host's GPUs too.
//!
//! The installed program judges the new one, since it is known to work:
//!
//! 1. It runs the new one's `--version` and its plan of all GPUs.
//! 2. It starts a container through the new one (`--probe`). The container's root directory has
//!    one file, this program, which finds the GPUs' nodes and the driver there.
//! 3. It replaces its own file by a rename.
//! 4. It starts the container again, through the installed path. If that fails, it renames the old
//!    file back.
//!
//! The old file is `upgrade/old` until then. No signal but SIGKILL ends the program meanwhile, and
//! the next upgrade renames the old file of a killed one back.
//!
//! Where the installed program fails too, the host is the reason, and the new one is no worse.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::FileType;
use serde_json::json;

use super::cli::{Command, Page, Words, argument, flag};
use super::inject;
use crate::apply::record::Errors;
use crate::engine::exec;
use crate::error::{Code, Error, Escaped, IoContext as _, Result};
use crate::sys::lock::Lock;
use crate::sys::process;
use crate::sys::program::Program;
use crate::sys::root::{Node, Root};

/// The most bytes of a new program.
const MAX_PROGRAM: u64 = 256 << 20;
/// The longest wait for another nvoci, for a plan, and for the probe's container.
const PATIENCE: Duration = Duration::from_secs(30);
/// The probe's container.
const NAME: &str = "nvoci-probe";
/// The directory of an upgrade, beside the installation's other files.
const STAGE: &str = "upgrade";
/// The old program, in that directory, while it is not decided which of the two stays.
const OLD: &str = "old";
/// The program in the probe's container.
const INSIDE: &str = "nvoci";
/// Its output, so that a program that starts nothing and ends well has not passed.
const FOUND: &str = "nvoci: the container has a GPU and the driver";
/// The most entries, and directories below each other, that the program in the container reads.
const MAX_ENTRIES: usize = 4096;
const MAX_DEPTH: usize = 6;

#[derive(Default)]
pub(super) struct Options {
    probe: bool,
    dry_run: bool,
    inside: bool,
    file: Option<PathBuf>,
}

pub(super) static COMMAND: Command<Options> = Command {
    page: Page {
        name: "nvoci upgrade",
        summary: "replace this program by another one that serves the GPUs too",
        about: &[
            "The installed program tries FILE on this host's GPUs, replaces itself, tries again, and renames the \
             old file back if that fails. Where the installed program fails on this host too, it is replaced.",
            "The tarball's install.sh runs it. A package is upgraded by its package manager.",
        ],
        arguments: &[argument("FILE", "the new nvoci")],
        examples: &[(
            "nvoci upgrade --probe --dry-run ./nvoci-0.1.1-x86_64-linux/root/usr/bin/nvoci",
            "start a container through another version, and replace nothing",
        )],
        ..Page::EMPTY
    },
    flags: &[
        flag("probe", "start a container through FILE, before and after").switch(|o| o.probe = true),
        flag("dry-run", "try FILE, and replace nothing").switch(|o| o.dry_run = true),
        flag("inside", "the program of the probe's container")
            .hidden()
            .switch(|o| o.inside = true),
    ],
    words: Words::One(|o, file| {
        o.file = Some(file.into());
        Ok(())
    }),
    ..Command::of(|options| run(&options))
};

fn run(options: &Options) -> Result<ExitCode> {
    if options.inside {
        return inside(Path::new("/"));
    }
    let Some(file) = &options.file else {
        return Err(COMMAND.usage_error("the new program was not named"));
    };
    if !rustix::process::geteuid().is_root() {
        return Err(
            Error::new(Code::Usage, "nvoci upgrade", "only root may replace it").fix("run it with sudo"),
        );
    }
    let installed = installed_by(std::env::current_exe().context(Code::System, || "/proc/self/exe")?);
    let upgrade = Upgrade::begin(file, &installed, options)?;
    let was = version(&upgrade.installed).unwrap_or_default();
    let now = upgrade.judge()?;
    if !options.dry_run {
        upgrade.replace()?;
    }
    let done = if options.dry_run {
        "would replace"
    } else {
        "replaced"
    };
    super::print(&format!(
        "{}: {} {done} {}\n",
        installed.display(),
        Escaped(&now),
        Escaped(&was)
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// An upgrade that has begun. Its directory is removed in the end.
struct Upgrade<'a> {
    options: &'a Options,
    /// The new program as the caller named it.
    file: &'a Path,
    bytes: Vec<u8>,
    installed: Program,
    /// The copy of the new program in the upgrade's directory.
    new: Program,
    stage: PathBuf,
    _lock: Lock,
}

impl Drop for Upgrade<'_> {
    fn drop(&mut self) {
        // Without a decision the next upgrade restores it.
        if !self.stage.join(OLD).exists() {
            clear(&self.stage);
        }
    }
}

impl<'a> Upgrade<'a> {
    /// Copies the new program beside the installation.
    fn begin(file: &'a Path, installed: &Path, options: &'a Options) -> Result<Self> {
        let shown = || file.display().to_string();
        let installed = Program::prove(installed)?;
        let files = library_of(&installed)?;
        if !options.dry_run && !files.join("manifest").exists() {
            let what = installed.path().display().to_string();
            let why = "install.sh did not put it there";
            return Err(Error::new(Code::Usage, what, why)
                .fix("upgrade it by its package manager, or run the tarball's install.sh"));
        }
        let bytes = Root::open("/")
            .and_then(|root| root.read(std::path::absolute(file)?, MAX_PROGRAM))
            .context(Code::File, shown)
            .map_err(|e| e.fix("name the file of the new nvoci"))?;
        let lock = Lock::of_machine(PATIENCE).context(Code::Busy, || "/run/nvoci/lock")?;
        let stage = files.join(STAGE);
        if stage.join(OLD).exists() {
            restore(&stage, installed.path())
                .context(Code::System, || installed.path().display().to_string())?;
            inject::write_line(&format!(
                "warning: {}: an upgrade was killed, so the version before it is in use again",
                installed.path().display()
            ));
        }
        clear(&stage);
        let made = || {
            let dir = Root::open(&files)?
                .resolve("/")?
                .mkdir(OsStr::new(STAGE), 0o700)?;
            dir.create_file(OsStr::new("nvoci"), 0o755, &bytes)?;
            // A program beside which this name is names its own hook, and not the packages'.
            dir.symlink_new(OsStr::new("nvoci-runtime"), Path::new("nvoci"))?;
            let root = dir.mkdir(OsStr::new("rootfs"), 0o755)?;
            drop(root);
            let inside = stage.join("rootfs").join(INSIDE);
            fs::hard_link(installed.path(), &inside)
                .or_else(|_| fs::copy(installed.path(), &inside).map(drop))
        };
        let made: std::io::Result<()> = made();
        let new = made
            .context(Code::System, || stage.display().to_string())
            .and_then(|()| Program::prove(&stage.join("nvoci")));
        match new {
            Ok(new) => Ok(Self {
                options,
                file,
                bytes,
                installed,
                new,
                stage,
                _lock: lock,
            }),
            Err(e) => {
                clear(&stage);
                Err(e)
            }
        }
    }

    /// Compares the two programs on this host. Returns the new one's version.
    ///
    /// # Errors
    /// [`Code::Upgrade`] if the installed program does something that the new one does not.
    fn judge(&self) -> Result<String> {
        let version = version(&self.new).map_err(|why| self.refused("does not run", &why))?;
        let worse = |check: &dyn Fn(&Program) -> Result<(), String>| match check(&self.new) {
            Err(why) if check(&self.installed).is_ok() => Err(self.refused(
                "the installed version serves this host's GPUs and stays; the new one does not",
                &why,
            )),
            tried => Ok(tried.is_ok()),
        };
        if worse(&|program| plans(program))? && self.options.probe {
            worse(&|program| self.starts(program))?;
        }
        Ok(version)
    }

    /// Replaces the installed file, and renames the old one back if no container starts then.
    ///
    /// # Errors
    /// [`Code::Upgrade`] with the reason, once the old file is back.
    fn replace(&self) -> Result<()> {
        let path = self.installed.path();
        let shown = || path.display().to_string();
        let old = self.stage.join(OLD);
        // A probe that fails already here cannot judge the replacement.
        let worked = self.options.probe && self.starts(&self.new).is_ok();
        process::disregard_stops();
        // The directories may be on two file systems.
        fs::hard_link(path, &old)
            .or_else(|_| copy(path, &old))
            .context(Code::System, shown)?;
        let replaced = fs::metadata(path).and_then(|was| {
            let (dir, name) = directory_of(path)?;
            dir.write_file_durably(&name, was.mode() & 0o7777, &self.bytes)
        });
        let verdict = match replaced {
            Ok(()) if !worked => Ok(()),
            Ok(()) => self.starts(&self.installed),
            Err(e) => {
                restore(&self.stage, path).context(Code::System, shown)?;
                return Err(e).context(Code::System, shown);
            }
        };
        let Err(why) = verdict else {
            return fs::remove_file(&old).context(Code::System, shown);
        };
        restore(&self.stage, path).context(Code::System, shown)?;
        Err(self.refused(
            "rolled back, the installed version is in use again: the new one starts no container there",
            &why,
        ))
    }

    fn refused(&self, what: &str, why: &str) -> Error {
        // The line of the new program, without its own fix.
        let why = why.strip_prefix("nvoci: ").unwrap_or(why);
        let why = why.split("; fix: ").next().unwrap_or(why);
        let file = self.file.display().to_string();
        Error::new(Code::Upgrade, file, format!("{what}: {}", Escaped(why)))
    }

    /// Starts the probe's container through `program`, as an engine starts one.
    fn starts(&self, program: &Program) -> Result<(), String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let config = format!("{:#}\n", bundle());
        Root::open(&self.stage)
            .and_then(|root| {
                root.resolve("/")?
                    .write_file(OsStr::new("config.json"), 0o644, config.as_bytes())
            })
            .map_err(|e| text(&e))?;
        let delete = || {
            let args = ["runtime", "delete", "--force", NAME];
            let _ = exec::run(&self.installed, &args, &[], PATIENCE);
            // Its refusal is in the upgrade's error, and is none of the host's containers'.
            if let Ok(errors) = Errors::open() {
                errors.forget(NAME);
            }
        };
        delete();
        let stage = self.stage.as_os_str();
        let words: [&OsStr; 5] = [
            "runtime".as_ref(),
            "run".as_ref(),
            "--bundle".as_ref(),
            stage,
            NAME.as_ref(),
        ];
        let answer = exec::run(program, &words, &[], PATIENCE);
        delete();
        found(&answer.map_err(|e| text(&e))?)
    }
}

/// The directory of the installation's other files.
fn library_of(installed: &Program) -> Result<PathBuf> {
    let prefix = installed.path().parent().and_then(Path::parent);
    let files = prefix.map(|p| p.join("lib/nvoci")).filter(|dir| dir.is_dir());
    files.ok_or_else(|| {
        let what = installed.path().display().to_string();
        Error::new(
            Code::Usage,
            what,
            "there is no ../lib/nvoci, so neither a package nor install.sh put it there",
        )
        .fix("install nvoci by its package or its tarball")
    })
}

/// The installed program, where `program` may be the old one of a killed upgrade.
fn installed_by(program: PathBuf) -> PathBuf {
    let killed = Path::new("lib/nvoci").join(STAGE).join(OLD);
    match program.ancestors().nth(killed.components().count()) {
        Some(prefix) if program.ends_with(&killed) => prefix.join("bin/nvoci"),
        _ => program,
    }
}

/// Removes an upgrade's directory, or anything else of that name.
fn clear(stage: &Path) {
    let _ = fs::remove_dir_all(stage).or_else(|_| fs::remove_file(stage));
}

/// Puts the old program back in its place.
fn restore(stage: &Path, path: &Path) -> std::io::Result<()> {
    let old = stage.join(OLD);
    fs::rename(&old, path).or_else(|_| copy(&old, path))?;
    // A copy leaves it there, and so does a rename onto another name of the same file.
    fs::remove_file(&old).or_else(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(e),
    })
}

/// Copies a program whole or not at all.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let mode = fs::metadata(from)?.mode() & 0o7777;
    let (dir, name) = directory_of(to)?;
    dir.write_file_durably(&name, mode, &fs::read(from)?)
}

fn directory_of(path: &Path) -> std::io::Result<(Node, OsString)> {
    Root::open("/")?.parent_of(path)
}

/// The output of `--version`.
fn version(program: &Program) -> Result<String, String> {
    let answer = exec::run(program, &["--version"], &[], PATIENCE).map_err(|e| e.to_string())?;
    outcome(&answer)?;
    version_line(&answer.stdout)
        .map(str::to_owned)
        .ok_or_else(|| "it does not print a version of nvoci".to_owned())
}

/// The line `nvoci 1.2.3`. Another program, such as `true`, would pass on a host without GPUs.
fn version_line(stdout: &str) -> Option<&str> {
    let line = stdout.strip_suffix('\n')?;
    let number = line.strip_prefix("nvoci ")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
    let is_number = number.starts_with(|c: char| c.is_ascii_digit()) && number.chars().all(plain);
    (is_number && line.len() <= 64).then_some(line)
}

/// Whether the program plans all GPUs.
fn plans(program: &Program) -> Result<(), String> {
    let answer = exec::run(program, &["plan", "NVIDIA_VISIBLE_DEVICES=all"], &[], PATIENCE);
    outcome(&answer.map_err(|e| e.to_string())?)
}

/// Whether the probe's container has found a GPU and the driver.
fn found(answer: &exec::Answer) -> Result<(), String> {
    outcome(answer)?;
    if answer.stdout.lines().any(|line| line == FOUND) {
        return Ok(());
    }
    Err("the program ended well, but no container was started".to_owned())
}

/// The line with the reason, if the program has failed: the last one with a code of nvoci.
fn outcome(answer: &exec::Answer) -> Result<(), String> {
    let coded = || answer.stderr.lines().rev().find(|l| l.contains("[NVOCI-"));
    if answer.ok {
        return Ok(());
    }
    Err(coded()
        .unwrap_or_else(|| answer.complaint())
        .chars()
        .take(512)
        .collect())
}

/// A container of one program. With its one capability a request by variable is valid under any
/// configuration.
fn bundle() -> serde_json::Value {
    let capabilities = ["CAP_SYS_ADMIN"];
    let namespaces = ["pid", "mount", "ipc", "uts", "network"].map(|kind| json!({"type": kind}));
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "hostname": "nvoci",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "args": [format!("/{INSIDE}"), "upgrade", "--inside"],
            "noNewPrivileges": true,
            "env": ["PATH=/", "NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"],
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        ],
        "linux": {
            "cgroupsPath": format!("/{NAME}"),
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces,
        },
    })
}

/// In the container: whether a GPU and the driver are there.
fn inside(root: &Path) -> Result<ExitCode> {
    let missing = |what: &str| Err(Error::new(Code::Upgrade, what, "not in the container"));
    let root = Root::open(root).context(Code::System, || "/")?;
    let is_node = |name: &str| {
        let node = root.resolve(Path::new("/dev").join(name));
        node.is_ok_and(|n| n.kind() == FileType::CharacterDevice)
    };
    if !is_node("nvidiactl") {
        return missing("/dev/nvidiactl");
    }
    let names = root
        .read_dir("/dev", MAX_ENTRIES)
        .context(Code::System, || "/dev")?;
    let is_gpu = |name: &str| {
        let number = name.strip_prefix("nvidia").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) && is_node(name)
    };
    if !names.iter().any(|e| e.name.to_str().is_some_and(is_gpu)) {
        return missing("a GPU's node");
    }
    let mut left = MAX_ENTRIES;
    let mut has = |dir: &str| has_libcuda(&root, Path::new(dir), MAX_DEPTH, &mut left);
    if !(has("/usr") || has("/opt") || has("/run")) {
        return missing("libcuda.so.1");
    }
    super::print(&format!("{FOUND}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Whether `dir` or a directory below it has the driver's library.
fn has_libcuda(root: &Root, dir: &Path, depth: usize, left: &mut usize) -> bool {
    for entry in root.read_dir(dir, MAX_ENTRIES).unwrap_or_default() {
        *left = left.saturating_sub(1);
        if *left == 0 {
            return false;
        }
        let path = dir.join(&entry.name);
        if entry.name == "libcuda.so.1" {
            return true;
        }
        if depth > 0 && entry.kind == FileType::Directory && has_libcuda(root, &path, depth - 1, left) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(ok: bool, stdout: &str, stderr: &str) -> exec::Answer {
        exec::Answer {
            ok,
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
        }
    }

    #[test]
    fn the_reason_is_the_last_line_with_a_code() {
        assert_eq!(outcome(&answer(true, "", "noise [NVOCI-1]")), Ok(()));
        let stderr = "runc: a\nnvoci: driver: absent; fix: x [NVOCI-2001]\nrunc: b\n";
        let reason = "nvoci: driver: absent; fix: x [NVOCI-2001]".to_owned();
        assert_eq!(outcome(&answer(false, "", stderr)), Err(reason));
        assert_eq!(outcome(&answer(false, "out\n", "")), Err("out".to_owned()));
        assert_eq!(
            outcome(&answer(false, "", &"x".repeat(9999))).unwrap_err().len(),
            512
        );
    }

    #[test]
    fn the_old_program_of_a_killed_upgrade_is_restored_and_is_the_installed_one() {
        let of = |path: &str| installed_by(path.into()).display().to_string();
        assert_eq!(of("/usr/local/lib/nvoci/upgrade/old"), "/usr/local/bin/nvoci");
        assert_eq!(of("/usr/local/bin/nvoci"), "/usr/local/bin/nvoci");
        assert_eq!(of("/upgrade/old"), "/upgrade/old");

        let dir = tempfile::tempdir().unwrap();
        let (stage, path) = (dir.path().join(STAGE), dir.path().join("nvoci"));
        let read = || fs::read_to_string(&path).unwrap();
        fs::create_dir(&stage).unwrap();
        fs::write(&path, "new").unwrap();
        fs::write(stage.join(OLD), "old").unwrap();
        restore(&stage, &path).unwrap();
        assert!(read() == "old" && !stage.join(OLD).exists());
        // It was killed before the rename.
        fs::hard_link(&path, stage.join(OLD)).unwrap();
        restore(&stage, &path).unwrap();
        assert!(read() == "old" && !stage.join(OLD).exists());
        clear(&stage);
        assert!(!stage.exists());
        fs::write(&stage, "").unwrap();
        clear(&stage);
        assert!(!stage.exists());
    }

    #[test]
    fn only_nvoci_prints_its_version() {
        assert_eq!(version_line("nvoci 0.1.1-rc.2\n"), Some("nvoci 0.1.1-rc.2"));
        let long = format!("nvoci 1{}\n", "0".repeat(64));
        for other in [
            "",
            "nvoci 0.1",
            "nvoci \n",
            "nvoci x\n",
            "true 9\n",
            "nvoci 1\u{1b}[m\n",
            "nvoci 1\n2\n",
            &long,
        ] {
            assert_eq!(version_line(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_probe_passes_by_what_the_container_prints() {
        assert_eq!(found(&answer(true, &format!("warning\n{FOUND}\n"), "")), Ok(()));
        assert!(found(&answer(true, "", "")).unwrap_err().contains("no container"));
        assert!(found(&answer(false, &format!("{FOUND}\n"), "")).is_err());
    }

    #[test]
    fn a_container_without_a_gpu_or_a_driver_fails() {
        let dir = tempfile::tempdir().unwrap();
        let missing = || inside(dir.path()).err().map(|e| e.what().to_owned());
        assert_eq!(missing().as_deref(), Some("/dev/nvidiactl"));
        fs::create_dir(dir.path().join("dev")).unwrap();
        // A file is no device.
        fs::write(dir.path().join("dev/nvidiactl"), "").unwrap();
        assert_eq!(missing().as_deref(), Some("/dev/nvidiactl"));
        let root = Root::open(dir.path()).unwrap();
        let lib = dir.path().join("usr/local/nvidia/lib");
        fs::create_dir_all(&lib).unwrap();
        let mut left = MAX_ENTRIES;
        assert!(!has_libcuda(&root, Path::new("/usr"), MAX_DEPTH, &mut left));
        fs::write(lib.join("libcuda.so.1"), "").unwrap();
        assert!(has_libcuda(&root, Path::new("/usr"), MAX_DEPTH, &mut left));
        assert!(!has_libcuda(&root, Path::new("/usr"), 2, &mut left));
        let mut few = 2;
        assert!(!has_libcuda(&root, Path::new("/usr"), MAX_DEPTH, &mut few));
    }
}
