//! The underlay's route to a peer: device, MACs, and how much fits.

use core::{mem::MaybeUninit, ptr};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_FIB_LKUP_RET_FRAG_NEEDED, bpf_fib_lookup as FibLookup},
    helpers::bpf_fib_lookup,
    programs::TcContext,
};
use overlay_ebpf::{
    abi::{Config, DropReason, Peer, ids::is_mapped},
    packet::outer::Macs,
};

use super::encapsulate::Exit;
use crate::programs::words;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Why a packet cannot go to a peer.
pub enum NoWay {
    /// No route, or the next hop's neighbour entry is not resolved.
    NoRoute,
    /// The path takes outer packets of at most so many bytes.
    TooBig { path_mtu: u16 },
}

impl NoWay {
    #[inline(always)]
    pub fn reason(self) -> DropReason {
        match self {
            Self::NoRoute => DropReason::NoRoute,
            Self::TooBig { .. } => DropReason::FrameTooBig,
        }
    }
}

/// Looks the route up for an outer packet of `outer_len` bytes. The kernel's answer knows what path
/// MTU discovery has learnt; the agent keeps the next hop's neighbour entry resolved.
///
/// Not inlined: the parameter block's place on the stack is given back.
#[inline(never)]
pub fn look_up(
    ctx: &TcContext,
    config: &Config,
    peer: &Peer,
    outer_len: u16,
) -> Result<Exit, NoWay> {
    let mut room = MaybeUninit::uninit();
    // SAFETY: an all-zero parameter block is valid.
    let params: &mut FibLookup = unsafe { words::clear(&mut room) };
    // The lookup is one for forwarding, which `ovl-in` has enabled.
    params.ifindex = config.reentry_ifindex;
    params.__bindgen_anon_1.tot_len = outer_len;
    if is_mapped(&peer.vtep) {
        params.family = AF_INET;
        let [.., a, b, c, d] = peer.local_vtep;
        params.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes([a, b, c, d]);
        let [.., a, b, c, d] = peer.vtep;
        params.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes([a, b, c, d]);
    } else {
        params.family = AF_INET6;
        // SAFETY: both fields of a map value stand at multiples of four; sixteen bytes in network
        // order are what the parameters hold.
        unsafe {
            params.__bindgen_anon_3.ipv6_src = *(&raw const peer.local_vtep).cast::<[u32; 4]>();
            params.__bindgen_anon_4.ipv6_dst = *(&raw const peer.vtep).cast::<[u32; 4]>();
        }
    }
    // SAFETY: the context is the program's own; the block is writable and of the size given.
    let found = unsafe {
        bpf_fib_lookup(
            ctx.as_ptr(),
            ptr::from_mut(params),
            size_of::<FibLookup>() as i32,
            0,
        )
    };
    if found == BPF_FIB_LKUP_RET_FRAG_NEEDED as i64 {
        // SAFETY: the kernel has written the field before it answers so.
        let path_mtu = unsafe { params.__bindgen_anon_1.mtu_result };
        return Err(NoWay::TooBig { path_mtu });
    }
    if found != 0 {
        return Err(NoWay::NoRoute);
    }
    // SAFETY: both fields stand at even offsets of the parameter block.
    let macs = unsafe {
        Macs {
            destination: *(&raw const params.dmac).cast::<[u16; 3]>(),
            source: *(&raw const params.smac).cast::<[u16; 3]>(),
        }
    };
    Ok(Exit {
        ifindex: params.ifindex,
        flags: 0,
        macs,
    })
}
