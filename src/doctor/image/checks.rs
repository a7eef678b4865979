//! What is checked of an image.

use crate::doctor::check::checks;

checks! {
    pub(super) RUNS = 7301, "image.runs", "Something in the image needs a newer CUDA version than the driver speaks.";
    pub(super) CPU_ONLY = 7302, "image.cpu-only", "A framework was installed without GPU code.";
    pub(super) ARCHITECTURE = 7303, "image.architecture", "A framework has no device code for the GPU.";
    pub(super) STUB = 7304, "image.stub", "The loader finds a stub of libcuda before the driver's library.";
    pub(super) BAKED = 7305, "image.baked-driver", "Libraries of a driver were installed into the image.";
    pub(super) COMPAT = 7306, "image.compat", "The image's CUDA compatibility libraries come before a driver that they do not fit.";
    pub(super) LIBC = 7307, "image.libc", "The image's C library is not the one that CUDA's libraries and wheels need.";
    pub(super) REQUIRE = 7308, "image.require", "A condition of NVIDIA_REQUIRE_* is not met.";
    pub(super) CAPABILITIES = 7309, "image.capabilities", "NVIDIA_DRIVER_CAPABILITIES or NVIDIA_VISIBLE_DEVICES of the image keep CUDA away.";
    pub(super) ENVIRONMENT = 7310, "image.environment", "The Python environment with the frameworks is not the one that `python` starts.";
    pub(super) SHADOWED = 7311, "image.shadowed", "One copy of a framework hides another of a different version.";
    pub(super) INCOMPLETE = 7312, "image.incomplete", "Not everything in the image could be looked at.";
    pub(super) EMPTY = 7313, "image.empty", "Nothing in the image uses CUDA.";
}
