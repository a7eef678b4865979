//! The hook's order, as types: each step consumes the one before, so a step out of order does not
//! compile.
//!
//! | step | holds | mount namespace | rights | has changed |
//! |---|---|---|---|---|
//! | [`Requested`] | definition, configuration, request, the container's namespace | the runtime's | root's | nothing |
//! | [`Planned`] | plan, the host's directories as descriptors, devices to allow | the runtime's | capabilities that the rest needs | missing nodes and modules of the host, if the policy allows it |
//! | [`Opened`] | the driver's files as detached mounts, the child that reads the image | the runtime's | as before | the container's device rules |
//! | [`Entered`] | the same, without the container's namespace | the container's | confined: four capabilities, files as the container's root | as before |
//! | [`Applied`] | the record | the container's | as before | the container's driver directory, links and loader files |
//!
//! A `createContainer` hook starts in the container's mount namespace, and enters none.
//!
//! No step is inlined: the values of all steps together would be a frame of seven pages, each of
//! which the kernel makes, and copies after the fork.
//!
//! Two arguments of SECURITY.md rest on this order. The hook opens everything of the host before it
//! reads anything of the container: [`Planned::open`] consumes the host's directories, so
//! [`Entered`] has no access to them. And the hook reads the container only confined: only
//! [`Opened::enter`] makes an [`Entered`], and only that one can apply.
//!
//! ```
//! use nvoci::cmd::hook::steps::{Applied, Requested};
//!
//! fn in_order(requested: Requested<'_>) -> nvoci::error::Result<Applied<'_>> {
//!     requested.plan()?.open()?.enter()?.apply()
//! }
//! ```
//!
//! A container is changed only after the hook has entered it:
//!
//! ```compile_fail,E0599
//! use nvoci::cmd::hook::steps::{Applied, Requested};
//!
//! fn apply_before_enter(requested: Requested<'_>) -> nvoci::error::Result<Applied<'_>> {
//!     requested.plan()?.open()?.apply()
//! }
//! ```
//!
//! The hook opens the driver's files before it enters the container:
//!
//! ```compile_fail,E0599
//! use nvoci::cmd::hook::steps::{Applied, Requested};
//!
//! fn enter_before_open(requested: Requested<'_>) -> nvoci::error::Result<Applied<'_>> {
//!     requested.plan()?.enter()?.apply()
//! }
//! ```
//!
//! Inside, the hook can no longer open anything of the host:
//!
//! ```compile_fail,E0382
//! use nvoci::cmd::hook::steps::{Opened, Planned};
//!
//! fn open_again(planned: Planned<'_>) -> nvoci::error::Result<Opened<'_>> {
//!     let _inside = planned.open()?.enter()?;
//!     planned.open()
//! }
//! ```

use std::mem::{ManuallyDrop, take};
use std::path::PathBuf;
use std::time::Instant;

use super::warn::{Sinks, Wanted, image_name};
use super::{
    Namespace, Options, REMOUNTS, Stage, bundle, container_namespace, destinations, devices, go_inside, keep,
    made_by_runtime, planned, preflight, request_of, selinux, tmpfs_destinations,
};
use crate::apply::grant::since_boot;
use crate::apply::rootfs::{Target, apply};
use crate::apply::{Container, Grant, Grants, Image, Record, Sources, Warning};
use crate::cmd::inject::Discovery;
use crate::cmd::{config_for, log};
use crate::config::{Config, Preflight};
use crate::error::Result;
use crate::findings::{Finding, Severity};
use crate::host::Roots;
use crate::oci::{Spec, State};
use crate::plan::{Device, Plan, Unusable};
use crate::preflight::PARTITIONED;
use crate::request::{Capabilities, Request};
use crate::sys::cgroup::DeviceCgroup;
use crate::sys::ns::in_user_namespace;
use crate::sys::root::Node;
use crate::sys::{process, stderr};

/// The call of the hook.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) options: &'a Options,
    pub(super) state: &'a State,
    pub(super) started: Instant,
}

impl Call<'_> {
    /// The container's first process, for a hook outside of the container.
    fn outside(self) -> Option<i32> {
        (self.options.stage == Stage::Outside)
            .then_some(self.state.pid)
            .flatten()
    }

    /// The process that becomes the container's. In a `createContainer` hook it is this process's
    /// parent, whose number the state does not have.
    fn process(self) -> Option<i32> {
        match self.options.stage {
            Stage::Inside => stderr::parent(),
            _ => self.outside(),
        }
    }
}

/// The data that every step holds.
#[derive(Debug)]
struct Job<'a> {
    call: Call<'a>,
    spec: Spec,
    rootfs: PathBuf,
    /// nvoci's directory below the host's `/run`.
    run: Option<&'a Node>,
    /// Opened before the hook enters the container's mount namespace, where /run is another
    /// directory.
    grants: Option<Grants>,
    /// The clock since boot is the container's.
    own_times: bool,
    sinks: Sinks,
}

/// A container that requests GPUs. Nothing is changed.
#[derive(Debug)]
pub struct Requested<'a> {
    job: Job<'a>,
    namespace: Namespace,
    config: Box<Config>,
    request: Request,
    discovery: Option<Result<Box<Discovery>>>,
}

impl<'a> Requested<'a> {
    /// Reads the definition; `None` if it requests nothing. `defaults` replace a configuration that
    /// cannot be read. `discovery` has begun if the definition certainly has a request. `run` is
    /// nvoci's directory below `/run`.
    ///
    /// # Errors
    /// If the definition cannot be read, its request is refused, or there is no container to enter.
    #[inline(never)]
    pub(super) fn read(
        call: Call<'a>,
        config: Result<Box<Config>>,
        defaults: &Config,
        discovery: Option<Result<Box<Discovery>>>,
        run: Option<&'a Node>,
    ) -> Result<Option<Self>> {
        let Call { options, state, .. } = call;
        let inside = options.stage == Stage::Inside;
        let known = config.as_deref().unwrap_or(defaults);
        let (bundle, spec) = bundle::open(state, inside, known)?;
        let Some(config) = config_for(config, &spec, options.entry())? else {
            return Ok(None);
        };
        log::start(&config);
        let Some(request) = request_of(&spec, &config, options)? else {
            return Ok(None);
        };
        let rootfs = spec.root_path(bundle.path())?;
        let namespace = container_namespace(state, options.stage)?;
        let own_times = inside && spec.has_time_namespace();
        let grants = run.filter(|_| !own_times).and_then(|run| Grants::below(run).ok());
        let job = Job {
            call,
            spec,
            rootfs,
            run,
            grants,
            own_times,
            sinks: Sinks::default(),
        };
        Ok(Some(Self {
            job,
            namespace,
            config,
            request,
            discovery,
        }))
    }

    /// Discovers the host, makes the plan, and drops the capabilities that only this step needs.
    ///
    /// # Errors
    /// If the host cannot meet the request.
    #[inline(never)]
    pub fn plan(self) -> Result<Planned<'a>> {
        let Self {
            job,
            namespace,
            config,
            request,
            discovery,
        } = self;
        let settled = request.settle(&config);
        // The image chooses the capabilities, so all that bring libcuda bring the check.
        let policy = if request.capabilities.intersects(Capabilities::CUDA) {
            *settled.preflight
        } else {
            Preflight::Off
        };
        let wanted = Wanted::of(&settled, policy, &job.spec);
        // An engine's CDI devices may have been `all`.
        let gpus = if job.call.options.cdi {
            devices::Wanted::Any
        } else {
            devices::Wanted::of(&request.devices)
        };
        let discovery =
            discovery.map_or_else(|| Discovery::begin(&config), |begun| begun.map(|boxed| *boxed))?;
        let (mut plan, host, to_allow) = planned(discovery, request, &job.spec, &config, job.call.options)?;
        if job.spec.is_privileged() && !job.spec.has_user_namespace() && !in_user_namespace() {
            plan.warnings.push(REMOUNTS.to_owned());
        }
        process::drop_capabilities();
        Ok(Planned {
            job,
            namespace,
            plan,
            host,
            to_allow,
            gpus,
            policy,
            wanted,
        })
    }
}

/// A plan, and its host.
#[derive(Debug)]
pub struct Planned<'a> {
    job: Job<'a>,
    namespace: Namespace,
    plan: Plan,
    host: Roots,
    to_allow: Vec<Device>,
    gpus: devices::Wanted,
    policy: Preflight,
    wanted: Wanted,
}

impl<'a> Planned<'a> {
    /// Opens the driver's files while a child reads the image, and allows the devices in the
    /// container's cgroup. Afterwards the process can reach nothing of the host but those files.
    ///
    /// # Errors
    /// If a file of the driver is missing, the child cannot start, or the cgroup denies the
    /// devices.
    #[inline(never)]
    pub fn open(self) -> Result<Opened<'a>> {
        let Self {
            mut job,
            namespace,
            mut plan,
            host,
            to_allow,
            gpus,
            policy,
            wanted,
        } = self;
        let outside = job.call.outside();
        // Before there is a child, which may be in the container's cgroup as well.
        let cgroup =
            (!plan.no_cgroups && !to_allow.is_empty()).then(|| DeviceCgroup::of(outside)?.claim(outside));
        // The child reads while this process opens the driver's files.
        let image = Image::open(&job.rootfs, namespace.enter.as_ref(), &plan, |root| {
            preflight(&plan, &job.spec, root, policy)
        })?;
        // The child must inherit neither: a file system that never answers holds it for ever, and
        // an engine reads a container's standard error until every writer has closed it.
        job.sinks = Sinks::open(wanted, || job.call.process());
        let sources = Sources::open(&plan, &host, made_by_runtime(&job.spec, job.call.options.stage))?;
        let denied = selinux::check(&job.spec, host.sys.as_ref(), sources.labelled_devices())?;
        plan.warnings.extend(denied);
        if let Some(cgroup) = cgroup {
            let rules = job.spec.device_rules();
            let warnings = devices::allow(cgroup, outside, &rules, &to_allow, gpus, &host)?;
            plan.warnings.extend(warnings);
        }
        if job.call.options.devices_in_spec && outside.is_none() {
            let warning = devices::check_here(&plan.devices, gpus, &host)?;
            plan.warnings.extend(warning);
        }
        Ok(Opened {
            job,
            namespace,
            plan,
            policy,
            image,
            sources,
        })
    }
}

/// The host's files for the container, and the child that reads the image.
#[derive(Debug)]
pub struct Opened<'a> {
    job: Job<'a>,
    namespace: Namespace,
    plan: Plan,
    policy: Preflight,
    image: Image,
    sources: Sources,
}

impl<'a> Opened<'a> {
    /// Enters the container, confines the process, and waits for the image's file system.
    ///
    /// # Errors
    /// If the container cannot be entered, its rootfs is unsafe, or its file system does not
    /// answer.
    #[inline(never)]
    pub fn enter(self) -> Result<Entered<'a>> {
        let Self {
            job,
            namespace: Namespace { id, enter },
            plan,
            policy,
            mut image,
            sources,
        } = self;
        go_inside(job.call.outside(), enter)?;
        // An error of the rootfs itself comes first.
        Container::open_root(&job.rootfs)?;
        image.wait_ready()?;
        Ok(Entered {
            job,
            namespace: id,
            plan,
            policy,
            image,
            sources,
        })
    }
}

/// A confined process in the container.
#[derive(Debug)]
pub struct Entered<'a> {
    job: Job<'a>,
    /// The kernel's numbers of it.
    namespace: (u64, u64),
    plan: Plan,
    policy: Preflight,
    image: Image,
    sources: Sources,
}

impl<'a> Entered<'a> {
    /// Applies the plan to the container's rootfs.
    ///
    /// # Errors
    /// Those of [`apply`].
    #[inline(never)]
    pub fn apply(self) -> Result<Applied<'a>> {
        let Self {
            job,
            namespace,
            plan,
            policy,
            image,
            sources,
        } = self;
        let target = Target {
            tmpfs: tmpfs_destinations(&job.spec),
            mounts: Some(destinations(&job.spec)),
            host: None,
            mount_label: job.spec.mount_label().map(str::to_owned),
            rootfs: job.rootfs.clone(),
        };
        let record = apply(&plan, sources, &target, image, policy, job.call.started)?;
        Ok(Applied {
            job,
            namespace,
            plan,
            record,
        })
    }
}

/// A GPU without its MIG devices, as a finding for the system's log and `doctor --last`.
fn unusable(gpu: &Unusable) -> Finding {
    Finding::new(&PARTITIONED, Severity::Fail, &gpu.subject, &gpu.cause).fix(&gpu.fix)
}

/// A container that has its GPUs.
#[derive(Debug)]
pub struct Applied<'a> {
    job: Job<'a>,
    namespace: (u64, u64),
    plan: Plan,
    record: Record,
}

impl Applied<'_> {
    /// Records the devices of the container, for `doctor container`, and delivers its warning.
    ///
    /// The process ends next, so the rest is not freed: to free memory writes to pages that the
    /// kernel would first copy, since the child that read the image had them too.
    pub fn keep(self) -> Record {
        let mut this = ManuallyDrop::new(self);
        let Self {
            job,
            namespace,
            plan,
            record,
        } = &mut *this;
        let mut record = take(record);
        let call = job.call;
        if let Some(grants) = &job.grants {
            let left_alone = plan.no_cgroups && !call.options.devices_in_spec;
            let devices = if left_alone { &[] } else { plan.devices.as_slice() };
            let grant = Grant::new(&call.state.id, *namespace, Some(&job.spec), devices);
            keep(grants, &record, grant);
        }
        let mut findings: Vec<Finding> = plan.unusable.iter().map(unusable).collect();
        findings.append(&mut record.findings);
        if let Some(mut warning) = Warning::new(&call.state.id, *namespace, findings) {
            warning.image = image_name(&job.spec);
            warning.pid = call.outside();
            warning.since_boot = (!job.own_times).then(since_boot);
            job.sinks.deliver(&warning, job.run);
        }
        record
    }
}
