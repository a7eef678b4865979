//! Proves that only root can have put a program at its path.

use std::path::{Path, PathBuf};

use crate::error::{Code, Error, Result};

use super::owned;

/// Directories of the host's own programs. The caller's `PATH` is not used: `su` keeps a user's.
pub const DIRS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];
/// `DIRS` as the `PATH` of programs that nvoci starts.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The path of a program that nobody but root (or the user who runs this) can have put there or can
/// replace, in any component. Only a path of this type is written where root will execute it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Program(PathBuf);

impl Program {
    /// Proves the program at `path`.
    ///
    /// # Errors
    /// [`Code::NoProgram`] if there is none, [`Code::LooseProgram`] if another user could replace
    /// it.
    pub fn prove(path: &Path) -> Result<Self> {
        let shown = || path.display().to_string();
        let none = |why: &str| Error::new(Code::NoProgram, shown(), why);
        // The text must fit into an engine's file and name one place.
        let plain = path.to_str().is_some_and(|p| !p.chars().any(char::is_control));
        if !path.is_absolute() || !plain || path.components().any(|c| c.as_os_str() == "..") {
            return Err(none("it is no plain absolute path"));
        }
        let node = match owned::find_lasting(path) {
            Ok(Some(node)) => node,
            Ok(None) => return Err(none("it does not exist")),
            Err(e) if e.code() == Code::UnsafeOwner => {
                let why = if e.what() == shown() {
                    e.why().to_owned()
                } else {
                    format!("{}: {}", e.what(), e.why())
                };
                return Err(Error::new(Code::LooseProgram, shown(), why));
            }
            Err(e) => return Err(e),
        };
        if !node.is_file() || node.stat().st_mode & 0o111 == 0 {
            return Err(none("it is not an executable file"));
        }
        Ok(Self(path.to_owned()))
    }

    /// The host's program of that name; a program that another user could replace is skipped.
    pub fn find(name: &str) -> Option<Self> {
        DIRS.iter()
            .find_map(|d| Self::prove(&Path::new(d).join(name)).ok())
    }

    /// The program that an engine's file names: by its path, or by a name that the engine looks up.
    ///
    /// # Errors
    /// Those of [`Program::prove`].
    pub fn named(text: &str) -> Result<Self> {
        if text.contains('/') || text.is_empty() {
            return Self::prove(Path::new(text));
        }
        Self::first_in(&DIRS.map(Path::new), text)
    }

    /// The first program of that name in `dirs`. Fails where another user can put one before it.
    fn first_in(dirs: &[&Path], name: &str) -> Result<Self> {
        for dir in dirs {
            match Self::prove(&dir.join(name)) {
                Err(e) if e.code() == Code::NoProgram => {}
                proven => return proven,
            }
        }
        let why = "no directory of the host's programs has it";
        Err(Error::new(Code::NoProgram, name, why))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Its path as text; [`Program::prove`] has checked that it is UTF-8.
    pub fn text(&self) -> String {
        self.0.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    fn code(path: &Path) -> Option<Code> {
        Program::prove(path).err().map(|e| e.code())
    }

    #[test]
    fn programs_that_root_executes_later_are_proven() {
        // A program below `/tmp` is never registered.
        let built = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(built.parent().unwrap()).unwrap();
        let at = |name: &str| dir.path().join(name);
        let mode = |name: &str, mode| fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
        fs::create_dir(at("bin")).unwrap();
        fs::write(at("bin/nvoci"), "").unwrap();
        mode("bin", 0o755);
        mode("bin/nvoci", 0o644);
        assert_eq!(code(&at("bin/nvoci")), Some(Code::NoProgram));
        mode("bin/nvoci", 0o755);
        symlink("nvoci", at("bin/nvoci-runtime")).unwrap();
        assert_eq!(
            Program::prove(&at("bin/nvoci-runtime")).unwrap().path(),
            at("bin/nvoci-runtime")
        );
        for (path, wanted) in [
            (at("bin/none"), Code::NoProgram),
            (at("bin"), Code::NoProgram),
            (at("bin/../bin/nvoci"), Code::NoProgram),
            (at("bin/nv\noci"), Code::NoProgram),
            (PathBuf::from("bin/nvoci"), Code::NoProgram),
        ] {
            assert_eq!(code(&path), Some(wanted), "{}", path.display());
        }
        for (name, loose, tight) in [
            ("bin/nvoci", 0o757, 0o755),
            ("bin/nvoci", 0o775, 0o755),
            ("bin", 0o777, 0o755),
            ("bin", 0o1777, 0o755),
            ("bin", 0o1775, 0o755),
        ] {
            mode(name, loose);
            assert_eq!(
                code(&at("bin/nvoci")),
                Some(Code::LooseProgram),
                "{name} {loose:o}"
            );
            assert_eq!(
                code(&at("bin/nvoci-runtime")),
                Some(Code::LooseProgram),
                "{name} {loose:o}"
            );
            mode(name, tight);
        }
        if rustix::process::geteuid().is_root() {
            chown(at("bin"), Some(1000), Some(1000)).unwrap();
            let e = Program::prove(&at("bin/nvoci")).unwrap_err();
            assert!(
                e.code() == Code::LooseProgram && e.why().contains("user 1000"),
                "{e}"
            );
        }
    }

    #[test]
    fn the_hosts_own_are_found_without_path() {
        let sh = Program::find("sh").unwrap();
        assert!(sh.path().is_absolute());
        assert!(Program::find("no-such-program").is_none() && Program::find("../bin/sh").is_none());
    }

    #[test]
    fn nobody_else_can_put_a_program_before_a_named_one() {
        let built = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(built.parent().unwrap()).unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        for dir in [&first, &second] {
            fs::create_dir(dir).unwrap();
            fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(second.join("runtime"), "").unwrap();
        fs::set_permissions(second.join("runtime"), Permissions::from_mode(0o755)).unwrap();
        let found = || Program::first_in(&[&first, &second], "runtime");
        assert_eq!(found().unwrap().path(), second.join("runtime"));
        fs::set_permissions(&first, Permissions::from_mode(0o757)).unwrap();
        assert_eq!(found().unwrap_err().code(), Code::LooseProgram);
        fs::write(first.join("runtime"), "").unwrap();
        fs::set_permissions(first.join("runtime"), Permissions::from_mode(0o755)).unwrap();
        assert_eq!(found().unwrap_err().code(), Code::LooseProgram);
        fs::set_permissions(&first, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(found().unwrap().path(), first.join("runtime"));
    }
}
