//! Finds packages that do not fit: compiled code for another release of PyTorch or CUDA.

use super::Files;
use super::checks::{PAIR, TWICE};
use super::environments::Environment;
use super::frameworks::Framework;
use super::packages::Package;
use crate::compat::libraries;
use crate::compat::torch::{Release, cuda_of_tag, split_local};
use crate::doctor::{Finding, Severity};
use crate::preflight::build::{Build, MAX_TEXT};

/// Packages with code for one release of PyTorch, and the severity of another release.
pub(super) const PAIRED: &[(&str, Severity)] = &[
    ("flash_attn", Severity::Fail),
    ("sgl_kernel", Severity::Fail),
    ("torch_scatter", Severity::Fail),
    ("torch_sparse", Severity::Fail),
    ("torchaudio", Severity::Warn),
    ("torchtext", Severity::Warn),
    ("torchvision", Severity::Fail),
    ("vllm", Severity::Fail),
    ("xformers", Severity::Warn),
];

/// The name of the library in ONNX Runtime's Python package, in both builds.
pub(super) const ONNXRUNTIME: &str = "onnxruntime_pybind11_state";

/// Adds a finding for each mismatch in `environment`.
pub(super) fn check(environment: &Environment, files: &Files<'_>, mut add: impl FnMut(Finding)) {
    let Some(torch) = environment.frameworks.iter().find(|f| f.package == "torch") else {
        return;
    };
    let Ok(release) = torch.version.parse::<Release>() else {
        return;
    };
    for (name, severity) in PAIRED {
        let Some(package) = environment.site.package(name) else {
            continue;
        };
        let severity = match environment.on_path {
            Some(false) => Severity::Warn,
            _ => *severity,
        };
        let subject = environment.site.path.display().to_string();
        let new = |cause: String| Finding::new(&PAIR, severity, &subject, cause).evidence(&torch.evidence);
        if let Some((wanted, source)) = wanted(package, environment, files)
            && wanted != release
        {
            let version = &package.version;
            add(new(format!(
                "{name} {version} is built for PyTorch {wanted}, and this is PyTorch {}: undefined symbols, or operators that do not exist",
                torch.version
            ))
            .evidence(source)
            .fix(format!("`pip install \"torch=={wanted}.*\"`, or the release of {name} for PyTorch {release}")));
        } else if let Some(cause) = other_build(package, torch) {
            add(new(cause).fix(format!(
                "install {name} from the index that PyTorch was installed from"
            )));
        }
    }
    let bitsandbytes = environment
        .frameworks
        .iter()
        .find(|f| f.package == "bitsandbytes");
    if let (Some(own), Build::Cuda(Some(cuda))) = (bitsandbytes, &torch.build)
        && own.build == Build::Unknown
    {
        add(Finding::new(
            &PAIR,
            Severity::Warn,
            own.path.display().to_string(),
            format!(
                "bitsandbytes {} has no library for CUDA {cuda}, which PyTorch {} is built for",
                own.version, torch.version
            ),
        )
        .evidence(&own.evidence)
        .fix("`pip install -U bitsandbytes`, or PyTorch for one of the CUDA releases that it has"));
    }
}

/// The release of PyTorch that a package needs, and the text that proves it.
fn wanted(package: &Package, environment: &Environment, files: &Files<'_>) -> Option<(Release, String)> {
    let Package { name, version, .. } = package;
    let path = environment
        .site
        .path
        .join(format!("{name}-{version}.dist-info/METADATA"));
    let text = files.read_text(&path, MAX_TEXT).unwrap_or_default();
    if let Some((release, line)) = pin(&text) {
        return Some((release, format!("{}: {line}", path.display())));
    }
    if let Some(release) = of_local(version) {
        return Some((release, format!("{name} {version}")));
    }
    let (own, _) = split_local(version)?;
    let release = libraries::torch_of(name, own)?;
    Some((release, format!("{name} {own} is for PyTorch {release}")))
}

/// The one release of PyTorch that a wheel requires: `Requires-Dist: torch==2.4.0`.
fn pin(metadata: &str) -> Option<(Release, &str)> {
    // An empty line ends the headers.
    let headers = metadata.lines().take_while(|line| !line.trim().is_empty());
    headers
        .filter_map(|line| Some((line.strip_prefix("Requires-Dist:")?.trim(), line)))
        .filter(|(rest, _)| !rest.contains("extra"))
        .find_map(|(rest, line)| {
            let version = rest
                .strip_prefix("torch")?
                .trim_start_matches([' ', '('])
                .strip_prefix("==")?;
            let end = version.find([';', ')', ' ', ',']).unwrap_or(version.len());
            Some((version[..end].trim_end_matches(".*").parse().ok()?, line))
        })
}

/// The release in a local version: `+cu123torch2.4cxx11abifalse`, `+pt24cu121`.
fn of_local(version: &str) -> Option<Release> {
    let (_, local) = version.split_once('+')?;
    if let Some((_, rest)) = local.split_once("torch") {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        return rest[..end].trim_end_matches('.').parse().ok();
    }
    let digits = local.strip_prefix("pt")?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let (major, minor) = digits[..end].split_at_checked(1)?;
    Some(Release {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

/// Whether the package's local version names another build than PyTorch's.
fn other_build(package: &Package, torch: &Framework) -> Option<String> {
    let (_, local) = package.version.split_once('+')?;
    let Build::Cuda(Some(cuda)) = torch.build else {
        return None;
    };
    let own = match local {
        "cpu" => "the CPU".to_owned(),
        tag => {
            let own = cuda_of_tag(tag).filter(|own| *own != cuda)?;
            format!("CUDA {own}")
        }
    };
    Some(format!(
        "{} {} is built for {own}, and PyTorch {} for CUDA {cuda}: its operators do not exist on the GPU",
        package.name, package.version, torch.version
    ))
}

/// onnxruntime and onnxruntime-gpu share a directory; the last installation overwrites the other's
/// files.
pub(super) fn onnxruntimes(environment: &Environment, files: &Files<'_>) -> Option<Finding> {
    let both = ["onnxruntime", "onnxruntime_gpu"].map(|name| environment.site.package(name));
    let [Some(cpu), Some(gpu)] = both else {
        return None;
    };
    let installed = environment
        .frameworks
        .iter()
        .find(|f| f.package == "onnxruntime")?;
    let is_last = |package: &Package| is_last(package, environment, files);
    let (severity, what) = if installed.build == Build::Cpu || is_last(cpu) && !is_last(gpu) {
        (
            Severity::Fail,
            "the files are those of the CPU build: it computes on the CPU",
        )
    } else {
        (
            Severity::Warn,
            "the one that was installed last has its files there, and may be the one for the CPU",
        )
    };
    Some(
        Finding::new(
            &TWICE,
            severity,
            installed.path.display().to_string(),
            format!(
                "onnxruntime {} and onnxruntime-gpu {} are both installed, into one directory; {what}",
                cpu.version, gpu.version
            ),
        )
        .evidence(&installed.evidence)
        .fix("`pip uninstall -y onnxruntime onnxruntime-gpu`, then `pip install onnxruntime-gpu`"),
    )
}

/// Whether the shared library has the size in the record of `package`.
fn is_last(package: &Package, environment: &Environment, files: &Files<'_>) -> bool {
    let site = &environment.site.path;
    let record = site.join(format!("{}-{}.dist-info/RECORD", package.name, package.version));
    let text = files.read_text(record, MAX_TEXT).unwrap_or_default();
    let line = text.lines().find(|line| line.contains(ONNXRUNTIME));
    let size = line.and_then(|line| {
        let name = line.split(',').next()?;
        let size: i64 = line.rsplit(',').next()?.trim().parse().ok()?;
        Some((files.resolve(site.join(name))?.stat().st_size, size))
    });
    size.is_some_and(|(real, named)| real == named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_and_local_versions() {
        let of = |text: &str| pin(text).map(|(release, _)| release.to_string());
        assert_eq!(
            of("Name: vllm\nRequires-Dist: torch==2.4.0\n").as_deref(),
            Some("2.4")
        );
        assert_eq!(of("Requires-Dist: torch (==1.13.1)\n").as_deref(), Some("1.13"));
        assert_eq!(
            of("Requires-Dist: torch==2.8.0; platform_machine == \"x86_64\"\n").as_deref(),
            Some("2.8")
        );
        for none in [
            "Requires-Dist: torch>=2.0",
            "Requires-Dist: torchvision==0.19",
            "Requires-Dist: torch==2.4.0; extra == 'gpu'",
            "\nRequires-Dist: torch==2.4.0",
            "Requires-Dist: torch==",
            "Requires-Dist: torch==x.y",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
        let local = |version: &str| of_local(version).map(|r| r.to_string());
        assert_eq!(local("2.6.3+cu123torch2.4cxx11abifalse").as_deref(), Some("2.4"));
        assert_eq!(local("2.1.2+pt24cu121").as_deref(), Some("2.4"));
        assert_eq!(local("2.1.1+pt113cu117").as_deref(), Some("1.13"));
        for none in ["2.1.2", "2.1.2+cu121", "2.1+pt", "2.1+ptä", "2.1+torch"] {
            assert_eq!(local(none), None, "{none}");
        }
    }
}
