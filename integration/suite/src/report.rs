//! Verdicts, in the form of `integration/lib.sh`: a line for a reader, and a row of `cases.tsv`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::fault::{Fault, shortened};
use crate::image::remove;

/// More than a case with all its commands takes.
const CASE_LIMIT: Duration = Duration::from_secs(180);

/// Where results go.
#[derive(Debug)]
pub(crate) struct Report {
    directory: PathBuf,
    /// The guard gets the name of each case that begins, and nothing for one that ended.
    guard: Sender<Option<String>>,
    /// Evidence of passed cases stays too.
    keep: bool,
}

/// A case that has begun.
#[derive(Debug)]
pub(crate) struct Begun<'a> {
    report: &'a Report,
    name: String,
    /// The directory for its evidence.
    pub(crate) evidence: PathBuf,
    begin: Instant,
}

impl Report {
    pub(crate) fn new(directory: PathBuf, keep: bool) -> Self {
        let (guard, names) = channel();
        let guarded = directory.clone();
        thread::spawn(move || guard_cases(&guarded, &names));
        Self {
            directory,
            guard,
            keep,
        }
    }

    pub(crate) fn begin(&self, name: String) -> io::Result<Begun<'_>> {
        let evidence = self.directory.join("logs").join(name.replace([' ', '/'], "_"));
        remove(&evidence)?;
        fs::create_dir_all(&evidence)?;
        // The guard ends the whole program, so it is there.
        let _ = self.guard.send(Some(name.clone()));
        Ok(Begun {
            report: self,
            name,
            evidence,
            begin: Instant::now(),
        })
    }
}

impl Begun<'_> {
    /// Ends the case. Its evidence stays if it failed.
    pub(crate) fn end(self, faults: &[Fault]) -> io::Result<()> {
        let milliseconds = self.begin.elapsed().as_millis();
        let _ = self.report.guard.send(None);
        let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let message = one_line(&all.join("; "));
        let verdict = if faults.is_empty() { "pass" } else { "fail" };
        record(
            &self.report.directory,
            verdict,
            &self.name,
            milliseconds,
            &message,
        )?;
        if faults.is_empty() {
            if !self.report.keep {
                remove(&self.evidence)?;
            }
            return line(&format!("ok    {} ({milliseconds} ms)", self.name));
        }
        let message = shortened(&message, 500);
        let evidence = Path::display(&self.evidence);
        line(&format!("FAIL  {}: {message}\n      see {evidence}", self.name))
    }
}

/// Appends a row to `cases.tsv`.
fn record(directory: &Path, verdict: &str, name: &str, milliseconds: u128, message: &str) -> io::Result<()> {
    let row = format!("{verdict}\t{name}\t{milliseconds}\t{message}\n");
    let table = directory.join("cases.tsv");
    let mut table = OpenOptions::new().append(true).create(true).open(table)?;
    table.write_all(row.as_bytes())
}

/// Ends the program with a verdict, if a case takes longer than its limit: a call that the kernel
/// does not return from cannot be ended otherwise.
#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "the main thread does not return"
)]
fn guard_cases(directory: &Path, names: &Receiver<Option<String>>) {
    while let Ok(next) = names.recv() {
        let Some(name) = next else { continue };
        if names.recv_timeout(CASE_LIMIT) == Err(RecvTimeoutError::Timeout) {
            let message = "the case does not end; the cases after it did not run";
            let _ = record(directory, "fail", &name, CASE_LIMIT.as_millis(), message);
            let _ = line(&format!("FAIL  {name}: {message}"));
            std::process::exit(1);
        }
    }
}

/// Prints a line.
pub(crate) fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

fn one_line(text: &str) -> String {
    text.replace(['\t', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Kind;

    #[test]
    fn evidence_stays_where_a_case_failed() {
        let directory = std::env::temp_dir().join(format!("nvoci-report-{}", std::process::id()));
        let report = Report::new(directory.clone(), false);
        let passed = report.begin("a b/c".to_owned()).unwrap();
        let evidence = passed.evidence.clone();
        assert!(evidence.ends_with("logs/a_b_c") && evidence.is_dir());
        passed.end(&[]).unwrap();
        assert!(!evidence.exists());
        let failed = report.begin("d".to_owned()).unwrap();
        let evidence = failed.evidence.clone();
        failed
            .end(&[
                Fault::new(Kind::Hang, "took\n9 ms"),
                Fault::new(Kind::Started, "x"),
            ])
            .unwrap();
        assert!(evidence.is_dir());
        let table = fs::read_to_string(directory.join("cases.tsv")).unwrap();
        let columns: Vec<Vec<&str>> = table.lines().map(|row| row.split('\t').collect()).collect();
        assert_eq!(columns[0][..2], ["pass", "a b/c"]);
        assert_eq!((columns[1][0], columns[1][3]), ("fail", "took 9 ms; x"));
        fs::remove_dir_all(directory).unwrap();
    }
}
