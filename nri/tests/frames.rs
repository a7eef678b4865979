//! The property of the fuzz target `nri` on the stable toolchain: its seeds, and changed copies.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

#[path = "../../fuzz/properties/count.rs"]
mod count;
#[path = "../../fuzz/properties/nri.rs"]
mod property;

#[test]
fn seeds_and_changed_copies() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/nri");
    let mut seeds: Vec<Vec<u8>> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    seeds.sort();
    // A fixed seed: a failure must occur again in the next run.
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut below = |n: usize| usize::try_from(rng.next_u64() % (n.max(1) as u64)).unwrap();
    for seed in &seeds {
        property::check(seed);
        for _ in 0..500 {
            let mut input = seed.clone();
            for _ in 0..=below(3) {
                let at = below(input.len());
                match below(4) {
                    0 => input.truncate(at),
                    1 if !input.is_empty() => input[at] ^= 1 << below(8),
                    2 if !input.is_empty() => input[at] = [0, 0xff, b'=', b'/', b','][below(5)],
                    _ => {
                        let other = &seeds[below(seeds.len())];
                        let from = below(other.len());
                        let piece: Vec<u8> = other.iter().skip(from).take(1 + below(64)).copied().collect();
                        input.splice(at..at, piece);
                    }
                }
            }
            property::check(&input);
        }
    }
    let mut counts = Vec::new();
    count::write(&mut counts);
    let counts = String::from_utf8_lossy(&counts);
    println!("{counts}");
    // Inputs that are all refused early prove nothing.
    for stage in ["accepted", "devices", "none", "refused"] {
        assert!(counts.contains(&format!("{stage} ")), "{counts}");
    }
}
