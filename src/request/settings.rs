//! A container's own settings: annotations `nvoci.dev/<key>`, variables `NVOCI_<KEY>`.
//!
//! An image's author can write variables, so a setting counts only if [`super::provenance`] grants
//! it. A refused setting leaves a note, and the container starts without it.

use std::borrow::Cow;

use crate::config::{Choice, Config};

use super::limits::{self, excerpt};
use super::provenance::{Authors, Chosen, Policy};
use super::variables::{SETTING, Variables};
use super::{Inputs, Provenance};

/// The prefix of the annotations.
const ANNOTATION: &str = "nvoci.dev/";

/// Whether an annotation is a setting.
pub(super) fn is_annotation(key: &str) -> bool {
    key.starts_with(ANNOTATION)
}

/// The granted settings. Of each key the first granted one counts, annotations before variables. A
/// value that equals the configuration needs no right. So a person can undo an image's setting by a
/// variable, or by an annotation that the engine proves. `noted` is the one key that notes are
/// about, or `None` for all.
pub(super) fn chosen(
    inputs: &Inputs<'_>,
    variables: &Variables<'_>,
    policy: Policy<'_>,
    config: &Config,
    noted: Option<&str>,
    notes: &mut Vec<String>,
) -> Vec<Chosen> {
    let mut chosen = Vec::new();
    let mut unwanted = Vec::new();
    for &key in Choice::KEYS {
        let notes = match noted {
            Some(noted) if noted != key => &mut unwanted,
            _ => &mut *notes,
        };
        for Wished { name, value, by } in wishes(key, inputs, variables) {
            let Some(Ok(choice)) = Choice::parse(key, value) else {
                limits::note(notes, || {
                    let expected = Choice::parse(key, value)
                        .and_then(Result::err)
                        .unwrap_or_default();
                    format!("ignored {name}=`{}`: expected {expected}", excerpt(value))
                });
                continue;
            };
            match policy.chosen(by, &name, choice) {
                Ok(one) => {
                    let keeps = choice.is_in(config);
                    if choice == Choice::NoCgroups(true) && !keeps {
                        limits::note(notes, || {
                            format!(
                                "{name}: the device cgroup is left alone, and a GPU that it denies does not open"
                            )
                        });
                    }
                    chosen.extend((!keeps).then_some(one));
                    // An image may have written it; then it does not undo a choice of the person
                    // who starts the container.
                    if !keeps || by != Provenance::AuthorAnnotation {
                        break;
                    }
                }
                Err(kept) => {
                    limits::note(notes, || {
                        format!("ignored {name}={}: {}", choice.value(), kept.why())
                    });
                }
            }
        }
    }
    unknown(inputs, variables, notes);
    chosen
}

/// The configuration with the chosen settings.
pub(super) fn settle<'c>(chosen: &[Chosen], config: &'c Config) -> Cow<'c, Config> {
    let mut config = Cow::Borrowed(config);
    for one in chosen {
        one.choice().set(config.to_mut(), one.name(), one.by().name());
    }
    config
}

/// A key's value in an annotation or a variable.
struct Wished<'a> {
    name: String,
    value: &'a str,
    by: Provenance,
}

/// The annotation for `key`, then the variable. If a name occurs twice, the last one counts.
fn wishes<'a>(key: &str, inputs: &Inputs<'a>, variables: &Variables<'a>) -> Vec<Wished<'a>> {
    let name = annotation(key);
    let annotated = inputs.annotations.iter().rev().find(|(found, _)| *found == name);
    let annotated = annotated.map(|(_, value)| Wished {
        by: Authors::of(inputs).provenance(&name, value),
        name,
        value,
    });
    let name = variable(key);
    let set = variables.get(&name).map(|value| Wished {
        name,
        value,
        by: Provenance::Env,
    });
    annotated.into_iter().chain(set).collect()
}

fn annotation(key: &str) -> String {
    format!("{ANNOTATION}{key}")
}

fn variable(key: &str) -> String {
    format!("{SETTING}{}", key.to_ascii_uppercase().replace('-', "_"))
}

/// One note for all unknown names, or an image could push the other notes out.
fn unknown(inputs: &Inputs<'_>, variables: &Variables<'_>, notes: &mut Vec<String>) {
    let known: Vec<String> = Choice::KEYS
        .iter()
        .flat_map(|key| [annotation(key), variable(key)])
        .collect();
    let unknown = |name: &&str| !known.iter().any(|known| known == name);
    let annotations = inputs.annotations.iter().map(|(name, _)| name.as_str());
    let annotations = annotations.filter(|name| is_annotation(name)).filter(unknown);
    let set = variables
        .with_prefix(SETTING)
        .map(|(name, _)| name)
        .filter(unknown);
    let mut names = annotations.chain(set);
    if let Some(first) = names.next() {
        let others = match names.count() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        limits::note(notes, || {
            let keys = Choice::KEYS.join(", ");
            format!(
                "ignored {}{others}: a container can choose {keys}",
                excerpt(first)
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Dialect, Layout, Origin, Preflight};
    use crate::request::{EntryPoint, MountView, Request, parse};

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    fn config(text: &str) -> Config {
        Config::parse(text, std::path::Path::new("test"), Dialect::Nvoci).unwrap()
    }

    /// The request of a container with GPU 0, and these variables and annotations, at `entry`.
    fn at(entry: EntryPoint, env: &[(&str, &str)], annotations: &[(&str, &str)], config: &Config) -> Request {
        let mut env = pairs(env);
        env.push(("NVIDIA_VISIBLE_DEVICES".to_owned(), "0".to_owned()));
        let source = "/var/lib/kubelet/pods/4811a2ec-9576-4426-a2d3-299dc1ced75f/etc-hosts";
        let mounts = [MountView {
            source,
            destination: "/etc/hosts",
        }];
        let annotations = pairs(annotations);
        let inputs = Inputs {
            env: &env,
            annotations: &annotations,
            mounts: &mounts,
            privileged: true,
            entry,
        };
        parse(&inputs, config).unwrap()
    }

    fn of(env: &[(&str, &str)], annotations: &[(&str, &str)], config: &Config) -> Request {
        at(EntryPoint::Hook, env, annotations, config)
    }

    fn shown(request: &Request) -> Vec<String> {
        let one = |c: &Chosen| format!("{} {} {}", c.choice(), c.name(), c.by().name());
        request.settings.iter().map(one).collect()
    }

    /// Notes are about one setting by its key, whatever words the value of another has.
    #[test]
    fn notes_of_one_setting() {
        let config = Config::default();
        let env = [
            ("NVOCI_LAYOUT", "cuda-compat NVOCI_CUDA_COMPAT"),
            ("NVOCI_CUDA_COMPAT", "sometimes"),
        ];
        let env = pairs(&env);
        let inputs = Inputs {
            env: &env,
            annotations: &[],
            mounts: &[],
            privileged: false,
            entry: EntryPoint::Cdi,
        };
        let mut notes = Vec::new();
        assert!(crate::request::settings_of(&inputs, &config, "cuda-compat", &mut notes).is_empty());
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].starts_with("ignored NVOCI_CUDA_COMPAT="), "{notes:?}");
    }

    #[test]
    fn less_is_granted_and_more_is_not() {
        let default = Config::default();
        let less = [
            ("NVOCI_CUDA_COMPAT", "off"),
            ("NVOCI_IPC_SOCKETS", "false"),
            ("NVOCI_NO_CGROUPS", "true"),
            ("NVOCI_PREFLIGHT", "enforce"),
        ];
        let request = of(&less, &[], &default);
        // A GPU that does not open would be a silent failure.
        let notes = request.notes.join("\n");
        assert!(
            notes.starts_with("NVOCI_NO_CGROUPS: ") && !notes.contains('\n'),
            "{notes}"
        );
        assert_eq!(
            shown(&request),
            [
                "cuda-compat=off NVOCI_CUDA_COMPAT env",
                "ipc-sockets=false NVOCI_IPC_SOCKETS env",
                "no-cgroups=true NVOCI_NO_CGROUPS env",
                "preflight=enforce NVOCI_PREFLIGHT env",
            ]
        );
        let settled = request.settle(&default);
        assert!(!*settled.ipc_sockets && *settled.no_cgroups && *settled.preflight == Preflight::Enforce);
        let by = |origin: &Origin| matches!(origin, Origin::Container { by: "env", .. });
        assert_eq!(
            settled
                .settings()
                .iter()
                .filter(|(.., origin)| by(origin))
                .count(),
            4
        );

        // The same container on a host whose administrator has set all of these: an image can undo
        // none.
        let strict =
            config("cuda-compat = \"off\"\nipc-sockets = false\nno-cgroups = true\npreflight = \"enforce\"");
        for (name, value) in [
            ("NVOCI_CUDA_COMPAT", "auto"),
            ("NVOCI_IPC_SOCKETS", "true"),
            ("NVOCI_NO_CGROUPS", "false"),
            ("NVOCI_PREFLIGHT", "warn"),
            ("NVOCI_PREFLIGHT", "off"),
            ("NVOCI_LAYOUT", "native"),
        ] {
            let request = of(&[(name, value)], &[], &strict);
            assert_eq!(request.settings, [], "{name}={value}");
            assert_eq!(request.notes.len(), 1, "{:?}", request.notes);
            assert!(
                request.notes[0].contains(&format!("{name}={value}")),
                "{:?}",
                request.notes
            );
            assert_eq!(*request.settle(&strict), strict);
        }
    }

    /// Neither a list of every key nor a proven annotation lowers an enforced check.
    #[test]
    fn enforce_is_a_floor() {
        let keys = Choice::KEYS
            .iter()
            .map(|key| format!("{key:?}"))
            .collect::<Vec<_>>();
        let all = format!("container-settings = [{}]\n", keys.join(", "));
        let enforced = config(&format!("{all}preflight = \"enforce\""));
        let engine = ("io.kubernetes.cri.container-type", "container");
        for value in ["off", "warn"] {
            let request = of(
                &[("NVOCI_PREFLIGHT", value)],
                &[("nvoci.dev/preflight", value), engine],
                &enforced,
            );
            assert_eq!(request.settings, []);
            assert!(request.notes.iter().all(|n| n.contains("enforce")) && request.notes.len() == 2);
        }
        let open = config(&all);
        assert_eq!(
            *of(&[("NVOCI_PREFLIGHT", "off")], &[], &open)
                .settle(&open)
                .preflight,
            Preflight::Off
        );
        assert_eq!(
            *of(&[("NVOCI_LAYOUT", "native")], &[], &open).settle(&open).layout,
            Layout::Native
        );
    }

    #[test]
    fn annotations_come_first_and_have_an_author() {
        let open = config("container-settings = [\"layout\", \"ipc-sockets=false\"]");
        let engine = ("io.kubernetes.cri.container-type", "container");
        let native = ("nvoci.dev/layout", "native");
        assert_eq!(
            shown(&of(&[], &[native], &open)),
            ["layout=native nvoci.dev/layout author-annotation"]
        );
        assert_eq!(
            shown(&of(&[], &[native, engine], &open)),
            ["layout=native nvoci.dev/layout annotation"]
        );
        // An engine's annotation undoes another choice even with the configured value; an image's
        // does not.
        let (native, private) = (("NVOCI_LAYOUT", "native"), ("nvoci.dev/layout", "private"));
        assert_eq!(shown(&of(&[native], &[private, engine], &open)), [""; 0]);
        assert_eq!(
            shown(&of(&[native], &[private], &open)),
            ["layout=native NVOCI_LAYOUT env"]
        );
        let refused = of(
            &[("NVOCI_IPC_SOCKETS", "false")],
            &[("nvoci.dev/ipc-sockets", "yes")],
            &open,
        );
        assert_eq!(shown(&refused), ["ipc-sockets=false NVOCI_IPC_SOCKETS env"]);
        // If a name occurs twice, the last one counts: engines append a user's value to the
        // image's.
        let twice = [("NVOCI_LAYOUT", "native"), ("NVOCI_LAYOUT", "private")];
        assert_eq!(of(&twice, &[], &open).settings, []);
        for entry in [EntryPoint::Hook, EntryPoint::Runtime, EntryPoint::Cdi] {
            assert_eq!(
                at(entry, &[("NVOCI_LAYOUT", "native")], &[native], &open)
                    .settings
                    .len(),
                1,
                "{entry:?}"
            );
        }
    }

    #[test]
    fn unknown_settings_leave_one_note() {
        let default = Config::default();
        let many: Vec<(String, String)> = (0..500)
            .map(|i| (format!("NVOCI_X{i}"), "1".to_owned()))
            .collect();
        let mut env: Vec<(&str, &str)> = many.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        env.extend([("NVOCI_", ""), ("NVOCI_layout", "native"), ("NVOCI_MODE", "cdi")]);
        let request = of(
            &env,
            &[("nvoci.dev/driver-root", "/evil"), ("nvoci.dev/", "")],
            &default,
        );
        assert_eq!(
            (request.settings.len(), request.notes.len()),
            (0, 1),
            "{:?}",
            request.notes
        );
        assert!(
            request.notes[0].contains("nvoci.dev/driver-root and 504 more"),
            "{:?}",
            request.notes
        );
        let long = "a".repeat(100_000);
        let odd = of(
            &[("NVOCI_LAYOUT", &long)],
            &[("nvoci.dev/ipc-sockets", "\u{1b}[31m\n")],
            &default,
        );
        assert_eq!((odd.settings.len(), odd.notes.len()), (0, 2));
        assert!(
            odd.notes.iter().all(|n| n.len() < 300 && !n.contains('\u{1b}')),
            "{:?}",
            odd.notes
        );
        // A container without a request has no settings either.
        let none = parse(
            &Inputs {
                env: &pairs(&[("NVOCI_LAYOUT", "native")]),
                annotations: &[],
                mounts: &[],
                privileged: false,
                entry: EntryPoint::Hook,
            },
            &default,
        );
        assert!(none.unwrap().is_empty());
    }

    fn any_choice() -> impl Strategy<Value = (&'static str, &'static str)> {
        prop::sample::select(vec![
            ("cuda-compat", "auto"),
            ("cuda-compat", "off"),
            ("ipc-sockets", "true"),
            ("ipc-sockets", "false"),
            ("no-cgroups", "true"),
            ("no-cgroups", "false"),
            ("preflight", "off"),
            ("preflight", "warn"),
            ("preflight", "enforce"),
            ("layout", "native"),
            ("layout", "private"),
            ("warn-stderr", "true"),
            ("warn-stderr", "false"),
        ])
    }

    proptest! {
        /// With the default list, no configuration and no choice of an image or a pod gives a
        /// container more.
        #[test]
        fn nobody_widens(
            own in prop::collection::vec(any_choice(), 0..5),
            env in prop::collection::vec(any_choice(), 0..5),
            annotations in prop::collection::vec(any_choice(), 0..5),
        ) {
            let mut host = Config::default();
            for (key, value) in own {
                Choice::parse(key, value).unwrap().unwrap().set(&mut host, "x", "test");
            }
            let env: Vec<(String, &str)> = env.iter().map(|(k, v)| (variable(k), *v)).collect();
            let env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (k.as_str(), *v)).collect();
            let annotations: Vec<(String, &str)> = annotations.iter().map(|(k, v)| (annotation(k), *v)).collect();
            let annotations: Vec<(&str, &str)> = annotations.iter().map(|(k, v)| (k.as_str(), *v)).collect();
            let request = of(&env, &annotations, &host);
            let got = request.settle(&host);
            prop_assert!(!*got.ipc_sockets || *host.ipc_sockets);
            prop_assert!(*got.no_cgroups || !*host.no_cgroups);
            prop_assert_eq!(*got.layout, *host.layout);
            prop_assert!(*got.warn_stderr || !*host.warn_stderr);
            let rank = |config: &Config| match *config.preflight {
                Preflight::Off => 0,
                Preflight::Warn => 1,
                Preflight::Enforce => 2,
            };
            prop_assert!(rank(&got) >= rank(&host));
            prop_assert!(got.cuda_compat.name() == "off" || host.cuda_compat.name() == "auto");
        }
    }
}
