//! A container's state, in the form that a runtime writes to a hook.

use nvoci::oci::State;

use crate::count::reached;

/// Holds for every input.
pub(crate) fn check(document: &[u8]) {
    reached("run");
    match State::read(document) {
        Ok(state) => {
            reached("accepted");
            assert!(state.bundle.is_absolute());
        }
        Err(e) => {
            let line = e.to_string();
            assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
            assert!(line.ends_with("[NVOCI-1101]"), "{line}");
        }
    }
}
