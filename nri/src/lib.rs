//! An NRI plugin of containerd and CRI-O that gives containers NVIDIA GPUs.
//!
//! The engine starts a container, and the plugin answers its `CreateContainer` event with CDI
//! devices. A pod names them in annotations. With the policy `allocated`, the kubelet must have
//! allocated each of them. The engine, the kubelet and the pod's author write all input, so each
//! reader here checks every length before it uses it.

pub mod decide;
pub mod kubelet;
pub mod messages;
pub mod options;
pub mod proto;
pub mod session;
pub mod status;
pub mod text;
pub mod trunk;
pub mod ttrpc;
