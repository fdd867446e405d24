//! ARP for IPv4 over Ethernet (RFC 826), with the probes of RFC 5227.

use super::{bytes, ethernet::ether_type};

/// Bytes of the packet after the Ethernet header.
pub const PACKET_LEN: usize = 28;

/// "Who has?"
pub const REQUEST: u16 = 1;
/// "It is at."
pub const REPLY: u16 = 2;

/// Hardware type of Ethernet (IANA registry "ARP Parameters").
const ETHERNET: u16 = 1;

/// Why 28 bytes are not ARP for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArpError {
    /// The hardware type is not 1, Ethernet.
    HardwareType,
    /// The protocol type is not 0x0800, IPv4.
    ProtocolType,
    /// The address lengths are not 6 and 4 bytes.
    AddressLength,
}

/// An ARP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// [`REQUEST`], [`REPLY`] or another operation, which nobody answers.
    pub operation: u16,
    pub sender_mac: [u8; 6],
    pub sender_ip: [u8; 4],
    pub target_mac: [u8; 6],
    pub target_ip: [u8; 4],
}

impl Arp {
    #[inline(always)]
    pub const fn parse(packet: &[u8; PACKET_LEN]) -> Result<Self, ArpError> {
        if bytes::be16::<0, _>(packet) != ETHERNET {
            return Err(ArpError::HardwareType);
        }
        if bytes::be16::<2, _>(packet) != ether_type::IPV4 {
            return Err(ArpError::ProtocolType);
        }
        if bytes::be16::<4, _>(packet) != 0x0604 {
            return Err(ArpError::AddressLength);
        }
        Ok(Self {
            operation: bytes::be16::<6, _>(packet),
            sender_mac: bytes::take::<8, 6, _>(packet),
            sender_ip: bytes::take::<14, 4, _>(packet),
            target_mac: bytes::take::<18, 6, _>(packet),
            target_ip: bytes::take::<24, 4, _>(packet),
        })
    }

    #[inline(always)]
    pub const fn to_bytes(&self) -> [u8; PACKET_LEN] {
        let mut packet = [0; PACKET_LEN];
        bytes::put::<0, _, _>(&mut packet, &ETHERNET.to_be_bytes());
        bytes::put::<2, _, _>(&mut packet, &ether_type::IPV4.to_be_bytes());
        bytes::put::<4, _, _>(&mut packet, &[6, 4]);
        bytes::put::<6, _, _>(&mut packet, &self.operation.to_be_bytes());
        bytes::put::<8, _, _>(&mut packet, &self.sender_mac);
        bytes::put::<14, _, _>(&mut packet, &self.sender_ip);
        bytes::put::<18, _, _>(&mut packet, &self.target_mac);
        bytes::put::<24, _, _>(&mut packet, &self.target_ip);
        packet
    }

    /// A request from 0.0.0.0: the sender asks whether an address is free before it takes it
    /// (RFC 5227 section 1.1).
    #[inline(always)]
    pub const fn is_probe(&self) -> bool {
        self.operation == REQUEST && u32::from_be_bytes(self.sender_ip) == 0
    }

    /// A sender that speaks of its own address: an announcement (RFC 5227 section 3) or the
    /// gratuitous reply of older systems. A probe is none.
    #[inline(always)]
    pub const fn is_gratuitous(&self) -> bool {
        let sender = u32::from_be_bytes(self.sender_ip);
        sender != 0 && sender == u32::from_be_bytes(self.target_ip)
    }

    /// The answer to this request: its target address is at `mac`.
    #[inline(always)]
    pub const fn reply(&self, mac: [u8; 6]) -> [u8; PACKET_LEN] {
        Self {
            operation: REPLY,
            sender_mac: mac,
            sender_ip: self.target_ip,
            target_mac: self.sender_mac,
            target_ip: self.sender_ip,
        }
        .to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use etherparse::ArpPacketSlice;
    use proptest::prelude::*;

    use super::*;
    use crate::packet::captures;

    fn request() -> [u8; PACKET_LEN] {
        bytes::take::<14, 28, _>(&captures::ARP_REQUEST)
    }

    #[test]
    fn captured_request_reads_field_by_field() {
        let arp = Arp::parse(&request()).unwrap();
        assert_eq!(
            arp,
            Arp {
                operation: REQUEST,
                sender_mac: [2, 0, 0, 0, 0, 0x0a],
                sender_ip: [192, 0, 2, 10],
                target_mac: [0; 6],
                target_ip: [192, 0, 2, 11],
            }
        );
        assert!(!arp.is_probe() && !arp.is_gratuitous());
    }

    #[test]
    fn reply_is_the_kernels() {
        let reply = Arp::parse(&request()).unwrap().reply([2, 0, 0, 0, 0, 0x0b]);
        assert_eq!(reply, bytes::take::<14, 28, _>(&captures::ARP_REPLY));
    }

    #[test]
    fn each_error_has_its_cause() {
        for (at, value, expected) in [
            (1, 6, ArpError::HardwareType),
            (2, 0x86, ArpError::ProtocolType),
            (4, 8, ArpError::AddressLength),
            (5, 16, ArpError::AddressLength),
        ] {
            let mut packet = request();
            packet[at] = value;
            assert_eq!(Arp::parse(&packet), Err(expected), "byte {at} = {value:#x}");
        }
    }

    #[test]
    fn probe_and_announcement_are_told_apart() {
        let own = [10, 0, 9, 2];
        for (operation, sender_ip, target_ip, probe, gratuitous) in [
            (REQUEST, [0; 4], own, true, false),
            (REQUEST, [0; 4], [0; 4], true, false),
            // A reply from 0.0.0.0 is no probe: it would pass the anti-spoof check as one.
            (REPLY, [0; 4], own, false, false),
            (REQUEST, own, own, false, true),
            (REPLY, own, own, false, true),
            (REQUEST, own, [10, 0, 9, 3], false, false),
        ] {
            let arp = Arp {
                operation,
                sender_mac: [2; 6],
                sender_ip,
                target_mac: [0; 6],
                target_ip,
            };
            assert_eq!(
                (arp.is_probe(), arp.is_gratuitous()),
                (probe, gratuitous),
                "{arp:?}"
            );
        }
    }

    #[test]
    fn a_probe_is_answered_to_nobodys_address() {
        let probe = Arp {
            sender_ip: [0; 4],
            ..Arp::parse(&request()).unwrap()
        };
        let reply = Arp::parse(&probe.reply([6; 6])).unwrap();
        assert_eq!(reply.target_ip, [0; 4]);
        assert_eq!(reply.sender_ip, probe.target_ip);
    }

    proptest! {
        #[test]
        fn parse_back(mut packet: [u8; PACKET_LEN]) {
            packet[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
            prop_assert_eq!(Arp::parse(&packet).unwrap().to_bytes(), packet);
        }

        #[test]
        fn parse_noise(noise: [u8; PACKET_LEN], start in 0usize..=6) {
            let mut packet = noise;
            packet[..start].copy_from_slice(&[0, 1, 8, 0, 6, 4][..start]);
            if let Ok(arp) = Arp::parse(&packet) {
                prop_assert_eq!(arp.to_bytes(), packet);
            }
        }

        #[test]
        fn reply_answers_the_request(mut packet: [u8; PACKET_LEN], mac: [u8; 6]) {
            packet[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
            let reply = Arp::parse(&packet).unwrap().reply(mac);
            let oracle = ArpPacketSlice::from_slice(&reply).unwrap();
            prop_assert_eq!(oracle.operation().0, REPLY);
            prop_assert_eq!(oracle.sender_hw_addr(), mac);
            prop_assert_eq!(oracle.sender_protocol_addr(), &packet[24..28]);
            prop_assert_eq!(oracle.target_hw_addr(), &packet[8..14]);
            prop_assert_eq!(oracle.target_protocol_addr(), &packet[14..18]);
        }
    }
}
