//! The daemon: what holds the cluster core together with disks, sockets and clocks.

pub mod control;
pub mod managers;
pub mod node;
pub mod store;
pub mod tls;
