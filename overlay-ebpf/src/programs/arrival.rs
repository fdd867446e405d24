//! What both receive paths ask of a frame once its outer headers are known: may this peer deliver
//! it, and to whom.

use overlay_ebpf::{
    abi::{DropReason, EndpointKey, Location, MacAddr, MembershipKey, NetworkFlags, NetworkKey},
    packet::ethernet::{Ethernet, ether_type},
};

use super::{frame::Frame, maps, outer::Outer, source};

/// How a frame came to this node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Cleartext VXLAN.
    Plain,
    /// VXLAN out of ESP.
    Ipsec,
}

/// A frame that may be delivered.
pub struct Arrival {
    pub vni: u32,
    pub peer: u32,
    pub target: Target,
    /// Of the inner frame.
    pub ether_type: u16,
}

pub enum Target {
    /// One endpoint, behind this device.
    Endpoint { ifindex: u32 },
    /// Every local endpoint of the network.
    Flood,
}

/// Checks the inner frame: its Ethernet header begins at `INNER`, its payload at `L3`.
#[inline(always)]
pub fn inspect<F: Frame, const INNER: usize, const L3: usize>(
    frame: &F,
    outer: &Outer,
    path: Path,
) -> Result<Arrival, DropReason> {
    let &Outer { vni, peer, .. } = outer;
    let network = maps::network(&NetworkKey { vni }).ok_or(DropReason::UnknownNetwork)?;
    let encrypted = network.flags & NetworkFlags::ENCRYPTED != 0;
    match path {
        Path::Plain if encrypted => return Err(DropReason::CleartextEncryptedVni),
        Path::Ipsec if !encrypted => return Err(DropReason::PlainInEsp),
        Path::Plain | Path::Ipsec => {}
    }
    let bytes = frame.bytes::<14>(INNER).ok_or(DropReason::TooShort)?;
    let ethernet = Ethernet::parse(bytes);
    if matches!(ethernet.ether_type, ether_type::VLAN | ether_type::QINQ) {
        return Err(DropReason::VlanTag);
    }
    if MacAddr(ethernet.source).is_multicast() {
        return Err(DropReason::SourceMacMulticast);
    }
    match maps::endpoint(&EndpointKey {
        vni,
        mac: ethernet.source,
        reserved: [0; 2],
    }) {
        Some(endpoint) if endpoint.location == Location::Remote && endpoint.peer == peer => {}
        _ => {
            return Err(match maps::membership(&MembershipKey { vni, peer }) {
                Some(_) => DropReason::SourceNotOwned,
                None => DropReason::NotMember,
            });
        }
    }
    source::check::<_, L3>(frame, ethernet.ether_type, vni, &ethernet.source)?;

    let target = if MacAddr(ethernet.destination).is_multicast() {
        if network.flags & NetworkFlags::REPLICATE == 0 {
            return Err(DropReason::MulticastNotReplicated);
        }
        Target::Flood
    } else {
        match maps::endpoint(&EndpointKey {
            vni,
            mac: ethernet.destination,
            reserved: [0; 2],
        }) {
            Some(endpoint) if endpoint.location == Location::Local => Target::Endpoint {
                ifindex: endpoint.ifindex,
            },
            _ => return Err(DropReason::DestinationNotLocal),
        }
    };
    Ok(Arrival {
        vni,
        peer,
        target,
        ether_type: ethernet.ether_type,
    })
}
