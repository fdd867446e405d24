//! What the nodes tell each other: who is there, and the records each owns.
//!
//! In the order a datagram meets them:
//!
//! - [`limits`]: token buckets, before anything is computed
//! - [`envelope`]: AES-256-GCM around each datagram
//! - [`membership`]: foca (SWIM), whose view of who is up is a hint
//! - [`record`]: records signed by their owner
//! - [`store`]: the newest record of each key, and what was deleted
//! - [`anti_entropy`]: repairs, over mutual TLS, what datagrams lost
//! - [`engine`]: all of it as one node without I/O
//!
//! The key of the envelope belongs to the group: whoever has it can forge another member's datagrams.
//! So nothing is believed for its envelope alone. A record counts for its owner's signature, and what
//! has no signature (who is up) is a hint from which no peer and no SA follows.

pub mod anti_entropy;
pub mod engine;
pub mod envelope;
pub mod limits;
pub mod membership;
pub mod record;
pub mod roster;
pub mod store;
