//! Doing: the kernel interfaces, one module each.

pub mod addresses;
pub mod bpf;
pub mod drops;
pub mod endpoint_link;
pub mod ethtool;
pub mod execute;
pub mod facts;
pub mod features;
pub mod firewall;
pub mod host;
pub mod keeper;
pub mod links;
pub mod modules;
pub mod monitor;
pub mod neighbours;
pub mod netns;
pub mod observe;
pub mod redirect_peer;
pub mod removal;
pub mod routes;
pub mod rtnl;
pub mod sysctl;
mod udp_sockets;
pub mod xfrm;
