//! Packets made by hand.

use std::net::IpAddr;

/// RFC 7348 section 5.
pub const VXLAN_PORT: u16 = 4789;

const IPPROTO_UDP: u8 = 17;

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
        let datagram = udp(self.port, self.port, &self.payload);
        let packet = ip(
            self.source,
            self.destination,
            IPPROTO_UDP,
            Fragment::Whole,
            &datagram,
        );
        ethernet(
            self.destination_mac,
            self.source_mac,
            ether_type(self.source),
            &packet,
        )
    }

    /// Behind a VXLAN header.
    pub fn vxlan(&self, vni: u32) -> Vec<u8> {
        vxlan(vni, &self.frame())
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

/// A VXLAN header (RFC 7348 section 5) and what is behind it.
pub fn vxlan(vni: u32, inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x08, 0, 0, 0];
    bytes.extend((vni << 8).to_be_bytes());
    bytes.extend(inner);
    bytes
}

/// A UDP datagram without checksum.
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(destination.to_be_bytes());
    bytes.extend((payload.len() as u16 + 8).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
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
            let flags: u16 = match fragment {
                Fragment::Whole => 0x4000,
                Fragment::First => 0x2000,
                Fragment::Last { offset } => offset,
            };
            let mut header = vec![0x45, 0];
            header.extend((payload.len() as u16 + 20).to_be_bytes());
            header.extend([0x12, 0x34]);
            header.extend(flags.to_be_bytes());
            header.extend([64, protocol, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header.extend(payload);
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let extension = match fragment {
                Fragment::Whole => None,
                Fragment::First => Some(1),
                Fragment::Last { offset } => Some(offset << 3),
            };
            let mut body = Vec::new();
            if let Some(field) = extension {
                // RFC 8200 section 4.5.
                body.extend([protocol, 0]);
                body.extend(field.to_be_bytes());
                body.extend([0, 0, 0x12, 0x34]);
            }
            body.extend(payload);
            let mut header = vec![0x60, 0, 0, 0];
            header.extend((body.len() as u16).to_be_bytes());
            header.push(if extension.is_some() { 44 } else { protocol });
            header.push(64);
            header.extend(source.octets());
            header.extend(destination.octets());
            header.extend(body);
            header
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
}

/// An Ethernet frame.
pub fn ethernet(destination: [u8; 6], source: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(destination);
    frame.extend(source);
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

pub fn ether_type(ip: IpAddr) -> u16 {
    match ip {
        IpAddr::V4(_) => 0x0800,
        IpAddr::V6(_) => 0x86dd,
    }
}

/// RFC 1071, over an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
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
            let datagram = udp(5, VXLAN_PORT, &vxlan(4096, &[0; 60]));
            let packet = |fragment| {
                let packet = ip(source, destination, IPPROTO_UDP, fragment, &datagram);
                Kind::of(&ethernet([2; 6], [4; 6], ether_type(source), &packet)).to_string()
            };
            assert_eq!(packet(Fragment::Whole), "VXLAN VNI 4096");
            assert_eq!(packet(Fragment::First), "VXLAN VNI 4096");
            assert_eq!(
                packet(Fragment::Last { offset: 8 }),
                "fragment of IP protocol 17"
            );
        }
    }

    #[test]
    fn the_header_checksum_makes_the_header_sum_to_zero() {
        let packet = ip(
            "192.0.2.1".parse().unwrap(),
            "192.0.2.2".parse().unwrap(),
            IPPROTO_UDP,
            Fragment::Whole,
            &[1, 2, 3],
        );
        assert_eq!(checksum(&packet[..20]), 0);
    }
}
