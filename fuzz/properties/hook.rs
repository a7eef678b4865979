//! `nvoci plan`, `nvoci hook` and `nvoci runtime create` on a container's bundle, policy, state and
//! image.
//!
//! | part | content | default |
//! |---|---|---|
//! | 0 | config.json; with an odd first byte lines of [`definition`] | |
//! | 1 | nvoci's config.toml | nvoci's defaults |
//! | 2 | the state; `@` stands for the bundle | a plain one |
//! | 3… | files of the image: `PATH`, a line end, the content, or `PATH -> TARGET` | a loader and its configuration |

use std::fs;
use std::path::Path;

use nvoci::cmd::fuzzing;
use nvoci::cmd::runtime::Flavor;
use nvoci::config::{Config, Dialect};
use nvoci::error::Result;
use nvoci::host::Locations;
use nvoci::oci::Spec;
use nvoci::sys::root::Root;
use serde_json::{Value, json};

use crate::count::reached;
use crate::world::{self, check_error, check_text, part};

const WAYS: [&[&str]; 6] = [
    &["createContainer"],
    &["prestart"],
    &["createRuntime"],
    &["createContainer", "--devices-in-spec"],
    &["createContainer", "--devices-in-spec", "--cdi"],
    &["createRuntime", "--cdi", "--devices", "all"],
];

const CDI: &str = r#"{"cdiVersion":"0.6.0","kind":"nvidia.com/gpu","devices":[
    {"name":"0","containerEdits":{"deviceNodes":[{"path":"/dev/nvidia0","type":"c","major":195}]}},
    {"name":"all","containerEdits":{"env":["A=1"],"mounts":[{"hostPath":"/x","containerPath":"/x","options":["ro","bind"]}]}}]}"#;

/// Holds for every input. The first byte chooses the form, the second the hook's arguments.
pub(crate) fn check(input: &[u8]) {
    let Some((&[form, way], rest)) = input.split_first_chunk::<2>() else {
        return;
    };
    reached("run");
    let parts = world::parts(rest);
    let document = if form & 1 == 0 {
        parts[0].to_vec()
    } else {
        definition(&String::from_utf8_lossy(parts[0]))
    };
    let bundle = world::dir().join("bundle");
    let _ = fs::create_dir(&bundle);
    fs::write(bundle.join("config.json"), &document).expect("config.json");

    let policy = String::from_utf8_lossy(part(&parts, 1, b"")).into_owned();
    let policy = Config::parse(&policy, Path::new("/etc/nvoci/config.toml"), Dialect::Nvoci).map(simulated);
    let config = policy.clone().unwrap_or_else(|e| {
        check_error(&e);
        simulated(Config::default())
    });
    let host = host(&config);

    let json = form & 2 != 0;
    if let Some(text) = good(fuzzing::plan(&bundle, json, &config, &host)) {
        check_text(&text);
        if json {
            let shown: Value = serde_json::from_str(&text).expect("--json is JSON");
            assert!(shown["gpu"].is_boolean());
        }
        reached("plan printed");
    }
    hook(&parts, way, policy, &bundle, &host);
    runtime(&document, form, &config);
}

fn hook(parts: &[&[u8]], way: u8, policy: Result<Config>, bundle: &Path, host: &Locations) {
    let image = world::fresh("image");
    let defaults: [&[u8]; 3] = [
        b"etc/ld.so.conf\ninclude /etc/ld.so.conf.d/*.conf\n",
        b"etc/ld.so.conf.d/a.conf\n/usr/local/lib\n",
        b"lib64 -> usr/lib64",
    ];
    for part in parts.iter().skip(3).copied().chain(defaults) {
        world::make(&image, part);
    }
    for lib in [
        "usr/lib64/ld-linux-x86-64.so.2",
        "usr/lib/x86_64-linux-gnu/libc.so.6",
    ] {
        let name = lib.rsplit('/').next().unwrap_or_default();
        world::make(&image, &[lib.as_bytes(), b"\n", &world::elf(name, 64)].concat());
    }
    let Ok(root) = Root::open(&image) else { return };
    let default = br#"{"ociVersion":"1.0.2","id":"c1","status":"creating","pid":0,"bundle":"@"}"#;
    let state = String::from_utf8_lossy(part(parts, 2, default)).replace('@', &bundle.display().to_string());
    let args = WAYS[usize::from(way) % WAYS.len()];
    if let Some(Some(done)) = good(fuzzing::hook(args, state.as_bytes(), policy, host, &root)) {
        reached("accepted");
        reached(match done.cache.how {
            ldso::How::Merged => "hook: cache merged",
            ldso::How::Rebuilt { .. } => "hook: cache rebuilt",
            _ => "hook: no cache",
        });
        if done.rules > 0 {
            reached("hook: devices allowed");
        }
        if !done.findings.is_empty() {
            reached("hook: preflight finding");
        }
        for warning in &done.cache.warnings {
            check_text(warning);
        }
        for finding in &done.findings {
            check_text(&finding.to_string());
        }
    }
}

fn runtime(document: &[u8], form: u8, config: &Config) {
    let Some(spec) = good(Spec::parse(document)) else {
        return;
    };
    let flavor = [Flavor::Configured, Flavor::Cdi, Flavor::Legacy][usize::from(form >> 2) % 3];
    let host = host(config);
    let mut edited = spec.clone();
    if good(fuzzing::runtime(flavor, config, &host, &mut edited)).is_none() {
        return;
    }
    reached("runtime edited");
    if !edited.is_changed() {
        return;
    }
    reached("runtime changed");
    let text = edited.to_bytes();
    let again = Spec::parse(&text).expect("the written text can be read");
    assert_eq!(again.value(), edited.value());
    for (key, value) in spec.value() {
        if !matches!(key.as_str(), "process" | "linux" | "mounts" | "hooks") {
            assert_eq!(edited.value().get(key), Some(value));
        }
    }
    // An engine that restarts a container may pass the edited definition.
    let mut twice = again;
    if good(fuzzing::runtime(flavor, config, &host, &mut twice)).is_some() {
        assert_eq!(
            String::from_utf8_lossy(&twice.to_bytes()),
            String::from_utf8_lossy(&text)
        );
    }
}

/// The host, with a site's additional nodes.
fn host(config: &Config) -> Locations {
    Locations {
        site_devices: config.extra.iter().flat_map(|e| e.devices.clone()).collect(),
        ..world::host()
    }
}

/// The result; checks the text of an error.
fn good<T>(result: Result<T>) -> Option<T> {
    result.map_err(|e| check_error(&e)).ok()
}

/// Makes the configuration run no program and make no node; specifications are this process's own.
fn simulated(mut config: Config) -> Config {
    config.load_kmods.value = false;
    let dir = world::dir().join("cdi");
    if fs::create_dir(&dir).is_ok() {
        let _ = fs::write(dir.join("nvidia.json"), CDI);
    }
    config.cdi_spec_dirs.value = vec![dir];
    config
}

/// A definition from lines: `NAME=VALUE` a variable, `@KEY=VALUE` an annotation, `>SOURCE
/// DESTINATION` a bind mount, `+CAPABILITY`, `^PATH MAJOR MINOR` a device, `!KEY JSON` a member of
/// the document.
fn definition(lines: &str) -> Vec<u8> {
    let mut env = vec![json!("PATH=/usr/bin")];
    let mut annotations = serde_json::Map::new();
    let mut mounts = vec![json!({"destination": "/proc", "type": "proc", "source": "proc"})];
    let mut capabilities = vec![json!("CAP_CHOWN")];
    let mut devices = Vec::new();
    let mut more = serde_json::Map::new();
    for line in lines.split('\n') {
        let (kind, rest) = line.split_at_checked(1).unwrap_or(("", ""));
        let pair = |by| rest.split_once(by).unwrap_or((rest, ""));
        match kind {
            "@" => {
                let (key, value) = pair('=');
                annotations.insert(key.to_owned(), json!(value));
            }
            ">" => {
                let (source, destination) = pair(' ');
                mounts.push(json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "ro"]}));
            }
            "+" => capabilities.push(json!(rest)),
            "^" => {
                let mut words = rest.split(' ');
                let path = words.next().unwrap_or_default();
                let mut number = || words.next().and_then(|w| w.parse::<i64>().ok()).unwrap_or(0);
                devices.push(json!({"path": path, "type": "c", "major": number(), "minor": number()}));
            }
            "!" => {
                let (key, value) = pair(' ');
                if let Ok(value) = serde_json::from_str(value) {
                    more.insert(key.to_owned(), value);
                }
            }
            _ => env.push(json!(line)),
        }
    }
    let mut document = json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/", "env": env,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities}},
        "root": {"path": "rootfs"},
        "hostname": "c1",
        "mounts": mounts,
        "annotations": annotations,
        "linux": {"devices": devices, "cgroupsPath": "/c1", "namespaces": [{"type": "mount"}, {"type": "pid"}],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]}},
    });
    if let Some(object) = document.as_object_mut() {
        object.extend(more);
    }
    document.to_string().into_bytes()
}
