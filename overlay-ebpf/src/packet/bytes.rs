//! Fields of fixed arrays, at offsets that are checked when the code is compiled.
//!
//! A run-time index would leave a call to `panic_bounds_check` in the BPF object. Here an offset is
//! a const parameter: one that does not fit does not compile. A field is copied as a whole: of a loop
//! over its bytes LLVM would keep each in a register, or in 8 bytes of the BPF stack.
//!
//! ```
//! use overlay_ebpf::packet::bytes;
//!
//! let header = [0x45, 0, 0x05, 0xdc];
//! assert_eq!(bytes::be16::<2, _>(&header), 1500);
//! ```
//!
//! ```compile_fail
//! # use overlay_ebpf::packet::bytes;
//! let header = [0x45, 0, 0x05, 0xdc];
//! bytes::be16::<3, _>(&header);
//! ```

/// The `N` bytes of `from` that start at `AT`.
#[inline(always)]
pub const fn take<const AT: usize, const N: usize, const M: usize>(from: &[u8; M]) -> [u8; N] {
    const { assert!(AT + N <= M, "the field ends beyond the array") };
    let (_, rest) = from.split_at(AT);
    match rest.first_chunk() {
        Some(field) => *field,
        None => [0; N],
    }
}

/// Copies `field` into `into`, starting at `AT`.
#[inline(always)]
pub const fn put<const AT: usize, const N: usize, const M: usize>(
    into: &mut [u8; M],
    field: &[u8; N],
) {
    const { assert!(AT + N <= M, "the field ends beyond the array") };
    let (_, rest) = into.split_at_mut(AT);
    if let Some(place) = rest.first_chunk_mut() {
        *place = *field;
    }
}

/// The byte at `AT`.
#[inline(always)]
pub const fn byte<const AT: usize, const M: usize>(from: &[u8; M]) -> u8 {
    let [byte] = take::<AT, 1, M>(from);
    byte
}

/// The big-endian 16-bit number at `AT`.
#[inline(always)]
pub const fn be16<const AT: usize, const M: usize>(from: &[u8; M]) -> u16 {
    u16::from_be_bytes(take::<AT, 2, M>(from))
}

/// The big-endian 32-bit number at `AT`.
#[inline(always)]
pub const fn be32<const AT: usize, const M: usize>(from: &[u8; M]) -> u32 {
    u32::from_be_bytes(take::<AT, 4, M>(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELD: [u8; 6] = [0, 1, 2, 3, 4, 5];

    #[test]
    fn a_field_may_reach_the_last_byte_and_be_empty() {
        assert_eq!(take::<2, 4, _>(&FIELD), [2, 3, 4, 5]);
        assert_eq!(take::<6, 0, _>(&FIELD), []);
        assert_eq!(byte::<5, _>(&FIELD), 5);
    }

    #[test]
    fn numbers_are_big_endian() {
        assert_eq!(be16::<1, _>(&FIELD), 0x0102);
        assert_eq!(be32::<2, _>(&FIELD), 0x0203_0405);
    }

    #[test]
    fn put_changes_the_field_alone() {
        let mut bytes = FIELD;
        put::<2, _, _>(&mut bytes, &[9, 9]);
        assert_eq!(bytes, [0, 1, 9, 9, 4, 5]);
    }
}
