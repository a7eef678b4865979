//! `nvoci config`: the effective configuration, each value with where it comes from.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{Config, Origin};
use crate::error::{Code, Error, Escaped, IoContext as _, Result};

const HELP: &str = "\
Usage: nvoci config [--json] [--config FILE]

Shows the effective configuration: /etc/nvoci/config.toml, else
/etc/nvidia-container-runtime/config.toml, else the defaults.
Each value says where it comes from. The output is a valid configuration file.

  --json         as JSON
  --config FILE  read this file instead; it must belong to root
";

/// Runs `nvoci config` with the arguments after that word.
pub fn run(args: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    let mut json = false;
    let mut file = None;
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next().map_err(|e| usage(&e))? {
        match arg {
            lexopt::Arg::Long("json") => json = true,
            lexopt::Arg::Long("config") => file = Some(PathBuf::from(parser.value().map_err(|e| usage(&e))?)),
            lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => return print(HELP),
            other => return Err(usage(&other.unexpected())),
        }
    }
    let config = match file {
        Some(file) => {
            let file = std::path::absolute(file).context(Code::Usage, || "--config")?;
            Config::load_file(&file)?
        }
        None => Config::load()?,
    };
    if json {
        print(&format!("{:#}\n", config.to_json()))
    } else {
        print(&text(&config))
    }
}

/// The configuration as TOML, with the origins as comments.
fn text(config: &Config) -> String {
    let mut lines = Vec::new();
    let name = config.file.as_ref().map(|(path, _)| path.display().to_string());
    lines.push(match &name {
        Some(name) => format!("# effective configuration, from {}", Escaped(name)),
        None => "# effective configuration: all defaults, there is no configuration file".to_owned(),
    });
    lines.extend(
        config
            .warnings
            .iter()
            .map(|warning| format!("# warning: {warning}")),
    );
    let ignored = config.ignored.iter();
    lines.extend(ignored.map(|key| format!("# no effect: {}: {}", key.key, key.why)));
    lines.push(String::new());
    for (key, value, origin) in config.settings() {
        // JSON's strings, booleans and lists of strings are TOML as they are.
        let setting = format!("{key} = {value}");
        lines.push(match origin {
            Origin::Default => format!("{setting:<60} # default"),
            Origin::File(from) if from == key => format!("{setting:<60} # set"),
            Origin::File(from) => format!("{setting:<60} # from {from}"),
        });
    }
    for extra in &config.extra {
        lines.push("\n[[extra]]".to_owned());
        lines.push(extra.to_string());
    }
    lines.join("\n") + "\n"
}

fn print(text: &str) -> Result<ExitCode> {
    super::print(text)?;
    Ok(ExitCode::SUCCESS)
}

fn usage(e: &lexopt::Error) -> Error {
    Error::new(Code::Usage, "nvoci config", e.to_string()).fix("see `nvoci config --help`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Dialect;
    use std::path::Path;

    #[test]
    fn what_is_shown_is_a_configuration_that_means_the_same() {
        let vendor = "swarm-resource = \"A, B\"\n[nvidia-container-cli]\nroot = \"/run/nvidia/driver\"\nldconfig = \"@/sbin/ldconfig\"\n";
        let first = Config::parse(vendor, Path::new("/v.toml"), Dialect::Nvidia).unwrap();
        let shown = text(&first);
        assert!(
            shown.contains("# from nvidia-container-cli.root")
                && shown.contains("# no effect: nvidia-container-cli.ldconfig"),
            "{shown}"
        );
        let own = format!("{shown}\n[[extra]]\nfiles = [\"/opt/a\"]\nenv = {{ A = \"\\\"\" }}\n");
        let second = Config::parse(&own, Path::new("/o.toml"), Dialect::Nvoci).unwrap();
        let third = Config::parse(&text(&second), Path::new("/o.toml"), Dialect::Nvoci).unwrap();
        let values = |config: &Config| -> Vec<String> {
            config
                .settings()
                .iter()
                .map(|(key, value, _)| format!("{key}={value}"))
                .collect()
        };
        assert_eq!(values(&first), values(&second));
        assert_eq!(second, third);
        assert!(third.warnings.is_empty());
    }
}
