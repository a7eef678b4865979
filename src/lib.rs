//! nvoci gives OCI containers the host's NVIDIA GPUs, on native Linux and on WSL2.

#[allow(unsafe_code)]
pub mod sys;

pub mod door;
pub mod engine;
pub mod error;
