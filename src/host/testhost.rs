//! Hosts for tests: directory trees in the shape of a recorded or invented machine.
//!
//! `tests/hosts/<name>/root` holds recorded files (procfs, loader cache). `files.txt` lists the
//! machine's other files (mode, size, path, link target), and `elf.txt` the sonames of libraries,
//! which become valid but empty ELF files. `share.txt` has the texts of some files, each after a
//! line `== PATH`.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::{Host, Locations, Roots};

/// An invented host in a temporary directory: `root` is the driver root, with `dev`, `proc`, `sys`
/// below.
pub(crate) struct TestHost {
    dir: tempfile::TempDir,
}

impl TestHost {
    /// A machine with nothing of NVIDIA.
    pub(crate) fn bare() -> Self {
        // A static specification refuses paths below `/tmp`, where another user may replace the
        // host's root.
        let dir = tempfile::tempdir_in("/var/lib")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        for name in ["dev", "proc", "sys", "etc", "usr/lib64"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    /// The machine in `tests/hosts/<name>`.
    pub(crate) fn recorded(name: &str) -> Self {
        let host = Self::bare();
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/hosts")
            .join(name);
        copy_tree(&from.join("root"), host.path());
        let sonames = fs::read_to_string(from.join("elf.txt")).unwrap_or_default();
        let soname = |file: &str| {
            sonames
                .lines()
                .find_map(|l| l.strip_prefix(file)?.strip_prefix(" soname=")?.split(' ').next())
                .map(str::to_owned)
        };
        let texts = fs::read_to_string(from.join("share.txt")).unwrap_or_default();
        let text = |path: &str| {
            let part = texts.split("== /").find(|t| t.lines().next() == Some(path));
            part.and_then(|t| t.split_once('\n'))
                .map_or("", |(_, text)| text.trim_end())
        };
        for line in fs::read_to_string(from.join("files.txt"))
            .unwrap_or_default()
            .lines()
        {
            let mut words = line.split(' ');
            let (Some(kind), Some(path)) = (words.next(), words.nth(2)) else {
                continue;
            };
            let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
            match kind {
                "l" => host.link(path, words.nth(1).unwrap_or_default()),
                "f" if name.contains(".so.") => host.library(path, soname(&name).as_deref(), 64),
                "f" if path.contains("/bin/") => host.library(path, None, 64),
                "f" => host.file(path, text(path)),
                _ => {}
            }
        }
        host
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file, with its directories.
    pub(crate) fn file(&self, path: &str, text: impl AsRef<[u8]>) {
        let at = self.make_dirs(path);
        fs::write(at, text).unwrap();
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        symlink(target, self.make_dirs(path)).unwrap();
    }

    /// Writes a library of nothing but headers, for 64-bit or 32-bit x86.
    pub(crate) fn library(&self, path: &str, soname: Option<&str>, bits: u8) {
        self.file(path, elf(soname.unwrap_or_default(), bits));
    }

    /// Writes a driver's files with their links: `dir/<stem>.so.<version>` with `dir/<soname>`.
    pub(crate) fn driver(&self, dir: &str, version: &str, libraries: &[(&str, &str)]) {
        for (stem, soname) in libraries {
            let name = format!("{stem}.so.{version}");
            self.library(&format!("{dir}/{name}"), Some(soname), 64);
            if *soname != name {
                self.link(&format!("{dir}/{soname}"), &name);
            }
        }
    }

    /// Writes a loader cache with these sonames and paths, in the format of glibc 2.2 and later.
    pub(crate) fn cache(&self, entries: &[(&str, &str)]) {
        let mut strings = Vec::new();
        let mut table = Vec::new();
        let strings_at = 48 + 24 * entries.len();
        let mut offset_of = |s: &str| {
            let at = u32::try_from(strings_at + strings.len()).unwrap();
            strings.extend(s.bytes().chain([0]));
            at.to_le_bytes()
        };
        for (soname, path) in entries {
            table.extend(0x303_u32.to_le_bytes());
            table.extend(offset_of(soname));
            table.extend(offset_of(path));
            table.extend([0; 12]);
        }
        let mut out = b"glibc-ld.so.cache1.1".to_vec();
        for n in [entries.len(), strings.len(), 0, 0, 0, 0, 0] {
            out.extend(u32::try_from(n).unwrap().to_le_bytes());
        }
        out.extend(table);
        out.extend(strings);
        self.file("etc/ld.so.cache", out);
    }

    /// Makes a character device below `dev`. Returns `false`, with a message on standard error, if
    /// the process may not; the test then has nothing to check.
    pub(crate) fn device(&self, path: &str, major: u32, minor: u32, mode: u32) -> bool {
        use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
        let at = self.make_dirs(&format!("dev/{path}"));
        let result = mknodat(
            CWD,
            &at,
            FileType::CharacterDevice,
            Mode::from_raw_mode(mode),
            makedev(major, minor),
        );
        match result {
            Ok(()) => fs::set_permissions(&at, fs::Permissions::from_mode(mode)).is_ok(),
            Err(e) => {
                eprintln!("SKIPPED: making device nodes needs CAP_MKNOD: {e}");
                false
            }
        }
    }

    /// The kernel module's procfs files, for GPUs at bus 1, 2, ...
    pub(crate) fn module(&self, version: &str, gpus: u32) {
        self.file(
            "proc/driver/nvidia/version",
            format!(
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Sat Aug 19 01:15:15 UTC 2023\n\
                 GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
            ),
        );
        self.file(
            "proc/devices",
            "Character devices:\n  1 mem\n195 nvidia-frontend\n226 drm\n508 nvidia-uvm\n511 nvidia-caps\n\n\
             Block devices:\n259 blkext\n",
        );
        self.file(
            "proc/driver/nvidia/params",
            "ModifyDeviceFiles: 1\nDeviceFileUID: 0\nDeviceFileGID: 0\nDeviceFileMode: 438\n",
        );
        for gpu in 0..gpus {
            let bus = gpu + 1;
            self.file(
                &format!("proc/driver/nvidia/gpus/0000:{bus:02x}:00.0/information"),
                format!(
                    "Model: \t\t NVIDIA A100-SXM4-40GB\nGPU UUID: \t GPU-{gpu:08x}-0000-0000-0000-000000000000\n\
                     Bus Location: \t 0000:{bus:02x}:00.0\nDevice Minor: \t {gpu}\nGPU Excluded:\t No\n"
                ),
            );
        }
    }

    /// The paths of this host, for [`Roots::open`].
    pub(crate) fn locations(&self) -> Locations {
        let at = |name: &str| self.path().join(name);
        Locations {
            driver_root: self.path().to_owned(),
            dev_root: Some(at("dev")),
            proc_root: at("proc"),
            sys_root: at("sys"),
            ..Locations::default()
        }
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::open(&self.locations()).unwrap()
    }

    pub(crate) fn discover(&self) -> Host {
        Host::discover(&self.roots(), &self.locations()).unwrap()
    }

    fn make_dirs(&self, path: &str) -> PathBuf {
        let at = self.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        at
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::write(&target, fs::read(entry.path()).unwrap()).unwrap();
            fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
}

/// A shared object of one loadable segment and a dynamic section.
pub(crate) fn elf(soname: &str, bits: u8) -> Vec<u8> {
    let wide = bits == 64;
    let (header, entry) = if wide { (64_u64, 56_u64) } else { (52, 32) };
    let strings = {
        let mut s = vec![0_u8];
        s.extend(soname.as_bytes());
        s.push(0);
        s
    };
    let dynamic_at = header + 2 * entry;
    let word = if wide { 8 } else { 4 };
    let dynamic_size = 4 * 2 * word;
    let strings_at = dynamic_at + dynamic_size;
    let total = strings_at + strings.len() as u64;

    let mut out = vec![0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, 1, 1];
    out.resize(16, 0);
    let put = |out: &mut Vec<u8>, value: u64, size: usize| out.extend(&value.to_le_bytes()[..size]);
    let w = usize::try_from(word).unwrap();
    put(&mut out, 3, 2);
    put(&mut out, if wide { 62 } else { 3 }, 2);
    put(&mut out, 1, 4);
    put(&mut out, 0, w);
    put(&mut out, header, w);
    put(&mut out, 0, w);
    put(&mut out, 0, 4);
    put(&mut out, header, 2);
    put(&mut out, entry, 2);
    put(&mut out, 2, 2);
    put(&mut out, 0, 6);
    for (kind, at, size) in [(1_u64, 0, total), (2, dynamic_at, dynamic_size)] {
        put(&mut out, kind, 4);
        if wide {
            put(&mut out, 4, 4);
        }
        for value in [at, at, at, size, size] {
            put(&mut out, value, w);
        }
        if wide {
            put(&mut out, 8, 8);
        } else {
            put(&mut out, 4, 4);
            put(&mut out, 4, 4);
        }
    }
    let soname_tag = if soname.is_empty() { (0, 0) } else { (14, 1) };
    for (tag, value) in [(5, strings_at), (10, strings.len() as u64), soname_tag, (0, 0)] {
        put(&mut out, tag, w);
        put(&mut out, value, w);
    }
    out.extend(strings);
    out
}
