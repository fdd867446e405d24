//! A device as rtnetlink describes it, reduced to what the overlay asks.

use std::fmt;

use overlay_ebpf::abi::MacAddr;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVxlan, InfoXfrm,
    LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub index: u32,
    pub name: String,
    pub kind: Kind,
    pub mac: Option<MacAddr>,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    pub up: bool,
    pub loopback: bool,
    pub link_layer: LinkLayer,
    /// Whether it belongs to a bridge, bond or VRF.
    pub master: bool,
    /// `ip link … alias`.
    pub alias: Option<String>,
    /// Longest GSO packet that it transmits whole, bytes.
    pub(crate) gso_max_size: Option<u32>,
    /// How it makes IPv6 addresses; `None` where IPv6 is off.
    pub(crate) addr_gen: Option<In6AddrGenMode>,
}

/// What stands before the IP header of a packet on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLayer {
    Ethernet,
    /// Nothing.
    None,
    /// A header of another kind.
    Other(LinkLayerType),
}

impl LinkLayer {
    fn new(kind: LinkLayerType, flags: LinkFlags) -> Self {
        use LinkLayerType as T;
        match kind {
            T::Ether | T::Loopback => Self::Ethernet,
            T::None | T::Ppp | T::Rawip | T::Tunnel | T::Tunnel6 | T::Sit => Self::None,
            // Without a remote address the tunnel's own header stands there
            // (`ipgre_tunnel_init`, net/ipv4/ip_gre.c; `ip6gre_tunnel_init`).
            T::Ipgre | T::Ip6gre if flags.contains(LinkFlags::Pointopoint) => Self::None,
            other => Self::Other(other),
        }
    }
}

/// What kind of device it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `peer`: index of the other end, in its own namespace.
    Veth {
        peer: Option<u32>,
    },
    Xfrm {
        if_id: u32,
    },
    Vxlan(Vxlan),
    /// Another kind, by the kernel's name.
    Other(String),
    /// No kind: hardware, loopback.
    Plain,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vxlan {
    /// UDP destination port.
    pub port: u16,
    /// `external` (collect_metadata).
    pub external: bool,
    /// Accepts a zero UDP checksum over IPv6 (RFC 6935).
    pub zero_checksum6_rx: bool,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Veth { .. } => f.write_str("a veth device"),
            Self::Xfrm { if_id } => write!(f, "an xfrm interface with if_id {if_id:#x}"),
            Self::Vxlan(vxlan) => write!(f, "a vxlan device on port {}", vxlan.port),
            Self::Other(kind) => write!(f, "a {kind} device"),
            Self::Plain => f.write_str("a hardware device"),
        }
    }
}

impl Device {
    pub(super) fn from_message(message: &LinkMessage) -> Self {
        let mut device = Self {
            index: message.header.index,
            name: String::new(),
            kind: Kind::Plain,
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            loopback: message.header.link_layer_type == LinkLayerType::Loopback,
            link_layer: LinkLayer::new(message.header.link_layer_type, message.header.flags),
            master: false,
            alias: None,
            gso_max_size: None,
            addr_gen: None,
        };
        let mut link = None;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
                LinkAttribute::GsoMaxSize(size) => device.gso_max_size = Some(*size),
                LinkAttribute::Address(address) => {
                    device.mac = address.as_slice().try_into().ok().map(MacAddr);
                }
                LinkAttribute::Link(index) => link = Some(*index),
                LinkAttribute::Controller(_) => device.master = true,
                LinkAttribute::IfAlias(alias) => device.alias = Some(alias.clone()),
                LinkAttribute::LinkInfo(infos) => device.kind = kind(infos),
                LinkAttribute::AfSpecUnspec(families) => device.addr_gen = addr_gen(families),
                _ => {}
            }
        }
        if let Kind::Veth { peer } = &mut device.kind {
            *peer = link;
        }
        device
    }
}

fn kind(infos: &[LinkInfo]) -> Kind {
    let mut kind = Kind::Plain;
    for info in infos {
        match info {
            LinkInfo::Kind(InfoKind::Veth) => kind = Kind::Veth { peer: None },
            LinkInfo::Kind(InfoKind::Xfrm) => kind = Kind::Xfrm { if_id: 0 },
            LinkInfo::Kind(InfoKind::Vxlan) => kind = Kind::Vxlan(Vxlan::default()),
            LinkInfo::Kind(other) => kind = Kind::Other(other.to_string()),
            // The kind comes first: the kernel writes it so, and the data cannot be read without.
            LinkInfo::Data(InfoData::Xfrm(data)) => {
                for item in data {
                    if let (Kind::Xfrm { if_id }, InfoXfrm::IfId(found)) = (&mut kind, item) {
                        *if_id = *found;
                    }
                }
            }
            LinkInfo::Data(InfoData::Vxlan(data)) => {
                if let Kind::Vxlan(vxlan) = &mut kind {
                    for item in data {
                        match item {
                            InfoVxlan::Port(port) => vxlan.port = *port,
                            InfoVxlan::CollectMetadata(external) => vxlan.external = *external,
                            InfoVxlan::UDPZeroCsumRX(accepted) => {
                                vxlan.zero_checksum6_rx = *accepted;
                            }
                            _ => {}
                        }
                    }
                }
            }
            _ => {}
        }
    }
    kind
}

fn addr_gen(families: &[AfSpecUnspec]) -> Option<In6AddrGenMode> {
    families.iter().find_map(|family| match family {
        AfSpecUnspec::Inet6(settings) => settings.iter().find_map(|setting| match setting {
            AfSpecInet6::AddrGenMode(mode) => Some(*mode),
            _ => None,
        }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use rtnetlink::{LinkMessageBuilder, LinkVxlan, LinkXfrm};

    use super::*;

    #[test]
    fn vxlan_attributes_are_read() {
        let message = LinkMessageBuilder::<LinkVxlan>::new("ovl-gro")
            .port(4790)
            .collect_metadata(true)
            .udp_zero_csum6_rx(true)
            .build();
        let device = Device::from_message(&message);
        assert_eq!(device.name, "ovl-gro");
        assert_eq!(
            device.kind,
            Kind::Vxlan(Vxlan {
                port: 4790,
                external: true,
                zero_checksum6_rx: true
            })
        );
    }

    #[test]
    fn only_a_tunnel_with_two_ends_lacks_a_header() {
        let p2p = LinkFlags::Pointopoint;
        for (kind, flags, expected) in [
            (
                LinkLayerType::Ether,
                LinkFlags::empty(),
                LinkLayer::Ethernet,
            ),
            (LinkLayerType::None, LinkFlags::empty(), LinkLayer::None),
            (LinkLayerType::Ppp, p2p, LinkLayer::None),
            (LinkLayerType::Ipgre, p2p, LinkLayer::None),
            (
                LinkLayerType::Ipgre,
                LinkFlags::empty(),
                LinkLayer::Other(LinkLayerType::Ipgre),
            ),
            (
                LinkLayerType::Infiniband,
                LinkFlags::empty(),
                LinkLayer::Other(LinkLayerType::Infiniband),
            ),
        ] {
            assert_eq!(LinkLayer::new(kind, flags), expected, "{kind}");
        }
    }

    #[test]
    fn xfrm_if_id_is_read() {
        let message = LinkMessageBuilder::<LinkXfrm>::new("ovl-xfrm")
            .if_id(7)
            .up()
            .build();
        let device = Device::from_message(&message);
        assert!(device.up);
        assert_eq!(device.kind, Kind::Xfrm { if_id: 7 });
    }
}
