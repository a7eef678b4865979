//! A library of an image: reading more of it changes no fact.
use ldso::elf::{identify, read};

use crate::count::reached;

/// Holds for every input.
pub(crate) fn check(file: &[u8]) {
    reached("run");
    let brief = identify(file);
    let all = read(file);
    if brief.is_ok() {
        reached("accepted");
    }
    // Only a broken needed name or search path can make reading more fail.
    if let (Ok(brief), Ok(all)) = (&brief, &all) {
        assert_eq!(*brief, all.identity);
    }
    assert!(brief.is_ok() || all.is_err());
}
