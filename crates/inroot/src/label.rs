//! The name of this process's temporary files and tmpfs mounts.

use std::sync::OnceLock;

static LABEL: OnceLock<&'static str> = OnceLock::new();

/// Sets the name: temporary files become `.NAME-PID-N`, and `NAME` the source of a tmpfs. Only the
/// first call counts; without one the name is `inroot`.
pub fn set_label(name: &'static str) {
    let _ = LABEL.set(name);
}

/// The name from [`set_label`].
pub fn label() -> &'static str {
    LABEL.get().copied().unwrap_or("inroot")
}
