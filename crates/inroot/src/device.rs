//! Device numbers.

use std::fmt;
use std::str::FromStr;

/// The number by which the kernel identifies a device, whatever the name of its node.
///
/// Written `MAJOR:MINOR` in decimal, as in `/proc/self/mountinfo` (proc_pid_mountinfo(5)), below
/// `/dev/char` and in device cgroup rules.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DeviceNumber {
    /// The driver's number.
    pub major: u32,
    /// The device's number with that driver.
    pub minor: u32,
}

impl DeviceNumber {
    /// From a `dev_t`: `st_rdev` of a device node, `st_dev` of any inode.
    pub fn from_raw(dev: u64) -> Self {
        Self {
            major: rustix::fs::major(dev),
            minor: rustix::fs::minor(dev),
        }
    }

    /// The form for `mknod`.
    pub fn to_raw(self) -> u64 {
        rustix::fs::makedev(self.major, self.minor)
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// The text is not a device number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotADeviceNumber;

impl FromStr for DeviceNumber {
    type Err = NotADeviceNumber;

    /// Parses `MAJOR:MINOR` of 12 and 20 bits, the sizes of Linux device numbers (`MINORBITS` in
    /// `linux/kdev_t.h`).
    fn from_str(text: &str) -> Result<Self, NotADeviceNumber> {
        // `u32::from_str` alone would accept `+1`.
        let part = |digits: &str, bits: u32| {
            let short = (1..=7).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
            short
                .then(|| digits.parse::<u32>().ok())
                .flatten()
                .filter(|n| n >> bits == 0)
        };
        let (major, minor) = text.split_once(':').ok_or(NotADeviceNumber)?;
        Ok(Self {
            major: part(major, 12).ok_or(NotADeviceNumber)?,
            minor: part(minor, 20).ok_or(NotADeviceNumber)?,
        })
    }
}
