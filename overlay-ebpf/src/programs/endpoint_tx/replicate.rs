//! Head-end replication: a broadcast or multicast frame to every endpoint of the network.

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_change_head, programs::TcContext};
use overlay_ebpf::{
    abi::{
        DropReason, FLOOD_TARGETS_MAX, FloodKey, Location, NetworkFlags, NetworkKey, PeerKey,
        ids::is_mapped,
    },
    packet::outer::{OVERHEAD_V4, OVERHEAD_V6},
};

use super::{encapsulate, route::Flow};
use crate::programs::{TC_DROP, frame::SkBuffFields as _, maps};

const V4: u32 = OVERHEAD_V4 as u32;
const V6: u32 = OVERHEAD_V6 as u32;

/// The list has no such position.
const END: i32 = -1;
/// The target did not get the frame: less the room that the frame has all the same.
const FAILED: i32 = -2;

/// Clones the frame for every target of the flood list: local ones first, then peers over IPv4,
/// then peers over IPv6, so that headroom only grows.
#[inline(always)]
pub fn to_all(ctx: &TcContext, flow: &Flow) -> Result<i32, DropReason> {
    let mut failed = false;
    let mut room = 0;
    for position in 0..FLOOD_TARGETS_MAX {
        let state = State {
            position,
            room,
            dscp_ecn: flow.dscp_ecn,
            ip: flow.ip,
        };
        match replicate_to(ctx.skb.skb, flow.vni, flow.hash, state.pack()) {
            END => break,
            grown if grown >= 0 => room = grown as u32,
            less => {
                failed = true;
                room = (FAILED - less) as u32;
            }
        }
    }
    if failed {
        return Err(DropReason::MulticastReplicationFailed);
    }
    // The clones are on their way; the original ends here, which is no drop.
    Ok(TC_DROP)
}

/// What changes from target to target and what is known of the frame, in one scalar: a function
/// of its own to the verifier takes no pointers but the context.
struct State {
    position: u32,
    /// Bytes before the inner frame: 0, or the length of outer headers.
    room: u32,
    dscp_ecn: u8,
    ip: bool,
}

impl State {
    #[inline(always)]
    const fn pack(&self) -> u32 {
        self.position << 24 | self.room << 16 | (self.dscp_ecn as u32) << 8 | self.ip as u32
    }

    #[inline(always)]
    const fn unpack(packed: u32) -> Self {
        Self {
            position: packed >> 24,
            room: packed >> 16 & 0xff,
            dscp_ecn: (packed >> 8) as u8,
            ip: packed & 1 != 0,
        }
    }
}

/// Clones the frame for the target at the state's position. Returns the room afterwards, [`END`], or
/// [`FAILED`] less the room.
///
/// A function of its own to the verifier (global functions are verified once), or the loop would
/// multiply its paths.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn replicate_to(skb: *mut __sk_buff, vni: u32, hash: u32, packed: u32) -> i32 {
    let state = State::unpack(packed);
    if skb.is_null() {
        return FAILED;
    }
    let ctx = TcContext::new(skb);
    let key = FloodKey {
        vni,
        position: state.position,
    };
    let Some(target) = maps::flood_target(&key) else {
        return END;
    };
    if target.location == Location::Local {
        return if state.room != 0 || target.ifindex == ctx.ifindex() {
            state.room as i32
        } else if ctx.clone_redirect(target.ifindex, 0).is_ok() {
            0
        } else {
            // Local targets come before any room is made.
            FAILED
        };
    }
    let mut room = state.room;
    match to_peer(&ctx, vni, hash, target.peer, &state, &mut room) {
        Some(()) => room as i32,
        None => FAILED - room as i32,
    }
}

/// Clones the frame for a peer. `room` is what stands before the inner frame, also where this fails.
#[inline(always)]
fn to_peer(
    ctx: &TcContext,
    vni: u32,
    hash: u32,
    index: u32,
    state: &State,
    room: &mut u32,
) -> Option<()> {
    let config = maps::config()?;
    let network = maps::network(&NetworkKey { vni })?;
    let peer = maps::peer(&PeerKey { peer: index })?;
    let &State { dscp_ecn, ip, .. } = state;
    let flow = Flow {
        vni,
        encrypted: network.flags & NetworkFlags::ENCRYPTED != 0,
        frame_len: ctx.len() - *room,
        hash,
        dscp_ecn,
        ip,
        packet_len: 0,
    };
    let wanted = if is_mapped(&peer.vtep) { V4 } else { V6 };
    let exit = encapsulate::exit(ctx, config, peer, &flow).ok()?;
    if *room == 0 {
        encapsulate::make_room(ctx, wanted == V6, flow.ip).ok()?;
    } else if wanted == V6 && *room == V4 {
        // SAFETY: the context is the program's own.
        if unsafe { bpf_skb_change_head(ctx.skb.skb, V6 - V4, 0) } != 0 {
            return None;
        }
    } else if wanted != *room {
        return None;
    }
    *room = wanted;
    if !encapsulate::write(ctx, config, peer, &flow, &exit) {
        return None;
    }
    ctx.clone_redirect(exit.ifindex, exit.flags).ok()?;
    maps::count_tx(index, flow.frame_len);
    Some(())
}
