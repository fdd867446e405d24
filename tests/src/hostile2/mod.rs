//! What an attacker does, and what must come of it: packets made by hand, sockets of local
//! processes, counters that must rise, nonces that must not repeat.

mod attacker;
mod counters;
pub mod craft;
mod nonces;
pub mod sockets;

pub use self::{
    attacker::{Attacker, mac_of},
    counters::{Counts, local_injections, xfrm_statistic},
    nonces::{OutboundSa, Repetition, outbound_sas, repetition},
};
