//! The outer headers on, and the frame on its way: by the IP stack to XFRM, or straight to the NIC.

use core::{mem, ptr};

use aya_ebpf::{
    bindings::{
        BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO,
        BPF_F_INGRESS, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::{bpf_redirect, bpf_skb_change_head},
    programs::TcContext,
};
use overlay_ebpf::{
    abi::{Config, DropReason, Peer, TxState, ids::is_mapped},
    packet::{
        ecn, flow,
        outer::{self, Macs, Outer},
    },
};

use super::{
    next_hop::{self, NoWay},
    route::Flow,
};
use crate::programs::{
    frame::{SkBuffFields as _, copy_ethernet, store_words},
    origin,
};

/// Longest inner packet whose encapsulated form fits every path: no IPv6 path is below 1,280 bytes
/// (RFC 8200 section 5). Shorter packets need no look at the path.
const SAFE_LEN: u32 = 1100;

/// Where an encapsulated frame goes next.
#[derive(Clone, Copy)]
pub struct Exit {
    pub ifindex: u32,
    /// Flags of `bpf_redirect`.
    pub flags: u64,
    pub macs: Macs,
}

/// Encapsulates the frame for `peer` and redirects it.
///
/// Not inlined: its stack frame is not there while another function's is.
#[inline(never)]
pub fn to_peer(
    ctx: &TcContext,
    config: &Config,
    peer: &Peer,
    flow: &Flow,
) -> Result<i32, DropReason> {
    let exit = exit(ctx, config, peer, flow)?;
    let ipv6 = !is_mapped(&peer.vtep);
    make_room(ctx, ipv6, flow.ip)?;
    if !write(ctx, config, peer, flow, &exit) {
        return Err(DropReason::EncapFailed);
    }
    // SAFETY: the helper has no preconditions.
    Ok(unsafe { bpf_redirect(exit.ifindex, exit.flags) } as i32)
}

/// Chooses the way out, and marks the packet for it.
///
/// An encrypted network without a live outbound SA has none: barrier 1.
#[inline(always)]
pub fn exit(
    ctx: &TcContext,
    config: &Config,
    peer: &Peer,
    flow: &Flow,
) -> Result<Exit, DropReason> {
    if !flow.encrypted {
        let exit = next_hop::look_up(ctx, config, peer, flow.outer_len(config, peer))
            .map_err(NoWay::reason)?;
        ctx.set_mark(0);
        ctx.set_tc_index(origin::PLAIN);
        return Ok(exit);
    }
    if flow.packet_len > SAFE_LEN
        && let Err(NoWay::TooBig { .. }) =
            next_hop::look_up(ctx, config, peer, flow.outer_len(config, peer))
    {
        return Err(DropReason::FrameTooBig);
    }
    // SAFETY: a map value, aligned to 8 bytes; one load, so that slot and lanes belong together.
    let tx: TxState = unsafe {
        mem::transmute::<u64, TxState>(ptr::read_volatile((&raw const peer.tx).cast::<u64>()))
    };
    if tx.lanes == 0 {
        return Err(DropReason::NoOutboundSa);
    }
    ctx.set_mark(config.mark.mark(tx.slot, flow::lane(flow.hash, tx.lanes)));
    ctx.set_tc_index(origin::ENCRYPT);
    let (ifindex, flags) = if ctx.gso_size() != 0 {
        // Through a device whose transmit path counts the segments again: `adjust_room` sets
        // `gso_segs` to 0, and ESP would repeat sequence numbers.
        (config.hop_ifindex, 0)
    } else {
        (config.reentry_ifindex, u64::from(BPF_F_INGRESS))
    };
    // SAFETY: the field stands at an even offset of the map value.
    let mac = unsafe { *(&raw const config.reentry_mac).cast::<[u16; 3]>() };
    Ok(Exit {
        ifindex,
        flags,
        macs: Macs {
            destination: mac,
            source: mac,
        },
    })
}

/// Makes room for the outer headers before the frame.
#[inline(always)]
pub fn make_room(ctx: &TcContext, ipv6: bool, inner_ip: bool) -> Result<(), DropReason> {
    let room = if ipv6 {
        outer::OVERHEAD_V6
    } else {
        outer::OVERHEAD_V4
    } as u32;
    if inner_ip {
        let family = if ipv6 {
            BPF_F_ADJ_ROOM_ENCAP_L3_IPV6
        } else {
            BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
        };
        let flags = u64::from(
            BPF_F_ADJ_ROOM_FIXED_GSO
                | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
                | BPF_F_ADJ_ROOM_ENCAP_L2_ETH
                | family,
        ) | 14 << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
        if ctx
            .adjust_room(room as i32, BPF_ADJ_ROOM_MAC, flags)
            .is_ok()
        {
            // The room is behind the old Ethernet header, which is the inner one from now on.
            let copied = copy_ethernet(ctx, 0, room as usize);
            return if copied {
                Ok(())
            } else {
                Err(DropReason::EncapFailed)
            };
        }
        // A packet that is a tunnel's already: not to be segmented, so room is all it needs.
    }
    if ctx.gso_size() != 0 {
        return Err(DropReason::EncapFailed);
    }
    // `adjust_room` refuses Ethertypes other than IP. Without GSO, and they have no checksum to
    // offload, bytes in front are all that such frames need.
    // SAFETY: the context is the program's own.
    if unsafe { bpf_skb_change_head(ctx.skb.skb, room, 0) } == 0 {
        Ok(())
    } else {
        Err(DropReason::EncapFailed)
    }
}

/// Writes the outer headers; `false` if the packet has no room for them.
///
/// Not inlined: its stack frame is given back.
#[inline(never)]
pub fn write(ctx: &TcContext, config: &Config, peer: &Peer, flow: &Flow, exit: &Exit) -> bool {
    let headers = Outer {
        macs: exit.macs,
        dscp_ecn: ecn::outer_from_inner(flow.dscp_ecn),
        source_port: flow::source_port(flow.hash),
        destination_port: config.port,
        vni: flow.vni,
        // The length fields of a GSO packet beyond 64 KiB are written per segment anyway.
        inner_len: flow.frame_len as u16,
        flow_label: flow::label(flow.hash),
    };
    // SAFETY: the fields of a map value stand at even offsets.
    let source = unsafe { &*(&raw const peer.local_vtep).cast::<[u16; 8]>() };
    // SAFETY: as above.
    let destination = unsafe { &*(&raw const peer.vtep).cast::<[u16; 8]>() };
    if is_mapped(&peer.vtep) {
        let (&[.., s0, s1], &[.., d0, d1]) = (source, destination);
        return store_words(ctx, 0, outer::v4_words(&headers, [s0, s1], [d0, d1]));
    }
    store_words(ctx, 0, outer::v6_words(&headers))
        && store_words(ctx, outer::V6_ADDRESSES, *source)
        && store_words(ctx, outer::V6_ADDRESSES + 16, *destination)
        && store_words(ctx, outer::V6_UDP, headers.udp_vxlan())
}
