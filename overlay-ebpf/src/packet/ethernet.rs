//! The Ethernet header (IEEE 802.3 clause 3, RFC 894).

use super::bytes;

/// Bytes of the header, without a VLAN tag.
pub const HEADER_LEN: usize = 14;

/// Values of [`Ethernet::ether_type`] (IANA registry "IEEE 802 Numbers").
pub mod ether_type {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    /// 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100;
    pub const IPV6: u16 = 0x86dd;
    /// 802.1ad service tag.
    pub const QINQ: u16 = 0x88a8;
}

/// An Ethernet header. Addresses in transmission order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ethernet {
    pub destination: [u8; 6],
    pub source: [u8; 6],
    /// One of [`ether_type`]; below 0x0600 it is the length of an 802.3 frame.
    pub ether_type: u16,
}

impl Ethernet {
    #[inline(always)]
    pub const fn parse(header: &[u8; HEADER_LEN]) -> Self {
        Self {
            destination: bytes::take::<0, 6, _>(header),
            source: bytes::take::<6, 6, _>(header),
            ether_type: bytes::be16::<12, _>(header),
        }
    }

    #[inline(always)]
    pub const fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        bytes::put::<0, _, _>(&mut header, &self.destination);
        bytes::put::<6, _, _>(&mut header, &self.source);
        bytes::put::<12, _, _>(&mut header, &self.ether_type.to_be_bytes());
        header
    }

    /// Whether an 802.1Q or 802.1ad tag follows the addresses.
    #[inline(always)]
    pub const fn is_tagged(&self) -> bool {
        matches!(self.ether_type, ether_type::VLAN | ether_type::QINQ)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::captures;

    #[test]
    fn captured_header_reads_in_transmission_order() {
        assert_eq!(
            Ethernet::parse(&bytes::take::<0, 14, _>(&captures::ARP_REQUEST)),
            Ethernet {
                destination: [0xff; 6],
                source: [2, 0, 0, 0, 0, 0x0a],
                ether_type: ether_type::ARP,
            }
        );
    }

    #[test]
    fn both_vlan_tags_are_tags() {
        for (ether_type, tagged) in [
            (0x8100, true),
            (0x88a8, true),
            (0x0800, false),
            (0x86dd, false),
        ] {
            let mut header = [0; HEADER_LEN];
            header[12..].copy_from_slice(&u16::to_be_bytes(ether_type));
            assert_eq!(
                Ethernet::parse(&header).is_tagged(),
                tagged,
                "{ether_type:#x}"
            );
        }
    }

    proptest! {
        #[test]
        fn parse_back(header: [u8; HEADER_LEN]) {
            prop_assert_eq!(Ethernet::parse(&header).to_bytes(), header);
        }
    }
}
