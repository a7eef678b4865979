//! What a case arranges on the host. All of it is taken back when the scene is dropped.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

use crate::bundle::Bundle;
use crate::host::Host;
use crate::image::remove;
use crate::process::{run, run_silently, words};
use crate::way::Runtime;

/// The host in the hands of a case.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    pub(crate) host: &'a Host,
    pub(crate) bundle: &'a Bundle,
    pub(crate) runtime: Runtime,
    /// A directory for outputs.
    pub(crate) evidence: &'a Path,
    undo: Vec<Undo>,
}

/// A step back.
#[derive(Debug)]
enum Undo {
    Cgroup(PathBuf),
    Delete(Runtime, String),
    End(Child),
    Mode(PathBuf, u32),
    Owner(PathBuf, u32, u32),
    Remove(PathBuf),
    Unmount(PathBuf),
}

/// A command's end and its output.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: i32,
    pub(crate) milliseconds: u128,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl<'a> Scene<'a> {
    pub(crate) fn new(host: &'a Host, bundle: &'a Bundle, runtime: Runtime, evidence: &'a Path) -> Self {
        Self {
            host,
            bundle,
            runtime,
            evidence,
            undo: Vec::new(),
        }
    }

    /// A directory with those above it.
    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.free(path)?;
        fs::create_dir_all(path)
    }

    /// A directory of a user, with a mode.
    pub(crate) fn directory_of(&mut self, path: &str, user: u32, mode: u32) -> io::Result<()> {
        self.directory(path)?;
        lchown(path, Some(user), None)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }

    pub(crate) fn file(&mut self, path: &str, contents: impl AsRef<[u8]>) -> io::Result<()> {
        self.free(path)?;
        fs::write(path, contents)
    }

    pub(crate) fn program(&mut self, path: &str, contents: &str) -> io::Result<()> {
        self.file(path, contents)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    }

    /// A file that nvoci may make: there is none before and after.
    pub(crate) fn absent(&mut self, path: &str) -> io::Result<()> {
        self.free(path)
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.free(path)?;
        symlink(target, path)
    }

    pub(crate) fn fifo(&mut self, path: &str) -> io::Result<()> {
        self.free(path)?;
        Ok(mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?)
    }

    /// A socket to which everybody may connect, and nobody accepts.
    pub(crate) fn socket(&mut self, path: &str) -> io::Result<()> {
        self.free(path)?;
        drop(UnixListener::bind(path)?);
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))
    }

    pub(crate) fn hard_link(&mut self, path: &str, of: &str) -> io::Result<()> {
        self.free(path)?;
        fs::hard_link(of, path)
    }

    /// Copies a file, or a directory with all in it.
    pub(crate) fn copy(&mut self, path: &str, of: &str) -> io::Result<()> {
        self.free(path)?;
        Self::must(&["cp", "-a", of, path])
    }

    /// Gives a file to a user, and back later. A link itself is given.
    pub(crate) fn give(&mut self, path: impl AsRef<Path>, user: u32) -> io::Result<()> {
        let path = path.as_ref();
        let before = fs::symlink_metadata(path)?;
        lchown(path, Some(user), None)?;
        let owner = Undo::Owner(path.to_owned(), before.uid(), before.gid());
        self.undo.push(owner);
        Ok(())
    }

    /// Sets a mode, until the end.
    pub(crate) fn mode(&mut self, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        let path = path.as_ref();
        let before = fs::metadata(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        self.undo
            .push(Undo::Mode(path.to_owned(), before.mode() & 0o7777));
        Ok(())
    }

    /// A tmpfs at a path.
    pub(crate) fn tmpfs(&mut self, path: &str, options: &str) -> io::Result<()> {
        self.directory(path)?;
        let options = CString::new(options)?;
        mount("host", path, "tmpfs", MountFlags::empty(), options.as_c_str())?;
        self.undo.push(Undo::Unmount(path.into()));
        Ok(())
    }

    pub(crate) fn bind(&mut self, path: &str, source: impl AsRef<Path>) -> io::Result<()> {
        mount_bind(source.as_ref(), path)?;
        self.undo.push(Undo::Unmount(path.into()));
        Ok(())
    }

    /// A file system of another kind: `mount` with these arguments.
    pub(crate) fn mount(&mut self, path: &str, arguments: &[&str]) -> io::Result<()> {
        let mut command = vec!["mount"];
        command.extend(arguments);
        command.push(path);
        Self::must(&command)?;
        self.undo.push(Undo::Unmount(path.into()));
        Ok(())
    }

    pub(crate) fn cgroup(&mut self, path: &str) -> io::Result<()> {
        let mut missing = Path::new(path);
        while let Some(above) = missing.parent()
            && !above.exists()
        {
            missing = above;
        }
        if !missing.exists() {
            self.undo.push(Undo::Cgroup(missing.into()));
        }
        fs::create_dir_all(path)
    }

    /// Starts a program that stays until the end.
    pub(crate) fn start(&mut self, command: &mut Command) -> io::Result<u32> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let id = child.id();
        self.undo.push(Undo::End(child));
        Ok(id)
    }

    /// Ends the programs that were started.
    pub(crate) fn end(&mut self) {
        for undo in &mut self.undo {
            if let Undo::End(child) = undo {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    /// Starts a container of a bundle, which stays until the end.
    pub(crate) fn container(&mut self, bundle: &Path, name: &str) -> io::Result<()> {
        let bundle = bundle.to_string_lossy();
        self.undo.push(Undo::Delete(self.runtime, name.to_owned()));
        let command = [self.runtime.name(), "run", "--detach", "--bundle", &bundle, name];
        let ended = self.run(name, 20, &command)?;
        if ended.status == 0 {
            return Ok(());
        }
        Err(io::Error::other(format!("no container {name}: {}", ended.err)))
    }

    /// The process of a container.
    pub(crate) fn process_of(&self, name: &str) -> io::Result<String> {
        let state = self.run("state", 8, &[self.runtime.name(), "state", name])?;
        let state: serde_json::Value = serde_json::from_str(&state.out).unwrap_or_default();
        Ok(state["pid"].to_string())
    }

    /// Runs a command with a time limit in seconds. The evidence has its output under `name`.
    pub(crate) fn run(&self, name: &str, seconds: u64, command: &[&str]) -> io::Result<Output> {
        let ended = run(&words(command), Duration::from_secs(seconds), self.evidence, name)?;
        let text = |stream: &str| {
            let bytes = fs::read(self.evidence.join(format!("{name}.{stream}")))?;
            io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Output {
            status: ended.status,
            milliseconds: ended.milliseconds,
            out: text("out")?,
            err: text("err")?,
        })
    }

    /// Runs a command that must succeed.
    pub(crate) fn must(command: &[&str]) -> io::Result<()> {
        let ended = run_silently(&words(command), Duration::from_secs(60))?;
        let text = || io::Error::other(format!("{}: exit status {}", command.join(" "), ended.status));
        (ended.status == 0).then_some(()).ok_or_else(text)
    }

    /// Removes what is at `path`, and remembers to remove it, or the first directory above it that
    /// is missing.
    fn free(&mut self, path: &str) -> io::Result<()> {
        let mut missing = Path::new(path);
        if missing.symlink_metadata().is_ok() && !missing.is_dir() {
            remove(missing)?;
        }
        while let Some(above) = missing.parent()
            && above.symlink_metadata().is_err()
        {
            missing = above;
        }
        if missing.symlink_metadata().is_err() {
            self.undo.push(Undo::Remove(missing.into()));
        }
        if let Some(above) = Path::new(path).parent() {
            fs::create_dir_all(above)?;
        }
        Ok(())
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        while let Some(undo) = self.undo.pop() {
            // What stays is found by the comparisons of the host's files and mounts.
            let _ = undo.apply();
        }
    }
}

impl Undo {
    fn apply(self) -> io::Result<()> {
        match self {
            Self::Cgroup(path) => remove_cgroup(&path),
            Self::Delete(runtime, name) => {
                let command = words(&[runtime.name(), "delete", "--force", &name]);
                run_silently(&command, Duration::from_secs(20)).map(drop)
            }
            Self::End(mut child) => {
                let _ = child.kill();
                child.wait().map(drop)
            }
            Self::Mode(path, mode) => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
            Self::Owner(path, user, group) => lchown(path, Some(user), Some(group)),
            Self::Remove(path) => remove(&path),
            Self::Unmount(path) => Ok(unmount(path, UnmountFlags::DETACH)?),
        }
    }
}

/// Removes a cgroup and those below it.
fn remove_cgroup(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
