//! `nvoci list [--json]`: prints the host's driver, GPUs, nodes and files.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::cli::{Command, Page, flag};
use crate::error::{Escaped, Result};
use crate::host::{Bits, FileKind, Gpu, Host, NodeKind, Roots, Wsl};
use crate::vocabulary::or_empty;

/// The value is whether to print JSON.
pub(super) static COMMAND: Command<bool> = Command {
    page: Page {
        name: "nvoci list",
        summary: "show what this host has: driver, GPUs, device nodes, libraries",
        about: &[
            "Shows what the host has: the driver, its GPUs and MIG devices, device nodes and files. \
                  A host without a driver is no error.",
        ],
        ..Page::EMPTY
    },
    flags: &[flag("json", "print one JSON document, with stable keys").switch(|json| *json = true)],
    ..Command::of(run)
};

fn run(as_json: bool) -> Result<ExitCode> {
    let locations = super::locations(&*super::load_config(None)?);
    let host = Host::discover(&Roots::open(&locations)?, &locations)?;
    if as_json {
        super::print(&format!("{:#}\n", json(&host)))?;
    } else {
        super::print(&table(&host))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The host as JSON. Keys are only ever added.
pub fn json(host: &Host) -> Value {
    let gpus: Vec<Value> = host
        .gpus
        .iter()
        .map(|g| {
            let mig: Vec<Value> = g
                .mig_devices
                .iter()
                .map(|m| {
                    json!({
                        "index": m.index, "gpu_instance": m.gi, "compute_instance": m.ci,
                        "gpu_instance_minor": m.gi_minor, "compute_instance_minor": m.ci_minor,
                    })
                })
                .collect();
            json!({
                "index": g.index, "minor": g.minor, "uuid": or_empty(g.uuid), "pci": g.pci.to_string(),
                "name": g.name, "excluded": g.excluded, "mig": mig,
            })
        })
        .collect();
    let nodes: Vec<Value> = host
        .nodes
        .iter()
        .map(|n| {
            json!({
                "path": n.path.to_string_lossy(), "kind": node_kind(n.kind), "major": n.number.major,
                "minor": n.number.minor, "mode": format!("{:04o}", n.mode), "uid": n.uid, "gid": n.gid,
                "present": n.present,
                "links": n.links.iter().map(|l| l.to_string_lossy()).collect::<Vec<_>>(),
            })
        })
        .collect();
    let files: Vec<Value> = host
        .files
        .iter()
        .map(|f| {
            let mut value =
                json!({ "kind": file_kind(&f.kind), "name": f.name, "path": f.path.to_string_lossy() });
            if let FileKind::Library { soname, bits, .. } = &f.kind {
                value["soname"] = json!(soname);
                value["bits"] = json!(match bits {
                    Bits::B64 => 64,
                    Bits::B32 => 32,
                });
            }
            value
        })
        .collect();
    json!({
        "platform": host.platform.name(),
        "kernel_module": host.kernel.as_ref().map(|k| json!({ "version": k.version, "open": k.open })),
        "library_version": host.user_version,
        "usable": host.check_versions().is_ok(),
        "problem": host.check_versions().err().map(|e| e.to_string()),
        "gpus": gpus,
        "wsl": host.wsl.as_ref().map(wsl_json),
        "nodes": nodes,
        "files": files,
        "warnings": host.warnings,
    })
}

fn wsl_json(wsl: &Wsl) -> Value {
    let adapters: Vec<Value> = wsl
        .adapters
        .iter()
        .map(|a| {
            json!({
                "vendor": a.ids.map(|(vendor, _)| format!("{vendor:04x}")),
                "device": a.ids.map(|(_, device)| format!("{device:04x}")),
                "wddm": a.wddm,
                "driver": a.driver.map(dotted),
                "store": a.store.as_ref().map(|s| s.to_string_lossy()),
                "nvidia": a.nvidia,
            })
        })
        .collect();
    json!({
        "driver_version": wsl.version(),
        "adapters": adapters,
        "stores": wsl.stores.iter().map(|s| s.to_string_lossy()).collect::<Vec<_>>(),
        "guessed": wsl.guessed,
        "docker_desktop": wsl.docker_desktop,
    })
}

fn dotted(version: [u16; 4]) -> String {
    version.map(|part| part.to_string()).join(".")
}

fn wsl_rows(wsl: &Wsl) -> Vec<String> {
    let mut rows = vec![format!(
        "Windows driver  {}",
        wsl.version()
            .map_or_else(|| "not known".to_owned(), |v| v.to_string())
    )];
    for adapter in &wsl.adapters {
        let store = adapter.store.as_ref().map(|s| s.display().to_string());
        rows.push(format!(
            "adapter         {:<18} {}",
            adapter.to_string(),
            store.as_deref().unwrap_or("no driver package")
        ));
    }
    if wsl.guessed {
        rows.extend(
            wsl.stores
                .iter()
                .map(|s| format!("package (guess) {}", s.display())),
        );
    }
    if wsl.docker_desktop {
        rows.push(
            "Docker Desktop  its engine runs in a distribution of its own and brings its own GPU support; \
             nvoci serves engines that run in this one"
                .to_owned(),
        );
    }
    rows
}

/// The host for a person.
fn table(host: &Host) -> String {
    let mut lines = Vec::new();
    lines.push(format!("platform        {}", host.platform.name()));
    if let Some(wsl) = &host.wsl {
        lines.extend(wsl_rows(wsl));
    } else {
        let kernel = host.kernel.as_ref().map_or_else(
            || "none".to_owned(),
            |k| format!("{} ({})", k.version, if k.open { "open" } else { "proprietary" }),
        );
        lines.push(format!("kernel module   {kernel}"));
        lines.push(format!(
            "libraries       {}",
            host.user_version
                .map_or_else(|| "none".to_owned(), |v| v.to_string())
        ));
    }
    if let Err(e) = host.check_versions() {
        lines.push(format!("problem         {e}"));
    }
    if !host.gpus.is_empty() {
        lines.push(String::new());
        lines.extend(gpu_rows(&host.gpus));
    }
    if !host.nodes.is_empty() {
        lines.push(String::new());
        lines.push("DEVICE NODE                              NUMBER     MODE".to_owned());
        for node in &host.nodes {
            lines.push(format!(
                "{:<40} {:<10} {:04o}{}",
                node.path.display(),
                node.number.to_string(),
                node.mode,
                if node.present { "" } else { "  missing" }
            ));
        }
    }
    if !host.files.is_empty() {
        lines.push(String::new());
        lines.push("KIND        FILE".to_owned());
        for file in &host.files {
            lines.push(format!("{:<11} {}", file_kind(&file.kind), file.path.display()));
        }
    }
    if !host.warnings.is_empty() {
        lines.push(String::new());
        lines.extend(host.warnings.iter().map(|w| format!("warning: {w}")));
    }
    lines.iter().fold(String::new(), |text, line| {
        text + &Escaped(line).to_string() + "\n"
    })
}

fn gpu_rows(gpus: &[Gpu]) -> Vec<String> {
    let mut rows =
        vec!["GPU   MINOR  PCI ADDRESS   UUID                                      NAME".to_owned()];
    for gpu in gpus {
        let index = if gpu.excluded {
            "-".to_owned()
        } else {
            gpu.index.to_string()
        };
        rows.push(format!(
            "{index:<5} {:<6} {:<13} {:<41} {}{}",
            gpu.minor,
            gpu.pci.to_string(),
            gpu.uuid
                .map_or_else(|| "not known yet".to_owned(), |uuid| uuid.to_string()),
            gpu.name,
            if gpu.excluded { " (excluded)" } else { "" },
        ));
        for mig in &gpu.mig_devices {
            rows.push(format!(
                "{:<5} MIG: GPU instance {}, compute instance {}",
                format!("{}:{}", gpu.index, mig.index),
                mig.gi,
                mig.ci
            ));
        }
    }
    rows
}

fn node_kind(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Ctl => "control",
        NodeKind::Gpu(_) => "gpu",
        NodeKind::Uvm => "uvm",
        NodeKind::UvmTools => "uvm-tools",
        NodeKind::Modeset => "modeset",
        NodeKind::Cap(_) => "capability",
        NodeKind::ImexChannel(_) => "imex-channel",
        NodeKind::NvSwitchCtl => "nvswitch-control",
        NodeKind::NvSwitch(_) => "nvswitch",
        NodeKind::Nvlink => "nvlink",
        NodeKind::Dri { render: true, .. } => "dri-render",
        NodeKind::Dri { render: false, .. } => "dri-card",
        NodeKind::NvidiaFs(_) => "nvidia-fs",
        NodeKind::Gdrdrv => "gdrdrv",
        NodeKind::Uverbs(_) => "uverbs",
        NodeKind::RdmaCm => "rdma-cm",
        NodeKind::Dxg => "dxg",
        NodeKind::Site => "site",
    }
}

fn file_kind(kind: &FileKind) -> &'static str {
    match kind {
        FileKind::Library { bits: Bits::B64, .. } => "library",
        FileKind::Library { bits: Bits::B32, .. } => "library32",
        FileKind::Binary => "program",
        FileKind::Firmware => "firmware",
        FileKind::Config(_) => "config",
        FileKind::Pipes(_) | FileKind::Socket => "socket",
        FileKind::Directory => "directory",
        FileKind::Data => "data",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testhost::TestHost;
    use crate::schema::Schema;

    #[test]
    fn an_h100_in_both_forms() {
        let host = TestHost::recorded("h100-580").discover();
        let text = table(&host);
        assert!(
            text.contains("0     0      0000:00:06.0  GPU-fff409e8-6d09-4804-74aa-d9624af686c0  NVIDIA H100"),
            "{text}"
        );
        assert!(text.contains("/dev/nvidia-uvm                          238:0      0666  missing"));
        let json = json(&host);
        Schema::read("list.json").assert_valid(&json);
        assert_eq!(json["gpus"][0]["pci"], "0000:00:06.0");
        assert_eq!(json["usable"], true);
        assert_eq!(json["kernel_module"]["version"], "580.159.04");
    }

    #[test]
    fn a_machine_without_a_driver_is_listed_as_such() {
        let host = TestHost::bare().discover();
        let text = table(&host);
        assert!(text.starts_with("platform        none\n"), "{text}");
        assert!(text.contains("[NVOCI-2001]"));
        assert_eq!(json(&host)["gpus"], serde_json::json!([]));
        Schema::read("list.json").assert_valid(&json(&host));
    }

    #[test]
    fn wsl_without_a_device_names_a_fix() {
        let machine = TestHost::bare();
        machine.file(
            "proc/sys/kernel/osrelease",
            "5.15.153.1-microsoft-standard-WSL2\n",
        );
        machine.file("mnt/wsl/docker-desktop/x", "");
        let host = machine.discover();
        let text = table(&host);
        assert!(text.starts_with("platform        wsl2\nWindows driver  not known\nDocker Desktop  "));
        assert!(
            text.contains("wsl --update") && text.contains("[NVOCI-2005]"),
            "{text}"
        );
        Schema::read("list.json").assert_valid(&json(&host));
        assert_eq!(json(&host)["wsl"]["docker_desktop"], true);
        assert_eq!(json(&host)["usable"], false);
    }

    #[test]
    fn nothing_of_the_host_reaches_the_terminal_raw() {
        let mut host = TestHost::recorded("h100-580").discover();
        host.gpus[0].name = "evil \u{1b}[2J".into();
        assert!(!table(&host).contains('\u{1b}'));
    }

    #[test]
    fn unknown_arguments_are_refused() {
        let e = COMMAND.parse(["--jsn".into()]).unwrap_err();
        assert_eq!(
            e.to_string(),
            "nvoci list: there is no option `--jsn`; fix: did you mean `--json`? `nvoci list --help` lists all \
             [NVOCI-1001]"
        );
    }
}
