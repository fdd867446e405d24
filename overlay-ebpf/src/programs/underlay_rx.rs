//! TC ingress of an underlay device, after GRO: plain frames are decapsulated here.

use aya_ebpf::programs::TcContext;
use overlay_ebpf::abi::Direction;

use super::{
    TC_CONTINUE,
    arrival::{self, Path},
    deliver, ethernet_header, frame, maps,
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
    frame::make_linear(ctx, outer::MAX_LEN);
    ethernet_header::restore(ctx, config);
    let drop = |reason| Drop::new(reason, Direction::FromUnderlay);
    let outer = match outer::classify(ctx, config, ctx.len()).map_err(drop)? {
        Class::Vxlan(outer) => outer,
        Class::Foreign | Class::Esp { .. } => return Ok(TC_CONTINUE),
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
        deliver::skb::<{ deliver::V6 }>(ctx, config, &outer, &arrival, Path::Plain).map_err(drop)
    } else {
        let arrival =
            arrival::inspect::<_, { deliver::V4 }, { deliver::V4 + 14 }>(ctx, &outer, Path::Plain)
                .map_err(drop)?;
        deliver::skb::<{ deliver::V4 }>(ctx, config, &outer, &arrival, Path::Plain).map_err(drop)
    }
}
