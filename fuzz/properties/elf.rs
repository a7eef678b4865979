//! A library of an image: reading more of it changes no fact.
use ldso::elf::{Want, read};

use crate::count::reached;

/// Holds for every input.
pub(crate) fn check(file: &[u8]) {
    reached("run");
    let brief = read(file, Want::Soname);
    let all = read(file, Want::All);
    if brief.is_ok() {
        reached("accepted");
    }
    // Only a broken needed name or search path can make reading more fail.
    if let (Ok(brief), Ok(all)) = (&brief, &all) {
        assert_eq!(
            (brief.is_64, brief.machine, &brief.soname),
            (all.is_64, all.machine, &all.soname)
        );
    }
    assert!(brief.is_ok() || all.is_err());
}
