//! ARP and neighbour discovery, answered from the address map: the questions never cross hosts.

use aya_ebpf::{
    bindings::__sk_buff,
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
    frame::{Frame as _, SkBuffFields as _, store},
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

const NOT_ASKED: i32 = -1;
const UNKNOWN: i32 = -2;
const MALFORMED: i32 = -3;
const FAILED: i32 = -4;

/// Answers the frame if it asks for a neighbour.
#[inline(always)]
pub fn answer(ctx: &TcContext, kind: u16, vni: u32) -> Result<Neighbour, DropReason> {
    if kind != ether_type::ARP && kind != ether_type::IPV6 {
        return Ok(Neighbour::NotAsked);
    }
    if kind == ether_type::IPV6
        && let Some(&[protocol]) = ctx.bytes::<1>(14 + 6)
        && protocol != ip_protocol::ICMPV6
    {
        return Ok(Neighbour::NotAsked);
    }
    match answer_neighbour(ctx.skb.skb, vni) {
        NOT_ASKED => Ok(Neighbour::NotAsked),
        UNKNOWN => Ok(Neighbour::Unknown),
        MALFORMED => Err(DropReason::SpoofedAddress),
        FAILED => Err(DropReason::EncapFailed),
        verdict => Ok(Neighbour::Answered(verdict)),
    }
}

/// A function of its own to the verifier, with a stack frame of its own. Returns a verdict or one
/// of the negative codes above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn answer_neighbour(skb: *mut __sk_buff, vni: u32) -> i32 {
    if skb.is_null() {
        return FAILED;
    }
    let ctx = TcContext::new(skb);
    let Some(ethernet) = ctx.bytes::<14>(0).map(Ethernet::parse) else {
        return MALFORMED;
    };
    let ifindex = ctx.ifindex();
    let answered = match ethernet.ether_type {
        ether_type::ARP => answer_arp(&ctx, &ethernet, vni, ifindex),
        _ => answer_nd(&ctx, &ethernet, vni, ifindex),
    };
    match answered {
        Ok(Neighbour::Answered(verdict)) => verdict,
        Ok(Neighbour::Unknown) => UNKNOWN,
        Ok(Neighbour::NotAsked) => NOT_ASKED,
        Err(DropReason::EncapFailed) => FAILED,
        Err(_) => MALFORMED,
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
    let Some(owner) = maps::address(&AddressKey {
        vni,
        address: mapped(arp.target_ip),
    }) else {
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
    Ok(Neighbour::Answered(
        unsafe { bpf_redirect(ifindex, 0) } as i32
    ))
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
    let Some(icmp) = ctx.bytes::<24>(L4) else {
        return Ok(Neighbour::NotAsked);
    };
    let Ok(solicitation) = NeighbourSolicitation::parse(icmp) else {
        return Ok(Neighbour::NotAsked);
    };
    if !ndp::valid_hop_limit(ip.hop_limit) {
        return Err(DropReason::SpoofedAddress);
    }
    let Some(owner) = maps::address(&AddressKey {
        vni,
        address: solicitation.target,
    }) else {
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
    Ok(Neighbour::Answered(
        unsafe { bpf_redirect(ifindex, 0) } as i32
    ))
}
