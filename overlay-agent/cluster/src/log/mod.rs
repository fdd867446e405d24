//! The managers' replicated log: a deterministic state machine.

pub mod addresses;
pub mod blocks;
mod changes;
pub mod command;
pub mod epochs;
pub mod member;
pub mod names;
pub mod networks;
pub mod pool;
pub mod refusal;
pub mod roster;
pub mod rules;
pub mod settings;
pub mod snapshot;
pub mod state;
pub mod subnet;
pub mod tokens;
pub mod view;
pub mod vnis;
pub mod wire;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;
