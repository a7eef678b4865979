//! Options of the linker, for the program alone and not for the tests.

fn main() {
    println!("cargo:rerun-if-changed=packaging/no-unwind.ld");
    let is = |variable: &str, value: &str| std::env::var(variable).is_ok_and(|found| found == value);
    if !is("CARGO_CFG_TARGET_ENV", "musl") {
        return;
    }
    // Relative relocations packed (RELR): they are a kilobyte to read at each start instead of 77,
    // and musl applies them itself since 1.2.4. A linker without the option warns and goes on.
    println!("cargo:rustc-link-arg-bins=-zpack-relative-relocs");
    // A release aborts where it panics, so nothing reads its unwind tables. They were an eleventh
    // of the file.
    if is("PROFILE", "release") {
        println!(
            "cargo:rustc-link-arg-bins=-T{}/packaging/no-unwind.ld",
            env!("CARGO_MANIFEST_DIR")
        );
    }
}
