//! Options of the linker, for the program alone and not for the tests; and the doctor's texts.

use std::io::Write as _;
use std::path::Path;
use std::{env, fs, io};

use flate2::Compression;
use flate2::write::DeflateEncoder;

/// In the order in which the doctor reads them.
const ENTRIES: [&str; 9] = [
    "collected",
    "driver",
    "engines",
    "frameworks",
    "multi",
    "install",
    "graphics",
    "families",
    "harmless",
];

fn main() -> io::Result<()> {
    entries()?;
    linker();
    Ok(())
}

/// Compresses the entries of `nvoci doctor explain`, with a blank line between two files.
fn entries() -> io::Result<()> {
    let from = Path::new("src/doctor/explain/entries");
    println!("cargo:rerun-if-changed={}", from.display());
    let mut compressed = DeflateEncoder::new(Vec::new(), Compression::best());
    for name in ENTRIES {
        compressed.write_all(&fs::read(from.join(format!("{name}.txt")))?)?;
        compressed.write_all(b"\n")?;
    }
    let out = env::var_os("OUT_DIR").unwrap_or_default();
    fs::write(Path::new(&out).join("entries.deflate"), compressed.finish()?)
}

fn linker() {
    println!("cargo:rerun-if-changed=packaging/no-unwind.ld");
    println!("cargo:rerun-if-changed=packaging/start-order.ld");
    println!("cargo:rerun-if-env-changed=NVOCI_LINK_MAP");
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|found| found == value);
    if !is("CARGO_CFG_TARGET_ENV", "musl") {
        return;
    }
    // Relative relocations packed (RELR): they are a kilobyte to read at each start instead of 77,
    // and musl applies them itself since 1.2.4. A linker without the option warns and goes on.
    println!("cargo:rustc-link-arg-bins=-zpack-relative-relocs");
    // A release aborts where it panics, so nothing reads its unwind tables. They were an eleventh
    // of the file. And the functions that a container's start calls are side by side in it: the
    // kernel maps the program in windows of 64 KiB, each for a page fault.
    if is("PROFILE", "release") {
        for script in ["no-unwind.ld", "start-order.ld"] {
            println!(
                "cargo:rustc-link-arg-bins=-T{}/packaging/{script}",
                env!("CARGO_MANIFEST_DIR")
            );
        }
    }
    // For integration/counts/order: a stripped program's functions are in the linker's map alone,
    // and another profile would give them other names.
    if let Ok(map) = env::var("NVOCI_LINK_MAP") {
        println!("cargo:rustc-link-arg-bins=-Wl,-Map={map}");
    }
}
