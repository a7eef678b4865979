//! A library from an image.
use ldso::elf::{Want, read};

use crate::count::reached;

/// Must hold for every input.
pub(crate) fn check(file: &[u8]) {
    reached("run");
    let brief = read(file, Want::Soname);
    let all = read(file, Want::All);
    if brief.is_ok() {
        reached("accepted");
    }
    // A broken needed name or search path is the only thing that reading more can stumble over.
    if let (Ok(brief), Ok(all)) = (&brief, &all) {
        assert_eq!(
            (brief.is_64, brief.machine, &brief.soname),
            (all.is_64, all.machine, &all.soname)
        );
    }
    assert!(brief.is_ok() || all.is_err());
}
