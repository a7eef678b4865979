//! Compares the plan of a recorded host with the vendor's tool: each missing file has a reason
//! here.

use std::collections::HashSet;
use std::path::Path;

use super::*;
use crate::cdi;
use crate::host::testhost::TestHost;
use crate::request::{EntryPoint, Inputs, parse};

/// Files of the vendor's tool that a plan does not have, each with the reason.
const NOT_OURS: &[(&str, &str)] = &[
    (
        "env NVIDIA_CTK_LIBCUDA_DIR",
        "tells the vendor's own hooks where libcuda is; ours builds the directory",
    ),
    (
        "env NVIDIA_VISIBLE_DEVICES=void",
        "keeps a second tool from injecting; the record in the driver directory does",
    ),
    (
        "hook enable-cuda-compat",
        "`cuda-compat`: decided by the hook in the container",
    ),
    (
        "hook update-ldcache",
        "the loader's cache is what the hook writes last",
    ),
    ("hook create-symlinks", "its links are compared one by one"),
];

#[allow(clippy::too_many_lines)] // one comparison
#[test]
fn nothing_that_the_vendor_gives_is_missing() {
    let host = TestHost::recorded("h100-580");
    let nodes = [
        ("nvidia0", 195, 0),
        ("nvidiactl", 195, 255),
        ("nvidia-uvm", 238, 0),
        ("nvidia-uvm-tools", 238, 1),
    ];
    if !nodes
        .iter()
        .all(|(n, major, minor)| host.device(n, *major, *minor, 0o666))
    {
        return;
    }
    let env = [
        ("NVIDIA_VISIBLE_DEVICES", "all"),
        ("NVIDIA_DRIVER_CAPABILITIES", "all"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()));
    let inputs = Inputs {
        env: &env,
        annotations: &[],
        mounts: &[],
        privileged: false,
        entry: EntryPoint::Hook,
    };
    let config = Config::default();
    let request = parse(&inputs, &config).unwrap();
    let plan = plan(&request, &host.discover(), &config).unwrap();

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cdi/vendor/h100-nvml.yaml");
    let bytes = std::fs::read(path).unwrap();
    let theirs = cdi::read::parse(
        &bytes,
        cdi::read::Format::Yaml,
        path,
        &crate::sys::budget::Budget::default(),
    )
    .unwrap();
    let mut used = HashSet::new();
    let mut excused = |what: &str| {
        let row = NOT_OURS.iter().find(|(name, _)| what.starts_with(name));
        row.is_some_and(|(name, _)| {
            used.insert(*name);
            true
        })
    };
    let mut missing = Vec::new();
    let mut compared = 0;

    let all = theirs.devices.iter().find(|d| d.name == "all").unwrap();
    for edits in [&theirs.edits, &all.edits] {
        for node in &edits.device_nodes {
            compared += 1;
            if !plan.devices.iter().any(|d| d.path == Path::new(&node.path)) {
                missing.push(format!("node {}", node.path));
            }
        }
        for mount in &edits.mounts {
            compared += 1;
            let name = Path::new(&mount.container_path)
                .file_name()
                .unwrap()
                .to_str()
                .unwrap();
            let file = plan.files.iter().any(|f| f.name == name);
            // Its readers find it at the same path or through the loader.
            let text = plan.texts.iter().any(|t| t.at.ends_with(name));
            let place = plan
                .rootfs_links
                .iter()
                .any(|l| l.at == LinkAt::Path((&mount.container_path).into()));
            let loader =
                name.contains(".so.") || mount.container_path.contains("/bin/") || name.starts_with("gsp_");
            if !(file || text) || !(place || loader) {
                missing.push(format!("file {}", mount.container_path));
            }
        }
        for hook in &edits.hooks {
            let name = &hook.args[1];
            let done = match name.as_str() {
                "disable-device-node-modification" => plan
                    .params
                    .as_ref()
                    .is_some_and(|p| String::from_utf8_lossy(p).contains("ModifyDeviceFiles: 0")),
                "update-application-profile" => plan
                    .texts
                    .iter()
                    .any(|t| t.text.contains("EGLVisibleDGPUDevices\",0x1")),
                _ => excused(&format!("hook {name}")),
            };
            if !done {
                missing.push(format!("hook {name}"));
            }
            for link in hook.args.iter().filter_map(|a| a.split_once("::")) {
                compared += 1;
                let at = Path::new(link.1).strip_prefix("/usr/local/nvidia").unwrap();
                let ours = plan.links.iter().find(|l| l.at == at);
                // To the same file, perhaps through another link.
                let stem = |t: &Path| {
                    t.file_name()
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .split(".so")
                        .next()
                        .unwrap()
                        .to_owned()
                };
                if ours.is_none_or(|l| stem(&l.target) != stem(Path::new(link.0))) {
                    missing.push(format!("link {} -> {}", link.1, link.0));
                }
            }
        }
        for env in &edits.env {
            if !excused(&format!("env {env}")) {
                missing.push(format!("env {env}"));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
    assert!(compared > 80, "only {compared} things were compared");
    for (name, reason) in NOT_OURS {
        assert!(
            used.contains(name),
            "the vendor no longer has `{name}` ({reason})"
        );
    }
}
