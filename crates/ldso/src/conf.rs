//! Reads `ld.so.conf`, the list of directories that ldconfig scans.
//!
//! A line is a directory, `#` starts a comment, `include PATTERN...` reads other files (a relative
//! pattern counts from the including file's directory), and `hwcap` lines have no effect. An image
//! controls these files: each has at most 64 KiB, at most 256 are looked up (missing ones
//! included), nested at most 8 deep, none is read twice, and none on procfs or sysfs is opened.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::Warnings;
use super::glob;
use super::lookup::Lookups;
use inroot::root::{Node, Root};

/// ldconfig's own configuration file.
pub const DEFAULT: &str = "/etc/ld.so.conf";
const MAX_BYTES: u64 = 64 * 1024;
/// The most files that are looked up.
const MAX_FILES: usize = 256;
const MAX_DEPTH: usize = 8;
/// The most directories; each is also looked up by its name.
const MAX_DIRS: usize = 256;

/// The meaning of one line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Line<'a> {
    /// `include` with its patterns.
    Include(Vec<&'a [u8]>),
    /// A directory, without trailing slashes.
    Dir(&'a [u8]),
    /// A `hwcap` line, which glibc ignores too.
    Hwcap,
}

/// A directory, and the line that names it.
#[derive(Clone, Debug)]
pub struct ConfDir {
    /// The container path.
    pub path: PathBuf,
    /// The file; the order of files is the order of directories.
    pub from: PathBuf,
    /// The line, from 1.
    pub line: usize,
}

/// The content of the whole configuration.
#[derive(Debug, Default)]
pub struct Conf {
    /// Directories in their order, with duplicates.
    pub dirs: Vec<ConfDir>,
    /// The newest modification time of the files, and of the directories that patterns listed.
    pub newest: super::current::Time,
    /// The index in `dirs` of the first `include` line; `None` without one.
    pub first_include: Option<usize>,
}

/// Parses the lines of a configuration file, with their numbers from 1.
pub fn lines(text: &[u8]) -> impl Iterator<Item = (usize, Line<'_>)> {
    text.split(|&b| b == b'\n').enumerate().filter_map(|(i, line)| {
        // glibc has C strings: a NUL ends the line.
        let end = line
            .iter()
            .position(|&b| matches!(b, b'#' | 0))
            .unwrap_or(line.len());
        let line = trim_start(&line[..end]);
        let blank = |at: usize| matches!(line.get(at), Some(b' ' | b'\t'));
        let parsed = if line.is_empty() {
            return None;
        } else if line.starts_with(b"include") && blank(7) {
            let words = line[8..].split(|b| matches!(b, b' ' | b'\t'));
            Line::Include(words.filter(|w| !w.is_empty()).collect())
        } else if line.len() > 5 && line[..5].eq_ignore_ascii_case(b"hwcap") && blank(5) {
            Line::Hwcap
        } else {
            // "DIR=TYPE" has the type of a libc generation that no longer exists.
            let dir = line.split(|&b| b == b'=').next().unwrap_or_default();
            let dir = trim_end(dir, is_space);
            Line::Dir(trim_end(dir, |b| b == b'/'))
        };
        (parsed != Line::Dir(b"")).then_some((i + 1, parsed))
    })
}

/// Reads the configuration at `path` and all its includes. A missing file counts as an empty one.
pub fn read<'r>(root: &'r Root, path: &Path, lookups: &mut Lookups<'r>, warnings: &mut Warnings) -> Conf {
    let mut reader = Reader {
        root,
        links: lookups,
        warnings,
        conf: Conf::default(),
        seen: BTreeSet::new(),
        lookups: 0,
        patterns: glob::Allowance::default(),
    };
    reader.file(path, 0);
    reader.conf.newest = reader.conf.newest.max(reader.patterns.newest());
    reader.conf
}

struct Reader<'a, 'r> {
    root: &'r Root,
    links: &'a mut Lookups<'r>,
    warnings: &'a mut Warnings,
    conf: Conf,
    seen: BTreeSet<(u64, u64)>,
    /// Paths that were looked up, with missing ones.
    lookups: usize,
    patterns: glob::Allowance,
}

impl Reader<'_, '_> {
    fn file(&mut self, path: &Path, depth: usize) {
        self.lookups = (self.lookups + 1).min(MAX_FILES + 2);
        // Of many files that are left out, only the first is named.
        if depth > MAX_DEPTH || self.lookups == MAX_FILES + 1 {
            self.warnings.add(format_args!(
                "{}: too many included files, ignored",
                path.display()
            ));
        }
        if depth > MAX_DEPTH || self.lookups > MAX_FILES {
            return;
        }
        let Ok(node) = self.links.resolve(path) else {
            return;
        };
        if !self.seen.insert(node.id()) {
            return;
        }
        self.conf.newest.note(node.stat());
        let text = match content(&node) {
            Ok(text) => text,
            Err(e) => {
                self.warnings
                    .add(format_args!("{}: ignored: {e}", path.display()));
                return;
            }
        };
        for (number, line) in lines(&text) {
            match line {
                Line::Include(patterns) => {
                    self.conf.first_include.get_or_insert(self.conf.dirs.len());
                    for pattern in patterns {
                        self.include(path, pattern, depth);
                    }
                }
                Line::Dir(dir) if dir[0] != b'/' => {
                    self.warnings.add(format_args!(
                        "{}:{number}: relative directory ignored",
                        path.display()
                    ));
                }
                Line::Dir(dir) if self.conf.dirs.len() < MAX_DIRS => self.conf.dirs.push(ConfDir {
                    path: PathBuf::from(OsStr::from_bytes(dir)),
                    from: path.to_owned(),
                    line: number,
                }),
                Line::Dir(_) => {
                    self.warnings.add(format_args!(
                        "{}: more than {MAX_DIRS} directories",
                        path.display()
                    ));
                    return;
                }
                Line::Hwcap => {
                    self.warnings.add(format_args!(
                        "{}:{number}: hwcap directive ignored",
                        path.display()
                    ));
                }
            }
        }
    }

    fn include(&mut self, from: &Path, pattern: &[u8], depth: usize) {
        // An absolute pattern replaces the directory to which it is joined.
        let pattern = from
            .parent()
            .unwrap_or_else(|| Path::new("/"))
            .join(OsStr::from_bytes(pattern));
        let found = glob::expand(self.root, &pattern, &mut self.patterns);
        if self.patterns.is_spent() {
            self.warnings.add(format_args!(
                "{}: include patterns match too much",
                from.display()
            ));
        }
        for file in found {
            self.file(&file, depth + 1);
        }
    }
}

/// The text of a configuration file.
fn content(node: &Node) -> std::io::Result<Vec<u8>> {
    let wrong = |why| std::io::Error::new(std::io::ErrorKind::InvalidInput, why);
    if !node.is_file() {
        return Err(wrong("not a regular file"));
    }
    // The kernel's own files report wrong sizes, and reading some has effects.
    if node.is_kernel_file()? {
        return Err(wrong("a file of the kernel"));
    }
    if u64::try_from(node.stat().st_size).is_ok_and(|size| size > MAX_BYTES) {
        return Err(wrong("larger than 64 KiB"));
    }
    node.read(MAX_BYTES)
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t'..=b'\r')
}

fn trim_start(line: &[u8]) -> &[u8] {
    let start = line.iter().position(|&b| !is_space(b)).unwrap_or(line.len());
    &line[start..]
}

fn trim_end(text: &[u8], unwanted: impl Fn(u8) -> bool) -> &[u8] {
    let end = text.iter().rposition(|&b| !unwanted(b)).map_or(0, |i| i + 1);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_glibc_reads_them() {
        let text =
            b"# c\n  /opt/a//  \ninclude a.conf\tb/*.conf # x\nhwcap 1 nosegneg\n/o=libc6\nincluded\n/\n\n";
        let parsed: Vec<_> = lines(text).collect();
        assert_eq!(
            parsed,
            [
                (2, Line::Dir(b"/opt/a")),
                (3, Line::Include(vec![b"a.conf", b"b/*.conf"])),
                (4, Line::Hwcap),
                (5, Line::Dir(b"/o")),
                (6, Line::Dir(b"included")),
            ]
        );
    }
}
