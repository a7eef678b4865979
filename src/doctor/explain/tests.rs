use super::*;

/// Texts from people's reports, and the entry that must come first. Each symptom of the collection
/// with a text is here; `docs/pains.md` lists where the others are handled.
#[rustfmt::skip]
const TEXTS: &[(&str, &str, &str)] = &[
    ("P01", "docker: Error response from daemon: could not select device driver \"\" with capabilities: [[gpu]].",
        "engine-gpu-unknown"),
    ("P01", "Error response from daemon: could not select device driver \"nvidia\" with capabilities: [[gpu]]",
        "engine-gpu-unknown"),
    ("P01", "could not select device driver \"cdi\" with capabilities: [].",
        "engine-gpu-unknown-cdi"),
    ("P02", "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 565.57",
        "driver-mismatch-host"),
    ("P02", "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch: unknown.",
        "driver-mismatch-host"),
    ("P03", "Failed to initialize NVML: Unknown Error",
        "nvml-unknown-lost"),
    ("P04", "docker: Error response from daemon: unknown or invalid runtime name: nvidia.",
        "runtime-unknown"),
    ("P04", "Error response from daemon: Unknown runtime specified nvidia.",
        "runtime-unknown"),
    ("P04", "exec: \"nvidia-container-runtime\": executable file not found in $PATH",
        "runtime-missing"),
    ("P04", "fork/exec /usr/bin/nvidia-container-runtime: permission denied",
        "runtime-missing"),
    ("P05", "nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot open shared object file: no such file or directory: unknown",
        "snap-or-no-libraries"),
    ("P06", "Error: crun: error stat'ing file `/lib/x86_64-linux-gnu/libEGL_nvidia.so.535.161.07`: No such file or directory",
        "cdi-file-gone"),
    ("P06", "Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all",
        "cdi-unresolvable"),
    ("P06", "failed to stat CDI host device \"/dev/dri/controlD69\": no such file or directory",
        "cdi-node-gone"),
    ("P06", "failed to load CDI Spec \"/etc/cdi/nvidia.yaml\": error unmarshaling JSON: json: unknown field \"additionalGids\"",
        "cdi-too-new"),
    ("P06", "could not apply required modification to OCI specification: unresolvable CDI devices runtime.nvidia.com/gpu=all",
        "cdi-unresolvable"),
    ("P06", "failed to inject CDI devices: unresolvable CDI devices management.nvidia.com/gpu=all",
        "cdi-management-unresolvable"),
    ("P06", "unresolvable CDI devices nvidia.com/gpu=0, management.nvidia.com/gpu=all",
        "cdi-management-unresolvable"),
    ("P07", "services.app.deploy.resources.reservations value Additional properties are not allowed ('devices' was unexpected)",
        "compose-old"),
    ("P07", "Unsupported config option for services.app: 'runtime'",
        "compose-old"),
    ("P08", "docker: Error response from daemon: manifest for nvidia/cuda:latest not found: manifest unknown: manifest unknown.",
        "image-tag-gone"),
    ("P08", "manifest for nvidia/cuda:11.0-base-ubuntu20.04 not found: manifest unknown",
        "image-tag-gone"),
    ("P08", "reading manifest 10.2-cudnn7-devel-ubuntu18.04 in docker.io/nvidia/cuda: manifest unknown",
        "image-tag-gone"),
    ("P09", "/snap/docker/2893/usr/bin/nvidia-container-cli: initialization error",
        "snap-docker"),
    ("P10", "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.8, please update your driver to a newer version, or use an earlier cuda container: unknown.",
        "requirement"),
    ("P10", "requirement NVIDIA_REQUIRE_CUDA not met: the image demands cuda>=12.8, this host has cuda 12.2; fix: update the driver [NVOCI-3003]",
        "requirement"),
    ("P11", "RuntimeError: cudaGetDeviceCount() Error 35: CUDA driver version is insufficient for CUDA runtime version",
        "insufficient-driver-no-libcuda"),
    ("P11", "RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver",
        "driver-too-old"),
    ("P12", "AssertionError: Torch not compiled with CUDA enabled",
        "torch-cpu-build"),
    ("P12", "torch.cuda.is_available() is False",
        "torch-cpu-build"),
    ("P12", "RuntimeError: No CUDA GPUs are available",
        "torch-no-gpu"),
    ("P13", "Error 803: system has unsupported display driver / cuda driver combination",
        "driver-combination"),
    ("P13", "UserWarning: CUDA initialization: Unexpected error from cudaGetDeviceCount(). Error 804: forward compatibility was attempted on non supported HW",
        "forward-unsupported"),
    ("P13", "CUDA error: the provided PTX was compiled with an unsupported toolchain.",
        "ptx-too-new"),
    ("P14", "nvidia-container-cli: mount error: file creation failed: /var/lib/docker/overlay2/abc/merged/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1: file exists: unknown.",
        "baked-driver-exists"),
    ("P14", "mount error: file creation failed: /merged/usr/lib/libcudnn_adv_infer_static_v8.a: file exists",
        "baked-driver-exists"),
    ("P14", "ldconfig.real: File /usr/lib/x86_64-linux-gnu/libnvidia-encode.so.440.33.01 is empty, not checked.",
        "empty-library"),
    ("P15", "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env variable CUDA_VISIBLE_DEVICES after program start.",
        "cuda-unknown-uvm"),
    ("P15", "cuInit failed: 999",
        "cuda-unknown-uvm"),
    ("P15", "Could not load UVM kernel module. Is nvidia-modprobe installed?",
        "uvm-module"),
    ("P15", "nvidia-container-cli: mount error: stat failed: /dev/nvidia-uvm: no such file or directory",
        "uvm-module"),
    ("P15", "failed to stat CDI host device \"/dev/dri/renderD129\": no such file or directory",
        "cdi-node-gone"),
    ("P16", "RuntimeError: CUDA error: no kernel image is available for execution on the device",
        "no-kernel-image"),
    ("P16", "NVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the current PyTorch installation.",
        "no-kernel-image"),
    ("P17", "nvidia-container-cli: initialization error: driver error: timed out: unknown",
        "driver-timeout"),
    ("P17", "nvidia-container-cli: initialization error: driver rpc error: timed out",
        "driver-timeout"),
    ("P18", "Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized",
        "fabric-manager"),
    ("P18", "request to query NVSwitch device information from NVSwitch driver failed with error: NV_WARN_NOTHING_TO_DO",
        "fabric-manager-needless"),
    ("P19", "    License Status                    : Unlicensed (Restricted)",
        "vgpu-licence"),
    ("P19", "CUDA error: device doesn't have valid Grid license",
        "vgpu-licence"),
    ("P19", "CUDA error: all CUDA-capable devices are busy or unavailable",
        "gpu-busy"),
    ("P20", "nvidia-container-cli: initialization error: WSL environment detected but no adapters were found: unknown",
        "wsl-no-adapter"),
    ("P21", "CUDA driver is a stub library",
        "stub-library"),
    ("P21", "cuInit: CUDA_ERROR_STUB_LIBRARY",
        "stub-library"),
    ("P21", "cudaGetDeviceCount failed: code 34",
        "stub-library"),
    ("P22", "OSError: libcuda.so.1: cannot open shared object file: No such file or directory",
        "libcuda-not-found"),
    ("P22", "AssertionError: libcuda.so cannot found!",
        "libcuda-not-found"),
    ("P22", "ImportError: libcudart.so.11.0: cannot open shared object file: No such file or directory",
        "runtime-library-not-found"),
    ("P23", "/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.34' not found (required by /usr/lib/aarch64-linux-gnu/tegra/libnvrm_gpu.so)",
        "glibc-too-old"),
    ("P23", "sh: nvidia-smi: not found",
        "musl"),
    ("P24", "vkCreateInstance failed with ERROR_INCOMPATIBLE_DRIVER",
        "vulkan"),
    ("P24", "libXext.so.6: cannot open shared object file: No such file or directory: failed to open libGLX_nvidia.so.0. Ignoring this JSON",
        "vulkan"),
    ("P24", "unable to open 'libnvidia-glvkspirv.so.430.14'",
        "vulkan"),
    ("P24", "error: No EGL displays",
        "vulkan"),
    ("P24", "RuntimeError: eglInitialize failed",
        "vulkan"),
    ("P25", "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display Driver is properly installed",
        "smi-no-library"),
    ("P25", "mount operation failed: /var/lib/docker/overlay2/x/merged/proc/driver/nvidia/params/version/registry: no such file or directory",
        "params-registry"),
    ("P26", "runc create failed: unable to start container process: error mounting: no space left on device",
        "mount-leak"),
    ("P27", "nvidia-container-cli: ldcache error: open failed: /sbin/ldconfig.real: no such file or directory",
        "ldconfig"),
    ("P27", "nvidia-container-cli: ldcache error: process /sbin/ldconfig.real failed with error code: 127",
        "ldconfig"),
    ("P27", "ldcache error: process /sbin/ldconfig terminated with signal 9",
        "ldconfig"),
    ("P28", "error loading ldcache: open /etc/ld.so.cache: no such file or directory",
        "no-ldcache"),
    ("P28", "ERROR: init 250 result=11",
        "sandboxutils"),
    ("P28", "nvidia-container-cli: container error: change root failed: no such file or directory",
        "change-root"),
    ("P28", "error running pivot_root: pivot_root .: invalid argument",
        "pivot-root"),
    ("P28", "nvidia-container-cli: error while loading shared libraries: libelf.so.1: cannot open shared object file",
        "cli-library"),
    ("P28", "/nix/store/zz-glibc-2.38-bin/bin/ldconfig failed with error code: 1",
        "ldconfig"),
    ("P28", "unknown flag: --root",
        "cli-library"),
    ("P29", "error during container init: error running createContainer hook #6: exit status 1 ... mkdirat etc/nvidia/nvidia-application-profiles-rc.d: read-only file system",
        "read-only-root"),
    ("P30", "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to get sandbox runtime: no runtime for \"nvidia\" is configured",
        "k8s-runtime-class"),
    ("P30", "desc = no runtime for \\\"nvidia\\\" is configured",
        "k8s-runtime-class"),
    ("P30", "containerd: drop-in config version 4 higher than root config version 2",
        "containerd-config"),
    ("P30", "container.Runtime.Name must be set",
        "containerd-config"),
    ("P31", "nvidia-container-cli: mount error: failed to add device rules: bpf_prog_query(BPF_CGROUP_DEVICE) failed: operation not permitted",
        "rootless-cgroup"),
    ("P31", "write /sys/fs/cgroup/devices/user.slice/devices.allow: operation not permitted",
        "rootless-cgroup"),
    ("P32", "crun: error executing hook `/usr/bin/nvidia-cdi-hook` (exit code: 1): OCI runtime error",
        "crun-hook"),
    ("P32", "hook oci-nvidia-hook.json did not match",
        "hook-json-no-match"),
    ("P33", "Failed to initialize NVML: Insufficient Permissions",
        "insufficient-permissions"),
    ("P34", "mount operation failed: /dev: operation not permitted",
        "nested"),
    ("P34", "error mounting \"proc\" to rootfs at \"/proc\": mount \"proc\" to \"/proc\": Operation not permitted",
        "nested"),
    ("P36", "cannot read client sync file: waiting for sandbox to start: EOF; unsupported Nvidia driver version: 570.211.01",
        "gvisor-driver"),
    ("P37", "stat failed: /usr/lib/wsl/lib/libcuda.so.1: no such file or directory",
        "wsl-plumbing"),
    ("P37", "mounting /usr/lib/wsl to /tmp/docker-desktop-root/usr/lib/wsl: no such file or directory",
        "wsl-plumbing"),
    ("P38", "Unexpected error from cudaGetDeviceCount(). Error 500: named symbol not found",
        "wsl-symbol"),
    ("P38", "CUDA_ERROR_NOT_FOUND",
        "wsl-symbol"),
    ("P39", "error running hook: signal: segmentation fault, stdout: , stderr:",
        "wsl-crash"),
    ("P39", "Core Nvidia component libcuda.so.1.1 not found in /usr/lib/wsl/drivers/iigd_dch.inf_amd64_1",
        "wsl-crash"),
    ("P40", "insufficient privileges to read device list from NVIDIA_VISIBLE_DEVICES envvar",
        "k8s-privilege"),
    ("P41", "nvidia-container-cli: device error: MIG-GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f/1/0: unknown device: unknown",
        "unknown-device"),
    ("P41", "Failed to display compute instances: Insufficient Permissions",
        "mig-permissions"),
    ("P42", "nvidia-container-cli: error parsing IMEX info: unsupported IMEX channel value: all: unknown",
        "imex"),
    ("P43", "container create failed: error executing hook `/usr/local/nvidia/toolkit/nvidia-container-runtime-hook` (exit code: 1)",
        "crun-hook"),
    ("P44", "nvidia-container-cli: mount error: stat failed: /dev/nvidiactl: no such file or directory",
        "jetson-nodes"),
    ("P44", "libvisionworks.so: file exists",
        "jetson-files"),
    ("P44", "libnvdla_compiler.so: cannot open shared object file",
        "jetson-files"),
    ("P45", "E: Conflicting values set for option Signed-By regarding source https://nvidia.github.io/libnvidia-container/stable/deb/amd64/",
        "apt-signed-by"),
];

fn first(text: &str) -> String {
    explain(text).report.findings[0].subject.clone()
}

#[test]
fn the_answer_names_the_part_that_was_read() {
    let is_part = |text: &str| {
        let first = &explain(text).report.findings[0];
        first.cause.contains("last 256 KiB")
    };
    assert!(!is_part("nothing"));
    assert!(is_part(&"nothing\n".repeat(40_000)));
}

#[test]
fn every_text_finds_its_entry_first() {
    for (pain, text, entry) in TEXTS {
        let explained = explain(text);
        let first = &explained.report.findings[0];
        assert_eq!(first.subject, *entry, "{pain}: {text}");
        assert!(!explained.areas.is_empty() && !first.fix.is_empty(), "{text}");
        let found = entries::all().find(|e| e.name == *entry).unwrap();
        assert!(found.pains.contains(pain), "{entry} does not name {pain}");
    }
}

#[test]
fn every_symptom_ends_somewhere() {
    let table = include_str!("../../../docs/pains.md");
    let names: Vec<&str> = entries::all().map(|e| e.name).collect();
    for number in 1..=45 {
        let pain = format!("P{number:02}");
        let row = table
            .lines()
            .find(|l| l.starts_with(&format!("| {pain} |")))
            .unwrap_or_else(|| panic!("{pain} is not in docs/pains.md"));
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 6, "{row}");
        let listed: Vec<&str> = cells[3].split(", ").filter(|c| *c != "-").collect();
        for entry in &listed {
            assert!(
                names.contains(&entry.trim_matches('`')),
                "{pain}: there is no {entry}"
            );
        }
        assert_eq!(
            listed.is_empty(),
            !entries::all().any(|e| e.pains.contains(&pain.as_str())),
            "{row}"
        );
        assert!(cells[4].len() > 1 || !listed.is_empty(), "{pain} ends nowhere");
        // A symptom with entries has a text that finds one of them, and vice versa; userns-remap is
        // excepted.
        assert_eq!(
            TEXTS.iter().any(|(p, ..)| *p == pain),
            !listed.is_empty() && pain != "P35",
            "{pain}"
        );
    }
}

#[test]
fn a_text_of_two_causes_shows_both_and_how_they_differ() {
    let explained = explain("CUDA driver version is insufficient for CUDA runtime version");
    let names: Vec<&str> = explained
        .report
        .findings
        .iter()
        .map(|f| f.subject.as_str())
        .collect();
    assert_eq!(
        names,
        ["insufficient-driver-no-libcuda", "insufficient-driver-too-old"]
    );
    let distinguished = explained
        .report
        .findings
        .iter()
        .all(|f| f.evidence[0].starts_with("to distinguish: "));
    assert!(distinguished);
    assert_eq!(explained.areas, ["container", "engine", "image", "host"]);
}

#[test]
fn numbers_and_names_are_enough() {
    for (text, entry) in [
        ("803", "driver-combination"),
        ("Error 803", "driver-combination"),
        ("804", "forward-unsupported"),
        ("code 222", "ptx-too-new"),
        ("802", "fabric-manager"),
        ("NVML 4", "insufficient-permissions"),
        ("NVML 12", "snap-or-no-libraries"),
        ("cudaErrorInsufficientDriver", "insufficient-driver-no-libcuda"),
        ("CUDA_ERROR_NO_BINARY_FOR_GPU", "no-kernel-image"),
        ("NVML 18", "driver-mismatch-host"),
        ("NVML_ERROR_DRIVER_NOT_LOADED", "no-driver"),
        ("NVOCI-2003", "NVOCI-2003"),
        ("7101", "NVOCI-7101"),
        ("221", "CUDA error 221"),
    ] {
        assert_eq!(first(text), entry, "{text}");
    }
    let facts = explain("804").report.facts;
    assert!(
        facts[0].value.contains("cudaErrorCompatNotSupportedOnDevice"),
        "{facts:?}"
    );
}

#[test]
fn every_error_and_check_of_ours_is_explained() {
    let numbers = Code::ALL.iter().map(|c| c.number());
    for number in numbers.chain(all_checks().map(|c| c.number)) {
        let report = explain(&format!("x: y; fix: z [NVOCI-{number}]")).report;
        let subject = format!("NVOCI-{number}");
        let found = report.findings.iter().find(|f| f.subject == subject);
        assert!(found.is_some_and(|f| !f.fix.is_empty()), "{subject}");
    }
}

#[test]
fn every_cuda_and_nvml_error_is_explained() {
    for known in errors::cuda() {
        let report = explain(&format!("CUDA error {}: x", known.number)).report;
        assert_eq!(report.findings[0].check, &KNOWN, "{}", known.number);
    }
    for known in errors::nvml() {
        assert_eq!(
            explain(&format!("NVML {}", known.number)).report.findings[0].check,
            &KNOWN
        );
    }
}

#[test]
fn pastes_are_untidy() {
    let paste = "\u{1b}[31mdocker: Error response from daemon: failed to create task for container:\n  \
        error running prestart hook #0: exit status 1, stdout: , stderr: Auto-detected mode as \u{2018}legacy\u{2019}\n\
        nvidia-container-cli: requirement error: unsatisfied   condition:\r\n cuda>=12.8, please update";
    assert_eq!(first(paste), "requirement");
    assert_eq!(
        first("OSERROR: LIBCUDA.SO.1: CANNOT OPEN SHARED OBJECT FILE"),
        "libcuda-not-found"
    );
}

#[test]
fn unknown_texts_are_reported_as_unknown() {
    for text in [
        "",
        "   \n",
        "the quick brown fox",
        "exit status 1",
        "NVOCI-9999",
        "\u{1b}[",
    ] {
        let explained = explain(text);
        assert_eq!(explained.report.findings[0].check, &UNKNOWN, "{text:?}");
        assert_eq!(explained.report.status(), 1);
        assert!(explained.areas.is_empty());
    }
}

#[test]
fn the_status_is_that_of_the_error() {
    for (text, status) in [
        ("Error 803", 2),
        (
            "nvidia-container-cli: initialization error: nvml error: driver not loaded",
            2,
        ),
        ("License Status : Unlicensed (Restricted)", 1),
        (
            "WARNING: The NVIDIA Driver was not detected.  GPU functionality will not be available.",
            1,
        ),
        ("successful NUMA node read from SysFS had negative value (-1)", 0),
        (
            "dxcore initialization failed, continuing assuming a non-WSL environment",
            0,
        ),
        ("x: y; fix: z [NVOCI-3003]", 2),
    ] {
        assert_eq!(explain(text).report.status(), status, "{text}");
    }
}

#[test]
fn an_error_stands_before_harmless_lines() {
    let numa = "I cuda_gpu_executor.cc:980] successful NUMA node read from SysFS had negative value (-1)\n";
    let text = format!("{numa}CUDA error: device-side assert triggered\n{numa}");
    let report = explain(&text).report;
    let names: Vec<&str> = report.findings.iter().map(|f| f.subject.as_str()).collect();
    assert_eq!(names, ["app-assert", "noise-numa"]);
    assert_eq!(report.status(), 2);
}

#[test]
fn a_finding_shows_what_the_text_holds() {
    let report = explain("ImportError: /x/libfoo.so: undefined symbol: _ZN3c104cuda9SetDeviceEi").report;
    assert!(
        report.findings[0].cause.contains("_ZN3c104cuda9SetDeviceEi"),
        "{}",
        report.findings[0].cause
    );
    let report = explain(
        "expecting compute 8.6 got compute 7.5, please: The engine plan file is generated on an \
        incompatible device, expecting compute 8.6 got compute 7.5, please rebuild.",
    )
    .report;
    assert!(
        report.findings[0]
            .cause
            .contains("(compute 7.5) than this one (8.6)"),
        "{}",
        report.findings[0].cause
    );
}

#[test]
fn of_a_long_text_the_end_counts() {
    let long = "\u{e4}".repeat(text::MAX);
    assert_eq!(
        explain(&format!("Error 803 {long}")).report.findings[0].check,
        &UNKNOWN
    );
    assert_eq!(
        explain(&format!("{long}x Error 803")).report.findings[0].check,
        &KNOWN
    );
}

proptest::proptest! {
    #[test]
    fn nothing_panics(text in "(?s).{0,400}") {
        let _ = explain(&text);
    }
}
