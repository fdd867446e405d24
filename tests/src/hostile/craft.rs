//! Packets of whichever family the underlay or the container has.

use std::net::IpAddr;

use crate::testrun::frames::{self, V4};

/// RFC 7348 section 5.
pub const VXLAN_PORT: u16 = 4789;

/// An inner frame: UDP over IPv4 over Ethernet. The default of a test is one that is right in
/// everything, so that what is changed is the only reason to refuse it.
#[derive(Debug, Clone)]
pub struct Inner {
    pub destination_mac: [u8; 6],
    pub source_mac: [u8; 6],
    pub source: IpAddr,
    pub destination: IpAddr,
    pub port: u16,
    pub payload: Vec<u8>,
}

impl Inner {
    /// From its Ethernet header on.
    pub fn frame(&self) -> Vec<u8> {
        let datagram = frames::udp(self.port, self.port, &self.payload);
        let packet = ip(
            self.source,
            self.destination,
            frames::UDP,
            Fragment::Whole,
            &datagram,
        );
        frames::ethernet(
            self.destination_mac,
            self.source_mac,
            ether_type(self.source),
            &packet,
        )
    }

    /// Behind a VXLAN header.
    pub fn vxlan(&self, vni: u32) -> Vec<u8> {
        frames::vxlan(vni, &self.frame())
    }
}

/// Which part of a datagram an IP packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// All of it, may not be fragmented.
    Whole,
    /// The first part; more follow.
    First,
    /// The last part, which begins at this multiple of 8 bytes.
    Last { offset: u16 },
}

impl Fragment {
    fn offset(self) -> u16 {
        match self {
            Self::Whole | Self::First => 0,
            Self::Last { offset } => offset,
        }
    }
}

/// An IP packet; both addresses are of one family.
pub fn ip(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    fragment: Fragment,
    payload: &[u8],
) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = V4 {
                dont_fragment: fragment == Fragment::Whole,
                more_fragments: fragment == Fragment::First,
                offset: fragment.offset(),
                ..V4::default()
            };
            header.packet(source.octets(), destination.octets(), protocol, payload)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let (source, destination) = (source.octets(), destination.octets());
            if fragment == Fragment::Whole {
                return frames::ipv6(source, destination, protocol, payload);
            }
            // RFC 8200 section 4.5.
            let more = u16::from(fragment == Fragment::First);
            let [high, low] = (fragment.offset() << 3 | more).to_be_bytes();
            let header = [protocol, 0, high, low, 0, 0, 0x12, 0x34];
            let body = [&header, payload].concat();
            frames::ipv6(source, destination, frames::IPV6_FRAGMENT, &body)
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
}

pub fn ether_type(ip: IpAddr) -> u16 {
    match ip {
        IpAddr::V4(_) => frames::IPV4,
        IpAddr::V6(_) => frames::IPV6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::wire::Kind;

    #[test]
    fn a_crafted_packet_is_vxlan_over_both_families() {
        for (source, destination) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            let (source, destination): (IpAddr, IpAddr) =
                (source.parse().unwrap(), destination.parse().unwrap());
            let datagram = frames::udp(5, VXLAN_PORT, &frames::vxlan(4096, &[0; 60]));
            let packet = |fragment| {
                let packet = ip(source, destination, frames::UDP, fragment, &datagram);
                Kind::of(&frames::ethernet(
                    [2; 6],
                    [4; 6],
                    ether_type(source),
                    &packet,
                ))
                .to_string()
            };
            assert_eq!(packet(Fragment::Whole), "VXLAN VNI 4096");
            assert_eq!(packet(Fragment::First), "VXLAN VNI 4096");
            assert_eq!(
                packet(Fragment::Last { offset: 8 }),
                "fragment of IP protocol 17"
            );
        }
    }
}
