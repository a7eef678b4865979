//! `nvidia-container-cli list` and `info`: the host's devices and files, in the form that callers
//! parse.

use core::fmt::Write as _;
use std::path::Path;

use super::options::{FIRMWARE, List, Wish};
use crate::compat::gpu::sm_of_name;
use crate::config::Config;
use crate::error::Result;
use crate::host::{Bits, DriverFile, FileKind, Gpu, Host, NodeKind};
use crate::plan::{Plan, plan};
use crate::request::{self, Capabilities, DeviceRequest, EntryPoint, Inputs, Request};
use crate::vocabulary::or_empty;

/// Host paths, one a line, in libnvidia-container's order: devices, binaries, libraries, 32-bit
/// libraries, sockets, firmware.
pub(super) fn list(host: &Host, config: &Config, list: &List) -> Result<String> {
    let mut paths = Vec::new();
    let request = request(&list.wish, Capabilities::ALL, &[], config)?;
    let named = list.wish.device_list() != "none" || !list.wish.imex_channels.is_empty();
    if named || request.mig_config || request.mig_monitor {
        paths.extend(device_paths(host, &plan(&request, host, config)?));
    }
    let library =
        |bits| move |f: &&DriverFile| matches!(&f.kind, FileKind::Library { bits: b, .. } if *b == bits);
    let of = |wanted: &dyn Fn(&&DriverFile) -> bool| -> Vec<String> {
        let wanted = host
            .files
            .iter()
            .filter(|f| wanted(f) && !list.wish.without.contains(&f.name.as_str()));
        wanted.map(|f| on_host(&config.driver_root, &f.path)).collect()
    };
    if list.binaries {
        paths.extend(of(&|f| f.kind == FileKind::Binary));
    }
    if list.libraries {
        paths.extend(of(&library(Bits::B64)));
    }
    if list.libraries && list.wish.compat32 {
        paths.extend(of(&library(Bits::B32)));
    }
    if list.ipcs {
        paths.extend(of(&|f| matches!(f.kind, FileKind::Pipes(_) | FileKind::Socket)));
    }
    if list.firmwares && !list.wish.without.contains(&FIRMWARE) {
        paths.extend(of(&|f| f.kind == FileKind::Firmware));
    }
    Ok(paths.into_iter().map(|path| path + "\n").collect())
}

/// Control nodes first, then GPUs, then capabilities and channels.
fn device_paths(host: &Host, plan: &Plan) -> Vec<String> {
    let rank = |path: &Path| match host.nodes.iter().find(|n| n.path == path).map(|n| n.kind) {
        Some(NodeKind::Ctl | NodeKind::Dxg) => 0,
        Some(NodeKind::Uvm) => 1,
        Some(NodeKind::UvmTools) => 2,
        Some(NodeKind::Modeset) => 3,
        Some(NodeKind::Gpu(_)) => 4,
        Some(NodeKind::Cap(_)) => 5,
        Some(NodeKind::ImexChannel(_)) => 6,
        _ => 7,
    };
    let mut devices: Vec<&Path> = plan.devices.iter().map(|d| d.path.as_path()).collect();
    devices.sort_by_key(|path| rank(path));
    devices
        .into_iter()
        .map(|path| path.display().to_string())
        .collect()
}

fn on_host(driver_root: &Path, path: &Path) -> String {
    driver_root
        .join(path.strip_prefix("/").unwrap_or(path))
        .display()
        .to_string()
}

/// The request of the command line. The caller is an engine, so it is granted.
pub(super) fn request(
    wish: &Wish,
    capabilities: Capabilities,
    requirements: &[String],
    config: &Config,
) -> Result<Request> {
    let mut env = vec![("NVIDIA_VISIBLE_DEVICES".to_owned(), wish.device_list())];
    for (name, value) in [
        ("NVIDIA_MIG_CONFIG_DEVICES", &wish.mig_config),
        ("NVIDIA_MIG_MONITOR_DEVICES", &wish.mig_monitor),
    ] {
        env.extend(value.clone().map(|value| (name.to_owned(), value)));
    }
    if !wish.imex_channels.is_empty() {
        env.push(("NVIDIA_IMEX_CHANNELS".to_owned(), wish.imex_channels.join(",")));
    }
    for (i, requirement) in requirements.iter().enumerate() {
        env.push((format!("NVIDIA_REQUIRE_{i}"), requirement.clone()));
    }
    let inputs = Inputs {
        env: &env,
        annotations: &[],
        mounts: &[],
        privileged: true,
        entry: EntryPoint::Hook,
    };
    let mut request = request::parse(&inputs, config)?;
    if request.devices != DeviceRequest::Void {
        request::check_supported(capabilities, *config.supported_driver_capabilities)?;
    }
    // No option means no capability, not the default ones.
    request.capabilities = capabilities;
    Ok(request)
}

/// Driver and GPUs.
pub(super) fn info(host: &Host, csv: bool) -> String {
    let driver = or_empty(host.driver_version());
    let cuda = host
        .cuda()
        .map_or_else(|| "Unknown".to_owned(), |known| known.cuda.to_string());
    let mut out = String::new();
    let rows: Vec<[String; 7]> = host.usable_gpus().map(row).collect();
    if csv {
        let _ = writeln!(
            out,
            "NVRM version,CUDA version\n{driver},{cuda}\n\n{}",
            LABELS.join(",")
        );
        for row in rows {
            let _ = writeln!(out, "{}", row.join(","));
        }
        return out;
    }
    let _ = writeln!(
        out,
        "{:<15} {driver}\n{:<15} {cuda}",
        "NVRM version:", "CUDA version:"
    );
    for row in rows {
        out.push('\n');
        for (label, value) in LABELS.iter().zip(row) {
            let _ = writeln!(out, "{:<15} {value}", format!("{label}:"));
        }
    }
    out
}

const LABELS: [&str; 7] = [
    "Device Index",
    "Device Minor",
    "Model",
    "Brand",
    "GPU UUID",
    "Bus Location",
    "Architecture",
];

fn row(gpu: &Gpu) -> [String; 7] {
    [
        gpu.index.to_string(),
        gpu.minor.to_string(),
        gpu.name.clone(),
        brand(&gpu.name).to_owned(),
        or_empty(gpu.uuid),
        gpu.pci.nvml(),
        sm_of_name(&gpu.name).map_or_else(
            || "Unknown".to_owned(),
            |sm| format!("{}.{}", sm.number() / 10, sm.number() % 10),
        ),
    ]
}

/// Brands by product name, the longest first. The driver's library would be more exact, but nvoci
/// does not load it.
const BRANDS: &[(&str, &str)] = &[
    ("geforce rtx", "GeForceRTX"),
    ("geforce", "GeForce"),
    ("titan rtx", "TitanRTX"),
    ("titan", "TITAN"),
    ("quadro rtx", "QuadroRTX"),
    ("quadro", "Quadro"),
    ("tesla", "Tesla"),
    ("grid", "GRID"),
    ("nvs", "NVS"),
    ("rtx", "NvidiaRTX"),
    ("nvidia", "Nvidia"),
];

fn brand(name: &str) -> &'static str {
    let name = name.to_ascii_lowercase();
    BRANDS
        .iter()
        .find(|(part, _)| name.contains(part))
        .map_or("Unknown", |(_, brand)| *brand)
}
