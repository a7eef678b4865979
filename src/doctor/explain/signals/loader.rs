//! Errors of a dynamic loader or linker: libraries, symbols, versions of the C library.

use super::Signals;
use crate::doctor::explain::text::{Text, is_word};

/// The most errors that are examined: a log repeats them.
const TRIES: usize = 2000;

/// Prefixes of libraries, the longer ones first, and the software that they belong to.
const LIBRARIES: &[(&str, &str)] = &[
    ("libnvidia-container", "toolkit"),
    ("libcuda.", "libcuda"),
    ("libcuda_", "libcuda"),
    ("nvcuda.", "libcuda"),
    ("libnvidia-ml", "nvml"),
    ("nvml.", "nvml"),
    ("libnvidia-encode", "video"),
    ("libnvcuvid", "video"),
    ("libnvidia-opticalflow", "video"),
    ("nvencodeapi", "video"),
    ("nvcuvid.", "video"),
    ("libglx_nvidia", "graphics"),
    ("libegl_nvidia", "graphics"),
    ("libglesv", "graphics"),
    ("libnvidia-egl", "graphics"),
    ("libnvidia-gl", "graphics"),
    ("libnvidia-rtcore", "graphics"),
    ("libnvidia-tls", "graphics"),
    ("libnvidia-vulkan", "graphics"),
    ("libnvidia-eglcore", "graphics"),
    ("libnvoptix", "graphics"),
    ("libnvidia-ngx", "graphics"),
    ("libvdpau_nvidia", "graphics"),
    ("libnvidia-fatbinaryloader", "driver"),
    ("libnvidia-", "driver"),
    ("libnvrm_", "jetson"),
    ("libnvrm.", "jetson"),
    ("libnvos.", "jetson"),
    ("libnvbuf", "jetson"),
    ("libnvdla", "jetson"),
    ("libnvmedia", "jetson"),
    ("libnvargus", "jetson"),
    ("libnvsci", "jetson"),
    ("libnvdc", "jetson"),
    ("libnvmm", "jetson"),
    ("libnvdsbufferpool", "jetson"),
    ("libnvvideo", "jetson"),
    ("libnvcolorutil", "jetson"),
    ("libnvdsgst", "jetson"),
    ("libgstnv", "jetson"),
    ("libtegra", "jetson"),
    ("libcupva", "jetson"),
    ("libnvpva", "jetson"),
    ("libnvcucompat", "jetson"),
    ("libvisionworks", "jetson"),
    ("libnvvpi", "jetson"),
    ("libcudadebugger", "driver"),
    ("libcudart", "cuda"),
    ("libcudnn", "cuda"),
    ("libcublas", "cuda"),
    ("libcufft", "cuda"),
    ("libcurand", "cuda"),
    ("libcusolver", "cuda"),
    ("libcusparse", "cuda"),
    ("libcutensor", "cuda"),
    ("libcufile", "cuda"),
    ("libcupti", "cuda"),
    ("libnvrtc", "cuda"),
    ("libnvjitlink", "cuda"),
    ("libnvtoolsext", "cuda"),
    ("libnvjpeg", "cuda"),
    ("libnvgraph", "cuda"),
    ("libnvshmem", "cuda"),
    ("libnvblas", "cuda"),
    ("libnvvm", "cuda"),
    ("libnpp", "cuda"),
    ("libnccl", "cuda"),
    ("libcudss", "cuda"),
    ("libcustatevec", "cuda"),
    ("libnvcomp", "cuda"),
    ("libnvimgcodec", "cuda"),
    ("libnvtiff", "cuda"),
    ("cudart64_", "cuda"),
    ("cudnn64_", "cuda"),
    ("cudnn_", "cuda"),
    ("cublas64_", "cuda"),
    ("cublaslt64_", "cuda"),
    ("cufft64_", "cuda"),
    ("curand64_", "cuda"),
    ("cusolver64_", "cuda"),
    ("cusparse64_", "cuda"),
    ("zlibwapi", "cuda"),
    ("libnvinfer", "tensorrt"),
    ("libnvonnxparser", "tensorrt"),
    ("libnvparsers", "tensorrt"),
    ("libnvcaffe", "tensorrt"),
    ("nvinfer", "tensorrt"),
    ("libonnxruntime_providers_", "onnx"),
    ("onnxruntime_providers_", "onnx"),
    ("libc10_cuda", "torch"),
    ("libcaffe2_nvrtc", "torch"),
    ("libtorch", "torch"),
    ("libc10", "torch"),
    ("libbitsandbytes", "bitsandbytes"),
];

/// Texts before the name of a library that was not loaded.
const NOT_LOADED: &[&str] = &[
    "load library failed",
    "loadlibrary failed",
    "dlopen failed",
    "trying to load",
    "which depends on",
    "library not loaded",
    "library not found",
    "no such library",
    "third-party dynamic library",
    "missing library",
    "missing",
];

/// Names of CUDA's libraries in sentences, and the software that they belong to: `Unable to load
/// cuSPARSE`, `The cuSPARSE library was not found`.
const NAMES: &[(&str, &str)] = &[
    ("cublas", "cuda"),
    ("cublaslt", "cuda"),
    ("cufft", "cuda"),
    ("curand", "cuda"),
    ("cusolver", "cuda"),
    ("cusparse", "cuda"),
    ("cupti", "cuda"),
    ("nvrtc", "cuda"),
    ("nvjitlink", "cuda"),
    ("cudart", "cuda"),
    ("cudnn", "cudnn"),
];

/// Texts behind the name of a library that was not loaded.
const NOT_FOUND: &[&str] = &[
    ": cannot open",
    ": cannot be opened",
    ": no such file",
    ": not found",
    " => not found",
    " cannot open",
    " not found",
    " cannot be found",
    " cannot found",
    " could not be found",
    " was not found",
    " can't be found",
    " cannot be loaded",
    " could not be loaded",
    " is missing",
    " which is missing",
    " is not found",
    " does not exist",
    " not in your library path",
    " is not in your library path",
    " library in your system",
    " library was not found",
    " library not found",
    " library could not be",
    " is not installed",
    " from dlerror",
    ": failed to map",
];

/// Texts behind the name of a file that is no library.
const BROKEN: &[&str] = &[
    ": file too short",
    " file too short",
    ": invalid elf header",
    " is empty",
];

/// Parts of symbols' names, and the library that lacks them.
const SYMBOLS: &[(&str, &str)] = &[
    ("nvjitlink", "nvjitlink"),
    ("n3c10", "torch"),
    ("k3c10", "torch"),
    ("n2at", "torch"),
    ("k2at", "torch"),
    ("n5torch", "torch"),
    ("n6caffe2", "torch"),
    ("torch", "torch"),
    ("n10tensorflow", "tensorflow"),
    ("n3tsl", "tensorflow"),
    ("n3xla", "tensorflow"),
    ("onnxruntime", "onnx"),
    ("nvinfer", "tensorrt"),
    ("nccl", "nccl"),
    ("cudnn", "cudnn"),
    ("cublas", "cuda-library"),
    ("cusparse", "cuda-library"),
    ("cusolver", "cuda-library"),
    ("cufft", "cuda-library"),
    ("curand", "cuda-library"),
    ("nvrtc", "cuda-library"),
    ("nvml", "nvml"),
];

/// Prefixes of the CUDA driver's functions.
const DRIVER_CALLS: &[&str] = &[
    "cuinit",
    "cudevice",
    "cuctx",
    "cumem",
    "cumodule",
    "culaunch",
    "custream",
    "cuevent",
    "cuget",
    "cufunc",
    "culink",
    "cuarray",
    "cugraph",
    "cudriver",
    "cupointer",
    "cuipc",
    "culibrary",
    "cukernel",
    "cumulticast",
    "cugreen",
];

/// Adds the loader's errors in the text.
pub(super) fn find(text: &Text, signals: &mut Signals) {
    libraries(text, signals);
    symbols(text, signals);
    versions(text, signals);
}

fn is_name(c: char) -> bool {
    is_word(c) || matches!(c, '.' | '-' | '+')
}

fn libraries(text: &Text, signals: &mut Signals) {
    let flat = text.flat();
    for suffix in [".so", ".dll"] {
        for (at, _) in flat.match_indices(suffix).take(TRIES) {
            let start = at
                - text
                    .before(at, 64)
                    .chars()
                    .rev()
                    .take_while(|c| is_name(*c))
                    .map(char::len_utf8)
                    .sum::<usize>();
            let end = at + suffix.len() + digits(text.after(at + suffix.len(), 32));
            let name = flat.get(start..end).unwrap_or_default();
            let Some(owner) = owner(name) else {
                continue;
            };
            if let Some(state) = state(text, start, end) {
                let slots = vec![("lib", text.kept(start..end).to_owned())];
                signals.add(format!("{state}:{owner}"), start..end, slots);
            }
        }
    }
    for (name, owner) in NAMES {
        for (at, _) in flat.match_indices(name).take(TRIES) {
            let end = at + name.len();
            let is_part = text.before(at, 4).ends_with(|c| is_name(c) || c == '/')
                || text
                    .after(end, 1)
                    .starts_with(|c| is_word(c) || matches!(c, '-' | '/' | '('))
                || (text.after(end, 1) == "." && text.after(end + 1, 1).starts_with(is_word));
            if !is_part && state(text, at, end) == Some("lib") {
                let slots = vec![("lib", text.kept(at..end).to_owned())];
                signals.add(format!("lib:{owner}"), at..end, slots);
            }
        }
    }
    for (at, found) in flat.match_indices("cannot find -l").take(TRIES) {
        let start = at + found.len();
        let name = text
            .after(start, 32)
            .split(|c| !is_name(c))
            .next()
            .unwrap_or_default();
        let owner = owner(&format!("lib{name}."));
        if let Some(owner) = owner {
            let slots = vec![("lib", format!("lib{}.so", text.kept(start..start + name.len())))];
            signals.add(format!("link:{owner}"), at..start + name.len(), slots);
        }
    }
}

/// The length of a version in bytes: `.12.4`.
fn digits(text: &str) -> usize {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    text.get(..end).unwrap_or_default().trim_end_matches('.').len()
}

fn owner(name: &str) -> Option<&'static str> {
    LIBRARIES
        .iter()
        .find(|(prefix, _)| name.starts_with(prefix))
        .map(|(_, owner)| *owner)
}

/// The error about the library at that offset: `lib` if it is missing, `short` if it is no library,
/// `foreign` if it is for another architecture.
fn state(text: &Text, start: usize, end: usize) -> Option<&'static str> {
    let after = text.after(end, 64);
    let after = after.trim_start_matches(['\'', '"', '`', ')', '.', ',']);
    if BROKEN.iter().any(|b| after.starts_with(b)) {
        return Some("short");
    }
    // The loader's message names the library again: `Unable to load X: X: wrong ELF class`.
    if text.after(end, 240).contains("wrong elf class") {
        return Some("foreign");
    }
    // It is there and lacks a symbol.
    if after.starts_with(": undefined symbol") {
        return None;
    }
    // NVIDIA's toolkit reports optional files so: `Could not locate X: pattern X not found`.
    if after.starts_with(": pattern ") || text.before(start, 16).ends_with(": pattern ") {
        return None;
    }
    // Removes the directories before the name, quotes and brackets.
    let path = text.before(start, 200);
    let path = path.rsplit([' ', '\'', '"', '`', '(']).next().unwrap_or_default();
    let lead = text.before(start - path.len().min(start), 64);
    let lead = lead.trim_end_matches([' ', ':', '\'', '"', '`', '(', '<', '{', '[']);
    let before = NOT_LOADED.iter().any(|n| lead.ends_with(n)) || is_refused(lead);
    (before || NOT_FOUND.iter().any(|n| after.starts_with(n))).then_some("lib")
}

/// Whether the words before the name report a failed load: `Couldn't open CUDA library`.
fn is_refused(lead: &str) -> bool {
    // A sentence before is about something else.
    if lead.ends_with('.') {
        return false;
    }
    let lead = lead.rsplit(". ").next().unwrap_or_default();
    let words = || {
        lead.rsplit([' ', '"', '='])
            .take(6)
            .map(|w| w.trim_end_matches([':', ',']))
    };
    let any = |of: &[&str]| words().any(|w| of.contains(&w));
    any(&[
        "not", "couldn't", "cannot", "can't", "failed", "failure", "unable", "error",
    ]) && any(&[
        "load", "loading", "open", "opening", "find", "locate", "dlopen", "import",
    ])
}

fn symbols(text: &Text, signals: &mut Signals) {
    let flat = text.flat();
    for lead in [
        "undefined symbol",
        "undefined reference to",
        ": symbol ",
        "entry point not found",
        "symbol not found",
    ] {
        for (at, _) in flat.match_indices(lead).take(TRIES) {
            let skipped = text.after(at + lead.len(), 8);
            let skip = skipped.len() - skipped.trim_start_matches([' ', ':', '`', '\'', '"', '(']).len();
            let start = at + lead.len() + skip;
            let name = text
                .after(start, 300)
                .split(|c| !is_word(c))
                .next()
                .unwrap_or_default();
            let Some(owner) = symbol_owner(name) else {
                continue;
            };
            let mut symbol = text.kept(start..start + name.len()).to_owned();
            symbol.truncate(80);
            let mut slots = vec![("symbol", symbol)];
            if let Some(lib) = complaining(text, at) {
                slots.push(("file", lib));
            }
            signals.add(format!("symbol:{owner}"), at..start + name.len(), slots);
        }
    }
}

/// The file that lacks the symbol, as written: `/opt/x/libtorch_cuda.so: undefined symbol`.
fn complaining(text: &Text, at: usize) -> Option<String> {
    let lead = text.before(at, 200);
    let path = lead.trim_end_matches([' ', ':']);
    let file = path.rsplit([' ', '/', '"', '\'']).next()?;
    let end = at - (lead.len() - path.len());
    (file.contains(".so") && file.len() <= 80).then(|| text.kept(end - file.len()..end).to_owned())
}

fn symbol_owner(name: &str) -> Option<&'static str> {
    let held = SYMBOLS
        .iter()
        .find(|(part, _)| name.contains(part))
        .map(|(_, owner)| *owner);
    let plain = name.trim_start_matches('_');
    held.or_else(|| plain.starts_with("cuda").then_some("cuda-library"))
        .or_else(|| {
            DRIVER_CALLS
                .iter()
                .any(|call| plain.starts_with(call))
                .then_some("driver")
        })
}

/// Programs and libraries of NVIDIA's container tools, which run on the host.
const HOST_TOOLS: &[&str] = &[
    "nvidia-container",
    "nvidia-ctk",
    "nvidia-cdi-hook",
    "nvidia-docker",
    "nvidia-toolkit",
    "/usr/local/nvidia/toolkit",
    "nvidia-persistenced",
    "nvidia-modprobe",
];

/// Directories of the host's libraries in a container.
const INJECTED: &[&str] = &[
    "/.singularity.d/libs/",
    "/tegra/",
    "libnvidia",
    "libcuda.so",
    "_nvidia.so",
    "libnvrm",
    "/usr/local/nvidia/lib",
    "nvidia-smi",
    "libnvcuvid",
    "/usr/lib/wsl/",
];

/// Parts of paths of CUDA builds in an image.
const BUILT: &[&str] = &[
    "cuda",
    "torch",
    "nvidia",
    "onnxruntime",
    "flash_attn",
    "vllm",
    "triton",
    "bitsandbytes",
    "tensorrt",
    "jaxlib",
    "tensorflow",
    "libcu",
    "libnv",
    "ollama",
    "llama",
];

/// Adds whose C library lacks a version: the host's or the image's.
fn versions(text: &Text, signals: &mut Signals) {
    for lead in [
        "version `glibc",
        "version 'glibc",
        "version glibc",
        "version `cxxabi",
        "version 'cxxabi",
    ] {
        for (at, _) in text.flat().match_indices(lead).take(TRIES) {
            let version_at = at + "version ".len();
            let version = text.after(version_at, 40).trim_start_matches(['`', '\'']);
            let version_start = version_at + text.after(version_at, 40).len() - version.len();
            let version = version.split(|c| !is_name(c)).next().unwrap_or_default();
            let rest = text.after(version_start + version.len(), 24 + 300);
            let required = rest.split_once("(required by ").map_or("", |(before, path)| {
                if before.len() > 20 {
                    ""
                } else {
                    path.split([')', ' ']).next().unwrap_or_default()
                }
            });
            // `PROGRAM: LIBC: version …`
            let program = text.before(at, 300);
            let program = program.trim_end_matches([' ', ':']);
            let program = program.rsplit(' ').nth(1).unwrap_or_default();
            let holds = |parts: &[&str]| parts.iter().any(|p| required.contains(p) || program.contains(p));
            let side = if holds(HOST_TOOLS) {
                "toolkit"
            } else if holds(INJECTED) {
                "injected"
            } else if holds(BUILT) {
                "image"
            } else {
                continue;
            };
            let mut slots = vec![(
                "version",
                text.kept(version_start..version_start + version.len()).to_owned(),
            )];
            if !required.is_empty() {
                slots.push(("file", required.to_owned()));
            }
            signals.add(format!("libc:{side}"), at..version_start + version.len(), slots);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<String> {
        let mut signals = Signals::default();
        find(&Text::new(text), &mut signals);
        signals.found.into_iter().map(|s| s.key).collect()
    }

    #[test]
    fn libraries_that_are_not_loaded() {
        for (text, expected) in [
            (
                "OSError: libcuda.so.1: cannot open shared object file: No such file",
                &["lib:libcuda"][..],
            ),
            (
                "Could not load dynamic library 'libcudnn.so.8'; dlerror: libcudnn.so.8: cannot open",
                &["lib:cuda"],
            ),
            (
                "Could not load library libcudnn_ops_infer.so.8. Error:",
                &["lib:cuda"],
            ),
            (
                "[h264_nvenc @ 0x55] Cannot load libnvidia-encode.so.1",
                &["lib:video"],
            ),
            (
                "load library failed: libnvidia-ml.so.1: cannot open",
                &["lib:nvml"],
            ),
            (
                "Error loading shared library libcublasLt.so.12: No such file",
                &["lib:cuda"],
            ),
            ("/usr/bin/ld: cannot find -lnvcuvid", &["link:video"]),
            ("/usr/bin/ld: cannot find -lcuda", &["link:libcuda"]),
            (
                "Error loading \"C:\\x\\onnxruntime_providers_cuda.dll\" which depends on \"cudnn64_9.dll\" which is missing",
                &["lib:onnx", "lib:cuda"],
            ),
            ("libnvinfer.so.7.1.3 file too short", &["short:tensorrt"]),
            (
                "Couldn't open CUDA library libcuda.so.1. LD_LIBRARY_PATH: /x",
                &["lib:libcuda"],
            ),
            ("libtinfo.so.6: cannot open shared object file", &[]),
            (
                "RuntimeError: Unable to load cuSPARSE. Is it installed?",
                &["lib:cuda"],
            ),
            ("failed: The cuSPARSE library was not found.", &["lib:cuda"]),
            ("Error: Cannot load cudnn shared library", &["lib:cudnn"]),
            (
                "Failed to load 'f': /usr/lib/libnvrtc.so: undefined symbol: f",
                &[],
            ),
            ("error in cublas(handle)", &[]),
            ("It could not load the file. cuDNN is fine", &[]),
            (
                "libcublas.so.12: kann die Shared-Object-Datei nicht öffnen",
                &["lib:cuda"],
            ),
            ("Successfully opened dynamic library libcudnn.so.8", &[]),
            ("/usr/lib/libcuda.so.1 is a link", &[]),
            (
                "Could not locate libnvidia-egl-gbm.so.1: pattern libnvidia-egl-gbm.so.1 not found",
                &[],
            ),
        ] {
            assert_eq!(keys(text), expected, "{text}");
        }
    }

    #[test]
    fn symbols_by_the_library_that_lacks_them() {
        for (text, expected) in [
            (
                "libcusparse.so.12: undefined symbol: __nvJitLinkComplete_12_4, version",
                &["symbol:nvjitlink"][..],
            ),
            (
                "x.so: undefined symbol: _ZN3c104cuda9SetDeviceEi",
                &["symbol:torch"],
            ),
            ("undefined symbol: \"ncclCommWindowRegister\"", &["symbol:nccl"]),
            (
                "libc10_cuda.so: undefined symbol: cudaGetDriverEntryPointByVersion",
                &["symbol:cuda-library"],
            ),
            ("undefined reference to `cuInit'", &["symbol:driver"]),
            ("undefined symbol: PyObject_Vectorcall", &[]),
            ("undefined symbol: cursor_open", &[]),
        ] {
            assert_eq!(keys(text), expected, "{text}");
        }
    }

    #[test]
    fn whose_c_library_is_too_old() {
        for (text, expected) in [
            (
                "nvidia-container-cli: /lib/libc.so.6: version `GLIBC_ABI_DT_RELR' not found (required by /lib/libdl.so.2)",
                &["libc:toolkit"][..],
            ),
            (
                "x: /lib/libc.so.6: version `GLIBC_2.34' not found (required by /.singularity.d/libs/libGLX.so.0)",
                &["libc:injected"],
            ),
            (
                "ImportError: /lib/libc.so.6: version `GLIBC_2.32' not found (required by /x/flash_attn_2_cuda.so)",
                &["libc:image"],
            ),
            (
                "node: /lib64/libc.so.6: version `GLIBC_2.28' not found (required by node)",
                &[],
            ),
            (
                "cmake: /lib/libm.so.6: version `GLIBC_2.29' not found (required by /usr/lib/libxml2.so.2)",
                &[],
            ),
        ] {
            assert_eq!(keys(text), expected, "{text}");
        }
    }
}
