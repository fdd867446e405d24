//! A packet too large for the path: the container is told (RFC 1191, RFC 8201).

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_redirect, bpf_skb_change_tail},
    programs::TcContext,
};
use overlay_ebpf::{
    abi::{Direction, DropReason},
    packet::{
        ethernet::{Ethernet, ether_type},
        icmp,
        ipv4::Ipv4,
    },
};

use crate::programs::{
    frame::{Frame as _, SkBuffFields as _, move_words, store, store_words},
    report::{Drop, count},
};

/// Turns the frame into a "packet too big" message and sends it back into the container.
///
/// `None` where no message may be sent: not IP, an IPv4 packet that may be fragmented, a multicast
/// destination (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
#[inline(always)]
pub fn tell(ctx: &TcContext, mtu: u32) -> Option<i32> {
    let verdict = tell_too_big(ctx.skb.skb, mtu);
    (verdict >= 0).then_some(verdict)
}

/// A function of its own to the verifier, with a stack frame of its own. Returns a verdict, or −1.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_too_big(skb: *mut __sk_buff, mtu: u32) -> i32 {
    if skb.is_null() {
        return -1;
    }
    let ctx = TcContext::new(skb);
    let length = ctx.len();
    match answer(&ctx, mtu) {
        Some(verdict) => {
            // The packet is gone all the same.
            count(
                &Drop::new(DropReason::FrameTooBig, Direction::FromEndpoint),
                length,
            );
            verdict
        }
        None => -1,
    }
}

#[inline(always)]
fn answer(ctx: &TcContext, mtu: u32) -> Option<i32> {
    let asked = Ethernet::parse(ctx.bytes::<14>(0)?);
    let kind = asked.ether_type;
    if asked.destination[0] & 1 != 0 {
        return None;
    }
    match kind {
        ether_type::IPV4 => {
            let ip = Ipv4::parse(ctx.bytes::<20>(14)?).ok()?;
            if !icmp::answerable_v4(ctx.bytes::<28>(14)?) || !ip.dont_fragment {
                return None;
            }
            let [a, b, c, d] = ip.destination;
            let source = [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])];
            resize(ctx, 14 + icmp::TOO_BIG_V4_LEN as u32)?;
            let original = move_words::<14>(ctx, 14, 14 + 28)?;
            store_words(
                ctx,
                14,
                icmp::too_big_v4_words(original, mtu as u16, &source),
            )
            .then_some(())?;
        }
        ether_type::IPV6 => {
            if !icmp::answerable_v6(ctx.bytes::<48>(14)?) {
                return None;
            }
            resize(ctx, 14 + icmp::TOO_BIG_V6_LEN as u32)?;
            let original = move_words::<24>(ctx, 14, 14 + 48)?;
            let &[.., s0, s1, s2, s3, s4, s5, s6, s7, _, _, _, _] = original;
            let source = [s0, s1, s2, s3, s4, s5, s6, s7];
            store_words(ctx, 14, icmp::too_big_v6_words(original, mtu, &source)).then_some(())?;
        }
        _ => return None,
    }
    let back = Ethernet {
        destination: asked.source,
        source: asked.destination,
        ether_type: kind,
    };
    store(ctx, 0, &back.to_bytes()).then_some(())?;
    // SAFETY: the helper has no preconditions.
    Some(unsafe { bpf_redirect(ctx.ifindex(), 0) } as i32)
}

#[inline(always)]
fn resize(ctx: &TcContext, length: u32) -> Option<()> {
    // SAFETY: the context is the program's own.
    (unsafe { bpf_skb_change_tail(ctx.skb.skb, length, 0) } == 0).then_some(())
}
