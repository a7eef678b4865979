//! Limits the memory, entries and processor time of one command on foreign input.
//!
//! Every reader of foreign input takes a `&Budget` and charges it *before* it allocates, unpacks or
//! loops. A command has one budget, so that a thousand small inputs cost no more than a large one.
//! A charge fails with [`Exceeded`] once its limit is reached:
//!
//! ```
//! use nvoci::budget::{Budget, Limits};
//!
//! let budget = Budget::new(Limits { kept: 10, ..Limits::DEFAULT });
//! assert!(budget.keep(8).is_ok());
//! let exceeded = budget.keep(8).unwrap_err().to_string();
//! assert_eq!(exceeded, "it needs more than 10 bytes of memory or scratch space");
//! ```

use core::cell::Cell;
use core::fmt;
use core::time::Duration;
use std::io;

use nix::time::{ClockId, clock_gettime};

/// The limits of one command.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes that are kept in memory or in a scratch directory, in total.
    pub kept: u64,
    /// Bytes from decompression or alias expansion, in total.
    pub unpacked: u64,
    /// Entries: files of an archive, nodes of a document, lines, directory entries.
    pub entries: u64,
    /// Processor time of this process, from the budget's creation.
    pub cpu: Duration,
}

impl Limits {
    /// For a command that reads texts of at most a few mebibytes.
    pub const DEFAULT: Self = Self {
        kept: 64 << 20,
        unpacked: 64 << 20,
        entries: 1 << 20,
        cpu: Duration::from_millis(1500),
    };

    /// For a command that reads an image; [`Budget::allow`] adds to it for large archives.
    pub const ARCHIVE: Self = Self {
        kept: 96 << 20,
        unpacked: 1 << 30,
        entries: 4 << 20,
        cpu: Duration::from_secs(15),
    };
}

/// Bytes to which one byte of input may unpack on average; layers of images have 2 to 4.
const RATIO: u64 = 16;
/// Bytes of input that allow one more second of processor time.
const BYTES_PER_SECOND: u64 = 32 << 20;

/// The amounts used of some [`Limits`]. All readers of one command share it by reference.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    kept: Cell<u64>,
    unpacked: Cell<u64>,
    entries: Cell<u64>,
    steps: Cell<u32>,
    /// Bytes of input for which the limits were raised.
    allowed: Cell<u64>,
    /// The first limit that was reached.
    exceeded: Cell<Option<Exceeded>>,
    started: Duration,
}

/// The number of steps between readings of the clock: each is a system call.
const STEPS: u32 = 1024;

impl Budget {
    /// An unused budget.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            kept: Cell::new(0),
            unpacked: Cell::new(0),
            entries: Cell::new(0),
            steps: Cell::new(0),
            allowed: Cell::new(0),
            exceeded: Cell::new(None),
            started: processor_time(),
        }
    }

    /// Raises the limits for `bytes` of input that exist: a file's blocks, never a header's claim.
    pub fn allow(&self, bytes: u64) {
        self.allowed.set(self.allowed.get().saturating_add(bytes));
    }

    /// Charges `bytes` of memory or scratch space.
    pub fn keep(&self, bytes: u64) -> Result<(), Exceeded> {
        self.charge(&self.kept, bytes, Resource::Kept)
    }

    /// Returns `bytes` that were charged and are free again.
    pub fn release(&self, bytes: u64) {
        self.kept.set(self.kept.get().saturating_sub(bytes));
    }

    /// Charges `bytes` of decompressed or expanded data.
    pub fn unpack(&self, bytes: u64) -> Result<(), Exceeded> {
        self.charge(&self.unpacked, bytes, Resource::Unpacked)
    }

    /// Charges one entry and sometimes checks the processor time.
    pub fn entry(&self) -> Result<(), Exceeded> {
        self.charge(&self.entries, 1, Resource::Entries)?;
        self.step()
    }

    /// Charges one iteration of a loop whose length the input decides, and sometimes checks the
    /// processor time.
    pub fn step(&self) -> Result<(), Exceeded> {
        self.steps(1)
    }

    /// Charges a search through `bytes` bytes like the corresponding number of [`Budget::step`]s.
    pub fn scan(&self, bytes: usize) -> Result<(), Exceeded> {
        /// Bytes that are compared in the time of one step.
        const STEP: usize = 1024;
        self.steps(u32::try_from(bytes / STEP + 1).unwrap_or(u32::MAX))
    }

    fn steps(&self, count: u32) -> Result<(), Exceeded> {
        let steps = self.steps.get().saturating_add(count);
        if steps < STEPS {
            self.steps.set(steps);
            return Ok(());
        }
        self.steps.set(0);
        self.check()
    }

    /// Checks the processor time, and fails if any limit was reached before. So a reader that
    /// stopped silently does not turn half an input into a verdict.
    pub fn check(&self) -> Result<(), Exceeded> {
        if let Some(exceeded) = self.exceeded.get() {
            return Err(exceeded);
        }
        if processor_time().saturating_sub(self.started) > self.cpu() {
            return Err(self.exceed(Resource::Cpu));
        }
        Ok(())
    }

    fn charge(&self, spent: &Cell<u64>, amount: u64, resource: Resource) -> Result<(), Exceeded> {
        let total = spent.get().saturating_add(amount);
        if total > self.limit(resource) {
            return Err(self.exceed(resource));
        }
        spent.set(total);
        Ok(())
    }

    fn cpu(&self) -> Duration {
        let more = Duration::from_secs(self.allowed.get() / BYTES_PER_SECOND);
        self.limits.cpu.saturating_add(more)
    }

    fn limit(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Cpu => u64::try_from(self.cpu().as_millis()).unwrap_or(u64::MAX),
            Resource::Entries => self.limits.entries,
            Resource::Kept => self.limits.kept,
            Resource::Unpacked => {
                let more = self.allowed.get().saturating_mul(RATIO);
                self.limits.unpacked.saturating_add(more)
            }
        }
    }

    fn exceed(&self, resource: Resource) -> Exceeded {
        let limit = self.limit(resource);
        let exceeded = Exceeded { resource, limit };
        let first = self.exceeded.get().unwrap_or(exceeded);
        self.exceeded.set(Some(first));
        exceeded
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(Limits::DEFAULT)
    }
}

/// The processor time of this process; in unit tests, which run in parallel, of this thread.
fn processor_time() -> Duration {
    // Miri has no such clock.
    if cfg!(miri) {
        return Duration::ZERO;
    }
    let clock = if cfg!(test) {
        ClockId::CLOCK_THREAD_CPUTIME_ID
    } else {
        ClockId::CLOCK_PROCESS_CPUTIME_ID
    };
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

/// A resource that a budget limits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Resource {
    /// [`Limits::cpu`].
    Cpu,
    /// [`Limits::entries`].
    Entries,
    /// [`Limits::kept`].
    Kept,
    /// [`Limits::unpacked`].
    Unpacked,
}

/// The input needs more than its reader may spend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Exceeded {
    /// The resource.
    pub resource: Resource,
    /// Its limit: bytes, entries or milliseconds.
    pub limit: u64,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.limit;
        match self.resource {
            Resource::Cpu => write!(f, "it needs more than {limit} ms of processor time"),
            Resource::Entries => write!(f, "it has more than {limit} entries"),
            Resource::Kept => write!(f, "it needs more than {limit} bytes of memory or scratch space"),
            Resource::Unpacked => write!(f, "it unpacks to more than {limit} bytes"),
        }
    }
}

impl std::error::Error for Exceeded {}

impl From<Exceeded> for io::Error {
    fn from(exceeded: Exceeded) -> Self {
        Self::new(io::ErrorKind::FileTooLarge, exceeded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_is_one_of_its_own() {
        let limits = Limits {
            kept: 10,
            unpacked: 20,
            entries: 2,
            cpu: Duration::from_secs(3600),
        };
        let budget = Budget::new(limits);
        budget.keep(10).unwrap();
        assert_eq!(budget.keep(1).unwrap_err().resource, Resource::Kept);
        budget.keep(0).unwrap();
        budget.unpack(20).unwrap();
        assert_eq!(budget.unpack(u64::MAX).unwrap_err().resource, Resource::Unpacked);
        budget.entry().unwrap();
        budget.entry().unwrap();
        assert_eq!(budget.entry().unwrap_err().resource, Resource::Entries);
    }

    #[test]
    fn a_loop_ends_when_its_time_is_up() {
        let limits = Limits {
            cpu: Duration::ZERO,
            ..Limits::DEFAULT
        };
        let budget = Budget::new(limits);
        let refused = (0..u64::from(STEPS) * 1000).find_map(|_| budget.step().err());
        assert_eq!(refused.unwrap().resource, Resource::Cpu);
    }

    #[test]
    fn existing_input_raises_the_limits_and_a_reached_limit_stays_reached() {
        let limits = Limits {
            unpacked: 10,
            ..Limits::DEFAULT
        };
        let budget = Budget::new(limits);
        budget.allow(2);
        budget.unpack(10 + 2 * RATIO).unwrap();
        budget.check().unwrap();
        budget.unpack(1).unwrap_err();
        budget.unpack(0).unwrap();
        assert_eq!(budget.check().unwrap_err().resource, Resource::Unpacked);
        budget.allow(u64::MAX);
        budget.unpack(u64::MAX).unwrap();
        budget.keep(5).unwrap();
        budget.release(u64::MAX);
        budget.keep(Limits::DEFAULT.kept).unwrap();
    }
}
