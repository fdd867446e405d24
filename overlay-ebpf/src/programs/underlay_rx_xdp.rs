//! XDP on an underlay device: what must not come in is dropped before it costs an skb.
//!
//! Judges our port and our SPIs on our VTEPs only. Frames of plain networks that gain nothing from
//! GRO are decapsulated and redirected here; the rest goes on to `underlay_rx`.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action::XDP_PASS,
    helpers::{bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use overlay_ebpf::{
    abi::{Config, ConfigFlags, Direction, DropReason},
    packet::{ethernet::ether_type, ip_protocol},
};

use super::{
    arrival::{self, Arrival, Path, Target},
    deliver,
    frame::Frame,
    maps,
    outer::{self, Class, Outer},
    report::Drop,
};

/// Inner TCP frames up to this length carry no bulk data: an acknowledgement, a short request.
const SMALL: u32 = 256;

pub fn underlay_rx_xdp(ctx: &XdpContext) -> Result<u32, Drop> {
    let Some(config) = maps::config() else {
        return Ok(XDP_PASS);
    };
    let length = length(ctx);
    let drop = |reason| Drop::new(reason, Direction::FromUnderlay);
    match outer::classify(ctx, config, length).map_err(drop)? {
        Class::Foreign => Ok(XDP_PASS),
        Class::Esp { source, spi, .. } => {
            outer::check_esp_source(config, source, spi)?;
            Ok(XDP_PASS)
        }
        Class::Vxlan(outer) => {
            let drop = |reason| Drop {
                vni: outer.vni,
                peer: outer.peer,
                ..drop(reason)
            };
            if outer.ipv6 {
                let arrival = arrival::inspect::<_, { deliver::V6 }, { deliver::V6 + 14 }>(
                    ctx,
                    &outer,
                    Path::Plain,
                )
                .map_err(drop)?;
                decapsulate::<{ deliver::V6 }>(ctx, config, &outer, &arrival, length).map_err(drop)
            } else {
                let arrival = arrival::inspect::<_, { deliver::V4 }, { deliver::V4 + 14 }>(
                    ctx,
                    &outer,
                    Path::Plain,
                )
                .map_err(drop)?;
                decapsulate::<{ deliver::V4 }>(ctx, config, &outer, &arrival, length).map_err(drop)
            }
        }
    }
}

/// Length of the whole packet, fragments of a multi-buffer packet included.
#[inline(always)]
pub fn length(ctx: &XdpContext) -> u32 {
    // SAFETY: the context is the program's own.
    unsafe { bpf_xdp_get_buff_len(ctx.as_ptr().cast()) as u32 }
}

#[inline(always)]
fn decapsulate<const OVERHEAD: usize>(
    ctx: &XdpContext,
    config: &Config,
    outer: &Outer,
    arrival: &Arrival,
    length: u32,
) -> Result<u32, DropReason> {
    let Target::Endpoint { ifindex } = arrival.target else {
        return Ok(XDP_PASS);
    };
    if config.flags & ConfigFlags::XDP_DECAP == 0
        || outer.dscp_ecn & 3 != 0
        || !gains_by_xdp::<OVERHEAD>(ctx, arrival.ether_type, length)
    {
        return Ok(XDP_PASS);
    }
    // SAFETY: the context is the program's own.
    if unsafe { bpf_xdp_adjust_head(ctx.as_ptr().cast(), OVERHEAD as i32) } != 0 {
        return Err(DropReason::DecapFailed);
    }
    maps::count_rx(arrival.peer, length - OVERHEAD as u32);
    // SAFETY: the helper has no preconditions.
    Ok(unsafe { bpf_redirect(ifindex, 0) } as u32)
}

/// UDP, and TCP without bulk data: what GRO would not join, or little of it.
#[inline(always)]
fn gains_by_xdp<const OVERHEAD: usize>(ctx: &XdpContext, kind: u16, length: u32) -> bool {
    let protocol = match kind {
        ether_type::IPV4 => ctx.bytes::<1>(OVERHEAD + 14 + 9),
        ether_type::IPV6 => ctx.bytes::<1>(OVERHEAD + 14 + 6),
        _ => None,
    };
    match protocol {
        Some(&[ip_protocol::UDP]) => true,
        Some(_) => length <= SMALL,
        None => false,
    }
}
