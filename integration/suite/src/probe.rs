//! The answers of the program inside the container (`integration/probe/probe.c`).

/// The probe's output, one fact a line.
#[derive(Debug, Default)]
pub(crate) struct Answers(String);

/// A question about a file or a device in the container, and the answer that it must have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    option: &'static str,
    subject: &'static str,
    answer: Answer,
}

/// The answer that a question must have.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// Any. The contents of a host's secret are a fault in every case.
    Any,
    /// A file's contents.
    Hash,
    OneOf(&'static [&'static str]),
}

impl Question {
    /// The file must be there.
    pub(crate) const fn present(path: &'static str) -> Self {
        Self::hash(path, Answer::Hash)
    }

    /// The file must be missing.
    pub(crate) const fn missing(path: &'static str) -> Self {
        Self::hash(path, Answer::OneOf(&["errno-2"]))
    }

    /// The file may be there, but not with the contents of a file of the host.
    pub(crate) const fn contents(path: &'static str) -> Self {
        Self::hash(path, Answer::Any)
    }

    /// The device's node must answer so.
    pub(crate) const fn device(path: &'static str, answers: &'static [&'static str]) -> Self {
        Self {
            option: "--dev",
            subject: path,
            answer: Answer::OneOf(answers),
        }
    }

    /// A node of this number that the container makes itself must answer so.
    pub(crate) const fn number(number: &'static str, answers: &'static [&'static str]) -> Self {
        Self {
            option: "--mknod",
            subject: number,
            answer: Answer::OneOf(answers),
        }
    }

    const fn hash(path: &'static str, answer: Answer) -> Self {
        Self {
            option: "--hash",
            subject: path,
            answer,
        }
    }

    /// The probe's arguments.
    pub(crate) fn arguments(self) -> [&'static str; 2] {
        [self.option, self.subject]
    }

    /// Why the answer is wrong.
    pub(crate) fn wrong(self, answers: &Answers) -> Option<String> {
        let Self {
            option,
            subject,
            answer,
        } = self;
        let got = answers.got(&format!("{} {subject}", option.trim_start_matches('-')));
        let fits = match answer {
            Answer::Any => !got.is_empty(),
            Answer::Hash => !got.is_empty() && !got.starts_with("errno-"),
            Answer::OneOf(wanted) => wanted.contains(&got.as_str()),
        };
        (!fits).then(|| format!("{option} {subject} must be {answer:?}, got '{got}'"))
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

    /// The container read this file of the host, under whatever name.
    pub(crate) fn has_contents(&self, contents: &[u8]) -> bool {
        let wanted = format!("{:016x}", hash(contents));
        let hashes = self.0.lines().filter(|line| line.starts_with("hash "));
        hashes
            .filter_map(|line| line.rsplit(' ').next())
            .any(|got| got == wanted)
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Every answer to a question.
    pub(crate) fn all<'a>(&'a self, question: &'a str) -> impl Iterator<Item = &'a str> {
        self.answers(question)
    }

    fn answers<'a>(&'a self, question: &'a str) -> impl Iterator<Item = &'a str> {
        let lines = self.0.lines();
        lines.filter_map(move |line| line.strip_prefix(question)?.strip_prefix(' '))
    }
}

/// The probe's hash: FNV-1a over words of 8 bytes, and over the bytes of the rest.
fn hash(contents: &[u8]) -> u64 {
    let mut words = contents.chunks_exact(8);
    let step = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x100_0000_01b3);
    let length = u64::try_from(contents.len()).unwrap_or_default();
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ length;
    for word in words.by_ref() {
        hash = step(hash, word.try_into().map(u64::from_le_bytes).unwrap_or_default());
    }
    words
        .remainder()
        .iter()
        .fold(hash, |hash, byte| step(hash, (*byte).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_secret_is_found_under_any_name() {
        // By `probe --hash` of a file with these contents.
        let answers = Answers::new("hash /a 9ee7e7efa003149b\nprobe done\n".to_owned());
        assert!(answers.has_contents(b"a secret of the host\n"));
        assert!(!answers.has_contents(b"another\n"));
    }

    #[test]
    fn an_answer_is_what_the_question_wants() {
        let answers = Answers::new("dev /a absent\nmknod 1:2 unmade errno-1\n".to_owned());
        assert!(Question::device("/a", &["absent"]).wrong(&answers).is_none());
        assert!(Question::device("/a", &["refused"]).wrong(&answers).is_some());
        assert!(Question::device("/b", &["absent"]).wrong(&answers).is_some());
        let number = Question::number("1:2", &["refused", "unmade errno-1"]);
        assert!(number.wrong(&answers).is_none());
        assert!(Question::contents("/a").wrong(&answers).is_some());
    }
}
