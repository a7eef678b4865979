//! The log file of the configuration: requests, results and refusals, one a line.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use log::LevelFilter;
use rustix::fs::{Mode, OFlags};

use crate::config::{Config, LogLevel};
use crate::error::Line;
use crate::sys::{owned, root};

/// Starts logging if the configuration names a file. The environment never names it: a hook may
/// have the image's. A log that cannot be written stops no container.
pub(super) fn start(config: &Config) {
    let Some(path) = config.log_file.as_deref() else {
        return;
    };
    let file = match open(path) {
        Ok(file) => file,
        Err(why) => {
            super::inject::write_line(&format!(
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
    // Fails only if there is a logger already.
    let _ = builder.try_init();
}

/// Ids, names and values come from others. They are escaped here, so no call site can forget it.
fn write_line(out: &mut impl Write, record: &log::Record<'_>) -> io::Result<()> {
    let text = record.args().to_string();
    writeln!(out, "[{:<5} {}] {}", record.level(), record.target(), Line(&text))
}

/// Opens the file for appending. It must be root's, with one name only, in a directory that only
/// root can change. In `/tmp` another user could plant a file, or a link to one of root's.
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
        return Err("it is not a regular file with one name".to_owned());
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
        assert!(open(&at("new")).unwrap_err().contains("with one name"));
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
