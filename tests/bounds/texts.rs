//! Dockerfiles, Compose files, specifications, definitions, configuration and loader caches.

use crate::{TEXT, run};

/// 40,000 variables and 20,000 annotations: what crashed an allocator of our own.
#[test]
fn a_definition_of_many_small_values() {
    let dir = tempfile::tempdir().unwrap();
    let mut env: Vec<String> = (0..40_000).map(|n| format!("\"A{n}={n}\"")).collect();
    env.push("\"NVIDIA_VISIBLE_DEVICES=all\"".to_owned());
    let annotations: Vec<String> = (0..20_000).map(|n| format!("\"a{n}\":\"{n}\"")).collect();
    let text = format!(
        "{{\"ociVersion\":\"1.0.2\",\"process\":{{\"env\":[{}]}},\"annotations\":{{{}}},\"root\":{{\"path\":\"rootfs\"}}}}",
        env.join(","),
        annotations.join(",")
    );
    std::fs::write(dir.path().join("config.json"), text).unwrap();
    // What is left is a machine without a driver.
    let output = run(TEXT, &["plan".as_ref(), dir.path().as_os_str()], None);
    assert!(matches!(output.status.code(), Some(0 | 11)), "{output:?}");
}
