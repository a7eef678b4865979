//! Files that other users may have made, and files that a command reverts.

use std::os::unix::fs::{FileTypeExt as _, lchown, symlink};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Bench, is_root};

/// A link of user 1234 in a directory of root's.
fn foreign_link(bench: &Bench, target: &str, link: &str) {
    symlink(target, bench.path(link)).unwrap();
    lchown(bench.path(link), Some(1234), Some(1234)).unwrap();
}

/// root would write a specification into a directory that another user chose.
#[test]
fn cdi_writes_through_no_link_of_another_user() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    bench.file("aim/keep", "");
    bench.file("x.yaml", &super::SPEC.replace("KIND", "cd"));
    std::fs::create_dir(bench.path("dir")).unwrap();
    foreign_link(&bench, "../aim", "dir/link");
    symlink("dir/link", bench.path("mine")).unwrap();
    foreign_link(&bench, "/none/at/all", "dangling");
    for (place, why) in [
        ("dir/link/out.yaml", "belongs to user 1234"),
        ("dir/link/new/out.yaml", "belongs to user 1234"),
        // A link of root's leads through the other one.
        ("mine/out.yaml", "belongs to user 1234"),
        ("dangling/out.yaml", "belongs to user 1234"),
    ] {
        for line in [
            format!("nvidia-ctk cdi generate --output=@/{place} --nvidia-cdi-hook-path=/usr/bin/x"),
            format!("nvidia-ctk cdi transform root --from=/a --to=/b --input=@/x.yaml --output=@/{place}"),
        ] {
            let ran = bench.run(&line).exits(1);
            assert!(ran.err.contains(why), "{line}: {}", ran.err);
        }
    }
    let left: Vec<_> = std::fs::read_dir(bench.path("aim")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    // A directory that others may write to is no link: people write to /tmp.
    let generate = "nvidia-ctk cdi generate --nvidia-cdi-hook-path=/usr/bin/x";
    let link = bench.path("own");
    symlink("aim", link).unwrap();
    for place in ["own/out.yaml", "new/dir/out.yaml", "dir/../aim/two.yaml"] {
        bench.run(&format!("{generate} --output=@/{place}")).exits(0);
        assert!(bench.path(place).exists(), "{place}");
    }
    // The file itself is replaced, even a link.
    foreign_link(&bench, "aim/keep", "link.yaml");
    bench.run(&format!("{generate} --output=@/link.yaml")).exits(0);
    assert_eq!(bench.text("aim/keep"), "");
    assert!(bench.text("link.yaml").starts_with("---\n"));
}

/// `--output /dev/null` as root would take the node away from the whole host.
#[test]
fn an_output_replaces_no_node_and_no_own_link() {
    let bench = Bench::new();
    let generate = "nvidia-ctk cdi generate --nvidia-cdi-hook-path=/usr/bin/x";
    symlink("aim", bench.path("link.yaml")).unwrap();
    std::fs::create_dir(bench.path("dir.yaml")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(bench.path("fifo.yaml"))
        .status();
    assert!(made.unwrap().success());
    for line in [
        format!("{generate} --output=@/link.yaml"),
        format!("{generate} --output=@/fifo.yaml"),
        format!("{generate} --output=@/dir.yaml"),
        "nvidia-ctk config --output=@/fifo.yaml".to_owned(),
        "nvidia-ctk runtime configure --runtime=crio --config-mode=oci-hook --oci-hook-path=@/fifo.yaml"
            .to_owned(),
    ] {
        let ran = bench.run(&line).exits(1);
        assert!(
            ran.err.contains("it exists and is no regular file"),
            "{line}: {}",
            ran.err
        );
    }
    let kind = |name: &str| std::fs::symlink_metadata(bench.path(name)).unwrap().file_type();
    assert!(kind("fifo.yaml").is_fifo() && kind("link.yaml").is_symlink() && kind("dir.yaml").is_dir());
}

/// A hook that waits for a writer would stop a container forever.
#[test]
fn a_state_that_is_no_file_is_refused_at_once() {
    let bench = Bench::new();
    let made = std::process::Command::new("mkfifo")
        .arg(bench.path("fifo"))
        .status();
    assert!(made.unwrap().success());
    bench.file("dir/x", "");
    bench.file("state", "{}");
    for (name, why) in [
        ("fifo", "not a regular file"),
        ("dir", "not a regular file"),
        ("none", "No such file"),
        ("state", "names no bundle"),
    ] {
        let line = format!("nvidia-cdi-hook update-ldcache --folder /x --container-spec @/{name}");
        let mut child = bench
            .command(&line)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if begun.elapsed() > Duration::from_secs(10) {
                child.kill().unwrap();
                panic!("{name}: it waits");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let ran = super::Ran::of(&line, child.wait_with_output().unwrap()).exits(1);
        assert!(ran.err.contains(why), "{name}: {}", ran.err);
        assert!(ran.err.contains("NVOCI-1101"), "{name}: {}", ran.err);
    }
    // Standard input by any of its names.
    for name in ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"] {
        let line = format!("nvidia-cdi-hook update-ldcache --folder /x --container-spec {name}");
        let ran = bench.fed(&line, "{}").exits(1);
        assert!(ran.err.contains("names no bundle"), "{name}: {}", ran.err);
    }
}

const MAIN: &str = "/etc/containerd/config.toml";
const DROP_IN: &str = "/etc/containerd/conf.d/99-nvidia.toml";

fn install(bench: &Bench, main: &str, drop_in: &str) {
    bench
        .run(&format!(
            "nvoci install containerd --root @ --config {main} --drop-in {drop_in}"
        ))
        .exits(0);
    assert!(
        bench
            .text(drop_in.trim_start_matches('/'))
            .contains("nvoci-runtime")
    );
}

fn uninstall(bench: &Bench, main: &str) {
    let line = format!("nvoci uninstall containerd --root @ --config {main}");
    let ran = bench.run(&line).exits(0);
    assert!(ran.out.contains("removed"), "{}", ran.out);
}

/// The default configuration of containerd 2.2 imports conf.d, so a leftover drop-in stays in
/// effect.
#[test]
fn taking_back_the_main_file_takes_back_its_drop_in() {
    for before in [
        "version = 3\n",
        "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n",
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"x\"\n",
    ] {
        let bench = Bench::new();
        bench.file(&MAIN[1..], before);
        bench.file("etc/containerd/conf.d/10-theirs.toml", "version = 2\n");
        install(&bench, MAIN, DROP_IN);
        uninstall(&bench, MAIN);
        assert_eq!(bench.text(&MAIN[1..]), before);
        assert!(!bench.path(&DROP_IN[1..]).exists(), "after {before}");
        assert!(bench.path("etc/containerd/conf.d/10-theirs.toml").exists());
        let again = bench.run(&format!("nvoci uninstall containerd --root @ --config {MAIN}"));
        assert!(again.exits(0).out.contains("not registered"));
    }
}

#[test]
fn a_drop_in_of_another_main_file_stays() {
    let bench = Bench::new();
    bench.file(&MAIN[1..], "version = 3\n");
    bench.file("opt/b/config.toml", "version = 3\n");
    install(&bench, MAIN, DROP_IN);
    // Two daemons with one directory of drop-ins.
    install(&bench, "/opt/b/config.toml", DROP_IN);
    uninstall(&bench, MAIN);
    assert_eq!(bench.text(&MAIN[1..]), "version = 3\n");
    assert!(
        bench.path(&DROP_IN[1..]).exists(),
        "the other main file imports it"
    );
    uninstall(&bench, "/opt/b/config.toml");
    assert!(!bench.path(&DROP_IN[1..]).exists());
    // A registration of its own beside it.
    install(&bench, MAIN, DROP_IN);
    install(&bench, "/opt/b/config.toml", "/opt/b/conf.d/x.toml");
    uninstall(&bench, MAIN);
    assert!(!bench.path(&DROP_IN[1..]).exists());
    assert!(bench.path("opt/b/conf.d/x.toml").exists());
}

/// containerd resolves a relative import beside the link, not beside the file that it leads to.
#[test]
fn a_drop_in_of_a_linked_main_file_goes_too() {
    let bench = Bench::new();
    let before = "version = 3\nimports = [\"conf.d/*.toml\"]\n";
    bench.file("opt/c/config.toml", before);
    bench.file("etc/containerd/conf.d/10-theirs.toml", "version = 3\n");
    symlink("../../opt/c/config.toml", bench.path(&MAIN[1..])).unwrap();
    install(&bench, MAIN, DROP_IN);
    let line = format!("nvoci uninstall containerd --root @ --config {MAIN} --dry-run");
    assert!(bench.run(&line).exits(0).out.contains("99-nvidia.toml"));
    assert!(bench.path(&DROP_IN[1..]).exists());
    uninstall(&bench, MAIN);
    assert!(!bench.path(&DROP_IN[1..]).exists());
    assert_eq!(bench.text("opt/c/config.toml"), before);
    assert!(bench.path(&MAIN[1..]).is_symlink());
}

/// A main file that was removed by hand, or is broken, keeps no drop-in.
#[test]
fn a_drop_in_goes_with_a_main_file_that_is_gone() {
    for broken in [None, Some("imports = [\n")] {
        let bench = Bench::new();
        bench.file(&MAIN[1..], "version = 3\n");
        install(&bench, MAIN, DROP_IN);
        match broken {
            None => std::fs::remove_file(bench.path(&MAIN[1..])).unwrap(),
            Some(text) => bench.file(&MAIN[1..], text),
        }
        bench.run(&format!("nvoci uninstall containerd --root @ --config {MAIN}"));
        if broken.is_none() {
            assert!(!bench.path(&DROP_IN[1..]).exists());
        }
    }
}
