//! Builds and interprets programs of a v2 cgroup. Needs no rights and no kernel feature.
#![allow(clippy::print_stdout, reason = "its output is the figures")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use device_cgroup::{Access, DeviceRule, Program, RuleKind, cgroups};

fn main() {
    let gpus: Vec<_> = (0..8).map(|minor| rule(195, minor)).collect();
    for count in [10, 1000] {
        let spec = definition(count);
        measure(&format!("program of {count} rules"), || {
            Program::new(black_box(&spec), &gpus)
        });
        let program = Program::new(&spec, &gpus);
        let allows = |minor| program.allows(RuleKind::Char, 195, minor, Access::RW);
        assert_eq!((allows(7), allows(9)), (Some(true), Some(false)));
        measure(&format!("a device that {count} rules allow"), || {
            allows(black_box(7))
        });
        measure(&format!("a device that {count} rules deny"), || {
            allows(black_box(9))
        });
    }
    let list = b"12:devices:/docker/0123456789abcdef\n1:name=systemd:/x\n0::/docker/0123456789abcdef\n";
    measure("/proc/PID/cgroup", || cgroups(black_box(list)).count());
}

fn rule(major: u32, minor: u32) -> DeviceRule {
    DeviceRule::allow(RuleKind::Char, major, minor, Access::RW)
}

/// A container's rules as engines write them: no device, then single ones.
fn definition(count: u32) -> Vec<DeviceRule> {
    let none = DeviceRule {
        allow: false,
        kind: RuleKind::All,
        major: None,
        minor: None,
        access: Access::RWM,
    };
    let single = (1..count).map(|n| rule(240 + n / 256, n % 256));
    std::iter::once(none).chain(single).collect()
}

/// Prints the time of one call: the best of five rounds. Without `--bench`, as in `cargo test
/// --benches`, it makes one call.
fn measure<T>(name: &str, mut call: impl FnMut() -> T) {
    const ROUND: Duration = Duration::from_millis(200);
    black_box(call());
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let rounds = (0..5).map(|_| {
        let (start, mut calls) = (Instant::now(), 0);
        while start.elapsed() < ROUND {
            for _ in 0..16 {
                black_box(call());
            }
            calls += 16;
        }
        start.elapsed() / calls
    });
    println!("{name:44} {:>12.1?}", rounds.min().unwrap_or_default());
}
