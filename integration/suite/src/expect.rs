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
    /// The runtime refuses it before it calls a hook of ours.
    RuntimeRefuses,
    /// It starts; the case has checks of its own.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "classes that are still in bash have it")
    )]
    Started,
}

/// The expected outcome: one for all ways, and the exceptions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expect {
    usual: Outcome,
    except: &'static [(Where, Outcome)],
}

/// Where an exception holds. An empty list is every runtime or way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Where {
    pub(crate) runtimes: &'static [Runtime],
    pub(crate) ways: &'static [Way],
}

impl Expect {
    /// This outcome everywhere.
    pub(crate) const fn always(usual: Outcome) -> Self {
        Self { usual, except: &[] }
    }

    /// Other outcomes in some places. The first place that fits counts.
    pub(crate) const fn except(self, except: &'static [(Where, Outcome)]) -> Self {
        Self { except, ..self }
    }

    pub(crate) fn of(&self, runtime: Runtime, way: Way) -> Outcome {
        let fits = |at: &Where| {
            (at.runtimes.is_empty() || at.runtimes.contains(&runtime))
                && (at.ways.is_empty() || at.ways.contains(&way))
        };
        let exception = self.except.iter().find(|(at, _)| fits(at));
        exception.map_or(self.usual, |(_, outcome)| *outcome)
    }
}

/// By these ways, whatever the runtime.
pub(crate) const fn by(ways: &'static [Way]) -> Where {
    Where { runtimes: &[], ways }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRUN: Where = Where {
        runtimes: &[Runtime::Crun],
        ways: &[],
    };

    const EXPECT: Expect = Expect::always(Outcome::Gpu)
        .except(&[(by(&[Way::Cdi]), Outcome::RuntimeRefuses), (CRUN, Outcome::NoGpu)]);

    #[test]
    fn the_first_place_that_fits_counts() {
        assert_eq!(EXPECT.of(Runtime::Crun, Way::Cdi), Outcome::RuntimeRefuses);
        assert_eq!(EXPECT.of(Runtime::Crun, Way::Entry), Outcome::NoGpu);
        assert_eq!(EXPECT.of(Runtime::Runc, Way::Entry), Outcome::Gpu);
    }
}
