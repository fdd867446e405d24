//! A packet too large for the path: the container is told (RFC 1191, RFC 8201).

use aya_ebpf::{
    helpers::{bpf_redirect, bpf_skb_change_tail},
    programs::TcContext,
};
use overlay_ebpf::{
    abi::{Direction, DropReason},
    packet::{
        ethernet::{Ethernet, ether_type},
        icmp,
        ipv4::Ipv4,
        ipv6::Ipv6,
    },
};

use crate::programs::{
    frame::{Frame as _, store},
    report::{Drop, count},
};

/// Turns the frame into a "packet too big" message and sends it back into the container.
///
/// `None` where no message may be sent: not IP, an IPv4 packet that may be fragmented, an ICMP
/// error, a multicast destination (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
#[inline(always)]
pub fn tell(
    ctx: &TcContext,
    ethernet: &[u8; 14],
    kind: u16,
    mtu: u32,
    ifindex: u32,
) -> Option<i32> {
    let asked = Ethernet::parse(ethernet);
    if asked.destination[0] & 1 != 0 {
        return None;
    }
    let back = Ethernet { destination: asked.source, source: asked.destination, ether_type: kind };
    match kind {
        ether_type::IPV4 => {
            let original = *ctx.bytes::<28>(14)?;
            let ip = Ipv4::parse(ctx.bytes::<20>(14)?).ok()?;
            if !ip.dont_fragment || ip.fragment_offset != 0 {
                return None;
            }
            let message = icmp::too_big_v4(&original, mtu as u16, ip.destination);
            resize(ctx, 14 + message.len() as u32)?;
            (store(ctx, 0, &back.to_bytes()) && store(ctx, 14, &message)).then_some(())?;
        }
        ether_type::IPV6 => {
            let original = *ctx.bytes::<48>(14)?;
            let ip = Ipv6::parse(ctx.bytes::<40>(14)?).ok()?;
            let message = icmp::too_big_v6(&original, mtu, ip.destination);
            resize(ctx, 14 + message.len() as u32)?;
            (store(ctx, 0, &back.to_bytes()) && store(ctx, 14, &message)).then_some(())?;
        }
        _ => return None,
    }
    // The packet is gone all the same.
    count(&Drop::new(DropReason::FrameTooBig, Direction::FromEndpoint), ctx.len());
    // SAFETY: the helper has no preconditions.
    Some(unsafe { bpf_redirect(ifindex, 0) } as i32)
}

#[inline(always)]
fn resize(ctx: &TcContext, length: u32) -> Option<()> {
    // SAFETY: the context is the program's own.
    (unsafe { bpf_skb_change_tail(ctx.skb.skb, length, 0) } == 0).then_some(())
}
