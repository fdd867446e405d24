//! Frames that several tables share.

use overlay_ebpf::{abi::SaDirection, packet::flow};
use overlay_tests::testrun::{
    World,
    frames::{self, ICMP, ICMPV6, IPV4, IPV6, LLDP, Mac, TCP, UDP, V4, V6},
    world::{
        Host, LOCAL4, LOCAL6, NODE, PEER4, PEER6, PORT, REENTRY_MAC, REMOTE4, REMOTE4_MAC, REMOTE6,
        REMOTE6_MAC, SLOT4, SLOT6, UNDERLAY_MAC,
    },
};

pub use overlay_ebpf::abi::{DropReason as Reason, program};

/// `skb->tc_index` of packets that `endpoint_tx` made: "ov" for encrypted, "op" for plain, and of
/// decapsulated frames on a second way, "od" (`programs::origin`).
pub const ENCRYPT: u16 = 0x6f76;
pub const PLAINTEXT: u16 = 0x6f70;
/// Of ESP in UDP that `underlay_audit` has seen, "ou".
pub const ESP_IN_UDP: u16 = 0x6f75;
pub const DELIVER: u16 = 0x6f64;

/// SPIs that this node sends with.
pub const OUT4: u32 = NODE << 12 | (SLOT4 as u32) << 4;
pub const OUT6: u32 = NODE << 12 | (SLOT6 as u32) << 4;

/// The SAs of [`OUT4`] and [`OUT6`].
pub fn outbound(world: &mut World) {
    world.sa(OUT4, PEER4, PEER4, SaDirection::Out);
    world.sa(OUT6, PEER6, PEER6, SaDirection::Out);
}

/// A frame, what the outer header must copy of it, and the hash that must choose its path.
///
/// The hash is the packet library's: its tests say what it must be good for, and any would do.
#[derive(Debug, Clone)]
pub struct Inner {
    pub name: &'static str,
    pub frame: Vec<u8>,
    pub tos: u8,
    pub hash: u32,
}

fn hash4(from: Host, to: Host, protocol: u8, ports: u32) -> u32 {
    flow::hash_v4(from.ip4, to.ip4, protocol, ports)
}

fn hash6(from: Host, to: Host, protocol: u8, ports: u32) -> u32 {
    flow::hash_v6(from.ip6, to.ip6, protocol, ports)
}

/// An IPv4 packet in a frame.
pub fn packet4(from: Host, to: Host, ip: &V4, protocol: u8, payload: &[u8]) -> Vec<u8> {
    frames::ethernet(
        to.mac,
        from.mac,
        IPV4,
        &ip.packet(from.ip4, to.ip4, protocol, payload),
    )
}

/// An IPv6 packet in a frame.
pub fn packet6(from: Host, to: Host, ip: &V6, next: u8, payload: &[u8]) -> Vec<u8> {
    frames::ethernet(
        to.mac,
        from.mac,
        IPV6,
        &ip.packet(from.ip6, to.ip6, next, payload),
    )
}

pub fn ping4(from: Host, to: Host) -> Inner {
    Inner {
        name: "an IPv4 packet",
        frame: packet4(from, to, &V4::default(), ICMP, &frames::echo(64)),
        tos: 0,
        hash: hash4(from, to, ICMP, 0),
    }
}

pub fn ping6(from: Host, to: Host) -> Inner {
    let message = frames::icmpv6(from.ip6, to.ip6, (128, 0), [1, 2, 0, 1], &[0x5a; 56]);
    Inner {
        name: "an IPv6 packet",
        frame: packet6(from, to, &V6::default(), ICMPV6, &message),
        tos: 0,
        hash: hash6(from, to, ICMPV6, 0),
    }
}

pub fn udp4(from: Host, to: Host, ip: &V4, source: u16, destination: u16, length: usize) -> Inner {
    let datagram = frames::udp(source, destination, &vec![0x5a; length]);
    Inner {
        name: "a UDP datagram over IPv4",
        frame: packet4(from, to, ip, UDP, &datagram),
        tos: ip.tos,
        hash: hash4(
            from,
            to,
            UDP,
            u32::from(source) << 16 | u32::from(destination),
        ),
    }
}

pub fn udp6(from: Host, to: Host, ip: &V6, source: u16, destination: u16, length: usize) -> Inner {
    let datagram = frames::udp(source, destination, &vec![0x5a; length]);
    Inner {
        name: "a UDP datagram over IPv6",
        frame: packet6(from, to, ip, UDP, &datagram),
        tos: ip.traffic_class,
        hash: hash6(
            from,
            to,
            UDP,
            u32::from(source) << 16 | u32::from(destination),
        ),
    }
}

/// A TCP segment; only the fields that anyone reads are filled.
pub fn tcp_segment(source: u16, destination: u16, payload: usize) -> Vec<u8> {
    let mut segment = vec![0; 20 + payload];
    segment[..2].copy_from_slice(&source.to_be_bytes());
    segment[2..4].copy_from_slice(&destination.to_be_bytes());
    segment[12] = 5 << 4;
    segment
}

pub fn tcp4(from: Host, to: Host, source: u16, destination: u16, payload: usize) -> Inner {
    let segment = tcp_segment(source, destination, payload);
    Inner {
        name: "a TCP segment over IPv4",
        frame: packet4(from, to, &V4::default(), TCP, &segment),
        tos: 0,
        hash: hash4(
            from,
            to,
            TCP,
            u32::from(source) << 16 | u32::from(destination),
        ),
    }
}

pub fn tcp6(from: Host, to: Host, source: u16, destination: u16, payload: usize) -> Inner {
    let segment = tcp_segment(source, destination, payload);
    Inner {
        name: "a TCP segment over IPv6",
        frame: packet6(from, to, &V6::default(), TCP, &segment),
        tos: 0,
        hash: hash6(
            from,
            to,
            TCP,
            u32::from(source) << 16 | u32::from(destination),
        ),
    }
}

/// A frame that is neither IP nor ARP, with this many bytes of payload.
pub fn other(from: Mac, to: Mac, payload: usize) -> Inner {
    let frame = frames::ethernet(to, from, LLDP, &vec![0xa5; payload]);
    Inner {
        name: "a frame that is not IP",
        hash: hash_other(&frame),
        frame,
        tos: 0,
    }
}

pub fn hash_other(frame: &[u8]) -> u32 {
    flow::hash_ethernet(frame.first_chunk().expect("an Ethernet header"))
}

/// What must leave for the peer over IPv4.
pub fn outer4((destination, source): (Mac, Mac), vni: u32, inner: &Inner) -> Vec<u8> {
    let datagram = frames::udp(
        flow::source_port(inner.hash),
        PORT,
        &frames::vxlan(vni, &inner.frame),
    );
    let ip = V4 {
        tos: inner.tos,
        ..V4::default()
    };
    frames::ethernet(
        destination,
        source,
        IPV4,
        &ip.packet(LOCAL4, REMOTE4, UDP, &datagram),
    )
}

/// What must leave for the peer over IPv6.
pub fn outer6((destination, source): (Mac, Mac), vni: u32, inner: &Inner) -> Vec<u8> {
    let datagram = frames::udp(
        flow::source_port(inner.hash),
        PORT,
        &frames::vxlan(vni, &inner.frame),
    );
    let ip = V6 {
        traffic_class: inner.tos,
        flow_label: inner.hash & 0xf_ffff,
        hop_limit: 64,
    };
    frames::ethernet(
        destination,
        source,
        IPV6,
        &ip.packet(LOCAL6, REMOTE6, UDP, &datagram),
    )
}

/// Destination and source MAC of what goes straight to the NIC.
pub const TO_NIC4: (Mac, Mac) = (REMOTE4_MAC, UNDERLAY_MAC);
pub const TO_NIC6: (Mac, Mac) = (REMOTE6_MAC, UNDERLAY_MAC);
/// Destination and source MAC of what goes back into the stack.
pub const TO_STACK: (Mac, Mac) = (REENTRY_MAC, REENTRY_MAC);

/// An underlay packet from the peer over IPv4, with the whole UDP payload.
pub fn from_peer4(ip: &V4, port: u16, payload: &[u8]) -> Vec<u8> {
    let datagram = frames::udp(50_000, port, payload);
    frames::ethernet(
        UNDERLAY_MAC,
        REMOTE4_MAC,
        IPV4,
        &ip.packet(REMOTE4, LOCAL4, UDP, &datagram),
    )
}

/// An underlay packet from the peer over IPv6, with the whole UDP payload.
pub fn from_peer6(ip: &V6, port: u16, payload: &[u8]) -> Vec<u8> {
    let datagram = frames::udp(50_000, port, payload);
    frames::ethernet(
        UNDERLAY_MAC,
        REMOTE6_MAC,
        IPV6,
        &ip.packet(REMOTE6, LOCAL6, UDP, &datagram),
    )
}

/// A frame that the peer over IPv4 delivers.
pub fn arriving4(vni: u32, frame: &[u8]) -> Vec<u8> {
    from_peer4(&V4::default(), PORT, &frames::vxlan(vni, frame))
}

/// A frame that the peer over IPv6 delivers.
pub fn arriving6(vni: u32, frame: &[u8]) -> Vec<u8> {
    from_peer6(&V6::default(), PORT, &frames::vxlan(vni, frame))
}
