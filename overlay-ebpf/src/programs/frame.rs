//! Access to packet bytes: the only place that turns packet pointers into references.

use core::ptr;

use aya_ebpf::programs::{TcContext, XdpContext};

/// A packet whose bytes the program can read in place.
pub trait Frame {
    fn start(&self) -> usize;
    fn end(&self) -> usize;

    /// `N` bytes at `offset`, if the linear part of the packet has them. Programs call
    /// [`make_linear`] first where the packet may be an skb with paged data.
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        let start = self.start();
        if start + offset + N > self.end() {
            return None;
        }
        // SAFETY: the range was just checked against the packet's end, which is what the verifier
        // demands too; byte arrays have no alignment; the reference dies before any helper that
        // can move the packet, because those helpers take the context by `&self` only after the
        // last use of the bytes.
        Some(unsafe { &*((start + offset) as *const [u8; N]) })
    }
}

impl Frame for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }
}

impl Frame for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }
}

/// Pulls the first `length` bytes (fewer if the packet is shorter) into the linear part.
#[inline(always)]
pub fn make_linear(ctx: &TcContext, length: usize) {
    if ctx.data() + length > ctx.data_end() {
        let wanted = (ctx.len() as usize).min(length);
        // A failure leaves the linear part as it is; the reads that follow then fail one by one.
        let _ = ctx.pull_data(wanted as u32);
    }
}

/// Writes `bytes` at `offset`, in place; `false` if the linear part does not reach so far. Building
/// the bytes in the packet itself spares the BPF stack, of which there are 512 bytes for all.
#[inline(always)]
pub fn store<const N: usize>(ctx: &TcContext, offset: usize, bytes: &[u8; N]) -> bool {
    let start = ctx.data();
    if start + offset + N > ctx.data_end() {
        return false;
    }
    // SAFETY: the range was just checked against the packet's end; the verifier makes the header
    // private to this skb in programs that write; no other reference into the packet is alive.
    unsafe { *((start + offset) as *mut [u8; N]) = *bytes };
    true
}

/// Writes 16-bit words in memory order at `offset`, in place; `false` as for [`store`].
#[inline(always)]
pub fn store_words<const N: usize>(ctx: &TcContext, offset: usize, words: [u16; N]) -> bool {
    let start = ctx.data();
    if start + offset + 2 * N > ctx.data_end() {
        return false;
    }
    // SAFETY: as in `store`; an Ethernet frame starts at an even address, since drivers align the
    // IP header behind its 14 bytes or the frame itself, and every offset written is even.
    unsafe { *((start + offset) as *mut [u16; N]) = words };
    true
}

/// Copies the Ethernet header at `from` to `to`, in place; `false` as for [`store`].
#[inline(always)]
pub fn copy_ethernet(ctx: &TcContext, from: usize, to: usize) -> bool {
    move_words::<7>(ctx, from, to).is_some()
}

/// Copies `N` 16-bit words at the even offset `from` to the even offset `to` of the same packet,
/// and returns the copy. The two must not overlap.
#[inline(always)]
pub fn move_words<const N: usize>(ctx: &TcContext, from: usize, to: usize) -> Option<&[u16; N]> {
    let start = ctx.data();
    if start + from.max(to) + 2 * N > ctx.data_end() {
        return None;
    }
    let (source, copy) = ((start + from) as *const u16, (start + to) as *mut u16);
    // SAFETY: as in `store_words`; both places lie before the checked end and do not overlap.
    unsafe {
        // Word by word: as arrays LLVM makes a call of it that goes byte by byte.
        for word in 0..N {
            ptr::write_volatile(copy.add(word), ptr::read_volatile(source.add(word)));
        }
        Some(&*copy.cast())
    }
}

/// Fields of `struct __sk_buff` that the programs use beyond length and bytes.
pub trait SkBuffFields {
    fn ifindex(&self) -> u32;
    /// Ethertype, as the kernel has taken it from the header.
    fn protocol(&self) -> u16;
    fn has_vlan_tag(&self) -> bool;
    /// Bytes of payload per segment of a GSO packet, else 0.
    fn gso_size(&self) -> u32;
    fn gso_segs(&self) -> u32;
    fn tc_index(&self) -> u16;
    fn set_tc_index(&self, value: u16);
    fn mark(&self) -> u32;
    /// Whether a socket of this host sent it. What came in by a device, a container's included, has
    /// lost its socket before it is routed (`ip_rcv_core`, net/ipv4/ip_input.c).
    fn is_from_socket(&self) -> bool;
}

impl SkBuffFields for TcContext {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: `skb` is the program's context.
        unsafe { (*self.skb.skb).ifindex }
    }

    #[inline(always)]
    fn protocol(&self) -> u16 {
        // SAFETY: `skb` is the program's context.
        u16::from_be(unsafe { (*self.skb.skb).protocol } as u16)
    }

    #[inline(always)]
    fn has_vlan_tag(&self) -> bool {
        // SAFETY: `skb` is the program's context.
        unsafe { (*self.skb.skb).vlan_present != 0 }
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        // SAFETY: `skb` is the program's context.
        unsafe { (*self.skb.skb).gso_size }
    }

    #[inline(always)]
    fn gso_segs(&self) -> u32 {
        // SAFETY: `skb` is the program's context.
        unsafe { (*self.skb.skb).gso_segs }
    }

    #[inline(always)]
    fn tc_index(&self) -> u16 {
        // SAFETY: `skb` is the program's context.
        unsafe { (*self.skb.skb).tc_index as u16 }
    }

    #[inline(always)]
    fn set_tc_index(&self, value: u16) {
        // SAFETY: `skb` is the program's context, and TC programs may write `tc_index`.
        unsafe { (*self.skb.skb).tc_index = u32::from(value) }
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: `skb` is the program's context.
        unsafe { (*self.skb.skb).mark }
    }

    #[inline(always)]
    fn is_from_socket(&self) -> bool {
        // SAFETY: `skb` is the program's context; the pointer is compared, not followed.
        !unsafe { (*self.skb.skb).__bindgen_anon_2.sk }.is_null()
    }
}
