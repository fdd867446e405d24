//! The desired data plane of one node: the seam between deciding and doing.
//!
//! The cluster core produces it, `overlay dataplane apply FILE` reads it from a file. Everything
//! that the kernel must hold follows from it and from the underlay facts of [`super::objects`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    path::PathBuf,
};

pub use overlay_cluster::gossip::record::Addresses;
pub use overlay_cluster::rotation::{Direction, Keying, Transmit};
use overlay_ebpf::abi::{Epoch, Lane, MacAddr, MarkLayout, PeerIndex, Slot, Spi, Vni};

use super::copy_on_write::CopyOnWrite;

/// The desired data plane of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataPlane {
    pub node: Node,
    pub settings: Settings,
    pub networks: BTreeMap<Vni, Network>,
    pub peers: BTreeMap<PeerIndex, Peer>,
    pub local_endpoints: Vec<LocalEndpoint>,
    pub remote_endpoints: CopyOnWrite<Vec<RemoteEndpoint>>,
}

/// This node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub index: PeerIndex,
    pub name: String,
    /// Local VTEP addresses, at most one per family.
    pub vteps: Vec<IpAddr>,
}

/// Settings of the data plane. The defaults suit a host that also runs Docker or Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// UDP destination port of the underlay. Default 4789 (RFC 7348 section 5).
    pub port: u16,
    /// UDP destination port of ESP in UDP (RFC 3948), for networks that spread no ESP over paths
    /// and cores; `None`, the default, is plain ESP.
    pub esp_in_udp_port: Option<u16>,
    pub mark: MarkLayout,
    /// `if_id` of the xfrm interface and of every inbound SA.
    pub if_id: u32,
    /// `reqid` of every SA and template.
    pub reqid: u32,
    /// Priority of the allow policies.
    pub policy_priority: u32,
    /// Priority of the block policies: larger, so they match last.
    pub block_priority: u32,
    /// Hard limit of an SA in bytes, enforced by the kernel; `None` is unlimited. The default of
    /// 2⁴⁶ keeps an attacker's advantage from GCM's birthday bound below 2⁻⁴⁰ per SA.
    pub hard_byte_limit: Option<u64>,
    pub xdp: XdpMode,
    /// One drop in this many is reported to `events`; 0 reports none.
    pub event_sample: u32,
    pub map_sizes: MapSizes,
}

/// How `underlay_rx_xdp` is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where the driver has it, else off: generic XDP costs more than it saves.
    Auto,
    Native,
    Generic,
    Off,
}

/// Entries per map. A full map is an error that names the map and the setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapSizes {
    pub networks: u32,
    /// `local_ports`.
    pub local_ports: u32,
    /// `endpoints`.
    pub endpoints: u32,
    /// `addresses`.
    pub addresses: u32,
    /// `peers`, `vteps`, `peer_stats`.
    pub peers: u32,
    /// `memberships`.
    pub memberships: u32,
    /// `flood_lists`.
    pub flood_lists: u32,
    /// `sas`.
    pub sas: u32,
    /// `events`, bytes: a power of two and a multiple of the page size.
    pub events: u32,
}

/// One overlay network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub name: String,
    pub vni: Vni,
    pub encrypted: bool,
    /// Replicate broadcast and multicast to every node with an endpoint (head-end replication).
    pub replicate: bool,
    /// Largest inner IP packet, bytes; `None` derives it from the underlay routes.
    pub mtu: Option<u32>,
    /// What is derived is lowered to this, so that nodes with wider paths agree with the others.
    pub mtu_at_most: Option<u32>,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub index: PeerIndex,
    pub name: String,
    pub vtep: IpAddr,
    /// Networks that the peer takes part in, beside those in which it hosts endpoints: their SAs
    /// are installed before its first endpoint is known.
    pub networks: BTreeSet<Vni>,
    /// Slot that this node sends in; `None` keeps encrypted networks to this peer closed.
    pub transmit: Option<Transmit>,
    /// SAs in both directions.
    pub sas: Vec<SecurityAssociation>,
}

/// One SA of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityAssociation {
    pub direction: Direction,
    pub epoch: Epoch,
    pub slot: Slot,
    pub lane: Lane,
    /// Agent starts of the sender and the receiver that agreed the key.
    pub sender_generation: u64,
    pub receiver_generation: u64,
    pub keying: Keying,
}

impl SecurityAssociation {
    /// The SPI, for a node `local` and a peer `remote`.
    pub fn spi(&self, local: PeerIndex, remote: PeerIndex) -> Spi {
        let sender = match self.direction {
            Direction::Out => local,
            Direction::In => remote,
        };
        Spi::of(sender, self.slot, self.lane)
    }
}

/// An endpoint on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalEndpoint {
    pub vni: Vni,
    pub name: String,
    pub netns: NetnsRef,
    /// Name of the container's interface, for example `eth0`.
    pub interface: String,
    pub mac: MacAddr,
    /// Addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Routes over the interface, beside those to the networks of `addresses`.
    pub routes: Vec<Route>,
}

/// A route in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Network address and prefix length: no bit beyond the length is set.
    pub to: (IpAddr, u8),
    /// The next hop; `None` if the destinations are on the link.
    pub via: Option<IpAddr>,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, length) = self.to;
        write!(f, "{address}/{length}")?;
        match self.via {
            Some(via) => write!(f, " via {via}"),
            None => Ok(()),
        }
    }
}

/// A network namespace, as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetnsRef {
    /// `/run/netns/NAME`.
    Name(String),
    /// The namespace of a process.
    Pid(u32),
    Path(PathBuf),
}

/// An endpoint on a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteEndpoint {
    pub vni: Vni,
    pub peer: PeerIndex,
    pub mac: MacAddr,
    pub addresses: Addresses,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            port: 4789,
            esp_in_udp_port: None,
            mark: MarkLayout::DEFAULT,
            if_id: 0x006f_766c,
            reqid: 0x006f_766c,
            policy_priority: 1000,
            block_priority: u32::MAX >> 1,
            hard_byte_limit: Some(1 << 46),
            xdp: XdpMode::Auto,
            event_sample: 64,
            map_sizes: MapSizes::default(),
        }
    }
}

impl Default for MapSizes {
    fn default() -> Self {
        Self {
            networks: 4096,
            local_ports: 4096,
            endpoints: 131_072,
            addresses: 262_144,
            peers: 16_384,
            memberships: 131_072,
            flood_lists: 131_072,
            sas: 131_072,
            events: 262_144,
        }
    }
}
