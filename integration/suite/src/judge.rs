//! The verdict on one start. It is a function of what was observed, and has no I/O.

use crate::commands::is_control;
use crate::expect::Outcome;
use crate::fault::{Fault, Kind, shortened};
use crate::probe::{Answers, Question};
use crate::way::Way;

/// What was observed of one start.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) way: Way,
    /// The runtime's exit status.
    pub(crate) status: i32,
    pub(crate) milliseconds: u128,
    pub(crate) limit: u128,
    /// The runtime's standard error.
    pub(crate) errors: String,
    /// nvoci's record of the error.
    pub(crate) record: String,
    /// The output of `nvoci plan`, where the hook was called directly.
    pub(crate) plan: String,
    pub(crate) answers: Answers,
    /// A secret of the host is among the answers.
    pub(crate) has_secret: bool,
    /// The hook's limits may keep it from writing a message: its exit status has the error's class.
    pub(crate) is_limited: bool,
    /// The container's program is the probe.
    pub(crate) is_probe: bool,
    /// The image's layer has the loader's configuration of an injection.
    pub(crate) is_injected: bool,
}

/// More than this is nothing that a person reads.
const LONG: usize = 20_000;

/// The faults of a start that must end in `expected`. A started container must answer `questions`.
pub(crate) fn judge(facts: &Facts, expected: Outcome, questions: &[Question]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |kind, text: String| faults.push(Fault::new(kind, text));
    if facts.milliseconds >= facts.limit {
        fault(Kind::Hang, format!("took {} ms", facts.milliseconds));
    }
    let is_coded = facts.is_coded();
    let by_hook = facts.names_a_hook();
    if facts.status != 0 && !is_coded && by_hook {
        let line = last_line(&facts.errors);
        fault(Kind::NoCode, format!("refused without a code: {line}"));
    }
    for (name, text) in [("the messages", facts.output()), ("the plan", facts.plan.clone())] {
        if text.bytes().any(is_control) {
            fault(Kind::Words, format!("control characters in {name}"));
        }
    }
    if facts.output().len() >= LONG {
        fault(Kind::Words, format!("{} bytes of messages", facts.output().len()));
    }
    if facts.has_secret {
        let text = "a file of the host came into the container";
        fault(Kind::Secret, text.to_owned());
    }
    match expected {
        Outcome::Gpu | Outcome::NoGpu | Outcome::Started if facts.way.is_direct() => {
            if facts.status != 0 {
                let line = last_line(&facts.output());
                fault(Kind::Decision, format!("did not end well: {line}"));
            } else if facts.is_injected != (expected != Outcome::NoGpu) {
                let text = format!("injected: {}", facts.is_injected);
                fault(Kind::Decision, text);
            }
        }
        Outcome::Gpu | Outcome::NoGpu | Outcome::Started => {
            if facts.status != 0 {
                let line = last_line(&facts.output());
                fault(Kind::Decision, format!("did not start: {line}"));
            } else {
                if facts.is_probe && !facts.answers.is_finished() {
                    let text = "the probe did not finish, nothing is proved";
                    fault(Kind::Decision, text.to_owned());
                }
                let wrong = questions
                    .iter()
                    .filter_map(|question| question.wrong(&facts.answers));
                wrong.for_each(|text| fault(Kind::Decision, text));
                match expected {
                    Outcome::Gpu => faults.extend(first_gpu_only(facts)),
                    Outcome::NoGpu => faults.extend(no_gpu(facts)),
                    _ => {}
                }
            }
        }
        Outcome::Refused(code) | Outcome::RefusedEither(code, _) => {
            if facts.status == 0 {
                fault(Kind::Started, "the container started".to_owned());
                faults.extend(no_gpu(facts));
            } else if !is_coded {
                fault(Kind::NoCode, "refused without a code".to_owned());
            } else if let Some(wrong) = facts.wrong_status() {
                faults.push(wrong);
            } else if !expected
                .codes()
                .is_some_and(|codes| codes.iter().any(|code| facts.has_code(*code)))
            {
                let line = last_line(&facts.output());
                fault(
                    Kind::Decision,
                    format!("refused, but not with NVOCI-{code}: {line}"),
                );
            }
        }
        Outcome::RuntimeRefuses => {
            if facts.status == 0 {
                let text = "the container started, where the runtime refused such an image";
                fault(Kind::Started, text.to_owned());
            } else if is_coded || by_hook {
                let line = last_line(&facts.output());
                fault(Kind::Decision, format!("a hook refused, not the runtime: {line}"));
            }
        }
    }
    faults
}

impl Facts {
    /// All texts for a person.
    pub(crate) fn output(&self) -> String {
        format!("{}{}", self.errors, self.record)
    }

    /// An error code was printed. crun discards the output of a user's hook; its exit status has
    /// the class of the error.
    fn is_coded(&self) -> bool {
        codes(&self.errors).chain(codes(&self.record)).next().is_some()
            || self.may_be_silent() && self.exit_status().is_some()
    }

    fn has_code(&self, code: u16) -> bool {
        codes(&self.errors).chain(codes(&self.record)).any(|c| c == code)
            || self.printed().next().is_none()
                && self.may_be_silent()
                && self.exit_status() == Some(status_of(code))
    }

    /// The codes that were printed. They decide, and the status where there are none.
    fn printed(&self) -> impl Iterator<Item = u16> {
        codes(&self.errors).chain(codes(&self.record))
    }

    /// Nothing failed on the way: a refusal of this kind comes before the first change.
    pub(crate) fn was_no_failure(&self) -> bool {
        self.exit_status() != Some(14) && !self.printed().any(|code| status_of(code) == 14)
    }

    /// The exit status of nvoci where it is seen, and another than its code's.
    fn wrong_status(&self) -> Option<Fault> {
        let code = self.printed().last()?;
        let seen = if self.way.is_direct() {
            u16::try_from(self.status).ok()
        } else {
            self.hooks_status()
        }?;
        // By these names of the program, an error's status is the other program's: those of
        // nvidia-container-cli, and of nvidia-cdi-hook in a specification.
        let is_others = self.output().contains("nvidia-container-cli: ") || self.way.is_by_specification();
        if is_others && seen == 1 {
            return None;
        }
        let wanted = status_of(code);
        let text = format!("NVOCI-{code} with exit status {seen}, not {wanted}");
        (seen != wanted).then(|| Fault::new(Kind::Decision, text))
    }

    fn may_be_silent(&self) -> bool {
        self.way.is_rootless() || self.is_limited
    }

    /// A hook's exit status that is an error's class.
    fn exit_status(&self) -> Option<u16> {
        self.hooks_status().filter(|status| (10..=15).contains(status))
    }

    /// The hook's exit status, as crun prints it, `exit code: 14)`, or runc, `exit status 14`.
    fn hooks_status(&self) -> Option<u16> {
        let mut ends = ["exit code: ", "exit status "]
            .iter()
            .filter_map(|words| self.errors.split_once(words));
        let (_, rest) = ends.next()?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest.get(..end)?.parse().ok()
    }

    fn names_a_hook(&self) -> bool {
        self.way.is_direct() || self.errors.to_ascii_lowercase().contains("hook")
    }
}

/// The exit status of an error code: by its thousands, but for a shared cgroup, which is unsafe.
fn status_of(code: u16) -> u16 {
    if code == 5201 { 13 } else { code / 1000 + 9 }
}

/// The numbers of the codes in a text.
fn codes(text: &str) -> impl Iterator<Item = u16> {
    let parts = text.split("NVOCI-").skip(1);
    parts.filter_map(|part| part.get(..4)?.parse().ok())
}

fn last_line(text: &str) -> String {
    shortened(text.lines().last().unwrap_or_default(), 300).to_owned()
}

/// The container has the first GPU, and no other.
fn first_gpu_only(facts: &Facts) -> Vec<Fault> {
    let answers = &facts.answers;
    let mut faults = Vec::new();
    let mut wanted = |fits: bool, kind, what: &str, question: &str| {
        if !fits {
            let got = answers.got(question);
            faults.push(Fault::new(kind, format!("{what}: {question} is '{got}'")));
        }
    };
    let first = "dev /dev/nvidia0";
    wanted(
        answers.opens(first),
        Kind::Decision,
        "/dev/nvidia0 does not open",
        first,
    );
    let other = "dev /dev/nvidia1";
    wanted(
        !answers.opens(other),
        Kind::ForeignGpu,
        "a GPU nobody asked for",
        other,
    );
    // A user's container makes no nodes at all, and gVisor's kernel has no drivers.
    if !facts.way.is_rootless() && !facts.way.is_gvisor() {
        let first = "mknod 195:0";
        let text = "the requested GPU is refused by its number";
        wanted(answers.opens(first), Kind::Decision, text, first);
        // A file opens too, but not as the GPU's number does.
        let (node, number) = (answers.got("dev /dev/nvidia0"), answers.got(first));
        let both_open = answers.opens("dev /dev/nvidia0") && answers.opens(first);
        let text = "/dev/nvidia0 is another file than the GPU's node";
        wanted(
            !both_open || node == number,
            Kind::Decision,
            text,
            "dev /dev/nvidia0",
        );
        let other = "mknod 195:1";
        let text = "a GPU nobody asked for opens by its number";
        wanted(answers.has(other, &["refused"]), Kind::ForeignGpu, text, other);
    }
    faults
}

fn no_gpu(facts: &Facts) -> Option<Fault> {
    let questions = [
        "dev /dev/nvidia0",
        "dev /dev/nvidia1",
        "mknod 195:0",
        "mknod 195:1",
    ];
    let open = questions
        .into_iter()
        .find(|question| facts.answers.opens(question))?;
    let text = format!("a GPU nobody may have: {open} {}", facts.answers.got(open));
    Some(Fault::new(Kind::ForeignGpu, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "dev /dev/nvidia0 nodriver\ndev /dev/nvidia1 absent\nmknod 195:0 nodriver\nmknod 195:1 refused\nprobe done\n";
    const NONE: &str = "dev /dev/nvidia0 absent\ndev /dev/nvidia1 absent\nmknod 195:0 refused\nmknod 195:1 refused\nprobe done\n";

    fn started(answers: &str) -> Facts {
        Facts {
            way: Way::CreateRuntime,
            status: 0,
            milliseconds: 100,
            limit: 8000,
            errors: String::new(),
            record: String::new(),
            plan: String::new(),
            answers: Answers::new(answers.to_owned()),
            has_secret: false,
            is_limited: false,
            is_probe: true,
            is_injected: false,
        }
    }

    fn failed(errors: &str) -> Facts {
        Facts {
            status: 1,
            errors: errors.to_owned(),
            ..started("")
        }
    }

    fn kinds(facts: &Facts, expected: Outcome) -> Vec<Kind> {
        judge(facts, expected, &[])
            .into_iter()
            .map(|fault| fault.kind)
            .collect()
    }

    #[test]
    fn a_start_has_the_first_gpu_and_no_other() {
        assert_eq!(kinds(&started(FIRST), Outcome::Gpu), []);
        assert_eq!(kinds(&started(FIRST), Outcome::NoGpu), [Kind::ForeignGpu]);
        assert_eq!(kinds(&started(FIRST), Outcome::Started), []);
        assert_eq!(kinds(&started(NONE), Outcome::NoGpu), []);
        assert_eq!(kinds(&started(NONE), Outcome::Gpu), [Kind::Decision; 2]);
        let both = FIRST
            .replace("nvidia1 absent", "nvidia1 ok")
            .replace("195:1 refused", "195:1 nodriver");
        assert_eq!(kinds(&started(&both), Outcome::Gpu), [Kind::ForeignGpu; 2]);
        let file = FIRST.replace("nvidia0 nodriver", "nvidia0 ok");
        assert_eq!(kinds(&started(&file), Outcome::Gpu), [Kind::Decision]);
        // No answer about the other's number proves nothing.
        assert_eq!(
            kinds(
                &started(&FIRST.replace("mknod 195:1 refused\n", "")),
                Outcome::Gpu
            ),
            [Kind::ForeignGpu]
        );
    }

    #[test]
    fn a_container_that_did_not_run_proves_nothing() {
        for outcome in [Outcome::NoGpu, Outcome::Started] {
            assert_eq!(kinds(&started(""), outcome), [Kind::Decision]);
            let cut = NONE.replace("probe done\n", "");
            assert_eq!(kinds(&started(&cut), outcome), [Kind::Decision]);
        }
    }

    #[test]
    fn a_users_container_makes_no_nodes() {
        let answers =
            "dev /dev/nvidia0 nodriver\ndev /dev/nvidia1 absent\nmknod 195:0 unmade errno-1\nprobe done\n";
        for way in [Way::Rootless, Way::GvisorNvproxy] {
            let facts = Facts {
                way,
                ..started(answers)
            };
            assert_eq!(kinds(&facts, Outcome::Gpu), []);
        }
        assert_eq!(
            kinds(&started(answers), Outcome::Gpu),
            [Kind::Decision, Kind::ForeignGpu]
        );
    }

    #[test]
    fn a_refusal_has_the_expected_code() {
        let refused = failed("crun: error executing hook (exit code: 13)\nx; fix: y [NVOCI-4002]\n");
        assert_eq!(kinds(&refused, Outcome::Refused(4002)), []);
        assert_eq!(kinds(&refused, Outcome::Refused(4003)), [Kind::Decision]);
        assert_eq!(kinds(&refused, Outcome::RefusedEither(2001, 4002)), []);
        assert_eq!(
            kinds(&refused, Outcome::RefusedEither(2001, 4003)),
            [Kind::Decision]
        );
        assert_eq!(kinds(&refused, Outcome::Gpu), [Kind::Decision]);
        assert_eq!(kinds(&refused, Outcome::RuntimeRefuses), [Kind::Decision]);
        assert_eq!(kinds(&started(NONE), Outcome::Refused(4002)), [Kind::Started]);
        assert_eq!(
            kinds(&started(FIRST), Outcome::Refused(4002)),
            [Kind::Started, Kind::ForeignGpu]
        );
        let recorded = Facts {
            record: r#"{"code":"NVOCI-4002"}"#.to_owned(),
            ..failed("error executing hook")
        };
        assert_eq!(kinds(&recorded, Outcome::Refused(4002)), []);
    }

    #[test]
    fn an_exit_status_is_a_code_for_a_users_container_alone() {
        let refused = failed("error executing hook `/usr/bin/nvoci` (exit code: 13)\n");
        assert_eq!(kinds(&refused, Outcome::Refused(4002)), [Kind::NoCode; 2]);
        let rootless = Facts {
            way: Way::Rootless,
            ..refused
        };
        assert_eq!(kinds(&rootless, Outcome::Refused(4002)), []);
        assert_eq!(kinds(&rootless, Outcome::Refused(5201)), []);
        assert_eq!(kinds(&rootless, Outcome::Refused(3001)), [Kind::Decision]);
        assert_eq!(kinds(&rootless, Outcome::Refused(5002)), [Kind::Decision]);
    }

    #[test]
    fn a_code_has_its_status() {
        for (errors, faults) in [
            ("hook: exit status 13, stderr: x [NVOCI-4002]", 0),
            ("hook (exit code: 13)\nx [NVOCI-4002]", 0),
            ("hook (exit code: 1)\nx [NVOCI-4002]", 1),
            ("hook: exit status 1, stderr: x [NVOCI-4002]", 1),
            ("hook (exit code: 1)\nnvidia-container-cli: x [NVOCI-4002]", 0),
            ("hook: x [NVOCI-4002]", 0),
        ] {
            assert_eq!(
                kinds(&failed(errors), Outcome::Refused(4002)).len(),
                faults,
                "{errors}"
            );
        }
        // A code that was printed is not another of its class.
        let limited = Facts {
            is_limited: true,
            ..failed("hook (exit code: 13)\nx [NVOCI-4001]")
        };
        assert_eq!(kinds(&limited, Outcome::Refused(4002)), [Kind::Decision]);
    }

    #[test]
    fn a_runtime_refuses_by_itself() {
        let refused = failed("crun: mount `x`: Too many levels of symbolic links\n");
        assert_eq!(kinds(&refused, Outcome::RuntimeRefuses), []);
        assert_eq!(kinds(&refused, Outcome::Gpu), [Kind::Decision]);
        assert_eq!(kinds(&refused, Outcome::Refused(4002)), [Kind::NoCode]);
        assert_eq!(kinds(&started(FIRST), Outcome::RuntimeRefuses), [Kind::Started]);
    }

    #[test]
    fn a_container_answers_the_cases_questions() {
        let questions = [Question::present("/a"), Question::missing("/b")];
        let count =
            |answers: &str| judge(&started(&format!("{FIRST}{answers}")), Outcome::Gpu, &questions).len();
        assert_eq!(count("hash /a 0123\nhash /b errno-2\n"), 0);
        assert_eq!(count("hash /a errno-2\nhash /b 0123\n"), 2);
        assert_eq!(count(""), 2);
    }

    #[test]
    fn a_hook_that_is_called_directly_has_to_inject() {
        let direct = Facts {
            way: Way::Direct,
            ..started("")
        };
        assert_eq!(kinds(&direct, Outcome::Gpu), [Kind::Decision]);
        assert_eq!(kinds(&direct, Outcome::NoGpu), []);
        let injected = Facts {
            is_injected: true,
            ..direct
        };
        assert_eq!(kinds(&injected, Outcome::Gpu), []);
        assert_eq!(kinds(&injected, Outcome::NoGpu), [Kind::Decision]);
        let silent = Facts {
            way: Way::Direct,
            ..failed("")
        };
        assert_eq!(kinds(&silent, Outcome::Refused(1101)), [Kind::NoCode; 2]);
    }

    #[test]
    fn a_secret_and_control_characters_are_faults_everywhere() {
        let secret = Facts {
            has_secret: true,
            ..started(FIRST)
        };
        assert_eq!(kinds(&secret, Outcome::Gpu), [Kind::Secret]);
        let escapes = failed("hook: \x1b[2J [NVOCI-3004]");
        assert_eq!(kinds(&escapes, Outcome::Refused(3004)), [Kind::Words]);
        let long = failed(&format!("hook [NVOCI-3004] {}", "x".repeat(LONG)));
        assert_eq!(kinds(&long, Outcome::Refused(3004)), [Kind::Words]);
        let plan = Facts {
            plan: "\x07".to_owned(),
            ..started(FIRST)
        };
        assert_eq!(kinds(&plan, Outcome::Gpu), [Kind::Words]);
    }

    #[test]
    fn the_limit_is_exclusive() {
        let mut facts = started(FIRST);
        facts.milliseconds = 7999;
        assert_eq!(kinds(&facts, Outcome::Gpu), []);
        facts.milliseconds = 8000;
        assert_eq!(kinds(&facts, Outcome::Gpu), [Kind::Hang]);
    }
}
