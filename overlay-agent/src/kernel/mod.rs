//! Doing: the kernel interfaces, one module each.

pub mod bpf;
pub mod firewall;
pub mod links;
pub mod neighbours;
pub mod netns;
pub mod routes;
pub mod rtnl;
pub mod sysctl;
pub mod xfrm;
