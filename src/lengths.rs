//! Length fields at their extremes and inputs above 10 MiB, for the tests of each parser.

mod formats;

use crate::sys::peak::peak;

/// Values of a length, an offset or a count that can do harm, for fields of any width.
pub(crate) const EXTREMES: [u64; 19] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 32) + 1,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 7,
    u64::MAX - 1,
    u64::MAX,
];

/// A size too large for a parser that reads all of its input.
pub(crate) const LARGE: usize = 11 << 20;

/// A field of an input: its place and its width in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field(pub(crate) usize, pub(crate) usize);

impl Field {
    /// `input` with this field at `value`, little-endian, cut to its width.
    fn set(self, input: &mut [u8], value: u64) {
        let Self(at, width) = self;
        input[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    }
}

/// Runs `parse` on `good`, with each field at each extreme, alone and in pairs, and on inputs above
/// 10 MiB that begin with `good`. It must not panic or allocate more than `most` bytes.
pub(crate) fn each(good: &[u8], fields: &[Field], most: usize, parse: impl Fn(&[u8])) {
    let check = |input: &[u8], what: &dyn Fn() -> String| {
        let bytes = peak(|| parse(input));
        assert!(bytes <= most, "{}: {bytes} bytes", what());
    };
    check(good, &|| "as it is".to_owned());
    let near = [good.len() - 1, good.len(), good.len() + 1].map(|n| n as u64);
    for field in fields {
        for value in EXTREMES.into_iter().chain(near) {
            let mut input = good.to_vec();
            field.set(&mut input, value);
            check(&input, &|| format!("{field:?} = {value:#x}"));
            for other in fields {
                for second in [1, 1 << 31, u64::MAX] {
                    let mut input = input.clone();
                    other.set(&mut input, second);
                    check(&input, &|| {
                        format!("{field:?} = {value:#x}, {other:?} = {second:#x}")
                    });
                }
            }
        }
    }
    for filler in [0, 0xff, b'a'] {
        let mut input = good.to_vec();
        input.resize(LARGE, filler);
        check(&input, &|| format!("{LARGE} bytes of {filler}"));
    }
    let input = good.repeat(LARGE / good.len() + 1);
    check(&input, &|| format!("{} bytes of itself", input.len()));
}

/// Runs `parse` on a text with `@` replaced by each extreme, and by signed, fractional, quoted and
/// very long numbers.
pub(crate) fn each_number(text: &str, most: usize, parse: impl Fn(&str)) {
    let numbers = EXTREMES
        .iter()
        .flat_map(|n| [n.to_string(), format!("-{n}"), format!("{n:#x}")]);
    let odd = [
        "",
        "1e999",
        "-0",
        "1.5",
        "\"1\"",
        "null",
        "[]",
        "99999999999999999999999999",
    ];
    let long = "9".repeat(100_000);
    for number in numbers.chain(odd.map(str::to_owned)).chain([long]) {
        let input = text.replace('@', &number);
        let bytes = peak(|| parse(&input));
        assert!(bytes <= most, "{number:.40}: {bytes} bytes");
    }
}

/// Runs `parse` on `good` followed by more than 10 MiB of different kinds.
pub(crate) fn each_filler(good: &str, most: usize, parse: impl Fn(&str)) {
    for filler in ["\n", " ", "a", "[", "{\"a\":", "- ", "# ", "\0"] {
        let input = format!("{good}{}", filler.repeat(LARGE / filler.len()));
        let bytes = peak(|| parse(&input));
        assert!(bytes <= most, "{filler:?} for {LARGE} bytes: {bytes} bytes");
    }
}
