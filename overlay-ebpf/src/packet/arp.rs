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
