//! The command line. An option wins over its variable.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::decide::{Policy, Rules};

/// The text of `--help`.
pub const HELP: &str = "\
nvoci-nri: gives containers NVIDIA GPUs through the engine's NRI socket

Usage: nvoci-nri [OPTIONS]

  --nri-socket PATH        the engine's socket [NRI_SOCKET; /var/run/nri/nri.sock]
  --nri-plugin-index N     the plugin's place among others, 0 to 99 [NRI_PLUGIN_INDEX; 10]
  --nri-namespace NS       a namespace whose pods may name management devices [NRI_NAMESPACE]
  --nri-management-cdi-device-namespaces A,B
                           more of these [NRI_MANAGEMENT_CDI_DEVICE_NAMESPACES]
  --policy off|allocated   allocated: only devices that the kubelet allocated [NVOCI_NRI_POLICY; off]
  --pod-resources PATH     the kubelet's socket [/var/lib/kubelet/pod-resources/kubelet.sock]
  --listen ADDRESS:PORT    serve /healthz and /metrics [NVOCI_NRI_LISTEN]
  --help, --version
";

/// The settings of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The engine's socket.
    pub socket: PathBuf,
    /// The plugin's index.
    pub index: u8,
    /// The rules for containers.
    pub rules: Rules,
    /// The kubelet's socket.
    pub kubelet: PathBuf,
    /// Where health and metrics are served.
    pub listen: Option<SocketAddr>,
}

/// A command line's meaning.
#[derive(Debug)]
pub enum Command {
    /// Run the plugin.
    Run(Options),
    /// Print a text.
    Print(String),
}

/// Parses the command line (without the program's name) over the variables that `variable` reads.
pub fn parse(
    words: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Command, String> {
    use lexopt::prelude::Long;
    let from = |name: &str| variable(name).filter(|value| !value.is_empty());
    let mut socket = from("NRI_SOCKET").unwrap_or_else(|| "/var/run/nri/nri.sock".to_owned());
    let mut index = from("NRI_PLUGIN_INDEX").unwrap_or_else(|| "10".to_owned());
    let mut namespace = from("NRI_NAMESPACE").unwrap_or_default();
    let mut more = from("NRI_MANAGEMENT_CDI_DEVICE_NAMESPACES").unwrap_or_default();
    let mut policy = from("NVOCI_NRI_POLICY").unwrap_or_else(|| "off".to_owned());
    let mut listen = from("NVOCI_NRI_LISTEN").unwrap_or_default();
    let mut kubelet = crate::kubelet::SOCKET.to_owned();
    let mut parser = lexopt::Parser::from_args(words);
    let wrong = |e: lexopt::Error| e.to_string();
    while let Some(word) = parser.next().map_err(wrong)? {
        let slot = match word {
            Long("help") => return Ok(Command::Print(HELP.to_owned())),
            Long("version") => {
                return Ok(Command::Print(format!(
                    "nvoci-nri {}\n",
                    env!("CARGO_PKG_VERSION")
                )));
            }
            Long("nri-socket") => &mut socket,
            Long("nri-plugin-index") => &mut index,
            Long("nri-namespace") => &mut namespace,
            Long("nri-management-cdi-device-namespaces") => &mut more,
            Long("policy") => &mut policy,
            Long("pod-resources") => &mut kubelet,
            Long("listen") => &mut listen,
            other => return Err(other.unexpected().to_string()),
        };
        *slot = parser.value().and_then(lexopt::ValueExt::string).map_err(wrong)?;
    }
    let policy = match policy.as_str() {
        "off" => Policy::Off,
        "allocated" => Policy::Allocated,
        other => return Err(format!("--policy is `off` or `allocated`, not `{other}`")),
    };
    let names = more
        .split(',')
        .chain([namespace.as_str()])
        .map(str::trim)
        .filter(|name| !name.is_empty());
    Ok(Command::Run(Options {
        socket: socket.into(),
        index: index
            .parse()
            .ok()
            .filter(|n| *n < 100)
            .ok_or("--nri-plugin-index is a number from 0 to 99")?,
        rules: Rules {
            policy,
            management: names.map(str::to_owned).collect(),
        },
        kubelet: kubelet.into(),
        listen: match listen.as_str() {
            "" => None,
            address => Some(
                address
                    .parse()
                    .map_err(|_| "--listen wants ADDRESS:PORT, for example 127.0.0.1:9401")?,
            ),
        },
    }))
}
