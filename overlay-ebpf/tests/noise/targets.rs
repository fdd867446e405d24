//! What is done to bytes that anyone may have made up: by the fuzzer in `tests/fuzz`, and by
//! `cargo test` in `main.rs` beside this file.
//!
//! Each target walks an Ethernet frame as a program does, and checks of what it accepts that it
//! means what it says. It returns whether it got to the end of the walk.

use etherparse::{Icmpv4Slice, Icmpv6Slice};
use overlay_ebpf::{
    abi::{Spi, Vni},
    packet::{
        arp::{self, Arp},
        bytes, ecn, esp,
        esp::Esp,
        ethernet::{Ethernet, ether_type},
        flow, icmp, ip_protocol,
        ipv4::{self, Ipv4},
        ipv6::Ipv6,
        ndp::{self, NeighbourAdvertisement, NeighbourSolicitation},
        outer::{self, Macs, Outer},
        udp::Udp,
        vxlan,
    },
};

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// Every target, by the name of its fuzz binary.
pub const ALL: [Target; 6] = [
    ("outer", outer),
    ("esp", esp),
    ("vxlan", vxlan),
    ("arp", arp),
    ("nd", nd),
    ("inner", inner),
];

/// The `N` bytes at `at`, if the frame has them.
fn field<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at + N)?.try_into().ok()
}

/// The IP header of a frame, outside or inside, as far as the programs need it.
enum Ip {
    V4(Ipv4),
    V6(Ipv6),
}

/// The IP header of a frame and the offset of what follows; `None` for options.
fn ip(frame: &[u8]) -> Option<(Ip, u8, usize)> {
    match Ethernet::parse(&field(frame, 0)?).ether_type {
        ether_type::IPV4 => {
            let header = field(frame, 14)?;
            let ip = Ipv4::parse(&header).ok()?;
            assert!(ip.total_len >= ip.header_len as u16 && ip.header_len >= 20);
            if ip.has_options() {
                return None;
            }
            if ipv4::checksum_ok(&header) && header[6] & 0x80 == 0 {
                // Both zeros of one's complement pass as a checksum; we write the one that fits.
                let mut back = ip.to_bytes();
                if ip.checksum == 0xffff {
                    back[10..12].fill(0xff);
                }
                assert_eq!(back, header);
            }
            Some((Ip::V4(ip), ip.protocol, 34))
        }
        ether_type::IPV6 => {
            let header = field(frame, 14)?;
            let ip = Ipv6::parse(&header).ok()?;
            assert_eq!(ip.to_bytes(), header);
            Some((Ip::V6(ip), ip.next_header, 54))
        }
        _ => None,
    }
}

/// `underlay_rx` on VXLAN: what it accepts, we could have sent, but for fields that routers change
/// and the UDP checksum.
pub fn outer(frame: &[u8]) -> bool {
    walk_outer(frame).is_some()
}

fn walk_outer(frame: &[u8]) -> Option<()> {
    let ethernet = Ethernet::parse(&field(frame, 0)?);
    let (ip, protocol, at) = ip(frame)?;
    if protocol != ip_protocol::UDP {
        return None;
    }
    let udp = Udp::parse(&field(frame, at)?);
    let vni = vxlan::parse(&field(frame, at + 8)?).ok()?;
    let inner_ethernet = field(frame, at + 16)?;
    let inner_len = udp.length.checked_sub(16)?;
    if inner_len < 14 {
        return None;
    }
    let headers = Outer {
        macs: Macs::new(ethernet.destination, ethernet.source),
        dscp_ecn: match ip {
            Ip::V4(ip) => ip.tos(),
            Ip::V6(ip) => ip.traffic_class,
        },
        source_port: udp.source_port,
        destination_port: udp.destination_port,
        flow_label: match ip {
            Ip::V4(_) => 0,
            Ip::V6(ip) => ip.flow_label,
        },
        vni,
        inner_len,
    };
    match ip {
        Ip::V4(ip) => {
            if ip.is_fragment()
                || !ipv4::checksum_ok(&field(frame, 14)?)
                || ip.total_len.checked_sub(20) != Some(udp.length)
            {
                return None;
            }
            let mut expected = outer::v4(&headers, ip.source, ip.destination, &inner_ethernet);
            let as_received = Ipv4 {
                identification: ip.identification,
                dont_fragment: ip.dont_fragment,
                ttl: ip.ttl,
                ..Ipv4::parse(&bytes::take::<14, 20, _>(&expected)).unwrap()
            };
            bytes::put::<14, _, _>(&mut expected, &as_received.to_bytes());
            bytes::put::<40, _, _>(&mut expected, &udp.checksum.to_be_bytes());
            let mut received: [u8; outer::V4_LEN] = field(frame, 0)?;
            // The reserved flag, which no parser keeps, and the checksum that covers it.
            if received[20] & 0x80 != 0 || ip.checksum == 0xffff {
                bytes::put::<14, _, _>(&mut received, &as_received.to_bytes());
            }
            assert_eq!(expected, received);
            let _ = ecn::decapsulate(inner_tos(frame, at + 16).unwrap_or(0), ip.tos());
        }
        Ip::V6(ip) => {
            if ip.payload_len != udp.length {
                return None;
            }
            let mut expected = outer::v6(&headers, ip.source, ip.destination, &inner_ethernet);
            bytes::put::<21, _, _>(&mut expected, &[ip.hop_limit]);
            bytes::put::<60, _, _>(&mut expected, &udp.checksum.to_be_bytes());
            assert_eq!(Some(expected), field(frame, 0));
            let _ = ecn::decapsulate(inner_tos(frame, at + 16).unwrap_or(0), ip.traffic_class);
        }
    }
    Some(())
}

fn inner_tos(frame: &[u8], at: usize) -> Option<u8> {
    match ip(frame.get(at..)?)?.0 {
        Ip::V4(ip) => Some(ip.tos()),
        Ip::V6(ip) => Some(ip.traffic_class),
    }
}

/// `underlay_rx` on ESP: an SPI that is not reserved names sender, slot and lane, and nothing else.
pub fn esp(frame: &[u8]) -> bool {
    walk_esp(frame).is_some()
}

fn walk_esp(frame: &[u8]) -> Option<()> {
    let (_, protocol, at) = ip(frame)?;
    if protocol != ip_protocol::ESP {
        return None;
    }
    let header: [u8; esp::HEADER_LEN] = field(frame, at)?;
    let esp = Esp::parse(&header);
    assert_eq!(
        (u64::from(esp.spi) << 32 | u64::from(esp.sequence)).to_be_bytes(),
        header
    );
    let spi = Spi::new(esp.spi).ok()?;
    let sender = spi.sender().ok()?;
    assert_eq!(Spi::of(sender, spi.slot(), spi.lane()), spi);
    Some(())
}

/// A VXLAN header at the start of the bytes, or where a frame has it.
pub fn vxlan(frame: &[u8]) -> bool {
    [0, 42, 62].into_iter().any(|at| {
        let Some(header) = field(frame, at) else {
            return false;
        };
        let Ok(vni) = vxlan::parse(&header) else {
            return false;
        };
        assert!(vni != 0 && vni <= Vni::MAX);
        assert_eq!(vxlan::to_bytes(vni), header);
        true
    })
}

/// `endpoint_tx` on ARP: a reply names the asked address and goes to the asker.
pub fn arp(frame: &[u8]) -> bool {
    walk_arp(frame).is_some()
}

fn walk_arp(frame: &[u8]) -> Option<()> {
    if Ethernet::parse(&field(frame, 0)?).ether_type != ether_type::ARP {
        return None;
    }
    let packet = field(frame, 14)?;
    let arp = Arp::parse(&packet).ok()?;
    assert_eq!(arp.to_bytes(), packet);
    assert!(!(arp.is_probe() && arp.is_gratuitous()));
    let mac = [2, 0x42, 10, 0, 9, 3];
    let reply = Arp::parse(&arp.reply(mac)).unwrap();
    assert_eq!(
        reply,
        Arp {
            operation: arp::REPLY,
            sender_mac: mac,
            sender_ip: arp.target_ip,
            target_mac: arp.sender_mac,
            target_ip: arp.sender_ip,
        }
    );
    assert!(!reply.is_probe());
    Some(())
}

/// `endpoint_tx` on neighbour discovery: an answer is one that a host accepts.
pub fn nd(frame: &[u8]) -> bool {
    walk_nd(frame).is_some()
}

fn walk_nd(frame: &[u8]) -> Option<()> {
    let (Ip::V6(ip), ip_protocol::ICMPV6, at) = ip(frame)? else {
        return None;
    };
    let message = field(frame, at)?;
    let option = field(frame, at + 24).unwrap_or([0; 8]);
    let source = ndp::source_link_layer(&option);
    let target = ndp::target_link_layer(&option);
    assert!(source.is_none() || target.is_none());

    if let Ok(advertisement) = NeighbourAdvertisement::parse(&message) {
        assert!(!ndp::is_multicast(advertisement.target));
        assert!(NeighbourSolicitation::parse(&message).is_err());
        return Some(());
    }
    let solicitation = NeighbourSolicitation::parse(&message).ok()?;
    let header = field(frame, 14)?;
    if let Some(icmp) = field::<32>(frame, at).filter(|icmp| icmp[2..4] != [0xff; 2]) {
        // Both zeros of one's complement pass as a checksum here, one of them there.
        let oracle = Icmpv6Slice::from_slice(&icmp).unwrap();
        assert_eq!(
            ndp::solicitation_checksum_ok(&header, &icmp),
            ip.payload_len == 32 && oracle.is_checksum_valid(ip.source, ip.destination)
        );
    }
    ndp::solicitation_checksum_ok(&header, &message);

    let mac = [2, 0x42, 10, 0, 9, 3];
    let answer = ndp::advertisement(solicitation.target, mac, ip.source, true);
    let answer_ip = Ipv6::parse(&bytes::take::<0, 40, _>(&answer)).unwrap();
    let icmp = bytes::take::<40, 32, _>(&answer);
    let advertisement = NeighbourAdvertisement::parse(&bytes::take::<0, 24, _>(&icmp)).unwrap();
    // RFC 4861 section 7.1.2: what a host checks before it believes an advertisement.
    assert!(ndp::valid_hop_limit(answer_ip.hop_limit));
    assert!(ndp::solicitation_checksum_ok(&answer_ip.to_bytes(), &icmp));
    assert!(!(advertisement.solicited && ndp::is_multicast(answer_ip.destination)));
    assert!(!ndp::is_unspecified(answer_ip.destination));
    assert_eq!(advertisement.target, solicitation.target);
    assert_eq!(
        ndp::target_link_layer(&bytes::take::<24, 8, _>(&icmp)),
        Some(mac)
    );
    Some(())
}

/// `endpoint_tx` on a frame for another node: its flow, and the answer if it is too large.
pub fn inner(frame: &[u8]) -> bool {
    walk_inner(frame).is_some()
}

fn walk_inner(frame: &[u8]) -> Option<()> {
    let ethernet = field(frame, 0)?;
    let Some((ip, protocol, at)) = ip(frame) else {
        choose(flow::hash_ethernet(&ethernet));
        return None;
    };
    let ports = u32::from_be_bytes(field(frame, at).unwrap_or([0; 4]));
    match ip {
        Ip::V4(ip) => {
            choose(flow::hash_v4(ip.source, ip.destination, protocol, ports));
            let original = field(frame, 14)?;
            if !icmp::answerable_v4(&original) {
                return None;
            }
            let answer = icmp::too_big_v4(&original, 1416, [10, 0, 9, 1]);
            assert!(ipv4::checksum_ok(&bytes::take::<0, 20, _>(&answer)));
            let icmp = Icmpv4Slice::from_slice(&answer[20..]).unwrap();
            assert_eq!(
                icmp.icmp_type().calc_checksum(icmp.payload()),
                icmp.checksum()
            );
            assert_eq!(&answer[28..], original);
            assert!(!icmp::answerable_v4(&bytes::take::<0, 28, _>(&answer)));
        }
        Ip::V6(ip) => {
            choose(flow::hash_v6(ip.source, ip.destination, protocol, ports));
            let original = field(frame, 14)?;
            if !icmp::answerable_v6(&original) {
                return None;
            }
            let gateway = [0xfd; 16];
            let answer = icmp::too_big_v6(&original, 1396, gateway);
            let icmp = Icmpv6Slice::from_slice(&answer[40..]).unwrap();
            assert!(icmp.is_checksum_valid(gateway, ip.source));
            assert_eq!(&answer[48..], original);
            assert!(!icmp::answerable_v6(&bytes::take::<0, 48, _>(&answer)));
        }
    }
    Some(())
}

fn choose(hash: u32) {
    assert!(flow::source_port(hash) >= flow::FIRST_SOURCE_PORT);
    assert!(flow::label(hash) < 1 << 20);
    assert!((1..=16).all(|lanes| flow::lane(hash, lanes) < lanes));
}
