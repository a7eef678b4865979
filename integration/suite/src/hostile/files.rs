//! The attacker made the image: files that are large, many or crafted, or that are the host's too,
//! and layers without room.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::prelude::*;

pub(crate) const FULL: Class = Class {
    number: 30,
    attack: "no space, no inodes, a read-only root",
    decision: "the container starts",
    also: &[],
    cases: &[
        Case {
            id: "30_space",
            why: "the container's layer has no space",
            trick: |image| image.move_to_full("size=1536k"),
            ways: STAGES_AND_CDI,
            bites: FAILS,
            ..Case::HARMLESS
        },
        Case {
            id: "30_inodes",
            why: "the container's layer has no inodes",
            trick: |image| image.move_to_full("size=16m,nr_inodes=60"),
            ways: STAGES_AND_CDI,
            expect: Expect::always(Gpu)
                .except(&[(by(&[Way::Cdi, Way::Gvisor, Way::GvisorNvproxy]), RuntimeRefuses)]),
            bites: FAILS,
            ..Case::HARMLESS
        },
        Case {
            id: "30_readonly",
            why: "the container's root is read-only",
            request: edited(|spec| spec["root"]["readonly"] = true.into()),
            ways: &[Way::CreateContainer, Way::Cdi, Way::Gvisor, Way::GvisorNvproxy],
            ..Case::HARMLESS
        },
    ],
};

/// A user's container has its files in the user's image.
const STAGES_AND_CDI: &[Way] = &[
    Way::Prestart,
    Way::CreateRuntime,
    Way::CreateContainer,
    Way::Commands,
    Way::Cdi,
    Way::Gvisor,
    Way::GvisorNvproxy,
];

pub(crate) const NAMES: Class = Class {
    number: 35,
    attack: "20,000 files, 200-byte names, newlines and escapes in names",
    decision: "not listed",
    also: &[],
    cases: &[Case {
        id: "35_names",
        why: "the library directory has 20,000 long names, and names with line feeds and escapes",
        trick: |image| {
            let long = "x".repeat(200);
            image.files(
                "usr/lib",
                (1..=20_000).map(|number| format!("libevil{number}{long}")),
            )?;
            let odd: [&[u8]; 3] = [b"evil\nname", b"evil\xff\xfe", b"evil\x1b[2J"];
            image.files("usr/lib", odd.into_iter().map(OsStr::from_bytes))
        },
        bites: FAILS,
        ..Case::HARMLESS
    }],
};

pub(crate) const HARD_LINK: Class = Class {
    number: 44,
    attack: "a file of the rootfs is a hard link to a host file",
    decision: "replaced, never written in place",
    also: &[],
    cases: &[Case {
        id: "44_hardlink",
        why: "the loader cache is another name of a file of the host",
        trick: |image| {
            image.move_to_plain_root()?;
            image.hard_link(LOADER_CACHE, "/canary/ld.so.cache")
        },
        request: edited(|spec| spec["root"]["path"] = PLAIN_ROOT.into()),
        ways: &[
            Way::CreateRuntime,
            Way::Rootless,
            Way::Cdi,
            Way::Gvisor,
            Way::GvisorNvproxy,
        ],
        bites: CHANGES_THE_HOST,
        // It has a name less.
        touches: &[Touch::attributes("/canary/ld.so.cache")],
        ..Case::HARMLESS
    }],
};

/// A library of the image's own, where a tool could take it for the driver's.
pub(crate) const ELF: Class = Class {
    number: 20,
    attack: "crafted ELF files: section counts, one byte, wrong endian, 8 GB",
    decision: "headers only, within bounds",
    also: &["tests/fuzz_corpus.rs::elf"],
    cases: &[
        Case {
            id: "20_sections",
            why: "libraries of the image have 65,535 sections of 2^62 bytes",
            trick: |image| {
                let elf = many_sections();
                image.file("usr/local/cuda/compat/libcuda.so.1", &elf)?;
                image.file(&format!("{LIBRARIES}/libcuda.so.535.1"), &elf)
            },
            bites: HANGS,
            ..Case::HARMLESS
        },
        Case {
            id: "20_odd",
            why: "libraries of the image are 1, 17 and 63 bytes long, big-endian, or 8 GB",
            trick: |image| {
                let shell = fs::read(image.at("bin/sh"))?;
                for length in [1, 17, 63] {
                    let path = format!("{LIBRARIES}/libnvidia-ml.so.{length}");
                    image.file(&path, &shell[..length])?;
                }
                let mut big_endian = b"\x7fELF\x02\x02\x01".to_vec();
                big_endian.extend([0xff; 4000]);
                image.file(LIBCUDA, &big_endian)?;
                image.grow(&format!("{LIBRARIES}/libnvidia-x.so.1"), 8 << 30)?;
                remove(&image.at(LOADER_CACHE))
            },
            ..Case::HARMLESS
        },
    ],
};

/// An ELF header of 64 bytes, and the section that it counts by.
fn many_sections() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.extend([0; 9]);
    for half in [3_u16, 62] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1_u32.to_le_bytes());
    for word in [0_u64, 64, 64] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 65535, 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend([0; 32]);
    elf.extend((1_u64 << 62).to_le_bytes());
    elf.extend([0; 64]);
    elf
}

pub(crate) const RELEASE: Class = Class {
    number: 21,
    attack: "`os-release` and its kind: FIFO, 10 GB, directory, kernel file",
    decision: "never read on the way",
    also: &[],
    cases: &[
        Case {
            id: "21_fifo",
            why: "`os-release` is a FIFO: an open of it waits",
            trick: |image| image.fifo("etc/os-release"),
            bites: HANGS,
            ..Case::HARMLESS
        },
        Case {
            id: "21_sparse",
            why: "`os-release` has 10 GB, and its kind are a directory and a file of the kernel",
            trick: |image| {
                image.file("etc/os-release", "")?;
                image.grow("etc/os-release", 10 << 30)?;
                image.directory("etc/debian_version")?;
                image.link("etc/alpine-release", "/proc/kmsg")
            },
            ..Case::HARMLESS
        },
    ],
};
