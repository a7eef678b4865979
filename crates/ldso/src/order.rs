//! The order of names in the loader's cache.
//!
//! The loader finds a name by binary search, so a cache must be sorted by exactly its comparison:
//! byte by byte, except that runs of digits compare as numbers and a digit is greater than anything
//! else. So `libx.so.10` is greater than `libx.so.9`. The cache is in descending order.

use std::cmp::Ordering;

/// Compares two names as glibc's loader does. A NUL ends a name, as the end of its slice does.
pub fn compare(one: &[u8], other: &[u8]) -> Ordering {
    // A common beginning decides nothing, but a number must be compared from its first digit.
    let same = shared(one, other);
    let digits = one[..same]
        .iter()
        .rev()
        .take_while(|b| b.is_ascii_digit())
        .count();
    let (left, right) = (first(&one[same..]), first(&other[same..]));
    match (left.is_ascii_digit(), right.is_ascii_digit()) {
        // Bytes are signed in glibc's comparison on x86.
        (false, false) => left.cast_signed().cmp(&right.cast_signed()),
        (true, false) if digits == 0 => Ordering::Greater,
        (false, true) if digits == 0 => Ordering::Less,
        (true, true) if same_width(&one[same..], &other[same..], MOST_DIGITS.saturating_sub(digits)) => {
            left.cmp(&right)
        }
        _ => compare_all(&one[same - digits..], &other[same - digits..]),
    }
}

/// Numbers of at most so many digits do not overflow.
const MOST_DIGITS: usize = 9;

/// Whether both begin with the same number of digits, at most `most`: then the first one that
/// differs decides.
fn same_width(one: &[u8], other: &[u8], most: usize) -> bool {
    let width = |text: &[u8]| {
        text.iter()
            .take(most + 1)
            .take_while(|b| b.is_ascii_digit())
            .count()
    };
    let wide = width(one);
    wide <= most && wide == width(other)
}

/// The comparison in glibc's own steps.
fn compare_all(mut one: &[u8], mut other: &[u8]) -> Ordering {
    loop {
        let (left, right) = (first(one), first(other));
        match (left.is_ascii_digit(), right.is_ascii_digit()) {
            (true, true) => {
                let ordering = number(&mut one).cmp(&number(&mut other));
                if ordering.is_ne() {
                    return ordering;
                }
            }
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) if left == right && left != 0 => (one, other) = (&one[1..], &other[1..]),
            (false, false) => return left.cast_signed().cmp(&right.cast_signed()),
        }
    }
}

/// Appends bytes to `out` whose byte order is the name's order in [`compare`].
///
/// Comparing thousands of names with each other costs more than reading their files; with keys each
/// name is read once.
pub fn key(mut name: &[u8], out: &mut Vec<u8>) {
    while let Some(&byte) = name.first() {
        if byte.is_ascii_digit() {
            out.push(u8::MAX);
            out.extend((number(&mut name) ^ i32::MIN).to_be_bytes());
        } else {
            out.push(rank(byte));
            name = &name[1..];
        }
    }
    out.push(rank(0));
}

/// The length of the common beginning of two names, before the end of either.
fn shared(a: &[u8], b: &[u8]) -> usize {
    const WIDTH: usize = size_of::<u64>();
    const ONES: u64 = u64::MAX / 255;
    let word = |chunk: &[u8]| chunk.try_into().map_or(0, u64::from_le_bytes);
    let mut same = 0;
    for (x, y) in a.chunks_exact(WIDTH).zip(b.chunks_exact(WIDTH)) {
        let (x, y) = (word(x), word(y));
        // The top bit of each byte that is 0. Later bits may be wrong, but only the first counts.
        let ends = x.wrapping_sub(ONES) & !x & (ONES << 7);
        let stop = (x ^ y) | ends;
        if stop != 0 {
            return same + stop.trailing_zeros() as usize / 8;
        }
        same += WIDTH;
    }
    let rest = a[same..].iter().zip(&b[same..]);
    same + rest.take_while(|(x, y)| x == y && **x != 0).count()
}

/// The place of a byte that is not a digit among such bytes; 255 stays free for digits.
fn rank(byte: u8) -> u8 {
    let shifted = byte ^ 0x80;
    if shifted > b'9' ^ 0x80 {
        shifted - 1
    } else {
        shifted
    }
}

/// The first byte; the end counts as 0.
fn first(name: &[u8]) -> u8 {
    name.first().copied().unwrap_or(0)
}

/// Takes a run of digits off `text`; overflow wraps, as in the loader.
fn number(text: &mut &[u8]) -> i32 {
    let mut value = 0_i32;
    while let Some((&digit, rest)) = text.split_first() {
        if !digit.is_ascii_digit() {
            break;
        }
        value = value.wrapping_mul(10).wrapping_add(i32::from(digit - b'0'));
        *text = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn digits_are_numbers_and_greater_than_letters() {
        assert_eq!(compare(b"libx.so.10", b"libx.so.9"), Ordering::Greater);
        assert_eq!(compare(b"libx.so.010", b"libx.so.10"), Ordering::Equal);
        assert_eq!(compare(b"libx1", b"libxz"), Ordering::Greater);
        assert_eq!(compare(b"libx", b"libx1"), Ordering::Less);
        assert_eq!(compare(b"libx", b"libx"), Ordering::Equal);
        assert_eq!(compare(b"libx\xff", b"libx"), Ordering::Less);
    }

    proptest! {
        #[test]
        fn keys_order_as_names_do(a in "[ab0-9.\u{7f}é]{0,6}", b in "[ab0-9.\u{7f}é]{0,6}") {
            let (mut x, mut y) = (Vec::new(), Vec::new());
            key(a.as_bytes(), &mut x);
            key(b.as_bytes(), &mut y);
            prop_assert_eq!(x.cmp(&y), compare(a.as_bytes(), b.as_bytes()));
        }

        #[test]
        fn a_common_beginning_changes_nothing(
            start in "[a0-9]{0,20}", a in "[a0-9]{0,4}", b in "[a0-9]{0,4}",
        ) {
            let (a, b) = (format!("{start}{a}"), format!("{start}{b}"));
            let (mut x, mut y) = (Vec::new(), Vec::new());
            key(a.as_bytes(), &mut x);
            key(b.as_bytes(), &mut y);
            prop_assert_eq!(x.cmp(&y), compare(a.as_bytes(), b.as_bytes()));
        }

        #[test]
        fn the_short_way_is_the_long_way(
            start in "[a0-9\u{7f}é]{0,12}", a in "[a0-9]{0,12}", b in "[a0-9]{0,12}",
        ) {
            let (a, b) = (format!("{start}{a}"), format!("{start}{b}"));
            prop_assert_eq!(compare(a.as_bytes(), b.as_bytes()), compare_all(a.as_bytes(), b.as_bytes()));
        }

        #[test]
        fn bytes_after_a_nul_change_nothing(
            a in "[a0-9]{0,20}", b in "[a0-9]{0,20}", x in "[a0-9\0]{0,20}", y in "[a0-9\0]{0,20}",
        ) {
            let (long_a, long_b) = (format!("{a}\0{x}"), format!("{b}\0{y}"));
            let expected = compare(a.as_bytes(), b.as_bytes());
            prop_assert_eq!(compare(long_a.as_bytes(), long_b.as_bytes()), expected);
            prop_assert_eq!(compare(long_a.as_bytes(), b.as_bytes()), expected);
        }
    }
}
