//! The control channel between nodes: one message at a time, each way, over mutual TLS.
//!
//! | part | does |
//! |---|---|
//! | [`frame`] | a length before each message; no room is made for what its kind may not have |
//! | [`limits`], [`places`] | how much, how long and how many |
//! | [`server`] | accepts, shakes hands, asks who it is, and passes requests to a [`server::Host`] |
//! | [`desk`] | the [`server::Host`] of a node: decides by [`overlay_cluster::control::handler`] |
//! | [`client`] | calls a node by its id, and checks what it is told |
//! | [`raft`] | calls another manager |
//!
//! Whom to let in is decided by [`super::tls`] in the handshake, and again on every request: nodes
//! are evicted while they are connected.

pub mod client;
pub mod desk;
pub mod frame;
pub mod limits;
pub mod places;
pub mod raft;
pub mod server;

#[cfg(test)]
mod tests;
