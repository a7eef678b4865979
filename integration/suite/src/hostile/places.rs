//! The attacker made the image: a path where nvoci reads or places a file has another type.

use super::prelude::*;

pub(crate) const TYPES: Class = Class {
    number: 5,
    attack: "FIFO, socket, block device or tty where a file or directory is looked for",
    decision: "seen by type, never opened",
    also: &[],
    cases: &[
        Case {
            id: "05_fifo",
            why: "`libcuda.so.1` is a FIFO: an open of it waits",
            policy: NATIVE,
            trick: |image| image.fifo(LIBCUDA),
            bites: HANGS,
            ..Case::HARMLESS
        },
        Case {
            id: "05_socket",
            why: "`libcuda.so.1` is a socket",
            policy: NATIVE,
            trick: |image| image.socket(LIBCUDA),
            bites: FAILS,
            ..Case::HARMLESS
        },
        Case {
            id: "05_tty",
            why: "`libcuda.so.1` is the node of the controlling terminal",
            policy: NATIVE,
            trick: |image| image.character_device(LIBCUDA, 5, 0),
            bites: FAILS,
            ..Case::HARMLESS
        },
        Case {
            id: "05_block",
            why: "`libcuda.so.1` is the node of a block device",
            policy: NATIVE,
            trick: |image| image.block_device(LIBCUDA, 7, 200),
            bites: FAILS,
            ..Case::HARMLESS
        },
        Case {
            id: "05_nvidia_fifo",
            why: "the driver directory is a FIFO; crun itself waits for one that a mount meets",
            trick: |image| image.fifo("usr/local/nvidia"),
            ways: BUT_CDI,
            bites: FAILS,
            ..Case::HARMLESS
        },
        Case {
            id: "05_cache_fifo",
            why: "the loader cache is a FIFO: an open of it waits",
            trick: |image| image.fifo(LOADER_CACHE),
            bites: HANGS,
            ..Case::HARMLESS
        },
        Case {
            id: "05_confd_fifo",
            why: "the loader's configuration directory is a FIFO",
            trick: |image| image.fifo("etc/ld.so.conf.d"),
            bites: FAILS,
            ..Case::HARMLESS
        },
    ],
};

const BOOKWORM_BY_CDI: Where = Where {
    roots: &[Root::Bookworm],
    ways: &[Way::Cdi],
    ..Where::ANYWHERE
};

pub(crate) const DIRECTORIES: Class = Class {
    number: 6,
    attack: "directory for a file, file for a directory",
    decision: "that item is left out",
    also: &[],
    cases: &[
        Case {
            id: "06_dir",
            why: "`libcuda.so.1` is a directory",
            policy: NATIVE,
            trick: |image| image.directory(LIBCUDA),
            // By a specification nothing is mounted over the directory, and Debian 12's loader
            // stops at it.
            expect: Expect::always(Gpu).except(&[(BOOKWORM_BY_CDI, Started)]),
            bites: FAILS,
            ..Case::HARMLESS
        },
        Case {
            id: "06_file",
            why: "`/usr/local` is a file",
            trick: |image| image.file("usr/local", "file\n"),
            expect: UNLESS_NEWER_MOUNTS,
            bites: FAILS,
            ..Case::HARMLESS
        },
        Case {
            id: "06_libraries_file",
            has_loader: false,
            why: "the library directory is a file",
            policy: NATIVE,
            trick: |image| image.file(LIBRARIES, "file\n"),
            // Where the host's own libraries are in such a directory, a specification's mounts are.
            expect: Expect::always(Gpu).except(&[
                (BOOKWORM_BY_CDI, RuntimeRefuses),
                (by(&[Way::Gvisor]), RuntimeRefuses),
            ]),
            bites: FAILS,
            ..Case::HARMLESS
        },
        Case {
            id: "06_cache_dir",
            has_loader: false,
            why: "the loader cache is a directory",
            trick: |image| image.directory(LOADER_CACHE),
            bites: FAILS,
            ..Case::HARMLESS
        },
    ],
};
