//! Whether an image's cache is still current.
//!
//! Adding, removing or renaming a library changes its directory's modification time. So a cache is
//! current if it is newer than every configuration file and every directory that it lists. In doubt
//! it counts as stale: a scan costs a few milliseconds, but a stale cache hides a library.

use rustix::fs::Stat;

/// A modification time; the default is before all others.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Time {
    seconds: i64,
    nanos: i64,
}

impl Time {
    /// The modification time in `stat`.
    pub fn of(stat: &Stat) -> Self {
        Self {
            seconds: stat.st_mtime,
            // Unsigned on some architectures, but always below a billion.
            nanos: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
        }
    }

    /// Sets this time to `stat`'s if that is later.
    pub fn note(&mut self, stat: &Stat) {
        *self = (*self).max(Self::of(stat));
    }

    /// Whether a cache of this time can describe a directory that last changed at `other`.
    ///
    /// Image layers keep whole seconds only, and a reproducible build gives every file the same
    /// time, so equal whole seconds prove nothing. Equal times with a fraction come from one tick
    /// of the kernel's clock, in which the writer changed the directory and then wrote the cache.
    pub fn describes(self, other: Self) -> bool {
        let whole = self.nanos == 0 || other.nanos == 0;
        if whole {
            self.seconds > other.seconds
        } else {
            self >= other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_whole_seconds_are_a_doubt() {
        let at = |seconds, nanos| Time { seconds, nanos };
        assert!(at(10, 0).describes(at(9, 0)));
        assert!(!at(10, 0).describes(at(10, 0)));
        assert!(!at(10, 0).describes(at(10, 5)));
        assert!(!at(10, 5).describes(at(10, 0)));
        assert!(at(10, 5).describes(at(10, 5)));
        assert!(!at(10, 5).describes(at(10, 6)));
        assert!(!at(9, 9).describes(at(10, 0)));
    }
}
