//! The log file that the configuration may name: what was asked for, given and refused, a line each.

use std::fs::File;

use log::LevelFilter;
use rustix::fs::{Mode, OFlags};

use crate::config::{Config, LogLevel};
use crate::sys::{owned, root};

/// Starts logging if the configuration names a file. Never from the environment: in a hook it may be the
/// image's. A log that cannot be written is no reason to refuse a container.
pub(super) fn start(config: &Config) {
    let Some(path) = config.log_file.as_deref() else {
        return;
    };
    let Some(file) = open(path) else {
        super::inject::say(&format!("warning: log file {} cannot be written", path.display()));
        return;
    };
    let level = match *config.log_level {
        LogLevel::Off => LevelFilter::Off,
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    };
    let mut builder = env_logger::Builder::new();
    builder
        .filter_level(level)
        .target(env_logger::Target::Pipe(Box::new(file)));
    // Fails only if a logger is there already.
    let _ = builder.try_init();
}

/// Opens the file for appending, in a directory that only root can change, and no link in its place.
fn open(path: &std::path::Path) -> Option<File> {
    let (dir, name) = root::split(path).ok()?;
    let dir = owned::find(dir).ok()??;
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o640)).ok()?);
    file.metadata().ok()?.is_file().then_some(file)
}
