//! What is checked of an image.

use crate::doctor::Check;

macro_rules! checks {
    ($($id:ident = $number:literal, $name:literal, $summary:literal;)*) => {
        $(pub(super) const $id: Check = Check { number: $number, name: $name, summary: $summary };)*

        /// What is checked here.
        pub const CHECKS: &[Check] = &[$($id),*];
    };
}

checks! {
    RUNS = 7301, "image.runs", "Something in the image needs a newer CUDA version than the driver speaks.";
    CPU_ONLY = 7302, "image.cpu-only", "A framework was installed without GPU code.";
    ARCHITECTURE = 7303, "image.architecture", "A framework has no device code for the GPU.";
    STUB = 7304, "image.stub", "The loader finds a stub of libcuda before the driver's library.";
    BAKED = 7305, "image.baked-driver", "Libraries of a driver were installed into the image.";
    COMPAT = 7306, "image.compat", "The image's CUDA compatibility libraries come before a driver that they do not fit.";
    LIBC = 7307, "image.libc", "The image's C library is not the one that CUDA's libraries and wheels need.";
    REQUIRE = 7308, "image.require", "A condition of NVIDIA_REQUIRE_* is not met.";
    CAPABILITIES = 7309, "image.capabilities", "NVIDIA_DRIVER_CAPABILITIES or NVIDIA_VISIBLE_DEVICES of the image keep CUDA away.";
    ENVIRONMENT = 7310, "image.environment", "The Python environment with the frameworks is not the one that `python` starts.";
    SHADOWED = 7311, "image.shadowed", "One copy of a framework hides another of a different version.";
    INCOMPLETE = 7312, "image.incomplete", "Not everything in the image could be looked at.";
    EMPTY = 7313, "image.empty", "Nothing in the image uses CUDA.";
}
