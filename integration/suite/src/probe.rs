//! The answers of the program inside the container (`integration/probe/probe.c`).

/// The probe's output, one fact a line.
#[derive(Debug, Default)]
pub(crate) struct Answers(String);

impl Answers {
    pub(crate) fn new(output: String) -> Self {
        Self(output)
    }

    /// Whether the answer to a question such as `dev /dev/nvidia0` is one of `answers`.
    pub(crate) fn has(&self, question: &str, answers: &[&str]) -> bool {
        self.answers(question).any(|answer| answers.contains(&answer))
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
