//! Doing: the kernel interfaces, one module each.

pub mod addresses;
pub mod bpf;
pub mod endpoint_link;
pub mod ethtool;
pub mod firewall;
pub mod links;
pub mod neighbours;
pub mod netns;
pub mod routes;
pub mod rtnl;
pub mod sysctl;
pub mod xfrm;
