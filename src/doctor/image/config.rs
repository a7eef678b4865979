//! An image's configuration: variables, labels, command.
//!
//! Facts: "OCI Image Configuration"; Docker's own form has the same keys under `config`.

use serde_json::Value;

/// The most variables, labels and words that are read from one image.
const MAX: usize = 4096;

/// The part of the configuration that affects CUDA.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ImageConfig {
    /// Variables, in order.
    pub env: Vec<(String, String)>,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Entrypoint and command, one after the other.
    pub command: Vec<String>,
    /// `amd64`, `arm64`.
    pub architecture: String,
}

impl ImageConfig {
    /// Parses an image configuration; malformed parts are left out.
    pub fn of(json: &Value) -> Self {
        let inner = &json["config"];
        let strings = |value: &Value| -> Vec<String> {
            let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
            list.iter()
                .take(MAX)
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect()
        };
        let split = |pair: &String| {
            pair.split_once('=')
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        let labels = inner["Labels"].as_object().into_iter().flatten().take(MAX);
        Self {
            env: strings(&inner["Env"]).iter().filter_map(split).collect(),
            labels: labels
                .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
                .collect(),
            command: [strings(&inner["Entrypoint"]), strings(&inner["Cmd"])].concat(),
            architecture: json["architecture"].as_str().unwrap_or_default().to_owned(),
        }
    }

    /// A variable's value; if a name occurs twice, the last one counts.
    pub fn var(&self, name: &str) -> Option<&str> {
        let found = self.env.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A label's value.
    pub fn label(&self, name: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn variables_labels_and_command() {
        let config = ImageConfig::of(&json!({
            "architecture": "amd64",
            "config": {
                "Env": ["PATH=/usr/bin", "CUDA_VERSION=11.8.0", "A=1", "A=2", "broken", 7],
                "Labels": { "maintainer": "NVIDIA CORPORATION <cudatools@nvidia.com>", "bad": 1 },
                "Entrypoint": ["/opt/nvidia/nvidia_entrypoint.sh"], "Cmd": ["bash"],
            },
        }));
        assert_eq!(config.var("CUDA_VERSION"), Some("11.8.0"));
        assert_eq!(config.var("A"), Some("2"));
        assert_eq!(config.env.len(), 4);
        assert!(
            config
                .label("maintainer")
                .is_some_and(|m| m.starts_with("NVIDIA"))
        );
        assert_eq!(config.command, ["/opt/nvidia/nvidia_entrypoint.sh", "bash"]);
        assert_eq!(ImageConfig::of(&Value::Null), ImageConfig::default());
    }
}
