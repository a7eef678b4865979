//! Whether an image's cache still describes its libraries.
//!
//! Adding, removing or renaming a library changes its directory's modification time; so a cache that
//! is newer than every directory it was made of, and than every configuration file, is current. Where
//! the times leave a doubt it is taken as stale: scanning costs a few milliseconds, a missing
//! library costs a user's evening.

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

    /// Moves on to `stat`'s time if that is later.
    pub fn note(&mut self, stat: &Stat) {
        *self = (*self).max(Self::of(stat));
    }

    /// Whether something written at this time describes what last changed at `other`.
    ///
    /// Image layers keep whole seconds only, and a reproducible build gives every file the same time.
    /// So equal whole seconds prove nothing; equal times with a fraction come from one tick of the
    /// kernel's clock, in which whoever changed the directory then wrote the cache.
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
