//! The map ABI: every key and value that crosses the BPF boundary.
//!
//! One place defines them; the programs and the agent use the same types. Integers are in **host
//! byte order** so that `bpftool map dump` prints the numbers an operator knows; addresses and MACs
//! are byte arrays in **network order**. IPv4 addresses stand in 16 bytes as IPv4-mapped IPv6
//! (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2). Every type is `repr(C)` without implicit padding.
//!
//! A change of any layout or meaning advances [`ABI_VERSION`]; pins of another version are refused.

pub mod config;
pub mod drop_reason;
pub mod endpoint;
pub mod event;
pub mod ids;
pub mod network;
pub mod peer;
pub mod security_association;
pub mod stats;

pub use config::{Config, ConfigFlags, MarkLayout};
pub use drop_reason::{Direction, DropReason};
pub use endpoint::{Address, AddressKey, Endpoint, EndpointKey, LocalPort, LocalPortKey, Location};
pub use event::DropEvent;
pub use ids::{Epoch, IdError, Lane, MacAddr, NoMacAddr, PeerIndex, Slot, Spi, Vni};
pub use network::{
    FLOOD_TARGETS_MAX, FloodKey, FloodTarget, Membership, MembershipKey, Network, NetworkFlags,
    NetworkKey,
};
pub use peer::{Peer, PeerKey, TxState, Vtep, VtepKey, VtepRole};
pub use security_association::{SaDirection, SecurityAssociation, SecurityAssociationKey};
pub use stats::{CounterKey, PacketCount, PeerStats};

/// Version of the map ABI. It names the pin directory (`v1`) and stands in [`Config::abi_version`].
pub const ABI_VERSION: u32 = 1;

/// Names of the maps, as pinned under the versioned directory.
pub mod map {
    pub const CONFIG: &str = "config";
    pub const NETWORKS: &str = "networks";
    pub const LOCAL_PORTS: &str = "local_ports";
    pub const ENDPOINTS: &str = "endpoints";
    pub const ADDRESSES: &str = "addresses";
    pub const PEERS: &str = "peers";
    pub const VTEPS: &str = "vteps";
    pub const MEMBERSHIPS: &str = "memberships";
    pub const FLOOD_LISTS: &str = "flood_lists";
    pub const SAS: &str = "sas";
    pub const DROPS: &str = "drops";
    pub const PEER_STATS: &str = "peer_stats";
    pub const EVENTS: &str = "events";

    /// Every map of the object, in the order of the packet's path.
    pub const ALL: [&str; 13] = [
        CONFIG,
        LOCAL_PORTS,
        NETWORKS,
        ADDRESSES,
        ENDPOINTS,
        PEERS,
        FLOOD_LISTS,
        SAS,
        VTEPS,
        MEMBERSHIPS,
        DROPS,
        PEER_STATS,
        EVENTS,
    ];
}

/// Names of the programs, as they stand in the object and under the pin directory.
pub mod program {
    /// TC ingress of an endpoint's host-side veth: a frame leaves its container.
    pub const ENDPOINT_TX: &str = "endpoint_tx";
    /// TC ingress of `ovl-in`: an encapsulated packet re-enters the IP stack on its way to XFRM.
    pub const REENTRY: &str = "reentry";
    /// XDP on an underlay device.
    pub const UNDERLAY_RX_XDP: &str = "underlay_rx_xdp";
    /// TC ingress of an underlay device, after GRO.
    pub const UNDERLAY_RX: &str = "underlay_rx";
    /// TC ingress of the xfrm interface: a packet that IPsec has authenticated and decrypted.
    pub const DECRYPTED_RX: &str = "decrypted_rx";
    /// TC egress of every device that can carry the underlay: the last barrier.
    pub const UNDERLAY_AUDIT: &str = "underlay_audit";
    /// The same on devices whose packets begin with the IP header.
    pub const UNDERLAY_AUDIT_L3: &str = "underlay_audit_l3";
    /// TC ingress of devices that exist for their side effect alone (`ovl-hop`, `ovl-gro`): drops all.
    pub const SINK: &str = "sink";
}
