//! How an area's report is printed: as text or JSON on standard output, and as an HTML file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use crate::cmd::cli::{Flag, flag};
use crate::cmd::runtime::rfc3339;
use crate::cmd::{is_taken, print};
use crate::doctor::Report;
use crate::doctor::html::{self, Link, Section};
use crate::doctor::render::wants_colour;
use crate::error::{Code, Error, IoContext as _, Result};
use crate::sys::owned;
use crate::sys::root::{Node, split};

/// The forms of the report that the command line names.
#[derive(Default)]
pub(in crate::cmd) struct Output {
    pub(super) json: bool,
    pub(super) html: Option<PathBuf>,
}

/// The options of an area that prints reports.
pub(in crate::cmd) trait Prints {
    fn output(&mut self) -> &mut Output;
}

impl Prints for Output {
    fn output(&mut self) -> &mut Output {
        self
    }
}

/// `--json` of every area.
pub(super) const fn json_flag<T: Prints>() -> Flag<T> {
    flag(
        "json",
        "print one JSON document: verdict and findings, with stable keys",
    )
    .switch(|o: &mut T| o.output().json = true)
}

/// `--html` of every area.
pub(super) const fn html_flag<T: Prints>() -> Flag<T> {
    flag(
        "html",
        "also write the report to FILE, one HTML page for a ticket",
    )
    .path("FILE", |o: &mut T, file| o.output().html = Some(file))
}

impl Output {
    /// Prints the report on one link; the exit status is its verdict.
    pub(super) fn show_one(&self, report: &Report, link: Link) -> Result<ExitCode> {
        let link = Some(link);
        self.show(&[Section { report, link }])
    }

    /// Prints reports in their order; the exit status is the worst verdict.
    pub(super) fn show(&self, sections: &[Section<'_>]) -> Result<ExitCode> {
        // A failure leaves standard output to the error.
        if let Some(file) = &self.html {
            write(file, &html::page(sections, &rfc3339(SystemTime::now())))?;
        }
        let reports = || sections.iter().map(|s| s.report);
        if self.json {
            if let Some(all) = reports().cloned().reduce(Report::joined) {
                print(&format!("{:#}\n", all.to_json()))?;
            }
        } else {
            let texts: Vec<String> = reports().map(|r| r.to_text(wants_colour())).collect();
            print(&texts.join("\n"))?;
        }
        Ok(ExitCode::from(reports().map(Report::status).max().unwrap_or(0)))
    }
}

/// Writes a file that is there as a whole or not at all.
///
/// # Errors
/// If another user could redirect it, or the name is taken by something that is no regular file.
fn write(file: &Path, text: &str) -> Result<()> {
    write_whole(file, text).map_err(|e| e.fix("name a file in a directory of your own after --html"))
}

fn write_whole(file: &Path, text: &str) -> Result<()> {
    let what = || format!("HTML report {}", file.display());
    let refuse = |why: &str| Err(Error::new(Code::File, what(), why));
    if file == Path::new("-") {
        return refuse("standard output has the report as text or JSON");
    }
    let path = std::path::absolute(file).context(Code::File, what)?;
    let (dir, name) = split(&path).context(Code::File, what)?;
    let dir = directory(dir)?;
    if is_taken(&dir, name) {
        return refuse("it exists and is no regular file");
    }
    // A report holds paths, logs and variables: it is for its owner to pass on.
    dir.write_file(name, 0o600, text.as_bytes())
        .context(Code::File, what)
}

/// Opens a directory that only root and this user can have chosen, or one without any link on the
/// way: `sudo nvoci doctor --html report.html` in the home directory of the person.
fn directory(path: &Path) -> Result<Node> {
    match owned::find(path) {
        Ok(Some(dir)) => return Ok(dir),
        Ok(None) => {
            return Err(Error::new(
                Code::File,
                path.display().to_string(),
                "the directory does not exist",
            ));
        }
        Err(_) => {}
    }
    let what = || path.display().to_string();
    let mut dir =
        owned::find(Path::new("/"))?.ok_or_else(|| Error::new(Code::System, "/", "it does not exist"))?;
    for part in path.components().skip(1) {
        dir = dir.child(part.as_os_str()).context(Code::File, what)?;
        if !dir.is_dir() {
            let why = format!(
                "{} is a link that a user other than root can change",
                part.as_os_str().display()
            );
            return Err(Error::new(Code::UnsafePath, what(), why));
        }
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_report_replaces_a_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        write(&at("a.html"), "1").unwrap();
        write(&at("a.html"), "2").unwrap();
        assert_eq!(std::fs::read_to_string(at("a.html")).unwrap(), "2");
        std::fs::write(at("precious"), "kept").unwrap();
        symlink("precious", at("link")).unwrap();
        assert!(write(Path::new("-"), "3").is_err());
        for name in ["link", "."] {
            assert!(write(&at(name), "3").is_err(), "{name}");
        }
        std::fs::hard_link(at("precious"), at("twin")).unwrap();
        write(&at("twin"), "4").unwrap();
        assert_eq!(std::fs::read_to_string(at("precious")).unwrap(), "kept");
        for name in ["", "/", "-"] {
            let refused = write(Path::new(name), "4").unwrap_err();
            assert!(refused.to_string().contains("after --html"), "{refused}");
        }
        let missing = write(&at("none/x.html"), "5").unwrap_err();
        assert!(missing.to_string().contains("does not exist"), "{missing}");
        assert!(write(Path::new("/dev/null"), "6").is_err());
        assert!(write(Path::new("/dev/stdout"), "7").is_err());
    }

    #[test]
    fn another_users_directory_is_entered_without_its_links() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        std::fs::create_dir_all(home.join("reports")).unwrap();
        std::fs::create_dir(dir.path().join("roots")).unwrap();
        symlink(dir.path().join("roots"), home.join("trap")).unwrap();
        for path in [&home, &home.join("reports")] {
            std::os::unix::fs::chown(path, Some(1000), None).unwrap();
        }
        std::os::unix::fs::lchown(home.join("trap"), Some(1000), None).unwrap();
        write(&home.join("reports/x.html"), "1").unwrap();
        write(&home.join("x.html"), "1").unwrap();
        let refused = write(&home.join("trap/x.html"), "2").unwrap_err();
        assert_eq!(refused.code(), Code::UnsafePath);
        assert!(!dir.path().join("roots/x.html").exists());
    }
}
