//! Fully-qualified CDI device names.

use core::fmt;

/// The longest part of a CDI name that is accepted, in bytes.
const MAX_PART: usize = 253;

/// A CDI device name, `vendor/class=device`, with each part checked against the CDI specification.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CdiName {
    /// The vendor, a domain name such as `nvidia.com`.
    pub vendor: String,
    /// The class, such as `gpu`.
    pub class: String,
    /// The device within the kind.
    pub device: String,
}

impl CdiName {
    /// Parses `vendor/class=device`; `None` if it is not a valid CDI name.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, device) = text.split_once('=')?;
        Self::of_kind(kind, device)
    }

    /// The device `device` of `kind` (`vendor/class`); `None` if the two do not make a valid CDI
    /// name.
    pub fn of_kind(kind: &str, device: &str) -> Option<Self> {
        let (vendor, class) = split_kind(kind)?;
        is_device(device).then(|| Self {
            vendor: vendor.to_owned(),
            class: class.to_owned(),
            device: device.to_owned(),
        })
    }

    /// Whether the name is of the kind `vendor/class`.
    pub fn is_kind(&self, vendor: &str, class: &str) -> bool {
        self.vendor == vendor && self.class == class
    }

    /// Whether the name is of `kind`, `vendor/class`.
    pub fn has_kind(&self, kind: &str) -> bool {
        kind.split_once('/')
            .is_some_and(|(vendor, class)| self.is_kind(vendor, class))
    }

    /// Whether the kind is NVIDIA's: of the vendor `nvidia.com`, or of one below it such as
    /// `management.nvidia.com`.
    pub fn is_nvidias(&self) -> bool {
        let rest = self.vendor.strip_suffix("nvidia.com");
        rest.is_some_and(|below| below.is_empty() || below.ends_with('.'))
    }
}

impl fmt::Display for CdiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}={}", self.vendor, self.class, self.device)
    }
}

/// Splits a CDI kind into vendor and class, each checked.
///
/// A part of one letter is refused: the CDI library of the Go engines panics on it.
pub fn split_kind(kind: &str) -> Option<(&str, &str)> {
    let (vendor, class) = kind.split_once('/')?;
    let part = |text: &str| {
        let bytes = text.as_bytes();
        (2..=MAX_PART).contains(&bytes.len())
            && bytes[0].is_ascii_alphabetic()
            && bytes[bytes.len() - 1].is_ascii_alphanumeric()
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(b))
    };
    (part(vendor) && part(class)).then_some((vendor, class))
}

fn is_device(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=MAX_PART).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let name = CdiName::parse("nvidia.com/gpu=0:1").unwrap();
        assert!(name.is_kind("nvidia.com", "gpu") && name.has_kind("nvidia.com/gpu") && name.is_nvidias());
        assert!(!name.has_kind("nvidia.com/pgpu") && !name.has_kind("nvidia.com"));
        let is_nvidias = |text: &str| CdiName::parse(text).unwrap().is_nvidias();
        assert!(is_nvidias("management.nvidia.com/gpu=all"));
        assert!(!is_nvidias("evilnvidia.com/gpu=all") && !is_nvidias("nvidia.com.evil/gpu=all"));
        assert_eq!(name.to_string(), "nvidia.com/gpu=0:1");
        for bad in [
            "nvidia.com/gpu",
            "nvidia.com/gpu=",
            "nvidia.com=0",
            "/gpu=0",
            "nvidia.com/g=0",
            "n/gpu=0",
            "nvidia.com/gpu=0;rm",
            "nvidia.com/gpu=-0",
            "nvidia.com/../gpu=0",
            "1nvidia.com/gpu=0",
            "nvidia.com/gpu=a=b",
        ] {
            assert_eq!(CdiName::parse(bad), None, "{bad}");
        }
    }
}
