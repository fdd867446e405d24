//! TC ingress of `ovl-in`: an encapsulated packet re-enters the IP stack, on its way to XFRM.
//!
//! Two things must be true of it. It comes from `endpoint_tx` (a process with `CAP_NET_RAW` can
//! put any packet, with any mark, on the veth pair, and must not get it encrypted). And if it is
//! GSO, its segments are counted: ESP reserves `gso_segs` sequence numbers, and with 0 it would
//! repeat them, and with them GCM nonces (net/ipv4/esp4_offload.c, `esp_xmit`).
//!
//! Over IPv6 no GSO packet may go on at all: `esp6_xmit` (net/ipv6/esp6_offload.c) builds the IV of
//! a segment from the next segment's sequence number, so that the packet after it repeats the IV.
//! `ovl-hop` segments IPv6 packets; this is the guard behind it.

use aya_ebpf::{helpers::bpf_redirect, programs::TcContext};
use overlay_ebpf::{
    abi::{Direction, DropReason},
    packet::ethernet::ether_type,
};

use super::{TC_CONTINUE, frame::SkBuffFields as _, maps, origin, report::Drop};

pub fn reentry(ctx: &TcContext) -> Result<i32, Drop> {
    let drop = |reason| Drop::new(reason, Direction::Internal);
    let config = maps::config().ok_or(drop(DropReason::NotConfigured))?;
    if ctx.tc_index() == origin::DELIVER {
        // A decapsulated frame of another family than its outer header (see `deliver`).
        let ifindex = ctx.mark();
        ctx.set_mark(0);
        ctx.set_tc_index(0);
        // SAFETY: the helper has no preconditions.
        return Ok(unsafe { bpf_redirect(ifindex, 0) } as i32);
    }
    if ctx.tc_index() != origin::ENCRYPT || !config.mark.is_ours(ctx.mark()) {
        return Err(drop(DropReason::LocalInjection));
    }
    if ctx.gso_size() != 0 && ctx.gso_segs() == 0 {
        return Err(drop(DropReason::GsoSegsZero));
    }
    if ctx.gso_size() != 0 && ctx.protocol() == ether_type::IPV6 {
        return Err(drop(DropReason::GsoOverIpv6));
    }
    Ok(TC_CONTINUE)
}
