//! The attacker made the image, and puts something else where an image has CUDA's compatibility
//! libraries.

use super::prelude::*;

const COMPATIBILITY: &str = "usr/local/cuda/compat";
const LIBRARY: &str = "usr/local/cuda/compat/libcuda.so.999";

pub(crate) const COMPAT: Class = Class {
    number: 7,
    attack: "CUDA compat directory: a link to a host file, to `/`, 10,000 entries",
    decision: "no file of the image is ever a source",
    also: &[],
    cases: &[
        Case {
            id: "07_link",
            why: "a compatibility library is a link to a secret of the host",
            trick: |image| image.link(LIBRARY, "/canary/secret"),
            questions: &[
                Question::contents("/usr/lib/x86_64-linux-gnu/libcuda.so.999"),
                Question::contents("/usr/local/nvidia/lib64/libcuda.so.999"),
            ],
            bites: GETS_A_SECRET,
            ..Case::HARMLESS
        },
        Case {
            id: "07_root",
            why: "a compatibility library is a link to the root directory",
            trick: |image| image.link(LIBRARY, "/"),
            questions: &[Question::contents("/usr/local/nvidia/canary/secret")],
            bites: GETS_A_SECRET,
            ..Case::HARMLESS
        },
        Case {
            id: "07_many",
            why: "the directory has 10,000 compatibility libraries",
            trick: |image| {
                let names = (1..=10_000).map(|number| format!("libcuda.so.{number}"));
                image.files(COMPATIBILITY, names)
            },
            bites: HANGS,
            ..Case::HARMLESS
        },
    ],
};
