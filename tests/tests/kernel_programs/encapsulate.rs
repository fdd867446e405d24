//! To a local endpoint as it is, to a peer with outer headers.

use overlay_ebpf::{
    abi::{NetworkFlags, PeerKey, ids::mapped},
    packet::flow,
};
use overlay_tests::testrun::{
    Row,
    frames::{V4, V6},
    row,
    world::{
        A, B, C, D, Host, LANES4, LANES6, PEER4, PEER6, PLAIN, SECRET, SLOT4, SLOT6, STRANGER4,
        STRANGER6, device,
    },
};

use super::common::*;

fn tx(name: impl Into<String>, packet: &[u8]) -> Row {
    row(name, program::ENDPOINT_TX).packet(packet)
}

/// The mark by which XFRM finds the policy: fixed bits, and from bit 16 eight bits of slot and four
/// of lane. By hand, for the layout that is the default.
fn mark(slot: u8, lanes: u8, hash: u32) -> u32 {
    0x6000_00a7 | (u32::from(slot) << 4 | u32::from(flow::lane(hash, lanes))) << 16
}

/// The frame must leave for the node of `to`, plain and encrypted.
fn leaves(name: &str, to: Host, inner: &Inner) -> [Row; 2] {
    let over6 = to.mac == D.mac;
    let family = if over6 { "IPv6" } else { "IPv4" };
    let outer = |macs, vni| {
        if over6 {
            outer6(macs, vni, inner)
        } else {
            outer4(macs, vni, inner)
        }
    };
    let (peer, to_nic, mark) = if over6 {
        (PEER6, TO_NIC6, mark(SLOT6, LANES6, inner.hash))
    } else {
        (PEER4, TO_NIC4, mark(SLOT4, LANES4, inner.hash))
    };
    let length = inner.frame.len();
    [
        tx(format!("{name} leaves plain over {family}"), &inner.frame)
            .redirects(outer(to_nic, PLAIN))
            .leaves_marked(0, PLAINTEXT)
            .sent(peer, length),
        tx(
            format!("{name} goes to be encrypted over {family}"),
            &inner.frame,
        )
        .on(device::SECRET_A)
        .redirects(outer(TO_STACK, SECRET))
        .leaves_marked(mark, ENCRYPT)
        .sent(peer, length),
    ]
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for to in [C, D] {
        for inner in [
            ping4(A, to),
            ping6(A, to),
            other(A.mac, to.mac, 46),
            tcp4(A, to, 40_000, 443, 100),
            tcp6(A, to, 40_000, 443, 100),
            udp4(A, to, &V4::default(), 53, 53, 0),
            udp6(A, to, &V6::default(), 53, 53, 0),
        ] {
            rows.extend(leaves(inner.name, to, &inner));
        }
        // Every ECN, and DSCPs with all bits among them: RFC 6040 section 4.1, RFC 2983.
        for tos in [0x01, 0x02, 0x03, 0xb8, 0xfe, 0x2b, 0x55] {
            let ip = V4 {
                tos,
                ..V4::default()
            };
            let inner = udp4(A, to, &ip, 7, 9, 30);
            rows.extend(leaves(&format!("IPv4 with TOS {tos:#04x}"), to, &inner));
            let ip = V6 {
                traffic_class: tos,
                flow_label: 0xabcde,
                hop_limit: 3,
            };
            let inner = udp6(A, to, &ip, 7, 9, 30);
            rows.extend(leaves(
                &format!("IPv6 with traffic class {tos:#04x}"),
                to,
                &inner,
            ));
        }
        for port in 1000..1016 {
            let inner = udp4(A, to, &V4::default(), port, 5001, 8);
            rows.extend(leaves(&format!("the flow from port {port}"), to, &inner));
        }
    }
    rows.extend(lanes());
    rows.extend(local());
    rows.extend(unreachable());
    rows.extend(literal());
    rows
}

fn lanes() -> Vec<Row> {
    let inner = ping4(A, C);
    let with = |slot: u8, lanes: u8| {
        tx(format!("slot {slot} with {lanes} lanes"), &inner.frame)
            .on(device::SECRET_A)
            .with(|world| {
                world.peer(PEER4, |peer| {
                    peer.tx.slot = slot;
                    peer.tx.lanes = lanes;
                });
            })
            .redirects(outer4(TO_STACK, SECRET, &inner))
            .leaves_marked(mark(slot, lanes, inner.hash), ENCRYPT)
            .sent(PEER4, inner.frame.len())
    };
    let mut rows: Vec<Row> = [0, 1, 127, 128, 255]
        .into_iter()
        .flat_map(|slot| [1, 2, 3, 16].map(|lanes| with(slot, lanes)))
        .collect();
    rows.push(
        tx("one lane and slot 0x12 make this very mark", &inner.frame)
            .on(device::SECRET_A)
            .with(|world| world.peer(PEER4, |peer| peer.tx.lanes = 1))
            .redirects(outer4(TO_STACK, SECRET, &inner))
            .leaves_marked(0x6120_00a7, ENCRYPT)
            .sent(PEER4, inner.frame.len()),
    );
    rows.push(
        tx("another layout of the mark is followed", &inner.frame)
            .on(device::SECRET_A)
            .with(|world| {
                world.peer(PEER4, |peer| {
                    peer.tx.slot = 0xab;
                    peer.tx.lanes = 1;
                });
                world.config(|config| {
                    config.mark.value = 0x8000_0000;
                    config.mark.mask = 0x8000_0fff;
                    config.mark.shift = 0;
                });
            })
            .redirects(outer4(TO_STACK, SECRET, &inner))
            .leaves_marked(0x8000_0ab0, ENCRYPT)
            .sent(PEER4, inner.frame.len()),
    );
    rows
}

fn local() -> Vec<Row> {
    let mut rows = Vec::new();
    for inner in [
        ping4(A, B),
        ping6(A, B),
        other(A.mac, B.mac, 1),
        tcp4(A, B, 1, 2, 3),
    ] {
        for ifindex in [device::A, device::SECRET_A] {
            rows.push(
                tx(
                    format!(
                        "{} from device {ifindex} to a local endpoint goes as it is",
                        inner.name
                    ),
                    &inner.frame,
                )
                .on(ifindex)
                .redirects(inner.frame.clone()),
            );
        }
    }
    rows.push(
        tx(
            "a GSO packet to a local endpoint stays whole",
            &tcp4(A, B, 1, 2, 2800).frame,
        )
        .gso(1360, 3)
        .redirects(tcp4(A, B, 1, 2, 2800).frame),
    );
    rows.push(
        tx(
            "GSO under another Ethertype: nothing knows how to segment it behind outer headers",
            &other(A.mac, C.mac, 1000).frame,
        )
        .gso(500, 2)
        .drops(Reason::EncapFailed)
        .leaves_marked(0, PLAINTEXT),
    );
    rows
}

fn unreachable() -> Vec<Row> {
    let to4 = ping4(A, C).frame;
    let to6 = ping4(A, D).frame;
    let strange4 = |peer: u32, name: &str| {
        tx(name, if peer == PEER4 { &to4 } else { &to6 }).drops(Reason::NoRoute)
    };
    vec![
        tx("a peer without an entry is not reached", &to4)
            .with(|world| {
                world.maps.peers.remove(&PeerKey { peer: PEER4 });
            })
            .drops(Reason::NoPeer),
        tx(
            "a peer without an entry is not reached in secret either",
            &to4,
        )
        .on(device::SECRET_A)
        .with(|world| {
            world.maps.peers.remove(&PeerKey { peer: PEER4 });
        })
        .drops(Reason::NoPeer),
        tx(
            "barrier 1: without a live SA nothing secret leaves over IPv4",
            &to4,
        )
        .on(device::SECRET_A)
        .with(|world| world.peer(PEER4, |peer| peer.tx.lanes = 0))
        .drops(Reason::NoOutboundSa),
        tx(
            "barrier 1: without a live SA nothing secret leaves over IPv6",
            &to6,
        )
        .on(device::SECRET_A)
        .with(|world| world.peer(PEER6, |peer| peer.tx.lanes = 0))
        .drops(Reason::NoOutboundSa),
        tx(
            "barrier 1 holds for frames that are not IP",
            &other(A.mac, C.mac, 46).frame,
        )
        .on(device::SECRET_A)
        .with(|world| world.peer(PEER4, |peer| peer.tx.lanes = 0))
        .drops(Reason::NoOutboundSa),
        tx("a plain network needs no SA", &to4)
            .with(|world| world.peer(PEER4, |peer| peer.tx.lanes = 0))
            .redirects(outer4(TO_NIC4, PLAIN, &ping4(A, C)))
            .leaves_marked(0, PLAINTEXT)
            .sent(PEER4, to4.len()),
        tx("a network that becomes encrypted closes at once", &to4)
            .with(|world| {
                world.network(PLAIN, |network| network.flags = NetworkFlags::ENCRYPTED);
                world.peer(PEER4, |peer| peer.tx.lanes = 0);
            })
            .drops(Reason::NoOutboundSa),
        strange4(PEER4, "no neighbour over IPv4").with(|world| {
            world.peer(PEER4, |peer| peer.vtep = mapped(STRANGER4));
        }),
        strange4(PEER6, "no neighbour over IPv6").with(|world| {
            world.peer(PEER6, |peer| peer.vtep = STRANGER6);
        }),
        strange4(PEER4, "no route over IPv4").with(|world| {
            world.peer(PEER4, |peer| peer.vtep = mapped([203, 0, 113, 1]));
        }),
        strange4(PEER6, "no route over IPv6").with(|world| {
            world.peer(PEER6, |peer| {
                peer.vtep = [0x20, 1, 0xd, 0xb8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
            });
        }),
        strange4(PEER4, "no device to look up the route for").with(|world| {
            world.config(|config| config.reentry_ifindex = device::NONE);
        }),
    ]
}

/// Two frames written out, so that no builder stands between the table and the wire.
fn literal() -> Vec<Row> {
    let lldp = [
        0x02, 0x42, 0x0a, 0x00, 0x09, 0x04, // destination: C
        0x02, 0x42, 0x0a, 0x00, 0x09, 0x02, // source: A
        0x88, 0xcc, 0xde, 0xad,
    ];
    let [port_high, port_low] = flow::source_port(hash_other(&lldp)).to_be_bytes();
    let over4 = [
        0x02, 0x00, 0x00, 0x00, 0x00, 0x02, // destination: the peer
        0x02, 0x00, 0x00, 0x00, 0x00, 0x01, // source: the underlay device
        0x08, 0x00, // IPv4
        0x45, 0x00, 0x00, 0x34, // 20 + 8 + 8 + 16 = 52 bytes
        0x00, 0x00, 0x40, 0x00, // don't fragment
        0x40, 0x11, 0xb6, 0xb5, // 64 hops, UDP, checksum
        0xc0, 0x00, 0x02, 0x01, // from 192.0.2.1
        0xc0, 0x00, 0x02, 0x02, // to 192.0.2.2
        port_high, port_low, 0x12, 0xb5, // to port 4789
        0x00, 0x20, 0x00, 0x00, // 32 bytes, no checksum
        0x08, 0x00, 0x00, 0x00, // the VNI is valid
        0x00, 0x13, 0x88, 0x00, // VNI 5000
    ];
    vec![
        tx("sixteen bytes of LLDP over IPv4, written out", &lldp)
            .redirects([&over4[..], &lldp].concat())
            .leaves_marked(0, PLAINTEXT)
            .sent(PEER4, lldp.len()),
    ]
}
