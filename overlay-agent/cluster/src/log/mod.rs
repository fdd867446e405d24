//! The managers' replicated log: a deterministic state machine.

pub mod addresses;
pub mod names;
pub mod subnet;
