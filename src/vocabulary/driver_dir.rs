//! What an injection leaves in a container, and where: what one part of nvoci writes, others find by these names.

/// The file in the driver directory that lists what was given. A second injection and the doctor read it.
pub const RECORD: &str = ".nvoci.json";

/// Where the driver directory is if none of the configured places is free: tmpfs of the runtime, which can be written to
/// even where the rootfs cannot.
pub const LAST_RESORTS: [&str; 2] = ["/run/nvoci", "/dev/.nvoci"];
