//! Finds the library that the loader would load, without running it.
//!
//! glibc's order (ld.so(8)): the `DT_RPATH` of the requesting object, unless it has a `DT_RUNPATH`;
//! `LD_LIBRARY_PATH`; the `DT_RUNPATH`; the cache; the system directories. It skips a file of
//! another class or machine and continues. musl searches `LD_LIBRARY_PATH`, the run path, then its
//! directory list.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::abi::Arch;
use super::cache::{self, Cache};
use super::elf::{self, ElfInfo};
use super::flavor::{Flavor, flavor};
use super::{CACHE, dirs, musl};
use inroot::root::Root;

/// The most directories of one search path.
const MAX_PATHS: usize = 256;

/// The parameters of a search besides the root.
#[derive(Clone, Debug, Default)]
pub struct LoaderEnv {
    /// `LD_LIBRARY_PATH` of the process.
    pub library_path: Option<Vec<u8>>,
    /// The program or library that requests the soname: its path and its facts from [`elf::read`].
    pub requester: Option<(PathBuf, ElfInfo)>,
    /// The working directory of the process, for empty and relative directories. They are skipped
    /// without it.
    pub cwd: Option<PathBuf>,
    /// `e_machine` and class of the process; the root's own by default.
    pub abi: Option<(u16, bool)>,
    /// The `glibc-hwcaps` names that the processor supports, best first; none by default.
    pub hwcaps: Vec<String>,
}

/// A library that the loader would load.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Found {
    /// The container path by which it is found; symbolic links are not followed.
    pub path: PathBuf,
    /// The step that found it.
    pub via: Via,
}

/// The step of the search that found a library.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Via {
    /// The name has a slash.
    Path,
    /// `DT_RPATH` of the requesting object.
    Rpath,
    /// `LD_LIBRARY_PATH`.
    LibraryPath,
    /// `DT_RUNPATH` of the requesting object.
    Runpath,
    /// `/etc/ld.so.cache`.
    Cache,
    /// A directory that is always searched.
    SystemDir,
}

impl std::fmt::Display for Via {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Path => "path",
            Self::Rpath => "DT_RPATH",
            Self::LibraryPath => "LD_LIBRARY_PATH",
            Self::Runpath => "DT_RUNPATH",
            Self::Cache => CACHE,
            Self::SystemDir => "system directory",
        })
    }
}

/// An entry of `LD_LIBRARY_PATH`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The entry as it is written.
    pub text: Vec<u8>,
    /// The directory that it names in the container, an absolute path.
    pub dir: PathBuf,
}

/// The loader's reaction to a path at which it tries to open a library.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reaction {
    /// It continues: there is no file, or one for another class or machine.
    Continues,
    /// It loads the file.
    Loads,
    /// It fails, for example with "file too short": the file is no library.
    Fails,
}

/// The `glibc-hwcaps` names that glibc defines and this processor supports, best first.
pub fn hwcaps() -> Vec<String> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let v2 = has!("cmpxchg16b") && has!("popcnt") && has!("sse4.2") && has!("ssse3");
        let v3 = v2 && has!("avx2") && has!("bmi2") && has!("fma") && has!("f16c") && has!("lzcnt");
        let v4 = v3 && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
        let levels = [(v4, "x86-64-v4"), (v3, "x86-64-v3"), (v2, "x86-64-v2")];
        levels
            .into_iter()
            .filter(|(supported, _)| *supported)
            .map(|(_, name)| name.to_owned())
            .collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

/// A search in the directories of `LD_LIBRARY_PATH`, one by one.
#[derive(Debug)]
pub struct LibraryPath<'a> {
    search: Search<'a>,
    /// The entries that the loader searches, in its order.
    pub entries: Vec<Entry>,
    /// Whether the variable has more entries than are read.
    pub is_cut: bool,
}

impl<'a> LibraryPath<'a> {
    /// Splits the variable of `env` as the root's loader does. A root without a loader, and one
    /// without the variable, have no entries.
    pub fn new(root: &'a Root, env: &'a LoaderEnv) -> Option<Self> {
        let list = env.library_path.as_deref()?;
        let search = Search::new(root, env)?;
        let (entries, is_cut) = search.entries(list, Via::LibraryPath);
        Some(Self {
            search,
            entries,
            is_cut,
        })
    }

    /// The loader's reaction to `path`.
    pub fn reaction(&self, path: &Path) -> Reaction {
        self.search.reaction(path)
    }
}

/// Finds `soname` as the root's loader would for a process with `env`; `None` if it would fail, or
/// the root has no loader.
pub fn resolve(root: &Root, soname: &str, env: &LoaderEnv) -> Option<Found> {
    let search = Search::new(root, env)?;
    let arch = search.arch;
    if soname.contains('/') {
        return search.fits(Path::new(soname)).then(|| Found {
            path: PathBuf::from(soname),
            via: Via::Path,
        });
    }
    if soname.is_empty() {
        return None;
    }
    let (rpath, runpath) = match &env.requester {
        Some((_, info)) => (info.rpath.as_deref(), info.runpath.as_deref()),
        None => (None, None),
    };
    let library_path = env.library_path.as_deref();
    if search.is_musl {
        let system = musl::search_path(root, arch);
        return search
            .list(library_path, soname, Via::LibraryPath)
            .or_else(|| search.list(runpath.or(rpath), soname, Via::Runpath))
            .or_else(|| search.in_dirs(system.iter().map(|dir| bytes_path(dir)), soname, Via::SystemDir));
    }
    search
        .list(rpath.filter(|_| runpath.is_none()), soname, Via::Rpath)
        .or_else(|| search.list(library_path, soname, Via::LibraryPath))
        .or_else(|| search.list(runpath, soname, Via::Runpath))
        .or_else(|| search.in_cache(soname))
        .or_else(|| {
            let system = dirs::system_dirs(root, arch).iter().map(Path::new);
            search.in_dirs(system, soname, Via::SystemDir)
        })
}

#[derive(Debug)]
struct Search<'a> {
    root: &'a Root,
    arch: &'static Arch,
    is_musl: bool,
    env: &'a LoaderEnv,
    /// `e_machine` and whether 64-bit.
    abi: (u16, bool),
}

impl<'a> Search<'a> {
    /// `None` if the root has no loader.
    fn new(root: &'a Root, env: &'a LoaderEnv) -> Option<Self> {
        let flavor = flavor(root);
        let (Flavor::Glibc(arch) | Flavor::Musl(arch)) = flavor else {
            return None;
        };
        Some(Self {
            root,
            arch,
            is_musl: matches!(flavor, Flavor::Musl(_)),
            env,
            abi: env.abi.unwrap_or((arch.machine, true)),
        })
    }

    /// The directories of a list from the environment or an ELF file, and whether it has more than
    /// are read.
    fn entries(&self, list: &[u8], via: Via) -> (Vec<Entry>, bool) {
        let of_variable = via == Via::LibraryPath;
        if of_variable && list.is_empty() {
            return (Vec::new(), false);
        }
        // Of glibc's lists only LD_LIBRARY_PATH may have semicolons. musl splits at line feeds too.
        let separator = |&b: &u8| match b {
            b':' => true,
            b';' => of_variable && !self.is_musl,
            b'\n' => self.is_musl,
            _ => false,
        };
        let mut texts = list.split(separator);
        let entries = texts
            .by_ref()
            .take(MAX_PATHS)
            .filter_map(|text| {
                let dir = match (self.is_musl, text) {
                    (true, b"") => return None,
                    // musl replaces tokens in ELF files only.
                    (true, text) if of_variable => bytes_path(text).to_owned(),
                    (_, text) => self.expand(text)?,
                };
                // An empty or relative directory means the process's working directory.
                let dir = match &self.env.cwd {
                    Some(cwd) => cwd.join(dir),
                    None => dir,
                };
                let text = text.to_vec();
                dir.is_absolute().then_some(Entry { text, dir })
            })
            .collect();
        (entries, texts.next().is_some())
    }

    /// Searches a list of directories from the environment or an ELF file.
    fn list(&self, list: Option<&[u8]>, soname: &str, via: Via) -> Option<Found> {
        let (entries, _) = self.entries(list?, via);
        self.in_dirs(entries.iter().map(|entry| entry.dir.as_path()), soname, via)
    }

    fn in_dirs<'d>(&self, dirs: impl Iterator<Item = &'d Path>, soname: &str, via: Via) -> Option<Found> {
        for dir in dirs {
            let hwcaps = self
                .env
                .hwcaps
                .iter()
                .map(|name| dir.join("glibc-hwcaps").join(name));
            for dir in hwcaps.chain(std::iter::once(dir.to_owned())) {
                let path = dir.join(soname);
                if self.fits(&path) {
                    return Some(Found { path, via });
                }
            }
        }
        None
    }

    fn in_cache(&self, soname: &str) -> Option<Found> {
        let bytes = self.root.read(CACHE, cache::MAX_BYTES).ok()?;
        let cache = Cache::parse(&bytes).ok()?;
        let flags = self.arch.flags_of(self.abi.0, self.abi.1, 0)?;
        let rank = |hwcap: Option<usize>| match hwcap {
            None => Some(usize::MAX),
            Some(index) => {
                let name = cache.hwcaps().get(index)?;
                self.env.hwcaps.iter().position(|known| known.as_bytes() == *name)
            }
        };
        let best = cache
            .find(soname.as_bytes())
            // The loader of a 32-bit ABI accepts the neutral types too.
            .filter(|entry| entry.flags == flags && entry.soname == soname.as_bytes())
            .filter(|entry| entry.hwcap == 0 || entry.hwcaps_index().is_some())
            .filter_map(|entry| Some((rank(entry.hwcaps_index())?, entry)))
            // The first of equal entries.
            .min_by_key(|(rank, _)| *rank)?
            .1;
        let path = best.os_path().to_owned();
        self.fits(&path).then_some(Found {
            path,
            via: Via::Cache,
        })
    }

    /// Replaces the loader's tokens, and leaves another `$` as it is; `None` for a token whose
    /// value is unknown.
    fn expand(&self, dir: &[u8]) -> Option<PathBuf> {
        if !dir.contains(&b'$') {
            return Some(bytes_path(dir).to_owned());
        }
        let origin = || {
            let (path, _) = self.env.requester.as_ref()?;
            Some(path.parent()?.as_os_str().as_bytes())
        };
        let lib: &[u8] = match dirs::system_dirs(self.root, self.arch)[0].strip_prefix("/lib/") {
            Some(triplet) if self.abi.1 => &[b"lib/", triplet.as_bytes()].concat(),
            _ if self.abi.1 => b"lib64",
            _ => b"lib",
        };
        let platform: &[u8] = match self.arch.triplet.split_once('-') {
            Some((machine, _)) => machine.as_bytes(),
            None => return None,
        };
        let mut out = Vec::new();
        let mut rest = dir;
        while let Some(at) = rest.iter().position(|&b| b == b'$') {
            out.extend_from_slice(&rest[..at]);
            rest = &rest[at + 1..];
            let tokens: [(&str, Option<&[u8]>); 3] = [
                ("ORIGIN", origin()),
                ("LIB", Some(lib)),
                ("PLATFORM", Some(platform)),
            ];
            let token = tokens.into_iter().find_map(|(name, value)| {
                let braced = rest
                    .strip_prefix(b"{")
                    .and_then(|r| r.strip_prefix(name.as_bytes()))
                    .and_then(|r| r.strip_prefix(b"}"));
                let is_end = |after: &&[u8]| {
                    after
                        .first()
                        .is_none_or(|b| !b.is_ascii_alphanumeric() && *b != b'_')
                };
                let plain = || rest.strip_prefix(name.as_bytes()).filter(is_end);
                Some((braced.or_else(plain)?, value))
            });
            let Some((after, value)) = token else {
                out.push(b'$');
                continue;
            };
            out.extend_from_slice(value?);
            rest = after;
        }
        out.extend_from_slice(rest);
        Some(bytes_path(&out).to_owned())
    }

    /// Whether the loader of this ABI would load the file.
    fn fits(&self, path: &Path) -> bool {
        self.reaction(path) == Reaction::Loads
    }

    fn reaction(&self, path: &Path) -> Reaction {
        let Ok(node) = self.root.resolve(path) else {
            return Reaction::Continues;
        };
        if !node.is_file() {
            return Reaction::Fails;
        }
        let Ok(file) = node.open_read() else {
            return Reaction::Continues;
        };
        match elf::identify(&file) {
            Ok(info) if (info.machine, info.is_64) == self.abi => Reaction::Loads,
            Ok(_) => Reaction::Continues,
            Err(_) => Reaction::Fails,
        }
    }
}

fn bytes_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
