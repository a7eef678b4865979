//! The answers of the program inside the container (`integration/probe/probe.c`).

/// The probe's output, one fact a line.
#[derive(Debug, Default)]
pub(crate) struct Answers(String);

/// A question about a file in the container, and the answer that it must have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    path: &'static str,
    present: bool,
}

impl Question {
    /// The file must be there.
    pub(crate) const fn present(path: &'static str) -> Self {
        Self { path, present: true }
    }

    /// The file must be missing.
    pub(crate) const fn missing(path: &'static str) -> Self {
        Self { path, present: false }
    }

    /// The probe's arguments.
    pub(crate) fn arguments(self) -> [&'static str; 2] {
        ["--hash", self.path]
    }

    /// Why the answer is wrong.
    pub(crate) fn wrong(self, answers: &Answers) -> Option<String> {
        let got = answers.got(&format!("hash {}", self.path));
        let is_hash = !got.is_empty() && !got.starts_with("errno-");
        let fits = if self.present { is_hash } else { got == "errno-2" };
        let wanted = if self.present { "present" } else { "missing" };
        (!fits).then(|| format!("{} must be {wanted}, got '{got}'", self.path))
    }
}

impl Answers {
    pub(crate) fn new(output: String) -> Self {
        Self(output)
    }

    /// Whether the answer to a question such as `dev /dev/nvidia0` is one of `answers`.
    pub(crate) fn has(&self, question: &str, answers: &[&str]) -> bool {
        self.answers(question).any(|answer| answers.contains(&answer))
    }

    /// The probe came to its end.
    pub(crate) fn is_finished(&self) -> bool {
        self.0.lines().any(|line| line == "probe done")
    }

    /// Whether a device opens: `nodriver` is a node that the cgroup lets through to no driver.
    pub(crate) fn opens(&self, question: &str) -> bool {
        self.has(question, &["ok", "nodriver"])
    }

    /// The answers to a question, for a message.
    pub(crate) fn got(&self, question: &str) -> String {
        let answers: Vec<&str> = self.answers(question).collect();
        answers.join("|")
    }

    fn answers<'a>(&'a self, question: &'a str) -> impl Iterator<Item = &'a str> {
        let lines = self.0.lines();
        lines.filter_map(move |line| line.strip_prefix(question)?.strip_prefix(' '))
    }
}
