//! The UDP header (RFC 768).

use super::bytes;

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;

/// A UDP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Udp {
    pub source_port: u16,
    pub destination_port: u16,
    /// Bytes of the datagram with this header, as received: whether it agrees with the IP length is
    /// for the caller to judge.
    pub length: u16,
    /// 0 means none was computed (RFC 768; for tunnels over IPv6 RFC 6935 section 5).
    pub checksum: u16,
}

impl Udp {
    #[inline(always)]
    pub const fn parse(header: &[u8; HEADER_LEN]) -> Self {
        Self {
            source_port: bytes::be16::<0, _>(header),
            destination_port: bytes::be16::<2, _>(header),
            length: bytes::be16::<4, _>(header),
            checksum: bytes::be16::<6, _>(header),
        }
    }

    /// The 8 bytes, the checksum as it stands in the field.
    #[inline(always)]
    pub const fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        bytes::put::<0, _, _>(&mut header, &self.source_port.to_be_bytes());
        bytes::put::<2, _, _>(&mut header, &self.destination_port.to_be_bytes());
        bytes::put::<4, _, _>(&mut header, &self.length.to_be_bytes());
        bytes::put::<6, _, _>(&mut header, &self.checksum.to_be_bytes());
        header
    }
}
