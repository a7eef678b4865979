//! The types that identify a device, such as [`PciAddress`], each with the only parser and printer
//! of it, and the names of nvoci's files in a container.
//!
//! Parsers are strict: ASCII only, no sign, no blanks, bounded lengths. A value is parsed once,
//! where it enters, and keeps its type until it is printed.

mod driver_dir;
mod pci;
mod uuid;

pub use driver_dir::{LAST_RESORTS, RECORD};
pub use inroot::root::DeviceNumber;
pub use pci::PciAddress;
pub use uuid::{GpuUuid, MigDevice, MigUuid, Uuid, UuidStart};

/// The text does not have the form of the type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Malformed;

/// A decimal number without a sign, unlike `u32::from_str`, which accepts `+1`.
pub fn decimal(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.len() <= 10 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A hexadecimal number of at most `max_digits` digits, in any case, without a sign or `0x`.
fn hexadecimal(text: &str, max_digits: usize) -> Option<u32> {
    let digits = !text.is_empty() && text.len() <= max_digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

/// The rest of a text after a prefix in any case.
pub fn strip_prefix_ignore_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// A value as text; empty for `None`.
pub fn or_empty(value: Option<impl ToString>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ascii_digits_alone() {
        for (text, number) in [("0", 0), ("007", 7), ("4294967295", u32::MAX)] {
            assert_eq!(decimal(text), Some(number));
        }
        for text in [
            "",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1\n",
            "0x1",
            "4294967296",
            "00000000001",
            "\u{663}",
            "\u{ff11}",
            "1_0",
        ] {
            assert_eq!(decimal(text), None, "{text:?}");
            assert_eq!(hexadecimal(text, 8), None, "{text:?}");
        }
    }
}
