//! The machine that an image is to run on: this host, or one that the user names.

use core::fmt;
use std::path::Path;

use crate::compat::driver::{self, Native};
use crate::compat::forward::Package;
use crate::compat::{self, Class, Cuda, Outcome, Platform, Sm, Version, gpu};
use crate::host::{self, Host, Roots};

/// A GPU, with its known properties.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gpu {
    /// Its name, from the host or the user.
    pub name: String,
    /// Its architecture.
    pub sm: Option<Sm>,
    /// Its product line.
    pub class: Option<Class>,
}

impl Gpu {
    /// Parses `sm_90`, `9.0`, or a product name; `None` if no table has it.
    pub fn named(text: &str) -> Option<Self> {
        let gpu::Product { sm, class } = text.parse().ok()?;
        Some(Self {
            name: text.to_owned(),
            sm: Some(sm),
            class,
        })
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sm {
            Some(sm) if self.name == sm.to_string() => write!(f, "{sm}"),
            Some(sm) => write!(f, "{} ({sm})", self.name),
            None => write!(f, "{} (architecture unknown)", self.name),
        }
    }
}

/// The driver and the GPUs of a judgement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The driver's version; `None` if there is no driver or its version is unknown.
    pub driver: Option<Version>,
    /// The driver's operating system.
    pub platform: Platform,
    /// The GPUs; empty if none is known.
    pub gpus: Vec<Gpu>,
}

impl Target {
    /// This host.
    pub fn of_host(host: &Host, roots: &Roots) -> Self {
        let gpus = match &host.wsl {
            Some(wsl) => wsl.nvidia().map(of_adapter).collect(),
            None => host.usable_gpus().map(|gpu| of_gpu(gpu, roots)).collect(),
        };
        Self {
            driver: host.driver_version(),
            platform: match host.wsl {
                Some(_) => Platform::Windows,
                None => Platform::Linux,
            },
            gpus,
        }
    }

    /// The CUDA version that the driver supports.
    pub fn native(&self) -> Option<Native> {
        driver::native(self.driver?, self.platform)
    }

    /// A target of the tables for each GPU, or one without a GPU.
    pub fn each(&self) -> Vec<(Option<&Gpu>, Option<compat::Target>)> {
        let of = |gpu: Option<&Gpu>| {
            self.driver.map(|driver| compat::Target {
                driver,
                platform: self.platform,
                sm: gpu.and_then(|g| g.sm),
                class: gpu.and_then(|g| g.class),
            })
        };
        if self.gpus.is_empty() {
            return vec![(None, of(None))];
        }
        self.gpus.iter().map(|gpu| (Some(gpu), of(Some(gpu)))).collect()
    }

    /// The worst result over the GPUs; `None` without a driver.
    pub fn judge(&self, need: Cuda, package: Option<&Package>) -> Option<(Outcome, compat::Target)> {
        let rank = |outcome: &Outcome| match outcome {
            Outcome::Native => 0,
            Outcome::MinorVersion { .. } => 1,
            Outcome::Forward { .. } => 2,
            Outcome::Unknown(_) => 3,
            Outcome::Impossible(_) => 4,
        };
        self.each()
            .into_iter()
            .filter_map(|(_, target)| target)
            .map(|target| (compat::judge(need, &target, package), target))
            .max_by_key(|(outcome, _)| rank(outcome))
    }

    /// The driver as text: `driver 560.94 on Windows (CUDA 12.6)`.
    pub fn describe(&self) -> String {
        let Some(version) = self.driver else {
            return "no driver".to_owned();
        };
        let windows = match self.platform {
            Platform::Windows => " on Windows",
            Platform::Linux => "",
        };
        let speaks = match self.native() {
            Some(native) if native.at_least => format!(" (CUDA {} at least)", native.cuda),
            Some(native) => format!(" (CUDA {})", native.cuda),
            None => " (CUDA version unknown)".to_owned(),
        };
        format!("driver {version}{windows}{speaks}")
    }
}

fn of_adapter(adapter: &host::wsl::Adapter) -> Gpu {
    let sm = adapter
        .ids
        .and_then(|(_, device)| u16::try_from(device).ok())
        .and_then(gpu::sm_of_pci);
    Gpu {
        name: adapter.to_string(),
        sm,
        class: None,
    }
}

fn of_gpu(found: &host::Gpu, roots: &Roots) -> Gpu {
    let device = roots.sys.as_ref().and_then(|sys| {
        let path = Path::new("bus/pci/devices")
            .join(found.pci.to_string())
            .join("device");
        let text = sys.read_text(path, 64).ok()?;
        u16::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
    });
    Gpu {
        name: found.name.clone(),
        sm: device
            .and_then(gpu::sm_of_pci)
            .or_else(|| gpu::sm_of_name(&found.name)),
        class: gpu::class_of_name(&found.name),
    }
}
