//! The doors: who calls nvoci, and what for. Wiring only.

pub mod config;
