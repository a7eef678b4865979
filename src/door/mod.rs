//! The ways in: each one is wiring between a caller and the rest.

pub mod runtime;
