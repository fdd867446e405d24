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
const FLAGS: u32 = 0x0800_0000;

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
