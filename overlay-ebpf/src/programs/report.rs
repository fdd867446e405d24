//! A drop: its reason, where it happened, and the counter and event it leaves behind.

use aya_ebpf::{
    helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns},
    programs::{TcContext, XdpContext},
};
use overlay_ebpf::abi::{CounterKey, Direction, DropEvent, DropReason};

use super::{frame::Frame as _, maps, underlay_rx_xdp::length};

/// Why and where a packet is dropped.
#[derive(Clone, Copy)]
pub struct Drop {
    pub reason: DropReason,
    pub direction: Direction,
    /// 0 where the packet did not get far enough.
    pub vni: u32,
    /// 0 where it is not known.
    pub peer: u32,
}

impl Drop {
    #[inline(always)]
    pub const fn new(reason: DropReason, direction: Direction) -> Self {
        Self {
            reason,
            direction,
            vni: 0,
            peer: 0,
        }
    }
}

/// Counts the drop of an skb with an Ethernet header and returns `verdict`.
#[inline(always)]
pub fn dropped_skb(ctx: &TcContext, drop: Drop, verdict: i32) -> i32 {
    let ethernet = ctx.bytes::<14>(0).copied().unwrap_or([0; 14]);
    count_skb(ctx, drop, &ethernet);
    verdict
}

/// Counts the drop of an skb without an Ethernet header and returns `verdict`.
#[inline(always)]
pub fn dropped_bare_skb(ctx: &TcContext, drop: Drop, verdict: i32) -> i32 {
    count_skb(ctx, drop, &[0; 14]);
    verdict
}

#[inline(always)]
fn count_skb(ctx: &TcContext, drop: Drop, ethernet: &[u8; 14]) {
    // SAFETY: `skb` is the program's context.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    record(&drop, ctx.len(), ifindex, ethernet);
    #[cfg(feature = "aya-log")]
    log(ctx, &drop);
}

/// Counts the drop of an XDP buffer and returns `verdict`.
#[inline(always)]
pub fn dropped_xdp(ctx: &XdpContext, drop: Drop, verdict: u32) -> u32 {
    let ethernet = ctx.bytes::<14>(0).copied().unwrap_or([0; 14]);
    record(&drop, length(ctx), ctx.ingress_ifindex() as u32, &ethernet);
    #[cfg(feature = "aya-log")]
    log(ctx, &drop);
    verdict
}

#[cfg(feature = "aya-log")]
#[inline(always)]
fn log<C: aya_ebpf::EbpfContext>(ctx: &C, drop: &Drop) {
    aya_log_ebpf::info!(
        ctx,
        "drop reason={} direction={} vni={} peer={}",
        drop.reason as u32,
        drop.direction as u32,
        drop.vni,
        drop.peer
    );
}

/// Counts a packet that is replaced by another, and so not dropped by verdict.
#[inline(always)]
pub fn count(drop: &Drop, length: u32) {
    maps::count_drop(
        &CounterKey {
            reason: drop.reason,
            direction: drop.direction,
        },
        u64::from(length),
    );
}

/// Not inlined: its stack frame is given back before the next call.
#[inline(never)]
fn record(drop: &Drop, length: u32, ifindex: u32, ethernet: &[u8; 14]) {
    let &Drop {
        reason,
        direction,
        vni,
        peer,
    } = drop;
    maps::count_drop(&CounterKey { reason, direction }, u64::from(length));
    let sample = match maps::config() {
        Some(config) => config.event_sample,
        None => 0,
    };
    // SAFETY: the helper has no preconditions.
    if sample == 0 || (sample > 1 && unsafe { bpf_get_prandom_u32() } % sample != 0) {
        return;
    }
    if let Some(mut entry) = maps::EVENTS.reserve_untyped::<DropEvent>(0) {
        // SAFETY: the helper has no preconditions.
        let time = unsafe { bpf_ktime_get_ns() };
        entry.write(DropEvent {
            time,
            reason,
            direction,
            ifindex,
            length,
            vni,
            peer,
            ethernet: *ethernet,
            reserved: [0; 2],
        });
        entry.submit(0);
    }
}
