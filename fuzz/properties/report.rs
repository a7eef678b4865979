//! Writes the counters when the fuzzer ends: to the file in `NVOCI_FUZZ_COUNTS`, else to standard
//! error.

use std::sync::OnceLock;

use crate::count;

static CLEAN: OnceLock<fn()> = OnceLock::new();

/// Registers the writer and `clean` to run at exit.
pub(crate) fn at_exit(clean: fn()) {
    if CLEAN.set(clean).is_ok() {
        // SAFETY: `end` is a C function that uses nothing of the thread or of main.
        unsafe { libc::atexit(end) };
    }
}

extern "C" fn end() {
    if let Some(clean) = CLEAN.get() {
        clean();
    }
    match std::env::var_os("NVOCI_FUZZ_COUNTS") {
        Some(file) => {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
            if let Ok(mut file) = file {
                count::write(&mut file);
            }
        }
        None => count::write(&mut std::io::stderr()),
    }
}
