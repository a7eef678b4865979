//! Names in a container by which one module finds files of another.

/// The file in the driver directory that lists its contents. A second injection and the doctor read
/// it.
pub const RECORD: &str = ".nvoci.json";

/// The driver directory's place if no configured one is free: a tmpfs of the runtime, which is
/// writable even if the rootfs is not.
pub const LAST_RESORTS: [&str; 2] = ["/run/nvoci", "/dev/.nvoci"];
