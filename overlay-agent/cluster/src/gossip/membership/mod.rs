//! Who is up: foca (SWIM), with an identity and a wire format of ours. Its answer is a hint.
//!
//! A member's identity is its node id, the generation of its newest signed node record, and how often it
//! rejoined since that start. The address is the one in that record: no datagram can say another, so
//! nobody redirects anybody's probes. Of what others say about a member only that is believed which agrees
//! with the member's own signed record; see [`Membership::receive`].

mod config;
mod foca_side;
mod wire;

pub use config::config;
pub use foca_side::{Effects, Hint, MAX_BROADCASTS, Membership};
pub use wire::{Identity, MAX_RECORDS_IN_DATAGRAM, Malformed, Message, parse};
