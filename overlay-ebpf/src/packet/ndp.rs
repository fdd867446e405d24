//! Neighbour discovery for IPv6 (RFC 4861): solicitations to answer, advertisements to check.

use super::{bytes, checksum, icmpv6_type, ip_protocol, ipv6::Ipv6};

/// Bytes of a solicitation or advertisement without options.
pub const MESSAGE_LEN: usize = 24;
/// Bytes of a link-layer address option (RFC 4861 section 4.6.1).
pub const OPTION_LEN: usize = 8;
/// Bytes of an IPv6 packet with an advertisement and its link-layer address option.
pub const ADVERTISEMENT_LEN: usize = 72;

/// `ff02::1` (RFC 4291 section 2.7.1).
pub const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Why 24 bytes are not the message asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NdpError {
    /// The ICMPv6 type is another.
    Type,
    /// The code is not 0.
    Code,
    /// The target is a multicast address (RFC 4861 sections 7.1.1 and 7.1.2).
    MulticastTarget,
}

/// "Who has `target`?" (RFC 4861 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourSolicitation {
    pub target: [u8; 16],
}

impl NeighbourSolicitation {
    /// Reads the message, which starts at the ICMPv6 type. What RFC 4861 section 7.1.1 asks beyond
    /// it is [`valid_hop_limit`] and [`solicitation_checksum_ok`].
    #[inline(always)]
    pub const fn parse(icmp: &[u8; MESSAGE_LEN]) -> Result<Self, NdpError> {
        match target(icmp, icmpv6_type::NEIGHBOUR_SOLICITATION) {
            Ok(target) => Ok(Self { target }),
            Err(error) => Err(error),
        }
    }
}

/// "`target` is at …" (RFC 4861 section 4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourAdvertisement {
    pub target: [u8; 16],
    /// Answers a solicitation. Must not be set when the destination is multicast.
    pub solicited: bool,
}

impl NeighbourAdvertisement {
    /// Reads the message, which starts at the ICMPv6 type.
    #[inline(always)]
    pub const fn parse(icmp: &[u8; MESSAGE_LEN]) -> Result<Self, NdpError> {
        match target(icmp, icmpv6_type::NEIGHBOUR_ADVERTISEMENT) {
            Ok(target) => Ok(Self {
                target,
                solicited: bytes::byte::<4, _>(icmp) & SOLICITED != 0,
            }),
            Err(error) => Err(error),
        }
    }
}

#[inline(always)]
const fn target(icmp: &[u8; MESSAGE_LEN], message_type: u8) -> Result<[u8; 16], NdpError> {
    if bytes::byte::<0, _>(icmp) != message_type {
        return Err(NdpError::Type);
    }
    if bytes::byte::<1, _>(icmp) != 0 {
        return Err(NdpError::Code);
    }
    let target = bytes::take::<8, 16, _>(icmp);
    if is_multicast(target) {
        return Err(NdpError::MulticastTarget);
    }
    Ok(target)
}

/// The MAC of a source link-layer address option (RFC 4861 section 4.6.1), or `None` if the option
/// is another. Options may stand in any order; this reads the one given.
#[inline(always)]
pub const fn source_link_layer(option: &[u8; OPTION_LEN]) -> Option<[u8; 6]> {
    link_layer(option, SOURCE_LINK_LAYER)
}

/// The MAC of a target link-layer address option, which advertisements carry.
#[inline(always)]
pub const fn target_link_layer(option: &[u8; OPTION_LEN]) -> Option<[u8; 6]> {
    link_layer(option, TARGET_LINK_LAYER)
}

#[inline(always)]
const fn link_layer(option: &[u8; OPTION_LEN], option_type: u8) -> Option<[u8; 6]> {
    // The length counts units of 8 bytes.
    if bytes::be16::<0, _>(option) == u16::from_be_bytes([option_type, 1]) {
        Some(bytes::take::<2, 6, _>(option))
    } else {
        None
    }
}

/// Whether a message can only come from this link: a router would have lowered the hop limit
/// (RFC 4861 section 11.2).
#[inline(always)]
pub const fn valid_hop_limit(hop_limit: u8) -> bool {
    hop_limit == 255
}

/// Whether the checksum of an ND message is right (RFC 4443 section 2.3). `icmp` is the whole of
/// it: 24 bytes, or 32 with one option; the payload length in `ip` must say the same.
#[inline(always)]
pub fn solicitation_checksum_ok<const N: usize>(ip: &[u8; 40], icmp: &[u8; N]) -> bool {
    let length = bytes::be16::<4, _>(ip);
    let pseudo = checksum::pseudo_v6(
        &bytes::take::<8, 16, _>(ip),
        &bytes::take::<24, 16, _>(ip),
        length,
        ip_protocol::ICMPV6,
    );
    bytes::byte::<6, _>(ip) == ip_protocol::ICMPV6
        && length as usize == N
        && checksum::fold(pseudo + checksum::sum(icmp)) == 0xffff
}

/// The IPv6 packet that tells `destination`, the source of the solicitation, that `target` is at
/// `mac` (RFC 4861 sections 4.4 and 7.2.4). Its source is `target`, its hop limit 255; the override
/// flag is set, because `mac` is the target's own.
///
/// A solicitation from `::` is answered to [`ALL_NODES`]; an answer to a multicast address never
/// has the solicited flag, whatever `solicited` says.
#[inline(always)]
pub fn advertisement(
    target: [u8; 16],
    mac: [u8; 6],
    destination: [u8; 16],
    solicited: bool,
) -> [u8; ADVERTISEMENT_LEN] {
    let destination = if is_unspecified(destination) {
        ALL_NODES
    } else {
        destination
    };
    let flags = if solicited && !is_multicast(destination) {
        OVERRIDE | SOLICITED
    } else {
        OVERRIDE
    };
    const ICMP_LEN: usize = MESSAGE_LEN + OPTION_LEN;
    let mut icmp = [0; ICMP_LEN];
    bytes::put::<0, _, _>(&mut icmp, &[icmpv6_type::NEIGHBOUR_ADVERTISEMENT]);
    bytes::put::<4, _, _>(&mut icmp, &[flags]);
    bytes::put::<8, _, _>(&mut icmp, &target);
    bytes::put::<24, _, _>(&mut icmp, &[TARGET_LINK_LAYER, 1]);
    bytes::put::<26, _, _>(&mut icmp, &mac);
    let sum = checksum::sum(&icmp)
        + checksum::pseudo_v6(&target, &destination, ICMP_LEN as u16, ip_protocol::ICMPV6);
    bytes::put::<2, _, _>(&mut icmp, &checksum::finish(sum).to_be_bytes());

    let ip = Ipv6 {
        traffic_class: 0,
        flow_label: 0,
        payload_len: ICMP_LEN as u16,
        next_header: ip_protocol::ICMPV6,
        hop_limit: 255,
        source: target,
        destination,
    };
    let mut packet = [0; ADVERTISEMENT_LEN];
    bytes::put::<0, _, _>(&mut packet, &ip.to_bytes());
    bytes::put::<40, _, _>(&mut packet, &icmp);
    packet
}

/// `::`, the source of a duplicate-address probe (RFC 4862 section 5.4.2).
#[inline(always)]
pub const fn is_unspecified(address: [u8; 16]) -> bool {
    let [high, low] = halves(address);
    high | low == 0
}

/// `ff00::/8` (RFC 4291 section 2.7).
#[inline(always)]
pub const fn is_multicast(address: [u8; 16]) -> bool {
    bytes::byte::<0, _>(&address) == 0xff
}

/// `fe80::/10` (RFC 4291 section 2.5.6).
#[inline(always)]
pub const fn is_link_local(address: [u8; 16]) -> bool {
    bytes::be16::<0, _>(&address) & 0xffc0 == 0xfe80
}

/// `ff02::1:ff00:0/104` (RFC 4291 section 2.7.1).
#[inline(always)]
pub const fn is_solicited_node_multicast(address: [u8; 16]) -> bool {
    let [high, low] = halves(address);
    high == 0xff02 << 48 && low >> 24 == 0x1ff
}

/// The group to which solicitations of `target` go (RFC 4291 section 2.7.1).
#[inline(always)]
pub const fn solicited_node_multicast(target: [u8; 16]) -> [u8; 16] {
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    bytes::put::<13, _, _>(&mut group, &bytes::take::<13, 3, _>(&target));
    group
}

/// The Ethernet address of an IPv6 multicast group: `33:33` and its last four bytes
/// (RFC 2464 section 7).
#[inline(always)]
pub const fn multicast_mac(group: [u8; 16]) -> [u8; 6] {
    let mut mac = [0x33; 6];
    bytes::put::<2, _, _>(&mut mac, &bytes::take::<12, 4, _>(&group));
    mac
}

#[inline(always)]
const fn halves(address: [u8; 16]) -> [u64; 2] {
    [
        u64::from_be_bytes(bytes::take::<0, 8, _>(&address)),
        u64::from_be_bytes(bytes::take::<8, 8, _>(&address)),
    ]
}
