//! Variables that replace options of the vendor's programs, on a command line that a person typed.
//!
//! No other part of nvoci reads a variable as configuration, so an engine's or a container's
//! environment changes nothing: `integration/gates` allows only this file.

/// The variables' prefix: `NVIDIA_CTK_*` of `nvidia-ctk cdi`.
const PREFIX: &str = "NVIDIA_CTK_";

/// Those of `nvidia-ctk system`, each with a second name.
const OF_SYSTEM: &[(&str, &str)] = &[
    ("CREATE_ALL", ""),
    ("CREATE_DEVICE_NODES", ""),
    ("DEV_CHAR_PATH", ""),
    ("DRY_RUN", ""),
    ("LOAD_KERNEL_MODULES", ""),
    ("NVIDIA_DEV_ROOT", "DEV_ROOT"),
    ("NVIDIA_DRIVER_ROOT", "DRIVER_ROOT"),
];

/// The value of a variable in a command's table; `None` if none of the vendor's programs reads it.
pub(super) fn of(name: &str) -> Option<String> {
    let read = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    if name.starts_with(PREFIX) {
        return read(name);
    }
    let (first, second) = OF_SYSTEM.iter().find(|(first, _)| *first == name)?;
    read(first).or_else(|| (!second.is_empty()).then(|| read(second))?)
}
