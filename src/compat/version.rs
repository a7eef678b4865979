//! Version numbers: of drivers (`580.159.04`) and of CUDA (`12.4`).

use core::cmp::Ordering;
use core::fmt;
use core::str::FromStr;

use serde::{Serialize, Serializer};

/// A dotted version of one to four numbers; missing numbers compare as 0.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Version {
    parts: [u32; 4],
    len: u8,
    /// Digits of the last part as written: drivers write `104.05`.
    widths: [u8; 4],
}

impl Version {
    /// The lowest version of a branch.
    pub fn of_branch(number: u32) -> Self {
        Self {
            parts: [number, 0, 0, 0],
            len: 1,
            widths: [digits(number), 0, 0, 0],
        }
    }

    /// A branch and a release of at least two digits: `566.36`, `556.01`.
    pub fn of_release(branch: u32, release: u32) -> Self {
        Self {
            parts: [branch, release, 0, 0],
            len: 2,
            widths: [digits(branch), digits(release).max(2), 0, 0],
        }
    }

    /// The numbers that comparisons use; missing ones are 0.
    pub const fn numbers(self) -> [u32; 4] {
        self.parts
    }

    /// The first number; of a Linux driver it is the branch.
    pub const fn major(self) -> u32 {
        self.parts[0]
    }

    /// The second number, 0 when there is none.
    pub const fn minor(self) -> u32 {
        self.parts[1]
    }
}

/// The decimal digits of a number.
fn digits(number: u32) -> u8 {
    u8::try_from(number.checked_ilog10().unwrap_or(0) + 1).unwrap_or(1)
}

/// The text is no version.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotAVersion;

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let (mut parts, mut widths, mut len) = ([0; 4], [0; 4], 0_u8);
        for part in text.split('.') {
            if part.is_empty() || part.len() > 8 || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(NotAVersion);
            }
            let at = usize::from(len);
            *parts.get_mut(at).ok_or(NotAVersion)? = part.parse().map_err(|_| NotAVersion)?;
            widths[at] = u8::try_from(part.len()).map_err(|_| NotAVersion)?;
            len += 1;
        }
        Ok(Self { parts, len, widths })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for at in 0..usize::from(self.len) {
            if at > 0 {
                f.write_str(".")?;
            }
            write!(
                f,
                "{:0width$}",
                self.parts[at],
                width = usize::from(self.widths[at])
            )?;
        }
        Ok(())
    }
}

/// As text.
impl Serialize for Version {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts.cmp(&other.parts)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A CUDA release; only major and minor matter for compatibility.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Cuda {
    /// `12` of 12.4.
    pub major: u32,
    /// `4` of 12.4.
    pub minor: u32,
}

impl FromStr for Cuda {
    type Err = NotAVersion;

    /// Parses `12.4` or `12.4.1`.
    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let version: Version = text.parse()?;
        if version.len < 2 {
            return Err(NotAVersion);
        }
        Ok(Self {
            major: version.major(),
            minor: version.minor(),
        })
    }
}

impl fmt::Display for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_written_and_in_order() {
        for text in ["580.159.04", "470.82.01", "12.4", "575", "1.2.3.4"] {
            assert_eq!(text.parse::<Version>().unwrap().to_string(), text);
        }
        for number in [0, 9, 10, 575, 580] {
            assert_eq!(Ok(Version::of_branch(number)), number.to_string().parse());
        }
        for (branch, release, text) in [(566, 36, "566.36"), (556, 1, "556.01"), (566, 100, "566.100")] {
            assert_eq!(Ok(Version::of_release(branch, release)), text.parse());
        }
        let v = |text: &str| text.parse::<Version>().unwrap();
        assert!(v("535.104.05") > v("535.86.09"));
        assert!(v("580") < v("580.1"));
        for bad in ["", ".", "1.", "a", "1.2.3.4.5", "1.-2", "123456789"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
        assert_eq!("12.4.1".parse::<Cuda>().unwrap(), Cuda { major: 12, minor: 4 });
        assert!("12".parse::<Cuda>().is_err());
    }
}
