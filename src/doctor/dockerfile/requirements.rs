//! The files that `pip install -r` reads, where the build context has them.
//!
//! A path in the image is traced to the context by the `COPY`, `ADD` and bind mounts before it.
//! Facts: pip's "Requirements File Format", and PEP 508 for markers.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use super::ignore::Ignore;
use super::parse::{Line, TEXT};
use crate::sys::budget::{Budget, Exceeded};
use crate::sys::root::Root;

/// The largest requirements file that is read, in bytes.
const MAX_FILE: u64 = 256 << 10;
/// The most files that one command leads to.
const MAX_FILES: usize = 16;
/// The longest path, in bytes, as the kernel's.
pub(super) const MAX_PATH: usize = 4096;

/// The build context: the directory whose files `COPY` takes.
#[derive(Clone, Debug, Default)]
pub struct Context {
    root: Option<Rc<Root>>,
    /// The context's path in `root`.
    dir: String,
    /// The ignore file of one Dockerfile, which stands for the context's.
    ignore: Option<String>,
}

impl Context {
    /// The context `dir`; none of its files can be read if it cannot be opened.
    pub fn at(dir: &Path) -> Self {
        Self {
            root: Root::open(dir).ok().map(Rc::new),
            ..Self::default()
        }
    }

    /// This context for the Dockerfile at `path`, whose own ignore file is beside it:
    /// `Dockerfile.gpu.dockerignore`.
    #[must_use]
    pub fn of_dockerfile(mut self, path: &Path) -> Self {
        let beside = Self::at(match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        });
        let name = path.file_name().and_then(|name| name.to_str());
        let bytes = name
            .zip(beside.root)
            .and_then(|(name, root)| root.read(format!("{name}.dockerignore"), MAX_FILE).ok());
        self.ignore = bytes.and_then(decoded);
        self
    }

    /// The text of the ignore file that counts.
    pub(super) fn ignore_file(&self, budget: &Budget) -> Result<Option<String>, Exceeded> {
        let Some(own) = &self.ignore else {
            return self.read(".dockerignore", budget);
        };
        budget.scan(own.len())?;
        budget.keep(own.len() as u64)?;
        Ok(Some(own.clone()))
    }

    /// A new context with these files, for tests.
    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub(in crate::doctor) fn with(files: &[(&str, &str)]) -> (tempfile::TempDir, Self) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let context = Self::at(dir.path());
        (dir, context)
    }

    /// The context `dir` of a Compose file in this one; `None` if it is elsewhere.
    pub(in crate::doctor) fn below(&self, dir: &str) -> Option<Self> {
        let outside =
            dir.starts_with(['/', '~']) || dir.contains(':') || dir.split('/').any(|part| part == "..");
        (!outside).then(|| Self {
            root: self.root.clone(),
            dir: normalized(&self.dir, dir),
            ignore: None,
        })
    }

    /// Reads a file; `None` if there is none, or it is too large.
    pub(in crate::doctor) fn read(&self, path: &str, budget: &Budget) -> Result<Option<String>, Exceeded> {
        budget.entry()?;
        let path = normalized(&self.dir, path.trim_start_matches('/'));
        let bytes = self.root.as_ref().and_then(|root| root.read(path, MAX_FILE).ok());
        let text = bytes.and_then(decoded);
        if let Some(text) = &text {
            budget.scan(text.len())?;
            budget.keep(text.len() as u64)?;
        }
        Ok(text)
    }
}

/// A file's text: UTF-16 with its mark, as pip reads it, or UTF-8.
fn decoded(bytes: Vec<u8>) -> Option<String> {
    let units = |pair: &[u8], from: fn([u8; 2]) -> u16| match *pair {
        [a, b] => from([a, b]),
        _ => 0xfffd,
    };
    let utf16 = |rest: &[u8], from: fn([u8; 2]) -> u16| {
        String::from_utf16_lossy(&rest.chunks(2).map(|pair| units(pair, from)).collect::<Vec<u16>>())
    };
    match bytes.as_slice() {
        [0xff, 0xfe, rest @ ..] => Some(utf16(rest, u16::from_le_bytes)),
        [0xfe, 0xff, rest @ ..] => Some(utf16(rest, u16::from_be_bytes)),
        _ => String::from_utf8(bytes).ok(),
    }
}

/// Directories that every image has, so that a copy goes into them.
const DIRECTORIES: [&str; 8] = [
    "/etc", "/home", "/mnt", "/opt", "/root", "/srv", "/tmp", "/usr/src",
];

/// Paths that an instruction brings from the context to the image.
#[derive(Clone, Debug, Default)]
pub(super) struct Brought {
    sources: Vec<String>,
    /// Absolute and normalized.
    target: String,
    /// Whether the target is written as a directory.
    into: bool,
}

impl Brought {
    /// The words of `COPY` or `ADD`; `None` for one from another stage or image.
    pub(super) fn by_copy(words: &[String], workdir: &str) -> Option<Self> {
        if words.iter().any(|w| w.starts_with("--from=")) {
            return None;
        }
        let paths: Vec<&String> = words.iter().filter(|w| !w.starts_with("--")).collect();
        let (written, sources) = paths.split_last()?;
        let target = normalized(workdir, written);
        Some(Self {
            sources: sources.iter().map(|s| normalized("/", s)).collect(),
            into: written.ends_with(['/', '.'])
                || sources.len() > 1
                || target == normalized("/", workdir)
                || DIRECTORIES.contains(&target.as_str()),
            target,
        })
    }

    /// The bind mounts of `RUN`.
    fn by_mounts(text: &str, workdir: &str, budget: &Budget) -> Result<Vec<Self>, Exceeded> {
        let flags = text.split_whitespace().take_while(|w| w.starts_with("--"));
        let mut found = Vec::new();
        for flag in flags {
            budget.scan(workdir.len() + flag.len())?;
            if let Some(mount) = Self::by_mount(flag, workdir) {
                budget.keep(mount.memory() as u64)?;
                found.push(mount);
            }
        }
        Ok(found)
    }

    fn by_mount(flag: &str, workdir: &str) -> Option<Self> {
        let fields = flag.strip_prefix("--mount=")?;
        let field = |names: &[&str]| {
            fields.split(',').find_map(|f| {
                let (name, value) = f.split_once('=')?;
                names.contains(&name).then_some(value)
            })
        };
        if !matches!(field(&["type"]), None | Some("bind")) || field(&["from"]).is_some() {
            return None;
        }
        let target = field(&["target", "dst", "destination"])?;
        Some(Self {
            sources: vec![normalized("/", field(&["source", "src"]).unwrap_or("."))],
            target: normalized(workdir, target),
            into: false,
        })
    }

    /// The bytes that it takes in memory.
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + self.sources.len() * (size_of::<String>() + TEXT) + self.size()
    }

    /// The bytes that a search reads.
    fn size(&self) -> usize {
        self.target.len() + self.sources.iter().map(String::len).sum::<usize>()
    }

    /// The paths in the context that may be `path` of the image, which is absolute and normalized.
    /// They are made one at a time: a long path below many sources would fill the memory.
    fn origins<'b>(&'b self, path: &'b str) -> impl Iterator<Item = String> + 'b {
        let name = path.rsplit('/').next().unwrap_or_default();
        let below = match self.target.as_str() {
            "/" => path.strip_prefix('/'),
            target => path.strip_prefix(target).and_then(|rest| rest.strip_prefix('/')),
        };
        let is_file = if self.into {
            below == Some(name)
        } else {
            path == self.target
        };
        self.sources
            .iter()
            .flat_map(move |source| {
                let (dir, last) = source.rsplit_once('/').unwrap_or(("", source));
                if let Some((before, after)) = last.split_once('*') {
                    let is_it = name.starts_with(before) && name.ends_with(after) && below == Some(name);
                    return [is_it.then(|| format!("{dir}/{name}")), None];
                }
                let whole = is_file && (last == name || !self.into);
                // Of a directory its content is copied.
                let content = below.map(|below| format!("{}/{below}", source.trim_end_matches('/')));
                [whole.then(|| source.clone()), content]
            })
            .flatten()
    }
}

/// `path` as seen from `dir`: absolute, without `.` and `..`.
pub(super) fn normalized(dir: &str, path: &str) -> String {
    let whole = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{dir}/{path}")
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// A word of a command, and its line if a file has it.
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) line: Option<Line>,
}

/// Finds the files of one `RUN`.
pub(super) struct Finder<'a> {
    context: &'a Context,
    ignore: &'a Ignore,
    /// The directory of the next command: the stage's, until a `cd`.
    dir: RefCell<String>,
    mounts: Vec<Brought>,
    brought: Vec<&'a Brought>,
    budget: &'a Budget,
}

impl<'a> Finder<'a> {
    /// Of the `RUN` with `text` in the directory `workdir`; `brought` begins with the last `COPY`.
    pub(super) fn new(
        (context, ignore): (&'a Context, &'a Ignore),
        text: &str,
        workdir: &'a str,
        brought: impl Iterator<Item = &'a Brought>,
        budget: &'a Budget,
    ) -> Result<Self, Exceeded> {
        let brought: Vec<&Brought> = brought.collect();
        budget.scan(size_of_val(brought.as_slice()) + text.len())?;
        Ok(Self {
            context,
            ignore,
            dir: RefCell::new(workdir.to_owned()),
            mounts: Brought::by_mounts(text, workdir, budget)?,
            brought,
            budget,
        })
    }

    /// Follows `cd dir`. A directory that only the shell can name is not followed.
    pub(super) fn enter(&self, dir: &str) -> Result<(), Exceeded> {
        let now = self.dir.borrow().clone();
        self.budget.scan(now.len() + dir.len())?;
        let is_plain = !dir.is_empty() && !dir.starts_with(['-', '~', '$']) && !dir.contains('`');
        if is_plain && now.len() + dir.len() < MAX_PATH {
            self.budget.keep((TEXT + now.len() + dir.len()) as u64)?;
            *self.dir.borrow_mut() = normalized(&now, dir);
        }
        Ok(())
    }

    /// pip's arguments with the lines of the files that they name in place of the names, and the
    /// names of the files that were not found.
    pub(super) fn spliced(&self, words: &[&str]) -> Result<(Vec<Word>, Vec<String>), Exceeded> {
        let mut all = Vec::new();
        let mut missing = Vec::new();
        let mut read = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let file = match *word {
                "-r" | "--requirement" => words.next().copied(),
                // `-Ur FILE`: options without a value may stand together.
                word if is_cluster(word) => words.next().copied(),
                word => word
                    .strip_prefix("--requirement=")
                    .or_else(|| word.strip_prefix("-r").filter(|_| !word.starts_with("--"))),
            };
            let Some(file) = file else {
                self.keep(word)?;
                all.push(Word {
                    text: (*word).to_owned(),
                    line: None,
                });
                continue;
            };
            let dir = self.dir.borrow().clone();
            self.budget.scan(dir.len() + file.len())?;
            let mut found = Found {
                read: &mut read,
                words: &mut all,
                missing: &mut missing,
            };
            // uv takes a project's file too, which is no list of requirements.
            let fits = dir.len() + file.len() < MAX_PATH && !file.ends_with(".toml");
            let path = || normalized(&dir, file);
            if !fits || !self.read_image_path(&path(), &mut found)? {
                missing.push(file.to_owned());
            }
        }
        Ok((all, missing))
    }

    /// Charges a word that is kept.
    fn keep(&self, text: &str) -> Result<(), Exceeded> {
        self.budget.keep((size_of::<Word>() + TEXT + text.len()) as u64)
    }

    /// The path in the context and the text of the image's file `name`.
    pub(super) fn text(&self, name: &str) -> Result<Option<(Rc<str>, String)>, Exceeded> {
        let dir = self.dir.borrow().clone();
        if dir.len() + name.len() >= MAX_PATH {
            return Ok(None);
        }
        let path = normalized(&dir, name);
        let brought = self.mounts.iter().chain(self.brought.iter().copied());
        for one in brought {
            self.budget.scan(one.size() + path.len())?;
            for origin in one.origins(&path) {
                self.budget.scan(origin.len())?;
                if let Some(text) = self.context_text(&origin)? {
                    return Ok(Some((Rc::from(origin.trim_start_matches('/')), text)));
                }
            }
        }
        Ok(None)
    }

    /// Charges the memory of a TOML text as a tree, about the same for each of its bytes.
    pub(super) fn charge_tree(&self, text: &str) -> Result<(), Exceeded> {
        self.budget.keep(64 * text.len() as u64)
    }

    /// A file of the context, unless its `.dockerignore` hides it.
    fn context_text(&self, origin: &str) -> Result<Option<String>, Exceeded> {
        self.budget.scan(self.ignore.work(origin))?;
        if self.ignore.hides(origin) {
            return Ok(None);
        }
        self.context.read(origin, self.budget)
    }

    fn read_image_path(&self, path: &str, found: &mut Found<'_>) -> Result<bool, Exceeded> {
        let brought = self.mounts.iter().chain(self.brought.iter().copied());
        for one in brought {
            self.budget.scan(one.size() + path.len())?;
            for origin in one.origins(path) {
                self.budget.scan(origin.len())?;
                if self.read(&origin, found)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Reads a file of the context, and the files that it names.
    fn read(&self, origin: &str, found: &mut Found<'_>) -> Result<bool, Exceeded> {
        // A file that includes itself ends here.
        if found.read.iter().any(|before| before == origin) {
            return Ok(true);
        }
        if found.read.len() >= MAX_FILES {
            return Ok(false);
        }
        let Some(text) = self.context_text(origin)? else {
            return Ok(false);
        };
        self.budget.keep((TEXT + origin.len()) as u64)?;
        found.read.push(origin.to_owned());
        let name: Rc<str> = Rc::from(origin.trim_start_matches('/'));
        let dir = origin.rsplit_once('/').map_or("", |(dir, _)| dir);
        for (line, text) in lines(&text) {
            self.budget.entry()?;
            if let Some(file) = nested(&text) {
                self.budget.scan(dir.len() + file.len())?;
                let fits = dir.len() + file.len() < MAX_PATH;
                if !fits || !self.read(&normalized(dir, file), found)? {
                    self.budget.keep((TEXT + file.len()) as u64)?;
                    found.missing.push(file.to_owned());
                }
                continue;
            }
            match text.split_whitespace().next() {
                // A constraint installs nothing.
                None | Some("-c" | "--constraint") => {}
                Some(_) => {
                    self.budget.keep(text.len() as u64)?;
                    let line = Line::of_file(&name, line, &text);
                    let texts = if text.starts_with('-') {
                        text.split_whitespace().map(str::to_owned).collect()
                    } else {
                        requirement(&text).into_iter().collect::<Vec<_>>()
                    };
                    for text in texts {
                        self.keep(&text)?;
                        found.words.push(Word {
                            text,
                            line: Some(line.clone()),
                        });
                    }
                }
            }
        }
        Ok(true)
    }
}

/// What the files of one command have brought so far.
struct Found<'a> {
    /// The files that were read.
    read: &'a mut Vec<String>,
    words: &'a mut Vec<Word>,
    /// Names of files that were not read.
    missing: &'a mut Vec<String>,
}

/// Whether a word is a group of pip's options of one letter whose last one takes a file: `-qUr`.
fn is_cluster(word: &str) -> bool {
    let letters = word.strip_prefix('-').and_then(|rest| rest.strip_suffix('r'));
    letters.is_some_and(|letters| !letters.is_empty() && letters.chars().all(|c| "IUqv".contains(c)))
}

/// The file that a line of a requirements file includes: `-r base.txt`, `--requirement=base.txt`.
fn nested(line: &str) -> Option<&str> {
    let rest = line
        .strip_prefix("--requirement")
        .or_else(|| line.strip_prefix("-r"))?;
    rest.trim_start_matches([' ', '\t', '='])
        .split_whitespace()
        .next()
}

/// The lines of a requirements file with their numbers: continued lines joined, comments left out.
pub(super) fn lines(text: &str) -> Vec<(usize, String)> {
    let mut all = Vec::new();
    let mut joined: Option<(usize, String)> = None;
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let (number, mut whole) = joined.take().unwrap_or((at + 1, String::new()));
        if let Some(part) = line.trim_end().strip_suffix('\\') {
            whole.push_str(part);
            joined = Some((number, whole));
            continue;
        }
        whole.push_str(line);
        let end = if whole.trim_start().starts_with('#') {
            0
        } else {
            whole.find(" #").unwrap_or(whole.len())
        };
        let bare = whole.get(..end).unwrap_or_default().trim();
        if !bare.is_empty() {
            all.push((number, bare.to_owned()));
        }
    }
    all.extend(joined.map(|(number, text)| (number, text.trim().to_owned())));
    all
}

/// `torch == 2.1.0 ; sys_platform == "linux" --hash=…` as pip's argument `torch==2.1.0`; `None` for
/// one that Linux does not install, and for a URL.
pub(super) fn requirement(line: &str) -> Option<String> {
    let line = line.split(" --").next().unwrap_or(line);
    let (package, marker) = line.split_once(';').unwrap_or((line, ""));
    if package.contains('@') || package.contains("://") || !is_for_linux(marker) {
        return None;
    }
    Some(package.split_whitespace().collect())
}

pub(super) fn is_for_linux(marker: &str) -> bool {
    const OTHERS: [&str; 8] = [
        "sys_platform==darwin",
        "sys_platform==win32",
        "sys_platform!=linux",
        "platform_system==Darwin",
        "platform_system==Windows",
        "platform_system!=Linux",
        "platform_machine==arm64",
        "platform_machine==aarch64",
    ];
    let bare: String = marker
        .chars()
        .filter(|c| !c.is_whitespace() && !matches!(c, '"' | '\''))
        .collect();
    // An alternative may be true here.
    marker.contains(" or ") || !OTHERS.iter().any(|other| bare.contains(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Dockerfile.gpu.dockerignore` stands for `.dockerignore`, for `Dockerfile.gpu` alone.
    #[test]
    fn an_ignore_file_of_one_dockerfile() {
        let files = [
            (".dockerignore", "a.txt"),
            ("docker/Dockerfile.gpu.dockerignore", "b.txt"),
        ];
        let (dir, context) = Context::with(&files);
        let budget = Budget::default();
        let text = |context: &Context| context.ignore_file(&budget).unwrap();
        let of = |name: &str| context.clone().of_dockerfile(&dir.path().join(name));
        assert_eq!(text(&context).as_deref(), Some("a.txt"));
        assert_eq!(text(&of("docker/Dockerfile.gpu")).as_deref(), Some("b.txt"));
        assert_eq!(text(&of("docker/Dockerfile")).as_deref(), Some("a.txt"));
        assert_eq!(text(&of("..")).as_deref(), Some("a.txt"));
    }

    #[test]
    fn lines_are_pips() {
        let text = "\u{feff}# all\ntorch == 2.1.0 \\\n    --hash=sha256:aa # why\n\n--extra-index-url https://x/whl\nnumpy";
        let found: Vec<(usize, String)> = lines(text);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!((found[0].0, found[1].0, found[2].0), (2, 5, 6));
        assert_eq!(requirement(&found[0].1).as_deref(), Some("torch==2.1.0"));
        for (line, text) in [
            ("torch>=2 ; sys_platform == 'linux'", Some("torch>=2")),
            ("torch==2.1+cpu; sys_platform == \"darwin\"", None),
            ("jax[cuda12] ; platform_system != 'Linux'", None),
            ("torch @ https://x/torch.whl", None),
            (
                "x ; sys_platform == 'darwin' or sys_platform == 'linux'",
                Some("x"),
            ),
        ] {
            assert_eq!(requirement(line).as_deref(), text, "{line}");
        }
    }

    #[test]
    fn a_path_of_the_image_is_traced_to_the_context() {
        let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        for (copy, path, origin) in [
            ("requirements.txt .", "/app/requirements.txt", "/requirements.txt"),
            (
                "requirements.txt /app",
                "/app/requirements.txt",
                "/requirements.txt",
            ),
            (
                "./requirements.txt /tmp",
                "/tmp/requirements.txt",
                "/requirements.txt",
            ),
            (
                "--chown=1:1 ./docker/req.txt /tmp/",
                "/tmp/req.txt",
                "/docker/req.txt",
            ),
            ("a.txt /b.txt", "/b.txt", "/a.txt"),
            (". /src", "/src/sub/r.txt", "/sub/r.txt"),
            ("sub ./in", "/app/in/r.txt", "/sub/r.txt"),
            (
                "requirements*.txt pyproject.toml ./",
                "/app/requirements-gpu.txt",
                "/requirements-gpu.txt",
            ),
        ] {
            let brought = Brought::by_copy(&words(copy), "/app").unwrap();
            let origins: Vec<String> = brought.origins(path).collect();
            assert!(origins.contains(&origin.to_owned()), "{copy}: {origins:?}");
        }
        assert!(Brought::by_copy(&words("--from=x a b"), "/").is_none());
        let mount =
            "--mount=type=cache,target=/c --mount=type=bind,source=r.txt,target=r.txt pip install -r r.txt";
        let mounts = Brought::by_mounts(mount, "/app", &Budget::default()).unwrap();
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].origins("/app/r.txt").collect::<Vec<_>>(), ["/r.txt"]);
        assert_eq!(normalized("/a/b", "../c/./d/"), "/a/c/d");
        assert_eq!(normalized("/", "../../etc"), "/etc");
    }
}
