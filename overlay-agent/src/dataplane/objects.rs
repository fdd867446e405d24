//! The kernel objects of a data plane, in one vocabulary for what is wanted and what is observed.
//!
//! `compile` turns a [`super::desired::DataPlane`] and the [`UnderlayFacts`] into wanted [`Objects`];
//! the kernel modules observe the same type; `diff` turns the two into ordered [`Step`]s. Objects are
//! named by device **name**, not index: indices are resolved by the executor when a step runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use overlay_ebpf::abi::{self, MacAddr, Spi};

use super::{
    copy_on_write::CopyOnWrite,
    desired::{Keying, MapSizes, NetnsRef, Route},
};

/// Device into which `endpoint_tx` sends GSO packets: its transmit path recomputes `gso_segs`.
pub const HOP: &str = "ovl-hop";
/// The other end of [`HOP`]: encapsulated packets re-enter the IP stack here.
pub const REENTRY: &str = "ovl-in";
/// The xfrm interface on which decrypted packets appear.
pub const XFRM: &str = "ovl-xfrm";
/// Kernel VXLAN device that exists to register VXLAN GRO; whatever reaches it is dropped.
pub const GRO: &str = "ovl-gro";

/// What the underlay looks like: observed, an input to deciding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnderlayFacts {
    /// Route to each peer's VTEP.
    pub routes: BTreeMap<IpAddr, UnderlayRoute>,
    /// Every device that can carry the underlay (all but loopback, our own and endpoint devices).
    pub devices: BTreeSet<String>,
    /// Those of them that send packets without a link-layer header, beginning with the IP header.
    pub layer3: BTreeSet<String>,
    /// Those of them whose link-layer header is another than Ethernet's, with its name: the programs
    /// cannot read their packets.
    pub unreadable: BTreeMap<String, String>,
    /// Base chains of other software that re-entered packets pass ([`Firewall::accepts`]).
    pub foreign_chains: BTreeSet<ForeignChain>,
    /// Kernel features that change what is attached or how.
    pub features: Features,
    /// Device that holds each local VTEP, and its MTU. A VTEP on no device is missing.
    pub vteps: BTreeMap<IpAddr, VtepDevice>,
    /// `net.ipv4.conf.all.rp_filter`: the kernel takes the larger of it and the device's own.
    pub rp_filter_all: u8,
    /// Devices that accept router advertisements (`accept_ra` 1 or 2).
    pub accept_ra: BTreeSet<String>,
    /// Devices on which `disable_xfrm` is in force: packets leave them past every policy.
    pub disable_xfrm: BTreeSet<String>,
    /// Devices whose driver runs XDP natively to advantage.
    pub native_xdp: BTreeSet<String>,
    /// What other software has in XFRM that meets our traffic.
    pub conflicts: Vec<Conflict>,
    /// Local addresses of other software's UDP sockets on `esp_in_udp_port`.
    pub esp_in_udp_sockets: BTreeSet<IpAddr>,
    /// Host-side devices of desired endpoints that have neither a device nor a namespace to make one in.
    pub gone: BTreeSet<String>,
}

impl UnderlayFacts {
    /// Whether packets on the device have no Ethernet header.
    pub fn lacks_ethernet(&self, device: &str) -> bool {
        self.layer3.contains(device) || self.unreadable.contains_key(device)
    }
}

/// An XFRM object of other software that meets our traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Traffic of ours could pass the block policies in clear.
    pub opens: bool,
    /// The object, as `ip xfrm` names it.
    pub object: String,
    /// What it does to us.
    pub effect: String,
}

/// Where a local VTEP address stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VtepDevice {
    pub device: String,
    /// Largest IP packet, bytes.
    pub mtu: u32,
}

/// A resolved route to a peer's VTEP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderlayRoute {
    pub device: String,
    /// Next hop whose MAC is needed: the gateway, or the VTEP itself on a connected network.
    pub next_hop: IpAddr,
    /// Largest IP packet: the route's MTU if set, else the device's.
    pub mtu: u32,
}

/// Features found by probing, not by version where a probe is possible.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// TCX links (6.6).
    pub tcx: bool,
    /// `BPF_F_ADJ_ROOM_DECAP_L3_*` (6.3).
    pub decap_l3: bool,
    /// `bpf_redirect_peer` hands packets over without what they carry from before (6.16, stable
    /// kernels of 2025).
    pub redirect_peer: bool,
    /// ESP, AES-GCM and xfrm interfaces are there: encrypted networks can open.
    pub ipsec: bool,
    /// The kernel has IPv6.
    pub ipv6: bool,
    /// `net.ipv6.conf.DEV.force_forwarding` (6.17): no need to forward globally.
    pub force_forwarding: bool,
    /// The `nft` command is there: the firewall can be set.
    pub nft: bool,
}

/// Everything of ours in the kernel. What grows with the cluster is [`CopyOnWrite`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// Programs and maps loaded and pinned, the maps with these sizes.
    pub programs: Option<MapSizes>,
    /// Sysctl path below `/proc/sys`, value.
    pub sysctls: BTreeMap<String, String>,
    pub firewall: Option<Firewall>,
    pub links: BTreeMap<String, Link>,
    /// Addresses of devices of ours.
    pub addresses: BTreeSet<DeviceAddress>,
    pub policies: CopyOnWrite<BTreeMap<PolicyKey, Policy>>,
    pub states: CopyOnWrite<BTreeMap<StateKey, State>>,
    pub neighbours: CopyOnWrite<BTreeSet<Neighbour>>,
    pub endpoints: BTreeMap<String, EndpointLink>,
    /// (program, device) pairs.
    pub attachments: BTreeSet<Attachment>,
    pub maps: MapEntries,
}

/// A device of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// veth pair; `name` is the key under which it stands, up, no address.
    Veth {
        peer: String,
        mtu: u32,
        /// The transmit path of `name` segments IPv6 GSO packets, by a small `gso_max_size`: ESP
        /// over IPv6 repeats IVs on GSO packets (see docs/decisions.md). Before Linux 6.3 there is
        /// one limit for both families.
        segments_ipv6: bool,
    },
    /// xfrm interface, up.
    Xfrm { if_id: u32, mtu: u32 },
    /// `vxlan external dstport PORT udp6zerocsumrx`, up.
    VxlanExternal { port: u16 },
    /// Observed only: ours, but changed by others in the way it says. Creating repairs it.
    Altered(String),
}

/// An address with the scope of the host: never a source address by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceAddress {
    pub device: String,
    pub address: IpAddr,
    pub prefix_length: u8,
}

/// nftables table `inet overlay`: drops locally generated UDP to the port, exempts the underlay
/// from connection tracking; and accepts in the foreign chains that could drop re-entered packets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Firewall {
    pub port: u16,
    pub esp_in_udp_port: Option<u16>,
    pub local_vteps: BTreeSet<IpAddr>,
    /// Foreign chains whose first rule accepts what comes from [`REENTRY`]: an accept in a chain of
    /// our own does not override the drop of another. Wanted: all of
    /// [`UnderlayFacts::foreign_chains`].
    pub accepts: BTreeSet<ForeignChain>,
    /// What others changed in our table; `None` in what is wanted. Applying repairs it, and until
    /// then its rules count as missing.
    pub altered: Option<String>,
    /// An accept that is not where the drop is any more; `None` in what is wanted.
    pub displaced: Option<String>,
}

/// A base chain of other software, filtering at prerouting or forward.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignChain {
    pub family: ChainFamily,
    pub table: String,
    pub chain: String,
}

/// Where a [`ForeignChain`] stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainFamily {
    /// nftables (also those of `iptables-nft`).
    Ip,
    Ip6,
    Inet,
    /// Legacy iptables.
    LegacyIp,
    LegacyIp6,
}

/// Identity of an XFRM policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    /// Source selector, host prefix.
    pub source: IpAddr,
    /// Destination selector, host prefix; `None` is any address of the family.
    pub destination: Option<IpAddr>,
    /// UDP destination port selector; `None` selects any protocol.
    pub udp_port: Option<u16>,
    pub mark: u32,
    pub mark_mask: u32,
}

/// The policies from `source` to `destination`, of all slots and lanes.
pub fn policies_between(
    policies: &BTreeMap<PolicyKey, Policy>,
    source: IpAddr,
    destination: IpAddr,
) -> impl Iterator<Item = (&PolicyKey, &Policy)> {
    let first = PolicyKey {
        source,
        destination: Some(destination),
        udp_port: None,
        mark: 0,
        mark_mask: 0,
    };
    policies
        .range(first..)
        .take_while(move |(key, _)| (key.source, key.destination) == (source, Some(destination)))
}

/// An outbound XFRM policy (`XFRM_POLICY_OUT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub priority: u32,
    pub action: PolicyAction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyAction {
    Block,
    /// Transport-mode ESP with exactly this SA.
    Encrypt {
        spi: Spi,
        reqid: u32,
    },
    /// Observed only: with our reqid or block priority, but none of the above.
    Other,
}

/// Identity of an XFRM state: what the kernel looks up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateKey {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub spi: Spi,
}

/// An ESP SA: `rfc4106(gcm(aes))`, 128-bit ICV, ESN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub mode: StateMode,
    pub reqid: u32,
    pub replay_window: u32,
    /// Hard limit in the kernel; `None` is unlimited.
    pub hard_byte_limit: Option<u64>,
    /// Outbound: the UDP header that goes before ESP. Inbound SAs never have one: `underlay_rx`
    /// takes it off.
    pub encap: Option<Encap>,
    /// The key where it is known. Not part of what is observed or compared: the kernel does not
    /// tell keys, and an SA is never re-keyed in place.
    pub keying: Keying,
}

/// Ports of ESP in UDP (RFC 3948).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encap {
    pub source_port: u16,
    pub destination_port: u16,
}

impl Encap {
    /// Towards `destination_port`, from a port of its own for each slot and lane, by which networks
    /// and NICs spread them: 49152 (RFC 6335 section 6) and the low twelve bits of the SPI.
    pub const fn new(spi: Spi, destination_port: u16) -> Self {
        Self {
            source_port: 0xc000 | (spi.get() & 0xfff) as u16,
            destination_port,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateMode {
    /// Outbound.
    Transport,
    /// Inbound: decrypted packets appear on the xfrm interface with this `if_id`; the selector is
    /// `source/32 → destination/32` (or /128), which BEET writes into the packet.
    Beet { if_id: u32 },
    /// Observed only: with our reqid, but of another mode, cipher, selector or mark, or without ESN.
    Other,
}

/// A neighbour entry that the kernel keeps resolved (`NTF_EXT_MANAGED`, kernel 5.16).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    pub device: String,
    pub address: IpAddr,
}

/// The veth pair of a local endpoint; stands under the name of its host-side device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointLink {
    pub netns: NetnsRef,
    pub interface: String,
    pub mac: MacAddr,
    pub addresses: BTreeSet<(IpAddr, u8)>,
    pub routes: BTreeSet<Route>,
    pub mtu: u32,
    /// What others changed on the pair; `None` in what is wanted. Creating repairs it.
    pub altered: Option<String>,
}

/// A program on a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    pub program: Program,
    pub device: String,
}

/// The programs, in the order a packet meets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    EndpointTx,
    Reentry,
    /// XDP, native.
    UnderlayRxXdpNative,
    /// XDP, generic.
    UnderlayRxXdpGeneric,
    UnderlayRx,
    DecryptedRx,
    UnderlayAudit,
    /// On a device of [`UnderlayFacts::layer3`].
    UnderlayAuditL3,
    Sink,
}

impl Program {
    /// Whether it is barrier 3.
    pub const fn is_audit(self) -> bool {
        matches!(self, Self::UnderlayAudit | Self::UnderlayAuditL3)
    }
}

/// Entries of the BPF maps. Device indices stand as names until a step runs. What grows with the cluster is
/// [`CopyOnWrite`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapEntries {
    /// Ports, mark and flags; the executor fills in indices and the MAC of [`REENTRY`].
    pub config: Option<ConfigEntry>,
    pub networks: BTreeMap<abi::NetworkKey, abi::Network>,
    /// Device name → port.
    pub local_ports: BTreeMap<String, abi::LocalPort>,
    pub endpoints: CopyOnWrite<BTreeMap<abi::EndpointKey, EndpointEntry>>,
    pub addresses: CopyOnWrite<BTreeMap<abi::AddressKey, abi::Address>>,
    pub peers: CopyOnWrite<BTreeMap<abi::PeerKey, PeerEntry>>,
    pub vteps: CopyOnWrite<BTreeMap<abi::VtepKey, abi::Vtep>>,
    pub memberships: CopyOnWrite<BTreeMap<abi::MembershipKey, abi::Membership>>,
    pub flood_lists: CopyOnWrite<BTreeMap<abi::FloodKey, FloodEntry>>,
    pub sas: CopyOnWrite<BTreeMap<abi::SecurityAssociationKey, abi::SecurityAssociation>>,
}

/// [`abi::Config`] without what only the executor knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigEntry {
    pub node: u32,
    pub flags: u32,
    pub event_sample: u32,
    pub mark: abi::MarkLayout,
    pub port: u16,
    /// 0 is plain ESP.
    pub esp_in_udp_port: u16,
}

/// [`abi::Endpoint`] with a device name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointEntry {
    Local { device: String },
    Remote { peer: u32 },
}

/// [`abi::FloodTarget`] with a device name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FloodEntry {
    Local { device: String },
    Remote { peer: u32 },
}

/// [`abi::Peer`] with a device name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerEntry {
    pub tx: abi::TxState,
    pub vtep: [u8; 16],
    pub local_vtep: [u8; 16],
    pub underlay_device: String,
    pub underlay_mtu: u32,
}
