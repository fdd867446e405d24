//! The IPv6 header (RFC 8200 section 3).

use super::bytes;

/// Bytes of the header without extension headers.
pub const HEADER_LEN: usize = 40;

/// Why 40 bytes are not the start of an IPv6 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6Error {
    /// The version is not 6.
    Version,
}

/// An IPv6 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6 {
    /// DSCP (upper 6 bits) and ECN (lower 2), as in IPv4's second byte.
    pub traffic_class: u8,
    /// 20 bits (RFC 6437).
    pub flow_label: u32,
    /// Bytes after this header, extension headers included.
    pub payload_len: u16,
    /// One of [`ip_protocol`](super::ip_protocol).
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: [u8; 16],
    pub destination: [u8; 16],
}

impl Ipv6 {
    #[inline(always)]
    pub const fn parse(header: &[u8; HEADER_LEN]) -> Result<Self, Ipv6Error> {
        let word = bytes::be32::<0, _>(header);
        if word >> 28 != 6 {
            return Err(Ipv6Error::Version);
        }
        Ok(Self {
            traffic_class: (word >> 20) as u8,
            flow_label: word & 0xf_ffff,
            payload_len: bytes::be16::<4, _>(header),
            next_header: bytes::byte::<6, _>(header),
            hop_limit: bytes::byte::<7, _>(header),
            source: bytes::take::<8, 16, _>(header),
            destination: bytes::take::<24, 16, _>(header),
        })
    }

    /// Differentiated services code point, 6 bits (RFC 2474 section 3).
    #[inline(always)]
    pub const fn dscp(&self) -> u8 {
        self.traffic_class >> 2
    }

    /// Explicit congestion notification, 2 bits (RFC 3168 section 5).
    #[inline(always)]
    pub const fn ecn(&self) -> u8 {
        self.traffic_class & 3
    }

    /// The 40 bytes; a flow label beyond 20 bits is cut off.
    #[inline(always)]
    pub const fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let word = 6 << 28 | (self.traffic_class as u32) << 20 | (self.flow_label & 0xf_ffff);
        let mut header = [0; HEADER_LEN];
        bytes::put::<0, _, _>(&mut header, &word.to_be_bytes());
        bytes::put::<4, _, _>(&mut header, &self.payload_len.to_be_bytes());
        bytes::put::<6, _, _>(&mut header, &[self.next_header, self.hop_limit]);
        bytes::put::<8, _, _>(&mut header, &self.source);
        bytes::put::<24, _, _>(&mut header, &self.destination);
        header
    }
}

#[cfg(test)]
mod tests {
    use etherparse::Ipv6HeaderSlice;
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{captures, ip_protocol};

    #[test]
    fn captured_header_reads_field_by_field() {
        let mut source = [0; 16];
        source[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        let mut destination = source;
        source[15] = 0x0a;
        destination[15] = 0x0b;
        assert_eq!(
            Ipv6::parse(&bytes::take::<14, 40, _>(&captures::VXLAN_V6)),
            Ok(Ipv6 {
                traffic_class: 0,
                flow_label: 0,
                payload_len: 114,
                next_header: ip_protocol::UDP,
                hop_limit: 64,
                source,
                destination,
            })
        );
    }

    #[test]
    fn traffic_class_and_flow_label_cross_byte_borders() {
        let mut header = [0; HEADER_LEN];
        header[..4].copy_from_slice(&[0x6b, 0x9a, 0xbc, 0xde]);
        let ip = Ipv6::parse(&header).unwrap();
        assert_eq!((ip.dscp(), ip.ecn(), ip.flow_label), (0x2e, 1, 0xa_bcde));
    }

    #[test]
    fn no_other_version_is_accepted() {
        for version in (0..16).filter(|version| *version != 6) {
            let mut header = [0; HEADER_LEN];
            header[0] = version << 4;
            assert_eq!(Ipv6::parse(&header), Err(Ipv6Error::Version));
        }
    }

    proptest! {
        #[test]
        fn parse_back(mut header: [u8; HEADER_LEN]) {
            header[0] = 0x60 | (header[0] & 0xf);
            prop_assert_eq!(Ipv6::parse(&header).unwrap().to_bytes(), header);
        }

        #[test]
        fn parse_noise(header: [u8; HEADER_LEN]) {
            let oracle = Ipv6HeaderSlice::from_slice(&header);
            prop_assert_eq!(Ipv6::parse(&header).is_ok(), oracle.is_ok());
            let (Ok(ip), Ok(oracle)) = (Ipv6::parse(&header), oracle) else { return Ok(()) };
            prop_assert_eq!(ip.traffic_class, oracle.traffic_class());
            prop_assert_eq!(ip.flow_label, oracle.flow_label().value());
            prop_assert_eq!(ip.payload_len, oracle.payload_length());
            prop_assert_eq!(ip.next_header, oracle.next_header().0);
            prop_assert_eq!(ip.hop_limit, oracle.hop_limit());
        }
    }
}
