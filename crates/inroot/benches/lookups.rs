//! Lookups below a directory that another user could control, and proofs of ownership.
#![allow(clippy::print_stdout, reason = "its output is the figures")]

use std::fs;
use std::hint::black_box;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use inroot::mountinfo::MountTable;
use inroot::owned;
use inroot::root::Root;

const DEEP: &str = "usr/lib/x86_64-linux-gnu/a/b/c/libx.so.1.2.3";

fn main() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    make_tree(dir.path())?;
    let root = Root::open(dir.path())?;
    assert_eq!(root.resolve(DEEP)?.id(), root.resolve("link/libx.so.1.2.3")?.id());
    assert!(root.resolve("../../../../nowhere").is_err());
    measure("a file 7 levels below the root", || root.resolve(black_box(DEEP)));
    measure("the same through an absolute link", || {
        root.resolve(black_box("link/libx.so.1.2.3"))
    });
    measure("a path that leads out", || {
        root.resolve(black_box("../../../../nowhere"))
    });
    let parent = root.resolve("usr/lib")?;
    measure("a name in an open directory", || {
        parent.child(black_box("file-500"))
    });
    measure("a list of 1,000 names", || root.read_dir("usr/lib", 2000));
    measure("a file of 4 KiB", || root.read("etc/text", 8192));
    measure("a proof that only root can change a file", || {
        owned::find(black_box(Path::new("/etc/passwd")))
    });
    measure("the table of this process's mounts", MountTable::own);
    Ok(())
}

fn make_tree(top: &Path) -> io::Result<()> {
    let deep = top.join(DEEP);
    let below = deep.parent().unwrap_or(top);
    fs::create_dir_all(below)?;
    fs::create_dir(top.join("etc"))?;
    fs::write(&deep, "x")?;
    fs::write(top.join("etc/text"), [b'x'; 4096])?;
    symlink("/usr/lib/x86_64-linux-gnu/a/b/c", top.join("link"))?;
    (0..1000).try_for_each(|n| fs::write(top.join(format!("usr/lib/file-{n}")), ""))
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
