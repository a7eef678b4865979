//! The loader's cache: parsing, lookups, extension, and a scan of a root directory.
#![allow(clippy::print_stdout, reason = "its output is the figures")]

use std::fs;
use std::hint::black_box;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use inroot::root::Root;
use ldso::cache::Cache;
use ldso::fixtures::elf64;
use ldso::merge::{merge, room};
use ldso::write::{Addition, Builder};
use ldso::{Links, LoaderEnv, Run, Warnings, elf, resolve, scan_root};

/// Libraries of the cache and of the directory, about as many as a desktop has.
const LIBRARIES: usize = 2000;
/// An x86-64 library of libc 6.
const FLAGS: u32 = 0x303;

fn main() -> io::Result<()> {
    let file = elf64(
        "libx.so.1",
        &[(1, "libc.so.6"), (1, "libm.so.6"), (29, "$ORIGIN")],
    );
    measure("soname of an ELF file", || elf::identify(black_box(&file[..])));
    measure("needed names and run paths too", || {
        elf::read(black_box(&file[..]))
    });

    measure("encode a cache of 2,000 libraries", || builder().encode());
    let cache = builder().encode();
    measure("parse it", || Cache::parse(black_box(&cache)).map(|c| c.len()));
    if let Ok(cache) = Cache::parse(&cache) {
        measure("find one name in it", || {
            cache.find(black_box(b"lib1234.so.1")).count()
        });
    }
    let first = additions();
    measure("put 40 libraries first in it", || {
        merge([&vec![0; room(&first)], &cache[..]].concat(), &first, &[])
    });

    let dir = tempfile::tempdir()?;
    make_root(dir.path(), &cache)?;
    let root = Root::open(dir.path())?;
    let run = Run {
        dirs: Vec::new(),
        conf: Some("/etc/ld.so.conf".into()),
        links: Links::Leave,
    };
    measure("scan a root of 2,000 libraries", || {
        scan_root(&root, &run, &mut Warnings::default())
    });
    let (scanned, _) = scan_root(&root, &run, &mut Warnings::default());
    // With the loader itself.
    assert_eq!(Cache::parse(&scanned).map(|c| c.len()), Ok(LIBRARIES + 1));
    let env = LoaderEnv::default();
    assert!(resolve(&root, "lib1234.so.1", &env).is_some());
    measure("the library that a program would get", || {
        resolve(&root, black_box("lib1234.so.1"), &env)
    });
    Ok(())
}

fn builder() -> Builder {
    let mut builder = Builder::default();
    for n in 0..LIBRARIES {
        let soname = format!("lib{n}.so.1");
        builder.add(b"/usr/lib64", soname.as_bytes(), soname.as_bytes(), FLAGS, None);
    }
    builder
}

fn additions() -> Vec<Addition> {
    let one = |n| Addition {
        soname: format!("libnew{n}.so.1").into_bytes(),
        path: format!("/opt/new/libnew{n}.so.1").into_bytes(),
        flags: FLAGS,
    };
    (0..40).map(one).collect()
}

fn make_root(top: &Path, cache: &[u8]) -> io::Result<()> {
    for dir in ["etc", "lib64", "usr/lib64"] {
        fs::create_dir_all(top.join(dir))?;
    }
    fs::write(top.join("etc/ld.so.conf"), "/usr/lib64\n")?;
    fs::write(top.join("etc/ld.so.cache"), cache)?;
    fs::write(
        top.join("lib64/ld-linux-x86-64.so.2"),
        elf64("ld-linux-x86-64.so.2", &[]),
    )?;
    (0..LIBRARIES).try_for_each(|n| {
        let soname = format!("lib{n}.so.1");
        fs::write(top.join("usr/lib64").join(&soname), elf64(&soname, &[]))
    })
}

/// Prints the time of one call: the best of five rounds. Without `--bench`, as in `cargo test
/// --benches`, it makes one call.
fn measure<T>(name: &str, mut call: impl FnMut() -> T) {
    const ROUND: Duration = Duration::from_millis(200);
    black_box(call());
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let rounds = (0..5).map(|_| {
        let (start, mut calls) = (Instant::now(), 0);
        while start.elapsed() < ROUND {
            for _ in 0..16 {
                black_box(call());
            }
            calls += 16;
        }
        start.elapsed() / calls
    });
    println!("{name:44} {:>12.1?}", rounds.min().unwrap_or_default());
}
