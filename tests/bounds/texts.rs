//! Dockerfiles, Compose files, specifications, definitions, configuration and loader caches.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{Bounds, TEXT, refused, run};

/// One input of 1 MiB.
const MIB: usize = 1 << 20;

/// The texts of `item` for 0, 1, 2, …, up to `bytes` bytes or `most` items.
fn numbered(bytes: usize, most: usize, item: impl Fn(usize) -> String) -> String {
    let mut out = String::new();
    for i in 0..most {
        let next = item(i);
        if out.len() + next.len() > bytes {
            break;
        }
        out += &next;
    }
    out
}

/// A directory with one file.
fn with(name: &str, content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, content).unwrap();
    (dir, file)
}

/// `nvoci doctor AREA -` ends on `text`, with and without `--json`, with an answer or with one
/// line.
fn doctor(area: &str, name: &str, text: &str) {
    assert!(text.len() <= MIB, "{name}: {}", text.len());
    let (_dir, file) = with("input", text);
    for json in [false, true] {
        let mut args = vec!["doctor", area, "-"];
        args.extend(json.then_some("--json"));
        let output = run(TEXT, &args, Some(&file));
        assert!(output.stdout.len() < 4 << 20, "{name}: {}", output.stdout.len());
        if !matches!(output.status.code(), Some(0..=2)) {
            let message = String::from_utf8(output.stderr).unwrap();
            assert!(message.trim_end().ends_with("[NVOCI-1107]"), "{name}: {message}");
        }
    }
}

const FROM: &str = "FROM nvidia/cuda:12.4.1-base-ubuntu22.04 AS s\n";

#[test]
fn a_dockerfile_of_one_run_with_30000_installs() {
    for (name, item) in [
        ("pip", "pip install torch && "),
        ("conda", "conda create -n a; "),
        ("smi", "nvidia-smi; "),
        ("copy", "cp /x/libcuda.so.1 /y; "),
        ("lines", "pip install torch; \\\n"),
    ] {
        doctor(
            "dockerfile",
            name,
            &format!("{FROM}RUN {}true", item.repeat(30_000)),
        );
    }
    doctor(
        "dockerfile",
        "words",
        &format!("{FROM}RUN pip install {}", "torch ".repeat(170_000)),
    );
    let many = |item: &str, end: &str| numbered(MIB - 100, 100_000, |i| format!("{item}{i}{end}"));
    for (name, text) in [
        (
            "distinct",
            format!("RUN apt install {}", many("nvidia-driver-", " ")),
        ),
        (
            "distinct lines",
            format!("RUN apt install {}", many("nvidia-driver-", " \\\n")),
        ),
        ("variables", format!("ENV {}", many("A", "=1 "))),
        ("variables' lines", format!("ENV {}", many("A", "=1 \\\n"))),
    ] {
        doctor("dockerfile", name, &format!("{FROM}{text}"));
    }
}

#[test]
fn a_dockerfile_of_many_stages_and_variables() {
    let stages = |line: &str| {
        let stage = |i: usize| {
            format!(
                "FROM s{} AS s{i}\n{}\n",
                i.wrapping_sub(1),
                line.replace('@', &i.to_string())
            )
        };
        format!("FROM x AS s0\n{}", numbered(MIB - 100, 4990, |i| stage(i + 1)))
    };
    doctor("dockerfile", "chain of variables", &stages("ENV A@=1"));
    doctor(
        "dockerfile",
        "chain of installs",
        &stages("RUN apt install libnvidia-@"),
    );
    doctor("dockerfile", "chain of uses", &stages("ENV A@=$A0$A1$A2$B"));
    let many = numbered(MIB, 6000, |i| format!("ENV A{i}=1\n"));
    doctor(
        "dockerfile",
        "copies",
        &format!("{FROM}{many}{}", "FROM s\n".repeat(3900)),
    );
    let many = numbered(MIB / 2, 100_000, |i| format!("libnvidia-{i} "));
    doctor(
        "dockerfile",
        "installs",
        &format!("{FROM}RUN apt install {many}\n{}", "FROM s\n".repeat(9000)),
    );
    let long = "x".repeat(60_000);
    let uses = numbered(MIB / 2, 9900, |i| format!("ENV B{i}=$A\n"));
    doctor(
        "dockerfile",
        "long values",
        &format!("{FROM}ENV A={long}\n{uses}"),
    );
    doctor(
        "dockerfile",
        "long names",
        &format!("ARG A={long}\n{}", "FROM $A\n".repeat(9900)),
    );
    doctor(
        "dockerfile",
        "lookups",
        &(stages("ENV A@=1").replace("ENV A4980=1", &format!("RUN {}", "$Q".repeat(400_000)))),
    );
}

#[test]
fn a_compose_file_of_many_findings_and_merges() {
    let gpu = "{deploy: {devices: [x]}, image: 'nvidia/cuda:1'}";
    let services = numbered(MIB / 2, 1000, |i| {
        format!(
            " a{i}:\n  deploy:\n   resources:\n    limits:\n     devices: []\n    reservations:\n     devices: [{{driver: x, count: 0, device_ids: [1]}}]\n"
        )
    });
    for (name, text) in [
        (
            "flow",
            format!(
                "services:\n{}",
                numbered(MIB, 1000, |i| format!(" a{i}: {gpu}\n"))
            ),
        ),
        ("findings", format!("services:\n{services}")),
        (
            "padded",
            format!("x: |\n{}services:\n{services}", "  y\n".repeat(120_000)),
        ),
        (
            "wide merge",
            format!(
                "x: &x {{<<: [{}]}}\nservices:\n{}",
                "{},".repeat(1000),
                numbered(MIB, 1000, |i| format!(" a{i}: {{<<: *x}}\n"))
            ),
        ),
        (
            "wide keys",
            format!(
                "x: &x {{{}}}\nservices:\n{}",
                numbered(MIB, 1000, |i| format!("k{i}: 1,")),
                numbered(MIB, 1000, |i| format!(" a{i}: {{<<: *x}}\n"))
            ),
        ),
        (
            "devices",
            format!(
                "services:\n a:\n  gpus:\n{}",
                "   - {driver: x, count: 0, device_ids: [0]}\n".repeat(20_000)
            ),
        ),
        (
            "long key",
            format!(
                "services:\n {}:\n  gpus:\n{}",
                "k".repeat(300_000),
                "   - count: 0\n".repeat(30_000)
            ),
        ),
    ] {
        doctor("compose", name, &text);
    }
    let mut chain = "x0: &x0 {a: b}\n".to_owned();
    for i in 1..40 {
        let _ = writeln!(chain, "x{i}: &x{i} {{<<: [*x{0}, *x{0}]}}", i - 1);
    }
    doctor(
        "compose",
        "chain of merges",
        &(chain + "services:\n a: {<<: *x39}\n"),
    );
}

/// Every token of YAML, again and again, alone and below another.
#[test]
fn yaml_of_any_shape() {
    let tokens = [
        "[",
        "{",
        "[{",
        "- ",
        "? ",
        ": ",
        "a: ",
        "? a\n",
        "- a\n",
        "--- a\n",
        "---\n...\n",
        "...\n",
        "&a ",
        "*a ",
        "!a ",
        "!!str a\n",
        "%YAML 1.2\n",
        "# ",
        "#\n",
        "| ",
        "|\n",
        ">\n",
        "'",
        "''",
        "\"",
        "\\",
        "\t",
        "\r",
        "\n",
        "\0",
        "\u{feff}",
        "\u{2028}",
        "x",
        "9",
        "<<: ",
    ];
    for token in tokens {
        for start in ["", "a: ", "a:\n - ", "a: [", "a: \"", "a: |\n  "] {
            let text = format!("{start}{}", token.repeat((MIB - 10) / token.len()));
            doctor("compose", &format!("{start:?} {token:?}"), &text);
        }
    }
}

/// The parser keeps all tokens of a flow collection until its end, and puts some before the kept
/// ones.
#[test]
fn yaml_whose_collection_may_be_a_key() {
    let whole = |start: &str, item: &str| format!("{start}{}", item.repeat((MIB - 4) / item.len()));
    for item in [
        ": ,", ":,", "\"\":", "\"\":,", "[]:", "{}:,", "[1],", "{},", "? ,", "1,", "\"\"", "!a&b*c,",
    ] {
        for start in ["[", "[[", "{", "- ["] {
            doctor("compose", &format!("{start} {item}"), &whole(start, item));
        }
    }
    let half = "1,".repeat(240_000);
    for close in ["]: ", "]:", "] #\n : ", "]\n:"] {
        let text = format!("[{half}{}{half}{}", "[".repeat(250), close.repeat(250));
        doctor("compose", close, &text);
        let (dir, _) = with("cdi/a.yaml", text);
        let dir = dir.path().join("cdi");
        let dir = dir.to_str().unwrap();
        run(TEXT, &["cdi", "check", "--spec-dir", dir], None);
    }
}

#[test]
fn yaml_that_repeats_itself() {
    let list = |item: &str| format!("[{}]", item.repeat(480_000 / item.len()));
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..20 {
        let _ = writeln!(bomb, "a{i}: &a{i} [{}]", format!("*a{},", i - 1).repeat(9));
    }
    let anchors = |more: &str| {
        numbered(480_000, 100_000, |i| {
            format!("&a{i} x,{}", more.replace('@', &i.to_string()))
        })
    };
    for (name, text) in [
        (
            "aliases",
            format!("a: &a {}\nb: {}", "x".repeat(100), list("*a,")),
        ),
        ("anchors", format!("a: [{}]", anchors(""))),
        ("anchors and aliases", format!("a: [{}]", anchors("*a@,"))),
        (
            "first and last",
            format!("a: [{}{}]", anchors(""), "*a1,".repeat(100_000)),
        ),
        ("bomb", bomb),
        ("pairs", format!("a: {}", list("b: c,"))),
        ("maps", format!("a: {}", list("{},"))),
        (
            "nested anchors",
            format!("a: {}", list("&a [&b [&c [&d {&e f: &g h}]]],")),
        ),
        (
            "tags",
            format!("%TAG !a! {}\n---\na: {}", "x".repeat(100_000), list("!a!b c,")),
        ),
        (
            "tags of tags",
            numbered(MIB, 100_000, |i| format!("%TAG !a{i}! b\n")) + "---\n!a0!x y",
        ),
        ("keys", numbered(MIB, 100_000, |i| format!("k{i}: v\n"))),
        (
            "long keys",
            numbered(MIB, 1000, |i| format!("{}{i}: v\n", "k".repeat(1000))),
        ),
        (
            "maps of keys",
            numbered(MIB, 1000, |_| {
                format!("- {{{}}}\n", numbered(MIB, 1000, |i| format!("k{i}: v,")))
            }),
        ),
        ("deep", numbered(MIB, 1400, |i| format!("{}a:\n", " ".repeat(i)))),
    ] {
        let text = text.get(..text.len().min(MIB)).unwrap();
        doctor("compose", name, text);
        let (dir, _) = with("cdi/a.yaml", text);
        let dir = dir.path().join("cdi");
        for command in ["list", "check"] {
            run(
                TEXT,
                &[
                    "cdi".as_ref(),
                    command.as_ref(),
                    OsStr::new("--spec-dir"),
                    dir.as_os_str(),
                ],
                None,
            );
        }
    }
}

const HEAD: &str = "cdiVersion: 0.6.0\nkind: nvidia.com/gpu\n";

#[test]
fn specifications_of_8000_devices_and_in_4000_files() {
    let device = |i: usize| format!("- {{name: \"{i}\", containerEdits: {{env: [A=B]}}}}\n");
    let (dir, _) = with(
        "cdi/a.yaml",
        format!("{HEAD}devices:\n{}", numbered(MIB, 8000, device)),
    );
    let dir = dir.path().join("cdi");
    let list = |json: bool| {
        let mut args = vec![
            "cdi".as_ref(),
            "list".as_ref(),
            OsStr::new("--spec-dir"),
            dir.as_os_str(),
        ];
        args.extend(json.then_some(OsStr::new("--json")));
        run(TEXT, &args, None)
    };
    let listed = list(false);
    assert_eq!(String::from_utf8(listed.stdout).unwrap().lines().count(), 8000);
    list(true);
    run(
        TEXT,
        &[
            "cdi".as_ref(),
            "check".as_ref(),
            OsStr::new("--spec-dir"),
            dir.as_os_str(),
        ],
        None,
    );
    // One of the same name in each, and broken ones: their faults are reported in a few lines.
    for text in [
        format!("{HEAD}devices:\n{}", device(0)),
        format!("{HEAD}devices: ["),
    ] {
        for i in 0..4000 {
            fs::write(dir.join(format!("f{i}.yaml")), &text).unwrap();
        }
        for command in ["list", "check"] {
            run(
                TEXT,
                &[
                    "cdi".as_ref(),
                    command.as_ref(),
                    OsStr::new("--spec-dir"),
                    dir.as_os_str(),
                ],
                None,
            );
        }
    }
}

/// Values of a JSON document in many shapes, `bytes` of them.
fn values(bytes: usize) -> Vec<String> {
    let list = |item: &str| format!("[{}0]", item.repeat((bytes - 10) / item.len()));
    let deep = format!(
        "[{}0]",
        format!("{}{},", "[".repeat(100), "]".repeat(100)).repeat(bytes / 201)
    );
    let object = numbered(bytes - 10, usize::MAX, |i| format!("\"{i}\":0,"));
    vec![
        list("1,"),
        list("[],"),
        list("{},"),
        list("{\"\":0},"),
        list("\"\","),
        list("null,"),
        deep,
        format!("{{{object}\"z\":0}}"),
        format!("\"{}\"", "a".repeat(bytes - 10)),
        format!("{{\"{}\":0}}", "a".repeat(bytes - 10)),
        format!("\"{}\"", "\\u0041".repeat(bytes / 6 - 1)),
        "9".repeat(bytes),
        format!("1e{}", "9".repeat(bytes - 10)),
        "[".repeat(bytes),
        "{\"a\":".repeat(bytes / 5),
        " ".repeat(bytes),
    ]
}

/// A container's definition with the unknown field `extra`.
fn definition(env: &str, extra: &str) -> String {
    format!(
        "{{\"ociVersion\":\"1.0.2\",\"process\":{{\"env\":[{env}]}},\"root\":{{\"path\":\"rootfs\"}},\"x\":{extra}}}"
    )
}

const REQUEST: &str = "\"NVIDIA_VISIBLE_DEVICES=all\"";

fn plan(text: &str) -> std::process::Output {
    let (dir, _) = with("config.json", text);
    run(TEXT, &["plan".as_ref(), dir.path().as_os_str()], None)
}

#[test]
fn definitions_of_1_mib_in_any_shape() {
    for value in values(MIB - 200) {
        plan(&definition(REQUEST, &value));
    }
}

/// With the time of the quick search for a request in a definition.
const SCAN: Bounds = Bounds { memory: 256, cpu: 3 };

#[test]
fn a_definition_of_60_mib_without_a_request_is_left_alone() {
    for item in [
        "[],",
        "{\"\":0},",
        "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",",
    ] {
        let list = format!("[{}0]", item.repeat((60 << 20) / item.len()));
        let (dir, _) = with("config.json", definition("\"PATH=/bin\"", &list));
        let output = run(SCAN, &["plan".as_ref(), dir.path().as_os_str()], None);
        assert_eq!(output.status.code(), Some(0), "{item}: {output:?}");
    }
}

#[test]
fn a_definition_of_60_mib_with_a_request_is_refused() {
    for (value, memory) in [("[],", 256), ("\"x\",", 256)] {
        let list = format!("[{}0]", value.repeat((60 << 20) / value.len()));
        let (dir, _) = with("config.json", definition(REQUEST, &list));
        let bounds = Bounds { memory, cpu: 3 };
        refused(bounds, &["plan".as_ref(), dir.path().as_os_str()], None, "1107");
    }
}

#[test]
fn states_of_1_mib_in_any_shape() {
    for value in values(MIB - 200) {
        let (_dir, file) = with(
            "state",
            format!("{{\"id\":\"x\",\"bundle\":\"/nonexistent\",\"x\":{value}}}"),
        );
        run(TEXT, &["hook", "createContainer"], Some(&file));
    }
}

/// 40,000 variables and 20,000 annotations, which crashed an earlier allocator of nvoci.
#[test]
fn a_definition_of_many_small_values() {
    let mut env = numbered(MIB, 40_000, |n| format!("\"A{n}={n}\","));
    env += REQUEST;
    let annotations = numbered(MIB, 20_000, |n| format!("\"a{n}\":\"{n}\","));
    let text = format!(
        "{{\"ociVersion\":\"1.0.2\",\"process\":{{\"env\":[{env}]}},\"annotations\":{{{annotations}\"z\":\"\"}},\"root\":{{\"path\":\"rootfs\"}}}}"
    );
    // The remaining error is the missing driver.
    let output = plan(&text);
    assert!(matches!(output.status.code(), Some(0 | 11)), "{output:?}");
}

#[test]
fn variables_of_any_length() {
    for value in [
        "cuda>=1 ".repeat(100_000),
        "cuda>=1,".repeat(100_000),
        format!("cuda>={}", "9".repeat(900_000)),
        "brand=".repeat(100_000),
    ] {
        plan(&definition(
            &format!("{REQUEST},\"NVIDIA_REQUIRE_CUDA={value}\""),
            "0",
        ));
    }
    let many = numbered(900_000, 100_000, |i| format!("\"NVIDIA_REQUIRE_{i}=cuda>=1\","));
    plan(&definition(&format!("{many}{REQUEST}"), "0"));
    for value in ["0,", ",", "MIG-", "all,", "0:0,", " "] {
        plan(&definition(
            &format!(
                "\"NVIDIA_VISIBLE_DEVICES={}\"",
                value.repeat(900_000 / value.len())
            ),
            "0",
        ));
        plan(&definition(
            &format!(
                "{REQUEST},\"NVIDIA_DRIVER_CAPABILITIES={}\"",
                value.repeat(300_000 / value.len())
            ),
            "0",
        ));
    }
}

/// A root whose loader configuration is `conf`, with `names` in `/d`.
fn root(conf: &str, names: usize) -> tempfile::TempDir {
    let (dir, _) = with("etc/ld.so.conf", conf);
    fs::create_dir_all(dir.path().join("d")).unwrap();
    for i in 0..names {
        fs::write(dir.path().join("d").join(format!("{}{i}", "a".repeat(240))), "").unwrap();
    }
    dir
}

#[test]
fn patterns_of_ld_so_conf() {
    let dir = root("", 4000);
    for part in ["[", "*[", "*a", "*?", "[!b]*", "*[a-", "*\\a", "[]*"] {
        let long = format!("include /d/*{}\n", part.repeat(30_000 / part.len()));
        let short = format!(
            "include {}\n",
            format!("/d/*{}b ", part.repeat(300 / part.len())).repeat(190)
        );
        let fit = format!("include /d/*{}b\n", part.repeat(4000 / part.len())).repeat(15);
        for conf in [long, short, fit] {
            fs::write(dir.path().join("etc/ld.so.conf"), conf).unwrap();
            let args = ["ldconfig", "-X", "-N", "-r"].map(OsStr::new);
            run(TEXT, &[&args[..], &[dir.path().as_os_str()]].concat(), None);
        }
    }
    // Each name, existing or not, leads through links of thousands of bytes.
    let dir = root("", 0);
    for i in 0..39 {
        let target = format!("{}c{}", "./".repeat(2000), i + 1);
        std::os::unix::fs::symlink(target, dir.path().join(format!("c{i}"))).unwrap();
    }
    for i in 0..4000 {
        fs::create_dir_all(dir.path().join(format!("c39/glibc-hwcaps/{i}"))).unwrap();
    }
    let line = |i| format!("/c0/{i}\n");
    let dirs = numbered(MIB, 1000, |i| line(i.to_string()));
    let files = format!("include {}\n", numbered(MIB, 4000, |i| format!("/c0/{i}.conf ")));
    for conf in [dirs, files, line(".".to_owned())] {
        fs::write(dir.path().join("etc/ld.so.conf"), conf).unwrap();
        let args = ["ldconfig", "-X", "-N", "-r"].map(OsStr::new);
        run(TEXT, &[&args[..], &[dir.path().as_os_str()]].concat(), None);
    }
    let dir = root(&format!("include {}", "a ".repeat(32_000)), 0);
    for i in 0..200 {
        fs::write(
            dir.path().join(format!("etc/{i}.conf")),
            format!("include {}", "a ".repeat(32_000)),
        )
        .unwrap();
    }
    fs::write(dir.path().join("etc/ld.so.conf"), "include *.conf\n").unwrap();
    let args = ["ldconfig", "-X", "-N", "-r"].map(OsStr::new);
    run(TEXT, &[&args[..], &[dir.path().as_os_str()]].concat(), None);
}

/// A loader's cache of `count` entries, all of one name and path.
fn cache(count: u32, name: &[u8], path: &[u8]) -> Vec<u8> {
    let strings = [name, b"\0", path, b"\0"].concat();
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
    let mut out = b"glibc-ld.so.cache1.1".to_vec();
    out.extend(count.to_le_bytes());
    out.extend(len(&strings).to_le_bytes());
    out.extend([2, 0, 0, 0]);
    out.extend([0; 16]);
    let base = len(&out) + 24 * count;
    for _ in 0..count {
        for word in [0x303, base, base + len(name) + 1, 0, 0, 0] {
            out.extend(word.to_le_bytes());
        }
    }
    out.extend(strings);
    out
}

#[test]
fn loader_caches_of_3_mb() {
    let zeros = [b"libcuda.so.".as_slice(), &b"0".repeat(4000), b"1"].concat();
    for (name, path, count) in [
        (&b"libx.so"[..], b"a".repeat(4000), 3000),
        (b"libx.so", b"a".repeat(1_500_000), 60_000),
        (b"libcuda.so.1", b"/lib/libcuda.so.1".to_vec(), 120_000),
        (&zeros, b"/x".to_vec(), 120_000),
    ] {
        let (dir, _) = with("etc/ld.so.cache", cache(count, name, &path));
        fs::create_dir_all(dir.path().join("lib64")).unwrap();
        fs::create_dir_all(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("lib64/ld-linux-x86-64.so.2"), "").unwrap();
        for end in [
            &["-p"][..],
            &["--which", "libcuda.so.1"],
            &["-N", "--first", "/d"],
            &["-X", "-N"],
        ] {
            let args: Vec<&OsStr> = ["ldconfig".as_ref(), "-r".as_ref(), dir.path().as_os_str()]
                .into_iter()
                .chain(end.iter().map(OsStr::new))
                .collect();
            run(TEXT, &args, None);
        }
    }
}

#[test]
fn pasted_errors_of_1_mib() {
    for item in [
        "x",
        "\n",
        "error ",
        "Error 803\n",
        "CUDA_ERROR_",
        "NVOCI-3001 ",
        "Xid 79: ",
        "\x1b[",
        "é",
        "libcuda.so.1: cannot open\n",
        "cuda error (",
        "cudaMalloc((((",
        "returned 1 ",
        "undefined symbol: ",
        "version `GLIBC_2.34' not found ",
        "/dev/nvidia0 ",
        "nvidia-container-cli: mount error: ",
        "mounting * to rootfs ",
        "\\\\\"",
    ] {
        doctor("explain", item, &item.repeat((MIB - 10) / item.len()));
    }
    doctor(
        "explain",
        "codes",
        &numbered(MIB, 100_000, |i| format!("NVOCI-{:04} ", i % 10_000)),
    );
}

#[test]
fn configuration_of_any_shape() {
    let mut all: Vec<String> = [
        "a.",
        "[",
        "a = [",
        "a = {a=",
        "a = \"",
        "[[a]]\n",
        "[[extra]]\nfiles=[\"/a\"]\n",
        "a=1\n",
        "#\n",
        "=",
        "9_",
    ]
    .iter()
    .map(|item| item.repeat(250_000 / item.len()))
    .collect();
    all.push(numbered(250_000, 100_000, |i| format!("k{i} = 1\n")));
    all.push(numbered(250_000, 100_000, |i| format!("[t{i}]\n")));
    all.push(numbered(250_000, 100_000, |i| {
        format!("[{}b{i}]\nx.y.z=1\n", "a.".repeat(70))
    }));
    for text in all {
        let (_dir, file) = with("c.toml", &text);
        run(TEXT, &["config", "--config", path(&file)], None);
        for engine in ["containerd", "crio", "podman", "docker"] {
            install(engine, &text);
        }
    }
    let long = |count| numbered(MIB, count, |i| format!("k{i}{}=1\n", ".a".repeat(70)));
    let below = |keys: usize, name: usize| {
        let leaves = numbered(MIB, keys, |i| format!("a{i}=1\n"));
        format!("[{}]\n{leaves}", "k".repeat(name))
    };
    let mut large = vec![long(7000), long(600), below(20_000, 20_000), below(90_000, 100)];
    for item in ["{b=1},", "{b.c.d=1},", "1,", "[],", "{b={c={}}},", "{},"] {
        for size in [160_000, MIB - 10] {
            large.push(format!("a=[{}]", item.repeat(size / item.len())));
        }
    }
    large.extend(["[[a]]\n", "[[a]]\nb=1\n", "#\n", "#"].map(|item| item.repeat((MIB - 10) / item.len())));
    large.push(below(6500, 8000));
    for text in large {
        for engine in ["containerd", "crio", "podman"] {
            install(engine, &text);
        }
    }
    // People's files are far below the limit.
    let ordinary = numbered(100_000, 1000, |i| {
        let table = "plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes";
        format!("[{table}.r{i}]\nruntime_type = \"io.containerd.runc.v2\"\n")
    });
    assert!(ordinary.len() > 90_000, "{}", ordinary.len());
    let output = install("containerd", &format!("version = 2\n{ordinary}"));
    assert!(output.status.success(), "{output:?}");
    for value in values(MIB - 200) {
        install("docker", &format!("{{\"x\":{value}}}"));
    }
}

/// Plans an edit of an engine's file. The runtime exists on every machine, so that the file is
/// read.
fn install(engine: &str, text: &str) -> std::process::Output {
    let (_dir, file) = with("c.toml", text);
    let runtimes = ["/usr/bin/true", "/bin/true"].map(Path::new);
    let runtime = runtimes.into_iter().find(|p| p.exists()).unwrap();
    let output = run(
        TEXT,
        &[
            "install",
            engine,
            "--dry-run",
            "--runtime-path",
            path(runtime),
            "--config",
            path(&file),
        ],
        None,
    );
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!message.contains(path(runtime)), "{message}");
    output
}

fn path(file: &Path) -> &str {
    file.to_str().unwrap()
}
