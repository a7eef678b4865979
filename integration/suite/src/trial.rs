//! One case with one runtime by one way: its container is made, started, judged and removed.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::after::After;
use crate::bundle::{Bundle, specification};
use crate::caller;
use crate::case::{self, Case};
use crate::commands;
use crate::definition::{self, Hook};
use crate::expect::{Outcome, Place};
use crate::fault::{Fault, Kind};
use crate::host::left;
use crate::host::state::State;
use crate::host::watch::{Touch, Watcher};
use crate::host::{Host, SECRET, WORLD, make_canary, set_policy};
use crate::image::{Image, remove};
use crate::judge::{Facts, judge};
use crate::probe::Answers;
use crate::process::{run, run_silently, words};
use crate::promise;
use crate::scene::Scene;
use crate::way::{Runtime, Way};

/// Where the naive tools are.
const TOOLS: &str = "/integration/hostile";
/// The script of a case in the place of the hook.
const HOOK: &str = "/scratch/hook";
/// Starts a command in a cgroup.
const IN_CGROUP: &str = "/scratch/in-cgroup";

/// What every injection leaves in the layer of an image that has a loader.
const LOADER_CONFIGURATION: &str = "etc/ld.so.conf.d/00-nvoci.conf";

/// The program in the place of the hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// Does nothing.
    Idle,
    /// A hook with the mistakes of its kind.
    Naive,
    Nvoci,
    /// Follows the image's link and leaves no trace.
    Peek(&'static str),
}

/// What is tried.
#[derive(Debug)]
pub(crate) struct Trial<'a> {
    pub(crate) host: &'a Host,
    pub(crate) case: &'a Case,
    pub(crate) runtime: Runtime,
    pub(crate) way: Way,
    pub(crate) tool: Tool,
    /// The watcher's program.
    pub(crate) watcher: &'a str,
    /// Milliseconds for the start.
    pub(crate) limit: u64,
    /// A number of its own.
    pub(crate) number: u32,
    /// A directory for outputs.
    pub(crate) evidence: &'a Path,
}

impl Trial<'_> {
    /// Runs the trial. No fault: it passed.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        self.with_same_mounts()
            .unwrap_or_else(|e| vec![Fault::new(Kind::Suite, format!("the suite failed: {e}"))])
    }

    fn with_same_mounts(&self) -> io::Result<Vec<Fault>> {
        let left = left::now()?;
        let before = State::of_mounts()?;
        let mut faults = self.with_bundle()?;
        // A naive tool's are ended by its caller.
        if self.tool == Tool::Nvoci
            && let Some(difference) = left::since(&left)?
        {
            let text = format!("left on the host: {difference}");
            faults.push(Fault::new(Kind::LeftBehind, text));
        }
        let after = State::of_mounts()?;
        if before != after {
            let text = format!("mounts left behind: {}", before.difference(&after, 5));
            faults.push(Fault::new(Kind::MountsLeft, text));
        }
        Ok(faults)
    }

    fn with_bundle(&self) -> io::Result<Vec<Fault>> {
        during("the canary", make_canary())?;
        during("the policy", self.set_policy())?;
        if self.way.is_rootless() {
            during("the user's image", caller::prepare_user())?;
        }
        let layer = self.way.is_rootless().then_some(caller::USERS_IMAGE);
        let bundle = during("the bundle", Bundle::make(self.number, layer))?;
        during("the definition", self.define(&bundle))?;
        let probe = format!("{WORLD}/probe/probe-static");
        during("the probe", fs::copy(probe, bundle.root().join("probe")))?;
        let mut scene = Scene::new(self.host, &bundle, self.runtime, self.evidence);
        during("the hook's script", self.write_scripts())?;
        during("the case's host", (self.case.host)(&mut scene))?;
        if let Some(cgroup) = self.case.callers_cgroup {
            during("the caller's cgroup", scene.cgroup(cgroup))?;
        }
        let mut image = Image::new(bundle.root());
        during("the case's trick", (self.case.trick)(&mut image))?;
        if self.way.is_rootless() {
            during("the user's bundle", caller::give_to_user(&bundle.path))?;
        }
        self.with_same_host(&mut scene, &image)
    }

    fn write_scripts(&self) -> io::Result<()> {
        let (tool, _) = self.tool.program();
        let text = match self.case.hook {
            case::Hook::After(line) => format!("#!/bin/sh\n{line}\nexec {tool} \"$@\"\n"),
            case::Hook::Script(text) => text.to_owned(),
            case::Hook::Tool => String::new(),
        };
        for (path, text) in [
            (HOOK, text.as_str()),
            (
                IN_CGROUP,
                "#!/bin/sh\necho 0 >$1/cgroup.procs\nshift\nexec \"$@\"\n",
            ),
        ] {
            fs::write(path, text)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    fn set_policy(&self) -> io::Result<()> {
        let policy = self.case.policy;
        if matches!(self.way, Way::Entry | Way::RootlessEntry) {
            set_policy(&format!("runtimes = [\"{}\"]\n{policy}\n", self.runtime.name()))
        } else {
            set_policy(&format!("{policy}\n"))
        }
    }

    fn define(&self, bundle: &Bundle) -> io::Result<()> {
        let definition = self.definition(bundle)?;
        let text = serde_json::to_vec_pretty(&definition)?;
        fs::write(self.evidence.join("config.json"), text)?;
        bundle.write(&definition)
    }

    fn with_same_host(&self, scene: &mut Scene<'_>, image: &Image) -> io::Result<Vec<Fault>> {
        let before = during("the host before", State::of_host())?;
        let layer = during("the layer before", State::of_layer(&scene.bundle.upper()))?;
        let (mut faults, start) = self.watched(scene.bundle)?;
        if let Some(facts) = start {
            let after = during("the layer after", State::of_layer(&scene.bundle.upper()))?;
            fs::write(
                self.evidence.join("layer"),
                layer.difference(&after, 500).replace('|', "\n"),
            )?;
            let is_refused = facts.status != 0 && facts.was_no_failure();
            let (added, gone) = (layer.added(&after), after.added(&layer));
            if self.tool == Tool::Nvoci {
                faults.extend(promise::layer(self.way, added, gone, is_refused));
            }
            faults.extend(self.verdict(scene, image, facts)?);
        }
        let after = during("the host after", State::of_host())?;
        if before != after {
            let text = format!("the host was changed: {}", before.difference(&after, 3));
            faults.push(Fault::new(Kind::HostChanged, text));
        }
        Ok(faults)
    }

    /// The verdict on a start, and the case's own check where it ended as expected.
    fn verdict(&self, scene: &mut Scene<'_>, image: &Image, facts: Facts) -> io::Result<Vec<Fault>> {
        let place = Place {
            root: self.host.root,
            cgroup: self.host.cgroup,
            runtime: self.runtime,
            way: self.way,
        };
        let expected = self.case.expect.at(place);
        let mut faults = judge(&facts, expected, self.case.questions);
        if self.tool == Tool::Nvoci && facts.status == 0 && !self.way.is_direct() {
            let definition: Value = serde_json::from_slice(&fs::read(self.evidence.join("config.json"))?)?;
            let started = promise::Started {
                way: self.way,
                answers: &facts.answers,
                definition: &definition,
                libcuda: &self.host.libcuda_files()?,
                resolve: &|path| image.resolved(path),
                is_in_callers_cgroup: self.case.callers_cgroup.is_some(),
                has_loader: self.case.has_loader,
            };
            faults.extend(promise::faults(&started, expected));
        }
        let is_refused = expected.codes().is_some();
        if expected == Outcome::RuntimeRefuses || (facts.status == 0) == is_refused {
            return Ok(faults);
        }
        let mut after = After {
            scene,
            image,
            messages: facts.output(),
            answers: facts.answers,
            faults: Vec::new(),
        };
        during("the case's check", (self.case.check)(&mut after))?;
        faults.extend(after.faults);
        Ok(faults)
    }

    /// Runs the case under the watcher. The commands that people run have no start to be judged.
    fn watched(&self, bundle: &Bundle) -> io::Result<(Vec<Fault>, Option<Facts>)> {
        let watcher = Watcher::begin(self.watcher);
        let found = if self.way == Way::Commands {
            commands::faults(self.runtime, bundle, self.evidence).map(|faults| (faults, None))
        } else {
            self.start(bundle).map(|facts| (Vec::new(), Some(facts)))
        };
        let delete = self.command(&["delete", "--force", &bundle.container], Purpose::Delete);
        run_silently(&delete, Duration::from_secs(20))?;
        let mut touches = self.case.touches.to_vec();
        if self.way.is_gvisor() {
            // It gives its standard input an owner.
            touches.push(Touch::attributes("/dev/null").by("runsc"));
        }
        let mut faults: Vec<Fault> = match watcher {
            Ok(watcher) => watcher.end(&touches).into_iter().collect(),
            Err(fault) => vec![fault],
        };
        let (more, facts) = found?;
        faults.extend(more);
        Ok((faults, facts))
    }

    fn start(&self, bundle: &Bundle) -> io::Result<Facts> {
        let path = bundle.path.to_string_lossy();
        let (command, container) = if self.way.is_direct() {
            (self.direct(&path)?, "direct")
        } else {
            let arguments = ["run", "--bundle", &path, &bundle.container];
            (
                self.command(&arguments, Purpose::Start),
                bundle.container.as_str(),
            )
        };
        let record = format!("/run/nvoci/errors/{container}.json");
        remove(Path::new(&record))?;
        let ended = run(
            &command,
            Duration::from_millis(self.limit),
            self.evidence,
            "start",
        )?;
        if self.way.is_direct() && self.tool == Tool::Nvoci {
            // `plan` prints the same result to a person.
            let plan = words(&["nvoci", "plan", &path]);
            run(&plan, Duration::from_secs(8), self.evidence, "plan")?;
        }
        let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let facts = Facts {
            way: self.way,
            status: ended.status,
            milliseconds: ended.milliseconds,
            limit: self.limit.into(),
            errors: text(&self.evidence.join("start.err")),
            record: text(Path::new(&record)),
            plan: text(&self.evidence.join("plan.out")) + &text(&self.evidence.join("plan.err")),
            answers: Answers::new(text(&self.evidence.join("start.out"))),
            has_secret: false,
            is_limited: matches!(self.case.hook, case::Hook::After(_)),
            is_probe: fs::read_to_string(self.evidence.join("config.json"))?.contains("\"/probe\""),
            is_injected: bundle.path.join("upper").join(LOADER_CONFIGURATION).exists(),
        };
        let facts = Facts {
            has_secret: facts.answers.has_contents(SECRET),
            ..facts
        };
        fs::write(self.evidence.join("record"), &facts.record)?;
        Ok(facts)
    }

    /// The hook's own command, with the state of the case as its input.
    fn direct(&self, bundle: &str) -> io::Result<Vec<String>> {
        let state = self.evidence.join("state");
        fs::write(&state, (self.case.direct.state)(bundle))?;
        let stage = self.case.direct.stage;
        let state = state.to_string_lossy();
        let mut command = vec!["sh", "-c", "exec \"$@\" <\"$0\"", &state];
        if self.way.is_rootless() {
            command.push(caller::AS_USER);
        } else if stage == Way::CreateContainer.name() {
            command.extend(["unshare", "-m", "--propagation", "private"]);
        }
        let (path, arguments) = self.tool.program();
        command.push(path);
        command.extend(arguments.into_iter().skip(1));
        command.push(stage);
        Ok(words(&command))
    }

    fn definition(&self, bundle: &Bundle) -> io::Result<Value> {
        let (tool, mut arguments) = self.tool.program();
        let is_tool = matches!(self.case.hook, case::Hook::Tool);
        let path = if is_tool { tool } else { HOOK };
        let stage = self.stage();
        arguments.push(stage);
        let hook = self.way.has_hook().then_some(Hook {
            stage,
            path,
            arguments,
        });
        let id = bundle.path.file_name().unwrap_or_default().to_string_lossy();
        let mut spec = definition::of_case(specification(self.runtime)?, &id, hook.as_ref(), self.case);
        match self.way {
            Way::Cdi | Way::Gvisor => {
                definition::apply_cdi(&mut spec, &caller::cdi()?);
                if self.tool == Tool::Naive {
                    definition::replace_hooks(
                        &mut spec,
                        "createContainer",
                        tool,
                        &["naive", "createContainer"],
                    );
                }
            }
            Way::GvisorNvproxy => {
                let cli = format!("{TOOLS}/naive-cli");
                caller::link_container_cli(if self.tool == Tool::Naive { &cli } else { "nvoci" })?;
                // runsc searches for a hook of this name, and does not run it.
                let name = "nvidia-container-runtime-hook";
                spec["hooks"] =
                    json!({"prestart": [{"path": format!("/usr/bin/{name}"), "args": [name, "prestart"]}]});
            }
            _ => {}
        }
        if self.way.is_rootless() {
            definition::as_user(&mut spec);
        }
        if self.way.is_gvisor() {
            spec["linux"]["cgroupsPath"] = json!("");
        }
        Ok(spec)
    }

    /// The hook's stage. A way without one has the earliest of the case.
    fn stage(&self) -> &'static str {
        let ways = self.case.ways;
        let early = ways.contains(&Way::CreateRuntime) || !ways.contains(&Way::CreateContainer);
        match self.way {
            Way::CreateContainer | Way::CreateRuntime | Way::Prestart => self.way.name(),
            _ if early => Way::CreateRuntime.name(),
            _ => Way::CreateContainer.name(),
        }
    }

    fn command(&self, arguments: &[&str], purpose: Purpose) -> Vec<String> {
        let start = purpose == Purpose::Start;
        let entry = matches!(self.way, Way::Entry | Way::RootlessEntry);
        let mut command = Vec::new();
        let callers = self.case.callers_cgroup.filter(|_| start);
        if let Some(cgroup) = callers {
            command.extend([IN_CGROUP, cgroup]);
        }
        if self.way.is_rootless() {
            command.push(caller::AS_USER);
        }
        if start && entry {
            command.extend(["nvoci", "runtime"]);
        } else {
            command.push(self.runtime.name());
        }
        if start && self.runtime == Runtime::Crun && (self.way.is_rootless() || callers.is_some()) {
            command.push("--cgroup-manager=disabled");
        }
        if self.way.is_gvisor() {
            command.extend([
                "--root",
                "/scratch/runsc",
                "--platform=systrap",
                "--ignore-cgroups",
                "--network=none",
            ]);
            if start && self.way == Way::GvisorNvproxy {
                command.extend(["--nvproxy", "--nvproxy-driver-version=latest"]);
            }
        }
        command.extend(arguments);
        words(&command)
    }
}

/// Names the step that failed.
fn during<T>(step: &str, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|e| io::Error::other(format!("{step}: {e}")))
}

/// What a runtime is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Delete,
    Start,
}

impl Tool {
    /// The path of the program, and its arguments before the stage.
    fn program(self) -> (&'static str, Vec<&'static str>) {
        match self {
            Self::Idle => ("/bin/true", vec!["true"]),
            Self::Naive => ("/integration/hostile/naive", vec!["naive"]),
            Self::Nvoci => ("/usr/bin/nvoci", vec!["nvoci", "hook"]),
            Self::Peek(what) => ("/integration/hostile/peek", vec!["peek", what]),
        }
    }
}
