//! Numbers and names of errors in a text: of CUDA, of NVML, and our own.

use crate::compat::errors::{self, Known};

/// An error that the text names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Named {
    /// Of CUDA.
    Cuda(Known),
    /// Of NVML.
    Nvml(Known),
    /// `NVOCI-2003`: an error or a check.
    Own(u16),
}

impl Named {
    /// As entries call it: `cuda:35`.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Cuda(known) => format!("cuda:{}", known.number),
            Self::Nvml(known) => format!("nvml:{}", known.number),
            Self::Own(number) => format!("nvoci:{number}"),
        }
    }
}

/// Words before a number that make it the number of an error.
const BEFORE: &[&str] = &[
    "error", "err", "code", "failed", "returned", "status", "result", "curesult",
];

/// Below this a number is an error of CUDA only where the text speaks of CUDA: exit statuses are as small.
const SMALL: u32 = 34;

/// What `text` (in small letters) names, each once.
pub(super) fn find(text: &str) -> Vec<Named> {
    let words: Vec<&str> = text
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|w| !w.is_empty())
        .collect();
    let mut found: Vec<Named> = Vec::new();
    for (at, word) in words.iter().enumerate() {
        for named in here(&words, at, word) {
            if !found.contains(&named) {
                found.push(named);
            }
        }
    }
    found
}

fn here(words: &[&str], at: usize, word: &str) -> Vec<Named> {
    if let Some(named) = by_name(word) {
        return vec![named];
    }
    let Ok(number) = word.parse::<u32>() else {
        return Vec::new();
    };
    let before = &words[at.saturating_sub(3)..at];
    if before.last() == Some(&"nvoci") {
        return u16::try_from(number).map(Named::Own).into_iter().collect();
    }
    if words.len() == 1 {
        // Nothing but the number: whatever has it.
        let own = u16::try_from(number).ok().filter(|n| *n >= 1000).map(Named::Own);
        return cuda(number).into_iter().chain(nvml(number)).chain(own).collect();
    }
    if before.contains(&"nvml") {
        return nvml(number).into_iter().collect();
    }
    let said = before.iter().any(|w| BEFORE.contains(w));
    let of_cuda = words[at.saturating_sub(6)..at]
        .iter()
        .any(|w| w.starts_with("cuda") || w.starts_with("cuinit"));
    if (said && (number >= SMALL || of_cuda)) || (before.last() == Some(&"cuda")) {
        return cuda(number).into_iter().collect();
    }
    Vec::new()
}

fn by_name(word: &str) -> Option<Named> {
    let is = |name: &&str| name.eq_ignore_ascii_case(word);
    if let Some(name) = word.strip_prefix("nvml_error_") {
        let known = |k: &Known| k.names.iter().flatten().any(|n| n.eq_ignore_ascii_case(name));
        return errors::nvml().find(known).map(Named::Nvml);
    }
    if word.starts_with("cuda") {
        return errors::cuda()
            .find(|k| k.names.iter().flatten().any(is))
            .map(Named::Cuda);
    }
    None
}

fn cuda(number: u32) -> Option<Named> {
    errors::cuda().find(|k| k.number == number).map(Named::Cuda)
}

fn nvml(number: u32) -> Option<Named> {
    errors::nvml().find(|k| k.number == number).map(Named::Nvml)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names() {
        for (text, keys) in [
            ("803", &["cuda:803"][..]),
            ("18", &["nvml:18"]),
            ("3", &["cuda:3", "nvml:3"]),
            ("2003", &["nvoci:2003"]),
            ("nvoci-2003", &["nvoci:2003"]),
            ("... [nvoci-7101]", &["nvoci:7101"]),
            ("nvml 18", &["nvml:18"]),
            ("nvml error: 18", &["nvml:18"]),
            ("cudaerrorinsufficientdriver", &["cuda:35"]),
            ("cuda_error_no_device", &["cuda:100"]),
            ("nvml_error_lib_rm_version_mismatch", &["nvml:18"]),
            ("cuda error 3: initialization error", &["cuda:3"]),
            ("error 804: forward compatibility", &["cuda:804"]),
            ("cuinit failed: 999", &["cuda:999"]),
            ("code=209(cudaerrornokernelimagefordevice)", &["cuda:209"]),
            ("cuda 100", &["cuda:100"]),
            // Neither is an error of CUDA's.
            ("exit status 1", &[]),
            ("ldconfig failed with error code: 1", &[]),
            ("driver version 535.104.05", &[]),
            ("line 100", &[]),
            ("", &[]),
        ] {
            let found: Vec<String> = find(text).iter().map(Named::key).collect();
            assert_eq!(found, keys, "{text}");
        }
    }
}
