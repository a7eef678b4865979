//! The format: the reader's rules, and the writer's bytes.

use std::path::Path;
use std::time::Duration;

use super::{SMALL, parse, vendors};
use crate::cdi::read::Format;
use crate::cdi::tree::Tree;
use crate::cdi::types::{CdiSpec, Device, Edits, Hook, NetDevice};
use crate::cdi::{Valid, Version, emit};
use crate::error::Code;
use crate::sys::budget::{Budget, Limits};

#[test]
fn what_is_written_is_read_again() {
    let mut specs: Vec<CdiSpec> = ["nvml.yaml", "mofed.yaml", "imex.yaml", "h100-nvml.yaml"]
        .iter()
        .map(|n| vendors(n, Path::new("/r")))
        .collect();
    let odd = [
        "a: b",
        "- x",
        "#",
        "",
        " ",
        "null",
        "Yes",
        "0x1",
        "1e3",
        "~",
        "*a",
        "&a",
        "é\u{7}\n\"",
        "a:",
        "0:1",
        "x=",
        "=",
        "%",
    ];
    specs.push(CdiSpec {
        version: Version::V1_1,
        kind: "nvidia.com/gpu.x".to_owned(),
        annotations: vec![("a.b/c".to_owned(), "1".to_owned())],
        devices: vec![Device {
            name: "true".to_owned(),
            annotations: vec![("k".to_owned(), odd.join(","))],
            edits: Edits {
                env: odd.iter().map(|o| format!("A={o}")).collect(),
                hooks: vec![Hook {
                    stage: "poststop".to_owned(),
                    path: "/x".to_owned(),
                    args: odd.iter().map(ToString::to_string).collect(),
                    env: Vec::new(),
                    timeout: Some(u32::MAX),
                }],
                net_devices: vec![NetDevice {
                    host_interface_name: "eth0".to_owned(),
                    name: "no".to_owned(),
                }],
                additional_gids: vec![0, 5],
                ..Edits::default()
            },
        }],
        edits: Edits::default(),
    });
    for spec in specs {
        let valid = Valid::of(spec.clone()).unwrap();
        let yaml = emit::yaml(&valid);
        assert_eq!(
            parse(yaml.as_bytes(), Format::Yaml, "yaml").unwrap(),
            spec,
            "{yaml}"
        );
        let json = emit::json(&valid);
        assert_eq!(parse(json.as_bytes(), Format::Json, "json").unwrap(), spec);
        assert_eq!(json.lines().count(), 1);
    }
}

#[test]
fn readers_take_what_engines_take() {
    let small = parse(SMALL.as_bytes(), Format::Yaml, "x").unwrap();
    assert_eq!(
        (small.devices[0].name.as_str(), small.version),
        ("0", Version::V0_5)
    );
    let node = |fields: &str| {
        let text = format!("{SMALL}containerEdits:\n  deviceNodes:\n  - {{path: /dev/x, {fields}}}\n");
        parse(text.as_bytes(), Format::Yaml, "x").map(|s| s.edits.device_nodes[0].clone())
    };
    let mode = |text: &str| node(&format!("fileMode: {text}")).unwrap().file_mode;
    assert_eq!(
        [mode("0666"), mode("0o666"), mode("438"), mode("0x1b6")],
        [Some(438); 4]
    );
    assert_eq!(node("hostPath: null, type: ~, uid: 0").unwrap().uid, Some(0));
    for bad in [
        "fileMode: -1",
        "fileMode: 08",
        "fileMode: '7'",
        "major: 4294967296",
        "permissions: rx",
        "type: d",
    ] {
        assert!(node(bad).is_err(), "{bad}");
    }
    // An alias is text that is there twice.
    let aliased = SMALL.replace("[A=1]", "&e [A=1]") + "containerEdits: {env: *e}\n";
    assert_eq!(
        parse(aliased.as_bytes(), Format::Yaml, "x").unwrap().edits.env,
        ["A=1"]
    );
}

#[test]
fn readers_refuse_what_engines_refuse() {
    let refused = |text: &str, why: &str| {
        let e = parse(text.as_bytes(), Format::Yaml, "x").unwrap_err();
        assert_eq!(e.code(), Code::Cdi);
        assert!(e.why().contains(why), "{} for {text}", e.why());
    };
    refused(&SMALL.replace("a.b/cd", "a.b/c"), "crash");
    refused(&SMALL.replace("a.b/cd", "b/cd"), "crash");
    refused(&SMALL.replace("a.b/cd", "a.b"), "kind");
    refused(&SMALL.replace("0.5.0", "0.3.0"), "what came with 0.5.0");
    refused(&SMALL.replace("0.5.0", "0.2.0"), "older");
    refused(&SMALL.replace("0.5.0", "9.9.9"), "not known");
    refused(&SMALL.replace("env: [A=1]", "env: []"), "changes nothing");
    refused(&SMALL.replace("A=1", "A"), "NAME=VALUE");
    refused(
        &SMALL.replace("env", "enw"),
        "devices[0].containerEdits has the unknown field `enw`",
    );
    refused(&SMALL.replace("name: 0", "name: ../x"), "not a device name");
    refused(&(SMALL.to_owned() + "kind: a.b/ef\n"), "given twice");
    refused(&(SMALL.to_owned() + "---\nkind: x\n"), "second document");
    refused("", "empty");
    refused("[]", "not a mapping");
    refused("devices: [", "line");
    let twice = SMALL.replace(
        "devices:\n",
        "devices:\n- {name: '0', containerEdits: {env: [B=1]}}\n",
    );
    refused(&twice, "there twice");
    let hook = |text: &str| format!("{SMALL}containerEdits: {{hooks: [{{{text}}}]}}\n");
    refused(
        &hook("hookName: createContainer, path: bin/x"),
        "not an absolute path",
    );
    refused(&hook("hookName: create, path: /bin/x"), "stage");
    refused(&hook("hookName: poststop, path: /bin/x, env: [A]"), "NAME=VALUE");
    let mount = |text: &str| format!("{SMALL}containerEdits: {{mounts: [{{{text}}}]}}\n");
    refused(&mount("hostPath: /x"), "containerPath is missing");
    refused(&mount("hostPath: x, containerPath: /y"), "not absolute");
    let small = parse(SMALL.as_bytes(), Format::Yaml, "x").unwrap();
    let json = emit::json(&Valid::of(small).unwrap());
    let double = json.replace("\"kind\"", "\"kind\":\"a.b/cd\",\"kind\"");
    assert!(parse(double.as_bytes(), Format::Json, "x").is_err());
}

/// Every field, in the order in which it is written.
const FULL: &str = concat!(
    r#"{"cdiVersion":"1.1.0","kind":"a.b/cd","annotations":{"z":"1","a":"2"},"devices":[{"name":"0","#,
    r#""annotations":{"k":"v"},"containerEdits":{"env":["A=1"],"deviceNodes":[{"path":"/dev/x","#,
    r#""hostPath":"/dev/y","type":"c","major":1,"minor":0,"fileMode":438,"permissions":"rw","uid":2,"gid":3}],"#,
    r#""netDevices":[{"hostInterfaceName":"e0","name":"e1"}],"hooks":[{"hookName":"poststop","path":"/x","#,
    r#""args":["x"],"env":["B=1"],"timeout":4}],"mounts":[{"hostPath":"/h","containerPath":"/c","#,
    r#""options":["ro"],"type":"bind"}],"intelRdt":{"closID":"i","l3CacheSchema":"l","memBwSchema":"m","#,
    r#""schemata":["s"],"enableMonitoring":true},"additionalGids":[5]}}],"containerEdits":{"intelRdt":{}}}"#,
    "\n"
);

#[test]
fn every_field_is_written_in_the_formats_order() {
    let spec = parse(FULL.as_bytes(), Format::Json, "x").unwrap();
    assert_eq!(emit::json(&Valid::of(spec).unwrap()), FULL);
    let old = FULL
        .replace("1.1.0", "1.0.0")
        .replace(r#""netDevices":[{"hostInterfaceName":"e0","name":"e1"}],"#, "")
        .replace(
            r#""schemata":["s"],"enableMonitoring":true"#,
            r#""enableCMT":true,"enableMBM":false"#,
        );
    let spec = parse(old.as_bytes(), Format::Json, "x").unwrap();
    assert_eq!(emit::json(&Valid::of(spec).unwrap()), old);
    // Null and an empty collection are the same as no field.
    let empty = r#"{"cdiVersion":"0.5.0","kind":"a.b/cd","annotations":null,"devices":[{"name":"0","annotations":{},
        "containerEdits":{"env":["A=1"],"mounts":[],"hooks":null,"intelRdt":null,"additionalGids":[]}}],"containerEdits":{}}"#;
    let spec = parse(empty.as_bytes(), Format::Json, "x").unwrap();
    assert_eq!(spec, parse(SMALL.as_bytes(), Format::Yaml, "x").unwrap());
}

#[test]
fn each_error_names_the_path_of_its_value() {
    let device = "devices[0].containerEdits";
    for (from, to, why) in [
        (r#""a.b/cd""#, "null", "kind is missing"),
        (r#""a.b/cd""#, "[]", "kind is not text"),
        (r#""1.1.0""#, r#""9.0.0""#, "cdiVersion `9.0.0` is not known"),
        (r#""2"}"#, "[]}", "annotations.a is not text"),
        (r#"{"k":"v"}"#, "1", "devices[0].annotations is not a mapping"),
        (
            r#"["A=1"]"#,
            r#"["A=1",[]]"#,
            &format!("{device}.env[1] is not text"),
        ),
        (r#"["A=1"]"#, r#"{"A":1}"#, &format!("{device}.env is not a list")),
        (
            "438",
            "true",
            &format!("{device}.deviceNodes[0].fileMode is `true`, not a number from 0 to 4294967295"),
        ),
        (
            "438",
            r#""438""#,
            &format!("{device}.deviceNodes[0].fileMode is not a number"),
        ),
        (
            r#""/dev/x""#,
            "null",
            &format!("{device}.deviceNodes[0].path is missing"),
        ),
        (
            r#"{"path":"/dev/x""#,
            r#"null,{"path":"/""#,
            &format!("{device}.deviceNodes[0] is not a mapping"),
        ),
        (
            "true",
            "1",
            &format!("{device}.intelRdt.enableMonitoring is neither true nor false"),
        ),
        (
            "[5]",
            "[5,null]",
            &format!("{device}.additionalGids[1] is `null`, not a number from 0 to 4294967295"),
        ),
        (r#"{"intelRdt":{}}"#, "[]", "containerEdits is not a mapping"),
        (
            r#""closID""#,
            r#""closId""#,
            &format!("{device}.intelRdt has the unknown field `closId`"),
        ),
        (
            r#""kind""#,
            r#""king""#,
            "the document has the unknown field `king`",
        ),
        (
            r#""timeout""#,
            r#""<<""#,
            &format!("{device}.hooks[0] has the unknown field `<<`"),
        ),
    ] {
        assert!(FULL.contains(from), "{from}");
        let e = parse(FULL.replace(from, to).as_bytes(), Format::Json, "x").unwrap_err();
        assert_eq!(e.why(), why, "{from} -> {to}");
    }
}

#[test]
fn hostile_files_are_refused_in_time() {
    let refused = |text: &str| {
        assert!(parse(text.as_bytes(), Format::Yaml, "x").is_err());
        assert!(parse(text.as_bytes(), Format::Json, "x").is_err());
    };
    refused(&"[".repeat(100_000));
    refused(&"{a: ".repeat(100_000));
    refused(&("a: ".to_owned() + &"- ".repeat(50_000)));
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        let alias = format!("*a{},", i - 1).repeat(10);
        bomb = format!("{bomb}a{i}: &a{i} [{alias}]\n");
    }
    let e = parse(bomb.as_bytes(), Format::Yaml, "x").unwrap_err();
    assert!(e.why().contains("too much"), "{}", e.why());
    let keys: Vec<String> = (0..100_000).map(|i| format!("k{i}: 1\n")).collect();
    refused(&keys.concat());
    refused("a: *a");
    refused("&a [*a]");
    refused("\u{0}");
}

#[test]
fn what_yaml_makes_the_parser_keep_is_bounded() {
    // What counts here is the number of tokens, also in a build that is slow.
    let limits = Limits {
        cpu: Duration::from_secs(600),
        ..Limits::DEFAULT
    };
    let read = |text: &str| Tree::yaml(text, &Budget::new(limits));
    let (list, keys) = ("1,".repeat(200_000), "\"[::1]:80\",".repeat(10));
    assert!(read(&format!("[{list}]")).is_ok());
    assert!(read(&format!("[{keys}{}]", "a,".repeat(20_000))).is_ok());
    for text in [
        format!("[{}", ": ,".repeat(300_000)),
        format!("[{list}{}{list}{}", "[".repeat(250), "]: ".repeat(250)),
        format!("[{list}{}{list}{}", "[".repeat(250), "] #\n: ".repeat(250)),
    ] {
        assert_eq!(read(&text).unwrap_err().to_string(), "it holds too much");
    }
}
