//! The rules of CDI's own schema and validation, as good and bad specifications against
//! `nvoci cdi check`.
//!
//! CDI's repository has such specifications in `schema/testdata/good` and `bad`, and rules beside
//! the schema in `pkg/cdi`. These are our own, one for each rule, and the rule is the case's name.

use super::Bench;

/// A specification of one device, with `edits` as the device's edits.
fn device(version: &str, edits: &str) -> String {
    format!(
        r#"{{"cdiVersion":"{version}","kind":"vendor.com/device","devices":[{{"name":"dev","containerEdits":{{{edits}}}}}]}}"#
    )
}

/// A specification with `edits` for every device.
fn common(version: &str, edits: &str) -> String {
    format!(
        r#"{{"cdiVersion":"{version}","kind":"vendor.com/device","devices":[{{"name":"dev","containerEdits":{{"env":["A=1"]}}}}],"containerEdits":{{{edits}}}}}"#
    )
}

/// A specification of this kind, with `devices`.
fn whole(version: &str, kind: &str, devices: &str) -> String {
    format!(r#"{{"cdiVersion":"{version}","kind":"{kind}","devices":[{devices}]}}"#)
}

const ENV: &str = r#""env":["A=1"]"#;
const DEV: &str = r#"{"name":"dev","containerEdits":{"env":["A=1"]}}"#;

/// Their nodes, mounts and hooks exist: `check` also compares with the host.
fn good() -> Vec<(&'static str, String)> {
    let two = format!(r#"{DEV},{{"name":"other","containerEdits":{{"env":["A=2"]}}}}"#);
    let annotated = r#"{"name":"dev","annotations":{"vendor.com/a":"1"},"containerEdits":{"env":["A=1"]}}"#;
    vec![
        ("the smallest specification", device("0.3.0", ENV)),
        ("a version with `v`", device("v0.3.0", ENV)),
        ("each known version: 0.4.0", device("0.4.0", ENV)),
        ("each known version: 0.5.0", device("0.5.0", ENV)),
        ("each known version: 0.6.0", device("0.6.0", ENV)),
        ("each known version: 0.7.0", device("0.7.0", ENV)),
        ("each known version: 0.8.0", device("0.8.0", ENV)),
        ("each known version: 1.0.0", device("1.0.0", ENV)),
        ("several devices", whole("0.3.0", "vendor.com/device", &two)),
        (
            "a variable with an empty value",
            device("0.3.0", r#""env":["A="]"#),
        ),
        (
            "a variable whose value has `=`",
            device("0.3.0", r#""env":["A=b=c"]"#),
        ),
        (
            "a node with a path alone",
            device("0.3.0", r#""deviceNodes":[{"path":"/dev/null"}]"#),
        ),
        (
            "a node with every field",
            device(
                "0.5.0",
                r#""deviceNodes":[{"path":"/dev/null","hostPath":"/dev/zero","type":"c","major":1,"minor":5,"fileMode":384,"permissions":"rw","uid":1,"gid":2}]"#,
            ),
        ),
        (
            "a node of type b, u, p or none",
            device(
                "0.3.0",
                r#""deviceNodes":[{"path":"/dev/null","type":"b"},{"path":"/dev/zero","type":"u"},{"path":"/dev/full","type":"p"},{"path":"/dev/tty","type":""}]"#,
            ),
        ),
        (
            "a mount without options",
            device("0.3.0", r#""mounts":[{"hostPath":"/etc","containerPath":"/b"}]"#),
        ),
        (
            "a mount with options and a type",
            device(
                "0.4.0",
                r#""mounts":[{"hostPath":"tmpfs","containerPath":"/b","type":"tmpfs","options":["ro","nosuid"]}]"#,
            ),
        ),
        (
            "a hook of each stage",
            device(
                "0.3.0",
                r#""hooks":[{"hookName":"prestart","path":"/usr/bin/env"},{"hookName":"createRuntime","path":"/usr/bin/env"},{"hookName":"createContainer","path":"/usr/bin/env"},{"hookName":"startContainer","path":"/usr/bin/env"},{"hookName":"poststart","path":"/usr/bin/env"},{"hookName":"poststop","path":"/usr/bin/env"}]"#,
            ),
        ),
        (
            "a hook with arguments, environment and timeout",
            device(
                "0.3.0",
                r#""hooks":[{"hookName":"prestart","path":"/usr/bin/env","args":["h","x"],"env":["A=1"],"timeout":10}]"#,
            ),
        ),
        (
            "edits for every device",
            common("0.3.0", r#""deviceNodes":[{"path":"/dev/null"}]"#),
        ),
        (
            "annotations of a device",
            whole("0.6.0", "vendor.com/device", annotated),
        ),
        ("a class with a dot", whole("0.6.0", "vendor.com/a.b", DEV)),
        (
            "a device name that begins with a digit",
            whole("0.5.0", "vendor.com/device", &DEV.replace("dev", "0")),
        ),
        (
            "supplementary groups",
            device("0.7.0", r#""additionalGids":[44]"#),
        ),
        (
            "a class of service",
            device(
                "0.7.0",
                r#""intelRdt":{"closID":"a","l3CacheSchema":"L3:0=f","memBwSchema":"MB:0=10"}"#,
            ),
        ),
        (
            "a network device",
            device(
                "1.1.0",
                r#""netDevices":[{"hostInterfaceName":"eth1","name":"net0"}]"#,
            ),
        ),
    ]
}

/// A device with `fields` as its one node, mount or hook.
fn one(list: &str, fields: &str) -> String {
    device("1.1.0", &format!(r#""{list}":[{{{fields}}}]"#))
}

fn bad() -> Vec<(&'static str, String)> {
    [bad_documents(), bad_names(), bad_edits(), bad_versions()].concat()
}

fn bad_documents() -> Vec<(&'static str, String)> {
    vec![
        ("the document is empty", String::new()),
        ("the document is an empty object", "{}".to_owned()),
        ("the document is a list", "[]".to_owned()),
        ("the document is not JSON", "{".to_owned()),
        (
            "the version is missing",
            format!(r#"{{"kind":"vendor.com/device","devices":[{DEV}]}}"#),
        ),
        ("the version is empty", device("", ENV)),
        (
            "the version is no text",
            device("0.3.0", ENV).replace("\"0.3.0\"", "0.3"),
        ),
        ("the version has two parts", device("0.3", ENV)),
        ("the version is older than readers take", device("0.2.0", ENV)),
        // 1.2.0 has rules of the device cgroup, and nodes whose path is a pattern. No engine in
        // docs/facts reads it.
        ("the version is not known to readers", device("1.2.0", ENV)),
        ("the version is not known to readers, 9.9.9", device("9.9.9", ENV)),
        (
            "the kind is missing",
            format!(r#"{{"cdiVersion":"0.3.0","devices":[{DEV}]}}"#),
        ),
    ]
}

fn bad_names() -> Vec<(&'static str, String)> {
    let kind = |kind: &str| whole("1.1.0", kind, DEV);
    let named = |name: &str| whole("1.1.0", "vendor.com/device", &DEV.replace("dev", name));
    vec![
        ("the kind is empty", kind("")),
        ("the kind has no vendor", kind("/device")),
        ("the kind has no class", kind("vendor.com/")),
        ("the kind has no slash", kind("vendor.com")),
        ("the kind has two slashes", kind("vendor.com/a/b")),
        (
            "the kind has a character that is not allowed",
            kind("vendor.com/dev$ice"),
        ),
        ("the kind begins with a digit", kind("0vendor.com/device")),
        (
            "the devices are missing",
            r#"{"cdiVersion":"0.3.0","kind":"vendor.com/device"}"#.to_owned(),
        ),
        (
            "the list of devices is empty",
            whole("0.3.0", "vendor.com/device", ""),
        ),
        (
            "the devices are no list",
            r#"{"cdiVersion":"0.3.0","kind":"vendor.com/device","devices":{}}"#.to_owned(),
        ),
        (
            "a device has no name",
            whole(
                "0.3.0",
                "vendor.com/device",
                r#"{"containerEdits":{"env":["A=1"]}}"#,
            ),
        ),
        ("a device's name is empty", named("")),
        (
            "a device's name has a character that is not allowed",
            named("a/b"),
        ),
        (
            "a device's name is no text",
            named("dev").replace("\"dev\"", "{}"),
        ),
        (
            "two devices have one name",
            whole("0.3.0", "vendor.com/device", &format!("{DEV},{DEV}")),
        ),
    ]
}

fn bad_edits() -> Vec<(&'static str, String)> {
    let edits = |edits: &str| device("1.1.0", edits);
    let node = |fields: &str| one("deviceNodes", fields);
    let mount = |fields: &str| one("mounts", fields);
    let hook = |fields: &str| one("hooks", fields);
    vec![
        (
            "a device has no edits",
            whole("0.3.0", "vendor.com/device", r#"{"name":"dev"}"#),
        ),
        ("a device's edits are empty", device("0.3.0", "")),
        (
            "a device's edits are no object",
            whole(
                "0.3.0",
                "vendor.com/device",
                r#"{"name":"dev","containerEdits":[]}"#,
            ),
        ),
        ("a key is not known", device("0.3.0", r#""env":["A=1"],"foo":1"#)),
        ("a variable is not NAME=VALUE", edits(r#""env":["A"]"#)),
        ("a variable has no name", edits(r#""env":["=1"]"#)),
        ("a variable is no text", edits(r#""env":[{}]"#)),
        ("the environment is no list", edits(r#""env":"A=1""#)),
        ("a node has no path", node(r#""hostPath":"/dev/a""#)),
        ("a node's path is empty", node(r#""path":"""#)),
        ("a node's path is no text", node(r#""path":{}"#)),
        (
            "a node's type is not known",
            node(r#""path":"/dev/a","type":"x""#),
        ),
        (
            "a node's permissions are not of rwm",
            node(r#""path":"/dev/a","permissions":"rx""#),
        ),
        (
            "a node's major is no number",
            node(r#""path":"/dev/a","major":"10""#),
        ),
        ("a node's group is negative", node(r#""path":"/dev/a","gid":-1"#)),
        ("a mount has no host path", mount(r#""containerPath":"/b""#)),
        ("a mount has no container path", mount(r#""hostPath":"/a""#)),
        (
            "a mount's host path is empty",
            mount(r#""hostPath":"","containerPath":"/b""#),
        ),
        (
            "a mount's options are no list",
            mount(r#""hostPath":"/a","containerPath":"/b","options":"ro""#),
        ),
        ("a hook has no name", hook(r#""path":"/h""#)),
        ("a hook has no path", hook(r#""hookName":"prestart""#)),
        (
            "a hook's name is no stage",
            hook(r#""hookName":"atLunch","path":"/h""#),
        ),
        (
            "a hook's path is empty",
            hook(r#""hookName":"prestart","path":"""#),
        ),
        (
            "a hook's timeout is negative",
            hook(r#""hookName":"prestart","path":"/h","timeout":-1"#),
        ),
        (
            "a hook's variable is not NAME=VALUE",
            hook(r#""hookName":"prestart","path":"/h","env":["A"]"#),
        ),
        (
            "a network device has no name",
            edits(r#""netDevices":[{"hostInterfaceName":"eth1","name":""}]"#),
        ),
        (
            "a class of service is a path",
            edits(r#""intelRdt":{"closID":"a/b"}"#),
        ),
        ("a group is no number", edits(r#""additionalGids":["video"]"#)),
        (
            "an annotation's key is not a qualified name",
            whole(
                "1.1.0",
                "vendor.com/device",
                r#"{"name":"dev","annotations":{"a b":"1"},"containerEdits":{"env":["A=1"]}}"#,
            ),
        ),
        (
            "an annotation's value is no text",
            whole(
                "1.1.0",
                "vendor.com/device",
                r#"{"name":"dev","annotations":{"a":[]},"containerEdits":{"env":["A=1"]}}"#,
            ),
        ),
    ]
}

/// Specifications with fields that are newer than the declared version.
fn bad_versions() -> Vec<(&'static str, String)> {
    vec![
        (
            "mount type, with a version before 0.4.0",
            device(
                "0.3.0",
                r#""mounts":[{"hostPath":"/a","containerPath":"/b","type":"bind"}]"#,
            ),
        ),
        (
            "hostPath of a node, with a version before 0.5.0",
            device(
                "0.4.0",
                r#""deviceNodes":[{"path":"/dev/a","hostPath":"/dev/b"}]"#,
            ),
        ),
        (
            "annotations, with a version before 0.6.0",
            whole(
                "0.5.0",
                "vendor.com/device",
                r#"{"name":"dev","annotations":{"a":"1"},"containerEdits":{"env":["A=1"]}}"#,
            ),
        ),
        (
            "supplementary groups, with a version before 0.7.0",
            device("0.6.0", r#""additionalGids":[44]"#),
        ),
        (
            "network devices, with a version before 1.1.0",
            device(
                "1.0.0",
                r#""netDevices":[{"hostInterfaceName":"eth1","name":"net0"}]"#,
            ),
        ),
        (
            "edits for every device are checked as well",
            common("1.1.0", r#""env":["A"]"#),
        ),
    ]
}

#[test]
fn good_specifications_of_cdi_are_accepted() {
    let mut refused = Vec::new();
    for (rule, text) in good() {
        let bench = Bench::new();
        bench.file("cdi/x.json", &text);
        let ran = bench.run("nvoci cdi check --spec-dir=@/cdi");
        let listed = bench.run("nvoci cdi list --spec-dir=@/cdi").exits(0).out;
        if ran.status != 0 || !listed.contains("vendor.com/") {
            refused.push(format!(
                "{rule}: {text}\n{}: {}{}{listed}",
                ran.status, ran.out, ran.err
            ));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn bad_specifications_of_cdi_are_refused() {
    let mut passed = Vec::new();
    for (rule, text) in bad() {
        let bench = Bench::new();
        bench.file("cdi/x.json", &text);
        let ran = bench.run("nvoci cdi check --spec-dir=@/cdi");
        let named = ran.out.starts_with("error: ") && ran.out.contains("/cdi/x.json");
        let listed = bench.run("nvoci cdi list --spec-dir=@/cdi").exits(0).out;
        if ran.status != 1 || !named || !listed.is_empty() {
            passed.push(format!(
                "{rule}: {text}\n{}: {}{}{listed}",
                ran.status, ran.out, ran.err
            ));
        }
    }
    assert!(passed.is_empty(), "{}", passed.join("\n"));
}

/// The same text as YAML and as JSON.
#[test]
fn the_form_of_a_specification_decides_nothing() {
    for (rule, text) in good().into_iter().chain(bad()) {
        let bench = Bench::new();
        bench.file("json/x.json", &text);
        bench.file("yaml/x.yaml", &text);
        let run = |form: &str| bench.run(&format!("nvoci cdi check --spec-dir=@/{form}")).status;
        assert_eq!(run("json"), run("yaml"), "{rule}: {text}");
    }
}
