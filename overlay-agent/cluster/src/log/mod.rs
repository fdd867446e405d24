//! The managers' replicated log: a deterministic state machine.

pub mod addresses;
pub mod blocks;
pub mod epochs;
pub mod member;
pub mod names;
pub mod networks;
pub mod pool;
pub mod roster;
pub mod rules;
pub mod settings;
pub mod subnet;
pub mod tokens;
pub mod vnis;

#[cfg(test)]
mod samples;
