//! The container's variables that nvoci reads, found in one pass.

use std::collections::BTreeMap;

/// The prefix of the variables by which a container sets its own settings.
pub(super) const SETTING: &str = "NVOCI_";

/// The variables that can hold a request. If a name occurs twice, the last one counts.
pub(super) struct Variables<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Variables<'a> {
    /// Collects `CUDA_VERSION`, every `NVIDIA_…` and `NVOCI_…`, and the names in `more`.
    pub(super) fn gather(env: &'a [(String, String)], more: &[String]) -> Self {
        let picked = env.iter().filter(|(name, _)| Self::matters(name, more));
        Self(
            picked
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect(),
        )
    }

    /// Whether nvoci reads a variable of this name.
    pub(super) fn matters(name: &str, more: &[String]) -> bool {
        name.starts_with("NVIDIA_")
            || name.starts_with(SETTING)
            || name == "CUDA_VERSION"
            || more.iter().any(|m| m == name)
    }

    /// Those whose names begin with `prefix`, by name.
    pub(super) fn with_prefix<'v>(
        &'v self,
        prefix: &'v str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> + 'v {
        let all = self.0.iter().map(|(&name, &value)| (name, value));
        all.filter(move |(name, _)| name.starts_with(prefix))
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied()
    }

    /// A Boolean as Go's `strconv.ParseBool` parses it, since images are written for that; else
    /// false.
    pub(super) fn flag(&self, name: &str) -> bool {
        let value = self.get(name).map_or("", str::trim);
        matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
    }

    /// Whether the image is from before `NVIDIA_REQUIRE_CUDA`: it declares only a CUDA version.
    pub(super) fn is_legacy_image(&self) -> bool {
        self.legacy_cuda_version().is_some()
    }

    /// The CUDA version that a legacy image declares.
    pub(super) fn legacy_cuda_version(&self) -> Option<&'a str> {
        let version = self.get("CUDA_VERSION").filter(|version| !version.is_empty())?;
        let modern = self
            .get("NVIDIA_REQUIRE_CUDA")
            .is_some_and(|value| !value.is_empty());
        (!modern).then_some(version)
    }

    /// The variables with a requirement, by name. Those for JetPack select files and are left out.
    pub(super) fn requirements(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let all = self.0.iter().map(|(&name, &value)| (name, value));
        all.filter(|(name, _)| {
            name.starts_with("NVIDIA_REQUIRE_") && !name.starts_with("NVIDIA_REQUIRE_JETPACK")
        })
    }
}
