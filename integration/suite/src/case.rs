//! A hostile case: who does what to a container's start, and what must become of it.

use std::io;

use serde_json::Value;

use crate::expect::{Expect, Outcome};
use crate::fault::Kind;
use crate::host::Host;
use crate::host::watch::Touch;
use crate::image::Image;
use crate::probe::Question;
use crate::way::{EVERYWHERE, Way};

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
    /// Files of the host that another user put there.
    pub(crate) host: fn(&Host) -> io::Result<()>,
    /// What the image's author did to its file system.
    pub(crate) trick: fn(&mut Image) -> io::Result<()>,
    pub(crate) request: Request,
    pub(crate) ways: &'static [Way],
    pub(crate) expect: Expect,
    /// The naive hook's fault. It proves that the case can fail.
    pub(crate) bites: Bite,
    /// Ways beside the usual one on which the naive hook changes the host.
    pub(crate) bites_also: &'static [Way],
    /// More questions to the container.
    pub(crate) questions: &'static [Question],
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
        ways: EVERYWHERE,
        expect: Expect::always(Outcome::Gpu),
        bites: Bite::Nothing,
        bites_also: &[],
        questions: &[],
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

/// The naive hook changes the host.
pub(crate) const CHANGES_THE_HOST: Bite = Bite::Guilty(Kind::HostChanged);
/// The naive hook waits, or reads without an end.
pub(crate) const HANGS: Bite = Bite::Guilty(Kind::Hang);
/// The naive hook fails with a message of a program that it calls.
pub(crate) const FAILS: Bite = Bite::Guilty(Kind::NoCode);
