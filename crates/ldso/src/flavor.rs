//! Finds the C library of an image's programs, glibc or musl.

use super::abi::{ARCHES, Arch};
use inroot::root::Root;

/// The C library of a root, identified by its loader alone.
#[derive(Clone, Copy, Debug)]
pub enum Flavor {
    /// glibc, with the architecture of its loader.
    Glibc(&'static Arch),
    /// musl, as in Alpine.
    Musl(&'static Arch),
    /// No loader: static programs only.
    None,
}

/// Finds the C library of a root.
///
/// Alpine with a glibc shim (gcompat) has both loaders and is musl; Debian with the musl package
/// has both and is glibc.
pub fn flavor(root: &Root) -> Flavor {
    let has = |path: &str| root.resolve(path).is_ok_and(|node| node.is_file());
    let native_first = || {
        let native = Arch::native();
        std::iter::once(native).chain(ARCHES.iter().filter(|arch| arch.machine != native.machine))
    };
    if let Some(arch) = native_first().find(|arch| has(arch.loader)) {
        if has(arch.musl.0) && has("/etc/alpine-release") {
            return Flavor::Musl(arch);
        }
        return Flavor::Glibc(arch);
    }
    native_first()
        .find(|arch| has(arch.musl.0))
        .map_or(Flavor::None, Flavor::Musl)
}
