//! The effect of a container's variables on the hooks of a CDI specification.

use serde_json::json;

use super::{Bench, is_root};

/// A bundle whose process has these variables; the state that a runtime writes for it.
fn state(bench: &Bench, variables: &[&str]) -> String {
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {"env": variables},
        "root": {"path": "rootfs"},
    });
    bench.file("bundle/config.json", &config.to_string());
    json!({"ociVersion": "1.0.2", "id": "c1", "pid": 0, "bundle": bench.path("bundle")}).to_string()
}

const LIMITS: &str = "nvidia-cdi-hook apply-cuda-memory-limits --driver-root / --gpu-id GPU-1 --gpu-id=GPU-2";

/// The vendor's specifications name the hook for each GPU of each container, so it warns of a limit
/// alone.
#[test]
fn the_hook_of_memory_limits_warns_of_a_limit() {
    let bench = Bench::new();
    for variables in [
        &[][..],
        &["A=1", "NVIDIA_VISIBLE_DEVICES=void"],
        &["NVIDIA_GPU_MEMORY_LIMIT=", "NVIDIA_GPU_MEMORY_REQUEST= "],
    ] {
        let ran = bench.fed(LIMITS, &state(&bench, variables)).exits(0);
        assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""), "{variables:?}");
    }
    for name in ["NVIDIA_GPU_MEMORY_REQUEST", "NVIDIA_GPU_MEMORY_LIMIT"] {
        let set = format!("{name}=4096");
        let ran = bench.fed(LIMITS, &state(&bench, &["A=1", &set])).exits(0);
        assert!(
            ran.err.contains(name) && ran.err.contains("NVOCI-3007"),
            "{}",
            ran.err
        );
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    }
    // By its other name, and from a file.
    bench.file("state", &state(&bench, &["NVIDIA_GPU_MEMORY_LIMIT=1"]));
    let line = "nvidia-ctk hook apply-cuda-memory-limits --gpu-id=GPU-1 --container-spec @/state";
    assert!(bench.run(line).exits(0).err.contains("NVOCI-3007"));
    // A state that cannot be read leaves the limits unknown, which stops no container.
    for input in ["", "{}", r#"{"bundle":"/none"}"#] {
        let ran = bench.fed(LIMITS, input).exits(0);
        assert!(ran.err.contains("warning"), "{input}: {}", ran.err);
    }
    for bad in ["--bogus", "--gpu-id=", "word"] {
        bench.fed(&format!("{LIMITS} {bad}"), "{}").exits(1);
    }
}

/// The hook of a static specification. The container does not exist, so a hook that runs fails.
#[test]
fn a_container_turns_the_compatibility_hook_off() {
    let bench = Bench::new();
    let line = "nvidia-cdi-hook enable-cuda-compat --host-driver-version=550.163.01";
    for variables in [
        &[][..],
        &["NVOCI_CUDA_COMPAT=auto"],
        &["NVOCI_CUDA_COMPAT=bogus"],
        &["NVOCI_CUDA_COMPAT=off", "NVOCI_CUDA_COMPAT="],
    ] {
        let ran = bench.fed(line, &state(&bench, variables)).exits(1);
        assert!(!ran.err.is_empty(), "{variables:?}");
    }
    for variables in [
        &["NVOCI_CUDA_COMPAT=off"][..],
        &["NVIDIA_VISIBLE_DEVICES=void", "NVOCI_CUDA_COMPAT=off"],
    ] {
        bench.fed(line, &state(&bench, variables)).exits(0);
    }
    // Variables without an effect get a warning.
    let both = [
        "NVOCI_CUDA_COMPAT=off",
        "NVOCI_NO_CGROUPS=true",
        "NVOCI_IPC_SOCKETS=false",
    ];
    let ran = bench.fed(line, &state(&bench, &both)).exits(0);
    for name in [
        "NVOCI_NO_CGROUPS has no effect",
        "NVOCI_IPC_SOCKETS has no effect",
    ] {
        assert!(ran.err.contains(name), "{}", ran.err);
    }
    assert!(!ran.err.contains("left alone"), "{}", ran.err);
    // Every other hook runs.
    let line = "nvidia-cdi-hook update-ldcache --folder /x";
    bench
        .fed(line, &state(&bench, &["NVOCI_CUDA_COMPAT=off"]))
        .exits(1);
}

#[test]
fn config_names_the_entry_points_for_which_a_key_counts() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    bench.file("on.toml", "no-cgroups = true\n");
    bench.file("off.toml", "no-cgroups = false\n");
    bench.file("vendor.toml", "[nvidia-container-cli]\nno-cgroups = true\n");
    let note = "# no-cgroups: counts for the hook and nvidia-container-cli";
    for (file, noted) in [("on", true), ("vendor", true), ("off", false)] {
        let ran = bench
            .run(&format!("nvoci config --config @/{file}.toml"))
            .exits(0);
        assert_eq!(ran.out.contains(note), noted, "{file}: {}", ran.out);
    }
}

#[test]
fn variables_stand_for_options_of_nvidia_ctk_system() {
    let bench = Bench::new();
    let links = "nvidia-ctk system create-dev-char-symlinks --dry-run";
    for (line, variable, value) in [
        ("nvidia-ctk system create-device-nodes", "DRY_RUN", "maybe"),
        (
            "nvidia-ctk system create-device-nodes",
            "LOAD_KERNEL_MODULES",
            "maybe",
        ),
        (links, "CREATE_ALL", "maybe"),
        (links, "CREATE_DEVICE_NODES", "maybe"),
        (links, "NVIDIA_DRIVER_ROOT", "/no-such-root"),
        (links, "DRIVER_ROOT", "/no-such-root"),
        (links, "NVIDIA_DEV_ROOT", "/no-such-root"),
        (links, "DEV_ROOT", "/no-such-root"),
    ] {
        let ran = bench.run_with(line, &[(variable, value)]);
        assert_ne!(ran.status, 0, "{variable}");
        assert!(ran.err.contains(value), "{variable}: {}", ran.err);
    }
}
