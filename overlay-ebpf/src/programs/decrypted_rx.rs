//! TC ingress of the xfrm interface: packets that IPsec has authenticated and decrypted.
//!
//! In BEET mode the outer addresses come from the SA's selector, not from the wire: the outer
//! source names the authenticated peer. Nothing but an unfragmented UDP datagram to our port, out
//! of an SA that the agent installed, goes further.

use core::{mem::MaybeUninit, ptr};

use aya_ebpf::{bindings::bpf_xfrm_state, helpers::bpf_skb_get_xfrm_state, programs::TcContext};
use overlay_ebpf::abi::{Config, Direction, DropReason, SaDirection, SecurityAssociationKey};

use super::{
    arrival::{self, Path},
    deliver, frame, maps,
    outer::{self, Class, Outer},
    report::Drop,
    underlay_rx::HEADERS,
    words,
};

pub fn decrypted_rx(ctx: &TcContext) -> Result<i32, Drop> {
    let drop = |reason| Drop::new(reason, Direction::FromIpsec);
    let config = maps::config().ok_or(drop(DropReason::NotConfigured))?;
    frame::make_linear(ctx, outer::MAX_LEN);
    let outer = match outer::classify(ctx, config, ctx.len()).map_err(drop)? {
        Class::Vxlan(outer) => outer,
        Class::Foreign | Class::Esp { .. } => return Err(drop(DropReason::ForeignTraffic)),
    };
    let drop = |reason| Drop {
        vni: outer.vni,
        peer: outer.peer,
        ..drop(reason)
    };
    check_sa(ctx, config, &outer).map_err(drop)?;
    frame::make_linear(ctx, HEADERS);
    if outer.ipv6 {
        let arrival =
            arrival::inspect::<_, { deliver::V6 }, { deliver::V6 + 14 }>(ctx, &outer, Path::Ipsec)
                .map_err(drop)?;
        deliver::skb::<{ deliver::V6 }>(ctx, config, &outer, &arrival).map_err(drop)
    } else {
        let arrival =
            arrival::inspect::<_, { deliver::V4 }, { deliver::V4 + 14 }>(ctx, &outer, Path::Ipsec)
                .map_err(drop)?;
        deliver::skb::<{ deliver::V4 }>(ctx, config, &outer, &arrival).map_err(drop)
    }
}

/// The SA that decrypted the packet is one the agent installed, for this very peer.
///
/// Another program with `CAP_NET_ADMIN` can install an SA with our `if_id` and any selector.
#[inline(always)]
fn check_sa(ctx: &TcContext, config: &Config, outer: &Outer) -> Result<(), DropReason> {
    let mut room = MaybeUninit::uninit();
    // SAFETY: an all-zero `bpf_xfrm_state` is valid.
    let state: &mut bpf_xfrm_state = unsafe { words::clear(&mut room) };
    // SAFETY: the context is the program's own; `state` is writable and of the size given.
    let found = unsafe {
        bpf_skb_get_xfrm_state(
            ctx.skb.skb,
            0,
            ptr::from_mut(state),
            size_of::<bpf_xfrm_state>() as u32,
            0,
        )
    };
    if found < 0 {
        return Err(DropReason::ForeignTraffic);
    }
    let key = SecurityAssociationKey {
        spi: u32::from_be(state.spi),
        receiver: config.node,
    };
    match maps::security_association(&key) {
        Some(sa) if sa.direction != SaDirection::In => Err(DropReason::UnknownSa),
        Some(sa) if sa.peer != outer.peer => Err(DropReason::SpoofedSpi),
        Some(_) => Ok(()),
        None => Err(DropReason::UnknownSa),
    }
}
