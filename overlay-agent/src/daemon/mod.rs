//! The daemon: what holds the cluster core together with disks, sockets and clocks.

pub mod api;
pub mod control;
pub mod managers;
pub mod node;
pub mod members;
pub mod renewal;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;
