//! ARP and neighbour discovery, answered from the address map: the questions never cross hosts.

use aya_ebpf::{
    helpers::{bpf_redirect, bpf_skb_change_tail},
    programs::TcContext,
};
use overlay_ebpf::{
    abi::{AddressKey, DropReason, ids::mapped},
    packet::{
        arp::{self, Arp},
        ethernet::{Ethernet, ether_type},
        ip_protocol,
        ipv6::Ipv6,
        ndp::{self, NeighbourSolicitation},
    },
};

use crate::programs::{
    frame::{Frame as _, store},
    maps,
};

/// What became of a frame that may ask for a neighbour.
pub enum Neighbour {
    /// The answer is on its way back into the container.
    Answered(i32),
    /// A question for an address that no endpoint has, or for the asker's own.
    Unknown,
    NotAsked,
}

#[inline(always)]
pub fn answer(
    ctx: &TcContext,
    ethernet: &Ethernet,
    vni: u32,
    ifindex: u32,
) -> Result<Neighbour, DropReason> {
    match ethernet.ether_type {
        ether_type::ARP => answer_arp(ctx, ethernet, vni, ifindex),
        ether_type::IPV6 => answer_nd(ctx, ethernet, vni, ifindex),
        _ => Ok(Neighbour::NotAsked),
    }
}

#[inline(always)]
fn answer_arp(
    ctx: &TcContext,
    ethernet: &Ethernet,
    vni: u32,
    ifindex: u32,
) -> Result<Neighbour, DropReason> {
    let body = ctx.bytes::<28>(14).ok_or(DropReason::TooShort)?;
    let arp = Arp::parse(body).map_err(|_| DropReason::SpoofedAddress)?;
    if arp.operation != arp::REQUEST {
        return Ok(Neighbour::NotAsked);
    }
    let Some(owner) = maps::address(&AddressKey { vni, address: mapped(arp.target_ip) }) else {
        return Ok(Neighbour::Unknown);
    };
    if owner.mac == ethernet.source {
        // Answering a host for its own address would tell it that the address is taken (RFC 5227).
        return Ok(Neighbour::Unknown);
    }
    let header = Ethernet {
        destination: ethernet.source,
        source: owner.mac,
        ether_type: ether_type::ARP,
    };
    let reply = arp.reply(owner.mac);
    if !store(ctx, 0, &header.to_bytes()) || !store(ctx, 14, &reply) {
        return Err(DropReason::EncapFailed);
    }
    // SAFETY: the helper has no preconditions.
    Ok(Neighbour::Answered(unsafe { bpf_redirect(ifindex, 0) } as i32))
}

#[inline(always)]
fn answer_nd(
    ctx: &TcContext,
    ethernet: &Ethernet,
    vni: u32,
    ifindex: u32,
) -> Result<Neighbour, DropReason> {
    const L4: usize = 14 + 40;
    let header = ctx.bytes::<40>(14).ok_or(DropReason::TooShort)?;
    let ip = Ipv6::parse(header).map_err(|_| DropReason::TooShort)?;
    if ip.next_header != ip_protocol::ICMPV6 {
        return Ok(Neighbour::NotAsked);
    }
    let Some(icmp) = ctx.bytes::<24>(L4) else { return Ok(Neighbour::NotAsked) };
    let Ok(solicitation) = NeighbourSolicitation::parse(icmp) else {
        return Ok(Neighbour::NotAsked);
    };
    if !ndp::valid_hop_limit(ip.hop_limit) {
        return Err(DropReason::SpoofedAddress);
    }
    let Some(owner) = maps::address(&AddressKey { vni, address: solicitation.target }) else {
        return Ok(Neighbour::Unknown);
    };
    if owner.mac == ethernet.source {
        return Ok(Neighbour::Unknown);
    }
    // A probe (RFC 4862 section 5.4) has no address to answer to: all nodes are told instead.
    let probe = ip.source == [0; 16];
    let destination = if probe { ndp::ALL_NODES } else { ip.source };
    let reply = ndp::advertisement(solicitation.target, owner.mac, destination, !probe);
    let header = Ethernet {
        destination: ethernet.source,
        source: owner.mac,
        ether_type: ether_type::IPV6,
    };
    // SAFETY: the context is the program's own.
    let sized = unsafe { bpf_skb_change_tail(ctx.skb.skb, 14 + reply.len() as u32, 0) };
    if sized != 0 || !store(ctx, 0, &header.to_bytes()) || !store(ctx, 14, &reply) {
        return Err(DropReason::EncapFailed);
    }
    // SAFETY: the helper has no preconditions.
    Ok(Neighbour::Answered(unsafe { bpf_redirect(ifindex, 0) } as i32))
}
