//! The headers in front of an inner frame: outer Ethernet, IP, UDP and VXLAN (RFC 7348 section 5),
//! and behind them the inner Ethernet header, so that one write replaces all that moved.

use super::{
    bytes,
    ethernet::{self, Ethernet, ether_type},
    ip_protocol,
    ipv4::{self, Ipv4},
    ipv6::{self, Ipv6},
    udp::{self, Udp},
    vxlan,
};

/// Bytes that encapsulation adds over IPv4: 14 + 20 + 8 + 8.
pub const OVERHEAD_V4: usize =
    ethernet::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN + vxlan::HEADER_LEN;
/// Bytes that encapsulation adds over IPv6: 14 + 40 + 8 + 8.
pub const OVERHEAD_V6: usize =
    ethernet::HEADER_LEN + ipv6::HEADER_LEN + udp::HEADER_LEN + vxlan::HEADER_LEN;
/// Bytes up to the end of the inner Ethernet header over IPv4.
pub const V4_LEN: usize = OVERHEAD_V4 + ethernet::HEADER_LEN;
/// Bytes up to the end of the inner Ethernet header over IPv6.
pub const V6_LEN: usize = OVERHEAD_V6 + ethernet::HEADER_LEN;

/// UDP and VXLAN header: what the UDP length counts beyond the inner frame.
const UDP_VXLAN_LEN: u16 = (udp::HEADER_LEN + vxlan::HEADER_LEN) as u16;
/// Longest inner frame whose outer IPv4 length fits 16 bits.
pub const MAX_INNER_LEN_V4: u16 = u16::MAX - ipv4::HEADER_LEN as u16 - UDP_VXLAN_LEN;
/// Longest inner frame whose outer IPv6 length fits 16 bits.
pub const MAX_INNER_LEN_V6: u16 = u16::MAX - UDP_VXLAN_LEN;

/// Time to live and hop limit of outer packets.
const HOP_LIMIT: u8 = 64;

/// What the outer headers of a frame say, apart from the addresses of the VTEPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    /// DSCP and ECN, from [`ecn::outer_from_inner`](super::ecn::outer_from_inner).
    pub dscp_ecn: u8,
    /// From [`flow::source_port`](super::flow::source_port).
    pub source_port: u16,
    pub destination_port: u16,
    /// From [`flow::label`](super::flow::label); lower 20 bits, IPv6 only.
    pub flow_label: u32,
    /// 24 bits.
    pub vni: u32,
    /// Bytes of the inner frame with its 14-byte Ethernet header. Beyond [`MAX_INNER_LEN_V4`] or
    /// [`MAX_INNER_LEN_V6`] the length fields stay at their maximum; no such frame may be sent.
    pub inner_len: u16,
}

impl Outer {
    #[inline(always)]
    const fn ethernet(&self, ether_type: u16) -> [u8; ethernet::HEADER_LEN] {
        Ethernet {
            destination: self.destination_mac,
            source: self.source_mac,
            ether_type,
        }
        .to_bytes()
    }

    #[inline(always)]
    const fn udp_len(&self) -> u16 {
        self.inner_len.saturating_add(UDP_VXLAN_LEN)
    }

    /// Without a checksum: RFC 7348 section 5, and RFC 6935 section 5 over IPv6, where the
    /// requirements of RFC 6936 section 4 hold: both ends check addresses, port and VNI, and the
    /// inner packet has a checksum of its own.
    #[inline(always)]
    const fn udp(&self) -> [u8; udp::HEADER_LEN] {
        Udp {
            source_port: self.source_port,
            destination_port: self.destination_port,
            length: self.udp_len(),
            checksum: 0,
        }
        .to_bytes()
    }
}

/// Outer headers over IPv4 and the inner Ethernet header. "Don't fragment" is set, so the
/// identification means nothing and is 0 (RFC 6864 section 4.1).
#[inline(always)]
pub const fn v4(
    outer: &Outer,
    source: [u8; 4],
    destination: [u8; 4],
    inner_ethernet: &[u8; ethernet::HEADER_LEN],
) -> [u8; V4_LEN] {
    let ip = Ipv4 {
        header_len: ipv4::HEADER_LEN as u8,
        dscp: outer.dscp_ecn >> 2,
        ecn: outer.dscp_ecn & 3,
        total_len: outer.udp_len().saturating_add(ipv4::HEADER_LEN as u16),
        identification: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: HOP_LIMIT,
        protocol: ip_protocol::UDP,
        checksum: 0,
        source,
        destination,
    };
    let mut headers = [0; V4_LEN];
    bytes::put::<0, _, _>(&mut headers, &outer.ethernet(ether_type::IPV4));
    bytes::put::<14, _, _>(&mut headers, &ip.to_bytes());
    bytes::put::<34, _, _>(&mut headers, &outer.udp());
    bytes::put::<42, _, _>(&mut headers, &vxlan::to_bytes(outer.vni));
    bytes::put::<50, _, _>(&mut headers, inner_ethernet);
    headers
}

/// Outer headers over IPv6 and the inner Ethernet header.
#[inline(always)]
pub const fn v6(
    outer: &Outer,
    source: [u8; 16],
    destination: [u8; 16],
    inner_ethernet: &[u8; ethernet::HEADER_LEN],
) -> [u8; V6_LEN] {
    let ip = Ipv6 {
        traffic_class: outer.dscp_ecn,
        flow_label: outer.flow_label,
        payload_len: outer.udp_len(),
        next_header: ip_protocol::UDP,
        hop_limit: HOP_LIMIT,
        source,
        destination,
    };
    let mut headers = [0; V6_LEN];
    bytes::put::<0, _, _>(&mut headers, &outer.ethernet(ether_type::IPV6));
    bytes::put::<14, _, _>(&mut headers, &ip.to_bytes());
    bytes::put::<54, _, _>(&mut headers, &outer.udp());
    bytes::put::<62, _, _>(&mut headers, &vxlan::to_bytes(outer.vni));
    bytes::put::<70, _, _>(&mut headers, inner_ethernet);
    headers
}
