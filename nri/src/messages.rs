//! The NRI messages that the plugin uses, with the fields that it uses.

use crate::proto::{Fields, Malformed, entry, push_bytes, push_number};

/// The service that the plugin serves.
pub const PLUGIN: &str = "nri.pkg.api.v1alpha1.Plugin";
/// The service that the engine serves.
pub const RUNTIME: &str = "nri.pkg.api.v1alpha1.Runtime";

/// An event is a bit: the event's number less one. `CREATE_CONTAINER` is 4.
const CREATE_CONTAINER: u64 = 1 << 3;

/// A container that the engine is about to create.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Create<'a> {
    /// The pod's name.
    pub pod: &'a str,
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's runtime handler; empty for the engine's default.
    pub handler: &'a str,
    /// The pod's annotations. The pod's author writes them.
    pub pod_annotations: Vec<(&'a str, &'a str)>,
    /// The container's name in the pod.
    pub container: &'a str,
    /// The annotations of the container's OCI definition.
    pub annotations: Vec<(&'a str, &'a str)>,
    /// The values of `NVIDIA_VISIBLE_DEVICES`, usually one.
    pub visible: Vec<&'a str>,
    /// Whether `CUDA_VERSION` has a value. Without the other variable, hooks give such an old image
    /// every GPU.
    pub cuda_version: bool,
    /// The paths in the container at which something is mounted.
    pub mounts: Vec<&'a str>,
    /// CDI devices that the kubelet named.
    pub cdi: Vec<&'a str>,
}

impl<'a> Create<'a> {
    /// Parses a `CreateContainerRequest`.
    pub fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut create = Self::default();
        for field in Fields::of(message) {
            match field? {
                (1, v) => create.read_pod(v.bytes()?)?,
                (2, v) => create.read_container(v.bytes()?)?,
                _ => {}
            }
        }
        Ok(create)
    }

    fn read_pod(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        for field in Fields::of(message) {
            match field? {
                (2, v) => self.pod = v.text()?,
                (4, v) => self.namespace = v.text()?,
                (6, v) => self.pod_annotations.push(entry(v.bytes()?)?),
                (7, v) => self.handler = v.text()?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_container(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        for field in Fields::of(message) {
            match field? {
                (3, v) => self.container = v.text()?,
                (6, v) => self.annotations.push(entry(v.bytes()?)?),
                (8, v) => {
                    // Other variables need not be UTF-8.
                    let variable = v.bytes()?;
                    if let Some(value) = variable.strip_prefix(b"NVIDIA_VISIBLE_DEVICES=") {
                        self.visible
                            .push(std::str::from_utf8(value).map_err(|_| Malformed)?);
                    }
                    let version = variable.strip_prefix(b"CUDA_VERSION=");
                    self.cuda_version |= version.is_some_and(|value| !value.is_empty());
                }
                (9, v) => self.mounts.extend(first_text(v.bytes()?)?),
                (20, v) => self.cdi.extend(first_text(v.bytes()?)?),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The text in field 1: a mount's destination, a CDI device's name.
fn first_text(message: &[u8]) -> Result<Option<&str>, Malformed> {
    let mut text = None;
    for field in Fields::of(message) {
        if let (1, v) = field? {
            text = Some(v.text()?);
        }
    }
    Ok(text)
}

/// The changes that the plugin requests for a container.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub struct Adjustment {
    /// CDI devices to inject.
    pub cdi: Vec<String>,
    /// The new value of `NVIDIA_VISIBLE_DEVICES`.
    pub visible: Option<String>,
}

impl Adjustment {
    /// A `CreateContainerResponse`.
    pub fn write(&self) -> Vec<u8> {
        let mut adjust = Vec::new();
        if let Some(value) = &self.visible {
            let mut variable = Vec::new();
            push_bytes(&mut variable, 1, b"NVIDIA_VISIBLE_DEVICES");
            push_bytes(&mut variable, 2, value.as_bytes());
            push_bytes(&mut adjust, 4, &variable);
        }
        for name in &self.cdi {
            let mut device = Vec::new();
            push_bytes(&mut device, 1, name.as_bytes());
            push_bytes(&mut adjust, 8, &device);
        }
        let mut response = Vec::new();
        if !adjust.is_empty() {
            push_bytes(&mut response, 1, &adjust);
        }
        response
    }
}

/// A `RegisterPluginRequest`. The engine wants the index as two digits.
pub fn register(index: u8) -> Vec<u8> {
    let mut request = Vec::new();
    push_bytes(&mut request, 1, b"nvoci-nri");
    push_bytes(&mut request, 2, format!("{index:02}").as_bytes());
    request
}

/// The engine's name and version in a `ConfigureRequest`.
pub fn engine(message: &[u8]) -> Result<(&str, &str), Malformed> {
    let (mut name, mut version) = ("", "");
    for field in Fields::of(message) {
        match field? {
            (2, v) => name = v.text()?,
            (3, v) => version = v.text()?,
            _ => {}
        }
    }
    Ok((name, version))
}

/// A `ConfigureResponse` that subscribes to `CreateContainer` alone.
pub fn subscription() -> Vec<u8> {
    let mut response = Vec::new();
    push_number(&mut response, 2, CREATE_CONTAINER);
    response
}

/// The response to a `SynchronizeRequest`, which repeats that more requests follow.
pub fn synchronized(message: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut response = Vec::new();
    for field in Fields::of(message) {
        if let (3, v) = field? {
            push_number(&mut response, 2, u64::from(v.number()? != 0));
        }
    }
    Ok(response)
}
