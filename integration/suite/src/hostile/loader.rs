//! The attacker made the image: its loader configuration and its loader cache.

use super::prelude::*;

const CONF: &str = "etc/ld.so.conf";

pub(crate) const CONFIGURATION: Class = Class {
    number: 18,
    attack: "`ld.so.conf`: `/dev/zero`, `/proc/kcore`, itself, a million lines, wild globs, FIFO, 4 GB, 20,000 files",
    decision: "bounded in bytes, depth and number",
    also: &[],
    cases: &[
        Case {
            id: "18_zero",
            why: "`ld.so.conf` includes a device without an end",
            trick: |image| {
                image.file(CONF, "include /dev/zero\ninclude /etc/zero\n")?;
                image.character_device("etc/zero", 1, 5)
            },
            bites: HANGS,
            ..Case::HARMLESS
        },
        Case {
            id: "18_self",
            why: "`ld.so.conf` includes itself",
            trick: |image| image.file(CONF, "include /etc/ld.so.conf\ninclude ld.so.conf\n"),
            bites: HANGS,
            ..Case::HARMLESS
        },
        Case {
            id: "18_kcore",
            why: "`ld.so.conf` includes files of the kernel",
            trick: |image| {
                let files = "include /proc/kcore\ninclude /proc/kmsg\ninclude /sys/kernel/debug/*\n";
                image.file(CONF, files)
            },
            ..Case::HARMLESS
        },
        Case {
            id: "18_lines",
            why: "`ld.so.conf` has a million lines",
            trick: |image| image.file(CONF, "/usr/lib/a\n".repeat(1_000_000)),
            ..Case::HARMLESS
        },
        Case {
            id: "18_glob",
            why: "`ld.so.conf` includes patterns that match the whole file system",
            trick: |image| {
                let globs = "include /*/*/*/*/*/*\ninclude /usr/**/[a-z]*[a-z]*[a-z]*[a-z]*[a-z]*z\n";
                image.file(CONF, globs)
            },
            ..Case::HARMLESS
        },
        Case {
            id: "18_fifo",
            why: "`ld.so.conf` is a FIFO: an open of it waits",
            trick: |image| image.fifo(CONF),
            bites: HANGS,
            ..Case::HARMLESS
        },
        Case {
            id: "18_sparse",
            why: "`ld.so.conf` has 4 GB",
            trick: |image| image.grow(CONF, 4 << 30),
            ..Case::HARMLESS
        },
        Case {
            id: "18_names",
            why: "the loader's configuration directory has 20,000 files",
            trick: |image| {
                image.files(
                    "etc/ld.so.conf.d",
                    (1..=20_000).map(|number| format!("f{number}.conf")),
                )
            },
            ..Case::HARMLESS
        },
    ],
};

pub(crate) const CACHE: Class = Class {
    number: 19,
    attack: "a crafted loader cache: counts, offsets, 2 GB, text",
    decision: "checked, else rebuilt",
    also: &["tests/fuzz_corpus.rs::ld_cache"],
    cases: &[
        Case {
            id: "19_count",
            why: "the loader cache counts 2^32 entries",
            trick: |image| {
                let mut cache = CACHE_MAGIC.to_vec();
                cache.extend([0xff; 8]);
                cache.extend([0; 400]);
                image.file(LOADER_CACHE, &cache)
            },
            bites: HANGS,
            ..Case::HARMLESS
        },
        Case {
            id: "19_offsets",
            why: "the entries of the loader cache point behind its end",
            trick: |image| image.file(LOADER_CACHE, offsets()),
            ..Case::HARMLESS
        },
        Case {
            id: "19_huge",
            why: "the loader cache has 2 GB",
            trick: |image| image.grow(LOADER_CACHE, 2 << 30),
            ..Case::HARMLESS
        },
        Case {
            id: "19_text",
            why: "the loader cache is a text",
            trick: |image| image.file(LOADER_CACHE, "y\n".repeat(50_000)),
            ..Case::HARMLESS
        },
    ],
};

/// A cache of four entries of 16 bytes of text.
fn offsets() -> Vec<u8> {
    let mut cache = CACHE_MAGIC.to_vec();
    for word in [4_u32, 16, 2, 0xffff_fff0, 0, 0, 0] {
        cache.extend(word.to_le_bytes());
    }
    for _ in 0..4 {
        for word in [0x303_u32, 0xffff_fff0, 0x7fff_ffff, 0] {
            cache.extend(word.to_le_bytes());
        }
        cache.extend((1_u64 << 63).to_le_bytes());
    }
    cache.extend([b'a'; 16]);
    cache
}

/// The hook's own stages, and the commands that read the configuration.
const STAGES: &[Way] = &[
    Way::Prestart,
    Way::CreateRuntime,
    Way::CreateContainer,
    Way::Commands,
];
/// 2,000 long names that the patterns are matched against, in four seconds.
const PATTERN: Case = Case {
    ways: STAGES,
    limit: 4000,
    ..Case::HARMLESS
};

/// Writes a pattern, and the names that it is matched against.
fn pattern(image: &mut Image, include: &str) -> io::Result<()> {
    let long = "a".repeat(240);
    image.files("d", (1..=2000).map(|number| format!("{long}{number}")))?;
    image.file(CONF, format!("include {include}\n"))
}

pub(crate) const PATTERNS: Class = Class {
    number: 78,
    attack: "patterns of ld.so.conf that take days to match, and more included names than there are files",
    decision: "bounded work",
    also: &["crates/ldso/src/glob.rs::work_is_bounded_by_the_budget_whatever_the_pattern"],
    cases: &[
        Case {
            id: "78_brackets",
            why: "a pattern has 30,000 brackets without an end",
            trick: |image| pattern(image, &format!("/d/*{}", "[".repeat(30_000))),
            ..PATTERN
        },
        Case {
            id: "78_many",
            why: "200 patterns have 100 stars and brackets each",
            trick: |image| pattern(image, &format!("/d/*{} ", "*[".repeat(100)).repeat(200)),
            ..PATTERN
        },
        Case {
            id: "78_stars",
            why: "150 patterns have 150 stars each, and match nothing",
            trick: |image| pattern(image, &format!("/d/*{}b ", "*a".repeat(150)).repeat(150)),
            ..PATTERN
        },
        Case {
            id: "78_sets",
            why: "a pattern has 700 sets and stars",
            trick: |image| pattern(image, &format!("/d/*{}b", "[!b]*".repeat(700))),
            ..PATTERN
        },
        Case {
            id: "78_plain",
            why: "201 files include 30,000 names each",
            trick: |image| {
                let names = format!("include {}\n", "a ".repeat(30_000));
                for number in 0..=200 {
                    image.file(&format!("etc/ld.so.conf.d/{number}.conf"), &names)?;
                }
                image.file(CONF, "include ld.so.conf.d/*.conf\n")
            },
            limit: 6000,
            ..PATTERN
        },
    ],
};
