//! How a container's request reaches nvoci, and which ways a run takes.

/// A low-level runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    Crun,
    Runc,
    Runsc,
}

impl Runtime {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::Crun, Self::Runc, Self::Runsc]
            .into_iter()
            .find(|runtime| runtime.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crun => "crun",
            Self::Runc => "runc",
            Self::Runsc => "runsc",
        }
    }
}

/// A way from a container's definition to nvoci.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The static CDI specification, applied as an engine applies it: the runtime does the mounts.
    Cdi,
    /// The commands that people run on a bundle or a file system. No container is judged.
    Commands,
    CreateContainer,
    CreateRuntime,
    /// The hook itself, without a runtime: its standard input has the state that the case gives.
    Direct,
    /// `nvoci runtime` instead of the runtime.
    Entry,
    /// CDI under runsc, which does the mounts and makes the nodes.
    Gvisor,
    /// runsc calls `nvidia-container-cli configure` itself.
    GvisorNvproxy,
    Prestart,
    /// A user's own runtime, in a user namespace of uid 1500 with its sub-ids.
    Rootless,
    /// The hook itself, in the user's namespace.
    RootlessDirect,
    RootlessEntry,
}

use Way::{
    Cdi, Commands, CreateContainer, CreateRuntime, Direct, Entry, Gvisor, GvisorNvproxy, Prestart, Rootless,
    RootlessDirect, RootlessEntry,
};

/// Where the image's file system is the trick.
pub(crate) const EVERYWHERE: &[Way] = &[
    Prestart,
    CreateRuntime,
    CreateContainer,
    Commands,
    Rootless,
    RootlessEntry,
    Cdi,
    Gvisor,
    GvisorNvproxy,
];
/// As `EVERYWHERE`, without the ways where the runtime's own mounts meet the trick.
pub(crate) const BUT_CDI: &[Way] = &[
    Prestart,
    CreateRuntime,
    CreateContainer,
    Commands,
    Rootless,
    RootlessEntry,
];

impl Way {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Cdi => "cdi",
            Commands => "look",
            CreateContainer => "createContainer",
            CreateRuntime => "createRuntime",
            Direct => "direct",
            Entry => "entry",
            Gvisor => "gvisor",
            GvisorNvproxy => "gvisor-nvproxy",
            Prestart => "prestart",
            Rootless => "rootless",
            RootlessDirect => "rootless-direct",
            RootlessEntry => "rootless-entry",
        }
    }

    /// A user's runtime: no device cgroup, and crun discards a hook's output.
    pub(crate) fn is_rootless(self) -> bool {
        matches!(self, Rootless | RootlessDirect | RootlessEntry)
    }

    /// There is no runtime, and no container.
    pub(crate) fn is_direct(self) -> bool {
        matches!(self, Direct | RootlessDirect)
    }

    pub(crate) fn is_gvisor(self) -> bool {
        matches!(self, Gvisor | GvisorNvproxy)
    }

    /// The runtime applies a specification's mounts before it calls a hook of ours.
    pub(crate) fn is_by_specification(self) -> bool {
        self == Cdi || self.is_gvisor()
    }

    pub(crate) fn has_hook(self) -> bool {
        !matches!(self, Entry | RootlessEntry) && !self.is_by_specification()
    }
}

/// How much of the ways a run takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Every way with every runtime: `HOSTILE_LONG`.
    Full,
    /// Each stage, with the first runtime.
    Stages,
    /// The ways that differ by runtime.
    Sample,
}

/// The ways of a case with `ways` under `runtime`. `class` is the case's number.
pub(crate) fn selected(ways: &[Way], class: u32, runtime: Runtime, extent: Extent) -> Vec<Way> {
    let full = extent == Extent::Full;
    let has = |way: Way| ways.contains(&way);
    // In one run the user's two ways are one program with two parents: runc has the hook.
    let both = has(Rootless) && has(RootlessEntry);
    let keep = |way: Way| match way {
        Gvisor | GvisorNvproxy if runtime != Runtime::Runsc => false,
        Gvisor => full || class <= 3,
        GvisorNvproxy => true,
        _ if runtime == Runtime::Runsc => false,
        _ if full => true,
        RootlessEntry if extent == Extent::Stages => false,
        _ if extent == Extent::Stages => true,
        Commands | Direct | Prestart => false,
        Rootless | RootlessDirect | RootlessEntry | Cdi if runtime == Runtime::Runc => false,
        Rootless => !both,
        CreateRuntime if runtime == Runtime::Runc => !has(CreateContainer),
        _ => true,
    };
    ways.iter().copied().filter(|way| keep(*way)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(ways: &[Way], class: u32, runtime: Runtime, extent: Extent) -> String {
        let selected = selected(ways, class, runtime, extent);
        selected
            .iter()
            .map(|way| way.name())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn a_run_takes_each_way_once_over_its_hosts() {
        let stages = "prestart createRuntime createContainer look rootless cdi";
        assert_eq!(names(EVERYWHERE, 5, Runtime::Runc, Extent::Stages), stages);
        assert_eq!(
            names(EVERYWHERE, 5, Runtime::Runc, Extent::Sample),
            "createContainer"
        );
        let sample = "createRuntime createContainer rootless-entry cdi";
        assert_eq!(names(EVERYWHERE, 5, Runtime::Crun, Extent::Sample), sample);
        assert_eq!(
            names(EVERYWHERE, 5, Runtime::Runsc, Extent::Stages),
            "gvisor-nvproxy"
        );
        assert_eq!(
            names(EVERYWHERE, 3, Runtime::Runsc, Extent::Stages),
            "gvisor gvisor-nvproxy"
        );
        assert_eq!(names(BUT_CDI, 5, Runtime::Runsc, Extent::Full), "");
        let full = "prestart createRuntime createContainer look rootless rootless-entry cdi";
        assert_eq!(names(EVERYWHERE, 5, Runtime::Crun, Extent::Full), full);
        // A case with one stage keeps it under each runtime.
        assert_eq!(
            names(&[CreateRuntime], 42, Runtime::Runc, Extent::Sample),
            "createRuntime"
        );
        assert_eq!(
            names(&[Entry, RootlessEntry], 45, Runtime::Runc, Extent::Stages),
            "entry"
        );
    }
}
