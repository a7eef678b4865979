//! The command line of `nvidia-container-cli`: options of the program, a command, options of the
//! command.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt as _};

use crate::config::CudaCompat;
use crate::error::{Code, Error, Result};
use crate::request::Capabilities;

/// The most conditions on one command line.
const MAX_REQUIREMENTS: usize = 32;

/// Options before the command.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Global {
    pub(super) debug: Option<PathBuf>,
    pub(super) ldcache: Option<PathBuf>,
    pub(super) load_kmods: bool,
    pub(super) no_create_imex_channels: bool,
    pub(super) root: Option<PathBuf>,
}

/// The command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Command {
    Configure(Configure),
    Help,
    Info { csv: bool },
    List(List),
    Version,
}

/// The common options of `list` and `configure`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Wish {
    /// `--device`, in order; each may be a list with commas.
    pub(super) devices: Vec<String>,
    pub(super) mig_config: Option<String>,
    pub(super) mig_monitor: Option<String>,
    pub(super) imex_channels: Vec<String>,
    pub(super) compat32: bool,
    /// Parts that are left out: names of daemons, or [`FIRMWARE`].
    pub(super) without: Vec<&'static str>,
}

/// `list`
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct List {
    pub(super) wish: Wish,
    pub(super) binaries: bool,
    pub(super) firmwares: bool,
    pub(super) ipcs: bool,
    pub(super) libraries: bool,
}

/// `configure`
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Configure {
    pub(super) wish: Wish,
    pub(super) capabilities: Vec<&'static str>,
    pub(super) cuda_compat: Option<CudaCompat>,
    pub(super) no_cgroups: bool,
    pub(super) no_devbind: bool,
    pub(super) pid: Option<i32>,
    pub(super) requirements: Vec<String>,
    pub(super) rootfs: PathBuf,
}

/// The firmware, in [`Wish::without`].
pub(super) const FIRMWARE: &str = "firmware";

/// The names in [`Wish::without`] of parts that can be left out.
const WITHOUT: &[(&str, &str)] = &[
    ("no-fabricmanager", "nvidia-fabricmanager"),
    ("no-gsp-firmware", FIRMWARE),
    ("no-persistenced", "nvidia-persistenced"),
];

/// Long and short names of the driver capabilities.
const CAPABILITIES: &[(&str, Option<char>)] = &[
    ("compat32", None),
    ("compute", Some('c')),
    ("display", Some('D')),
    ("graphics", Some('g')),
    ("ngx", Some('n')),
    ("utility", Some('u')),
    ("video", Some('v')),
];

/// Short options of each command, for the long ones: `(command, short, long)`, the empty command
/// for the program.
const SHORT: &[(&str, char, &str)] = &[
    ("", '?', "help"),
    ("", 'V', "version"),
    ("", 'd', "debug"),
    ("", 'k', "load-kmods"),
    ("", 'l', "ldcache"),
    ("", 'n', "no-pivot"),
    ("", 'r', "root"),
    ("", 'u', "user"),
    ("configure", '?', "help"),
    ("configure", 'd', "device"),
    ("configure", 'l', "ldconfig"),
    ("configure", 'p', "pid"),
    ("configure", 'r', "require"),
    ("info", '?', "help"),
    ("list", '?', "help"),
    ("list", 'b', "binaries"),
    ("list", 'd', "device"),
    ("list", 'f', "firmwares"),
    ("list", 'i', "ipcs"),
    ("list", 'l', "libraries"),
];

/// Long options of each command, as in [`SHORT`]; those of [`CAPABILITIES`] and [`WITHOUT`] are
/// added.
const LONG: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "debug",
            "ldcache",
            "load-kmods",
            "no-create-imex-channels",
            "no-pivot",
            "root",
            "user",
            "version",
        ],
    ),
    (
        "configure",
        &[
            "cuda-compat-mode",
            "device",
            "imex-channel",
            "ldconfig",
            "mig-config",
            "mig-monitor",
            "no-cgroups",
            "no-cntlibs",
            "no-devbind",
            "pid",
            "require",
        ],
    ),
    ("info", &["csv"]),
    (
        "list",
        &[
            "binaries",
            "compat32",
            "device",
            "firmwares",
            "imex-channel",
            "ipcs",
            "libraries",
            "mig-config",
            "mig-monitor",
        ],
    ),
];

/// The option called `name`, or the only one with that prefix: getopt_long accepts abbreviations.
///
/// # Errors
/// [`Code::Usage`] if several have the prefix. If none has it, the command decides.
fn spelled_out(command: &str, name: &str) -> Result<String> {
    let of_command = LONG
        .iter()
        .filter(|(of, _)| *of == command)
        .flat_map(|(_, names)| *names);
    let mut all: Vec<&str> = of_command.copied().chain(["help", "usage"]).collect();
    if command == "configure" {
        all.extend(CAPABILITIES.iter().map(|(name, _)| *name));
    }
    if matches!(command, "configure" | "list") {
        all.extend(WITHOUT.iter().map(|(name, _)| *name));
    }
    let fits: Vec<&str> = all.iter().copied().filter(|n| n.starts_with(name)).collect();
    match fits.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Ok(name.to_owned()),
        several if several.contains(&name) => Ok(name.to_owned()),
        several => Err(usage(format!(
            "--{name} may be any of --{}",
            several.join(", --")
        ))),
    }
}

/// One argument, with short options and abbreviations spelled out.
enum Word {
    Option(String),
    Value(OsString),
}

fn next(parser: &mut Parser, command: &str) -> Result<Option<Word>> {
    Ok(match parser.next().map_err(|e| usage(e.to_string()))? {
        None => None,
        Some(Arg::Long(name)) => Some(Word::Option(spelled_out(command, name)?)),
        Some(Arg::Short(c)) => {
            let long = SHORT
                .iter()
                .find(|(of, short, _)| (*of, *short) == (command, c))
                .map(|(_, _, long)| *long);
            let capability = || {
                CAPABILITIES
                    .iter()
                    .find(|(_, short)| command == "configure" && *short == Some(c))
            };
            let name = long.or_else(|| capability().map(|(name, _)| *name));
            Some(Word::Option(
                name.ok_or_else(|| usage(format!("there is no option -{c}")))?
                    .to_owned(),
            ))
        }
        Some(Arg::Value(word)) => Some(Word::Value(word)),
    })
}

/// Parses the arguments after the program's name.
///
/// # Errors
/// [`Code::Usage`].
pub(super) fn parse(args: impl Iterator<Item = OsString>) -> Result<(Global, Command)> {
    let mut parser = Parser::from_args(args);
    let mut global = Global::default();
    loop {
        match next(&mut parser, "")? {
            None => return Err(usage("no command was given")),
            Some(Word::Option(name)) => match name.as_str() {
                "debug" => global.debug = Some(path(&mut parser)?),
                "help" | "usage" => return Ok((global, Command::Help)),
                "ldcache" => global.ldcache = Some(path(&mut parser)?),
                "load-kmods" => global.load_kmods = true,
                "no-create-imex-channels" => global.no_create_imex_channels = true,
                "no-pivot" => {}
                "root" => global.root = Some(path(&mut parser)?),
                "user" => drop(parser.optional_value()),
                "version" => return Ok((global, Command::Version)),
                other => return Err(unknown(other)),
            },
            Some(Word::Value(word)) => {
                let command = match word.to_str() {
                    Some("configure") => configure(&mut parser)?,
                    Some("info") => info(&mut parser)?,
                    Some("list") => list(&mut parser)?,
                    _ => return Err(usage(format!("there is no command `{}`", word.display()))),
                };
                return Ok((global, command));
            }
        }
    }
}

fn info(parser: &mut Parser) -> Result<Command> {
    let mut csv = false;
    while let Some(word) = next(parser, "info")? {
        match option(word)?.as_str() {
            "csv" => csv = true,
            "help" | "usage" => return Ok(Command::Help),
            other => return Err(unknown(other)),
        }
    }
    Ok(Command::Info { csv })
}

fn list(parser: &mut Parser) -> Result<Command> {
    let mut list = List::default();
    let mut all = true;
    while let Some(word) = next(parser, "list")? {
        let name = option(word)?;
        // A channel alone still means every device.
        all &= name == "imex-channel";
        match name.as_str() {
            "binaries" => list.binaries = true,
            "firmwares" => list.firmwares = true,
            "help" | "usage" => return Ok(Command::Help),
            "ipcs" => list.ipcs = true,
            "libraries" => list.libraries = true,
            other => wish(other, &mut list.wish, parser)?,
        }
    }
    if all {
        list = List {
            wish: Wish {
                devices: vec!["all".to_owned()],
                compat32: true,
                imex_channels: list.wish.imex_channels,
                ..Wish::default()
            },
            binaries: true,
            firmwares: true,
            ipcs: true,
            libraries: true,
        };
    }
    Ok(Command::List(list))
}

fn configure(parser: &mut Parser) -> Result<Command> {
    let mut configure = Configure::default();
    let mut rootfs = None;
    while let Some(word) = next(parser, "configure")? {
        let name = match word {
            Word::Value(word) if rootfs.is_none() => {
                rootfs = Some(PathBuf::from(word));
                continue;
            }
            word => option(word)?,
        };
        if let Some((name, _)) = CAPABILITIES.iter().find(|(n, _)| *n == name) {
            configure.capabilities.push(name);
            continue;
        }
        match name.as_str() {
            "cuda-compat-mode" => configure.cuda_compat = Some(cuda_compat(&text(parser)?)?),
            "help" | "usage" => return Ok(Command::Help),
            // nvoci executes no ldconfig, so the path does not matter.
            "ldconfig" => drop(text(parser)?),
            "no-cgroups" => configure.no_cgroups = true,
            // The feature that it switched off has long been removed.
            "no-cntlibs" => {}
            "no-devbind" => configure.no_devbind = true,
            "pid" => configure.pid = Some(pid(&text(parser)?)?),
            "require" => configure.requirements.push(text(parser)?),
            other => wish(other, &mut configure.wish, parser)?,
        }
    }
    if configure.requirements.len() > MAX_REQUIREMENTS {
        return Err(usage("too many requirements"));
    }
    configure.rootfs = rootfs.ok_or_else(|| usage("no rootfs directory was given"))?;
    Ok(Command::Configure(configure))
}

/// Parses an option that `list` and `configure` share.
fn wish(name: &str, wish: &mut Wish, parser: &mut Parser) -> Result<()> {
    match name {
        "compat32" => wish.compat32 = true,
        "device" => wish.devices.push(text(parser)?),
        "imex-channel" => wish.imex_channels.push(text(parser)?),
        "mig-config" => wish.mig_config = Some(text(parser)?),
        "mig-monitor" => wish.mig_monitor = Some(text(parser)?),
        other => match WITHOUT.iter().find(|(option, _)| *option == other) {
            Some((_, part)) => wish.without.push(part),
            None => return Err(unknown(other)),
        },
    }
    Ok(())
}

impl Wish {
    /// All devices, as one list; `none` if no device is named.
    pub(super) fn device_list(&self) -> String {
        let items = self.devices.iter().flat_map(|d| d.split(','));
        let named: Vec<&str> = items.map(str::trim).filter(|d| !d.is_empty()).collect();
        if named.is_empty() {
            "none".to_owned()
        } else {
            named.join(",")
        }
    }
}

impl Configure {
    /// The capabilities of the options.
    pub(super) fn capabilities(&self) -> Capabilities {
        let named = self
            .capabilities
            .iter()
            .filter_map(|name| Capabilities::from_name(name));
        named.fold(Capabilities::NONE, Capabilities::with)
    }
}

fn cuda_compat(text: &str) -> Result<CudaCompat> {
    match text {
        "disabled" => Ok(CudaCompat::Off),
        "ldconfig" | "mount" => Ok(CudaCompat::Auto),
        other => Err(usage(format!(
            "--cuda-compat-mode takes mount, ldconfig or disabled, not `{other}`"
        ))),
    }
}

fn pid(text: &str) -> Result<i32> {
    text.parse()
        .ok()
        .filter(|pid| *pid > 0)
        .ok_or_else(|| usage(format!("`{text}` is not a process id")))
}

fn option(word: Word) -> Result<String> {
    match word {
        Word::Option(name) => Ok(name),
        Word::Value(word) => Err(usage(format!("unexpected argument `{}`", word.display()))),
    }
}

fn text(parser: &mut Parser) -> Result<String> {
    let value = parser.value().map_err(|e| usage(e.to_string()))?;
    value.string().map_err(|e| usage(e.to_string()))
}

fn path(parser: &mut Parser) -> Result<PathBuf> {
    let value = parser.value().map_err(|e| usage(e.to_string()))?;
    if value == OsStr::new("") {
        return Err(usage("a path is empty"));
    }
    Ok(PathBuf::from(value))
}

fn unknown(name: &str) -> Error {
    usage(format!("there is no option --{name}"))
}

fn usage(why: impl Into<String>) -> Error {
    Error::new(Code::Usage, "command line", why).fix("see `nvidia-container-cli --help`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<(Global, Command)> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn configured(line: &str) -> (Global, Configure) {
        match of(line).unwrap() {
            (global, Command::Configure(configure)) => (global, configure),
            (_, other) => panic!("{other:?}"),
        }
    }

    /// Recorded calls of each program (facts: peers 1.0, engines-howto 1, 7 and 8).
    #[test]
    fn the_calls_of_other_programs() {
        let (_, lxc) = configured(
            "--user configure --no-cgroups --ldconfig=@/usr/sbin/ldconfig --device=all --compute --utility /usr/lib/x86_64-linux-gnu/lxc/rootfs",
        );
        assert!(lxc.no_cgroups && lxc.pid.is_none());
        assert_eq!(lxc.wish.device_list(), "all");
        assert_eq!(lxc.capabilities(), Capabilities::DEFAULT);
        assert_eq!(lxc.rootfs, PathBuf::from("/usr/lib/x86_64-linux-gnu/lxc/rootfs"));

        let (global, ctr) = configured(
            "--load-kmods configure --device=0 --compute --compat32 --graphics --utility --video --display --pid=4711 /run/x/rootfs",
        );
        assert!(global.load_kmods && !ctr.no_cgroups);
        assert_eq!(ctr.pid, Some(4711));
        assert_eq!(ctr.capabilities(), Capabilities::ALL.without(Capabilities::NGX));

        let (_, runsc) = configured(
            "--load-kmods configure --ldconfig=@/sbin/ldconfig --no-cgroups --utility --compute --pid=7 --device=all /b/rootfs",
        );
        assert_eq!(runsc.pid, Some(7));

        let (global, toolkit) = configured(
            "--root=/run/nvidia/driver --load-kmods --no-pivot --debug=/var/log/x --ldcache=/etc/ld.so.cache --user=0:0 configure \
             --cuda-compat-mode=disabled --device=0,1 --mig-config=all --imex-channel=3 --require=cuda>=12.4 --require=brand=tesla -c -u -v -g -D -n --pid=1 /r",
        );
        assert_eq!(global.root, Some("/run/nvidia/driver".into()));
        assert_eq!(toolkit.cuda_compat, Some(CudaCompat::Off));
        assert_eq!(toolkit.requirements, ["cuda>=12.4", "brand=tesla"]);
        assert_eq!(
            toolkit.capabilities(),
            Capabilities::ALL.without(Capabilities::COMPAT32)
        );
        assert_eq!(toolkit.wish.device_list(), "0,1");
    }

    #[test]
    fn list_without_options_is_everything() {
        let list = |line: &str| match of(line).unwrap().1 {
            Command::List(list) => list,
            other => panic!("{other:?}"),
        };
        let all = list("list");
        assert!(all.binaries && all.libraries && all.ipcs && all.firmwares && all.wish.compat32);
        assert!(list("list --imex-channel=1").libraries);
        let charliecloud = list("list --binaries --libraries");
        assert!(charliecloud.binaries && charliecloud.libraries && !charliecloud.ipcs);
        assert_eq!(charliecloud.wish.device_list(), "none");
        assert!(list("list -l -b -i -f").ipcs);
    }

    #[test]
    fn an_option_may_be_abbreviated_as_getopt_takes_it() {
        for (short, long) in [
            ("list --dev=0 --lib", "list --device=0 --libraries"),
            ("info --cs", "info --csv"),
            ("--load info", "--load-kmods info"),
            (
                "--ro /d --ld /c --use=0:0 info",
                "--root /d --ldcache /c --user=0:0 info",
            ),
            (
                "configure --comput --ut --gr --no-cg --p 7 --cuda=disabled /r",
                "configure --compute --utility --graphics --no-cgroups --pid 7 --cuda-compat-mode=disabled /r",
            ),
            (
                "list --no-g --mig-c=all --comp",
                "list --no-gsp-firmware --mig-config=all --compat32",
            ),
            ("--he", "--help"),
        ] {
            assert_eq!(of(short).unwrap(), of(long).unwrap(), "{short}");
        }
        for several in [
            "--u info",
            "configure --comp /r",
            "list --no",
            "--l info",
            "configure --mig=1 /r",
            "list --foo",
        ] {
            assert!(of(several).is_err(), "{several}");
        }
    }

    #[test]
    fn every_long_option_is_taken() {
        for (command, names) in LONG {
            let shared = WITHOUT
                .iter()
                .filter(|_| matches!(*command, "configure" | "list"));
            for name in names.iter().copied().chain(shared.map(|(name, _)| *name)) {
                let value = match name {
                    "pid" => "=1",
                    "cuda-compat-mode" => "=mount",
                    "debug" | "ldcache" | "root" | "device" | "imex-channel" | "ldconfig" | "mig-config"
                    | "mig-monitor" | "require" => "=x",
                    _ => "",
                };
                let line = match *command {
                    "" => format!("--{name}{value} info"),
                    "configure" => format!("configure --{name}{value} /r"),
                    other => format!("{other} --{name}{value}"),
                };
                assert!(of(&line).is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for line in [
            "",
            "bogus",
            "--bogus",
            "configure",
            "configure --pid=0 /r",
            "configure --pid=x /r",
            "configure /a /b",
            "configure --cuda-compat-mode=hook /r",
            "info extra",
            "list --compute",
            "configure --device",
        ] {
            assert!(of(line).is_err(), "{line}");
        }
        let many = format!("configure {} /r", "--require=cuda>=1 ".repeat(33));
        assert!(of(&many).is_err());
    }
}
