//! The netlink, firewall and namespace edges of the agent against a real kernel, with iproute2 and
//! nft as independent witnesses. Each test has network namespaces of its own, which end with it.
//! Needs root.

mod endpoint;
mod firewall;
mod forwarding;
mod links;
mod namespace;
mod resolver;
mod routes;
mod xfrm;
