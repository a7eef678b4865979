//! A cache of an image: reading it succeeds or returns an error, and an extended cache is readable
//! and has the addition first.
use ldso::cache::Cache;
use ldso::merge::{Addition, merge, room};

use crate::count::reached;

/// Holds for every input.
pub(crate) fn check(file: &[u8]) {
    reached("run");
    let Ok(cache) = Cache::parse(file) else { return };
    reached("accepted");
    let count = cache.entries().count();
    assert_eq!(count, cache.len());
    for entry in cache.entries() {
        let _ = (entry.soname_text(), entry.os_path());
        assert!(
            entry
                .hwcaps_index()
                .is_none_or(|index| index < cache.hwcaps().len())
        );
    }
    let addition = Addition {
        soname: b"libcuda.so.1".to_vec(),
        path: b"/n/libcuda.so.1".to_vec(),
        flags: 0x303,
    };
    let room = vec![0; room(std::slice::from_ref(&addition))];
    let Ok(bytes) = merge([&room, file].concat(), &[addition], &[b"/n"]) else {
        return;
    };
    let merged = Cache::parse(&bytes).expect("the written text can be read");
    assert_eq!(merged.hwcaps(), cache.hwcaps());
    let first = merged
        .find(b"libcuda.so.1")
        .find(|entry| entry.flags == 0x303)
        .expect("the addition is found");
    assert_eq!(first.path, b"/n/libcuda.so.1");
    let old = cache
        .entries()
        .filter(|entry| !entry.path.starts_with(b"/n/") && entry.hwcap == 0)
        .count();
    assert!(merged.len() > old.saturating_sub(1));
}
