//! Extracts signals from a text, in the syntax of the programs that print them.
//!
//! Signals are errors of CUDA and NVML, libraries that the loader does not find, symbols, device
//! nodes, and the classes of `nvidia-container-cli`. For example, `CUDA error 35` gives `cuda:35`.

mod codes;
mod component;
mod files;
mod loader;
mod tool;

use std::ops::Range;

pub(super) use codes::Named;

use super::pattern::Slot;
use super::text::Text;

/// The most signals of one text.
const MAX: usize = 64;

/// A part of the text that entries match by its key.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Signal {
    /// `cuda:35`, `lib:cuda`, `symbol:torch`, `cli:mount`.
    pub(super) key: String,
    /// Its position in the text.
    pub(super) at: Range<usize>,
    /// The name of the library, symbol or node, as written.
    pub(super) slots: Vec<Slot>,
}

/// All signals of a text, each key once.
#[derive(Debug, Default)]
pub(super) struct Signals {
    found: Vec<Signal>,
    named: Vec<Named>,
}

impl Signals {
    /// Extracts all signals.
    pub(super) fn of(text: &Text) -> Self {
        let mut signals = Self::default();
        codes::find(text, &mut signals);
        loader::find(text, &mut signals);
        files::find(text, &mut signals);
        tool::find(text, &mut signals);
        component::find(text, &mut signals);
        if is_about_gpus(text) {
            signals.add("about:gpu", 0..0, Vec::new());
        }
        signals
    }

    /// The signal with that key.
    pub(super) fn get(&self, key: &str) -> Option<&Signal> {
        self.found.iter().find(|s| s.key == key)
    }

    /// The errors with a number, in the order of the text.
    pub(super) fn named(&self) -> &[Named] {
        &self.named
    }

    fn add(&mut self, key: impl Into<String>, at: Range<usize>, slots: Vec<Slot>) {
        let key = key.into();
        if self.found.len() < MAX && self.get(&key).is_none() {
            self.found.push(Signal { key, at, slots });
        }
    }

    fn name(&mut self, named: Named, at: Range<usize>) {
        if self.named.len() < MAX && !self.named.contains(&named) {
            self.named.push(named);
            self.add(named.key(), at, Vec::new());
        }
    }
}

/// Words that only texts about GPUs have.
const ABOUT: &[&str] = &[
    "nvidia",
    "cuda",
    "cudnn",
    "nvml",
    "nvrm",
    "tensorrt",
    "nccl",
    "cuinit",
    "cublas",
    "gpu",
    "nvcc",
    "nvenc",
    "nvdec",
    "cuvid",
    "nvjitlink",
    "nvhost",
    "nvmap",
    "nvoci",
    "nvlink",
    "nvswitch",
    " ptx ",
    "cupy",
    "cutlass",
    "compute capability",
    "vector addition of",
    ".cu:",
    ".cuh:",
];

fn is_about_gpus(text: &Text) -> bool {
    ABOUT.iter().any(|word| text.flat().contains(word))
}
