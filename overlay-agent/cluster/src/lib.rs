//! The cluster core: what the nodes of a cluster agree on, and how.
//!
//! It decides and does nothing: no sockets, no files, no clock, no randomness of its own. Time,
//! random numbers and bytes are passed in, actions come out, so that a thousand nodes run in one
//! process, from one seed. The agent does what this crate decides.
#![forbid(unsafe_code)]

pub mod control;
pub mod gossip;
pub mod id;
pub mod identity;
pub mod keys;
pub mod log;
pub mod rotation;
pub mod secret;
pub mod sim;
pub mod time;
