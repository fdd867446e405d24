//! The managers' replicated log: a deterministic state machine.

pub mod addresses;
pub mod epochs;
pub mod member;
pub mod names;
pub mod roster;
pub mod subnet;
pub mod tokens;

#[cfg(test)]
mod samples;
