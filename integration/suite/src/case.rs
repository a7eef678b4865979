//! A hostile case: who does what to a container's start, and what must become of it.

use std::io;

use serde_json::Value;

use crate::after::After;
use crate::expect::{Cgroup, Expect, Outcome};
use crate::fault::Kind;
use crate::host::watch::Touch;
use crate::image::Image;
use crate::probe::Question;
use crate::scene::Scene;
use crate::way::{EVERYWHERE, Runtime, Way};

/// A row of SECURITY.md's table, and its cases.
#[derive(Debug)]
pub(crate) struct Class {
    /// 0 is the control: no row.
    pub(crate) number: u32,
    /// The attack.
    pub(crate) attack: &'static str,
    /// nvoci's answer.
    pub(crate) decision: &'static str,
    /// Tests elsewhere, as `integration/hostile/table` finds them: `FILE::TEST` or `SUITE:WORDS`.
    pub(crate) also: &'static [&'static str],
    pub(crate) cases: &'static [Case],
}

/// One case. It is run once for each runtime and way.
#[derive(Debug)]
pub(crate) struct Case {
    /// `NUMBER_VARIANT`.
    pub(crate) id: &'static str,
    /// The attack in a sentence.
    pub(crate) why: &'static str,
    /// The administrator's `/etc/nvoci/config.toml`.
    pub(crate) policy: &'static str,
    /// What another user, or the administrator, put on the host.
    pub(crate) host: fn(&mut Scene<'_>) -> io::Result<()>,
    /// What the image's author did to its file system.
    pub(crate) trick: fn(&mut Image) -> io::Result<()>,
    pub(crate) request: Request,
    /// What stands where the definition names the hook.
    pub(crate) hook: Hook,
    /// The hook's input, where a case calls it directly.
    pub(crate) direct: Direct,
    /// crun starts in this cgroup, and leaves its container there.
    pub(crate) callers_cgroup: Option<&'static str>,
    pub(crate) ways: &'static [Way],
    /// The case needs this version of cgroups, or this runtime.
    pub(crate) only: fn(Cgroup, Runtime) -> bool,
    pub(crate) expect: Expect,
    /// The naive hook's fault. It proves that the case can fail.
    pub(crate) bites: Bite,
    /// Ways beside the usual one on which the naive hook changes the host.
    pub(crate) bites_also: &'static [Way],
    /// More questions to the container.
    pub(crate) questions: &'static [Question],
    /// The image's loader can be given a cache.
    pub(crate) has_loader: bool,
    /// More that must hold after the container has ended.
    pub(crate) check: fn(&mut After<'_, '_>) -> io::Result<()>,
    /// Files of the host that the case itself opens.
    pub(crate) touches: &'static [Touch],
    /// Milliseconds for a start.
    pub(crate) limit: u64,
}

/// The container's definition.
#[derive(Debug)]
pub(crate) struct Request {
    /// `NAME=VALUE`.
    pub(crate) env: &'static [&'static str],
    /// An edit of config.json.
    pub(crate) edit: fn(&mut Value),
}

/// The program of the definition's hook.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hook {
    /// A line of shell first, and then the tool.
    After(&'static str),
    /// A script in the tool's place.
    Script(&'static str),
    Tool,
}

/// How the hook is called without a runtime.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Direct {
    /// The state for the bundle at this path.
    pub(crate) state: fn(&str) -> Vec<u8>,
    /// At `createContainer`, the hook has a mount namespace of its own.
    pub(crate) stage: &'static str,
}

/// What a case does to the naive hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bite {
    /// The naive hook is found guilty of this.
    Guilty(Kind),
    /// The naive hook has no part that the case could fool.
    Nothing,
    /// The naive hook passes: the image is harmless.
    Passes,
}

impl Case {
    /// The image is unchanged, and the container requests the first GPU.
    pub(crate) const HARMLESS: Self = Self {
        id: "",
        why: "",
        policy: "",
        host: |_| Ok(()),
        trick: |_| Ok(()),
        request: Request::FIRST_GPU,
        hook: Hook::Tool,
        direct: Direct::CREATE_CONTAINER,
        callers_cgroup: None,
        ways: EVERYWHERE,
        only: |_, _| true,
        expect: Expect::always(Outcome::Gpu),
        bites: Bite::Nothing,
        bites_also: &[],
        questions: &[],
        has_loader: true,
        check: |_| Ok(()),
        touches: &[],
        limit: 8000,
    };
}

impl Request {
    pub(crate) const FIRST_GPU: Self = Self {
        env: &["NVIDIA_VISIBLE_DEVICES=0"],
        edit: |_| (),
    };
}

impl Direct {
    /// As a runtime calls it.
    pub(crate) const CREATE_CONTAINER: Self = Self {
        state: |bundle| {
            let id = "direct";
            let head = format!(r#"{{"ociVersion":"1.0.2","id":"{id}","status":"creating","pid":0"#);
            format!(r#"{head},"bundle":"{bundle}"}}"#).into_bytes()
        },
        stage: "createContainer",
    };
}

/// The naive hook changes the host.
pub(crate) const CHANGES_THE_HOST: Bite = Bite::Guilty(Kind::HostChanged);
/// The naive hook waits, or reads without an end.
pub(crate) const HANGS: Bite = Bite::Guilty(Kind::Hang);
/// The naive hook fails with a message of a program that it calls.
pub(crate) const FAILS: Bite = Bite::Guilty(Kind::NoCode);
