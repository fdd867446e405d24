//! The daemon: what holds the cluster core together with disks, sockets and clocks.

pub mod api;
pub mod control;
pub mod store;
pub mod tls;
