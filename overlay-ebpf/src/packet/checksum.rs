//! The Internet checksum: one's complement of the one's complement sum of 16-bit words (RFC 1071).
//!
//! In one's complement the carry out of bit 15 is added back at bit 0. A 32-bit accumulator can
//! collect the carries and add them back once at the end: [`sum`] the parts, add the sums, then
//! [`finish`]. A part of odd length is padded with one zero byte (RFC 1071 section 1), so only the
//! last part of a message may be odd.

use super::bytes;

/// One's complement sum of the 16-bit words of `bytes`: at most 0xffff, and 0 only if all bytes are
/// 0. Sums of several parts may be added; no real number of them overflows.
///
/// It adds words of 32 bits in the machine's own byte order and swaps once at the end, which one's
/// complement allows (RFC 1071 section 2 (B) and (C)). Loads of single bytes would each take a slot
/// of 8 bytes on the BPF stack, because LLVM gathers all loads before the first addition.
#[inline(always)]
pub fn sum<const N: usize>(bytes: &[u8; N]) -> u32 {
    const { assert!(N < 1 << 16, "longer than any packet") };
    let mut total = 0;
    let (chunks, rest) = bytes.as_chunks::<8>();
    for chunk in chunks {
        let chunk = u64::from_ne_bytes(*chunk);
        total += (chunk >> 32) + (chunk & 0xffff_ffff);
    }
    let (words, last) = rest.as_chunks::<2>();
    for word in words {
        total += u16::from_ne_bytes(*word) as u64;
    }
    if let [byte] = last {
        total += u16::from_ne_bytes([*byte, 0]) as u64;
    }
    let halves = (total >> 32) + (total & 0xffff_ffff);
    let words = (halves >> 32) + ((halves >> 16) & 0xffff) + (halves & 0xffff);
    fold(words as u32).to_be() as u32
}

/// Adds the carries of `sum` back in: the 16-bit one's complement sum (RFC 1071 section 2(C)).
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum >> 16) + (sum & 0xffff);
    ((once >> 16) + once) as u16
}

/// The value for the checksum field, from the sum of everything else.
#[inline(always)]
pub const fn finish(sum: u32) -> u16 {
    !fold(sum)
}

/// The checksum after one 16-bit word of the message has changed from `old` to `new`
/// (RFC 1624 section 3, equation 3: `HC' = ~(~HC + ~m + m')`). All three in host byte order.
#[inline(always)]
pub const fn update(old_checksum: u16, old: u16, new: u16) -> u16 {
    finish(!old_checksum as u32 + !old as u32 + new as u32)
}

/// Sum of the IPv6 pseudo-header (RFC 8200 section 8.1); `length` is the upper-layer length in
/// bytes.
#[inline(always)]
pub fn pseudo_v6(source: &[u8; 16], destination: &[u8; 16], length: u16, next_header: u8) -> u32 {
    sum(source) + sum(destination) + length as u32 + next_header as u32
}

/// Sum of two IPv4 addresses.
#[inline(always)]
pub(super) const fn addresses_v4(source: &[u8; 4], destination: &[u8; 4]) -> u32 {
    bytes::be16::<0, _>(source) as u32
        + bytes::be16::<2, _>(source) as u32
        + bytes::be16::<0, _>(destination) as u32
        + bytes::be16::<2, _>(destination) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 section 4.1, word by word with the end-around carry at once.
    fn naive(bytes: &[u8]) -> u16 {
        bytes.chunks(2).fold(0u16, |sum, word| {
            let word = u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]);
            let (sum, carry) = sum.overflowing_add(word);
            sum + carry as u16
        })
    }

    #[test]
    fn example_of_rfc_1071_section_3() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
        assert_eq!(finish(sum(&bytes)), 0x220d);
    }

    #[test]
    fn example_of_rfc_1624_section_4() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn the_largest_sum_folds_without_losing_a_carry() {
        assert_eq!(fold(u32::MAX), 0xffff);
        assert_eq!(fold(0xffff_0001), 1);
        assert_eq!(fold(0x0001_ffff), 1);
        assert_eq!(fold(sum(&[0xff; (1 << 16) - 2])), 0xffff);
        // The words of 32 bits add up to all ones twice, and the last byte carries once more.
        let bytes = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0];
        assert_eq!(fold(sum(&bytes)), naive(&bytes));
    }

    proptest! {
        #[test]
        fn sum_agrees_with_the_naive_one(even: [u8; 64], odd: [u8; 41]) {
            prop_assert_eq!(fold(sum(&even)), naive(&even));
            prop_assert_eq!(fold(sum(&odd)), naive(&odd));
            let whole = [even.as_slice(), odd.as_slice()].concat();
            prop_assert_eq!(fold(sum(&even) + sum(&odd)), naive(&whole));
        }

        #[test]
        fn fold_keeps_the_value_modulo_65535(value: u32) {
            prop_assert_eq!(fold(value) as u32 % 0xffff, value % 0xffff);
            // 0 and 0xffff are the two zeros; only nothing folds to 0.
            prop_assert_eq!(fold(value) == 0, value == 0);
        }

        #[test]
        fn a_message_with_its_checksum_sums_to_all_ones(mut bytes: [u8; 20]) {
            bytes[10..12].fill(0);
            let checksum = finish(sum(&bytes));
            bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
            prop_assert_eq!(fold(sum(&bytes)), 0xffff);
        }

        #[test]
        fn update_agrees_with_a_fresh_checksum(mut bytes: [u8; 20], word in 0usize..10, new: u16) {
            // A header with a non-zero first byte, as every IP header has: a message of zeros alone
            // has two representations.
            bytes[0] |= 0x40;
            let at = 2 * word;
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let before = finish(sum(&bytes));
            let new = if word == 0 { new | 0x4000 } else { new };
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), finish(sum(&bytes)));
        }

        #[test]
        fn pseudo_header_is_the_sum_of_its_forty_bytes(
            source: [u8; 16], destination: [u8; 16], length: u16, next_header: u8,
        ) {
            let mut header = [0; 40];
            header[..16].copy_from_slice(&source);
            header[16..32].copy_from_slice(&destination);
            header[34..36].copy_from_slice(&length.to_be_bytes());
            header[39] = next_header;
            prop_assert_eq!(
                fold(pseudo_v6(&source, &destination, length, next_header)),
                naive(&header)
            );
        }
    }
}
