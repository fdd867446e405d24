//! TC ingress of an endpoint's host-side veth: a frame leaves its container.
//!
//! ARP and ND are answered here; the source is checked; then the frame goes to a local endpoint, to
//! a peer ([`encapsulate`]) or, where the network replicates, to all of them ([`replicate`]).

mod encapsulate;
mod neighbour;
mod next_hop;
mod replicate;
mod route;
mod too_big;

use aya_ebpf::{helpers::bpf_redirect, programs::TcContext};
use overlay_ebpf::{
    abi::{
        Config, Direction, DropReason, EndpointKey, LocalPortKey, Location, MacAddr, NetworkFlags,
        NetworkKey, Peer, PeerKey,
    },
    packet::{
        ethernet::{Ethernet, ether_type},
        mtu,
    },
};

use super::{
    frame::{self, Frame as _, SkBuffFields as _},
    maps,
    report::Drop,
    source,
};
use neighbour::Neighbour;
use next_hop::NoWay;
use route::{Flow, family};

/// Ethernet, the longer IP header, and what is read of TCP, UDP, ICMPv6 behind it.
const HEADERS: usize = 14 + 40 + 32;

pub fn endpoint_tx(ctx: &TcContext) -> Result<i32, Drop> {
    let drop = |reason| Drop::new(reason, Direction::FromEndpoint);
    let config = maps::config().ok_or(drop(DropReason::NotConfigured))?;
    let ifindex = ctx.ifindex();
    let port = maps::local_port(&LocalPortKey { ifindex }).ok_or(drop(DropReason::UnknownPort))?;
    let vni = port.vni;
    let drop = |reason| Drop {
        vni,
        ..drop(reason)
    };
    let network = maps::network(&NetworkKey { vni }).ok_or(drop(DropReason::UnknownNetwork))?;

    frame::make_linear(ctx, HEADERS);
    let ethernet = Ethernet::parse(ctx.bytes::<14>(0).ok_or(drop(DropReason::TooShort))?);
    if ctx.has_vlan_tag() || matches!(ethernet.ether_type, ether_type::VLAN | ether_type::QINQ) {
        return Err(drop(DropReason::VlanTag));
    }
    if MacAddr(ethernet.source).is_multicast() {
        return Err(drop(DropReason::SourceMacMulticast));
    }
    if ethernet.source != port.mac {
        return Err(drop(DropReason::SpoofedMac));
    }
    source::check::<_, 14>(ctx, ethernet.ether_type, vni, &port.mac).map_err(drop)?;

    let replicates = network.flags & NetworkFlags::REPLICATE != 0;
    match neighbour::answer(ctx, ethernet.ether_type, vni).map_err(drop)? {
        Neighbour::Answered(verdict) => return Ok(verdict),
        Neighbour::Unknown if !replicates => return Err(drop(DropReason::UnknownNeighbour)),
        Neighbour::Unknown | Neighbour::NotAsked => {}
    }

    let flow = route::inner_flow(ctx, ethernet.ether_type, vni, network).map_err(drop)?;
    if flow.packet_len > network.mtu {
        return too_big::tell(ctx, network.mtu).ok_or(drop(DropReason::FrameTooBig));
    }

    if MacAddr(ethernet.destination).is_multicast() {
        if !replicates {
            return Err(drop(DropReason::MulticastNotReplicated));
        }
        return replicate::to_all(ctx, &flow).map_err(drop);
    }
    let key = EndpointKey {
        vni,
        mac: ethernet.destination,
        reserved: [0; 2],
    };
    let endpoint = maps::endpoint(&key).ok_or(drop(DropReason::UnknownDestination))?;
    if endpoint.location == Location::Local {
        // SAFETY: the helper has no preconditions.
        return Ok(unsafe { bpf_redirect(endpoint.ifindex, 0) } as i32);
    }
    let drop = |reason| Drop {
        peer: endpoint.peer,
        ..drop(reason)
    };
    let peer = maps::peer(&PeerKey {
        peer: endpoint.peer,
    })
    .ok_or(drop(DropReason::NoPeer))?;
    let length = ctx.len();
    let verdict = match encapsulate::to_peer(ctx, config, peer, &flow) {
        Ok(verdict) => verdict,
        // The path has become narrower than the network's MTU.
        Err(DropReason::FrameTooBig) => {
            let mtu = path_mtu(ctx, config, peer, &flow);
            return too_big::tell(ctx, mtu).ok_or(drop(DropReason::FrameTooBig));
        }
        Err(reason) => return Err(drop(reason)),
    };
    maps::count_tx(endpoint.peer, length);
    Ok(verdict)
}

/// Largest inner packet that fits the path to `peer` now.
#[inline(always)]
fn path_mtu(ctx: &TcContext, config: &Config, peer: &Peer, flow: &Flow) -> u32 {
    let outer = match next_hop::look_up(ctx, config, peer, u16::MAX) {
        Err(NoWay::TooBig { path_mtu }) => u32::from(path_mtu),
        _ => peer.underlay_mtu,
    };
    mtu::inner_mtu(outer, family(peer), flow.carrier(config)).unwrap_or(mtu::MIN_INNER)
}
