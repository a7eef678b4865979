//! `nvoci ldconfig`: reads and writes the loader's cache of a root, with ldconfig's options.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::cli::{Command, Page, Words, argument, flag};
use super::inject;
use crate::apply::cache_update;
use crate::error::{Code, Error, IoContext as _, Result};
use crate::ldso::cache::{self, Cache, Entry};
use crate::ldso::{self, How, Links, LoaderEnv, Run, Warnings, abi, conf, scan};
use crate::sys::root::{Node, Root};

pub(super) static COMMAND: Command<Options> = Command {
    page: Page {
        name: "nvoci ldconfig",
        summary: "read, rebuild and query a root's loader cache without executing anything",
        usage: &[
            "nvoci ldconfig [-r ROOT] [-X] [-N] [-C FILE] [-f CONF] [-n] [DIR...]",
            "nvoci ldconfig [-r ROOT] [-X] [-C FILE] --first DIR...",
            "nvoci ldconfig [-r ROOT] [-C FILE] -p",
            "nvoci ldconfig [-r ROOT] --which SONAME [--env LD_LIBRARY_PATH=...] [--for FILE]",
        ],
        about: &["Reads, rebuilds and queries a root's loader cache. Executes nothing of the root."],
        arguments: &[argument(
            "DIR...",
            "directories to scan before the configured ones",
        )],
        exit: &[
            ("0", "done; with --which, found"),
            ("1", "--which found nothing"),
            ("other", "as for every command"),
        ],
        ..Page::EMPTY
    },
    flags: &[
        flag("", "work in ROOT (default /); all other paths are inside it")
            .short('r')
            .path("ROOT", |o, p| {
                o.root = Some(p);
            }),
        flag("", "the cache (default /etc/ld.so.cache)")
            .short('C')
            .path("FILE", |o, p| o.cache = Some(p)),
        flag("", "the configuration (default /etc/ld.so.conf)")
            .short('f')
            .path("CONF", |o, p| o.conf = Some(p)),
        flag("", "make no soname links and remove no stale ones")
            .short('X')
            .switch(|o| o.no_links = true),
        flag("", "write no cache")
            .short('N')
            .switch(|o| o.no_cache = true),
        flag("", "scan only the DIRs given, write no cache")
            .short('n')
            .switch(|o| o.only_dirs = true),
        flag(
            "ignore-aux-cache",
            "accepted: there is no auxiliary cache to ignore",
        )
        .short('i')
        .switch(|_| {}),
        flag("verbose", "print how the cache was made")
            .short('v')
            .switch(|o| o.verbose = true),
        flag("print-cache", "print the cache")
            .short('p')
            .switch(|o| o.print = true),
        flag(
            "first",
            "put DIR's libraries before all others, in any configuration; extends the cache where \
             it is current, else scans",
        )
        .repeatable()
        .value("DIR", |o, dir| {
            o.first.push(absolute(dir)?);
            Ok(())
        }),
        flag(
            "which",
            "print where the loader would find SONAME, and by which search path",
        )
        .text("SONAME", |o, name| {
            o.which = Some(name);
            Ok(())
        }),
        flag("env", "the variable of the process that loads SONAME").value(
            "LD_LIBRARY_PATH=...",
            |o, setting| {
                o.library_path = Some(library_path(setting)?);
                Ok(())
            },
        ),
        flag(
            "for",
            "the program or library that loads SONAME, for its DT_RUNPATH and DT_RPATH",
        )
        .path("FILE", |o, p| {
            o.loaded_by = Some(p);
        }),
    ],
    words: Words::Many(|o, dir| {
        o.dirs.push(absolute(dir)?);
        Ok(())
    }),
    ..Command::of(|options| run(&options))
};

#[derive(Debug, Default)]
pub(super) struct Options {
    root: Option<PathBuf>,
    cache: Option<PathBuf>,
    conf: Option<PathBuf>,
    no_links: bool,
    no_cache: bool,
    only_dirs: bool,
    verbose: bool,
    print: bool,
    first: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
    which: Option<String>,
    library_path: Option<Vec<u8>>,
    loaded_by: Option<PathBuf>,
}

fn run(options: &Options) -> Result<ExitCode> {
    let path = options.root.as_deref().unwrap_or_else(|| Path::new("/"));
    // The root itself may be a link; links in it must not lead out.
    let root = rustix::fs::open(
        path,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(std::io::Error::from)
    .map_err(|e| {
        Error::io(Code::System, format!("root {}", path.display()), &e)
            .fix("name a directory that exists after -r")
    })?;
    let root = Root::from_fd(root);
    let file = options.cache.as_deref().unwrap_or_else(|| Path::new(ldso::CACHE));
    if options.print {
        return print(&root, file);
    }
    if let Some(soname) = &options.which {
        return which(&root, soname, options);
    }
    let mut warnings = Warnings::default();
    let bytes = if options.first.is_empty() {
        scan_all(&root, options, &mut warnings)
    } else {
        put_first(&root, options, &mut warnings)?
    };
    for line in warnings.into_lines() {
        inject::write_line(&line);
    }
    if options.no_cache || options.only_dirs {
        return Ok(ExitCode::SUCCESS);
    }
    // A host's cache must survive a crash, as with ldconfig; a container's need not, as with the
    // hook.
    let write = if options.first.is_empty() {
        Node::write_file_durably
    } else {
        Node::write_file
    };
    let written = root
        .parent_of(file)
        .and_then(|(dir, name)| write(&dir, &name, 0o644, &bytes));
    written.context(Code::System, || file.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn scan_all(root: &Root, options: &Options, warnings: &mut Warnings) -> Vec<u8> {
    let conf = options
        .conf
        .clone()
        .unwrap_or_else(|| PathBuf::from(conf::DEFAULT));
    let run = Run {
        dirs: options.dirs.clone(),
        conf: (!options.only_dirs).then_some(conf),
        links: if options.no_links {
            Links::Leave
        } else {
            Links::Make
        },
    };
    ldso::scan_root(root, &run, warnings).0
}

fn put_first(root: &Root, options: &Options, warnings: &mut Warnings) -> Result<Vec<u8>> {
    let first = options
        .first
        .iter()
        .map(|dir| scan::first_dir(root, dir).context(Code::File, || dir.display().to_string()))
        .collect::<Result<Vec<_>>>()?;
    let outcome = ldso::updated_cache(root, &cache_update(&first));
    for line in &outcome.warnings {
        warnings.add(format_args!("{line}"));
    }
    match &outcome.how {
        How::Merged if options.verbose => super::print("extended the cache\n")?,
        How::Rebuilt { reason } if options.verbose => {
            super::print(&format!("scanned all directories: {reason}\n"))?;
        }
        How::Merged | How::Rebuilt { .. } => {}
        How::MuslPath | How::None => {
            let why = "the root has no glibc loader, so it uses no cache";
            return Err(Error::new(Code::File, ldso::CACHE, why).fix("use a glibc image"));
        }
    }
    Ok(outcome.bytes)
}

/// The bytes of `-p` that are written at once.
const PIECE: usize = 64 << 10;

fn print(root: &Root, file: &Path) -> Result<ExitCode> {
    let name = || file.display().to_string();
    let bytes = root.read(file, cache::MAX_BYTES).context(Code::File, name)?;
    let cache = Cache::parse(&bytes)?;
    let mut out = Vec::with_capacity(2 * PIECE);
    out.extend(format!("{} libs found in cache `{}'\n", cache.len(), file.display()).into_bytes());
    for entry in cache.entries() {
        line(&cache, &entry, &mut out);
        // Entries may share one long string, so the whole text can be far larger than the cache.
        if out.len() >= PIECE {
            super::print_bytes(&out)?;
            out.clear();
        }
    }
    if let Some(generator) = cache.generator() {
        out.extend_from_slice(b"Cache generated by: ");
        escape(generator, &mut out);
        out.push(b'\n');
    }
    super::print_bytes(&out)?;
    Ok(ExitCode::SUCCESS)
}

/// One line of `-p`, in glibc's form.
fn line(cache: &Cache<'_>, entry: &Entry<'_>, out: &mut Vec<u8>) {
    out.push(b'\t');
    escape(entry.soname, out);
    out.extend_from_slice(b" (");
    out.extend_from_slice(abi::type_name(entry.flags).as_bytes());
    match abi::abi_name(entry.flags) {
        Some("") => {}
        Some(name) => out.extend(format!(",{name}").into_bytes()),
        None => out.extend(format!(",{}", entry.flags & abi::FLAG_ABI_MASK).into_bytes()),
    }
    if let Some(name) = entry.hwcaps_index().and_then(|index| cache.hwcaps().get(index)) {
        out.extend_from_slice(b", hwcap: \"");
        escape(name, out);
        out.push(b'"');
    } else if entry.hwcap != 0 {
        out.extend(format!(", hwcap: {:#018x}", entry.hwcap).into_bytes());
    }
    out.extend_from_slice(b") => ");
    escape(entry.path, out);
    out.push(b'\n');
}

/// Appends an image's text without terminal control characters.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        if byte.is_ascii_control() {
            out.extend(byte.escape_ascii());
        } else {
            out.push(byte);
        }
    }
}

fn which(root: &Root, soname: &str, options: &Options) -> Result<ExitCode> {
    let mut env = LoaderEnv {
        library_path: options.library_path.clone(),
        ..LoaderEnv::default()
    };
    if let Some(path) = &options.loaded_by {
        let what = || path.display().to_string();
        let file = root
            .resolve(path)
            .and_then(|node| node.open_read())
            .context(Code::File, what)?;
        let info = ldso::elf::read(&file)
            .map_err(|_| Error::new(Code::File, what(), "no dynamic ELF program or library"))?;
        env.abi = Some((info.identity.machine, info.identity.is_64));
        env.requester = Some((path.clone(), info));
    }
    let Some(found) = ldso::resolve(root, soname, &env) else {
        inject::write_line(&format!(
            "{}: the loader would not find it",
            crate::error::Escaped(soname)
        ));
        return Ok(ExitCode::FAILURE);
    };
    let mut out = Vec::new();
    escape(found.path.as_os_str().as_bytes(), &mut out);
    out.extend(format!("\t{}\n", found.via).into_bytes());
    super::print_bytes(&out)?;
    Ok(ExitCode::SUCCESS)
}

fn absolute(dir: OsString) -> Result<PathBuf, String> {
    if dir.as_bytes().first() == Some(&b'/') {
        return Ok(PathBuf::from(dir));
    }
    Err(format!("`{}` is not an absolute path in the root", dir.display()))
}

fn library_path(setting: OsString) -> Result<Vec<u8>, String> {
    let bytes = setting.into_vec();
    if let Some(value) = bytes.strip_prefix(b"LD_LIBRARY_PATH=") {
        return Ok(value.to_vec());
    }
    let shown = OsStr::from_bytes(&bytes).display();
    Err(format!("`{shown}`: only LD_LIBRARY_PATH=... is supported"))
}
