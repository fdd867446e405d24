//! The VXLAN header (RFC 7348 section 5).
//!
//! ```text
//! |R|R|R|R|I|R|R|R|            Reserved (24)             |
//! |       VXLAN network identifier (24)   | Reserved (8) |
//! ```
//!
//! RFC 7348 lets a receiver ignore the reserved bits. Here they must be zero: extensions that use
//! them (Group Policy, GPE) change what the payload means, and our peers never set them.

use super::bytes;
use crate::abi::DropReason;

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;

/// The first word: the I flag, "the VNI is valid", and nothing else.
pub const FLAGS: u32 = (FLAG_VNI as u32) << 24;
/// The I flag, in the header's first byte.
pub(super) const FLAG_VNI: u8 = 0x08;

/// Why 8 bytes are not a VXLAN header that we accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VxlanError {
    /// The I flag is missing, or another flag or a reserved bit is set.
    Flags,
    /// VNI 0 names no network.
    VniZero,
}

impl From<VxlanError> for DropReason {
    #[inline(always)]
    fn from(error: VxlanError) -> Self {
        match error {
            VxlanError::Flags => Self::BadVxlanFlags,
            VxlanError::VniZero => Self::VniZero,
        }
    }
}

/// The VNI, 1 to 2^24−1, host byte order.
#[inline(always)]
pub const fn parse(header: &[u8; HEADER_LEN]) -> Result<u32, VxlanError> {
    let vni = bytes::be32::<4, _>(header);
    if bytes::be32::<0, _>(header) != FLAGS || vni & 0xff != 0 {
        return Err(VxlanError::Flags);
    }
    if vni == 0 {
        return Err(VxlanError::VniZero);
    }
    Ok(vni >> 8)
}

/// The header for `vni`, host byte order; bits beyond the 24th are cut off.
#[inline(always)]
pub const fn to_bytes(vni: u32) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    bytes::put::<0, _, _>(&mut header, &FLAGS.to_be_bytes());
    bytes::put::<4, _, _>(&mut header, &(vni << 8).to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::captures;

    #[test]
    fn headers_of_the_kernels_vxlan_device_are_read() {
        assert_eq!(
            parse(&bytes::take::<42, 8, _>(&captures::VXLAN_V4)),
            Ok(4097)
        );
        assert_eq!(
            parse(&bytes::take::<62, 8, _>(&captures::VXLAN_V6)),
            Ok(70_000)
        );
    }

    #[test]
    fn every_bit_but_those_of_the_vni_must_be_as_we_send_it() {
        for bit in 0..64 {
            let header = (u64::from_be_bytes(to_bytes(0xabcdef)) ^ 1 << bit).to_be_bytes();
            let expected = if (8..32).contains(&bit) {
                Ok(0xabcdef ^ 1 << (bit - 8))
            } else {
                Err(VxlanError::Flags)
            };
            assert_eq!(parse(&header), expected, "bit {bit}");
        }
    }

    #[test]
    fn vni_zero_is_its_own_error() {
        assert_eq!(parse(&to_bytes(0)), Err(VxlanError::VniZero));
        assert_eq!(parse(&[0; 8]), Err(VxlanError::Flags));
        assert_eq!(DropReason::from(VxlanError::VniZero), DropReason::VniZero);
        assert_eq!(
            DropReason::from(VxlanError::Flags),
            DropReason::BadVxlanFlags
        );
    }

    proptest! {
        #[test]
        fn parse_back(vni in 1u32..1 << 24) {
            prop_assert_eq!(parse(&to_bytes(vni)), Ok(vni));
        }

        #[test]
        fn parse_noise(header: [u8; HEADER_LEN]) {
            if let Ok(vni) = parse(&header) {
                prop_assert_eq!(to_bytes(vni), header);
            }
        }
    }
}
