//! Doors: what is called from outside. Wiring only.

pub mod list;
