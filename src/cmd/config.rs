//! `nvoci config`: prints the effective configuration, each value with its origin.

use std::path::PathBuf;
use std::process::ExitCode;

use super::cli::{Command, Page, flag};
use crate::config::{Config, Origin};
use crate::error::{Code, Escaped, IoContext as _, Result};

#[derive(Default)]
pub(super) struct Options {
    json: bool,
    file: Option<PathBuf>,
}

pub(super) static COMMAND: Command<Options> = Command {
    page: Page {
        name: "nvoci config",
        summary: "show the effective configuration, each value with its origin",
        about: &["Shows the effective configuration: /etc/nvoci/config.toml, else \
                  /etc/nvidia-container-runtime/config.toml, else the defaults. Each value is printed with its \
                  origin. The output is a valid configuration file."],
        ..Page::EMPTY
    },
    flags: &[
        flag("json", "print JSON").switch(|o| o.json = true),
        flag("config", "read this file instead; root must own it")
            .path("FILE", |o, file| o.file = Some(file)),
    ],
    ..Command::of(run)
};

fn run(Options { json, file }: Options) -> Result<ExitCode> {
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

/// Switches that, where they are on, do not count for every entry point.
const COUNTS_FOR: &[(&str, &str)] = &[(
    "no-cgroups",
    "counts for the hook and nvidia-container-cli; the runtime and CDI name the devices in the container's \
     definition, and the low-level runtime applies the rules",
)];

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
        // JSON's strings, booleans and lists of strings are valid TOML.
        let setting = format!("{key} = {value}");
        lines.push(match origin {
            Origin::Default => format!("{setting:<60} # default"),
            Origin::File(from) if from == key => format!("{setting:<60} # set"),
            Origin::File(from) | Origin::Container { name: from, .. } => {
                format!("{setting:<60} # from {from}")
            }
        });
    }
    let settings = config.settings();
    let is_true = |key: &str| settings.iter().any(|(k, value, _)| *k == key && *value == true);
    let counts = COUNTS_FOR.iter().filter(|(key, _)| is_true(key));
    lines.extend(counts.map(|(key, text)| format!("# {key}: {text}")));
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
