//! The one error type of the program: the failed thing, the reason, the fix, and a stable code.
//!
//! Every text for a person goes through [`Error`]'s `Display`, so it is one line,
//! `what: why; fix: what to do [NVOCI-code]`, such as
//! `device 3: no such device; fix: … [NVOCI-3001]`. Parts of it may come from an image, so control
//! characters are escaped.

use core::fmt;
use std::io;

pub use inroot::text::{Escaped, Line, shown};

use crate::budget::Exceeded;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of failure, which decides the exit status.
///
/// crun discards a hook's standard error, so the status alone must distinguish the classes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Class {
    /// The command line was wrong. Exit status 2.
    Usage,
    /// A state, bundle or configuration file is broken. Exit status 10.
    Input,
    /// The host lacks a part that the request needs, or its parts do not fit together. Exit status
    /// 11.
    Host,
    /// The request of the container cannot be met. Exit status 12.
    Request,
    /// Refused as unsafe. Exit status 13.
    Refused,
    /// The kernel or the file system refused a call. Exit status 14.
    System,
    /// An engine's configuration, or nvoci's own installation, could not be changed. Exit status
    /// 15.
    Engine,
}

impl Class {
    /// The process exit status of this class.
    pub const fn status(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Input => 10,
            Self::Host => 11,
            Self::Request => 12,
            Self::Refused => 13,
            Self::System => 14,
            Self::Engine => 15,
        }
    }
}

macro_rules! codes {
    ($(#[doc = $doc:literal] $name:ident = $number:literal, $class:ident, $fix:literal;)*) => {
        /// A stable error code. Its number never changes meaning; the documentation is ordered by
        /// it.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[non_exhaustive]
        pub enum Code { $(#[doc = $doc] $name,)* }

        impl Code {
            /// Every code, in numeric order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number behind `NVOCI-`.
            pub const fn number(self) -> u16 { match self { $(Self::$name => $number,)* } }

            /// The class, which decides the exit status.
            pub const fn class(self) -> Class { match self { $(Self::$name => Class::$class,)* } }

            /// The fix, unless the place that raised the error sets its own.
            pub const fn default_fix(self) -> &'static str { match self { $(Self::$name => $fix,)* } }

            /// One line of documentation, for the error-code reference.
            pub const fn summary(self) -> &'static str {
                match self { $(Self::$name => $doc,)* }
            }
        }
    };
}

codes! {
    #[doc = "The command line could not be understood."]
    Usage = 1001, Usage, "see `nvoci --help`";
    #[doc = "The OCI state on standard input is broken."]
    State = 1101, Input, "start the hook from an OCI runtime, which writes the container's state to its standard input";
    #[doc = "The bundle or its config.json is missing or broken."]
    Bundle = 1102, Input, "correct the bundle directory or the config.json that the message names";
    #[doc = "nvoci's configuration could not be read or holds an invalid value."]
    Config = 1103, Input, "correct that file; `nvoci config` shows the effective configuration";
    #[doc = "A file is broken or too large."]
    File = 1104, Input, "replace the file by a complete one";
    #[doc = "A CDI specification is invalid."]
    Cdi = 1105, Input, "run `nvoci cdi check`, which names each fault";
    #[doc = "The image's files could not be read in time, or broke the process that reads them."]
    Image = 1106, Input, "run `nvoci doctor image` on the image, and check the container's volumes";
    #[doc = "The input needs more memory, entries or processor time than a command spends on one."]
    TooLarge = 1107, Input, "make the input smaller, or remove the part that the message names";
    #[doc = "The host has no NVIDIA driver."]
    NoDriver = 2001, Host, "install the NVIDIA driver and run `modprobe nvidia`; `nvidia-smi` must work on the host";
    #[doc = "The driver's user-space libraries were not found."]
    NoLibraries = 2002, Host, "install the driver's user-space libraries, or set `driver-root` or `library-dirs` in /etc/nvoci/config.toml";
    #[doc = "Kernel module and user-space libraries are of different versions."]
    VersionMismatch = 2003, Host, "reboot the host, or unload and reload the NVIDIA kernel modules";
    #[doc = "A device node is missing or has the wrong number."]
    DeviceNode = 2004, Host, "run `nvidia-modprobe -u -c 0`; `nvoci list` shows the nodes that exist";
    #[doc = "The host's WSL2 GPU support is incomplete."]
    Wsl = 2005, Host, "update the NVIDIA driver on Windows, then run `wsl --shutdown`";
    #[doc = "SELinux would keep the container's processes from the GPUs' device nodes."]
    Selinux = 2006, Host, "load nvoci's policy module, `semodule -i /usr/share/nvoci/selinux/nvoci.cil`, or start the container with `--security-opt label=disable`";
    #[doc = "A requested GPU does not exist."]
    UnknownDevice = 3001, Request, "ask for one of the devices that exist; `nvoci list` shows them";
    #[doc = "NVIDIA_DRIVER_CAPABILITIES names an unknown or unsupported capability."]
    Capability = 3002, Request, "use compute, utility, graphics, video, display, ngx, compat32 or all";
    #[doc = "An NVIDIA_REQUIRE_* condition is not met by this host."]
    Requirement = 3003, Request, "update the driver, use an older image, or set NVIDIA_DISABLE_REQUIRE=1";
    #[doc = "A value of the request is malformed or too long."]
    Malformed = 3004, Request, "correct the NVIDIA_* variables of the container";
    #[doc = "The container lacks the privilege that the request needs."]
    Privilege = 3005, Request, "grant CAP_SYS_ADMIN, or make the request through the engine";
    #[doc = "The preflight check found that the container cannot compute."]
    Preflight = 3006, Request, "run `nvoci doctor image` on the image, or set `preflight = \"warn\"` in /etc/nvoci/config.toml";
    #[doc = "A limit on GPU memory is not enforced. A warning: the container starts."]
    MemoryLimit = 3007, Request, "divide the GPU by MIG, or set CUDA_MPS_PINNED_DEVICE_MEM_LIMIT for clients of MPS";
    #[doc = "The rootfs path is unsafe."]
    UnsafeRootfs = 4001, Refused, "set the bundle's root.path to the container's own root directory";
    #[doc = "A file that nvoci must trust is not owned by root or is writable by others."]
    UnsafeOwner = 4002, Refused, "make root its owner (`chown root`) and remove the write permission of others (`chmod go-w`)";
    #[doc = "A path of the image leads out of it or to a file of the wrong type."]
    UnsafePath = 4003, Refused, "replace the symbolic link or special file in the image by a plain directory or file";
    #[doc = "The hook was not started for a container that is being made."]
    NotAContainer = 4004, Refused, "register the hook at prestart, createRuntime or createContainer of a runtime with mount namespaces";
    #[doc = "A system call failed."]
    System = 5001, System, "run `nvoci doctor`, which checks this host";
    #[doc = "A mount could not be made."]
    Mount = 5002, System, "give the hook CAP_SYS_ADMIN over the container's mount namespace";
    #[doc = "The device cgroup could not be changed."]
    Cgroup = 5003, System, "set `no-cgroups = true` in /etc/nvoci/config.toml if the engine manages devices itself";
    #[doc = "The low-level runtime was not found or could not be started."]
    Runtime = 5004, System, "install runc or crun, or set `runtimes` in /etc/nvoci/config.toml";
    #[doc = "The container's device cgroup, or one above it, refuses the GPUs, and nvoci may not change it."]
    SharedCgroup = 5201, Refused, "let the engine make a cgroup for the container, or allow the GPUs in the cgroup that refuses them (systemd: `DeviceAllow=`)";
    #[doc = "An engine's configuration could not be read, changed or validated."]
    Engine = 6001, Engine, "correct the file or program that the message names, then run this again; the engine's configuration is unchanged";
    #[doc = "A running daemon was started with a configuration file that nvoci edits only with `--config`."]
    DaemonFile = 6002, Engine, "pass the file: `--config FILE`";
    #[doc = "The program that would be registered does not exist."]
    NoProgram = 6003, Engine, "install nvoci's package, or pass the program: `--runtime-path FILE`";
    #[doc = "Users other than root could replace the program that would be registered."]
    LooseProgram = 6004, Engine, "install nvoci in directories that only root can write to, and run that copy";
    #[doc = "Another nvoci is changing engines' configurations."]
    Busy = 6005, Engine, "wait until the other `nvoci install` or `nvoci uninstall` has ended, then run this again";
    #[doc = "Running containers were started through nvoci's runtime, so it was not removed."]
    InUse = 6006, Engine, "stop these containers, then remove nvoci again";
    #[doc = "A new version does not serve the host's GPUs, and did not replace the installed one."]
    Upgrade = 6007, Engine, "keep the installed version, and correct the fault that the message names";
    #[doc = "`nvoci-nri` refused a container: the kubelet did not allocate this GPU to it."]
    NriNotAllocated = 8001, Refused, "request the GPU in the container's `resources.limits`, and remove its name from the annotations and mounts";
    #[doc = "`nvoci-nri` refused a container: the kubelet's allocation could not be read in time."]
    NriUnreadable = 8002, Host, "mount /var/lib/kubelet/pod-resources into the plugin's pod; the kubelet tries again by itself";
    #[doc = "`nvoci-nri` refused a container: an annotation is no list of NVIDIA's CDI devices."]
    NriMalformed = 8003, Request, "list NVIDIA's CDI devices separated by commas, such as `nvidia.com/gpu=0`";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NVOCI-{}", self.number())
    }
}

/// An error: subject, reason, fix, and a stable [`Code`].
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    code: Code,
    what: String,
    why: String,
    fix: Option<String>,
    os: Option<i32>,
}

impl Error {
    /// An error with the code's default fix.
    pub fn new(code: Code, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            what: what.into(),
            why: why.into(),
            fix: None,
            os: None,
        }))
    }

    /// An error from the operating system; keeps the `errno` for [`Error::os`]. An exceeded budget
    /// becomes [`Code::TooLarge`], whatever code the reader gives.
    pub fn io(code: Code, what: impl Into<String>, cause: &io::Error) -> Self {
        let of_budget = cause
            .get_ref()
            .is_some_and(<dyn core::error::Error + Send + Sync>::is::<Exceeded>);
        let code = if of_budget { Code::TooLarge } else { code };
        let mut e = Self::new(code, what, describe(cause));
        e.0.os = cause.raw_os_error();
        e
    }

    /// Replaces the default fix.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.0.fix = Some(fix.into());
        self
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The `errno`, if the operating system was the cause.
    pub fn os(&self) -> Option<i32> {
        self.0.os
    }

    /// The thing that failed: a file, a variable, a device.
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// The reason.
    pub fn why(&self) -> &str {
        &self.0.why
    }

    /// The fix: one command or one edit.
    pub fn fix_text(&self) -> &str {
        self.0.fix.as_deref().unwrap_or_else(|| self.0.code.default_fix())
    }
}

impl Error {
    /// The error as a command prints it with `--json`; `status` is the process exit status.
    pub fn to_json(&self, status: u8) -> serde_json::Value {
        let text = |text: &str| Escaped(text).to_string();
        serde_json::json!({
            "code": self.code().to_string(), "status": status,
            "what": text(self.what()), "why": text(self.why()), "fix": text(self.fix_text()),
            "line": Line(&format!("nvoci: {self}")).to_string(),
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}; fix: {} [{}]",
            Escaped(&self.0.what),
            Escaped(&self.0.why),
            Escaped(self.fix_text()),
            self.0.code
        )
    }
}

impl core::error::Error for Error {}

impl Exceeded {
    /// The error for a person; `what` is the name of the input.
    pub fn of(self, what: impl Into<String>) -> Error {
        Error::new(Code::TooLarge, what, self.to_string())
    }
}

impl From<inroot::owned::Error> for Error {
    fn from(e: inroot::owned::Error) -> Self {
        use inroot::owned::Error as E;
        let what = e.path().display().to_string();
        match e {
            E::Io(_, cause) => Self::io(Code::System, what, &cause),
            E::Untrusted(_, why) => Self::new(Code::UnsafeOwner, what, why),
        }
    }
}

impl From<ldso::cache::Broken> for Error {
    fn from(e: ldso::cache::Broken) -> Self {
        Self::new(Code::File, "ld.so.cache", e.0)
    }
}

/// Adds context to an [`io::Result`].
pub trait IoContext<T> {
    /// Turns an [`io::Error`] into an [`Error`] with `code`. It calls `what` only on failure.
    fn context<S: Into<String>>(self, code: Code, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context<S: Into<String>>(self, code: Code, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::io(code, what(), &e))
    }
}

/// A number with its noun: `1 process`, `2 processes`.
pub fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// The text of an [`io::Error`] without Rust's "(os error N)" tail.
fn describe(e: &io::Error) -> String {
    // A limit of ours on a file or directory, or the process's limit on what it writes.
    if e.raw_os_error() == Some(libc::EFBIG) {
        return "it has more bytes or entries than the limit".to_owned();
    }
    let text = e.to_string();
    match text.rfind(" (os error ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_with_code_and_fix() {
        let e = Error::new(Code::UnknownDevice, "GPU 7", "no such\ndevice\u{1b}[31m");
        let line = e.to_string();
        assert!(!line.contains('\n') && !line.contains('\u{1b}'));
        assert!(line.ends_with("[NVOCI-3001]"), "{line}");
        assert!(line.contains("; fix: "));
    }

    #[test]
    fn a_directory_beyond_its_limit_is_not_called_a_file() {
        let e = Error::io(
            Code::System,
            "/etc/cdi",
            &io::Error::from_raw_os_error(libc::EFBIG),
        );
        assert!(
            e.to_string().contains("/etc/cdi: it has more bytes or entries"),
            "{e}"
        );
    }

    #[test]
    fn numbers_have_their_nouns() {
        let processes = [0, 1, 2].map(|n| counted(n, "process", "processes"));
        assert_eq!(processes, ["0 processes", "1 process", "2 processes"]);
    }

    /// The fix must be of use to a person who reads nothing else.
    #[test]
    fn each_default_fix_is_an_instruction_of_its_own() {
        for code in Code::ALL {
            let fix = code.default_fix();
            assert!(
                !fix.contains("the cause") && !fix.contains("the finding"),
                "{code}: {fix}"
            );
            assert!(fix.len() > 15 && !fix.ends_with('.'), "{code}: {fix}");
        }
    }

    #[test]
    fn numbers_are_unique_and_sorted() {
        let numbers: Vec<u16> = Code::ALL.iter().map(|c| c.number()).collect();
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(numbers, sorted);
    }

    #[test]
    fn the_error_has_a_code_and_survives_an_io_error() {
        let exceeded = Exceeded {
            resource: crate::budget::Resource::Entries,
            limit: 7,
        };
        let error = exceeded.of("layer 1").to_string();
        assert!(
            error.starts_with("layer 1: it has more than 7 entries; fix: "),
            "{error}"
        );
        let io = io::Error::from(exceeded);
        assert!(
            io.get_ref()
                .is_some_and(<dyn std::error::Error + Send + Sync>::is::<Exceeded>)
        );
    }
}
