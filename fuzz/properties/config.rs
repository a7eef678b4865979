//! The configuration file, nvoci's and the vendor's.

use std::path::Path;

use nvoci::config::{Config, Dialect};

use crate::count::reached;

/// Holds for every input.
pub(crate) fn check(text: &[u8]) {
    reached("run");
    let text = String::from_utf8_lossy(text);
    for dialect in [Dialect::Nvoci, Dialect::Nvidia] {
        match Config::parse(&text, Path::new("/etc/c.toml"), dialect) {
            Ok(config) => {
                reached("accepted");
                assert!(!config.driver_dirs.is_empty() && !config.runtimes.is_empty());
                for (_, value, _) in config.settings() {
                    let _ = value.to_string();
                }
            }
            Err(e) => assert!(!e.to_string().contains(|c: char| c.is_control())),
        }
    }
}
