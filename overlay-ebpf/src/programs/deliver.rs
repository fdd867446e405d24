//! To a local endpoint: the outer headers off, the congestion mark in, the frame into its veth.

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO,
        BPF_F_INGRESS, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::{
        bpf_redirect, bpf_redirect_peer, bpf_skb_change_proto, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use overlay_ebpf::{
    abi::{Config, ConfigFlags, DropReason, FLOOD_TARGETS_MAX, FloodKey, Location},
    packet::{checksum, ecn, ethernet::ether_type},
};

use super::{
    arrival::{Arrival, Target},
    frame::{Frame as _, SkBuffFields as _, copy_ethernet, store},
    maps, origin,
    outer::Outer,
};

/// Offset of the inner Ethernet header behind IPv4, UDP and VXLAN: the bytes to take off, too.
pub const V4: usize = 14 + 20 + 8 + 8;
/// The same behind IPv6.
pub const V6: usize = 14 + 40 + 8 + 8;

/// Length of the shortest frame that Ethernet carries, without its checksum.
const PADDED: u32 = 60;

/// Length of the shortest frame with an IP packet, which the kernel takes every packet for.
const SHORTEST: u32 = 14 + 20;

/// Takes `OVERHEAD` bytes off and delivers.
#[inline(always)]
pub fn skb<const OVERHEAD: usize>(
    ctx: &TcContext,
    config: &Config,
    outer: &Outer,
    arrival: &Arrival,
) -> Result<i32, DropReason> {
    let length = ctx.len() - OVERHEAD as u32;
    let inner_ecn = congestion::<OVERHEAD>(ctx, outer, arrival)?;
    let same_family = match arrival.ether_type {
        ether_type::IPV4 => !outer.ipv6,
        ether_type::IPV6 => outer.ipv6,
        _ => false,
    };
    let mut flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    let mut protocol_right = same_family;
    if !same_family && config.flags & ConfigFlags::DECAP_L3 != 0 {
        // The flag makes the kernel set `skb->protocol` to the inner family.
        match arrival.ether_type {
            ether_type::IPV4 => {
                flags |= u64::from(BPF_F_ADJ_ROOM_DECAP_L3_IPV4);
                protocol_right = true;
            }
            ether_type::IPV6 => {
                flags |= u64::from(BPF_F_ADJ_ROOM_DECAP_L3_IPV6);
                protocol_right = true;
            }
            _ => {}
        }
    }
    let stripped = if length < SHORTEST {
        pad(ctx, OVERHEAD as u32, length)
    } else {
        strip::<OVERHEAD>(ctx, outer, length, flags)
    };
    if !stripped {
        return Err(DropReason::DecapFailed);
    }
    if let Some(ecn) = inner_ecn
        && !write_ecn(ctx, arrival.ether_type, ecn)
    {
        return Err(DropReason::DecapFailed);
    }
    maps::count_rx(arrival.peer, length);
    match arrival.target {
        Target::Endpoint { ifindex } => Ok(hand_over(ctx, config, ifindex, protocol_right)),
        Target::Flood => flood_local(ctx, arrival.vni, 0),
    }
}

/// Takes `OVERHEAD` bytes off a packet that leaves a frame of at least [`SHORTEST`] bytes.
#[inline(always)]
fn strip<const OVERHEAD: usize>(ctx: &TcContext, outer: &Outer, length: u32, flags: u64) -> bool {
    if !copy_ethernet(ctx, OVERHEAD, 0) {
        return false;
    }
    // `bpf_skb_adjust_room` refuses to leave less than an IP header of the family of
    // `skb->protocol`, or of the one that a flag names, behind the Ethernet header.
    let ipv4_behind = !outer.ipv6 || flags & u64::from(BPF_F_ADJ_ROOM_DECAP_L3_IPV4) != 0;
    let mut rest = OVERHEAD;
    if !ipv4_behind && length < 14 + 40 {
        // To the family of the smaller header, which takes the difference off, too.
        // SAFETY: the context is the program's own.
        let changed = unsafe { bpf_skb_change_proto(ctx.skb.skb, ether_type::IPV4.to_be(), 0) };
        if changed != 0 {
            return false;
        }
        rest -= 40 - 20;
    }
    // The Ethernet header in front stays; what is behind it goes.
    ctx.adjust_room(-(rest as i32), BPF_ADJ_ROOM_MAC, flags)
        .is_ok()
}

/// Makes of a packet with a frame shorter than [`SHORTEST`], `overhead` bytes from its start, that
/// frame with the padding that Ethernet itself would give it: by leaving some of the outer headers'
/// room, because the kernel makes no packet longer that it knows to be encapsulated.
#[inline(never)]
fn pad(ctx: &TcContext, overhead: u32, length: u32) -> bool {
    // As words, which the compiler clears one by one; by a call, it would be byte by byte.
    let mut frame = [0_u64; 8];
    // Bounds that the verifier sees: 14 to 45 bytes.
    let length = (core::hint::black_box(length - 14) & 31) + 14;
    let room = -((overhead + length - PADDED) as i32);
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    // SAFETY: `frame` has room for 64 bytes, of which `PADDED` are stored; the context is the program's
    // own.
    unsafe {
        let (skb, bytes) = (ctx.skb.skb, frame.as_mut_ptr());
        bpf_skb_load_bytes(skb.cast(), overhead, bytes.cast(), length) == 0
            && ctx.adjust_room(room, BPF_ADJ_ROOM_MAC, flags).is_ok()
            && bpf_skb_store_bytes(skb, 0, bytes.cast(), PADDED, 0) == 0
    }
}

/// Gives a bare frame to the endpoint behind `ifindex`.
#[inline(always)]
fn hand_over(ctx: &TcContext, config: &Config, ifindex: u32, protocol_right: bool) -> i32 {
    if protocol_right && config.flags & ConfigFlags::REDIRECT_PEER != 0 {
        // SAFETY: the helper has no preconditions.
        return unsafe { bpf_redirect_peer(ifindex, 0) } as i32;
    }
    if !protocol_right && ctx.gso_size() != 0 {
        // `skb->protocol` is still the outer one and GSO would segment by it. A pass through a
        // device's receive path sets it from the new Ethernet header.
        ctx.set_mark(ifindex);
        ctx.set_tc_index(origin::DELIVER);
        // SAFETY: the helper has no preconditions.
        return unsafe { bpf_redirect(config.reentry_ifindex, u64::from(BPF_F_INGRESS)) } as i32;
    }
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

/// Gives a bare frame to every local endpoint of the network but the one behind `except`.
#[inline(always)]
pub fn flood_local(ctx: &TcContext, vni: u32, except: u32) -> Result<i32, DropReason> {
    let mut failed = false;
    for position in 0..FLOOD_TARGETS_MAX {
        let Some(target) = maps::flood_target(&FloodKey { vni, position }) else {
            break;
        };
        if target.location != Location::Local {
            break;
        }
        if target.ifindex != except {
            failed |= ctx.clone_redirect(target.ifindex, 0).is_err();
        }
    }
    if failed {
        return Err(DropReason::MulticastReplicationFailed);
    }
    // The clones are on their way; the original ends here, which is no drop.
    Ok(super::TC_DROP)
}

/// The ECN field that the inner header must get, if it changes (RFC 6040 section 4.2).
#[inline(always)]
fn congestion<const OVERHEAD: usize>(
    ctx: &TcContext,
    outer: &Outer,
    arrival: &Arrival,
) -> Result<Option<u8>, DropReason> {
    let outer_ecn = outer.dscp_ecn & 3;
    if outer_ecn == 0 {
        return Ok(None);
    }
    let Some(&[_, second]) = ctx.bytes::<2>(OVERHEAD + 14) else {
        return Ok(None);
    };
    let inner_ecn = match arrival.ether_type {
        ether_type::IPV4 => second & 3,
        ether_type::IPV6 => second >> 4 & 3,
        _ => return Ok(None),
    };
    let combined = ecn::decapsulate(inner_ecn, outer_ecn).map_err(|_| DropReason::EcnCongestion)?;
    Ok((combined != inner_ecn).then_some(combined))
}

/// Writes the ECN field of a bare frame, and mends the IPv4 header checksum.
#[inline(always)]
fn write_ecn(ctx: &TcContext, kind: u16, ecn: u8) -> bool {
    if kind == ether_type::IPV6 {
        let Some(&[first, second]) = ctx.bytes::<2>(14) else {
            return false;
        };
        return store(ctx, 14, &[first, second & 0xcf | ecn << 4]);
    }
    let Some(&[first, second, ..]) = ctx.bytes::<20>(14) else {
        return false;
    };
    let Some(&[high, low]) = ctx.bytes::<2>(14 + 10) else {
        return false;
    };
    let marked = second & 0xfc | ecn;
    let sum = checksum::update(
        u16::from_be_bytes([high, low]),
        u16::from_be_bytes([first, second]),
        u16::from_be_bytes([first, marked]),
    );
    store(ctx, 14, &[first, marked]) && store(ctx, 14 + 10, &sum.to_be_bytes())
}
