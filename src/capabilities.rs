//! Driver capabilities: the parts of the driver that a container needs.

use core::fmt;
use core::ops::{BitAnd, BitOr, BitOrAssign};

/// A set of driver capabilities, such as `compute,utility` in `NVIDIA_DRIVER_CAPABILITIES`.
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
pub struct Capabilities(u8);

/// Names in alphabetical order, which is also the order of [`Capabilities::names`].
const NAMES: [(&str, Capabilities); 7] = [
    ("compat32", Capabilities::COMPAT32),
    ("compute", Capabilities::COMPUTE),
    ("display", Capabilities::DISPLAY),
    ("graphics", Capabilities::GRAPHICS),
    ("ngx", Capabilities::NGX),
    ("utility", Capabilities::UTILITY),
    ("video", Capabilities::VIDEO),
];

impl Capabilities {
    /// No capability.
    pub const NONE: Self = Self(0);
    /// 32-bit libraries.
    pub const COMPAT32: Self = Self(1);
    /// CUDA and OpenCL.
    pub const COMPUTE: Self = Self(1 << 1);
    /// Output to a display (X11).
    pub const DISPLAY: Self = Self(1 << 2);
    /// OpenGL, EGL and Vulkan.
    pub const GRAPHICS: Self = Self(1 << 3);
    /// NGX, the deep-learning graphics features.
    pub const NGX: Self = Self(1 << 4);
    /// nvidia-smi and NVML.
    pub const UTILITY: Self = Self(1 << 5);
    /// Video encoding and decoding.
    pub const VIDEO: Self = Self(1 << 6);
    /// Any of these brings libcuda and CUDA's device nodes: NVENC and NVDEC work on CUDA contexts.
    pub const CUDA: Self = Self(Self::COMPUTE.0 | Self::VIDEO.0);
    /// Every capability.
    pub const ALL: Self = Self((1 << 7) - 1);
    /// The set for a container that names none.
    pub const DEFAULT: Self = Self(Self::COMPUTE.0 | Self::UTILITY.0);

    /// The capability called `name` (ASCII case is ignored); `all` is every one.
    pub fn from_name(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("all") {
            return Some(Self::ALL);
        }
        let known = NAMES.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        known.map(|&(_, capability)| capability)
    }

    /// The union of a comma-separated list; items are trimmed and empty ones dropped.
    ///
    /// # Errors
    /// The first item that is not a capability.
    pub fn from_list(list: &str) -> Result<Self, &str> {
        let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(|item| Self::from_name(item).ok_or(item)).collect()
    }

    /// Whether every capability of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any capability of `other` is in this set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The capabilities in either set.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The capabilities of this set that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Adds the capabilities that members need: the video libraries need the compute ones, and a
    /// display needs the graphics ones (as nvidia-container-cli expands `--video` and `--display`).
    #[must_use]
    pub const fn with_implied(self) -> Self {
        let mut all = self.0;
        if all & Self::VIDEO.0 != 0 {
            all |= Self::COMPUTE.0;
        }
        if all & Self::DISPLAY.0 != 0 {
            all |= Self::GRAPHICS.0;
        }
        Self(all)
    }

    /// The names of the members, in alphabetical order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let members = NAMES.into_iter().filter(move |&(_, c)| self.contains(c));
        members.map(|(name, _)| name)
    }
}

impl BitOr for Capabilities {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Capabilities {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for Capabilities {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl FromIterator<Self> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Self>>(iter: I) -> Self {
        iter.into_iter().fold(Self::NONE, Self::bitor)
    }
}

impl fmt::Display for Capabilities {
    /// The names, comma-separated.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.names().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capabilities({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_round() {
        assert_eq!(
            Capabilities::ALL.to_string(),
            "compat32,compute,display,graphics,ngx,utility,video"
        );
        for name in Capabilities::ALL.names() {
            assert_eq!(Capabilities::from_name(name).unwrap().to_string(), name);
        }
        assert_eq!(
            Capabilities::from_list("compute, graphics,"),
            Ok(Capabilities::COMPUTE | Capabilities::GRAPHICS)
        );
        assert_eq!(Capabilities::from_list("compute,none"), Err("none"));
    }

    #[test]
    fn implied() {
        assert_eq!(Capabilities::VIDEO.with_implied().to_string(), "compute,video");
        assert_eq!(
            Capabilities::DISPLAY.with_implied().to_string(),
            "display,graphics"
        );
        assert_eq!(Capabilities::UTILITY.with_implied(), Capabilities::UTILITY);
    }
}
