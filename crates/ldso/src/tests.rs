//! Tests of the crate as a whole, on roots made of small files.

mod hostile;

use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::abi::{ARCHES, EM_386, EM_X86_64};
use super::cache::{Cache, Entry};
use super::elf::{Bad, identify, read};
use super::fixtures::elf64;
use super::merge::{merge, room};
use super::write::Builder;
use super::*;

const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// A root with a glibc loader and the usual configuration.
struct Image {
    dir: tempfile::TempDir,
    root: Root,
}

impl Image {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let image = Self { dir, root };
        image.file(LOADER, &elf64("ld-linux-x86-64.so.2", &[]));
        image.file("etc/ld.so.conf", b"include /etc/ld.so.conf.d/*.conf\n");
        image.file("etc/ld.so.conf.d/local.conf", b"/usr/local/lib\n");
        image
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn file(&self, path: &str, content: &[u8]) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn library(&self, path: &str) {
        let soname = path.rsplit('/').next().unwrap();
        self.file(path, &elf64(soname, &[]));
    }

    fn update(&self) -> CacheOutcome {
        let first = [FirstDir {
            path: PathBuf::from("/usr/local/nvidia/lib64/"),
            libs: vec![Lib {
                soname: "libcuda.so.1".to_owned(),
                file: "libcuda.so.1".to_owned(),
                is_64: true,
                machine: EM_X86_64,
            }],
        }];
        let update = Update {
            first: &first,
            conf_name: "00-nvoci.conf",
            libraries: "the driver's libraries",
            on_musl: "CUDA's libraries need glibc and will not load",
        };
        updated_cache(&self.root, &update)
    }

    /// Writes a cache so that it is newer than everything else.
    fn write_cache(&self, bytes: &[u8]) {
        self.file("etc/ld.so.cache", bytes);
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(10);
        let file = std::fs::File::options()
            .write(true)
            .open(self.path("etc/ld.so.cache"))
            .unwrap();
        file.set_modified(later).unwrap();
    }
}

fn extended(cache: &[u8], additions: &[Addition], replaced: &[&[u8]]) -> Result<Vec<u8>, String> {
    merge([&vec![0; room(additions)], cache].concat(), additions, replaced)
}

fn paths<'a>(cache: &Cache<'a>, soname: &str) -> Vec<&'a str> {
    let found = cache.find(soname.as_bytes());
    found.map(|e| std::str::from_utf8(e.path).unwrap()).collect()
}

#[test]
fn elf_facts() {
    let file = elf64(
        "libx.so.1",
        &[(1, "libc.so.6"), (29, "$ORIGIN"), (1, "libm.so.6")],
    );
    let info = read(&file[..]).unwrap();
    assert_eq!(info.identity.soname.as_deref(), Some(&b"libx.so.1"[..]));
    assert_eq!(info.needed, [b"libc.so.6", b"libm.so.6"]);
    assert_eq!(info.runpath.as_deref(), Some(&b"$ORIGIN"[..]));
    assert_eq!((info.identity.machine, info.identity.is_64), (EM_X86_64, true));
    assert_eq!(identify(&file[..]), Ok(info.identity));
}

#[test]
fn broken_elf_files_are_refused_at_every_length() {
    let file = elf64("libx.so.1", &[]);
    for len in 4..file.len() {
        assert_eq!(identify(&file[..len]), Err(Bad::Broken), "{len}");
    }
    for (at, bytes) in [
        (5, &b"\x02"[..]),         // big-endian
        (4, b"\x03"),              // no class
        (16, b"\x02\0"),           // an executable at a fixed address
        (56, b"\xff\xff"),         // 65,535 program headers
        (54, b"\x01\0"),           // of one byte each
        (32, &[0xff; 8]),          // at the end of the world
        (64 + 56 + 8, &[0xff; 8]), // the dynamic section there
    ] {
        let mut bad = file.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(identify(&bad[..]), Err(Bad::Broken), "{at}");
    }
    assert_eq!(identify(&b""[..]), Err(Bad::Script));
    assert_eq!(identify(&b"/* GNU ld script */"[..]), Err(Bad::Script));
    assert_eq!(identify(&b"hello"[..]), Err(Bad::NotElf));
}

/// The cache that glibc 2.41 wrote for four copies of one library. Ours must be the same up to the
/// extension section, which holds the generator.
#[test]
fn byte_for_byte_like_glibc() {
    let theirs = include_bytes!("testdata/glibc-2.41-hwcaps.cache");
    let dir = b"/usr/lib/x86_64-linux-gnu";
    let mut builder = Builder::default();
    builder.add(dir, b"libfast.so.1", b"libfast.so.1", 0x303, None);
    for (name, file, level) in [
        ("v2", "libfast.so.1", 1),
        ("v4", "libfast.so.1", 3),
        ("v3", "libfast.so.1.5", 2),
    ] {
        let name = format!("x86-64-{name}");
        let dir = [&dir[..], b"/glibc-hwcaps/", name.as_bytes()].concat();
        builder.add(
            &dir,
            file.as_bytes(),
            b"libfast.so.1",
            0x303,
            Some((name.as_bytes(), level)),
        );
    }
    let ours = builder.encode();
    let extension = u32::from_le_bytes(theirs[32..36].try_into().unwrap()) as usize;
    assert_eq!(ours[..extension], theirs[..extension]);
    let (ours, theirs) = (Cache::parse(&ours).unwrap(), Cache::parse(theirs).unwrap());
    assert_eq!(ours.hwcaps(), theirs.hwcaps());
    assert!(ours.entries().eq(theirs.entries()));
    assert_eq!(ours.generator(), Some(write::generator().as_bytes()));
}

#[test]
fn hostile_caches_are_errors() {
    let good = include_bytes!("testdata/glibc-2.41-hwcaps.cache");
    for len in 0..good.len() {
        let _ = Cache::parse(&good[..len]).map(|cache| cache.entries().count());
    }
    for (at, word) in [
        (20, u32::MAX), // entries
        (20, 1 << 28),
        (48 + 4, u32::MAX), // a soname's offset
        (48 + 4, 0),        // in the header
        (48 + 8, 0x1ff),    // a path's, in the generator's name, which has no end
        (32, u32::MAX),     // the extension section
        (32, 1),
        (48 + 16, 9), // an hwcaps index that nobody has
    ] {
        let mut bad = good.to_vec();
        bad[at..at + 4].copy_from_slice(&word.to_le_bytes());
        assert!(Cache::parse(&bad).is_err(), "{at}");
    }
    let mut big_endian = good.to_vec();
    big_endian[28] = 3;
    assert!(Cache::parse(&big_endian).is_err());
    assert!(Cache::parse(b"ld.so-1.7.0\0\xff\xff\xff\xff").is_err());
}

#[test]
fn the_old_format_is_read() {
    let mut file = b"ld.so-1.7.0\0\x01\0\0\0".to_vec();
    for word in [3_u32, 0, 5] {
        file.extend(word.to_le_bytes());
    }
    file.extend_from_slice(b"liba\0/l/liba\0");
    let cache = Cache::parse(&file).unwrap();
    let entry = Entry {
        soname: b"liba",
        path: b"/l/liba",
        flags: 3,
        hwcap: 0,
    };
    assert_eq!(cache.entries().collect::<Vec<_>>(), [entry]);
    assert!(extended(&file, &[], &[]).is_err());
    // If the new format follows, it counts.
    file.resize(file.len().next_multiple_of(8), 0);
    let mut both = file[..16 + 12].to_vec();
    both.resize(32, 0);
    let mut builder = Builder::default();
    builder.add(b"/n", b"libb", b"libb", 0x303, None);
    let mut new = builder.encode();
    new[32..36].fill(0);
    both.extend(new);
    assert_eq!(paths(&Cache::parse(&both).unwrap(), "libb"), ["/n/libb"]);
}

#[test]
fn merged_entries_come_first_and_better_ones_go() {
    let cache = include_bytes!("testdata/glibc-2.41-hwcaps.cache");
    let addition = |soname: &str, flags| Addition {
        soname: soname.into(),
        path: format!("/n/{soname}").into_bytes(),
        flags,
    };
    let additions = [
        addition("libfast.so.1", 0x303),
        addition("libfast.so.1", 3),
        addition("liba.so", 0x303),
        addition("libz.so.10", 0x303),
        addition("libz.so.9", 0x303),
    ];
    let bytes = extended(cache, &additions, &[b"/n"]).unwrap();
    let merged = Cache::parse(&bytes).unwrap();
    assert!(is_sorted(&merged));
    let plain = "/usr/lib/x86_64-linux-gnu/libfast.so.1";
    assert_eq!(
        paths(&merged, "libfast.so.1"),
        ["/n/libfast.so.1", plain, "/n/libfast.so.1"]
    );
    assert_eq!(merged.len(), 6);
    // Again, as at a restart of the container: nothing changes, and nothing is left.
    let again = extended(&bytes, &additions, &[b"/n"]).unwrap();
    assert_eq!(again.len(), bytes.len());
    assert!(Cache::parse(&again).unwrap().entries().eq(merged.entries()));
    let hwcaps = merged.hwcaps();
    assert!(!hwcaps.is_empty());
    assert_eq!(hwcaps, Cache::parse(cache).unwrap().hwcaps());
}

#[test]
fn a_current_cache_is_extended_and_a_stale_one_is_not() {
    let image = Image::new();
    image.library("usr/lib/liba.so.1");
    image.library("usr/lib/libcuda.so.1");
    let scanned = image.update();
    assert!(matches!(&scanned.how, How::Rebuilt { reason } if reason.contains("No such file")));
    let cache = Cache::parse(&scanned.bytes).unwrap();
    let wanted = ["/usr/local/nvidia/lib64/libcuda.so.1", "/usr/lib/libcuda.so.1"];
    assert_eq!(paths(&cache, "libcuda.so.1"), wanted);
    assert_eq!(paths(&cache, "liba.so.1"), ["/usr/lib/liba.so.1"]);

    image.write_cache(&scanned.bytes);
    let merged = image.update();
    assert_eq!(merged.how, How::Merged);
    let list = |bytes: &[u8]| -> Vec<_> {
        let cache = Cache::parse(bytes).unwrap();
        cache
            .entries()
            .map(|e| (e.soname.to_vec(), e.path.to_vec(), e.flags))
            .collect()
    };
    assert_eq!(list(&merged.bytes), list(&scanned.bytes));

    image.write_cache(b"glibc-ld.so.cache1.1 nonsense");
    assert!(matches!(image.update().how, How::Rebuilt { .. }));
    image.file("etc/ld.so.cache", &scanned.bytes);
    let old = std::fs::File::options()
        .write(true)
        .open(image.path("etc/ld.so.cache"))
        .unwrap();
    old.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert!(matches!(image.update().how, How::Rebuilt { reason } if reason.contains("older")));
}

#[test]
fn musl_and_static_roots() {
    let image = Image::new();
    std::fs::remove_file(image.path(LOADER)).unwrap();
    assert_eq!(image.update().how, How::None);
    image.file("lib/ld-musl-x86_64.so.1", b"");
    let outcome = image.update();
    assert_eq!(
        (outcome.how, outcome.target),
        (How::MuslPath, "/etc/ld-musl-x86_64.path")
    );
    assert!(outcome.bytes.starts_with(b"/usr/local/nvidia/lib64/\n/lib\n"));
    assert!(outcome.warnings[0].contains("glibc"));
    // Debian's musl package beside glibc, and Alpine with a glibc shim.
    image.file(LOADER, b"");
    assert!(matches!(flavor(&image.root), Flavor::Glibc(_)));
    image.file("etc/alpine-release", b"3.20\n");
    assert!(matches!(flavor(&image.root), Flavor::Musl(_)));
}

#[test]
fn hostile_roots_are_survived() {
    let image = Image::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("libout.so.1"), elf64("libout.so.1", &[])).unwrap();
    image.library("usr/local/lib/libgood.so.1");
    let lib = |name: &str| image.path("usr/local/lib").join(name);
    symlink(outside.path().join("libout.so.1"), lib("libout.so.1")).unwrap();
    symlink("libloop.so.1", lib("libloop.so.1")).unwrap();
    symlink("libb.so.1", lib("liba.so.1")).unwrap();
    symlink("liba.so.1", lib("libb.so.1")).unwrap();
    symlink("/proc/self/exe", lib("libmagic.so.1")).unwrap();
    image.file("usr/local/lib/libslash.so.1", &elf64("../../libslash.so.1", &[]));
    image.file("usr/local/lib/libnoname.so.1", &elf64("", &[]));
    std::fs::create_dir(lib("libdir.so.1")).unwrap();
    for fifo in [lib("libfifo.so.1"), image.path("etc/fifo")] {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }
    std::fs::File::create(image.path("etc/sparse"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    image.file("etc/lines", "/x\n".repeat(30_000).as_bytes());
    image.file(
        "etc/ld.so.conf",
        b"include /etc/fifo /etc/sparse /etc/lines /etc/ld.so.conf ld.so.conf.d/*\ninclude /*/*/*/*/*\nrelative\n/../../usr/lib\n",
    );
    let outcome = image.update();
    let cache = Cache::parse(&outcome.bytes).unwrap();
    assert_eq!(
        paths(&cache, "libgood.so.1"),
        ["/usr/local/lib/libgood.so.1"],
        "{:?}",
        outcome.warnings
    );
    for name in [
        "libout.so.1",
        "libloop.so.1",
        "liba.so.1",
        "libmagic.so.1",
        "libdir.so.1",
        "libfifo.so.1",
    ] {
        assert!(paths(&cache, name).is_empty(), "{name}");
    }
    assert_eq!(cache.len(), 3, "the loader, the good one and the driver's");
    for part in [
        "/etc/fifo",
        "/etc/sparse",
        "/etc/lines",
        "relative",
        "libslash",
        "libnoname",
    ] {
        assert!(
            outcome.warnings.iter().any(|w| w.contains(part)),
            "{part}: {:?}",
            outcome.warnings
        );
    }
}

#[test]
fn a_later_ldconfig_run_that_would_undo_it_is_foretold() {
    let image = Image::new();
    image.library("opt/cuda/libcuda.so.1");
    assert!(image.update().warnings.is_empty());
    image.file("etc/ld.so.conf", b"/opt/cuda\ninclude /etc/ld.so.conf.d/*.conf\n");
    assert!(image.update().warnings[0].contains("/opt/cuda/libcuda.so.1: listed in /etc/ld.so.conf before"));
    std::fs::remove_file(image.path("etc/ld.so.conf")).unwrap();
    assert!(image.update().warnings[0].contains("no include line"));
}

#[test]
fn hardware_specific_copies_do_not_win() {
    let image = Image::new();
    image.library("usr/lib/glibc-hwcaps/x86-64-v2/libcuda.so.1");
    image.library("usr/lib/glibc-hwcaps/x86-64-v2/libz.so.1");
    let outcome = image.update();
    let cache = Cache::parse(&outcome.bytes).unwrap();
    assert_eq!(
        paths(&cache, "libcuda.so.1"),
        ["/usr/local/nvidia/lib64/libcuda.so.1"]
    );
    let libz = cache.find(b"libz.so.1").next().unwrap();
    assert_eq!(
        libz.hwcaps_index().map(|i| cache.hwcaps()[i]),
        Some(&b"x86-64-v2"[..])
    );
}

#[test]
fn resolving_as_the_loader_does() {
    let image = Image::new();
    image.library("usr/lib/libx.so.1");
    image.library("opt/env/libx.so.1");
    image.library("opt/app/lib/libx.so.1");
    image.file("opt/app/bin/p", b"");
    image.library("opt/cached/libx.so.1");
    image.file("opt/wrong/libx.so.1", b"GROUP");
    let found = |env: &LoaderEnv| {
        let found = resolve(&image.root, "libx.so.1", env).unwrap();
        (found.path.to_str().unwrap().to_owned(), found.via)
    };
    let mut env = LoaderEnv::default();
    assert_eq!(
        found(&env),
        ("/usr/lib/libx.so.1".to_owned(), resolve::Via::SystemDir)
    );
    let mut builder = Builder::default();
    builder.add(b"/opt/cached", b"libx.so.1", b"libx.so.1", 0x303, None);
    image.write_cache(&builder.encode());
    assert_eq!(
        found(&env),
        ("/opt/cached/libx.so.1".to_owned(), resolve::Via::Cache)
    );
    let runpath = elf64("p", &[(29, "$ORIGIN/../lib:${NOPE}/x")]);
    let rpath = elf64("p", &[(15, "${ORIGIN}/../lib")]);
    let requester_of = |file: &[u8]| Some((PathBuf::from("/opt/app/bin/p"), read(file).unwrap()));
    env.requester = requester_of(&runpath);
    assert_eq!(
        found(&env),
        ("/opt/app/bin/../lib/libx.so.1".to_owned(), resolve::Via::Runpath)
    );
    env.library_path = Some(b"::/nowhere;/opt/wrong:/opt/env".to_vec());
    assert_eq!(
        found(&env),
        ("/opt/env/libx.so.1".to_owned(), resolve::Via::LibraryPath)
    );
    env.requester = requester_of(&rpath);
    assert_eq!(found(&env).1, resolve::Via::Rpath);
    env.abi = Some((EM_386, false));
    assert_eq!(resolve(&image.root, "libx.so.1", &env), None);
    assert_eq!(resolve(&image.root, "", &LoaderEnv::default()), None);
    assert_eq!(resolve(&image.root, "libnone.so", &LoaderEnv::default()), None);
}

/// Compared with glibc 2.36.
#[test]
fn the_entries_of_the_variable() {
    let image = Image::new();
    let entries = |text: &str, cwd: Option<&str>| -> Vec<String> {
        let env = LoaderEnv {
            library_path: Some(text.into()),
            cwd: cwd.map(PathBuf::from),
            requester: Some((PathBuf::from("/opt/bin/p"), ElfInfo::default())),
            ..LoaderEnv::default()
        };
        let path = LibraryPath::new(&image.root, &env).unwrap();
        assert!(!path.is_cut);
        let dirs = path.entries.iter().map(|entry| entry.dir.display().to_string());
        dirs.collect()
    };
    assert_eq!(entries("", Some("/w")), [""; 0]);
    assert_eq!(entries(":/a;/b", Some("/w")), ["/w/", "/a", "/b"]);
    assert_eq!(entries("a:/b", Some("/w")), ["/w/a", "/b"]);
    assert_eq!(entries("a:/b:", None), ["/b"]);
    assert_eq!(
        entries("$ORIGIN/../x:${ORIGIN}y", None),
        ["/opt/bin/../x", "/opt/biny"]
    );
    assert_eq!(
        entries("/a$ORIGINS:/a/$FOO:/$:/${LIB:/$LIB", None),
        ["/a$ORIGINS", "/a/$FOO", "/$", "/${LIB", "/lib64"]
    );
    let many = LoaderEnv {
        library_path: Some("/a:".repeat(10_000).into()),
        ..LoaderEnv::default()
    };
    assert!(LibraryPath::new(&image.root, &many).unwrap().is_cut);
    image.file("etc/alpine-release", b"3.20");
    image.file("lib/ld-musl-x86_64.so.1", &elf64("ld", &[]));
    assert_eq!(entries(":/a;/b::/$LIB\n/c", Some("/w")), ["/a;/b", "/$LIB", "/c"]);
}

/// Compared with glibc 2.36.
#[test]
fn the_loaders_reaction_to_a_file() {
    let image = Image::new();
    let env = LoaderEnv {
        library_path: Some("/opt".into()),
        ..LoaderEnv::default()
    };
    let path = LibraryPath::new(&image.root, &env).unwrap();
    let mut other = elf64("libx.so.1", &[]);
    image.library("opt/right");
    other[18] = 183;
    image.file("opt/machine", &other);
    image.file("opt/empty", b"");
    image.file("opt/script", b"GROUP ( libx.so )");
    std::fs::create_dir(image.path("opt/dir")).unwrap();
    symlink("missing", image.path("opt/dangling")).unwrap();
    for (name, reaction) in [
        ("right", Reaction::Loads),
        ("machine", Reaction::Continues),
        ("empty", Reaction::Fails),
        ("script", Reaction::Fails),
        ("dir", Reaction::Fails),
        ("dangling", Reaction::Continues),
        ("missing", Reaction::Continues),
        ("right/x", Reaction::Continues),
    ] {
        assert_eq!(path.reaction(&Path::new("/opt").join(name)), reaction, "{name}");
    }
}

/// toolkit-features 12, quirk 14: the vendor's tool ignored an `include` relative to ld.so.conf.
#[test]
fn quirk_14_a_relative_include_is_followed() {
    let image = Image::new();
    image.file("etc/ld.so.conf", b"include ld.so.conf.d/*.conf\n");
    image.library("usr/local/lib/libv.so.1");
    let run = Run {
        dirs: Vec::new(),
        conf: Some(PathBuf::from(conf::DEFAULT)),
        links: Links::Leave,
    };
    let (bytes, _) = scan_root(&image.root, &run, &mut Warnings::default());
    let found = paths(&Cache::parse(&bytes).unwrap(), "libv.so.1");
    assert_eq!(found, ["/usr/local/lib/libv.so.1"]);
}

#[test]
fn links_are_made_and_stale_ones_removed_only_on_request() {
    let image = Image::new();
    image.file("usr/local/lib/libv.so.1.2", &elf64("libv.so.1", &[]));
    image.file("usr/local/lib/libv.so.1.10", &elf64("libv.so.1", &[]));
    symlink("gone", image.path("usr/local/lib/libstale.so.1")).unwrap();
    let mut run = Run {
        dirs: Vec::new(),
        conf: Some(PathBuf::from(conf::DEFAULT)),
        links: Links::Leave,
    };
    let (bytes, _) = scan_root(&image.root, &run, &mut Warnings::default());
    assert_eq!(
        paths(&Cache::parse(&bytes).unwrap(), "libv.so.1"),
        ["/usr/local/lib/libv.so.1"]
    );
    assert!(image.path("usr/local/lib/libv.so.1").symlink_metadata().is_err());
    run.links = Links::Make;
    scan_root(&image.root, &run, &mut Warnings::default());
    let target = std::fs::read_link(image.path("usr/local/lib/libv.so.1")).unwrap();
    assert_eq!(target, Path::new("libv.so.1.10"));
    assert!(
        image
            .path("usr/local/lib/libstale.so.1")
            .symlink_metadata()
            .is_err()
    );
}

/// A 64-bit library in `/n`.
fn put_first(soname: &str) -> Addition {
    Addition {
        soname: soname.into(),
        path: format!("/n/{soname}").into_bytes(),
        flags: 0x303,
    }
}

/// Whether the names are in the order that the loader's search needs.
fn is_sorted(cache: &Cache<'_>) -> bool {
    cache
        .entries()
        .is_sorted_by(|a, b| order::compare(a.soname, b.soname).is_ge())
}

proptest! {
    #[test]
    fn a_written_cache_is_read_back(names in prop::collection::vec(("lib[a-c0-9]{0,3}", "[ab]"), 0..40)) {
        let mut builder = Builder::default();
        for (soname, dir) in &names {
            builder.add(format!("/{dir}").as_bytes(), soname.as_bytes(), soname.as_bytes(), 0x303, None);
        }
        let bytes = builder.encode();
        let cache = Cache::parse(&bytes).unwrap();
        prop_assert!(is_sorted(&cache));
        prop_assert_eq!(cache.len(), names.len());
        for (soname, dir) in &names {
            let path = format!("/{dir}/{soname}");
            prop_assert!(cache.find(soname.as_bytes()).any(|e| e.path == path.as_bytes()));
        }
        // Extending by nothing changes nothing.
        let again = extended(&bytes, &[], &[]).unwrap();
        prop_assert_eq!(&again, &bytes);
    }
}

proptest! {
    /// Entries come and go at any places; all others stay, in order.
    #[test]
    fn a_merge_changes_only_the_requested_entries(
        names in prop::collection::vec(("lib[a-c0-9]{0,2}", "[ab]"), 0..30),
        more in prop::collection::vec("lib[a-c0-9]{0,2}", 0..8),
    ) {
        let mut builder = Builder::default();
        for (soname, dir) in &names {
            builder.add(format!("/{dir}").as_bytes(), soname.as_bytes(), soname.as_bytes(), 0x303, None);
        }
        let bytes = builder.encode();
        let additions: Vec<_> = more.iter().map(|soname| put_first(soname)).collect();
        let once = extended(&bytes, &additions, &[b"/a"]).unwrap();
        let merged = Cache::parse(&once).unwrap();
        prop_assert!(is_sorted(&merged));
        let list = |cache: &Cache<'_>, start: &str| -> Vec<(Vec<u8>, Vec<u8>)> {
            let entries = cache.entries().filter(|e| e.path.starts_with(start.as_bytes()));
            entries.map(|e| (e.soname.to_vec(), e.path.to_vec())).collect()
        };
        prop_assert_eq!(list(&merged, "/b/"), list(&Cache::parse(&bytes).unwrap(), "/b/"));
        prop_assert!(list(&merged, "/a/").is_empty());
        let mut ours = list(&merged, "/n/");
        ours.sort();
        let mut wanted: Vec<_> = additions.iter().map(|a| (a.soname.clone(), a.path.clone())).collect();
        wanted.sort();
        prop_assert_eq!(ours, wanted);
        for soname in &more {
            let first = merged.find(soname.as_bytes()).next().unwrap();
            prop_assert!(first.path.starts_with(b"/n/"));
        }
        // However often: with the additions of an earlier time.
        let again = extended(&once, &additions, &[b"/a", b"/n"]).unwrap();
        prop_assert_eq!(again.len(), once.len());
        prop_assert!(Cache::parse(&again).unwrap().entries().eq(merged.entries()));
    }
}

#[test]
fn every_architecture_has_its_own_flags() {
    for arch in ARCHES {
        assert_eq!(arch.flags_of(arch.machine, true, 0), Some(arch.flags));
    }
}

proptest! {
    /// In a cache without any order the loader finds the additions, or the cache is not extended.
    #[test]
    fn in_a_disordered_cache_additions_are_found_or_refused(
        places in Just((0..12).collect::<Vec<usize>>()).prop_shuffle(),
        more in prop::collection::vec("lib[a-m]", 1..4),
    ) {
        let mut builder = Builder::default();
        for name in "abcdefghijkl".chars().map(|c| format!("lib{c}")) {
            builder.add(b"/a", name.as_bytes(), name.as_bytes(), 0x303, None);
        }
        let mut bytes = builder.encode();
        let entries = bytes[cache::HEADER..][..12 * cache::ENTRY].to_vec();
        for (to, from) in bytes[cache::HEADER..].chunks_exact_mut(cache::ENTRY).zip(places) {
            to.copy_from_slice(&entries[from * cache::ENTRY..][..cache::ENTRY]);
        }
        let additions: Vec<_> = more.iter().map(|soname| put_first(soname)).collect();
        if let Ok(merged) = extended(&bytes, &additions, &[b"/n"]) {
            let merged = Cache::parse(&merged).unwrap();
            for soname in &more {
                let path = format!("/n/{soname}");
                let first = merged.find(soname.as_bytes()).next().unwrap();
                prop_assert_eq!(first.path, path.as_bytes());
            }
        }
    }
}

#[test]
fn a_cache_that_would_hide_an_addition_is_not_extended() {
    let sorted = ["libj", "libh", "libf", "libd", "libb"];
    let mut builder = Builder::default();
    for name in sorted {
        builder.add(b"/a", name.as_bytes(), name.as_bytes(), 0x303, None);
    }
    let mut bytes = builder.encode();
    let additions = [put_first("libf")];
    assert!(extended(&bytes, &additions, &[]).is_ok());
    // The search begins in the middle, reads too low a name there, and continues before it, past
    // the cache's libf.
    let old = bytes.clone();
    let entry = |i: usize| cache::HEADER + i * cache::ENTRY..cache::HEADER + (i + 1) * cache::ENTRY;
    for (to, name) in ["libb", "libf", "libd", "libh", "libj"].into_iter().enumerate() {
        let from = sorted.iter().position(|n| *n == name).unwrap();
        bytes[entry(to)].copy_from_slice(&old[entry(from)]);
    }
    let why = extended(&bytes, &additions, &[]).unwrap_err();
    assert!(why.contains("order"), "{why}");
}

/// Each lookup may be behind links of thousands of bytes. The result does not depend on the time
/// that it takes.
#[test]
fn lookups_of_a_configuration_are_limited() {
    let image = Image::new();
    for i in [0, 254, 255, 4000] {
        image.file(&format!("c/{i}.conf"), format!("/l{i}\n").as_bytes());
    }
    let names: Vec<String> = (0..4001).map(|i| format!("/c/{i}.conf")).collect();
    let conf = format!("include {}\n", names.join(" "));
    image.file("etc/ld.so.conf", conf.as_bytes());
    let mut warnings = Warnings::default();
    let found = {
        let mut lookups = lookup::Lookups::new(&image.root, 0, u32::MAX);
        conf::read(&image.root, Path::new(conf::DEFAULT), &mut lookups, &mut warnings)
    };
    let dirs: Vec<_> = found.dirs.iter().map(|d| d.path.display().to_string()).collect();
    assert_eq!(dirs, ["/l0", "/l254"]);
    let warnings = warnings.into_lines();
    assert_eq!(warnings, ["/c/255.conf: too many included files, ignored"]);

    // Each name's directory below glibc-hwcaps is one more lookup.
    let image = Image::new();
    for (dir, name) in (0..4).flat_map(|d| (0..200).map(move |n| (d, n))) {
        let path = format!("l{dir}/glibc-hwcaps/h{name}");
        std::fs::create_dir_all(image.path(&path)).unwrap();
    }
    image.file("etc/ld.so.conf", b"/l0\n/l1\n/l2\n/l3\n");
    let mut warnings = Warnings::default();
    let conf = Some(Path::new(conf::DEFAULT));
    let found = dirs::collect(&image.root, &ARCHES[0], &[], &[], conf, &mut warnings);
    assert_eq!(found.dirs.len(), 512);
    assert_eq!(warnings.into_lines().len(), 1);
}
