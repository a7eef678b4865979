//! The table of driver artefacts by capability, such as `libcuda.so` for `compute` and `video`.
//!
//! Sources: the behaviour of libnvidia-container 1.17 to 1.20 and of the toolkit's CDI generator
//! for the same versions, the `DT_NEEDED` entries of the 535, 550 and 580 drivers. A driver may
//! gain libraries. One that is not in the table comes with every capability but `utility`, since
//! leaving out a library that another one loads would break CUDA silently.

use crate::request::Capabilities as C;

/// Artefacts with this name, and the capabilities that bring them.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// A library's name up to and with `.so`, or a program's whole name.
    pub name: &'static str,
    /// Any one of these brings it.
    pub capabilities: C,
}

const fn row(name: &'static str, capabilities: C) -> Row {
    Row { name, capabilities }
}

/// The capabilities for drawing: `display` brings all of `graphics`.
const DRAWING: C = C::GRAPHICS.with(C::DISPLAY);
/// Libraries that both CUDA and the graphics drivers load.
const BOTH: C = C::CUDA.with(DRAWING);

/// Libraries by stem.
pub const LIBRARIES: &[Row] = &[
    row("libnvidia-ml.so", C::UTILITY),
    row("libnvidia-cfg.so", C::UTILITY),
    row("libnvidia-nscq.so", C::UTILITY),
    row("libnvidia-sandboxutils.so", C::UTILITY),
    row("libcuda.so", C::CUDA),
    row("libcudadebugger.so", C::CUDA),
    row("libnvidia-opencl.so", C::CUDA),
    row("libnvidia-ptxjitcompiler.so", BOTH),
    row("libnvidia-fatbinaryloader.so", C::CUDA),
    row("libnvidia-compiler.so", C::CUDA),
    row("libnvidia-compiler-next.so", C::CUDA),
    row("libnvidia-nvvm.so", C::CUDA),
    row("libnvidia-nvvm70.so", C::CUDA),
    row("libnvidia-tileiras.so", C::CUDA),
    row("libnvidia-pkcs11.so", C::CUDA),
    row("libnvidia-pkcs11-openssl3.so", C::CUDA),
    row("libnvidia-gpucomp.so", BOTH),
    row("libnvidia-allocator.so", BOTH),
    row("libnvcuvid.so", C::VIDEO),
    row("libnvidia-encode.so", C::VIDEO),
    row("libnvidia-opticalflow.so", C::VIDEO),
    row("libvdpau_nvidia.so", C::VIDEO),
    row("libnvidia-eglcore.so", DRAWING),
    row("libnvidia-glcore.so", DRAWING),
    row("libnvidia-tls.so", DRAWING),
    row("libnvidia-glsi.so", DRAWING),
    row("libnvidia-fbc.so", DRAWING),
    row("libnvidia-ifr.so", DRAWING),
    row("libnvidia-rtcore.so", DRAWING),
    row("libnvoptix.so", DRAWING),
    row("libGLX_nvidia.so", DRAWING),
    row("libEGL_nvidia.so", DRAWING),
    row("libGLESv1_CM_nvidia.so", DRAWING),
    row("libGLESv2_nvidia.so", DRAWING),
    row("libnvidia-glvkspirv.so", DRAWING),
    row("libnvidia-cbl.so", DRAWING),
    row("libnvidia-egl-gbm.so", DRAWING),
    row("libnvidia-egl-wayland.so", DRAWING),
    row("libnvidia-egl-wayland2.so", DRAWING),
    row("libnvidia-egl-xcb.so", DRAWING),
    row("libnvidia-egl-xlib.so", DRAWING),
    row("libnvidia-vulkan-producer.so", DRAWING),
    row("libnvidia-vksc-core.so", DRAWING),
    row("libnvidia-present.so", DRAWING),
    row("libnvidia-api.so", DRAWING),
    row("libglxserver_nvidia.so", C::DISPLAY),
    row("nvidia_drv.so", C::DISPLAY),
    row("libnvidia-ngx.so", C::NGX),
    row("libnvoptix_loader.so", DRAWING),
    // Every stub of WSL2's driver loads it to reach the device.
    row("libdxcore.so", C::ALL),
];

/// Libraries of the driver package that never belong in a container: the host's desktop tools load
/// them.
pub const NEVER: &[&str] = &[
    "libnvidia-gtk2.so",
    "libnvidia-gtk3.so",
    "libnvidia-wayland-client.so",
    "libnvidia-wfb.so",
];

/// Programs.
pub const BINARIES: &[Row] = &[
    row("nvidia-smi", C::UTILITY),
    row("nvidia-debugdump", C::UTILITY),
    row("nvidia-persistenced", C::UTILITY),
    row("nv-fabricmanager", C::UTILITY),
    row("nvidia-cuda-mps-control", C::COMPUTE),
    row("nvidia-cuda-mps-server", C::COMPUTE),
    row("nvidia-imex", C::COMPUTE),
    row("nvidia-imex-ctl", C::COMPUTE),
    row("nvidia-xconfig", C::DISPLAY),
];

/// The capabilities that a library of this file name needs; `None` if it never belongs in a
/// container.
pub fn library(file_name: &str) -> Option<C> {
    const UNKNOWN: C = BOTH.with(C::NGX);
    if NEVER.iter().any(|stem| has_stem(file_name, stem)) {
        return None;
    }
    Some(
        LIBRARIES
            .iter()
            .find(|r| has_stem(file_name, r.name))
            .map_or(UNKNOWN, |r| r.capabilities),
    )
}

/// The capabilities that a program needs; `None` if it never belongs in a container.
pub fn binary(name: &str) -> Option<C> {
    BINARIES.iter().find(|r| r.name == name).map(|r| r.capabilities)
}

/// `libcuda.so` is the stem of `libcuda.so` and `libcuda.so.1`, not of `libcudadebugger.so.1`.
fn has_stem(file_name: &str, stem: &str) -> bool {
    file_name
        .strip_prefix(stem)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_do_not_match_longer_names() {
        assert_eq!(library("libcuda.so.580.159.04"), Some(C::CUDA));
        assert_eq!(library("libnvidia-ml.so.1"), Some(C::UTILITY));
        assert_eq!(library("libnvidia-nvvm70.so.4"), Some(C::CUDA));
        assert!(library("libnvidia-gtk3.so.550.1").is_none());
        assert!(library("libnvidia-brand-new.so.999").is_some_and(|c| c.contains(C::COMPUTE)));
        assert!(binary("nvidia-settings").is_none());
    }

    #[test]
    fn no_row_twice() {
        for table in [LIBRARIES, BINARIES] {
            let mut names: Vec<_> = table.iter().map(|r| r.name).collect();
            names.sort_unstable();
            let before = names.len();
            names.dedup();
            assert_eq!(names.len(), before);
        }
    }
}
