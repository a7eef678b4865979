//! The checks of an image.

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
    pub(super) INCOMPLETE = 7312, "image.incomplete", "Some parts of the image could not be read.";
    pub(super) EMPTY = 7313, "image.empty", "Nothing in the image uses CUDA.";
    pub(super) MISSING = 7314, "image.missing-library", "A library that a framework loads is not where the loader searches.";
    pub(super) PAIR = 7315, "image.pair", "A package was built for another release of PyTorch, or another CUDA, than the image has.";
    pub(super) UNJUDGED = 7316, "image.not-judged", "The image has programs or packages that may use CUDA and are not judged.";
    pub(super) TWICE = 7317, "image.two-builds", "Two builds of one framework were installed into one directory.";
    pub(super) PLATFORM = 7318, "image.platform", "The image is for another processor than the GPU's host has.";
    pub(super) NO_CONFIG = 7319, "image.no-configuration", "The image's configuration is not known, so its variables are not judged.";
}
