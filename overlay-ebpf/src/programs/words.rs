//! Memory written word by word.
//!
//! What has no alignment to speak of, LLVM clears and copies by a call that goes byte by byte, five to
//! eight instructions for each: for every packet, hundreds.

use core::{hint::black_box, mem::MaybeUninit, ptr};

use overlay_ebpf::abi::ids;

/// Clears `room`.
///
/// # Safety
///
/// Zeros must be a valid `T`.
#[inline(always)]
pub unsafe fn clear<T>(room: &mut MaybeUninit<T>) -> &mut T {
    const { assert!(size_of::<T>() % 4 == 0 && align_of::<T>() >= 4) };
    let start = room.as_mut_ptr().cast::<u32>();
    // SAFETY: that many words fit and are aligned; the caller vouches for the value.
    unsafe {
        for word in 0..size_of::<T>() / 4 {
            ptr::write_volatile(start.add(word), 0);
        }
        room.assume_init_mut()
    }
}

/// [`ids::mapped`]. The zeros are of a value that LLVM does not see, or it would clear them by a call.
#[inline(always)]
pub fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    const _: () = assert!(matches!(
        ids::mapped([1, 2, 3, 4]),
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4]
    ));
    let zero = black_box(0_u16).to_ne_bytes();
    let [z, y] = zero;
    [z, y, z, y, z, y, z, y, z, y, 0xff, 0xff, a, b, c, d]
}
