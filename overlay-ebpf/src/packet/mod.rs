//! Pure packet code: parsing, header construction, checksums, flow hash.
//!
//! The same functions run on the host, where they are tested, and inside the BPF programs. So they
//! take and return arrays of fixed size, index only with constants, never panic, and are inlined
//! into their caller. Fields of more than one byte are in host byte order; addresses are byte
//! arrays in network order.
//!
//! The modules in the order in which a packet meets them:
//!
//! | on the way out | on the way in |
//! |---|---|
//! | [`ethernet`], [`arp`], [`ndp`]: the container's frame | [`ethernet`], [`ipv4`], [`ipv6`], [`udp`]: the outer headers |
//! | [`ipv4`], [`ipv6`], [`flow`]: its flow | [`esp`], [`vxlan`]: what they carry |
//! | [`mtu`], [`icmp`]: whether it fits, and the answer if not | [`ecn`]: congestion marks of the outer header |
//! | [`ecn`], [`outer`]: the headers in front of it | |

pub mod arp;
pub mod bytes;
#[cfg(test)]
mod captures;
pub mod checksum;
pub mod ecn;
pub mod esp;
pub mod ethernet;
pub mod flow;
pub mod icmp;
pub mod icmpv6_type;
pub mod ip_protocol;
pub mod ipv4;
pub mod ipv6;
pub mod mtu;
pub mod ndp;
pub mod outer;
pub mod udp;
pub mod vxlan;
