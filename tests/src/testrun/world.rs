//! The node on which the programs run, unless a row says otherwise: node 1 of three, with two
//! local endpoints on a plain and on an encrypted network, and the same two networks on a peer over
//! IPv4 and on a peer over IPv6.

use bytemuck::Zeroable as _;
use overlay_agent::kernel::bpf::ObservedMaps;
use overlay_ebpf::abi::{
    ABI_VERSION, Address, AddressKey, Config, Endpoint, EndpointKey, FloodKey, FloodTarget,
    LocalPort, LocalPortKey, Location, MarkLayout, Membership, MembershipKey, Network,
    NetworkFlags, NetworkKey, Peer, PeerKey, SaDirection, SecurityAssociation,
    SecurityAssociationKey, TxState, Vtep, VtepKey, VtepRole, ids::mapped,
};

use super::frames::{Ip4, Ip6, Mac};

/// VNI of the plain network.
pub const PLAIN: u32 = 5000;
/// VNI of the encrypted network.
pub const SECRET: u32 = 0x00ab_cdef;
/// A VNI that no network has.
pub const NOWHERE: u32 = 7000;

/// Largest inner IP packet of both networks.
pub const MTU: u32 = 1400;
pub const PORT: u16 = 4789;

pub const NODE: u32 = 1;
/// The peer over IPv4.
pub const PEER4: u32 = 2;
/// The peer over IPv6.
pub const PEER6: u32 = 3;

pub const LOCAL4: Ip4 = [192, 0, 2, 1];
pub const LOCAL6: Ip6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub const REMOTE4: Ip4 = [192, 0, 2, 2];
pub const REMOTE6: Ip6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];
/// Addresses on the underlay that are nobody's VTEP.
pub const STRANGER4: Ip4 = [192, 0, 2, 99];
pub const STRANGER6: Ip6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x99];

/// Addresses behind a path of 1300 bytes over IPv4, and of 1400 over IPv6.
pub const NARROW4: Ip4 = [192, 0, 2, 50];
pub const NARROW6: Ip6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50];

/// MACs on the underlay; see [`super::place`].
pub const UNDERLAY_MAC: Mac = [2, 0, 0, 0, 0, 1];
pub const REMOTE4_MAC: Mac = [2, 0, 0, 0, 0, 2];
pub const REMOTE6_MAC: Mac = [2, 0, 0, 0, 0, 3];
pub const REENTRY_MAC: Mac = [2, 0x6f, 0x76, 0x6c, 0, 1];

/// Devices; see [`super::place`].
pub mod device {
    /// Host side of A on the plain network.
    pub const A: u32 = 11;
    /// Host side of B on the plain network.
    pub const B: u32 = 12;
    /// Host side of A on the encrypted network.
    pub const SECRET_A: u32 = 13;
    /// Host side of B on the encrypted network.
    pub const SECRET_B: u32 = 14;
    pub const HOP: u32 = 31;
    pub const REENTRY: u32 = 32;
    pub const XFRM: u32 = 33;
    pub const UNDERLAY: u32 = 41;
    /// The wire's other end.
    pub const WIRE: u32 = 42;
    /// A device that does not exist.
    pub const NONE: u32 = 4000;
}

/// An endpoint; the same addresses on both networks.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    pub mac: Mac,
    pub ip4: Ip4,
    pub ip6: Ip6,
}

const fn host(last: u8) -> Host {
    Host {
        mac: [2, 0x42, 10, 0, 9, last],
        ip4: [10, 0, 9, last],
        ip6: [0xfd, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last],
    }
}

impl Host {
    /// The link-local address that Linux forms from the MAC (RFC 4291 appendix A), by hand.
    pub fn link_local(self) -> Ip6 {
        let [a, b, c, d, e, f] = self.mac;
        [
            0xfe,
            0x80,
            0,
            0,
            0,
            0,
            0,
            0,
            a ^ 2,
            b,
            c,
            0xff,
            0xfe,
            d,
            e,
            f,
        ]
    }
}

/// Local.
pub const A: Host = host(2);
/// Local.
pub const B: Host = host(3);
/// On [`PEER4`].
pub const C: Host = host(4);
/// On [`PEER6`].
pub const D: Host = host(6);
/// Addresses that no endpoint has.
pub const NOBODY: Host = host(99);

/// Slot and lanes in which frames to the peers are sent.
pub const SLOT4: u8 = 0x12;
pub const LANES4: u8 = 4;
pub const SLOT6: u8 = 0xfe;
pub const LANES6: u8 = 16;
/// An SPI of [`PEER4`] that this node receives.
pub const SPI4: u32 = PEER4 << 12 | 0x34 << 4 | 1;

/// What the maps hold.
#[derive(Debug, Clone)]
pub struct World {
    pub maps: ObservedMaps,
}

impl Default for World {
    fn default() -> Self {
        let mut world = Self {
            maps: ObservedMaps {
                config: Some(config()),
                ..ObservedMaps::default()
            },
        };
        for (vni, flags, port_a, port_b) in [
            (PLAIN, 0, device::A, device::B),
            (
                SECRET,
                NetworkFlags::ENCRYPTED,
                device::SECRET_A,
                device::SECRET_B,
            ),
        ] {
            world
                .maps
                .networks
                .insert(NetworkKey { vni }, Network { flags, mtu: MTU });
            world.local(vni, A, port_a);
            world.local(vni, B, port_b);
            world.remote(vni, C, PEER4);
            world.remote(vni, D, PEER6);
        }
        world.vtep(mapped(LOCAL4), VtepRole::Local, NODE);
        world.vtep(LOCAL6, VtepRole::Local, NODE);
        world.vtep(mapped(REMOTE4), VtepRole::Remote, PEER4);
        world.vtep(REMOTE6, VtepRole::Remote, PEER6);
        world.maps.peers.insert(
            PeerKey { peer: PEER4 },
            Peer {
                tx: tx(SLOT4, LANES4),
                vtep: mapped(REMOTE4),
                local_vtep: mapped(LOCAL4),
                underlay_ifindex: device::UNDERLAY,
                underlay_mtu: 1500,
            },
        );
        world.maps.peers.insert(
            PeerKey { peer: PEER6 },
            Peer {
                tx: tx(SLOT6, LANES6),
                vtep: REMOTE6,
                local_vtep: LOCAL6,
                underlay_ifindex: device::UNDERLAY,
                underlay_mtu: 1500,
            },
        );
        world.sa(SPI4, NODE, PEER4, SaDirection::In);
        world
    }
}

fn config() -> Config {
    Config {
        abi_version: ABI_VERSION,
        hop_ifindex: device::HOP,
        reentry_ifindex: device::REENTRY,
        xfrm_ifindex: device::XFRM,
        node: NODE,
        event_sample: 1,
        mark: MarkLayout::DEFAULT,
        port: PORT,
        reentry_mac: REENTRY_MAC,
        ..Config::zeroed()
    }
}

fn tx(slot: u8, lanes: u8) -> TxState {
    TxState {
        epoch: 9,
        slot,
        lanes,
        reserved: [0; 2],
    }
}

impl World {
    /// Changes the configuration.
    pub fn config(&mut self, change: impl FnOnce(&mut Config)) {
        change(self.maps.config.as_mut().expect("the world is configured"));
    }

    pub fn set_flag(&mut self, flag: u32) {
        self.config(|config| config.flags |= flag);
    }

    pub fn network(&mut self, vni: u32, change: impl FnOnce(&mut Network)) {
        change(
            self.maps
                .networks
                .get_mut(&NetworkKey { vni })
                .expect("a network of the world"),
        );
    }

    pub fn peer(&mut self, peer: u32, change: impl FnOnce(&mut Peer)) {
        change(
            self.maps
                .peers
                .get_mut(&PeerKey { peer })
                .expect("a peer of the world"),
        );
    }

    /// Moves both peers to where the path is narrower than the networks' MTU.
    pub fn narrow(&mut self) {
        self.peer(PEER4, |peer| peer.vtep = mapped(NARROW4));
        self.peer(PEER6, |peer| peer.vtep = NARROW6);
    }

    pub fn vtep(&mut self, address: Ip6, role: VtepRole, peer: u32) {
        self.maps
            .vteps
            .insert(VtepKey { address }, Vtep { role, peer });
    }

    /// Adds an entry of `sas`.
    pub fn sa(&mut self, spi: u32, receiver: u32, peer: u32, direction: SaDirection) {
        self.maps.sas.insert(
            SecurityAssociationKey { spi, receiver },
            SecurityAssociation {
                direction,
                peer,
                epoch: 1,
                slot: (spi >> 4) as u8,
                lane: (spi & 0xf) as u8,
                reserved: [0; 2],
                sender_generation: 1,
                receiver_generation: 1,
                key_id: [7; 8],
            },
        );
    }

    /// Adds a local endpoint.
    pub fn local(&mut self, vni: u32, host: Host, ifindex: u32) {
        self.maps.local_ports.insert(
            LocalPortKey { ifindex },
            LocalPort {
                vni,
                mac: host.mac,
                reserved: [0; 2],
            },
        );
        self.endpoint(vni, host, Location::Local, ifindex, 0);
    }

    /// Adds an endpoint of a peer, and its membership.
    pub fn remote(&mut self, vni: u32, host: Host, peer: u32) {
        self.endpoint(vni, host, Location::Remote, 0, peer);
        self.maps
            .memberships
            .insert(MembershipKey { vni, peer }, Membership { endpoints: 1 });
    }

    fn endpoint(&mut self, vni: u32, host: Host, location: Location, ifindex: u32, peer: u32) {
        let Host { mac, ip4, ip6 } = host;
        self.maps.endpoints.insert(
            EndpointKey {
                vni,
                mac,
                reserved: [0; 2],
            },
            Endpoint {
                location,
                ifindex,
                peer,
            },
        );
        for address in [mapped(ip4), ip6] {
            self.maps.addresses.insert(
                AddressKey { vni, address },
                Address {
                    mac,
                    reserved: [0; 2],
                },
            );
        }
    }

    /// Turns replication on, to these targets in this order.
    pub fn flood(&mut self, vni: u32, targets: &[FloodTarget]) {
        self.network(vni, |network| network.flags |= NetworkFlags::REPLICATE);
        for (position, target) in targets.iter().enumerate() {
            let position = position as u32;
            self.maps
                .flood_lists
                .insert(FloodKey { vni, position }, *target);
        }
    }
}

/// A flood target on this node.
pub fn to_device(ifindex: u32) -> FloodTarget {
    FloodTarget {
        location: Location::Local,
        ifindex,
        peer: 0,
    }
}

/// A flood target on a peer.
pub fn to_peer(peer: u32) -> FloodTarget {
    FloodTarget {
        location: Location::Remote,
        ifindex: 0,
        peer,
    }
}
