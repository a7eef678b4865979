//! The properties of `fuzz/` on the stable toolchain. Every kept input is run, and a few hundred
//! cut, flipped and spliced copies of each, so that a fault that a fuzzer found is found again.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test"
)]

use std::path::Path;
use std::time::Duration;

use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

#[path = "../fuzz/properties/cdi.rs"]
mod cdi;
#[path = "../fuzz/properties/cdi_dir.rs"]
mod cdi_dir;
#[path = "../fuzz/properties/compose.rs"]
mod compose;
#[path = "../fuzz/properties/config.rs"]
mod config;
#[path = "../fuzz/properties/count.rs"]
mod count;
#[path = "../fuzz/properties/dockerfile.rs"]
mod dockerfile;
#[path = "../fuzz/properties/elf.rs"]
mod elf;
#[path = "../fuzz/properties/engine.rs"]
mod engine;
#[path = "../fuzz/properties/engine_file.rs"]
mod engine_file;
#[path = "../fuzz/properties/hook.rs"]
mod hook;
#[path = "../fuzz/properties/image_archive.rs"]
mod image_archive;
#[path = "../fuzz/properties/ld_cache.rs"]
mod ld_cache;
#[path = "../fuzz/properties/ld_conf.rs"]
mod ld_conf;
#[path = "../fuzz/properties/require.rs"]
mod require;
#[path = "../fuzz/properties/spec.rs"]
mod spec;
#[path = "../fuzz/properties/state.rs"]
mod state;
#[path = "../fuzz/properties/world.rs"]
mod world;

/// Runs `fuzz/seeds/NAME/*`, then `changes` changed copies of them.
fn replay(name: &str, changes: usize, check: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(name);
    let mut seeds: Vec<Vec<u8>> = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{name} has no seed");
    let mut slowest = Duration::ZERO;
    let mut check = |input: &[u8]| {
        let begin = thread_time();
        check(input);
        slowest = slowest.max(thread_time().saturating_sub(begin));
    };
    for seed in &seeds {
        check(seed);
    }
    // A fixed seed: a failure must occur again in the next run.
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut below = |n: usize| usize::try_from(rng.next_u64() % (n.max(1) as u64)).unwrap();
    for _ in 0..changes {
        let mut input = seeds[below(seeds.len())].clone();
        for _ in 0..=below(4) {
            let at = below(input.len());
            match below(5) {
                0 => input.truncate(at),
                1 if !input.is_empty() => input[at] ^= 1 << below(8),
                2 if !input.is_empty() => input[at] = [0, 0xff, b'\n', b'"', b'/', b','][below(6)],
                3 => {
                    let other = &seeds[below(seeds.len())];
                    let from = below(other.len());
                    let piece = other[from..]
                        .iter()
                        .copied()
                        .take(1 + below(64))
                        .collect::<Vec<_>>();
                    input.splice(at..at, piece);
                }
                _ => {
                    let end = (at + 1 + below(16)).min(input.len());
                    input.drain(at..end);
                }
            }
        }
        check(&input);
    }
    println!("{name}: {} inputs, slowest {slowest:?}", seeds.len() + changes);
    assert!(slowest < MAX_TIME, "{name}: {slowest:?}");
}

/// What one input may cost, in processor time of its thread: other tests run beside it.
const MAX_TIME: Duration = Duration::from_secs(1);

fn thread_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("a time")
        .into()
}

macro_rules! properties {
    ($changes:literal: $($name:ident)*) => { $(#[test] fn $name() { replay(stringify!($name), $changes, $name::check); })* };
}

properties! { 2_000: cdi config elf engine ld_cache ld_conf require spec state }

/// The targets that work in directories share one world.
#[test]
fn commands() {
    replay("cdi_dir", 200, cdi_dir::check);
    replay("compose", 1000, compose::check);
    replay("dockerfile", 1000, dockerfile::check);
    replay("engine_file", 200, engine_file::check);
    replay("hook", 200, hook::check);
    replay("image_archive", 1000, image_archive::check);
    let mut counts = Vec::new();
    count::write(&mut counts);
    world::clean();
    println!("{}", String::from_utf8_lossy(&counts));
}
