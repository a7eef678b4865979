//! Components of NVIDIA's whose failure a text reports, and status names of CUDA's libraries.
//!
//! A text that no specific entry matches still names the component that failed, and what to check
//! next. Entries with these signals are general ones.

use super::Signals;
use crate::doctor::explain::text::{Text, is_word};

/// The most names that are examined: a log repeats them.
const TRIES: usize = 400;

/// Names of programs and services, and the family of each.
const COMPONENTS: &[(&str, &str)] = &[
    ("dcgm-exporter", "dcgm"),
    ("dcgm", "dcgm"),
    ("dcgmi", "dcgm"),
    ("host engine", "dcgms"),
    ("hostengine", "dcgms"),
    ("nv-hostengine", "dcgm"),
    ("fabric manager", "fabrics"),
    ("fabricmanager", "fabric"),
    ("nv-fabricmanager", "fabric"),
    ("nvidia-fabricmanager", "fabric"),
    ("nvidia-imex", "fabric"),
    ("gpu-feature-discovery", "k8s"),
    ("gpu-operator", "k8s"),
    ("k8s-device-plugin", "k8s"),
    ("nvidia-cuda-validator", "k8s"),
    ("nvidia-dcgm-exporter", "k8s"),
    ("nvidia-device-plugin", "k8s"),
    ("nvidia-driver-daemonset", "k8s"),
    ("nvidia-mig-manager", "k8s"),
    ("nvidia-operator-validator", "k8s"),
    ("nvidia-cdi-hook", "toolkit"),
    ("nvidia-container-cli", "toolkit"),
    ("nvidia-container-runtime", "toolkit"),
    ("nvidia-container-runtime-hook", "toolkit"),
    ("nvidia-container-toolkit", "toolkit"),
    ("nvidia-ctk", "toolkit"),
    ("nvidia.com/gpu", "k8s"),
    ("nvidia.com/mig", "k8s"),
    ("compute-domain.nvidia.com", "k8s"),
    ("gpu.nvidia.com", "k8s"),
    ("nvidia-container-toolkit-daemonset", "k8s"),
    ("nvidia-dra-driver", "k8s"),
    ("nvidia-mps-control", "k8s"),
    ("mig", "mig"),
    ("migenabled", "mig"),
    ("vgpu", "vgpu"),
    ("nvidia-debugdump", "driver"),
    ("nvidia-gridd", "driver"),
    ("nvidia-modprobe", "driver"),
    ("nvidia-persistenced", "driver"),
    ("nvidia-powerd", "driver"),
    ("nvidia-settings", "driver"),
    ("nvidia-smi", "driver"),
    ("nvidia-vgpu-mgr", "driver"),
    ("[trt]", "tensorrt"),
    ("nvinfer", "tensorrt"),
    ("tensorrt", "tensorrt"),
    ("trtexec", "tensorrt"),
    ("trtllm-build", "tensorrt"),
    ("av1_nvenc", "video"),
    ("cuvid", "video"),
    ("h264_cuvid", "video"),
    ("h264_nvenc", "video"),
    ("hevc_cuvid", "video"),
    ("hevc_nvenc", "video"),
    ("nvcodec", "video"),
    ("nvdec", "video"),
    ("nvenc", "video"),
    ("nvencodeapi", "video"),
    ("optix", "optix"),
    ("nvargus", "jetson"),
    ("nvbufsurface", "jetson"),
    ("nvdla", "jetson"),
    ("nvgpu", "jetson"),
    ("nvmap", "jetson"),
    ("tegra", "jetson"),
    ("nvidia-dkms", "kernel"),
    ("nvidia-drm", "kernel"),
    ("nvidia-modeset", "kernel"),
    ("nvidia-peermem", "kernel"),
    ("nvidia-uvm", "kernel"),
    ("nvidia.ko", "kernel"),
    ("nvidia_drm", "kernel"),
    ("nvidia_modeset", "kernel"),
    ("nvidia_peermem", "kernel"),
    ("nvidia_uvm", "kernel"),
    ("nvrm", "kernel"),
    ("egl", "graphics"),
    ("glx", "graphics"),
    ("opengl", "graphics"),
    ("vulkan", "graphics"),
    ("nvcc", "compiler"),
    ("ptxas", "compiler"),
    ("nccl", "nccl"),
    ("processgroupnccl", "nccl"),
    ("ompi", "mpi"),
    ("open mpi", "mpi"),
    ("ucc", "mpi"),
    ("ucx", "mpi"),
    ("compute-sanitizer", "tool"),
    ("cuda-gdb", "tool"),
    ("cupti", "tool"),
    ("nsight", "tool"),
    ("nsys", "tool"),
    ("cublas", "library"),
    ("cublaslt", "library"),
    ("cudnn", "library"),
    ("cufft", "library"),
    ("curand", "library"),
    ("cusolver", "library"),
    ("cusparse", "library"),
    ("cutensor", "library"),
    ("cutlass", "library"),
    ("nvjitlink", "library"),
    ("nvjpeg", "library"),
    ("nvrtc", "library"),
    ("nvidia", "nvidia"),
    ("cuda", "cuda"),
];

/// Prefixes of functions and values of CUDA's and the driver's interfaces, and the family of each.
const PREFIXES: &[(&str, &str)] = &[
    ("cublas", "library"),
    ("cudnn", "library"),
    ("cufft", "library"),
    ("curand", "library"),
    ("cusolver", "library"),
    ("cusparse", "library"),
    ("cutensor", "library"),
    ("nvjitlink", "library"),
    ("nvrtc", "library"),
    ("cuda", "cuda"),
    ("cuctx", "cuda"),
    ("cudevice", "cuda"),
    ("cudriverget", "cuda"),
    ("cuevent", "cuda"),
    ("cuexternal", "cuda"),
    ("cufunc", "cuda"),
    ("cugetproc", "cuda"),
    ("cugraph", "cuda"),
    ("cuinit", "cuda"),
    ("cuipc", "cuda"),
    ("culaunch", "cuda"),
    ("culink", "cuda"),
    ("cumem", "cuda"),
    ("cumodule", "cuda"),
    ("custream", "cuda"),
    ("nccl", "nccl"),
    ("nvenc", "video"),
    ("nvml", "driver"),
    ("vk_error", "vulkan"),
    ("vkacquire", "vulkan"),
    ("vkallocate", "vulkan"),
    ("vkbind", "vulkan"),
    ("vkcreate", "vulkan"),
    ("vkenumerate", "vulkan"),
    ("vkqueue", "vulkan"),
    ("vkresult", "vulkan"),
    ("vkwait", "vulkan"),
];

/// Words with such a prefix that are of other software.
const OTHERS: &[&str] = &["cudatext", "ncclient"];

/// Words that report a failure.
const FAILED: &[&str] = &[
    "abort",
    "aborted",
    "aborting",
    "broken",
    "can't",
    "cannot",
    "corrupt",
    "corrupted",
    "couldn't",
    "crash",
    "crashed",
    "crashes",
    "deadlock",
    "denied",
    "died",
    "error",
    "errors",
    "exceeded",
    "exception",
    "fail",
    "failed",
    "fails",
    "failure",
    "fatal",
    "fault",
    "faulted",
    "hang",
    "hangs",
    "illegal",
    "incompatible",
    "insufficient",
    "invalid",
    "killed",
    "lost",
    "mismatch",
    "missing",
    "outdated",
    "panic",
    "panicked",
    "refuse",
    "refused",
    "rejected",
    "segfault",
    "segmentation",
    "stuck",
    "terminated",
    "timeout",
    "traceback",
    "unable",
    "unavailable",
    "unhealthy",
    "unlicensed",
    "unrecognized",
    "unresolvable",
    "unsatisfied",
    "unsupported",
    "unusable",
    "won't",
];

/// Phrases that do.
const PHRASES: &[&str] = &[
    "could not",
    "does not exist",
    "does not support",
    "doesn't support",
    "falling back",
    "fell back",
    "has fallen",
    "no such",
    "not allowed",
    "not available",
    "not compatible",
    "not configured",
    "not detected",
    "not enabled",
    "not found",
    "not initialized",
    "not installed",
    "not loaded",
    "not present",
    "not ready",
    "not recognized",
    "not registered",
    "not running",
    "not supported",
    "not usable",
    "not valid",
    "not working",
    "timed out",
    "too new",
    "too old",
    "too small",
];

/// The bytes after a name, and before it, in which the failure is reported.
const AFTER: usize = 100;
const BEFORE: usize = 80;

/// Prefixes of status names that CUDA's libraries return.
const STATUSES: &[&str] = &[
    "cublas_status_",
    "cudnn_status_",
    "cudss_status_",
    "cufft_",
    "curand_status_",
    "cusolver_status_",
    "cusparse_status_",
    "custatevec_status_",
    "cutensor_status_",
    "npp_",
    "nvimgcodec_status_",
    "nvjitlink_error_",
    "nvjpeg_status_",
    "nvptxcompile_error_",
    "nvvm_error_",
];

/// Adds the components that failed, and the status names.
pub(super) fn find(text: &Text, signals: &mut Signals) {
    for (name, family) in COMPONENTS {
        let failed = text
            .flat()
            .match_indices(name)
            .take(TRIES)
            .map(|(at, _)| at..at + name.len())
            .find(|at| is_whole(text, at.start, at.end) && has_failed(text, at.start, at.end));
        if let Some(at) = failed {
            let slots = vec![("name", text.kept(at.clone()).to_owned())];
            signals.add(format!("component:{family}"), at, slots);
        }
    }
    let mut at = 0;
    for word in text.flat().split(|c| !is_word(c)) {
        let start = at;
        at += word.len();
        at += text
            .flat()
            .get(at..)
            .and_then(|t| t.chars().next())
            .map_or(0, char::len_utf8);
        let api = PREFIXES
            .iter()
            .find(|(prefix, _)| word.len() > prefix.len() && word.starts_with(prefix));
        let api = api.filter(|_| !OTHERS.contains(&word) && is_whole(text, start, start + word.len()));
        if let Some((_, family)) = api {
            let range = start..start + word.len();
            if word.len() <= 64 && has_failed(text, range.start, range.end) {
                let slots = vec![("name", text.kept(range.clone()).to_owned())];
                signals.add(format!("component:{family}"), range, slots);
            }
        }
        let is_error = STATUSES.iter().any(|prefix| word.starts_with(prefix))
            && !word.ends_with("_success")
            && word.len() <= 64;
        if is_error {
            let slots = vec![("status", text.kept(start..start + word.len()).to_owned())];
            signals.add("status:library", start..start + word.len(), slots);
        }
    }
}

/// Whether no longer name holds the one at that place: `nvidia-smi` in `nvidia-smi-wrapper`.
fn is_whole(text: &Text, start: usize, end: usize) -> bool {
    let joins = |c: char| is_word(c) || c == '-';
    let before = text.before(start, 24);
    // A Python module that is not installed is no program that failed.
    let python = ["module named ", "import ", "from "];
    if python
        .iter()
        .any(|p| before.trim_end_matches(['\'', '"']).ends_with(p))
    {
        return false;
    }
    // A directory or package of that name is not the program: `tensorrt/`, `import tensorrt`.
    !before.ends_with(joins)
        && !before.ends_with(['@', '.'])
        && (!text.after(end, 4).starts_with(|c| joins(c) || c == '/') || is_pod(text.after(end, 24)))
}

/// Whether the name of a pod or its container goes on so: `-l4754`, `-ctr`, `-6d4f7c9b8-x2x9z`.
fn is_pod(rest: &str) -> bool {
    let suffix = rest
        .split(|c: char| !is_word(c) && c != '-')
        .next()
        .unwrap_or_default();
    let mut parts = suffix.split('-').skip(1).peekable();
    let is_hash = |part: &str| {
        (5..=10).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric())
            && part.bytes().any(|b| b.is_ascii_digit())
    };
    parts.peek().is_some()
        && parts.all(|part| is_hash(part) || matches!(part, "ctr" | "daemonset" | "validation"))
}

/// Whether a word of failure is near, and no sentence ends between.
fn has_failed(text: &Text, start: usize, end: usize) -> bool {
    let entry = text.entry(start);
    // `[h264_nvenc @ 0x55be1eaad8c0]` begins each line of that codec.
    let is_prefix = text.after(end, 5) == " @ 0x";
    let most = if is_prefix { AFTER / 2 } else { AFTER };
    let after = text.after(end, most.min(entry.end.saturating_sub(end)));
    let after = after.split(". ").next().unwrap_or_default();
    let before = text.before(start, BEFORE.min(start - entry.start));
    let before = before.rsplit(". ").next().unwrap_or_default();
    let held = |part: &str| part.split(|c| !is_word(c)).any(|word| FAILED.contains(&word));
    let phrased = |part: &str| PHRASES.iter().any(|phrase| part.contains(phrase));
    [after, before]
        .into_iter()
        .any(|part| held(part) || phrased(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_and_statuses() {
        for (text, expected) in [
            (
                "nv-fabricmanager[3228]: an error that nobody has seen",
                &["component:fabric"][..],
            ),
            (
                "systemd: Failed to start nvidia-persistenced.service",
                &["component:driver"],
            ),
            ("level=fatal msg=x dcgm-exporter: fatal: y", &["component:dcgm"]),
            ("nvidia-smi is fine. Another program has failed", &[]),
            ("cp: error: /usr/lib/tensorrt/x", &[]),
            ("error: No module named 'tensorrt'", &[]),
            ("docker run nvidia-smi", &[]),
            (
                "back-off: nvidia-driver-daemonset-l4754 failed",
                &["component:k8s"],
            ),
            ("nvidia-smi-wrapper failed", &[]),
            ("[1] found h264_nvenc\n[2] Error: the daemon does not run", &[]),
            ("from numba.cuda import X\nImportError: cannot import X", &[]),
            ("Failed to start host engine server", &["component:dcgms"]),
            ("panic: migEnabled=true was not configured", &["component:mig"]),
            ("NVRM: x failed (0x22)", &["component:kernel"]),
            ("nvcc fatal: y", &["component:compiler"]),
            ("vkCreateSwapchainKHR failed.", &["component:vulkan"]),
            ("TensorRT libraries not found", &["component:tensorrt"]),
            ("ProcessGroupNCCL's watchdog got stuck", &["component:nccl"]),
            ("cuMemCreate is fine", &[]),
            ("error: ncclient.transport.errors.SSHError", &[]),
            ("Fabric Manager: error", &["component:fabrics"]),
            ("returned CUTENSOR_STATUS_ARCH_MISMATCH", &["status:library"]),
            ("returned CUBLAS_STATUS_SUCCESS", &[]),
        ] {
            let mut signals = Signals::default();
            find(&Text::new(text), &mut signals);
            let keys: Vec<_> = signals.found.into_iter().map(|s| s.key).collect();
            assert_eq!(keys, expected, "{text}");
        }
    }
}
