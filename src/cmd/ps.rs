//! `nvoci ps [--json | --prometheus]`: the running containers and processes that hold GPUs.

mod cpu;
mod metrics;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use self::cpu::OnCpus;
use super::cli::{Command, Page, flag};
use crate::containers::{Container, GpuUsers, Process, driver_places, find_gpu_users};
use crate::doctor::last::last;
use crate::error::{Code, Escaped, IoContext as _, Result, counted};
use crate::host::{Gpu, Host, Roots};
use crate::sys::root::Root;
use crate::vocabulary::or_empty;

pub(super) static COMMAND: Command<Options> = Command {
    page: Page {
        name: "nvoci ps",
        summary: "show the running containers and processes that use GPUs",
        about: &[
            "Lists the running containers that have GPUs, and the processes that use one at this moment, \
                  according to the kernel: open descriptors, device nodes, mounts, cgroups. Root sees all of \
                  them.",
            "`CPU only` marks a container that holds a GPU and does not use it: the hook's preflight check found \
                  at its start that it cannot, and no process of it has a GPU open.",
        ],
        ..Page::EMPTY
    },
    flags: &[
        flag("json", "print one JSON document, with stable keys").switch(|o| o.json = true),
        flag(
            "prometheus",
            "print metrics for the textfile collector of Prometheus' node exporter",
        )
        .switch(|o| o.prometheus = true),
    ],
    ..Command::of(run)
};

fn run(options: Options) -> Result<ExitCode> {
    let form = options.form()?;
    let config = super::load_config(None)?;
    let places = driver_places(&config.driver_dirs);
    let holders = find_gpu_users(Path::new("/proc"), &places).context(Code::System, || "/proc")?;
    // Names for the numbers. A host whose driver is gone still has processes that hold it.
    let locations = super::locations(&config);
    let host = Roots::open(&locations).and_then(|roots| Host::discover(&roots, &locations));
    let (driver, gpus) = host.map_or((None, Vec::new()), |h| (h.kernel, h.gpus));
    let on_cpu = match form {
        Form::Json | Form::Table => cpu::find(Path::new("/proc"), &holders),
        Form::Prometheus => OnCpus::new(),
    };
    super::print(&match form {
        Form::Json => format!("{:#}\n", to_json(&holders, &gpus, &on_cpu)),
        Form::Prometheus => {
            let system = Root::open("/").context(Code::System, || "/")?;
            let driver = driver.map(|d| d.version.to_string()).unwrap_or_default();
            // A check that fails altogether is a missing family, on which an alert can be.
            let report = super::doctor::host::check().ok();
            let last = last(&system, usize::MAX)?;
            metrics::text(&holders, &gpus) + &metrics::health(&driver, &last, report.as_ref())
        }
        Form::Table => table(&holders, &gpus, &on_cpu),
    })?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Clone, Copy, Default)]
pub(super) struct Options {
    json: bool,
    prometheus: bool,
}

impl Options {
    fn form(self) -> Result<Form> {
        match self {
            Self {
                json: true,
                prometheus: true,
            } => Err(COMMAND.usage_error("--json and --prometheus are two forms of one output")),
            Self { json: true, .. } => Ok(Form::Json),
            Self { prometheus: true, .. } => Ok(Form::Prometheus),
            _ => Ok(Form::Table),
        }
    }
}

/// How the answer is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    Json,
    Prometheus,
    Table,
}

/// The answer as JSON. Keys are only ever added.
fn to_json(holders: &GpuUsers, gpus: &[Gpu], on_cpu: &OnCpus) -> Value {
    let named = |minors: &BTreeSet<u32>| -> Vec<Value> {
        let one = |minor: &u32| match gpus.iter().find(|g| g.minor == *minor) {
            Some(g) => json!({ "minor": minor, "index": g.index, "uuid": or_empty(g.uuid), "name": g.name }),
            None => json!({ "minor": minor }),
        };
        minors.iter().map(one).collect()
    };
    let process = |p: &Process| json!({ "pid": p.pid, "command": p.command, "gpus": named(&p.gpus) });
    let container = |c: &Container| {
        json!({
            "id": c.id, "engine": c.engine, "pid": c.pid, "cgroup": c.cgroup,
            "gpus": named(&c.gpus), "driver": c.driver, "driver_dir": c.driver_dir,
            "processes": c.processes.iter().map(process).collect::<Vec<_>>(),
            "cpu": on_cpu.get(&c.pid).map(cpu::OnCpu::to_json),
        })
    };
    json!({
        "containers": holders.containers.iter().map(container).collect::<Vec<_>>(),
        "host": holders.host.iter().map(process).collect::<Vec<_>>(),
        "unreadable": holders.unreadable,
    })
}

/// The answer for a person.
fn table(holders: &GpuUsers, gpus: &[Gpu], on_cpu: &OnCpus) -> String {
    let mut lines = Vec::new();
    let row = |cells: [&str; 6]| {
        let [id, engine, pid, held, driver, user] = cells;
        format!("{id:<14} {engine:<11} {pid:<8} {held:<9} {driver:<12} {user}")
            .trim_end()
            .to_owned()
    };
    if !holders.containers.is_empty() || !holders.host.is_empty() {
        lines.push(row(["CONTAINER", "ENGINE", "PID", "GPUS", "DRIVER", "IN USE BY"]));
    }
    for c in &holders.containers {
        let short: String = c.id.chars().take(12).collect();
        let users = c.processes.iter().map(|p| user(p, gpus));
        let users: Vec<String> = users.chain(on_cpu.get(&c.pid).map(cpu::OnCpu::cell)).collect();
        lines.push(row([
            &short,
            c.engine.unwrap_or("-"),
            &c.pid.to_string(),
            &indices(&c.gpus, gpus),
            c.driver.as_deref().unwrap_or("-"),
            &users.join(", "),
        ]));
    }
    for p in &holders.host {
        let held = indices(&p.gpus, gpus);
        lines.push(row(["-", "host", &p.pid.to_string(), &held, "-", &user(p, gpus)]));
    }
    if lines.is_empty() {
        lines.push("No running process uses a GPU.".to_owned());
    }
    if holders.unreadable > 0 {
        lines.push(format!(
            "warning: nvoci could not read {}; root with CAP_SYS_PTRACE in the host's PID namespace \
             reads all",
            counted(holders.unreadable, "process", "processes")
        ));
    }
    lines.iter().fold(String::new(), |mut text, line| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", Escaped(line));
        text
    })
}

fn user(p: &Process, gpus: &[Gpu]) -> String {
    format!("{} (pid {}, GPU {})", p.command, p.pid, indices(&p.gpus, gpus))
}

/// GPUs by index, or by minor number if the host does not have them.
fn indices(minors: &BTreeSet<u32>, gpus: &[Gpu]) -> String {
    if minors.is_empty() {
        return "-".to_owned();
    }
    let name = |minor: &u32| match gpus.iter().find(|g| g.minor == *minor) {
        Some(g) => g.index.to_string(),
        None => format!("minor {minor}"),
    };
    minors.iter().map(name).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testhost::TestHost;
    use crate::schema::Schema;

    fn holders() -> GpuUsers {
        let process = |pid, command: &str| Process {
            pid,
            command: command.to_owned(),
            gpus: BTreeSet::from([0]),
        };
        GpuUsers {
            containers: vec![Container {
                id: "3f2a".repeat(16),
                engine: Some("docker"),
                cgroup: "/docker/3f2a".to_owned(),
                pid: 77,
                gpus: BTreeSet::from([0, 9]),
                driver_dir: Some("/usr/local/nvidia".into()),
                record: None,
                driver: Some("580.1".to_owned()),
                processes: vec![process(78, "python"), process(79, "evil\u{1b}[2J")],
            }],
            host: vec![process(5, "Xorg")],
            unreadable: 2,
        }
    }

    #[test]
    fn both_forms_name_gpus_by_index() {
        let gpus = TestHost::recorded("h100-580").discover().gpus;
        let text = table(&holders(), &gpus, &OnCpus::new());
        assert!(
            text.contains(
                "3f2a3f2a3f2a   docker      77       0,minor 9 580.1        python (pid 78, GPU 0), evil"
            ),
            "{text}"
        );
        assert!(
            text.contains("-              host        5        0         -            Xorg (pid 5, GPU 0)")
        );
        assert!(text.contains("could not read 2 processes;"));
        assert!(!text.contains('\u{1b}'));
        let json = to_json(&holders(), &gpus, &OnCpus::new());
        Schema::read("ps.json").assert_valid(&json);
        assert_eq!(json["containers"][0]["gpus"][0]["index"], 0);
        assert_eq!(json["containers"][0]["gpus"][1], json!({"minor": 9}));
        assert_eq!(json["host"][0]["command"], "Xorg");
        assert!(json["containers"][0]["cpu"].is_null());
        let json = to_json(&holders(), &gpus, &cpu::tests::on_cpu(77));
        Schema::read("ps.json").assert_valid(&json);
        assert_eq!(json["containers"][0]["cpu"]["code"], "NVOCI-7702");
    }

    #[test]
    fn no_users_are_reported_as_none() {
        assert_eq!(
            table(&GpuUsers::default(), &[], &OnCpus::new()),
            "No running process uses a GPU.\n"
        );
        assert!(COMMAND.parse(["--all".into()]).is_err());
    }

    #[test]
    fn two_forms_at_once_are_refused() {
        let form = |json, prometheus| Options { json, prometheus }.form();
        assert_eq!(form(false, true).unwrap(), Form::Prometheus);
        assert_eq!(form(true, false).unwrap(), Form::Json);
        assert_eq!(form(false, false).unwrap(), Form::Table);
        assert!(form(true, true).is_err());
    }
}
