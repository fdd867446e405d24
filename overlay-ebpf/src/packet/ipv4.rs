//! The IPv4 header (RFC 791 section 3.1).

use super::{bytes, checksum};

/// Bytes of the header without options.
pub const HEADER_LEN: usize = 20;

/// Why 20 bytes are not the start of an IPv4 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv4Error {
    /// The version is not 4.
    Version,
    /// The header length is below 20 bytes.
    HeaderLength,
    /// The total length is below the header length.
    TotalLength,
}

/// The fixed part of an IPv4 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4 {
    /// Bytes of the header with options: 20 to 60, a multiple of 4.
    pub header_len: u8,
    /// Differentiated services code point, 6 bits (RFC 2474 section 3).
    pub dscp: u8,
    /// Explicit congestion notification, 2 bits (RFC 3168 section 5).
    pub ecn: u8,
    /// Bytes of the packet with this header.
    pub total_len: u16,
    pub identification: u16,
    pub dont_fragment: bool,
    pub more_fragments: bool,
    /// Position of this fragment in the datagram, in units of 8 bytes, 13 bits.
    pub fragment_offset: u16,
    pub ttl: u8,
    /// One of [`ip_protocol`](super::ip_protocol).
    pub protocol: u8,
    /// As received; [`to_bytes`](Self::to_bytes) computes its own.
    pub checksum: u16,
    pub source: [u8; 4],
    pub destination: [u8; 4],
}

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

impl Ipv4 {
    /// Reads the fixed part. The checksum is not judged here: see [`checksum_ok`].
    ///
    /// A total length of 0, which Linux writes into TCP superpackets beyond 64 KiB ("BIG TCP"), is
    /// an [`Ipv4Error::TotalLength`].
    #[inline(always)]
    pub const fn parse(header: &[u8; HEADER_LEN]) -> Result<Self, Ipv4Error> {
        let version_ihl = bytes::byte::<0, _>(header);
        if version_ihl >> 4 != 4 {
            return Err(Ipv4Error::Version);
        }
        let header_len = (version_ihl & 0xf) * 4;
        if header_len < HEADER_LEN as u8 {
            return Err(Ipv4Error::HeaderLength);
        }
        let total_len = bytes::be16::<2, _>(header);
        if total_len < header_len as u16 {
            return Err(Ipv4Error::TotalLength);
        }
        let tos = bytes::byte::<1, _>(header);
        let fragment = bytes::be16::<6, _>(header);
        Ok(Self {
            header_len,
            dscp: tos >> 2,
            ecn: tos & 3,
            total_len,
            identification: bytes::be16::<4, _>(header),
            dont_fragment: fragment & DONT_FRAGMENT != 0,
            more_fragments: fragment & MORE_FRAGMENTS != 0,
            fragment_offset: fragment & FRAGMENT_OFFSET,
            ttl: bytes::byte::<8, _>(header),
            protocol: bytes::byte::<9, _>(header),
            checksum: bytes::be16::<10, _>(header),
            source: bytes::take::<12, 4, _>(header),
            destination: bytes::take::<16, 4, _>(header),
        })
    }

    /// The former type-of-service byte: DSCP and ECN.
    #[inline(always)]
    pub const fn tos(&self) -> u8 {
        self.dscp << 2 | (self.ecn & 3)
    }

    #[inline(always)]
    pub const fn has_options(&self) -> bool {
        self.header_len > HEADER_LEN as u8
    }

    /// Whether this is any fragment of a datagram, the first included. Only the first has ports.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }

    /// The 20 bytes with a fresh checksum, which is right only without options. The reserved flag
    /// bit is 0; bits beyond the width of a field are cut off.
    #[inline(always)]
    pub const fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let version_ihl = 0x40 | ((self.header_len / 4) & 0xf);
        let tos = self.tos();
        let mut fragment = self.fragment_offset & FRAGMENT_OFFSET;
        if self.dont_fragment {
            fragment |= DONT_FRAGMENT;
        }
        if self.more_fragments {
            fragment |= MORE_FRAGMENTS;
        }
        let sum = u16::from_be_bytes([version_ihl, tos]) as u32
            + self.total_len as u32
            + self.identification as u32
            + fragment as u32
            + u16::from_be_bytes([self.ttl, self.protocol]) as u32
            + checksum::addresses_v4(&self.source, &self.destination);

        let mut header = [0; HEADER_LEN];
        bytes::put::<0, _, _>(&mut header, &[version_ihl, tos]);
        bytes::put::<2, _, _>(&mut header, &self.total_len.to_be_bytes());
        bytes::put::<4, _, _>(&mut header, &self.identification.to_be_bytes());
        bytes::put::<6, _, _>(&mut header, &fragment.to_be_bytes());
        bytes::put::<8, _, _>(&mut header, &[self.ttl, self.protocol]);
        bytes::put::<10, _, _>(&mut header, &checksum::finish(sum).to_be_bytes());
        bytes::put::<12, _, _>(&mut header, &self.source);
        bytes::put::<16, _, _>(&mut header, &self.destination);
        header
    }
}

/// Whether the checksum of a header without options is right (RFC 1071 section 1 (3)).
#[inline(always)]
pub fn checksum_ok(header: &[u8; HEADER_LEN]) -> bool {
    checksum::fold(checksum::sum(header)) == 0xffff
}

#[cfg(test)]
mod tests {
    use etherparse::Ipv4HeaderSlice;
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{captures, ip_protocol};

    fn captured() -> [u8; HEADER_LEN] {
        bytes::take::<14, 20, _>(&captures::VXLAN_V4)
    }

    #[test]
    fn captured_header_reads_field_by_field() {
        assert_eq!(
            Ipv4::parse(&captured()),
            Ok(Ipv4 {
                header_len: 20,
                dscp: 0,
                ecn: 0,
                total_len: 134,
                identification: 0x1424,
                dont_fragment: true,
                more_fragments: false,
                fragment_offset: 0,
                ttl: 64,
                protocol: ip_protocol::UDP,
                checksum: 0xa22d,
                source: [192, 0, 2, 10],
                destination: [192, 0, 2, 11],
            })
        );
        assert!(checksum_ok(&captured()));
        assert_eq!(Ipv4::parse(&captured()).unwrap().to_bytes(), captured());
    }

    #[test]
    fn each_error_has_its_cause() {
        for (at, value, expected) in [
            (0, 0x65, Err(Ipv4Error::Version)),
            (0, 0x44, Err(Ipv4Error::HeaderLength)),
            (3, 19, Err(Ipv4Error::TotalLength)),
            (3, 20, Ok(false)),
            (0, 0x46, Ok(true)),
        ] {
            let mut header = captured();
            header[2] = 0;
            header[at] = value;
            let options = Ipv4::parse(&header).map(|ip| ip.has_options());
            assert_eq!(options, expected, "byte {at} = {value:#x}");
        }
        let mut longest = captured();
        longest[0] = 0x4f;
        longest[3] = 59;
        longest[2] = 0;
        assert_eq!(Ipv4::parse(&longest), Err(Ipv4Error::TotalLength));
    }

    #[test]
    fn first_middle_and_last_fragment_are_fragments() {
        for (field, fragment) in [
            (0x0000, false),
            (0x4000, false),
            (0x8000, false),
            (0x2000, true),
            (0x2001, true),
            (0x1fff, true),
        ] {
            let mut header = captured();
            header[6..8].copy_from_slice(&u16::to_be_bytes(field));
            assert_eq!(
                Ipv4::parse(&header).unwrap().is_fragment(),
                fragment,
                "{field:#x}"
            );
        }
    }

    #[test]
    fn one_wrong_bit_spoils_the_checksum() {
        for bit in 0..HEADER_LEN * 8 {
            let mut header = captured();
            header[bit / 8] ^= 1 << (bit % 8);
            assert!(!checksum_ok(&header), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn parse_back(mut header: [u8; HEADER_LEN], ihl in 5u8..=15) {
            header[0] = 0x40 | ihl;
            header[2] |= 0x80;
            header[6] &= 0x7f;
            header[10..12].fill(0);
            let checksum = checksum::finish(checksum::sum(&header));
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            prop_assert!(checksum_ok(&header));
            prop_assert_eq!(Ipv4::parse(&header).unwrap().to_bytes(), header);
        }

        #[test]
        fn parse_noise(mut header: [u8; HEADER_LEN], version_ihl in proptest::option::of(0x45u8..=0x46)) {
            if let Some(byte) = version_ihl {
                header[0] = byte;
            }
            checksum_ok(&header);
            let Ok(ip) = Ipv4::parse(&header) else { return Ok(()) };
            if ip.has_options() { return Ok(()) }
            // Our verdicts agree with an independent implementation's.
            let oracle = Ipv4HeaderSlice::from_slice(&header).unwrap().to_header();
            prop_assert_eq!(ip.total_len, oracle.total_len);
            prop_assert_eq!(ip.dscp, oracle.dscp.value());
            prop_assert_eq!(ip.ecn, oracle.ecn.value());
            prop_assert_eq!(ip.fragment_offset, oracle.fragment_offset.value());
            prop_assert_eq!(ip.is_fragment(), oracle.is_fragmenting_payload());
            prop_assert_eq!(ip.dont_fragment, oracle.dont_fragment);
            prop_assert_eq!(ip.ttl, oracle.time_to_live);
            prop_assert_eq!(ip.protocol, oracle.protocol.0);
            prop_assert_eq!(ip.source, oracle.source);
            prop_assert_eq!(ip.destination, oracle.destination);
            if header[6] & 0x80 == 0 {
                prop_assert_eq!(
                    checksum_ok(&header),
                    oracle.calc_header_checksum() == oracle.header_checksum
                );
            }
        }
    }
}
