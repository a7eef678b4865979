use super::*;

fn report_of(text: &str, wanted: Wanted) -> Report {
    report_in(&Context::default(), text, wanted)
}

fn report_in(context: &Context, text: &str, wanted: Wanted) -> Report {
    report(
        "Dockerfile",
        text,
        &BTreeMap::new(),
        wanted,
        context,
        &Budget::default(),
    )
    .unwrap()
}

/// The checks with findings worse than `Info`, with the line of their evidence.
fn found(text: &str) -> Vec<(u16, usize)> {
    list(&report_of(text, Wanted::default()))
}

fn list(report: &Report) -> Vec<(u16, usize)> {
    let all = report.findings.iter().filter(|f| f.severity > Severity::Info);
    all.map(|f| {
        let line = f
            .evidence
            .first()
            .and_then(|e| e.strip_prefix("line ")?.split(':').next()?.parse().ok());
        (f.check.number, line.unwrap_or(0))
    })
    .collect()
}

const SOUND: &str = "\
# syntax=docker/dockerfile:1
ARG CUDA=12.4.1
FROM nvidia/cuda:${CUDA}-base-ubuntu22.04 AS base
RUN --mount=type=cache,target=/root/.cache apt-get update && \\
    apt-get install -y --no-install-recommends python3-pip cuda-toolkit-12-4 cuda-libraries-12-4
RUN pip install --no-cache-dir torch==2.5.1 numpy --index-url https://download.pytorch.org/whl/cu124
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility \\
    LIBRARY_PATH=/usr/local/cuda/lib64/stubs
FROM base
COPY --from=base /app /app
CMD [\"python3\", \"app.py\"]
";

#[test]
fn a_sound_file_has_nothing() {
    let report = report_of(SOUND, Wanted::default());
    assert_eq!(list(&report), [], "{}", report.to_text(false));
    assert_eq!(report.status(), 0);
    assert!(
        report
            .facts
            .iter()
            .any(|f| f.name == "torch" && f.value == "for CUDA 12.4"),
        "{:?}",
        report.facts
    );
}

#[test]
fn tags_that_are_gone() {
    for gone in [
        "FROM nvidia/cuda",
        "FROM nvidia/cuda:latest",
        "FROM docker.io/nvidia/cuda:10.2-base AS x",
        "ARG TAG=10.2-base\nFROM --platform=linux/amd64 nvidia/cuda:$TAG",
        "ARG V\nFROM nvidia/cuda:${V:-latest}",
    ] {
        assert_eq!(found(gone).first().map(|f| f.0), Some(7501), "{gone}");
    }
    for there in [
        "FROM nvidia/cuda:12.4.1-base-ubuntu22.04",
        "FROM nvidia/cuda@sha256:00",
        "FROM localhost:5000/nvidia/cuda",
        "FROM ubuntu",
    ] {
        assert_eq!(found(there), [], "{there}");
    }
}

#[test]
fn build_arguments_count() {
    let args = BTreeMap::from([("TAG".to_owned(), "latest".to_owned())]);
    let text = "ARG TAG=12.4.1-base-ubuntu22.04\nFROM nvidia/cuda:$TAG";
    assert_eq!(
        list(
            &report(
                "f",
                text,
                &args,
                Wanted::default(),
                &Context::default(),
                &Budget::default()
            )
            .unwrap()
        ),
        [(7501, 2)]
    );
    assert_eq!(found(text), []);
}

#[test]
fn broken_files() {
    for text in ["", "# nothing", "RUN x"] {
        assert_eq!(found(text), [(7502, 0)], "{text:?}");
    }
    assert_eq!(found(&"RUN x\n".repeat(10_001)), [(7502, 0)]);
}

#[test]
fn the_driver_in_the_image() {
    for install in [
        "apt-get update && apt-get install -y \\\n curl \\\n nvidia-driver-535",
        "apt install -y libnvidia-compute-550=550.1",
        "DEBIAN_FRONTEND=noninteractive apt-get -y install cuda",
        "apt-get install -y cuda-12-4",
        "dnf -y install cuda-drivers",
        "sudo apt-get install nvidia-utils-535",
    ] {
        let text = format!("FROM ubuntu:22.04\nRUN {install}\n");
        assert_eq!(
            found(&text).iter().map(|f| f.0).collect::<Vec<_>>(),
            [7503],
            "{install}"
        );
    }
    let heredoc = "FROM ubuntu\nRUN <<EOF\napt-get update\napt-get install -y nvidia-driver-535\nEOF\n";
    assert_eq!(found(heredoc), [(7503, 4)]);
    for install in [
        "apt-get install -y cuda-toolkit-12-4 cuda-cudart-12-4",
        "apt-get remove nvidia-driver-535",
        "echo nvidia-driver",
    ] {
        assert_eq!(found(&format!("FROM ubuntu\nRUN {install}\n")), [], "{install}");
    }
    assert_eq!(
        found("FROM ubuntu\nRUN apt-get install -y nvidia-container-toolkit"),
        [(7504, 2)]
    );
}

#[test]
fn builds_for_the_cpu() {
    for install in [
        "pip install torch --index-url https://download.pytorch.org/whl/cpu",
        "python3 -m pip install 'torch==2.1.0+cpu' -f https://download.pytorch.org/whl/torch_stable.html",
        "pip3 install torch --extra-index-url=https://download.pytorch.org/whl/cpu/",
        "conda install -y pytorch cpuonly -c pytorch",
        "pip install tensorflow-cpu==2.15",
    ] {
        let text = format!("FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nRUN {install}\n");
        assert_eq!(found(&text), [(7505, 2)], "{install}");
        // An image that is not for GPUs may have CPU builds.
        assert_eq!(
            found(&format!("FROM python:3.12\nRUN {install}\n")),
            [],
            "{install}"
        );
    }
    assert_eq!(
        found("FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nRUN uv pip install torch"),
        []
    );
    let exec = "FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nRUN [\"pip\", \"install\", \"torch==2.1.0+cpu\"]";
    assert_eq!(found(exec), [(7505, 2)]);
}

#[test]
fn the_line_is_the_packages_own() {
    let text = "FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nRUN pip install \\\n  --index-url https://download.pytorch.org/whl/cu118 \\\n  torch\n";
    assert_eq!(found(text), [(7506, 4)]);
}

#[test]
fn two_versions_of_cuda() {
    let of = |tag, install| found(&format!("FROM nvidia/cuda:{tag}\nARG V=cu118\nRUN {install}\n"));
    let cu118 = "pip install torch==2.1.0 --index-url https://download.pytorch.org/whl/$V";
    assert_eq!(of("12.4.1-base-ubuntu22.04", cu118), [(7506, 3)]);
    assert_eq!(of("11.8.0-base-ubuntu22.04", cu118), []);
    assert_eq!(
        of("11.8.0-base-ubuntu22.04", "conda install -y cudatoolkit=11.8"),
        []
    );
    assert_eq!(
        of("12.4.1-base-ubuntu22.04", "conda install -y pytorch-cuda=11.8"),
        [(7506, 3)]
    );
    assert_eq!(
        of("12.4.1-base-ubuntu22.04", "pip install cupy-cuda11x"),
        [(7506, 3)]
    );
    // PyPI's build of 2.12 is for 13.0.
    assert_eq!(
        of("12.4.1-base-ubuntu22.04", "pip install torch==2.12.1"),
        [(7506, 3)]
    );
}

#[test]
fn a_conda_environment_that_nothing_uses() {
    let text = "FROM continuumio/miniconda3\nRUN conda create -y -n ml python=3.10 && conda activate ml\nCMD [\"python\"]\n";
    assert_eq!(found(text), [(7507, 2)]);
    for used in [
        "ENV PATH=/opt/conda/envs/ml/bin:$PATH",
        "SHELL [\"conda\", \"run\", \"-n\", \"ml\", \"/bin/bash\", \"-c\"]",
        "ENTRYPOINT [\"conda\", \"run\", \"-n\", \"ml\"]",
    ] {
        assert_eq!(found(&format!("{text}{used}\n")), [], "{used}");
    }
    assert_eq!(
        found("FROM x\nCOPY environment.yml .\nRUN conda env create -f environment.yml"),
        [(7507, 3)]
    );
    assert_eq!(found("FROM x\nRUN conda install -n base numpy"), []);
}

#[test]
fn the_loaders_path() {
    let of = |line: &str| found(&format!("FROM nvidia/cuda:12.4.1-devel-ubuntu22.04\n{line}\n"));
    assert_eq!(
        of("ENV LD_LIBRARY_PATH=/usr/local/cuda/lib64/stubs:$LD_LIBRARY_PATH"),
        [(7508, 2)]
    );
    assert_eq!(of("ENV LD_LIBRARY_PATH /usr/local/cuda/compat/:/x"), [(7508, 2)]);
    assert_eq!(
        of("RUN echo /usr/local/cuda/lib64/stubs > /etc/ld.so.conf.d/cuda.conf && ldconfig"),
        [(7508, 2)]
    );
    assert_eq!(
        of("RUN ldconfig /usr/local/cuda-$(echo $V | cut -d. -f1,2)/compat/"),
        [(7508, 2)]
    );
    assert_eq!(of("RUN rm -rf /usr/local/cuda/compat && ldconfig"), []);
    assert_eq!(of("ENV LD_LIBRARY_PATH=/usr/local/cuda/lib64"), []);
    assert_eq!(of("ENV LIBRARY_PATH=/usr/local/cuda/lib64/stubs"), []);
    assert_eq!(of("RUN echo /opt/lib > /etc/ld.so.conf.d/x.conf"), []);
    // A stage that the image is not built on has no effect on its variables.
    let other = "FROM a AS b\nENV LD_LIBRARY_PATH=/x/stubs\nFROM a\nCOPY --from=b /x /x\n";
    assert_eq!(found(other), []);
}

#[test]
fn driver_libraries_that_are_copied() {
    let of = |line: &str| found(&format!("FROM nvidia/cuda:12.4.1-devel-ubuntu22.04\n{line}\n"));
    assert_eq!(
        of("COPY --from=build /usr/lib/x86_64-linux-gnu/libcuda.so.1 /usr/lib/"),
        [(7509, 2)]
    );
    assert_eq!(of("COPY libnvidia-ml.so.535.1 /usr/lib/"), [(7509, 2)]);
    assert_eq!(
        of("RUN ln -s /usr/local/cuda/lib64/stubs/libcuda.so /usr/lib/libcuda.so.1"),
        [(7509, 2)]
    );
    assert_eq!(
        of("RUN ln -s /usr/local/cuda/lib64/stubs/libcuda.so /usr/local/cuda/lib64/stubs/libcuda.so.1"),
        []
    );
    assert_eq!(
        of("COPY --from=build /usr/local/cuda/lib64/libcudart.so.12 /usr/lib/"),
        []
    );
    assert_eq!(of("RUN ls /usr/lib/libcuda.so.1"), []);
}

#[test]
fn musl_and_cuda() {
    assert_eq!(
        found("FROM alpine:3.20\nENV NVIDIA_VISIBLE_DEVICES=all\n"),
        [(7510, 1)]
    );
    assert_eq!(
        found("FROM python:3.12-alpine\nRUN pip install torch==2.5.1\n"),
        [(7510, 1)]
    );
    assert_eq!(found("FROM alpine:3.20\n"), []);
    assert_eq!(found("FROM debian\nENV NVIDIA_VISIBLE_DEVICES=all\n"), []);
}

#[test]
fn requests_of_the_image() {
    let of = |line: &str| found(&format!("FROM nvidia/cuda:12.4.1-base-ubuntu22.04\n{line}\n"));
    assert_eq!(of("ENV NVIDIA_DRIVER_CAPABILITIES=utility"), [(7511, 2)]);
    assert_eq!(of("ENV NVIDIA_DRIVER_CAPABILITIES=all"), []);
    assert_eq!(of("ENV NVIDIA_DRIVER_CAPABILITIES compute,utility"), []);
    assert_eq!(of("ENV NVIDIA_VISIBLE_DEVICES=none"), [(7511, 2)]);
    assert_eq!(of("ENV NVIDIA_VISIBLE_DEVICES=all"), []);
    let info = report_of(
        "FROM python:3.12\nRUN pip install torch==2.5.1\n",
        Wanted::default(),
    );
    assert!(
        info.findings
            .iter()
            .any(|f| f.check.number == 7511 && f.severity == Severity::Info)
    );
    assert_eq!(info.status(), 0);
}

#[test]
fn gpus_while_building() {
    let of = |line: &str| found(&format!("FROM nvidia/cuda:12.4.1-base-ubuntu22.04\n{line}\n"));
    assert_eq!(of("RUN apt-get update && nvidia-smi"), [(7512, 2)]);
    assert_eq!(
        of("RUN python -c \"import torch; assert torch.cuda.is_available()\""),
        [(7512, 2)]
    );
    assert_eq!(of("RUN echo nvidia-smi >> run.sh"), []);
    assert_eq!(of("CMD nvidia-smi"), []);
}

#[test]
fn against_a_driver_and_a_gpu() {
    let wanted = |driver: &str, sm, windows| Wanted {
        driver: driver.parse().ok(),
        windows,
        sm: Some(Sm::new(sm)),
        class: Some(Class::GeForce),
    };
    let torch = |tag: &str| {
        format!(
            "FROM nvidia/cuda:11.8.0-base-ubuntu22.04\nRUN pip install torch==2.1.0+{tag} -f https://download.pytorch.org/whl/torch_stable.html\n"
        )
    };
    // The seed case: an RTX 3070 under WSL2.
    let seed = report_of(&torch("cu118"), wanted("560.94", 86, true));
    assert_eq!((list(&seed), seed.status()), (vec![], 0));
    let old = report_of(&torch("cu121"), wanted("470.256.02", 86, false));
    let fail = old
        .findings
        .iter()
        .find(|f| f.severity == Severity::Fail)
        .unwrap();
    assert_eq!((fail.check.number, fail.subject.as_str()), (7513, "torch"));
    assert!(
        fail.fix.contains("525.60.13") && fail.fix.contains("11.4"),
        "{}",
        fail.fix
    );
    let ancient = report_of(&torch("cu118"), wanted("352.55", 86, false));
    assert!(ancient.to_text(false).contains("driver version is insufficient"));
    assert_eq!(ancient.status(), 2);
    // The build has no code for this GPU.
    let new = report_of(&torch("cu121"), wanted("570.86", 120, false));
    let fail = new
        .findings
        .iter()
        .find(|f| f.severity == Severity::Fail)
        .unwrap();
    assert!(
        fail.cause.contains("sm_120") && fail.fix.contains("2.7"),
        "{fail:?}"
    );
}

proptest::proptest! {
    #[test]
    fn nothing_panics(text in "(FROM |RUN |ENV |ARG |COPY |pip install |torch==|conda create -n |a|:|\\$|\\{|\\}|\"|'|\\\\|\n|\\[|<<E|&&| ){0,60}") {
        let wanted = Wanted { driver: "470.1".parse().ok(), sm: Some(Sm::new(86)), ..Wanted::default() };
        report_of(&text, wanted);
    }
}

#[test]
fn corpus() {
    use crate::compat::gpu::Product;
    use crate::doctor::image::tests::{Case, assess};
    let of = |case: &Case<'_>| {
        let product: Option<Product> = case.gpu().map(|name| name.parse().unwrap());
        let wanted = Wanted {
            driver: case.driver(),
            windows: false,
            sm: product.map(|p| p.sm),
            class: product.and_then(|p| p.class),
        };
        let (body, files) = case.files();
        let (_dir, context) = Context::with(&files);
        report_in(&context, body, wanted)
    };
    for (text, gaps, scored) in CORPORA {
        assess(text, gaps, scored, of);
    }
}

/// The corpora, with the known gaps of each one's first half, and the right cases of its second
/// half, which no rule was written with.
const CORPORA: [(&str, usize, usize); 4] = [
    (include_str!("corpus.txt"), 0, 25),
    (include_str!("public.txt"), 0, 42),
    (include_str!("final.txt"), 2, 9),
    (include_str!("fresh.txt"), 0, 21),
];

/// No text panics or takes long.
#[test]
fn mutated_files() {
    use crate::doctor::image::tests::{Case, Random, cases};
    let cases: Vec<Case<'_>> = CORPORA.iter().flat_map(|(text, ..)| cases(text)).collect();
    let mut random = Random::new(22);
    for at in 0..2000 {
        let (body, files) = cases[at % cases.len()].files();
        let text = random.mutated(body.as_bytes());
        let (dir, context) = Context::with(&files);
        for (name, text) in files {
            std::fs::write(dir.path().join(name), random.mutated(text.as_bytes())).unwrap();
        }
        let wanted = Wanted {
            driver: ["470.256.02", "580.65.06"][random.below(2)].parse().ok(),
            windows: random.below(4) == 0,
            sm: Some(Sm::new([61, 70, 86, 87, 120][random.below(5)])),
            class: [Some(Class::GeForce), Some(Class::DataCentre), None][random.below(3)],
        };
        let start = std::time::Instant::now();
        report_in(&context, &String::from_utf8_lossy(&text), wanted).to_text(false);
        assert!(
            start.elapsed().as_secs() < 1,
            "{}",
            String::from_utf8_lossy(&text)
        );
    }
}

#[test]
fn requirements_of_the_context_are_judged_as_the_line_itself() {
    const BASE: &str = "FROM nvidia/cuda:12.4.1-cudnn-runtime-ubuntu22.04\nWORKDIR /app\n";
    let (_dir, context) = Context::with(&[
        ("cpu.txt", "# pinned\nnumpy\ntorch==2.5.1+cpu\n"),
        (
            "index.txt",
            "--index-url https://download.pytorch.org/whl/cpu\ntorch==2.5.1\n",
        ),
        ("sub/all.txt", "-r ../cpu.txt\n-c limits.txt\n"),
        ("ort.txt", "onnxruntime-gpu\n"),
        (
            "mac.txt",
            "torch==2.5.1+cpu ; sys_platform == 'darwin'\ntorch==2.5.1 ; sys_platform == 'linux'\n",
        ),
    ]);
    for (lines, inline) in [
        ("COPY cpu.txt .\nRUN pip install -r cpu.txt\n", "torch==2.5.1+cpu"),
        (
            "COPY cpu.txt /tmp/\nRUN python3 -m pip install --requirement=/tmp/cpu.txt\n",
            "torch==2.5.1+cpu",
        ),
        (
            "COPY . .\nRUN uv pip install -r sub/all.txt\n",
            "torch==2.5.1+cpu",
        ),
        (
            "RUN --mount=type=bind,source=index.txt,target=r.txt pip install -r r.txt\n",
            "torch==2.5.1 --index-url https://download.pytorch.org/whl/cpu",
        ),
        ("COPY *.txt ./\nRUN pip install -r mac.txt\n", "torch==2.5.1"),
        (
            "COPY ort.txt x.txt\nRUN pip install torch -rx.txt\n",
            "torch onnxruntime-gpu",
        ),
    ] {
        let codes = |report: &Report| list(report).iter().map(|(code, _)| *code).collect::<Vec<_>>();
        let by_file = report_in(&context, &format!("{BASE}{lines}"), Wanted::default());
        let by_line = report_of(&format!("{BASE}RUN pip install {inline}\n"), Wanted::default());
        assert_eq!(codes(&by_file), codes(&by_line), "{lines}");
        let facts = |report: &Report| -> Vec<(String, String)> {
            let of_base = |name: &str| name.starts_with("base");
            let facts = report.facts.iter().filter(|f| !of_base(&f.name));
            facts.map(|f| (f.name.clone(), f.value.clone())).collect()
        };
        assert_eq!(facts(&by_file), facts(&by_line), "{lines}");
        assert!(
            by_file.findings.iter().all(|f| f.check != &REQUIREMENTS),
            "{lines}"
        );
    }
    let text = format!("{BASE}COPY . .\nRUN pip install -r sub/all.txt\n");
    let report = report_in(&context, &text, Wanted::default());
    let cpu = report.findings.iter().find(|f| f.check == &CPU).unwrap();
    assert_eq!(cpu.evidence, ["cpu.txt, line 3: torch==2.5.1+cpu"]);
}

#[test]
fn requirements_that_are_not_in_the_context_are_named() {
    let (dir, context) = Context::with(&[
        ("r.txt", "-r r.txt\ntorch==2.5.1+cpu\n"),
        ("big.txt", &"x\n".repeat(200_000)),
    ]);
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link.txt")).unwrap();
    let unread = |lines: &str| {
        let text = format!("FROM nvidia/cuda:12.4.1-base-ubuntu22.04\n{lines}\n");
        let report = report_in(&context, &text, Wanted::default());
        let named = report.findings.iter().filter(|f| f.check == &REQUIREMENTS);
        named.map(|f| f.subject.clone()).collect::<Vec<_>>()
    };
    // A file that names itself ends.
    assert_eq!(unread("COPY r.txt /\nRUN pip install -r r.txt"), [""; 0]);
    for (lines, name) in [
        ("COPY x.txt .\nRUN pip install -r x.txt", "x.txt"),
        ("RUN pip install -r r.txt", "r.txt"),
        ("COPY --from=0 r.txt .\nRUN pip install -r r.txt", "r.txt"),
        ("COPY . .\nRUN pip install -r big.txt", "big.txt"),
        ("COPY . .\nRUN pip install -r link.txt", "link.txt"),
        (
            "COPY .. .\nRUN pip install -r ../../etc/passwd",
            "../../etc/passwd",
        ),
    ] {
        assert_eq!(unread(lines), [name], "{lines}");
    }
}

/// A file that cannot be judged is named, however it is included; a CPU build is found in any
/// spelling.
#[test]
fn included_requirements_are_read_or_named() {
    let mut files: Vec<(String, String)> = (1..20)
        .map(|n| (format!("r{n}.txt"), format!("-r r{}.txt\n", n + 1)))
        .collect();
    files.push(("r20.txt".to_owned(), "torch==2.5.1+cpu\n".to_owned()));
    files.push(("base.txt".to_owned(), "Torch==2.5.1+cpu\n".to_owned()));
    files.push(("glued.txt".to_owned(), "-rbase.txt\n".to_owned()));
    files.push(("long.txt".to_owned(), "--requirement=base.txt\n".to_owned()));
    files.push(("gone.txt".to_owned(), "--requirement gone/too.txt\n".to_owned()));
    let project = "[project]\ndependencies = [\"torch==2.5.1+cpu\"]\n";
    files.push(("pyproject.toml".to_owned(), project.to_owned()));
    let files: Vec<(&str, &str)> = files.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
    let (_dir, context) = Context::with(&files);
    let found = |run: &str| {
        let text =
            format!("FROM nvidia/cuda:12.4.1-base-ubuntu22.04\nCOPY . /srv/\nWORKDIR /srv\nRUN {run}\n");
        let report = report_in(&context, &text, Wanted::default());
        let numbers = report.findings.iter().filter(|f| f.severity > Severity::Ok);
        numbers.map(|f| f.check.number).collect::<Vec<_>>()
    };
    for cpu in [
        "pip install -r glued.txt",
        "pip install -r long.txt",
        "pip install -Ur base.txt",
        "pip install -qUr base.txt",
        "pip install TORCH==2.5.1+cpu",
    ] {
        assert_eq!(found(cpu), [7505], "{cpu}");
    }
    for unread in [
        "pip install -r gone.txt",
        "pip install -r r1.txt",
        "uv pip install -r pyproject.toml",
    ] {
        assert_eq!(found(unread), [7517], "{unread}");
    }
}

/// Many sources and a long path make no memory; many mounts and files are charged.
#[test]
fn paths_of_requirements_are_bounded() {
    let deep = format!("WORKDIR /{}\n", "a/".repeat(2040));
    for text in [
        format!(
            "COPY {}/\nRUN pip install -r {}\n",
            "x ".repeat(100_000),
            "b".repeat(400_000)
        ),
        format!("{deep}RUN {}pip install -r x\n", "--mount=dst=a ".repeat(70_000)),
        format!("{deep}RUN pip install {}\n", "-r x ".repeat(200_000)),
    ] {
        let budget = Budget::default();
        let text = format!("FROM debian:13\n{text}");
        let start = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
            .unwrap()
            .tv_sec();
        let _ = report(
            "f",
            &text,
            &BTreeMap::new(),
            Wanted::default(),
            &Context::default(),
            &budget,
        );
        let end = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
            .unwrap()
            .tv_sec();
        assert!(end - start < 8, "{}", &text[..40]);
    }
}
