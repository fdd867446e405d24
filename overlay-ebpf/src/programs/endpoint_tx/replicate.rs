//! Head-end replication: a broadcast or multicast frame to every endpoint of the network.

use aya_ebpf::programs::TcContext;
use overlay_ebpf::{
    abi::{
        Config, DropReason, FLOOD_TARGETS_MAX, FloodKey, Location, Network, PeerKey,
        ids::is_mapped,
    },
};

use super::{encapsulate, route::Flow};
use crate::programs::{TC_DROP, maps};

/// Bytes by which outer IPv6 headers are longer.
const V6_MORE: u32 = 20;

/// Clones the frame for every target of the flood list: local ones first, then peers over IPv4,
/// then peers over IPv6, so that headroom only grows.
#[inline(always)]
pub fn to_all(
    ctx: &TcContext,
    config: &Config,
    network: &Network,
    flow: &Flow,
    ethernet: &[u8; 14],
    vni: u32,
    ifindex: u32,
) -> Result<i32, DropReason> {
    let length = ctx.len();
    let mut failed = false;
    let mut room = 0;
    for position in 0..FLOOD_TARGETS_MAX {
        let Some(target) = maps::flood_target(&FloodKey { vni, position }) else { break };
        if target.location == Location::Local {
            if room == 0 && target.ifindex != ifindex {
                failed |= ctx.clone_redirect(target.ifindex, 0).is_err();
            }
            continue;
        }
        let Some(peer) = maps::peer(&PeerKey { peer: target.peer }) else {
            failed = true;
            continue;
        };
        let ipv6 = !is_mapped(&peer.vtep);
        let Ok(exit) = encapsulate::exit(ctx, config, network, peer, flow) else {
            failed = true;
            continue;
        };
        if room == 0 {
            encapsulate::make_room(ctx, ipv6, flow.ip)?;
            room = if ipv6 { 70 } else { 50 };
        } else if ipv6 && room == 50 {
            // SAFETY: the context is the program's own.
            let grown = unsafe {
                aya_ebpf::helpers::bpf_skb_change_head(ctx.skb.skb, V6_MORE, 0)
            };
            if grown != 0 {
                return Err(DropReason::EncapFailed);
            }
            room = 70;
        } else if !ipv6 && room == 70 {
            failed = true;
            continue;
        }
        encapsulate::write(ctx, config, peer, flow, ethernet, vni, length, &exit)?;
        if ctx.clone_redirect(exit.ifindex, exit.flags).is_err() {
            failed = true;
        } else {
            maps::count_tx(target.peer, length);
        }
    }
    if failed {
        return Err(DropReason::MulticastReplicationFailed);
    }
    // The clones are on their way; the original ends here, which is no drop.
    Ok(TC_DROP)
}
