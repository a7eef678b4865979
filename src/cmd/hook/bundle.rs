//! Where the bundle is.

use std::ffi::OsString;
use std::path::Path;

use crate::cmd::inject::open_bundle;
use crate::cmd::runtime::{CommandLine, Target};
use crate::config::Config;
use crate::error::Result;
use crate::oci::{Bundle, Spec, State};
use crate::sys::budget::Budget;
use crate::sys::ns::in_user_namespace;
use crate::sys::process::parent_args;

/// What to do where a hook in a container's user namespace may not do something.
pub(super) const FROM_OUTSIDE: &str = "call the hook at createRuntime, or use the runtime entry: at createContainer it is in the container's user namespace";

/// Opens the bundle that the state names.
///
/// crun makes the device nodes of a container with a user namespace of its own in a mount namespace of theirs, and comes
/// back from there (setns(2)) with `/` as its working directory, which its state then calls the bundle (seen with crun
/// 1.28). The hook's parent is that crun, and was told the right directory on its command line.
pub(super) fn open(state: &State, inside: bool, config: &Config) -> Result<(Bundle, Spec)> {
    let budget = Budget::default();
    let refused = match open_bundle(&state.bundle, None, config, &budget) {
        Err(e) if inside && in_user_namespace() => return Err(e.fix(FROM_OUTSIDE)),
        // From inside, the parent's number is another process's in the `/proc` that is in sight.
        Err(e) if !inside && state.bundle == Path::new("/") => e,
        opened => return opened,
    };
    let Some(target) = parent_args().ok().and_then(|words| named(&words, &state.id)) else {
        return Err(refused);
    };
    open_bundle(&target.bundle, target.config.as_deref(), config, &budget)
}

/// What a runtime's command line says of the container `id`, if it says it without regard to its working directory.
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
        let ask = |line: &str| {
            let words: Vec<OsString> = line.split_whitespace().map(Into::into).collect();
            named(&words, "c1").map(|t| t.bundle.display().to_string())
        };
        let right = Some("/run/b".to_owned());
        assert_eq!(
            ask("--systemd-cgroup create --bundle /run/b --pid-file p c1"),
            right
        );
        assert_eq!(ask("run -b /run/b c1"), right);
        for line in [
            "create --bundle /run/b c2",
            "create --bundle b c1",
            "create c1",
            "start --bundle /run/b c1",
            "create --bundle /run/b -f other.json c1",
            "",
        ] {
            assert_eq!(ask(line), None, "{line}");
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
    fn the_parents_words_are_read() {
        // cargo or a shell: something started this test.
        let words = parent_args().unwrap();
        assert!(words.iter().all(|w| !w.as_encoded_bytes().contains(&0)));
    }
}
