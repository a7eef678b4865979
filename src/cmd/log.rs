//! The log file that the configuration may name: what was asked for, given and refused, a line each.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use log::LevelFilter;
use rustix::fs::{Mode, OFlags};

use crate::config::{Config, LogLevel};
use crate::error::Line;
use crate::sys::{owned, root};

/// Starts logging if the configuration names a file. Never from the environment: in a hook it may be the
/// image's. A log that cannot be written is no reason to refuse a container.
pub(super) fn start(config: &Config) {
    let Some(path) = config.log_file.as_deref() else {
        return;
    };
    let file = match open(path) {
        Ok(file) => file,
        Err(why) => {
            super::inject::say(&format!(
                "warning: log file {} is not written: {why}",
                path.display()
            ));
            return;
        }
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
        .format(write_line)
        .target(env_logger::Target::Pipe(Box::new(file)));
    // Fails only if a logger is there already.
    let _ = builder.try_init();
}

/// What is logged has ids, names and values in it that others chose. It is escaped here, so no call site can forget it.
fn write_line(out: &mut impl Write, record: &log::Record<'_>) -> io::Result<()> {
    let text = record.args().to_string();
    writeln!(out, "[{:<5} {}] {}", record.level(), record.target(), Line(&text))
}

/// Opens the file for appending: our own, by its only name, in a directory that only root can change. In `/tmp` somebody else
/// can be there first, with a file of theirs or a second name of one of ours.
fn open(path: &Path) -> Result<File, String> {
    let (dir, name) = root::split(path).map_err(|e| e.to_string())?;
    let dir = match owned::find(dir) {
        Ok(Some(dir)) => dir,
        Ok(None) => return Err("its directory does not exist".to_owned()),
        Err(e) => return Err(format!("{}: {}", e.what(), e.why())),
    };
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o640));
    let file = File::from(file.map_err(|e| e.to_string())?);
    let meta = file.metadata().map_err(|e| e.to_string())?;
    if !meta.is_file() || meta.nlink() != 1 {
        return Err("it is no file of its own".to_owned());
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(format!("it belongs to user {}", meta.uid()));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line() {
        let mut out = Vec::new();
        let id = format!(
            "id\n[INFO ] forged \u{1b}[2J\u{9b}\u{202e}\u{2028}\r{}",
            "x".repeat(20_000)
        );
        let record = |args| {
            log::Record::builder()
                .level(log::Level::Error)
                .target("t")
                .args(args)
                .build()
        };
        write_line(&mut out, &record(format_args!("{id}: refused"))).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("[ERROR t] id\\n[INFO ] forged \\u{1b}[2J"));
        let line = text.strip_suffix('\n').unwrap();
        let plain = |c: char| !c.is_control() && !matches!(c, '\u{202e}' | '\u{2028}');
        assert!(line.chars().all(plain) && line.len() < 17_000);
    }

    #[test]
    fn the_file_is_our_own() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        open(&at("new")).unwrap();
        open(&at("new")).unwrap();
        std::fs::hard_link(at("new"), at("other")).unwrap();
        assert!(open(&at("new")).unwrap_err().contains("of its own"));
        std::fs::remove_file(at("other")).unwrap();
        std::os::unix::fs::symlink(at("new"), at("link")).unwrap();
        open(&at("link")).unwrap_err();
        open(&at("none/new")).unwrap_err();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(at("new"), Some(1000), None).unwrap();
            assert!(open(&at("new")).unwrap_err().contains("user 1000"));
        }
    }
}
