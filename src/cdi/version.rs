//! The versions of the format. A reader refuses a file of a later version than its own. So nvoci
//! declares the lowest version that the content needs, and older engines can read the file.

use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A released version; later ones are greater.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Version(u8);

const KNOWN: [&str; 10] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];

impl Version {
    /// The oldest that readers still take.
    pub const V0_3: Self = Self(2);
    /// Mounts with a type.
    pub const V0_4: Self = Self(3);
    /// Nodes with another path on the host; device names that begin with a digit.
    pub const V0_5: Self = Self(4);
    /// Annotations; a dot in the class.
    pub const V0_6: Self = Self(5);
    /// Supplementary groups, `intelRdt`.
    pub const V0_7: Self = Self(6);
    /// The last one without network devices.
    pub const V1_0: Self = Self(8);
    /// Network devices, more of `intelRdt`.
    pub const V1_1: Self = Self(9);

    /// Parses `0.5.0` or `v0.5.0`; `None` for an unknown version.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let index = KNOWN.iter().position(|known| *known == text)?;
        u8::try_from(index).ok().map(Self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KNOWN.get(usize::from(self.0)).unwrap_or(&KNOWN[0]))
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format_args!("`{text}` is not known")))
    }
}
