//! A container's definition, config.json: the runtime's own specification, edited.

use serde_json::{Value, json};

use crate::case::{Case, Request};

/// The search path of a hook: an engine gives it one of its own.
const HOOK_PATH: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
/// The probe's questions in every container.
const QUESTIONS: [&str; 25] = [
    "/probe",
    "--dev",
    "/dev/nvidia0",
    "--dev",
    "/dev/nvidia1",
    "--dev",
    "/dev/nvidiactl",
    "--mknod",
    "195:0",
    "--mknod",
    "195:1",
    "--mknod",
    "1:3",
    "--mknod",
    "b8:0",
    "--mknod",
    "1:6",
    "--mknod",
    "10:229",
    "--mknod",
    "240:0",
    "--cached",
    "libcuda.so.1",
    "--mounts",
    "-",
];

/// A hook of a bundle.
#[derive(Debug)]
pub(crate) struct Hook<'a> {
    pub(crate) stage: &'a str,
    pub(crate) path: &'a str,
    pub(crate) arguments: Vec<&'a str>,
}

/// The definition of a container of one case. `specification` is the output of `runc spec`.
pub(crate) fn of_case(mut specification: Value, id: &str, hook: Option<&Hook<'_>>, case: &Case) -> Value {
    let spec = &mut specification;
    let Request { env: variables, edit } = &case.request;
    let mut env = vec!["PATH=/usr/local/bin:/usr/bin:/bin"];
    env.extend(*variables);
    spec["process"]["terminal"] = json!(false);
    let mut questions = QUESTIONS.to_vec();
    for question in case.questions {
        // The case's own is not the same question twice.
        let own = question.arguments();
        if !questions.windows(2).any(|words| words == own) {
            questions.extend(own);
        }
    }
    spec["process"]["args"] = json!(questions);
    spec["process"]["env"] = json!(env);
    if let Some(sets) = spec["process"]["capabilities"].as_object_mut() {
        for set in sets.values_mut() {
            push_once(set, "CAP_MKNOD");
        }
    }
    spec["root"] = json!({"path": "rootfs", "readonly": false});
    spec["linux"]["cgroupsPath"] = json!(format!("/nvoci-test-{id}"));
    spec["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"}]);
    if let Some(hook) = hook {
        spec["hooks"] =
            json!({hook.stage: [{"path": hook.path, "args": hook.arguments, "env": [HOOK_PATH]}]});
    }
    edit(spec);
    specification
}

/// The device cgroup is not a user's to set, nor are the host's cgroups a user's to mount.
pub(crate) fn as_user(spec: &mut Value) {
    if let Some(linux) = spec["linux"].as_object_mut() {
        linux.shift_remove("cgroupsPath");
        linux.shift_remove("resources");
    }
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["type"] != "cgroup");
    }
}

/// Applies the CDI specification for the first GPU, as an engine does.
pub(crate) fn apply_cdi(spec: &mut Value, cdi: &Value) {
    let devices = cdi["devices"].as_array().into_iter().flatten();
    let first = devices.filter(|device| device["name"] == "0");
    let all = [cdi].into_iter().chain(first);
    for edits in all.map(|part| &part["containerEdits"]) {
        for variable in each(edits, "env") {
            push(&mut spec["process"]["env"], variable.clone());
        }
        for mount in each(edits, "mounts") {
            let entry = json!({"destination": mount["containerPath"], "source": mount["hostPath"], "type": "bind", "options": mount["options"]});
            push(&mut spec["mounts"], entry);
        }
        for node in each(edits, "deviceNodes") {
            let minor = node["minor"].as_u64().unwrap_or(0);
            let entry = json!({"type": "c", "path": node["path"], "major": node["major"], "minor": minor, "fileMode": node["fileMode"], "uid": 0, "gid": 0});
            push(&mut spec["linux"]["devices"], entry);
            let rule = json!({"allow": true, "type": "c", "major": node["major"], "minor": minor, "access": node["permissions"]});
            push(&mut spec["linux"]["resources"]["devices"], rule);
        }
        for hook in each(edits, "hooks") {
            let mut entry = hook.clone();
            let stage = hook["hookName"].as_str().unwrap_or_default();
            entry.as_object_mut().map(|hook| hook.shift_remove("hookName"));
            push(&mut spec["hooks"][stage], entry);
        }
    }
}

/// Puts another program in the place of the specification's hooks.
pub(crate) fn replace_hooks(spec: &mut Value, stage: &str, path: &str, arguments: &[&str]) {
    for hook in spec["hooks"][stage].as_array_mut().into_iter().flatten() {
        hook["path"] = json!(path);
        hook["args"] = json!(arguments);
    }
}

/// Appends to a list, or makes it.
pub(crate) fn push(list: &mut Value, entry: Value) {
    match list {
        Value::Array(entries) => entries.push(entry),
        other => *other = json!([entry]),
    }
}

/// Appends a word to a list that lacks it.
pub(crate) fn push_once(list: &mut Value, word: &str) {
    if list
        .as_array()
        .is_some_and(|words| words.iter().any(|w| w == word))
    {
        return;
    }
    push(list, json!(word));
}

fn each<'a>(edits: &'a Value, part: &str) -> impl Iterator<Item = &'a Value> {
    edits[part].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specification() -> Value {
        json!({"process": {"capabilities": {"bounding": ["CAP_KILL"], "permitted": ["CAP_MKNOD"]}}, "mounts": [{"type": "proc"}, {"type": "cgroup"}]})
    }

    #[test]
    fn a_container_closes_its_devices_and_calls_its_hook() {
        let hook = Hook {
            stage: "createRuntime",
            path: "/usr/bin/nvoci",
            arguments: vec!["nvoci", "hook", "createRuntime"],
        };
        let spec = of_case(specification(), "x", Some(&hook), &Case::HARMLESS);
        assert_eq!(spec["process"]["env"][1], "NVIDIA_VISIBLE_DEVICES=0");
        assert_eq!(
            spec["process"]["capabilities"]["bounding"],
            json!(["CAP_KILL", "CAP_MKNOD"])
        );
        assert_eq!(spec["process"]["capabilities"]["permitted"], json!(["CAP_MKNOD"]));
        assert_eq!(
            spec["linux"]["resources"]["devices"],
            json!([{"allow": false, "access": "rwm"}])
        );
        assert_eq!(spec["hooks"]["createRuntime"][0]["args"][2], "createRuntime");
        assert!(
            of_case(specification(), "x", None, &Case::HARMLESS)
                .get("hooks")
                .is_none()
        );
    }

    #[test]
    fn a_user_has_no_cgroups() {
        let mut spec = of_case(specification(), "x", None, &Case::HARMLESS);
        as_user(&mut spec);
        assert_eq!(spec["linux"], json!({}));
        assert_eq!(spec["mounts"], json!([{"type": "proc"}]));
    }

    #[test]
    fn cdi_gives_the_first_gpu() {
        let node = |n: u32| json!({"containerEdits": {"deviceNodes": [{"path": format!("/dev/nvidia{n}"), "major": 195, "minor": n, "permissions": "rw"}]}, "name": n.to_string()});
        let cdi = json!({
            "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/a"}], "mounts": [{"hostPath": "/h", "containerPath": "/c", "options": ["ro"]}]},
            "devices": [node(0), node(1)],
        });
        let mut spec = of_case(specification(), "x", None, &Case::HARMLESS);
        apply_cdi(&mut spec, &cdi);
        let nodes = spec["linux"]["devices"].as_array().unwrap();
        assert_eq!(nodes.len(), 1);
        assert_eq!(nodes[0]["path"], "/dev/nvidia0");
        assert_eq!(spec["linux"]["resources"]["devices"][1]["access"], "rw");
        assert_eq!(
            spec["mounts"][2],
            json!({"destination": "/c", "source": "/h", "type": "bind", "options": ["ro"]})
        );
        assert_eq!(spec["hooks"]["createContainer"], json!([{"path": "/a"}]));
        replace_hooks(&mut spec, "createContainer", "/naive", &["naive"]);
        assert_eq!(
            spec["hooks"]["createContainer"],
            json!([{"path": "/naive", "args": ["naive"]}])
        );
    }
}
