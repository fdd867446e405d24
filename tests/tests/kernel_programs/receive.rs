//! What both receive programs ask of a packet to our port. XDP asks first; TC asks again, for the
//! packets of devices without XDP. Each row is held against both.

use overlay_ebpf::abi::{ConfigFlags, EndpointKey, MembershipKey, VtepRole, ids::mapped};
use overlay_tests::testrun::{
    Row, World,
    frames::{
        self, ARP, BROADCAST, ESP, ICMP, IPV4, IPV6, IPV6_FRAGMENT, Ip4, Ip6, QINQ, TCP, UDP, V4,
        V6, VLAN,
    },
    row,
    world::{
        A, B, C, D, Host, LOCAL4, LOCAL6, NOBODY, NODE, NOWHERE, PEER4, PEER6, PLAIN, PORT,
        REMOTE4, REMOTE4_MAC, REMOTE6, REMOTE6_MAC, SECRET, SPI4, STRANGER4, STRANGER6,
        UNDERLAY_MAC,
    },
};

use super::common::*;

#[derive(Clone)]
struct Case {
    name: String,
    packet: Vec<u8>,
    /// `None`: the packet is the host's.
    reason: Option<Reason>,
    change: fn(&mut World),
}

fn refused(name: impl Into<String>, packet: Vec<u8>, reason: Reason) -> Case {
    Case {
        name: name.into(),
        packet,
        reason: Some(reason),
        change: |_| {},
    }
}

fn passes(name: impl Into<String>, packet: Vec<u8>) -> Case {
    Case {
        name: name.into(),
        packet,
        reason: None,
        change: |_| {},
    }
}

impl Case {
    fn with(mut self, change: fn(&mut World)) -> Self {
        self.change = change;
        self
    }
}

pub fn rows() -> Vec<Row> {
    let cases = [outer(), headers(), inner()].concat();
    let mut rows = Vec::new();
    for case in &cases {
        for program in [program::UNDERLAY_RX_XDP, program::UNDERLAY_RX] {
            let row = row(case.name.clone(), program)
                .packet(case.packet.clone())
                .with(|world| {
                    world.set_flag(ConfigFlags::XDP_DECAP);
                    (case.change)(world);
                });
            rows.push(match case.reason {
                Some(reason) => row.drops(reason),
                None => row.passes(),
            });
        }
    }
    rows.extend(esp());
    rows.push(tag_beside());
    rows
}

/// XDP sees a tag in the packet, or none: where the NIC takes it off, it is for XDP's metadata.
fn tag_beside() -> Row {
    let good = frames::udp(50_000, PORT, &frames::vxlan(PLAIN, &ping4(C, A).frame));
    row(
        "a tag of the underlay beside the packet: it is the VLAN device's",
        program::UNDERLAY_RX,
    )
    .packet(from4(REMOTE4, LOCAL4, &V4::default(), UDP, &good))
    .vlan_beside(0x2007)
    .passes()
}

fn from4(source: Ip4, destination: Ip4, ip: &V4, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let packet = ip.packet(source, destination, protocol, payload);
    frames::ethernet(UNDERLAY_MAC, REMOTE4_MAC, IPV4, &packet)
}

fn from6(source: Ip6, destination: Ip6, next: u8, payload: &[u8]) -> Vec<u8> {
    let packet = frames::ipv6(source, destination, next, payload);
    frames::ethernet(UNDERLAY_MAC, REMOTE6_MAC, IPV6, &packet)
}

/// Whose packet is it?
fn outer() -> Vec<Case> {
    let v4 = V4::default();
    let good = frames::udp(50_000, PORT, &frames::vxlan(PLAIN, &ping4(C, A).frame));
    let good6 = frames::udp(50_000, PORT, &frames::vxlan(PLAIN, &ping4(D, A).frame));
    let elsewhere = frames::udp(50_000, PORT + 1, &frames::vxlan(SECRET, &ping4(C, A).frame));
    let options = V4 {
        options: vec![0x94, 4, 0, 0],
        ..V4::default()
    };
    let first = V4 {
        dont_fragment: false,
        more_fragments: true,
        ..V4::default()
    };
    let later = V4 {
        dont_fragment: false,
        offset: 9,
        ..V4::default()
    };
    let extended = |next: u8| [&[next, 0, 1, 4, 0, 0, 0, 0][..], &good6].concat();
    let fragment6 = [&[UDP, 0, 0, 1, 0, 0, 0, 9][..], &good6].concat();
    vec![
        passes(
            "TCP to our VTEP",
            from4(REMOTE4, LOCAL4, &v4, TCP, &tcp_segment(1, PORT, 9)),
        ),
        passes(
            "TCP to our VTEP over IPv6",
            from6(REMOTE6, LOCAL6, TCP, &tcp_segment(1, PORT, 9)),
        ),
        passes(
            "ICMP to our VTEP",
            from4(REMOTE4, LOCAL4, &v4, ICMP, &frames::echo(40)),
        ),
        passes("another port", from4(REMOTE4, LOCAL4, &v4, UDP, &elsewhere)),
        passes(
            "another port over IPv6",
            from6(REMOTE6, LOCAL6, UDP, &elsewhere),
        ),
        passes(
            "our port to an address that is no VTEP",
            from4(REMOTE4, STRANGER4, &v4, UDP, &good),
        ),
        passes(
            "our port to an IPv6 address that is no VTEP",
            from6(REMOTE6, STRANGER6, UDP, &good6),
        ),
        passes(
            "our port to a VTEP of another node, routed through us",
            from4(STRANGER4, REMOTE4, &v4, UDP, &good),
        ),
        passes(
            "our port to a group",
            from4(REMOTE4, [224, 0, 0, 18], &v4, UDP, &good),
        ),
        passes(
            "our port as the source",
            from4(REMOTE4, LOCAL4, &v4, UDP, &frames::udp(PORT, 9, &[0; 60])),
        ),
        passes(
            "another configured port",
            from4(REMOTE4, LOCAL4, &v4, UDP, &good),
        )
        .with(|world| world.config(|config| config.port = 8472)),
        passes(
            "IPv4 options: the stack hands it to the sink",
            from4(REMOTE4, LOCAL4, &options, UDP, &good),
        ),
        passes(
            "a later fragment, which nothing will complete",
            from4(REMOTE4, LOCAL4, &later, UDP, &good),
        ),
        refused(
            "a first fragment to our port",
            from4(REMOTE4, LOCAL4, &first, UDP, &good),
            Reason::UnderlayFragment,
        ),
        refused(
            "a first fragment to our port from a stranger",
            from4(STRANGER4, LOCAL4, &first, UDP, &good),
            Reason::UnderlayFragment,
        ),
        passes(
            "a fragment to another port",
            from4(REMOTE4, LOCAL4, &first, UDP, &elsewhere),
        ),
        passes(
            "hop-by-hop options: the stack hands it to the sink",
            from6(REMOTE6, LOCAL6, 0, &extended(UDP)),
        ),
        passes(
            "a routing header: the stack hands it to the sink",
            from6(REMOTE6, LOCAL6, 43, &extended(UDP)),
        ),
        passes(
            "destination options: the stack hands it to the sink",
            from6(REMOTE6, LOCAL6, 60, &extended(UDP)),
        ),
        passes(
            "an IPv6 fragment: the stack hands it to the sink",
            from6(REMOTE6, LOCAL6, IPV6_FRAGMENT, &fragment6),
        ),
        passes(
            "ARP",
            frames::ethernet(
                BROADCAST,
                REMOTE4_MAC,
                ARP,
                &frames::arp(1, (REMOTE4_MAC, REMOTE4), ([0; 6], LOCAL4)),
            ),
        ),
        passes(
            "another Ethertype",
            other(REMOTE4_MAC, UNDERLAY_MAC, 46).frame,
        ),
        passes(
            "a tag of the underlay in the packet",
            frames::tagged(&from4(REMOTE4, LOCAL4, &v4, UDP, &good), VLAN),
        ),
        passes(
            "an IP version that is none",
            frames::patch8(from4(REMOTE4, LOCAL4, &v4, UDP, &good), 14, 0x55),
        ),
        passes(
            "an IPv4 header of four words",
            frames::patch8(from4(REMOTE4, LOCAL4, &v4, UDP, &good), 14, 0x44),
        ),
        passes(
            "version 4 under IPv6's Ethertype",
            frames::patch8(from6(REMOTE6, LOCAL6, UDP, &good6), 14, 0x45),
        ),
        refused(
            "a stranger",
            from4(STRANGER4, LOCAL4, &v4, UDP, &good),
            Reason::UnknownVtep,
        ),
        refused(
            "a stranger over IPv6",
            from6(STRANGER6, LOCAL6, UDP, &good6),
            Reason::UnknownVtep,
        ),
        refused(
            "our own VTEP as the source",
            from4(LOCAL4, LOCAL4, &v4, UDP, &good),
            Reason::UnknownVtep,
        ),
        refused(
            "our own VTEP as the source over IPv6",
            from6(LOCAL6, LOCAL6, UDP, &good6),
            Reason::UnknownVtep,
        ),
        refused(
            "another VTEP of ours as the source",
            from4(STRANGER4, LOCAL4, &v4, UDP, &good),
            Reason::UnknownVtep,
        )
        .with(|world| world.vtep(mapped(STRANGER4), VtepRole::Local, 1)),
        refused(
            "an IPv4 VTEP written as an IPv6 address",
            from6(mapped(REMOTE4), LOCAL6, UDP, &good),
            Reason::UnknownVtep,
        ),
    ]
}

/// UDP and VXLAN headers.
fn headers() -> Vec<Case> {
    let inner4 = ping4(C, A).frame;
    let inner6 = ping4(D, A).frame;
    let mut cases = Vec::new();
    for (family, packet, l4) in [
        ("IPv4", arriving4(PLAIN, &inner4), 34),
        ("IPv6", arriving6(PLAIN, &inner6), 54),
    ] {
        let udp_length = (packet.len() - l4) as u16;
        for (what, wrong) in [
            ("one more", udp_length + 1),
            ("one less", udp_length - 1),
            ("0", 0),
            ("7", 7),
            ("65535", 0xffff),
        ] {
            cases.push(refused(
                format!("a UDP length of {what} over {family}"),
                frames::patch16(packet.clone(), l4 + 4, wrong),
                Reason::BadUdpLength,
            ));
        }
        let ip_length = if l4 == 34 { 16 } else { 18 };
        let ip_value = u16::from_be_bytes([packet[ip_length], packet[ip_length + 1]]);
        cases.push(refused(
            format!("an IP length one beyond the packet over {family}"),
            frames::patch16(packet.clone(), ip_length, ip_value + 1),
            Reason::TooShort,
        ));
        cases.push(refused(
            format!("the greatest IP length over {family}"),
            frames::patch16(packet.clone(), ip_length, 0xffff),
            Reason::TooShort,
        ));
        for length in 14..packet.len() {
            let cut = frames::cut(packet.clone(), length);
            cases.push(if length < l4 + 8 {
                passes(
                    format!("{length} bytes over {family}: no port is in sight"),
                    cut,
                )
            } else {
                refused(
                    format!("{length} bytes over {family}"),
                    cut,
                    Reason::TooShort,
                )
            });
        }
        // With lengths that agree: the VXLAN header and the inner Ethernet header cut short.
        let payload = frames::vxlan(PLAIN, if l4 == 34 { &inner4 } else { &inner6 });
        for length in 0..22 {
            let payload = &payload[..length];
            let packet = if l4 == 34 {
                from_peer4(&V4::default(), PORT, payload)
            } else {
                from_peer6(&V6::default(), PORT, payload)
            };
            cases.push(refused(
                format!("{length} bytes in a datagram over {family}"),
                packet,
                Reason::TooShort,
            ));
        }
        for (what, offset, value) in [
            ("no flag", 0, 0),
            ("the P flag of GPE", 0, 0x0c),
            ("the G flag of GBP", 0, 0x88),
            ("every flag", 0, 0xff),
            ("the I flag alone missing", 0, 0xf7),
            ("a reserved bit in byte 1", 1, 1),
            ("a reserved bit in byte 2", 2, 0x80),
            ("a next protocol in byte 3", 3, 3),
            ("a reserved bit in byte 7", 7, 1),
        ] {
            cases.push(refused(
                format!("{what} in VXLAN over {family}"),
                frames::patch8(packet.clone(), l4 + 8 + offset, value),
                Reason::BadVxlanFlags,
            ));
        }
    }
    for (vni, reason) in [
        (0, Reason::VniZero),
        (NOWHERE, Reason::UnknownNetwork),
        (1, Reason::UnknownNetwork),
        (0xff_ffff, Reason::UnknownNetwork),
        (SECRET, Reason::CleartextEncryptedVni),
    ] {
        cases.push(refused(
            format!("VNI {vni} over IPv4"),
            arriving4(vni, &inner4),
            reason,
        ));
        cases.push(refused(
            format!("VNI {vni} over IPv6"),
            arriving6(vni, &inner6),
            reason,
        ));
    }
    cases.push(
        refused(
            "cleartext of an encrypted VNI on a node alone",
            arriving4(SECRET, &inner4),
            Reason::UnknownVtep,
        )
        .with(|world| {
            world.maps.peers.clear();
            world.maps.memberships.clear();
            world
                .maps
                .vteps
                .retain(|_, vtep| vtep.role == VtepRole::Local);
        }),
    );
    cases.push(
        refused(
            "cleartext of a network that has just become encrypted",
            arriving4(PLAIN, &inner4),
            Reason::CleartextEncryptedVni,
        )
        .with(|world| {
            world.network(PLAIN, |network| {
                network.flags |= overlay_ebpf::abi::NetworkFlags::ENCRYPTED
            })
        }),
    );
    cases
}

/// The frame inside.
fn inner() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut refuse = |name: &str, frame: Vec<u8>, reason: Reason| {
        cases.push(refused(name, arriving4(PLAIN, &frame), reason));
    };
    let good = ping4(C, A).frame;
    let sends = |from: Host, source: Ip4| {
        let packet = frames::ipv4(source, A.ip4, ICMP, &frames::echo(40));
        frames::ethernet(A.mac, from.mac, IPV4, &packet)
    };
    let sends6 = |from: Host, source: Ip6| {
        let packet = frames::ipv6(source, A.ip6, UDP, &frames::udp(1, 2, &[0; 30]));
        frames::ethernet(A.mac, from.mac, IPV6, &packet)
    };
    refuse("a tag inside", frames::tagged(&good, VLAN), Reason::VlanTag);
    refuse(
        "a service tag inside",
        frames::tagged(&good, QINQ),
        Reason::VlanTag,
    );
    refuse(
        "a group as the inner source",
        frames::patch8(good.clone(), 6, 3),
        Reason::SourceMacMulticast,
    );
    refuse(
        "an endpoint of another peer",
        ping4(D, A).frame,
        Reason::SourceNotOwned,
    );
    refuse(
        "a local endpoint's MAC from outside",
        ping4(B, A).frame,
        Reason::SourceNotOwned,
    );
    refuse(
        "the destination's own MAC as the source",
        ping4(A, A).frame,
        Reason::SourceNotOwned,
    );
    refuse(
        "a MAC that nobody has",
        ping4(NOBODY, A).frame,
        Reason::SourceNotOwned,
    );
    refuse(
        "another endpoint's IPv4 address",
        sends(C, D.ip4),
        Reason::SpoofedAddress,
    );
    refuse(
        "a local endpoint's IPv4 address",
        sends(C, B.ip4),
        Reason::SpoofedAddress,
    );
    refuse(
        "an IPv4 address that nobody has",
        sends(C, NOBODY.ip4),
        Reason::SpoofedAddress,
    );
    refuse(
        "another endpoint's IPv6 address",
        sends6(C, D.ip6),
        Reason::SpoofedAddress,
    );
    refuse(
        "a foreign link-local address",
        sends6(C, D.link_local()),
        Reason::SpoofedAddress,
    );
    refuse(
        "`::` to a single node",
        sends6(C, [0; 16]),
        Reason::SpoofedAddress,
    );
    refuse(
        "ARP that claims another's address",
        frames::ethernet(
            A.mac,
            C.mac,
            ARP,
            &frames::arp(2, (C.mac, B.ip4), (A.mac, A.ip4)),
        ),
        Reason::SpoofedAddress,
    );
    refuse(
        "ARP that claims for another's MAC",
        frames::ethernet(
            A.mac,
            C.mac,
            ARP,
            &frames::arp(2, (D.mac, C.ip4), (A.mac, A.ip4)),
        ),
        Reason::SpoofedAddress,
    );
    refuse(
        "ARP cut short",
        frames::ethernet(A.mac, C.mac, ARP, &[0, 1, 8, 0]),
        Reason::TooShort,
    );
    refuse(
        "an advertisement of another's address",
        {
            let option = frames::link_layer_option(2, C.mac);
            let message = frames::advertisement(C.ip6, A.ip6, B.ip6, 0x60, &option);
            let ip = V6 {
                hop_limit: 255,
                ..V6::default()
            };
            frames::ethernet(
                A.mac,
                C.mac,
                IPV6,
                &ip.packet(C.ip6, A.ip6, frames::ICMPV6, &message),
            )
        },
        Reason::SpoofedAddress,
    );
    refuse(
        "an inner IPv4 header cut short",
        frames::cut(good.clone(), 14 + 19),
        Reason::TooShort,
    );
    refuse(
        "an inner IPv6 header cut short",
        frames::cut(ping6(C, A).frame, 14 + 39),
        Reason::TooShort,
    );
    refuse(
        "a wrong inner version",
        frames::patch8(good.clone(), 14, 0x65),
        Reason::TooShort,
    );
    refuse(
        "an endpoint on another peer",
        ping4(C, D).frame,
        Reason::DestinationNotLocal,
    );
    refuse(
        "an endpoint on the sender itself",
        ping4(C, C).frame,
        Reason::DestinationNotLocal,
    );
    refuse(
        "a destination that nobody has",
        ping4(C, NOBODY).frame,
        Reason::DestinationNotLocal,
    );
    refuse(
        "a broadcast where the network does not replicate",
        {
            let mut frame = good.clone();
            frame[..6].copy_from_slice(&BROADCAST);
            frame
        },
        Reason::MulticastNotReplicated,
    );
    cases.push(
        refused(
            "a peer that hosts nothing there",
            arriving4(PLAIN, &good),
            Reason::NotMember,
        )
        .with(|world| {
            let key = MembershipKey {
                vni: PLAIN,
                peer: PEER4,
            };
            world.maps.memberships.remove(&key);
            let key = EndpointKey {
                vni: PLAIN,
                mac: C.mac,
                reserved: [0; 2],
            };
            world.maps.endpoints.remove(&key);
        }),
    );
    cases.push(
        refused(
            "an endpoint that has moved to another peer",
            arriving4(PLAIN, &good),
            Reason::SourceNotOwned,
        )
        .with(|world| world.remote(PLAIN, C, PEER6)),
    );
    cases.push(
        refused(
            "an endpoint of the other network",
            arriving4(PLAIN, &good),
            Reason::SourceNotOwned,
        )
        .with(|world| {
            let key = EndpointKey {
                vni: PLAIN,
                mac: C.mac,
                reserved: [0; 2],
            };
            world.maps.endpoints.remove(&key);
        }),
    );
    cases
}

/// ESP is judged by XDP alone, by the SPIs that are ours; TC leaves all of it to the stack. What is
/// not ours, or cannot be told to be, is the host's and ends at XFRM if it has no SA.
fn esp() -> Vec<Row> {
    let packet = |spi: u32| [&spi.to_be_bytes()[..], &[0, 0, 0, 1], &[0x5a; 60]].concat();
    let ours = packet(SPI4);
    let v4 = V4::default();
    let first = V4 {
        dont_fragment: false,
        more_fragments: true,
        ..V4::default()
    };
    let later = V4 {
        dont_fragment: false,
        offset: 4,
        ..V4::default()
    };
    let options = V4 {
        options: vec![0x94, 4, 0, 0],
        ..V4::default()
    };
    let behind = |next: u8| [&[next, 0, 0, 1, 0, 0, 0, 9][..], &ours].concat();
    let refused = Some(Reason::UnknownVtep);
    let cases = [
        (
            "ESP with an SPI of ours from its peer",
            from4(REMOTE4, LOCAL4, &v4, ESP, &ours),
            None,
        ),
        (
            "ESP with an SPI of ours from a stranger",
            from4(STRANGER4, LOCAL4, &v4, ESP, &ours),
            refused,
        ),
        (
            "ESP with an SPI of ours from a stranger over IPv6",
            from6(STRANGER6, LOCAL6, ESP, &ours),
            refused,
        ),
        (
            "ESP with an SPI of ours from another peer",
            from6(REMOTE6, LOCAL6, ESP, &ours),
            refused,
        ),
        (
            "ESP with an SPI of ours from ourselves",
            from4(LOCAL4, LOCAL4, &v4, ESP, &ours),
            refused,
        ),
        (
            "ESP with another lane of a slot of ours",
            from4(REMOTE4, LOCAL4, &v4, ESP, &packet(SPI4 + 1)),
            None,
        ),
        (
            "ESP with an SPI that we send with",
            from4(REMOTE4, LOCAL4, &v4, ESP, &packet(NODE << 12 | 0x120)),
            None,
        ),
        (
            "ESP of others",
            from4(STRANGER4, LOCAL4, &v4, ESP, &packet(0xdead_beef)),
            None,
        ),
        (
            "ESP of others over IPv6",
            from6(STRANGER6, LOCAL6, ESP, &packet(0xdead_beef)),
            None,
        ),
        (
            "ESP to another host",
            from4(STRANGER4, REMOTE4, &v4, ESP, &ours),
            None,
        ),
        (
            "ESP to another host over IPv6",
            from6(STRANGER6, REMOTE6, ESP, &ours),
            None,
        ),
        (
            "a first fragment of ESP",
            from4(STRANGER4, LOCAL4, &first, ESP, &ours),
            None,
        ),
        (
            "a later fragment of ESP",
            from4(STRANGER4, LOCAL4, &later, ESP, &ours),
            None,
        ),
        (
            "a fragment of ESP over IPv6",
            from6(STRANGER6, LOCAL6, IPV6_FRAGMENT, &behind(ESP)),
            None,
        ),
        (
            "ESP with IP options",
            from4(STRANGER4, LOCAL4, &options, ESP, &ours),
            None,
        ),
        (
            "ESP behind destination options",
            from6(STRANGER6, LOCAL6, 60, &behind(ESP)),
            None,
        ),
        (
            "ESP without a whole SPI",
            from4(REMOTE4, LOCAL4, &v4, ESP, &[0, 0, 32]),
            None,
        ),
        (
            "ESP without a whole SPI over IPv6",
            from6(REMOTE6, LOCAL6, ESP, &[0, 0, 32]),
            None,
        ),
    ];
    let mut rows = Vec::new();
    for (name, packet, reason) in cases {
        let xdp = row(name, program::UNDERLAY_RX_XDP).packet(packet.clone());
        rows.push(match reason {
            Some(reason) => xdp.drops(reason),
            None => xdp,
        });
        rows.push(row(name, program::UNDERLAY_RX).packet(packet));
    }
    rows
}
