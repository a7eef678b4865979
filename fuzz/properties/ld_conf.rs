//! Lines of an image's ld.so.conf, and its include patterns matched with names.
use ldso::conf::{Line, lines};
use ldso::{glob, order};

use crate::count::reached;

/// Holds for every input.
pub(crate) fn check(text: &[u8]) {
    reached("run");
    let mut previous: &[u8] = b"";
    for (number, line) in lines(text) {
        assert!(number > 0);
        match line {
            Line::Dir(dir) => {
                reached("accepted");
                assert!(!dir.is_empty() && !dir.ends_with(b"/") && !dir.contains(&b'\n'));
                let (mut a, mut b) = (Vec::new(), Vec::new());
                order::key(previous, &mut a);
                order::key(dir, &mut b);
                // glibc has C strings: a NUL cannot be in a name.
                assert_eq!(a.cmp(&b), order::compare(previous, dir));
                previous = dir;
            }
            Line::Include(patterns) => {
                for pattern in patterns {
                    assert!(!pattern.is_empty());
                    let _ = glob::matches(pattern, previous);
                }
            }
            Line::Hwcap => {}
        }
    }
}
