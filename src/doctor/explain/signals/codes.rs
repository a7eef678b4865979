//! Errors of CUDA, NVML and nvoci: numbers in their programs' syntax, names, and messages.

use crate::compat::errors;

use super::Signals;
use crate::doctor::explain::text::{Text, is_word};

const CUDA: &str = include_str!("cuda-messages.tsv");
const NVML: &str = include_str!("nvml-messages.tsv");

/// The most numbers and names that are examined: a log repeats errors.
const TRIES: usize = 2000;

/// An error in the text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::doctor::explain) enum Named {
    /// Of CUDA, by its number.
    Cuda(u32),
    /// Of NVML, by its number.
    Nvml(u32),
    /// `NVOCI-2003`: an error or a check.
    Own(u16),
}

impl Named {
    /// Its key in entries: `cuda:35`.
    pub(in crate::doctor::explain) fn key(self) -> String {
        match self {
            Self::Cuda(number) => format!("cuda:{number}"),
            Self::Nvml(number) => format!("nvml:{number}"),
            Self::Own(number) => format!("nvoci:{number}"),
        }
    }
}

/// Words between a name of CUDA or NVML and the number or message of its error: `cuda driver
/// library init failure: 205`, `failed call to cuInit: UNKNOWN ERROR (303)`.
const BETWEEN: &str = "\
    a abort aborted access after allocate allocating allocation an and api async asynchronous \
    at available be before by call can cannot capable cause check code context copy copying \
    could count create created creating creation critical current detected device devices \
    driver due during encountered enumerate enumerating err error errors event exception \
    execute executing execution explicit fail failed fails failure fatal following for found \
    free from function get got gpu graph has host implicit in init initialization initialize \
    initialized initializing internal is it kernel last launch launching library load loaded \
    loading malloc management memory message module msg no not number occurred of on open \
    opening operation operations physical primary query querying raised rank reported result \
    results ret return returned returning returns runtime s select selecting set setting \
    status stream sync synchronization synchronize synchronizing t the this to unable \
    unexpected unknown value visible vram was when while with";

/// Whether the word is one of [`BETWEEN`].
fn is_between(word: &str) -> bool {
    BETWEEN.split_ascii_whitespace().any(|w| w == word)
}

/// Words before a number that mark it as an error's.
const ERRORS: &[&str] = &[
    "error", "err", "code", "fail", "failed", "fails", "failure", "returned", "status", "result", "ret",
    "return", "results",
];

/// CUDA's names before a number that mark it as an error's.
const NUMBERED: &[&str] = &[
    "curesult",
    "cudasuccess",
    "gpuassert",
    "cudaerror",
    "cudaerror_t",
    "cuinit",
];

/// Words of a short text that mark a number as a process's or a protocol's.
const OTHERS: &[&str] = &[
    "exit", "exited", "http", "https", "rc", "curl", "errno", "signal", "line", "port", "npm", "status",
];

/// Numbers that are rather a protocol's or a system call's where no name of CUDA is near.
const AMBIGUOUS: &[u32] = &[4, 9, 13, 300, 301, 400];

/// Adds the errors of the text.
pub(super) fn find(text: &Text, signals: &mut Signals) {
    words(text, signals);
    for (table, of) in [(CUDA, Named::Cuda as fn(u32) -> Named), (NVML, Named::Nvml)] {
        for (number, _, messages) in rows(table) {
            for message in messages.split('|').filter(|m| *m != "-") {
                if let Some(at) = place(text, message, number, of(0)) {
                    signals.name(of(number), at..at + message.len());
                }
            }
        }
    }
}

/// Number, name and message of each row of a table.
fn rows(table: &'static str) -> impl Iterator<Item = (u32, &'static str, &'static str)> {
    table.lines().filter(|l| !l.starts_with('#')).filter_map(|line| {
        let mut cells = line.split('\t');
        Some((cells.next()?.parse().ok()?, cells.next()?, cells.next()?))
    })
}

/// The offset of the message in the form that CUDA or NVML prints.
fn place(text: &Text, message: &'static str, number: u32, of: Named) -> Option<usize> {
    let generic = message.strip_prefix('!');
    let words = generic.unwrap_or(message);
    if !text.may_hold(words) {
        return None;
    }
    let is_nvml = matches!(of, Named::Nvml(_));
    // Computed once, since it searches the whole text.
    if generic.is_none() && !words.contains("cuda") && !is_nvml && !super::is_about_gpus(text) {
        return None;
    }
    text.flat()
        .match_indices(words)
        .take(TRIES)
        .map(|(at, _)| at)
        .find(|at| {
            if generic.is_none() {
                return true;
            }
            // In `UNKNOWN ERROR (303)` the number decides.
            let after = text.after(at + words.len(), 4).strip_prefix(" (");
            let numbered = number == 999
                && after.is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit() || c == '-'));
            // OpenCV: `(-217:Gpu API call) initialization error`.
            if !is_nvml && text.before(*at, 16).ends_with("gpu api call) ") {
                return true;
            }
            let leader = leader(text, *at);
            !numbered && leader.is_some_and(|l| if is_nvml { l.is_nvml() } else { l.is_cuda() })
        })
}

/// The program or library that prints the number or message at an offset.
struct Leader<'t> {
    name: &'t str,
    /// Whether a word between them marks an error.
    error: bool,
}

impl Leader<'_> {
    fn is_cuda(&self) -> bool {
        self.name.contains("cuda")
            || ["cuinit", "curesult", "gpuassert", "cucheck"]
                .iter()
                .any(|n| self.name.starts_with(n))
    }

    fn is_nvml(&self) -> bool {
        self.name.contains("nvml")
    }
}

/// The last word before `at` that is not in [`BETWEEN`], if no sentence ends between.
fn leader(text: &Text, at: usize) -> Option<Leader<'_>> {
    let lead = text.before(at, 96);
    let mut error = false;
    let mut end = lead.len();
    loop {
        let rest = without_arguments(lead.get(..end)?);
        let trimmed = rest.trim_end_matches(|c| !is_word(c));
        let separator = rest.get(trimmed.len()..)?;
        // A status may be a sentence of its own: `Unable to read CUDA devices. Return status: 35`.
        let is_status = lead.get(end..).is_some_and(|l| l.starts_with("return status"));
        if (separator.contains(". ") && !is_status) || separator.contains(['!', '?']) {
            return None;
        }
        let start = trimmed.rfind(|c| !is_word(c)).map_or(0, |i| {
            i + trimmed
                .get(i..)
                .and_then(|t| t.chars().next())
                .map_or(1, char::len_utf8)
        });
        let name = trimmed.get(start..).filter(|n| !n.is_empty())?;
        error |= ERRORS.contains(&name);
        if !is_between(name) && !name.bytes().all(|b| b.is_ascii_digit()) {
            // A directory prints no errors.
            let path = trimmed.get(..start)?.ends_with('/');
            return (!path).then_some(Leader { name, error });
        }
        end = start;
    }
}

/// Removes the arguments of a call at the end: `error in cudaMemGetInfo(&free, &total): unknown
/// error`.
fn without_arguments(text: &str) -> &str {
    let call = text.trim_end_matches([' ', ':', ',', '-', '=']);
    let mut depth = 0_u32;
    for (at, c) in call.char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' if depth == 1 => {
                return call
                    .get(..at)
                    .filter(|name| name.ends_with(is_word))
                    .unwrap_or(text);
            }
            _ if depth == 0 => return text,
            '(' => depth -= 1,
            _ => {}
        }
    }
    text
}

/// Removes the punctuation between a word and its number.
fn trimmed(text: &str) -> &str {
    text.trim_end_matches([' ', ':', '=', '(', ')', '[', '#', '\'', '"', '-', '`', '.', ','])
}

/// Adds names, and numbers by their context.
fn words(text: &Text, signals: &mut Signals) {
    let flat = text.flat();
    let few = flat
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
        .take(4)
        .count();
    let mut tries = 0;
    let mut at = 0;
    for word in flat.split(|c| !is_word(c)) {
        let start = at;
        at += word.len()
            + text
                .flat()
                .get(at + word.len()..)
                .and_then(|t| t.chars().next())
                .map_or(0, char::len_utf8);
        // A log entry without a line end: `failed to get device context 46time=2024-12-31`.
        let word = word
            .strip_suffix("time")
            .filter(|w| !w.is_empty())
            .unwrap_or(word);
        let is_number = word.len() <= 5 && word.bytes().next().is_some_and(|b| b.is_ascii_digit());
        // go-nvml prints `ERROR_LIBRARY_NOT_FOUND`.
        let is_go = word.starts_with("error_") && text.before(start, 64).contains("nvml");
        let is_name = word.starts_with("cuda") || word.starts_with("nvml") || is_go;
        if !is_number && !is_name {
            continue;
        }
        tries += 1;
        if tries > TRIES {
            return;
        }
        let range = start..start + word.len();
        if is_name {
            if let Some(named) = by_name(word) {
                signals.name(named, range);
            } else if is_unlisted(word) {
                let number = text.kept(range.clone()).to_owned();
                signals.add("cuda:other", range, vec![("number", number)]);
            }
        } else if let Ok(number) = word.parse() {
            let named = by_number(text, &range, number, few);
            // The toolkit's stub of libcuda before CUDA 11.1.
            let negative = text.before(start, 64).strip_suffix('-');
            if number == 1
                && negative.is_some_and(|l| {
                    NUMBERED.iter().any(|n| trimmed(l).ends_with(n)) || l.ends_with("unknown error (")
                })
            {
                signals.add("cuda:stub", range.clone(), Vec::new());
            }
            if named.is_empty() && number > 0 && of_cuda(text, &range) {
                signals.add("cuda:other", range.clone(), vec![("number", number.to_string())]);
            }
            for named in named {
                signals.name(named, range.clone());
            }
        }
    }
}

/// The errors that a number in this context stands for.
fn by_number(text: &Text, at: &Range, number: u32, few: usize) -> Vec<Named> {
    let lead = text.before(at.start, 64);
    // `CUresult(-1)` has no name.
    if lead.strip_suffix('-').is_some_and(|l| !l.ends_with(is_word)) {
        return Vec::new();
    }
    let lead = trimmed(lead);
    let last: Vec<&str> = lead
        .rsplit(|c| !is_word(c))
        .filter(|w| !w.is_empty())
        .take(4)
        .collect();
    let own = || u16::try_from(number).ok().filter(|n| *n >= 1000).map(Named::Own);
    if last.first() == Some(&"nvoci") {
        return own().into_iter().collect();
    }
    if few == 1 && !AMBIGUOUS.contains(&number) {
        // The text is only the number: each table that has it counts.
        return cuda(number)
            .into_iter()
            .chain(nvml(number))
            .chain(own())
            .collect();
    }
    let is_error = last.first().is_some_and(|w| ERRORS.contains(w));
    let leader = leader(text, at.start);
    if last.first() == Some(&"nvml") || leader.as_ref().is_some_and(|l| l.is_nvml() && l.error) {
        return nvml(number).into_iter().collect();
    }
    let after = text.after(at.end, 48);
    // The name behind a code decides: `code=30(cudaErrorUnknown)`.
    if after.trim_start_matches(' ').starts_with("(cuda") {
        return Vec::new();
    }
    let by_cuda = leader.is_some_and(|l| l.is_cuda() && (l.error || NUMBERED.contains(&l.name)));
    // `[100] Call to cuInit`; `Error 802: system not yet initialized`.
    let call = after.trim_start_matches([']', ' ']).starts_with("call to cu");
    let message =
        is_error && begins_with_message(after.trim_start_matches([' ', ':', ')', '-', '(', ',']), number);
    // A person typed an error's number: `error 803`, `CUDA 100`.
    let typed = few <= 3
        && !AMBIGUOUS.contains(&number)
        && !last.iter().any(|w| OTHERS.contains(w))
        && (is_error || last == ["cuda"]);
    if by_cuda || call || message || typed {
        return cuda(number).into_iter().collect();
    }
    Vec::new()
}

type Range = std::ops::Range<usize>;

/// Whether CUDA prints the number as an error's.
fn of_cuda(text: &Text, at: &Range) -> bool {
    leader(text, at.start).is_some_and(|l| l.is_cuda() && (l.error || NUMBERED.contains(&l.name)))
}

/// Whether `text` begins with a message of that error, or with the available part of one.
fn begins_with_message(text: &str, number: u32) -> bool {
    rows(CUDA).filter(|(n, ..)| *n == number).any(|(_, _, messages)| {
        messages.split('|').any(|message| {
            let message = message.trim_start_matches('!');
            let same = message
                .bytes()
                .zip(text.bytes())
                .take_while(|(a, b)| a == b)
                .count();
            same >= 12 || same == message.len()
        })
    })
}

/// Whether the word has the form of an error's name that no table has: one of a newer CUDA.
fn is_unlisted(word: &str) -> bool {
    let rest = word
        .strip_prefix("cuda_error_")
        .or_else(|| word.strip_prefix("cudaerror"))
        .unwrap_or_default();
    // `cudaError_t` is the type, `cudaErrorCheck` a common name of macros.
    let is_code = ["_t", "check", "string", "s", "code", "enum", "type"].contains(&rest);
    rest.len() >= 5 && rest.len() <= 48 && !is_code && !rest.starts_with("check")
}

/// An error by its name in the headers or in Python's bindings.
fn by_name(word: &str) -> Option<Named> {
    let is = |name: &&str| name.eq_ignore_ascii_case(word);
    if let Some(name) = word
        .strip_prefix("nvml_error_")
        .or_else(|| word.strip_prefix("error_"))
    {
        let known = |k: &errors::Known| k.names.iter().flatten().any(|n| n.eq_ignore_ascii_case(name));
        return errors::nvml().find(known).map(|k| Named::Nvml(k.number));
    }
    if let Some(name) = word.strip_prefix("nvmlerror_") {
        return rows(NVML)
            .find(|(_, names, _)| names.eq_ignore_ascii_case(name))
            .map(|(n, ..)| Named::Nvml(n));
    }
    let headers = errors::cuda()
        .find(|k| k.names.iter().flatten().any(is))
        .map(|k| k.number);
    headers
        .or_else(|| {
            rows(CUDA)
                .find(|(_, names, _)| names.split(',').any(|n| is(&n)))
                .map(|(n, ..)| n)
        })
        .map(Named::Cuda)
}

/// Error numbers before CUDA 10.1, and their present ones.
const OLD: &[(u32, u32)] = &[
    (6, 702),
    (7, 701),
    (8, 98),
    (10, 101),
    (30, 999),
    (38, 100),
    (39, 214),
    (48, 209),
    (59, 710),
    (71, 801),
    (77, 700),
];

fn cuda(number: u32) -> Option<Named> {
    let number = OLD
        .iter()
        .find(|(old, _)| *old == number)
        .map_or(number, |(_, new)| *new);
    let known = errors::cuda().any(|k| k.number == number) || rows(CUDA).any(|(n, ..)| n == number);
    known.then_some(Named::Cuda(number))
}

fn nvml(number: u32) -> Option<Named> {
    errors::nvml()
        .any(|k| k.number == number)
        .then_some(Named::Nvml(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<String> {
        let mut signals = Signals::default();
        find(&Text::new(text), &mut signals);
        signals.named().iter().map(|n| n.key()).collect()
    }

    #[test]
    fn numbers_and_names() {
        for (text, expected) in [
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
            ("pynvml.NVMLError_NoPermission: x", &["nvml:4"]),
            ("cuda error 3: initialization error", &["cuda:3"]),
            ("error 804: forward compatibility", &["cuda:804"]),
            ("cuinit failed: 999", &["cuda:999"]),
            ("code=209(cudaerrornokernelimagefordevice)", &["cuda:209"]),
            (
                "code=30(cudaErrorUnknown) \"cudaGetDeviceCount()\"",
                &["cuda:999"],
            ),
            ("cuda 100", &["cuda:100"]),
            (
                "cuda runtime error (30) : unknown error at THC.cu:50",
                &["cuda:999"],
            ),
            ("error == cudaSuccess (46 vs. 0)", &["cuda:46"]),
            ("error == cudaSuccess (7 vs. 0)", &["cuda:701"]),
            (
                "Unable to read CUDA capable devices. Return status: 35",
                &["cuda:35"],
            ),
            ("It has CUDA. Error number 35", &[]),
            ("CUDA error 400", &["cuda:400"]),
            ("Error 400", &[]),
            ("300", &[]),
            ("failed call to cuInit: UNKNOWN ERROR (303)", &["cuda:303"]),
            ("CUDA 10.2 and CUDA 12", &[]),
            ("[100] Call to cuInit results in", &["cuda:100"]),
            ("cuda driver library init failure: 205", &[]),
            ("cuInit err: 802", &["cuda:802"]),
            ("failed call to cuInit: CUresult(-1)", &[]),
            ("CUDA error: device-side assert triggered", &["cuda:710"]),
            (
                "cuda driver library failed to get device context 46time=2024-12-31T01:21:28",
                &["cuda:46"],
            ),
            ("cuda execution failed with error 209", &["cuda:209"]),
            ("the cuda program exited with code 35", &[]),
            ("cuda build failed: make: *** [all] Error 2", &[]),
            // These are no errors of CUDA.
            ("exit status 1", &[]),
            ("ldconfig failed with error code: 1", &[]),
            ("driver version 535.104.05", &[]),
            ("line 100", &[]),
            ("exited with code 35", &[]),
            ("HTTP 804", &[]),
            ("HTTP error 804", &[]),
            ("rc=1", &[]),
            ("cudnn installer exited with code 35", &[]),
            ("curl: (35) OpenSSL error", &[]),
            ("worker: error 803 of the upstream server", &[]),
            ("CUDA Driver UNAVAILABLE (cuInit(0) returned 804)", &["cuda:804"]),
            (
                "cuda driver library failed to get device context 801",
                &["cuda:801"],
            ),
            ("cudaGetDeviceCount failed: code 34", &["cuda:34"]),
            ("cuda-installer failed with exit code 100", &[]),
            ("CUDA driver version 100", &[]),
            ("mount: operation not permitted", &[]),
            ("", &[]),
        ] {
            assert_eq!(keys(text), expected, "{text}");
        }
    }

    #[test]
    fn messages_without_numbers() {
        for (text, expected) in [
            ("no CUDA-capable device is detected", &["cuda:100"][..]),
            ("failed to initialize CUDA: unknown error", &["cuda:999"]),
            (
                "failed call to cuInit: CUDA_ERROR_UNKNOWN: unknown error",
                &["cuda:999"],
            ),
            ("Failed to initialize NVML: Unknown Error", &["nvml:999"]),
            ("nvml error: driver not loaded", &["nvml:9"]),
            ("nvml init failed: Unknown Error", &["nvml:999"]),
            ("failed to create NVML: ERROR_LIBRARY_NOT_FOUND", &["nvml:12"]),
            ("GPUassert: unknown error", &["cuda:999"]),
            ("cu->cuInit(0) failed -> unknown error", &["cuda:999"]),
            ("/usr/local/cuda: operation not permitted", &[]),
            ("NVML Shared Library Not Found", &["nvml:12"]),
            ("unknown error", &[]),
            ("CUDA is fine. postgres: unknown error", &[]),
            ("driver not loaded", &[]),
        ] {
            assert_eq!(keys(text), expected, "{text}");
        }
    }

    #[test]
    fn tables_are_whole() {
        for table in [CUDA, NVML] {
            let lines = table.lines().filter(|l| !l.starts_with('#')).count();
            assert_eq!(rows(table).count(), lines);
            for (_, _, messages) in rows(table) {
                assert_eq!(messages, messages.to_lowercase());
            }
        }
    }
}
