//! Packets, built by etherparse: not by the code under test.
//!
//! Where a packet must be wrong, the caller spoils the bytes.

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, Ethernet2Header, Icmpv6Header, Icmpv6Type, IpDscp, IpEcn,
    IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header, UdpHeader,
};

pub type Mac = [u8; 6];
pub type Ip4 = [u8; 4];
pub type Ip6 = [u8; 16];

pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const VLAN: u16 = 0x8100;
pub const QINQ: u16 = 0x88a8;
pub const IPV6: u16 = 0x86dd;
/// An Ethertype that is neither IP nor ARP.
pub const LLDP: u16 = 0x88cc;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const IPV6_FRAGMENT: u8 = 44;
pub const ESP: u8 = 50;
pub const ICMPV6: u8 = 58;

pub const BROADCAST: Mac = [0xff; 6];

pub fn ethernet(destination: Mac, source: Mac, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header {
        destination,
        source,
        ether_type: etherparse::EtherType(ether_type),
    };
    [&header.to_bytes()[..], payload].concat()
}

/// The frame with an 802.1Q or 802.1ad tag.
pub fn tagged(frame: &[u8], tpid: u16) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    out.extend(tpid.to_be_bytes());
    out.extend([0x20, 0x07]);
    out.extend(&frame[12..]);
    out
}

/// What an IPv4 header says beyond addresses and protocol.
#[derive(Debug, Clone)]
pub struct V4 {
    pub tos: u8,
    pub dont_fragment: bool,
    pub more_fragments: bool,
    /// In units of 8 bytes.
    pub offset: u16,
    /// A multiple of four bytes.
    pub options: Vec<u8>,
}

impl Default for V4 {
    fn default() -> Self {
        Self {
            tos: 0,
            dont_fragment: true,
            more_fragments: false,
            offset: 0,
            options: Vec::new(),
        }
    }
}

impl V4 {
    pub fn packet(&self, source: Ip4, destination: Ip4, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = Ipv4Header::new(
            payload.len() as u16,
            64,
            IpNumber(protocol),
            source,
            destination,
        )
        .expect("fits");
        header.dscp = IpDscp::try_new(self.tos >> 2).expect("six bits");
        header.ecn = IpEcn::try_new(self.tos & 3).expect("two bits");
        header.dont_fragment = self.dont_fragment;
        header.more_fragments = self.more_fragments;
        header.fragment_offset = IpFragOffset::try_new(self.offset).expect("13 bits");
        header.options = Ipv4Options::try_from(&self.options[..]).expect("words");
        header.total_len += self.options.len() as u16;
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes()[..], payload].concat()
    }
}

pub fn ipv4(source: Ip4, destination: Ip4, protocol: u8, payload: &[u8]) -> Vec<u8> {
    V4::default().packet(source, destination, protocol, payload)
}

/// What an IPv6 header says beyond addresses and protocol.
#[derive(Debug, Clone)]
pub struct V6 {
    pub traffic_class: u8,
    pub flow_label: u32,
    pub hop_limit: u8,
}

impl Default for V6 {
    fn default() -> Self {
        Self {
            traffic_class: 0,
            flow_label: 0,
            hop_limit: 64,
        }
    }
}

impl V6 {
    pub fn packet(&self, source: Ip6, destination: Ip6, next: u8, payload: &[u8]) -> Vec<u8> {
        let header = Ipv6Header {
            traffic_class: self.traffic_class,
            flow_label: Ipv6FlowLabel::try_new(self.flow_label).expect("20 bits"),
            payload_length: payload.len() as u16,
            next_header: IpNumber(next),
            hop_limit: self.hop_limit,
            source,
            destination,
        };
        [&header.to_bytes()[..], payload].concat()
    }
}

pub fn ipv6(source: Ip6, destination: Ip6, next: u8, payload: &[u8]) -> Vec<u8> {
    V6::default().packet(source, destination, next, payload)
}

/// A UDP datagram without a checksum.
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let header =
        UdpHeader::without_ipv4_checksum(source, destination, payload.len()).expect("fits");
    [&header.to_bytes()[..], payload].concat()
}

/// The VXLAN header of RFC 7348 section 5, by hand, and the inner frame.
pub fn vxlan(vni: u32, inner: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    [&[0x08, 0, 0, 0, a, b, c, 0][..], inner].concat()
}

pub fn arp(operation: u16, sender: (Mac, Ip4), target: (Mac, Ip4)) -> Vec<u8> {
    ArpEthIpv4Packet {
        operation: ArpOperation(operation),
        sender_mac: sender.0,
        sender_ipv4: sender.1,
        target_mac: target.0,
        target_ipv4: target.1,
    }
    .to_bytes()
    .to_vec()
}

/// An ICMPv6 message: four bytes behind the checksum, then `rest`.
pub fn icmpv6(
    source: Ip6,
    destination: Ip6,
    (type_u8, code_u8): (u8, u8),
    bytes5to8: [u8; 4],
    rest: &[u8],
) -> Vec<u8> {
    let kind = Icmpv6Type::Unknown {
        type_u8,
        code_u8,
        bytes5to8,
    };
    let header = Icmpv6Header::with_checksum(kind, source, destination, rest).expect("fits");
    [&header.to_bytes()[..], rest].concat()
}

/// An ND option with a link-layer address: 1 is the source's, 2 the target's (RFC 4861
/// section 4.6.1).
pub fn link_layer_option(kind: u8, mac: Mac) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

/// A neighbour solicitation (RFC 4861 section 4.3).
pub fn solicitation(source: Ip6, destination: Ip6, target: Ip6, options: &[u8]) -> Vec<u8> {
    let rest = [&target[..], options].concat();
    icmpv6(source, destination, (135, 0), [0; 4], &rest)
}

/// A neighbour advertisement (RFC 4861 section 4.4) with its flags byte.
pub fn advertisement(
    source: Ip6,
    destination: Ip6,
    target: Ip6,
    flags: u8,
    options: &[u8],
) -> Vec<u8> {
    let rest = [&target[..], options].concat();
    icmpv6(source, destination, (136, 0), [flags, 0, 0, 0], &rest)
}

/// The group that a node with this address listens to (RFC 4291 section 2.7.1).
pub fn solicited_node(target: Ip6) -> Ip6 {
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    group[13..].copy_from_slice(&target[13..]);
    group
}

/// The MAC of an IPv6 group (RFC 2464 section 7).
pub fn group_mac(group: Ip6) -> Mac {
    [0x33, 0x33, group[12], group[13], group[14], group[15]]
}

/// An ICMP echo request of `length` bytes: an inner payload that is easy to recognise.
pub fn echo(length: usize) -> Vec<u8> {
    let mut message: Vec<u8> = (0..length.max(8)).map(|i| i as u8).collect();
    message[..8].copy_from_slice(&[8, 0, 0, 0, 0x12, 0x34, 0, 1]);
    let sum = ones_complement(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// The internet checksum (RFC 1071), for messages that etherparse does not build.
pub fn ones_complement(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sixteen bits of the packet at `offset`, replaced.
pub fn patch16(mut packet: Vec<u8>, offset: usize, value: u16) -> Vec<u8> {
    packet[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
    packet
}

/// One byte of the packet at `offset`, replaced.
pub fn patch8(mut packet: Vec<u8>, offset: usize, value: u8) -> Vec<u8> {
    packet[offset] = value;
    packet
}

/// The first `length` bytes.
pub fn cut(mut packet: Vec<u8>, length: usize) -> Vec<u8> {
    packet.truncate(length);
    packet
}
