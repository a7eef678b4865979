//! The attacker, or a careless administrator, decides how the hook is called: its limits, its
//! descriptors, how often, and in which user namespace.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::prelude::*;
use crate::case::Hook;

pub(crate) const USER_NAMESPACES: Class = Class {
    number: 32,
    attack: "user namespaces",
    decision: "files belong to the container's root",
    also: &["images:userns"],
    cases: &[Case {
        id: "32_userns",
        why: "the container has a user namespace, whose root owns the image",
        trick: |image| image.give_to_shifted_root(),
        request: edited(|spec| {
            push(&mut spec["linux"]["namespaces"], json!({"type": "user"}));
            shifted_ids(spec);
        }),
        ways: &[Way::CreateRuntime],
        expect: Expect::always(Started),
        check: |after| {
            let (upper, made) = (after.scene.bundle.upper(), after.scene.bundle.definition());
            let time = |metadata: &fs::Metadata| (metadata.mtime(), metadata.mtime_nsec());
            let begin = time(&fs::metadata(made)?);
            let mut foreign = Vec::new();
            for (path, metadata) in tree(&upper)? {
                let is_new = time(&metadata) > begin && !path.ends_with("probe");
                if metadata.uid() == 0 && !metadata.is_dir() && is_new {
                    foreign.push(path);
                }
            }
            after.must(
                foreign.is_empty(),
                format!("files that the container's root does not own: {foreign:?}"),
            );
            Ok(())
        },
        ..Case::HARMLESS
    }],
};

/// A directory's entries, with all below them.
fn tree(directory: &Path) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let metadata = path.symlink_metadata()?;
        if metadata.is_dir() {
            found.extend(tree(&path)?);
        }
        found.push((path, metadata));
    }
    Ok(found)
}

/// The hook has less than it needs, or as much.
const LIMITED: Case = Case {
    ways: &[Way::CreateRuntime, Way::CreateContainer],
    ..Case::HARMLESS
};

pub(crate) const LIMITS: Class = Class {
    number: 36,
    attack: "20 descriptors, 20 MB, no file size, no processes, closed output",
    decision: "a start, or one line",
    also: &[],
    cases: &[
        Case {
            id: "36_files",
            why: "the hook may open 20 descriptors",
            hook: Hook::After("ulimit -n 20"),
            // Which file is the first one too many depends on the runtime's own descriptors.
            expect: Expect::always(RefusedEither(2001, 5001)),
            ..LIMITED
        },
        Case {
            id: "36_memory",
            why: "the hook may have 20 MB of memory",
            hook: Hook::After("ulimit -v 20000"),
            ..LIMITED
        },
        Case {
            id: "36_size",
            why: "the hook may write no file",
            hook: Hook::After("ulimit -f 0"),
            expect: Expect::always(Refused(5002)),
            bites: FAILS,
            ..LIMITED
        },
        Case {
            id: "36_processes",
            why: "the hook may have one process",
            hook: Hook::After("ulimit -u 1"),
            ..LIMITED
        },
        Case {
            id: "36_closed",
            why: "the hook has no output",
            hook: Hook::After("exec >&- 2>&-"),
            ..LIMITED
        },
    ],
};

pub(crate) const DESCRIPTORS: Class = Class {
    number: 37,
    attack: "descriptors and working directory of the host inherited",
    decision: "closed before anything is read",
    also: &["stuck:34_fuse"],
    cases: &[Case {
        id: "37_inherited",
        why: "the hook inherits directories and a file of the host, open for writing",
        hook: Hook::After("exec 7</canary 8>>/canary/ld.so.cache 9</canary/nvidia; cd /canary"),
        // The shell opens them itself.
        touches: &[
            Touch::opens("/canary"),
            Touch::opens("/canary/ld.so.cache"),
            Touch::opens("/canary/nvidia"),
        ],
        ..LIMITED
    }],
};

/// Why an entry of the image's layer must not be there after a start.
fn is_left(path: &Path, metadata: &fs::Metadata) -> bool {
    let own = [
        "etc/ld.so.conf.d/00-nvoci.conf",
        "etc/ld.so.cache",
        "etc/ld-musl-x86_64.path",
    ];
    let is_driver = |path: &Path| {
        path.ancestors()
            .skip(1)
            .any(|above| above == Path::new("usr/local/nvidia") || above == Path::new("opt/nvidia"))
    };
    if path == Path::new("probe") || metadata.is_dir() {
        return is_driver(path);
    }
    let is_own = metadata.is_file() && metadata.len() > 0 && own.iter().any(|own| Path::new(own) == path);
    !is_own || is_driver(path)
}

/// Whether a link leads to the driver directory.
fn leads_to_driver(target: &Path) -> bool {
    let target = target.to_string_lossy();
    let inner = target.trim_start_matches("../").trim_start_matches('/');
    let is_from_root = target.starts_with('/') || target.starts_with("../");
    is_from_root && (inner.starts_with("usr/local/nvidia/") || inner.starts_with("opt/nvidia/"))
}

pub(crate) const LAYER: Class = Class {
    number: 45,
    attack: "what a commit would keep",
    decision: "no stubs, no driver files",
    also: &["images:unversioned"],
    cases: &[Case {
        id: "45_layer",
        why: "the image's layer is committed after a start",
        ways: BUT_CDI,
        bites: CHECK,
        check: |after| {
            let upper = after.scene.bundle.upper();
            let mut left = Vec::new();
            for (path, metadata) in tree(&upper)? {
                let inner = path.strip_prefix(&upper).unwrap_or(&path);
                let is_link = metadata.is_symlink() && leads_to_driver(&fs::read_link(&path)?);
                if !is_link && is_left(inner, &metadata) {
                    left.push(inner.to_owned());
                }
            }
            left.sort();
            after.must(left.is_empty(), format!("left in the image layer: {left:?}"));
            Ok(())
        },
        ..Case::HARMLESS
    }],
};

pub(crate) const DOUBLE: Class = Class {
    number: 46,
    attack: "hook, runtime and CDI at once",
    decision: "one set of mounts",
    also: &[],
    cases: &[Case {
        id: "46_double",
        why: "the hook is called four times, at three stages",
        request: edited(|spec| {
            let hooks = first_hooks(spec);
            if !hooks.is_empty() {
                let mut late = hooks.clone();
                for hook in &mut late {
                    let last = hook["args"].as_array_mut().and_then(|args| args.last_mut());
                    if let Some(last) = last {
                        *last = json!("createContainer");
                    }
                }
                let twice = [hooks.clone(), hooks.clone()].concat();
                spec["hooks"] = json!({"prestart": twice, "createRuntime": hooks, "createContainer": late});
            }
            program(spec, &["/bin/cat", "/proc/self/mountinfo"]);
        }),
        ways: REQUESTS,
        expect: Expect::always(Started),
        bites: CHECK,
        check: |after| {
            let lines = after.output().lines();
            let mut places: Vec<String> = lines
                .filter_map(|line| line.split(' ').nth(4))
                .filter(|place| place.contains("nvidia"))
                .map(str::to_owned)
                .collect();
            let is_there = places.iter().any(|place| place == "/usr/local/nvidia");
            after.proves(is_there, "nothing was injected");
            places.sort();
            let twice = places.windows(2).find(|two| two[0] == two[1]);
            let twice = twice.map(|two| two[0].clone());
            after.must(twice.is_none(), format!("mounted twice: {twice:?}"));
            Ok(())
        },
        ..Case::HARMLESS
    }],
};

/// Attempts to change the driver in the container. Each success prints a line.
const CHANGES: &str = r"d=/usr/local/nvidia
for f in $d/lib64/libcuda.so.1 $d/bin/nvidia-smi $d/.nvoci.json; do
  [ -e $f ] || echo missing $f
  (echo evil >>$f) 2>/dev/null && echo wrote $f
  rm -f $f 2>/dev/null && echo removed $f
done
(>$d/new) 2>/dev/null && echo made
mount -o remount,rw $d 2>/dev/null && echo remounted
mount -o remount,bind,rw $d/lib64/libcuda.so.1 2>/dev/null && echo remounted
echo tried";

fn tried(after: &mut After<'_, '_>) {
    let done: Vec<&str> = after.output().lines().filter(|line| *line != "tried").collect();
    let text = format!("the driver could be changed: {}", done.join("|"));
    let (is_safe, is_tried) = (done.is_empty(), after.line("tried").is_some());
    after.must(is_safe, text);
    after.proves(is_tried, "nothing was tried");
}

pub(crate) const WRITES: Class = Class {
    number: 91,
    attack: "a container writes to the driver's files, removes them, or mounts them anew",
    decision: "nothing of the driver can be changed",
    also: &[],
    cases: &[
        Case {
            id: "91_written_to",
            why: "the container's root changes the driver's files",
            request: edited(|spec| program(spec, &["/bin/sh", "-c", CHANGES])),
            ways: BUT_CDI,
            expect: Expect::always(Started),
            bites: CHECK,
            check: |after| {
                tried(after);
                Ok(())
            },
            ..Case::HARMLESS
        },
        Case {
            id: "91_written_by_user",
            why: "a user of the container changes the driver's files",
            request: edited(|spec| {
                program(spec, &["/bin/sh", "-c", CHANGES]);
                spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            }),
            ways: USERS_REQUESTS,
            expect: Expect::always(Started),
            check: |after| {
                tried(after);
                Ok(())
            },
            ..Case::HARMLESS
        },
    ],
};
