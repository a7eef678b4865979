//! The name that temporary files and tmpfs mounts bear.

use std::sync::OnceLock;

static LABEL: OnceLock<&'static str> = OnceLock::new();

/// Names what this process makes: temporary files are `.NAME-PID-N`, and `NAME` is the source of a tmpfs. The first
/// call counts; without one the name is `inroot`.
pub fn set_label(name: &'static str) {
    let _ = LABEL.set(name);
}

/// The name that [`set_label`] has set.
pub fn label() -> &'static str {
    LABEL.get().copied().unwrap_or("inroot")
}
