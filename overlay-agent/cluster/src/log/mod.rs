//! What the managers replicate: a deterministic state machine, fed by the log that they agree on.
//!
//! [`state::State::apply`] takes one [`command::Command`] after the other and gives an
//! [`command::Outcome`] or a [`refusal::Refusal`]. It knows nothing of raft, of disks or of clocks:
//! the leader's time comes with each command, and never goes back. The same commands give the same
//! bytes of a [`snapshot`] on every manager; a refused command changes nothing.
//!
//! | part | holds |
//! |---|---|
//! | [`roster`], [`member`] | who belongs to the cluster, with indices that are never given twice |
//! | [`authorities`] | the trusted roots with their keys: what issues certificates |
//! | [`tokens`] | the join tokens |
//! | [`networks`], [`subnet`], [`vnis`], [`rules`] | networks, and who may attach |
//! | [`blocks`] | which node gives which addresses |
//! | [`epochs`] | key epochs, their secrets, and how far a rotation is |
//! | [`settings`] | what all nodes must have alike |
//!
//! A node pulls its [`view`] of all that, without secrets, and gives addresses from its
//! [`pool`]. Whoever proposes a command has checked who asks for it; the log checks that it fits.
//!
//! What a node that is gone may still know closes what it had: its address blocks, and the VNIs of
//! networks removed from under nodes, are free again when the newest epoch of that time has retired.

pub mod addresses;
pub mod authorities;
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
pub(crate) mod samples;
#[cfg(test)]
mod tests;
