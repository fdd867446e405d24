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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::captures;

    #[test]
    fn captured_header_reads_field_by_field() {
        assert_eq!(
            Udp::parse(&bytes::take::<34, 8, _>(&captures::VXLAN_V4)),
            Udp {
                source_port: 0xd03a,
                destination_port: 4789,
                length: 114,
                checksum: 0x8499,
            }
        );
    }

    proptest! {
        #[test]
        fn parse_back(header: [u8; HEADER_LEN]) {
            prop_assert_eq!(Udp::parse(&header).to_bytes(), header);
        }
    }
}
