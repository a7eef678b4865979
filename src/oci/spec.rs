//! config.json as a JSON value, with typed views such as [`Spec::mounts`].
//!
//! A view returns the runtime's interpretation. A field of a wrong type counts as absent, as for
//! crun (1.8.1, 1.28), which still makes such a mount; runc refuses the document. The last value of
//! a repeated key counts, as for runc and crun 1.28; crun 1.8.1 takes the first. The edits are in
//! `edit.rs`.

use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use super::types::{Access, DeviceKind, DeviceRule, DeviceSpec, Hook, Mount, RuleKind, Stage, User};
use crate::error::{Code, Error, Result};

/// A container's config.json. It keeps key order, unknown fields and every digit of a number; only
/// an exponent is respelled, `1E3` as `1e+3`.
#[derive(Clone, Debug)]
pub struct Spec {
    pub(super) value: Map<String, Value>,
    pub(super) changed: bool,
    digest: bool,
}

impl Spec {
    /// Parses a document.
    ///
    /// # Errors
    /// [`Code::Bundle`] if it is not one JSON object of at most 128 levels.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let broken = |why: String| Error::new(Code::Bundle, "config.json", why);
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(value)) => Ok(Self {
                value,
                changed: false,
                digest: false,
            }),
            Ok(_) => Err(broken("it is not a JSON object".into())),
            Err(e) => Err(broken(e.to_string())),
        }
    }

    /// The kept fields of a document that is too large to be parsed.
    pub(super) fn of_digest(value: Map<String, Value>) -> Self {
        Self {
            value,
            changed: false,
            digest: true,
        }
    }

    /// Whether it holds only the fields that decide on a request. Then most views are empty, and it
    /// is never written.
    pub fn is_digest(&self) -> bool {
        self.digest
    }

    /// Returns the document if it was parsed completely.
    ///
    /// # Errors
    /// [`Code::TooLarge`] for a digest.
    pub fn whole(&self) -> Result<&Self> {
        if self.digest {
            let why = "it is too large, or has too many values, for a container that requests GPUs";
            return Err(Error::new(Code::TooLarge, "config.json", why));
        }
        Ok(self)
    }

    /// The document as compact JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Writing a map with string keys to memory cannot fail.
        serde_json::to_vec(&self.value).unwrap_or_default()
    }

    /// The document, for fields that no view covers.
    pub fn value(&self) -> &Map<String, Value> {
        &self.value
    }

    /// Whether an edit has changed the document since it was parsed.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// The container's root directory on the host, for a bundle at the absolute path `bundle`.
    ///
    /// # Errors
    /// [`Code::Bundle`] if there is no `root.path`; [`Code::UnsafeRootfs`] if it is empty, the
    /// host's `/`, or has a `..`, whose target depends on links.
    pub fn root_path(&self, bundle: &Path) -> Result<PathBuf> {
        let text = self
            .text(&["root", "path"])
            .ok_or_else(|| Error::new(Code::Bundle, "config.json", "it has no root.path"))?;
        let unsafe_root = |why| Error::new(Code::UnsafeRootfs, format!("root.path \"{text}\""), why);
        if text.is_empty() {
            return Err(unsafe_root("it is empty"));
        }
        if text.contains('\0') {
            return Err(unsafe_root("it has a NUL byte"));
        }
        let path = Path::new(text);
        if path.components().any(|c| c == Component::ParentDir) {
            return Err(unsafe_root("it has a `..`"));
        }
        // Built from its components, so it has no `.`, `//` or trailing slash, which would follow a
        // link.
        let joined: PathBuf = bundle.join(path).components().collect();
        if joined.file_name().is_none() {
            return Err(unsafe_root("it is the host's own root directory, or has no name"));
        }
        Ok(joined)
    }

    /// The environment in order, without entries that have no `=`. A later entry of the same name
    /// wins.
    pub fn env(&self) -> Vec<(String, String)> {
        self.texts(&["process", "env"])
            .filter_map(|e| e.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }

    /// The annotations, in order.
    pub fn annotations(&self) -> Vec<(String, String)> {
        self.object(&["annotations"])
            .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
            .collect()
    }

    /// The mounts, in order.
    pub fn mounts(&self) -> Vec<Mount> {
        self.list(&["mounts"]).filter_map(mount).collect()
    }

    /// The user and groups of the process.
    pub fn process_user(&self) -> User {
        let user = self.at(&["process", "user"]);
        let id = |key| user.and_then(|u| number(u, key)).unwrap_or(0);
        User {
            uid: id("uid"),
            gid: id("gid"),
            additional_gids: self
                .list(&["process", "user", "additionalGids"])
                .filter_map(id_of)
                .collect(),
        }
    }

    /// Whether the container has the rights of the host's root: `CAP_SYS_ADMIN` is in its bounding
    /// set. Before OCI 1.0 the capabilities were one plain list.
    pub fn is_privileged(&self) -> bool {
        let bounding = match self.at(&["process", "capabilities"]) {
            Some(Value::Array(plain)) => plain.as_slice(),
            Some(Value::Object(sets)) => match sets.get("bounding") {
                Some(Value::Array(set)) => set.as_slice(),
                _ => &[],
            },
            _ => &[],
        };
        bounding.iter().any(|c| c.as_str() == Some("CAP_SYS_ADMIN"))
    }

    /// Whether the container has a user namespace of its own.
    pub fn has_user_namespace(&self) -> bool {
        self.has_namespace("user")
    }

    /// Whether the container has a time namespace, in which times differ from the host's.
    pub fn has_time_namespace(&self) -> bool {
        self.has_namespace("time")
    }

    fn has_namespace(&self, typ: &str) -> bool {
        self.list(&["linux", "namespaces"])
            .any(|n| n.get("type").and_then(Value::as_str) == Some(typ))
    }

    /// `linux.mountLabel`, the SELinux context of the container's mounts.
    pub fn mount_label(&self) -> Option<&str> {
        self.text(&["linux", "mountLabel"]).filter(|l| !l.is_empty())
    }

    /// The working directory of the process, as an absolute path.
    pub fn cwd(&self) -> PathBuf {
        Path::new("/").join(self.text(&["process", "cwd"]).unwrap_or_default())
    }

    /// The program of the process.
    pub fn program(&self) -> Option<&str> {
        self.texts(&["process", "args"]).next()
    }

    /// Whether the process has a terminal, which the runtime makes after its hooks.
    pub fn has_terminal(&self) -> bool {
        self.at(&["process", "terminal"]).and_then(Value::as_bool) == Some(true)
    }

    /// `process.selinuxLabel`, the SELinux context of the container's processes.
    pub fn process_label(&self) -> Option<&str> {
        self.text(&["process", "selinuxLabel"]).filter(|l| !l.is_empty())
    }

    /// `linux.cgroupsPath`.
    pub fn cgroups_path(&self) -> Option<&str> {
        self.text(&["linux", "cgroupsPath"]).filter(|l| !l.is_empty())
    }

    /// The device nodes that the runtime makes; FIFOs are left out.
    pub fn linux_devices(&self) -> Vec<DeviceSpec> {
        self.list(&["linux", "devices"]).filter_map(device).collect()
    }

    /// The device cgroup rules in order. An absent type or number stands for all.
    pub fn device_rules(&self) -> Vec<DeviceRule> {
        self.list(&["linux", "resources", "devices"]).map(rule).collect()
    }

    /// The hooks of a stage, in order.
    pub fn hooks(&self, stage: Stage) -> Vec<Hook> {
        self.list(&["hooks", stage.key()]).filter_map(hook).collect()
    }

    fn at(&self, keys: &[&str]) -> Option<&Value> {
        let (first, rest) = keys.split_first()?;
        rest.iter().try_fold(self.value.get(*first)?, |v, k| v.get(k))
    }

    fn text(&self, keys: &[&str]) -> Option<&str> {
        self.at(keys).and_then(Value::as_str)
    }

    fn list(&self, keys: &[&str]) -> impl Iterator<Item = &Value> {
        self.at(keys).and_then(Value::as_array).into_iter().flatten()
    }

    fn texts(&self, keys: &[&str]) -> impl Iterator<Item = &str> {
        self.list(keys).filter_map(Value::as_str)
    }

    fn object(&self, keys: &[&str]) -> impl Iterator<Item = (&String, &Value)> {
        self.at(keys).and_then(Value::as_object).into_iter().flatten()
    }
}

/// A number from 0 to `u32::MAX`.
fn id_of(v: &Value) -> Option<u32> {
    v.as_u64().and_then(|n| u32::try_from(n).ok())
}

fn number(v: &Value, key: &str) -> Option<u32> {
    v.get(key).and_then(id_of)
}

fn string(v: &Value, key: &str) -> Option<String> {
    v.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn strings(v: &Value, key: &str) -> Vec<String> {
    let list = v.get(key).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn mount(v: &Value) -> Option<Mount> {
    Some(Mount {
        destination: string(v, "destination")?,
        source: string(v, "source"),
        typ: string(v, "type"),
        options: strings(v, "options"),
    })
}

fn device(v: &Value) -> Option<DeviceSpec> {
    let kind = match v.get("type").and_then(Value::as_str)? {
        "c" | "u" => DeviceKind::Char,
        "b" => DeviceKind::Block,
        _ => return None,
    };
    Some(DeviceSpec {
        path: string(v, "path")?,
        kind,
        major: number(v, "major").unwrap_or(0),
        minor: number(v, "minor").unwrap_or(0),
        file_mode: number(v, "fileMode"),
        uid: number(v, "uid"),
        gid: number(v, "gid"),
    })
}

/// Parses a rule. A malformed one grants nothing or denies everything, since the runtimes differ:
/// crun takes an unknown or empty type for `c`, leaves out unknown letters, and matches nothing
/// without access; runc refuses to start, or takes an empty type for `a`.
fn rule(v: &Value) -> DeviceRule {
    let allow = v.get("allow").and_then(Value::as_bool) == Some(true);
    well_formed(v, allow).unwrap_or(DeviceRule {
        allow,
        kind: RuleKind::All,
        major: None,
        minor: None,
        access: if allow { Access::NONE } else { Access::RWM },
    })
}

fn well_formed(v: &Value, allow: bool) -> Option<DeviceRule> {
    let kind = match v.get("type") {
        None | Some(Value::Null) => RuleKind::All,
        Some(kind) => match kind.as_str()? {
            "a" => RuleKind::All,
            "c" => RuleKind::Char,
            "b" => RuleKind::Block,
            _ => return None,
        },
    };
    // -1 means any number, as absence does. The kernel's numbers have 12 and 20 bits.
    let id = |key| match v.get(key) {
        None | Some(Value::Null) => Some(None),
        Some(n) if n.as_i64() == Some(-1) => Some(None),
        Some(n) => id_of(n).filter(|n| i32::try_from(*n).is_ok()).map(Some),
    };
    let access = v
        .get("access")
        .and_then(Value::as_str)
        .filter(|a| !a.is_empty())?;
    Some(DeviceRule {
        allow,
        kind,
        major: id("major")?,
        minor: id("minor")?,
        access: Access::parse(access)?,
    })
}

pub(super) fn hook(v: &Value) -> Option<Hook> {
    Some(Hook {
        path: string(v, "path")?,
        args: strings(v, "args"),
        env: strings(v, "env"),
        timeout: v.get("timeout").and_then(Value::as_i64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        Spec::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn numbers_keys_and_unknown_fields_survive() {
        for text in [
            r#"{"z":1e+3,"a":18446744073709551616,"m":0.10,"n":-0,"o":1e-7,"p":1.0,"q":-9223372036854775809}"#,
            r#"{"future":{"b":null,"a":[{},[],"",false]},"":{"\u0001":"é\"\\/\u2028"},"$serde_json::x":1}"#,
        ] {
            let out = spec(text).to_bytes();
            assert_eq!(
                serde_json::from_slice::<Value>(&out).unwrap(),
                serde_json::from_str::<Value>(text).unwrap()
            );
            if !text.contains('\\') {
                assert_eq!(String::from_utf8(out).unwrap(), text);
            }
        }
        assert_eq!(spec(r#"{"a":1E3}"#).to_bytes(), br#"{"a":1e+3}"#);
    }

    #[test]
    fn root_path_stays_where_a_container_may_be() {
        let at = |path: &str| {
            spec(&serde_json::json!({ "root": { "path": path } }).to_string()).root_path(Path::new("/run/b"))
        };
        for (given, want) in [
            ("rootfs", "/run/b/rootfs"),
            ("rootfs/", "/run/b/rootfs"),
            ("./a//rootfs/.", "/run/b/a/rootfs"),
            (".", "/run/b"),
            ("/var/lib/x/merged", "/var/lib/x/merged"),
            ("//var//x/", "/var/x"),
        ] {
            let path = at(given).unwrap();
            assert_eq!(path.as_os_str(), want);
        }
        for given in [
            "", "/", "//", "/.", "..", "../x", "a/../b", "/a/..", "/../", "a\0b",
        ] {
            assert_eq!(at(given).unwrap_err().code(), Code::UnsafeRootfs, "{given:?}");
        }
        let none = |text: &str| spec(text).root_path(Path::new("/b")).unwrap_err().code();
        assert_eq!(none("{}"), Code::Bundle);
        assert_eq!(none(r#"{"root":null}"#), Code::Bundle);
        assert_eq!(none(r#"{"root":{"path":["x"]}}"#), Code::Bundle);
    }

    #[test]
    fn views_read_a_full_spec() {
        let s = spec(
            r#"{"ociVersion":"1.2.0","root":{"path":"r","readonly":true},
            "process":{"env":["A=1","B","A=2=3",7,"=x"],"user":{"uid":1000,"gid":1001,"additionalGids":[44,-1,45]},
              "capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_ADMIN"]}},
            "annotations":{"z":"1","a":"2","n":3},
            "mounts":[{"destination":"/proc","type":"proc","source":"proc"},{"source":"x"},
              {"destination":"/data","source":"/d","options":["rbind","ro"]}],
            "linux":{"namespaces":[{"type":"mount"},{"type":"user","path":""}],"mountLabel":"system_u:x","cgroupsPath":"a:b:c",
              "rootfsPropagation":"rslave","uidMappings":[{"containerID":0,"hostID":100000,"size":65536}],
              "devices":[{"path":"/dev/fuse","type":"c","major":10,"minor":229,"fileMode":438,"uid":0,"gid":0},{"path":"/p","type":"p"}],
              "resources":{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":195,"minor":-1,"access":"rw"},
                {"allow":true,"type":"x"},{"allow":true,"type":"b","major":"8"},{"allow":true,"access":"q"}]}},
            "hooks":{"prestart":[{"path":"/h","args":["h","p"],"env":["K=V"],"timeout":5}]}}"#,
        );
        assert!(s.is_privileged() && s.has_user_namespace() && !s.has_time_namespace());
        assert_eq!(s.env().len(), 3);
        assert_eq!(
            s.annotations(),
            [("z".into(), "1".into()), ("a".into(), "2".into())]
        );
        let mounts = s.mounts();
        assert_eq!(mounts.len(), 2);
        assert!(!mounts[0].is_bind() && mounts[1].is_bind());
        assert_eq!(
            s.process_user(),
            User {
                uid: 1000,
                gid: 1001,
                additional_gids: vec![44, 45]
            }
        );
        assert_eq!(s.mount_label(), Some("system_u:x"));
        assert_eq!(s.cgroups_path(), Some("a:b:c"));
        assert_eq!(s.linux_devices().len(), 1);
        let rules = s.device_rules();
        assert_eq!(rules.len(), 5);
        assert_eq!((rules[0].allow, rules[0].kind), (false, RuleKind::All));
        assert_eq!((rules[1].major, rules[1].minor), (Some(195), None));
        assert_eq!(s.hooks(Stage::Prestart)[0].timeout, Some(5));
        assert_eq!(s.hooks(Stage::Poststop), []);
    }

    #[test]
    fn a_rule_that_runtimes_read_differently_grants_nothing() {
        for broken in [
            r#""type":"","access":"rwm""#,
            r#""type":"u","access":"rwm""#,
            r#""type":7,"access":"rwm""#,
            r#""type":"c","major":195"#,
            r#""type":"c","access":"""#,
            r#""type":"c","access":"rx""#,
            r#""type":"c","major":-5,"access":"rwm""#,
            r#""type":"c","major":4294967295,"access":"rwm""#,
            r#""type":"c","minor":"1","access":"rwm""#,
        ] {
            for allow in [true, false] {
                let text =
                    format!(r#"{{"linux":{{"resources":{{"devices":[{{"allow":{allow},{broken}}}]}}}}}}"#);
                let access = if allow { Access::NONE } else { Access::RWM };
                let expected = DeviceRule {
                    allow,
                    kind: RuleKind::All,
                    major: None,
                    minor: None,
                    access,
                };
                assert_eq!(spec(&text).device_rules(), [expected], "{broken}");
            }
        }
        let any = spec(
            r#"{"linux":{"resources":{"devices":[{"allow":true,"type":null,"major":-1,"minor":null,"access":"rw"}]}}}"#,
        );
        let rule = any.device_rules()[0];
        assert_eq!(
            (rule.kind, rule.major, rule.minor, rule.access),
            (RuleKind::All, None, None, Access::RW)
        );
    }

    #[test]
    fn nulls_and_wrong_types_are_like_nothing() {
        for text in [
            "{}",
            r#"{"linux":null,"hooks":null,"process":null,"mounts":null,"annotations":null}"#,
            r#"{"linux":[],"hooks":7,"process":"x","mounts":{},"annotations":[1]}"#,
            r#"{"linux":{"namespaces":null,"resources":null,"devices":[null]},"hooks":{"prestart":null},"process":{"env":null,"user":[],"capabilities":{"bounding":null}}}"#,
        ] {
            let s = spec(text);
            assert!(!s.is_privileged() && Stage::ALL.iter().all(|stage| s.hooks(*stage).is_empty()));
            assert!(s.env().is_empty() && s.mounts().is_empty() && s.annotations().is_empty());
            assert!(!s.has_user_namespace() && s.device_rules().is_empty() && s.linux_devices().is_empty());
            assert_eq!(s.process_user(), User::default());
        }
    }

    #[test]
    fn the_plain_capability_list_counts() {
        assert!(spec(r#"{"process":{"capabilities":["CAP_SYS_ADMIN"]}}"#).is_privileged());
        assert!(
            !spec(r#"{"process":{"capabilities":{"effective":["CAP_SYS_ADMIN"],"bounding":["CAP_X"]}}}"#)
                .is_privileged()
        );
    }
}
