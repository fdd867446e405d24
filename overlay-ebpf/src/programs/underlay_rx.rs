//! TC ingress of an underlay device, after GRO: plain frames are decapsulated here, and ESP in UDP
//! loses its UDP header, so that the stack sees ESP.

use aya_ebpf::{bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_NET, programs::TcContext};
use overlay_ebpf::{
    abi::{Direction, DropReason, ids::is_mapped},
    packet::{bytes, checksum, ip_protocol, udp},
};

use super::{
    TC_CONTINUE,
    arrival::{self, Path},
    deliver, ethernet_header,
    frame::{self, Frame as _, SkBuffFields as _, store},
    maps,
    outer::{self, Class},
    report::Drop,
};

/// Outer and inner headers as far as the checks read: to the end of an inner ND message.
pub const HEADERS: usize = outer::MAX_LEN + 14 + 40 + 24;

pub fn underlay_rx(ctx: &TcContext) -> Result<i32, Drop> {
    // An unconfigured node has no VTEP: everything is the host's.
    let Some(config) = maps::config() else {
        return Ok(TC_CONTINUE);
    };
    // The kernel takes a tag off before this hook and hands the packet to the VLAN's own device after
    // it: here it is a packet of another network, which may have the same addresses.
    if ctx.has_vlan_tag() {
        return Ok(TC_CONTINUE);
    }
    frame::make_linear(ctx, outer::MAX_LEN);
    ethernet_header::restore(ctx, config);
    let drop = |reason| Drop::new(reason, Direction::FromUnderlay);
    let outer = match outer::classify(ctx, config, ctx.len()).map_err(drop)? {
        Class::Vxlan(outer) => outer,
        Class::Foreign | Class::Esp { in_udp: false, .. } => return Ok(TC_CONTINUE),
        Class::Esp { source, spi, .. } => {
            outer::check_esp_source(config, source, spi)?;
            return if strip_udp(ctx, !is_mapped(&source)) {
                Ok(TC_CONTINUE)
            } else {
                Err(drop(DropReason::DecapFailed))
            };
        }
    };
    let drop = |reason| Drop {
        vni: outer.vni,
        peer: outer.peer,
        ..drop(reason)
    };
    frame::make_linear(ctx, HEADERS);
    if outer.ipv6 {
        let arrival =
            arrival::inspect::<_, { deliver::V6 }, { deliver::V6 + 14 }>(ctx, &outer, Path::Plain)
                .map_err(drop)?;
        deliver::skb::<{ deliver::V6 }>(ctx, config, &outer, &arrival).map_err(drop)
    } else {
        let arrival =
            arrival::inspect::<_, { deliver::V4 }, { deliver::V4 + 14 }>(ctx, &outer, Path::Plain)
                .map_err(drop)?;
        deliver::skb::<{ deliver::V4 }>(ctx, config, &outer, &arrival).map_err(drop)
    }
}

/// Turns ESP in UDP into ESP; `false` if the kernel refuses. Nothing asks the UDP checksum: the ICV
/// covers more (RFC 3948 section 2.1 has receivers ignore it).
///
/// Not inlined: its stack frame is given back before the next call.
#[inline(never)]
fn strip_udp(ctx: &TcContext, ipv6: bool) -> bool {
    const L3: usize = 14;
    const UDP_LEN: u16 = udp::HEADER_LEN as u16;
    // Refuses UDP superpackets, which GRO makes where `rx-udp-gro-forwarding` is on.
    if ctx
        .adjust_room(-(udp::HEADER_LEN as i32), BPF_ADJ_ROOM_NET, 0)
        .is_err()
    {
        return false;
    }
    if ipv6 {
        let Some(header) = ctx.bytes::<8>(L3) else {
            return false;
        };
        let length = bytes::be16::<4, _>(header).wrapping_sub(UDP_LEN);
        return store(ctx, L3 + 4, &length.to_be_bytes())
            && store(ctx, L3 + 6, &[ip_protocol::ESP]);
    }
    let Some(header) = ctx.bytes::<20>(L3) else {
        return false;
    };
    let (length, ttl_protocol) = (bytes::be16::<2, _>(header), bytes::be16::<8, _>(header));
    let shorter = length.wrapping_sub(UDP_LEN);
    let ttl_esp = ttl_protocol & 0xff00 | u16::from(ip_protocol::ESP);
    let sum = checksum::update(bytes::be16::<10, _>(header), length, shorter);
    let sum = checksum::update(sum, ttl_protocol, ttl_esp);
    store(ctx, L3 + 2, &shorter.to_be_bytes())
        && store(ctx, L3 + 8, &ttl_esp.to_be_bytes())
        && store(ctx, L3 + 10, &sum.to_be_bytes())
}
