//! Finds the bundle.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cmd::inject::open_bundle;
use crate::cmd::runtime::{CommandLine, Target};
use crate::config::Config;
use crate::error::Result;
use crate::oci::{Bundle, Interest, Spec, State};
use crate::sys::budget::Budget;
use crate::sys::ns::in_user_namespace;
use crate::sys::process::parent_args;

/// The fix if a hook in the container's user namespace lacks a right.
pub(super) const FROM_OUTSIDE: &str = "call the hook at createRuntime, or use the runtime entry: at createContainer it is in the container's user namespace";

/// Opens the state's bundle.
///
/// For a container with a user namespace, crun makes device nodes in another mount namespace. It
/// returns with `/` as its working directory (setns(2)), and its state then has `/` as the bundle
/// (crun 1.28). The hook's parent is that crun, and has the right directory on its command line.
pub(super) fn open(state: &State, inside: bool, config: &Config) -> Result<(Bundle, Spec)> {
    let budget = Budget::default();
    let refused = match open_bundle(&state.bundle, None, config, &budget) {
        Err(e) if inside && in_user_namespace() => return Err(e.fix(FROM_OUTSIDE)),
        // Inside, the parent's process id belongs to another process of the visible `/proc`.
        Err(e) if !inside && state.bundle == Path::new("/") => e,
        opened => return opened,
    };
    let Some(target) = parent_args().ok().and_then(|words| named(&words, &state.id)) else {
        return Err(refused);
    };
    open_bundle(&target.bundle, target.config.as_deref(), config, &budget)
}

/// The rootfs, and the definition if it is readable, for a hook that needs no request.
///
/// In a container's user namespace the engine's directories may be closed to the hook. Then the
/// state's `root` is the rootfs of an otherwise empty definition. It is checked like every rootfs.
/// A readable definition overrides the state.
///
/// # Errors
/// Those of [`Bundle::open`] and [`Spec::root_path`].
pub(in crate::cmd) fn rootfs(state: &State, budget: &Budget) -> Result<(PathBuf, Spec)> {
    let refused = match Bundle::open(&state.bundle, Interest::NOTHING, budget) {
        Ok((bundle, spec)) => return Ok((spec.root_path(bundle.path())?, spec)),
        Err(e) => e,
    };
    let out_of_reach = matches!(refused.os(), Some(libc::EACCES | libc::EPERM | libc::ENOENT));
    let root = state.root.as_ref().and_then(|root| root.to_str());
    match root {
        Some(root) if out_of_reach => {
            let spec = Spec::parse(json!({ "root": { "path": root } }).to_string().as_bytes())?;
            Ok((spec.root_path(Path::new("/"))?, spec))
        }
        _ => Err(refused),
    }
}

/// The container `id` on a runtime's command line, if the paths do not depend on its working
/// directory.
fn named(words: &[OsString], id: &str) -> Option<Target> {
    let target = CommandLine::parse(words).target.ok()??;
    let absolute = target.bundle.is_absolute() && target.config.as_ref().is_none_or(|c| c.is_absolute());
    (absolute && !id.is_empty() && target.id == id).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn only_the_same_container_by_an_absolute_path() {
        let named_in = |line: &str| {
            let words: Vec<OsString> = line.split_whitespace().map(Into::into).collect();
            named(&words, "c1").map(|t| t.bundle.display().to_string())
        };
        let right = Some("/run/b".to_owned());
        assert_eq!(
            named_in("--systemd-cgroup create --bundle /run/b --pid-file p c1"),
            right
        );
        assert_eq!(named_in("run -b /run/b c1"), right);
        for line in [
            "create --bundle /run/b c2",
            "create --bundle b c1",
            "create c1",
            "start --bundle /run/b c1",
            "create --bundle /run/b -f other.json c1",
            "",
        ] {
            assert_eq!(named_in(line), None, "{line}");
        }
        let words = ["create", "--bundle", "/run/b"].map(Into::into);
        assert_eq!(named(&words, ""), None, "a state without an id");
    }

    #[test]
    fn a_bundle_that_is_nowhere_is_refused_as_ever() {
        for bundle in ["/", "/nonexistent/b"] {
            let text = format!(r#"{{"ociVersion":"1.0","id":"c1","bundle":"{bundle}"}}"#);
            let state = State::read(text.as_bytes()).unwrap();
            let refused = open(&state, false, &Config::default()).unwrap_err();
            assert_eq!(refused.code(), Code::Bundle);
            assert!(refused.what().contains(bundle), "{refused}");
        }
    }

    #[test]
    fn the_states_root_is_the_last_resort() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("b");
        let of = |bundle: &Path, root: &str| {
            let text = json!({"ociVersion": "1.0", "id": "c1", "bundle": bundle, "root": root}).to_string();
            rootfs(&State::read(text.as_bytes()).unwrap(), &Budget::default()).map(|(path, _)| path)
        };
        let code = |bundle: &Path, root: &str| of(bundle, root).unwrap_err().code();
        assert_eq!(of(&bundle, "/run/r//x/.").unwrap(), Path::new("/run/r/x"));
        assert_eq!(code(&bundle, "rootfs"), Code::Bundle);
        for bad in ["/", "/.", "/a/../b", "/..", "/a\0b"] {
            assert_eq!(code(&bundle, bad), Code::UnsafeRootfs, "{bad:?}");
        }
        // A definition that exists decides, even a broken or unsafe one.
        std::fs::create_dir(&bundle).unwrap();
        assert_eq!(of(&bundle, "/run/r").unwrap(), Path::new("/run/r"));
        let config = bundle.join("config.json");
        for (text, want) in [
            (r#"{"root":{"path":"/"}}"#, Code::UnsafeRootfs),
            ("{}", Code::Bundle),
            ("[", Code::Bundle),
        ] {
            std::fs::write(&config, text).unwrap();
            assert_eq!(code(&bundle, "/run/r"), want, "{text}");
        }
        std::fs::write(&config, r#"{"root":{"path":"mine"}}"#).unwrap();
        assert_eq!(of(&bundle, "/run/r").unwrap(), bundle.join("mine"));
    }

    #[test]
    fn the_parents_words_are_read() {
        // cargo or a shell started this test.
        let words = parent_args().unwrap();
        assert!(words.iter().all(|w| !w.as_encoded_bytes().contains(&0)));
    }
}
