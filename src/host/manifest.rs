//! Adapts manifests, the small files in which loaders (of Vulkan, EGL, OpenCL) find the driver's
//! libraries.
//!
//! Some distributions, such as NixOS, write a library's path on the host into them, which a
//! container does not have. In a container the loader finds the driver's libraries first by soname,
//! so nvoci keeps only the name.
//!
//! Formats: "Vulkan Loader and Driver Interface", libglvnd's `EGL/icd_enumeration.md`, the external
//! platform interface of `eglexternalplatform`, and the OpenCL extension `cl_khr_icd`.

use serde_json::Value;

use super::ConfigKind;

/// Larger files are not manifests; NVIDIA's have 2 kB at most.
const MAX: u64 = 64 * 1024;

/// The manifest's content for a container, if it differs from the host's.
///
/// Vulkan's driver manifest is always returned, since its final content also depends on the
/// container.
pub(super) fn rewritten(
    kind: ConfigKind,
    read: impl FnOnce(u64) -> std::io::Result<Vec<u8>>,
) -> Option<String> {
    let json = match kind {
        ConfigKind::EglVendor
        | ConfigKind::EglExternalPlatform
        | ConfigKind::VulkanIcd
        | ConfigKind::VulkanImplicitLayer => true,
        ConfigKind::OpenClIcd => false,
        _ => return None,
    };
    let text = String::from_utf8(read(MAX).ok()?).ok()?;
    if json {
        in_json(&text).or_else(|| (kind == ConfigKind::VulkanIcd).then_some(text))
    } else {
        text.contains('/').then(|| in_lines(&text))
    }
}

/// Removes directories from `library_path` in JSON; `None` if that changes nothing.
fn in_json(text: &str) -> Option<String> {
    let mut value: Value = serde_json::from_str(text).ok()?;
    let mut changed = false;
    shorten(&mut value, &mut changed);
    changed.then(|| format!("{value:#}\n"))
}

fn shorten(value: &mut Value, changed: &mut bool) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(path) if key == "library_path" && path.contains('/') => {
                        *path = base(path).to_owned();
                        *changed = true;
                    }
                    other => shorten(other, changed),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|v| shorten(v, changed)),
        _ => {}
    }
}

fn in_lines(text: &str) -> String {
    text.lines()
        .map(|line| format!("{}\n", base(line.trim())))
        .collect()
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_host_become_names() {
        let icd = r#"{"file_format_version":"1.0.0","ICD":{"library_path":"/run/opengl-driver/lib/libGLX_nvidia.so.0","api_version":"1.3.277"}}"#;
        let new = in_json(icd).unwrap();
        assert!(new.contains(r#""library_path": "libGLX_nvidia.so.0""#), "{new}");
        assert!(new.contains("1.3.277"));
        let layers = r#"{"layers":[{"library_path":"./libGLX_nvidia.so.0","functions":{"a":"b/c"}},{"library_path":"libx.so"}]}"#;
        let new = in_json(layers).unwrap();
        assert!(new.contains(r#""library_path": "libGLX_nvidia.so.0""#), "{new}");
        assert!(new.contains("b/c"), "only library paths: {new}");
        assert_eq!(
            in_lines("/opt/lib/libnvidia-opencl.so.1\n"),
            "libnvidia-opencl.so.1\n"
        );
    }

    #[test]
    fn a_correct_manifest_is_not_changed() {
        assert!(in_json(r#"{"ICD":{"library_path":"libEGL_nvidia.so.0"}}"#).is_none());
        assert!(in_json("no json").is_none());
    }
}
