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
    const ICMP_LEN: u16 = (MESSAGE_LEN + OPTION_LEN) as u16;
    let icmp_type = [icmpv6_type::NEIGHBOUR_ADVERTISEMENT, 0];
    let option = [TARGET_LINK_LAYER, 1];
    // From the parts: a copy of the message to sum would cost its size in BPF stack. The target
    // counts twice, as the source in the pseudo-header and in the message.
    let sum = checksum::pseudo_v6(&target, &destination, ICMP_LEN, ip_protocol::ICMPV6)
        + checksum::sum(&target)
        + checksum::sum(&icmp_type)
        + checksum::sum(&[flags])
        + checksum::sum(&option)
        + checksum::sum(&mac);

    let ip = Ipv6 {
        traffic_class: 0,
        flow_label: 0,
        payload_len: ICMP_LEN,
        next_header: ip_protocol::ICMPV6,
        hop_limit: 255,
        source: target,
        destination,
    };
    let mut packet = [0; ADVERTISEMENT_LEN];
    bytes::put::<0, _, _>(&mut packet, &ip.to_bytes());
    bytes::put::<40, _, _>(&mut packet, &icmp_type);
    bytes::put::<42, _, _>(&mut packet, &checksum::finish(sum).to_be_bytes());
    bytes::put::<44, _, _>(&mut packet, &[flags]);
    bytes::put::<48, _, _>(&mut packet, &target);
    bytes::put::<64, _, _>(&mut packet, &option);
    bytes::put::<66, _, _>(&mut packet, &mac);
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

#[cfg(test)]
mod tests {
    use etherparse::Icmpv6Slice;
    use proptest::prelude::*;

    use super::*;
    use crate::packet::captures;

    const A: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a];
    const B: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0b];
    const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];

    fn ip(frame: &[u8; 86]) -> [u8; 40] {
        bytes::take::<14, 40, _>(frame)
    }

    fn icmp(frame: &[u8; 86]) -> [u8; 32] {
        bytes::take::<54, 32, _>(frame)
    }

    fn message(frame: &[u8; 86]) -> [u8; MESSAGE_LEN] {
        bytes::take::<54, 24, _>(frame)
    }

    #[test]
    fn captured_solicitation_names_target_and_source_mac() {
        let frame = &captures::SOLICITATION;
        assert_eq!(
            NeighbourSolicitation::parse(&message(frame)),
            Ok(NeighbourSolicitation { target: B })
        );
        assert_eq!(
            source_link_layer(&bytes::take::<78, 8, _>(frame)),
            Some([2, 0, 0, 0, 0, 0x0a])
        );
        let ip = Ipv6::parse(&ip(frame)).unwrap();
        assert!(valid_hop_limit(ip.hop_limit));
        assert_eq!(ip.destination, solicited_node_multicast(B));
        assert_eq!(bytes::take::<0, 6, _>(frame), multicast_mac(ip.destination));
    }

    #[test]
    fn captured_probe_comes_from_the_unspecified_address_without_a_source_mac() {
        let frame = &captures::PROBE;
        let target = NeighbourSolicitation::parse(&message(frame))
            .unwrap()
            .target;
        assert!(is_link_local(target));
        assert!(is_unspecified(Ipv6::parse(&ip(frame)).unwrap().source));
        assert_eq!(source_link_layer(&bytes::take::<78, 8, _>(frame)), None);
        assert!(solicitation_checksum_ok(&ip(frame), &icmp(frame)));
    }

    #[test]
    fn captured_advertisements_name_their_target() {
        let frame = &captures::ADVERTISEMENT;
        assert_eq!(
            NeighbourAdvertisement::parse(&message(frame)),
            Ok(NeighbourAdvertisement {
                target: B,
                solicited: true
            })
        );
        let option = bytes::take::<78, 8, _>(frame);
        assert_eq!(target_link_layer(&option), Some(MAC_B));
        assert_eq!(source_link_layer(&option), None);
        let bare = bytes::take::<54, 24, _>(&captures::BARE_ADVERTISEMENT);
        assert_eq!(NeighbourAdvertisement::parse(&bare).unwrap().target, A);
    }

    #[test]
    fn advertisement_is_the_kernels() {
        assert_eq!(
            advertisement(B, MAC_B, A, true),
            bytes::take::<14, 72, _>(&captures::ADVERTISEMENT)
        );
    }

    #[test]
    fn an_answer_to_a_probe_goes_to_all_nodes_unsolicited() {
        for destination in [[0; 16], ALL_NODES] {
            let packet = advertisement(B, MAC_B, destination, true);
            let ip = Ipv6::parse(&bytes::take::<0, 40, _>(&packet)).unwrap();
            assert_eq!(
                (ip.source, ip.destination, ip.hop_limit),
                (B, ALL_NODES, 255)
            );
            let icmp = bytes::take::<40, 24, _>(&packet);
            assert!(!NeighbourAdvertisement::parse(&icmp).unwrap().solicited);
            assert_eq!(packet, advertisement(B, MAC_B, ALL_NODES, false));
        }
        assert_eq!(multicast_mac(ALL_NODES), [0x33, 0x33, 0, 0, 0, 1]);
    }

    #[test]
    fn checksum_covers_addresses_message_and_length() {
        let frame = captures::SOLICITATION;
        assert!(solicitation_checksum_ok(&ip(&frame), &icmp(&frame)));
        // Payload length, next header, addresses and message; not the hop limit.
        for byte in (18..21).chain(22..86) {
            let mut wrong = frame;
            wrong[byte] ^= 0x10;
            assert!(
                !solicitation_checksum_ok(&ip(&wrong), &icmp(&wrong)),
                "byte {byte}"
            );
        }
        // A longer message than the header says, its checksum right for that header.
        let mut longer = [0; 40];
        bytes::put::<0, _, _>(&mut longer, &icmp(&frame));
        assert!(!solicitation_checksum_ok(&ip(&frame), &longer));
        let bare = &captures::BARE_ADVERTISEMENT;
        assert!(solicitation_checksum_ok(
            &bytes::take::<14, 40, _>(bare),
            &bytes::take::<54, 24, _>(bare)
        ));
        let router = &captures::ROUTER_SOLICITATION;
        assert!(solicitation_checksum_ok(
            &bytes::take::<14, 40, _>(router),
            &bytes::take::<54, 16, _>(router)
        ));
    }

    #[test]
    fn each_error_has_its_cause() {
        let solicitation = message(&captures::SOLICITATION);
        for (at, value, expected) in [
            (0, icmpv6_type::NEIGHBOUR_ADVERTISEMENT, NdpError::Type),
            (0, icmpv6_type::ROUTER_ADVERTISEMENT, NdpError::Type),
            (1, 1, NdpError::Code),
            (8, 0xff, NdpError::MulticastTarget),
        ] {
            let mut icmp = solicitation;
            icmp[at] = value;
            assert_eq!(
                NeighbourSolicitation::parse(&icmp),
                Err(expected),
                "byte {at} = {value:#x}"
            );
        }
        assert_eq!(
            NeighbourAdvertisement::parse(&solicitation),
            Err(NdpError::Type)
        );
    }

    #[test]
    fn an_option_of_another_length_is_no_ethernet_address() {
        for length in (0..=255).filter(|length| *length != 1) {
            assert_eq!(source_link_layer(&[1, length, 2, 0, 0, 0, 0, 1]), None);
            assert_eq!(target_link_layer(&[2, length, 2, 0, 0, 0, 0, 1]), None);
        }
    }

    #[test]
    fn only_the_full_hop_limit_is_on_link() {
        assert!((0..255).all(|hop_limit| !valid_hop_limit(hop_limit)) && valid_hop_limit(255));
    }

    #[test]
    fn address_kinds_agree_with_the_standard_library() {
        for text in [
            "::",
            "::1",
            "fe80::1",
            "fe80:0:0:1::1",
            "febf::1",
            "fec0::1",
            "fd00::1",
            "2001:db8::a",
            "ff02::1",
            "ff02::2",
            "ff02::1:ff00:a",
            "ff02::1:feff:a",
            "ff02::2:ff00:a",
            "ff05::1:ff00:a",
            "ff02:0:0:1:0:1:ff00:a",
            "::ffff:10.0.0.1",
        ] {
            let address: std::net::Ipv6Addr = text.parse().unwrap();
            let bytes = address.octets();
            assert_eq!(is_unspecified(bytes), address.is_unspecified(), "{text}");
            assert_eq!(is_multicast(bytes), address.is_multicast(), "{text}");
            assert_eq!(
                is_link_local(bytes),
                address.is_unicast_link_local(),
                "{text}"
            );
            assert_eq!(
                is_solicited_node_multicast(bytes),
                text == "ff02::1:ff00:a",
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn parse_back(target: [u8; 16], mac: [u8; 6], destination: [u8; 16], solicited: bool) {
            let mut target = target;
            target[0] &= 0x7f;
            let packet = advertisement(target, mac, destination, solicited);
            let icmp = bytes::take::<40, 24, _>(&packet);
            let read = NeighbourAdvertisement::parse(&icmp).unwrap();
            prop_assert_eq!(read.target, target);
            prop_assert_eq!(read.solicited, solicited && !is_multicast(destination));
            prop_assert_eq!(target_link_layer(&bytes::take::<64, 8, _>(&packet)), Some(mac));

            let ip = Ipv6::parse(&bytes::take::<0, 40, _>(&packet)).unwrap();
            prop_assert_eq!(ip.payload_len as usize, packet.len() - 40);
            let oracle = Icmpv6Slice::from_slice(&packet[40..]).unwrap();
            prop_assert!(oracle.is_checksum_valid(ip.source, ip.destination));
        }

        #[test]
        fn parse_noise(noise: [u8; MESSAGE_LEN], icmp_type in 135u8..=136, option: [u8; 8]) {
            let mut icmp = noise;
            icmp[0] = icmp_type;
            icmp[1] &= 1;
            let solicitation = NeighbourSolicitation::parse(&icmp);
            let advertisement = NeighbourAdvertisement::parse(&icmp);
            prop_assert!(solicitation.is_err() || advertisement.is_err());
            prop_assert_eq!(
                solicitation.is_ok() || advertisement.is_ok(),
                icmp[1] == 0 && icmp[8] != 0xff
            );
            prop_assert!(source_link_layer(&option).is_none() || target_link_layer(&option).is_none());
        }

        #[test]
        fn checksum_agrees_with_an_independent_implementation(
            mut header: [u8; 40], mut icmp: [u8; 32], right: bool,
        ) {
            header[4..7].copy_from_slice(&[0, 32, ip_protocol::ICMPV6]);
            let (source, destination) =
                (bytes::take::<8, 16, _>(&header), bytes::take::<24, 16, _>(&header));
            if right {
                icmp[2..4].fill(0);
                let pseudo = checksum::pseudo_v6(&source, &destination, 32, ip_protocol::ICMPV6);
                let checksum = checksum::finish(pseudo + checksum::sum(&icmp));
                icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
                prop_assert!(solicitation_checksum_ok(&header, &icmp));
            }
            prop_assert_eq!(
                solicitation_checksum_ok(&header, &icmp),
                Icmpv6Slice::from_slice(&icmp).unwrap().is_checksum_valid(source, destination)
            );
        }
    }
}
