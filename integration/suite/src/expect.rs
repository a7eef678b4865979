//! What must become of a container, pinned for each runtime and way.

use crate::way::{Runtime, Way};

/// The end of a container's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It starts with the first of two GPUs, and without the other.
    Gpu,
    /// It starts without a GPU.
    NoGpu,
    /// nvoci refuses it with this code.
    Refused(u16),
    /// nvoci refuses it with one of two codes.
    RefusedEither(u16, u16),
    /// The runtime refuses it before it calls a hook of ours.
    RuntimeRefuses,
    /// It starts; the case has a check of its own.
    Started,
}

/// The expected outcome: one for all places, and the exceptions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expect {
    usual: Outcome,
    except: &'static [(Where, Outcome)],
}

/// The root of a simulated host. Its age is the runtimes' age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// runc 1.1.
    Bookworm,
    /// runc 1.3, crun 1.28, runsc of 2024.
    Sid,
}

/// The host's version of cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cgroup {
    V1,
    V2,
}

/// Where a container is started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) root: Root,
    pub(crate) cgroup: Cgroup,
    pub(crate) runtime: Runtime,
    pub(crate) way: Way,
}

/// Where an exception holds. An empty list is every root, runtime or way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Where {
    pub(crate) roots: &'static [Root],
    pub(crate) cgroups: &'static [Cgroup],
    pub(crate) runtimes: &'static [Runtime],
    pub(crate) ways: &'static [Way],
}

impl Outcome {
    /// The codes of a refusal by nvoci.
    pub(crate) fn codes(self) -> Option<[u16; 2]> {
        match self {
            Self::Refused(code) => Some([code, code]),
            Self::RefusedEither(one, other) => Some([one, other]),
            _ => None,
        }
    }
}

impl Expect {
    /// This outcome everywhere.
    pub(crate) const fn always(usual: Outcome) -> Self {
        Self { usual, except: &[] }
    }

    /// Other outcomes in some places. The first row that fits counts.
    pub(crate) const fn except(self, except: &'static [(Where, Outcome)]) -> Self {
        Self { except, ..self }
    }

    pub(crate) fn at(&self, place: Place) -> Outcome {
        let exception = self.except.iter().find(|(at, _)| at.has(place));
        exception.map_or(self.usual, |(_, outcome)| *outcome)
    }
}

impl Where {
    pub(crate) const ANYWHERE: Self = Self {
        roots: &[],
        cgroups: &[],
        runtimes: &[],
        ways: &[],
    };

    fn has(&self, place: Place) -> bool {
        let Self {
            roots,
            cgroups,
            runtimes,
            ways,
        } = self;
        (roots.is_empty() || roots.contains(&place.root))
            && (cgroups.is_empty() || cgroups.contains(&place.cgroup))
            && (runtimes.is_empty() || runtimes.contains(&place.runtime))
            && (ways.is_empty() || ways.contains(&place.way))
    }
}

/// By these ways, whatever the runtime.
pub(crate) const fn by(ways: &'static [Way]) -> Where {
    Where {
        ways,
        ..Where::ANYWHERE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRUN: Where = Where {
        runtimes: &[Runtime::Crun],
        ..Where::ANYWHERE
    };
    const OLD: Where = Where {
        roots: &[Root::Bookworm],
        ..Where::ANYWHERE
    };
    const EXPECT: Expect = Expect::always(Outcome::Gpu).except(&[
        (by(&[Way::Cdi]), Outcome::RuntimeRefuses),
        (CRUN, Outcome::NoGpu),
        (OLD, Outcome::Refused(1)),
    ]);

    #[test]
    fn the_first_row_that_fits_counts() {
        let cgroup = Cgroup::V2;
        let at = |root, runtime, way| {
            EXPECT.at(Place {
                root,
                cgroup,
                runtime,
                way,
            })
        };
        assert_eq!(at(Root::Sid, Runtime::Crun, Way::Cdi), Outcome::RuntimeRefuses);
        assert_eq!(at(Root::Sid, Runtime::Crun, Way::Entry), Outcome::NoGpu);
        assert_eq!(at(Root::Sid, Runtime::Runc, Way::Entry), Outcome::Gpu);
        assert_eq!(at(Root::Bookworm, Runtime::Runc, Way::Entry), Outcome::Refused(1));
    }
}
