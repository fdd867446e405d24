//! Who works against a node: an attacker on the underlay, a process on the node's own host, an
//! administrator who takes away what it stands on; and the counters that tell what refused them.

mod attacker;
mod barriers;
mod counters;
pub mod craft;
pub mod damage;
pub mod maps;
mod outbound_sas;
mod pressure;
mod siege;
pub mod sockets;

pub use self::{
    attacker::{Attacker, mac_of},
    barriers::Barriers,
    counters::{DropCounts, local_injections},
    outbound_sas::{OutboundSa, outbound_sas},
    pressure::{MARKER, Pressure},
    siege::{Siege, VNI, stays_encrypted},
};
