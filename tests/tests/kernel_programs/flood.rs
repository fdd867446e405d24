//! Head-end replication. The clones really leave in a test run, and are captured.

use overlay_tests::testrun::{
    Row,
    frames::{self, ARP, BROADCAST, ICMPV6, IPV6, V4},
    row,
    world::{A, C, D, Host, NOBODY, PEER4, PEER6, PLAIN, SECRET, device, to_device, to_peer},
};

use super::common::*;

/// The other ends, on which the captures listen.
const AT_A: u32 = device::A + 100;
const AT_B: u32 = device::B + 100;
const AT_SECRET_B: u32 = device::SECRET_B + 100;

fn tx(name: &str, inner: &Inner) -> Row {
    row(name, program::ENDPOINT_TX).packet(inner.frame.clone())
}

fn to_all(mut inner: Inner) -> Inner {
    inner.frame[..6].copy_from_slice(&BROADCAST);
    if inner.frame[12..14] == [0x88, 0xcc] {
        inner.hash = hash_other(&inner.frame);
    }
    inner
}

pub fn rows() -> Vec<Row> {
    let mut rows = leaving();
    rows.extend(arriving());
    rows
}

fn leaving() -> Vec<Row> {
    let plain = [
        to_device(device::A),
        to_device(device::B),
        to_peer(PEER4),
        to_peer(PEER6),
    ];
    let secret = [
        to_device(device::SECRET_A),
        to_device(device::SECRET_B),
        to_peer(PEER4),
        to_peer(PEER6),
    ];
    let mut rows = Vec::new();
    let everybody = Host {
        mac: BROADCAST,
        ip4: [255; 4],
        ..NOBODY
    };
    for inner in [
        udp4(A, everybody, &V4::default(), 67, 68, 40),
        to_all(ping6(A, C)),
        to_all(other(A.mac, C.mac, 46)),
        to_all(other(A.mac, C.mac, 1)),
    ] {
        let length = inner.frame.len();
        rows.push(
            tx(
                &format!("{} to all of the plain network", inner.name),
                &inner,
            )
            .with(|world| world.flood(PLAIN, &plain))
            .ends()
            .bytes(outer6(TO_NIC6, PLAIN, &inner))
            .leaves_marked(0, PLAINTEXT)
            .sent(PEER4, length)
            .sent(PEER6, length)
            .captured(vec![
                (device::WIRE, outer4(TO_NIC4, PLAIN, &inner)),
                (device::WIRE, outer6(TO_NIC6, PLAIN, &inner)),
                (AT_B, inner.frame.clone()),
            ]),
        );
        rows.push(
            tx(
                &format!("{} to all of the encrypted network", inner.name),
                &inner,
            )
            .on(device::SECRET_A)
            .with(|world| {
                world.flood(SECRET, &secret);
                for peer in [PEER4, PEER6] {
                    world.peer(peer, |peer| peer.tx.lanes = 1);
                }
            })
            .ends()
            .bytes(outer6(TO_STACK, SECRET, &inner))
            .leaves_marked(0x6fe0_00a7, ENCRYPT)
            .sent(PEER4, length)
            .sent(PEER6, length)
            .captured(vec![
                (device::REENTRY, outer4(TO_STACK, SECRET, &inner)),
                (device::REENTRY, outer6(TO_STACK, SECRET, &inner)),
                (AT_SECRET_B, inner.frame.clone()),
            ]),
        );
    }

    let inner = to_all(ping4(A, C));
    let length = inner.frame.len();
    rows.extend([
        tx("nobody to replicate to", &inner)
            .with(|world| world.flood(PLAIN, &[]))
            .ends()
            .captured(Vec::new()),
        tx("a list of the sender alone", &inner)
            .with(|world| world.flood(PLAIN, &[to_device(device::A)]))
            .ends()
            .captured(Vec::new()),
        tx(
            "a local target that is gone is counted, and the others get the frame",
            &inner,
        )
        .with(|world| {
            world.flood(
                PLAIN,
                &[
                    to_device(device::NONE),
                    to_device(device::B),
                    to_peer(PEER4),
                ],
            );
        })
        .drops(Reason::MulticastReplicationFailed)
        .as_bytes(outer4(TO_NIC4, PLAIN, &inner))
        .leaves_marked(0, PLAINTEXT)
        .sent(PEER4, length)
        .captured(vec![
            (device::WIRE, outer4(TO_NIC4, PLAIN, &inner)),
            (AT_B, inner.frame.clone()),
        ]),
        tx(
            "barrier 1 holds for each target of a replicated frame",
            &inner,
        )
        .on(device::SECRET_A)
        .with(|world| {
            world.flood(
                SECRET,
                &[to_device(device::SECRET_B), to_peer(PEER4), to_peer(PEER6)],
            );
            world.peer(PEER4, |peer| peer.tx.lanes = 0);
            world.peer(PEER6, |peer| peer.tx.lanes = 1);
        })
        .drops(Reason::MulticastReplicationFailed)
        .as_bytes(outer6(TO_STACK, SECRET, &inner))
        .leaves_marked(0x6fe0_00a7, ENCRYPT)
        .sent(PEER6, length)
        .captured(vec![
            (device::REENTRY, outer6(TO_STACK, SECRET, &inner)),
            (AT_SECRET_B, inner.frame.clone()),
        ]),
        tx("no live SA at all: local endpoints only", &inner)
            .on(device::SECRET_A)
            .with(|world| {
                world.flood(
                    SECRET,
                    &[to_device(device::SECRET_B), to_peer(PEER4), to_peer(PEER6)],
                );
                for peer in [PEER4, PEER6] {
                    world.peer(peer, |peer| peer.tx.lanes = 0);
                }
            })
            .drops(Reason::MulticastReplicationFailed)
            .captured(vec![(AT_SECRET_B, inner.frame.clone())]),
        tx(
            "a question for a neighbour that nobody knows goes to all",
            &{
                let frame = frames::ethernet(
                    BROADCAST,
                    A.mac,
                    ARP,
                    &frames::arp(1, (A.mac, A.ip4), ([0; 6], NOBODY.ip4)),
                );
                Inner {
                    name: "",
                    hash: hash_other(&frame),
                    frame,
                    tos: 0,
                }
            },
        )
        .with(|world| world.flood(PLAIN, &[to_device(device::B)]))
        .ends()
        .captured(vec![(
            AT_B,
            frames::ethernet(
                BROADCAST,
                A.mac,
                ARP,
                &frames::arp(1, (A.mac, A.ip4), ([0; 6], NOBODY.ip4)),
            ),
        )]),
        tx("unicast goes to one", &ping4(A, C))
            .with(|world| world.flood(PLAIN, &plain))
            .redirects(outer4(TO_NIC4, PLAIN, &ping4(A, C)))
            .leaves_marked(0, PLAINTEXT)
            .sent(PEER4, length)
            .captured(Vec::new()),
    ]);
    rows
}

fn arriving() -> Vec<Row> {
    let rx = |name: &str, packet: Vec<u8>| row(name, program::UNDERLAY_RX).packet(packet);
    let targets = [
        to_device(device::A),
        to_device(device::B),
        to_peer(PEER4),
        to_peer(PEER6),
    ];
    let broadcast4 = to_all(ping4(C, A)).frame;
    let group6 = {
        let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfb];
        let message = frames::icmpv6(D.ip6, group, (128, 0), [0; 4], &[5; 24]);
        frames::ethernet(
            frames::group_mac(group),
            D.mac,
            IPV6,
            &frames::ipv6(D.ip6, group, ICMPV6, &message),
        )
    };
    let to_everyone = |frame: &Vec<u8>| vec![(AT_A, frame.clone()), (AT_B, frame.clone())];
    vec![
        rx(
            "a broadcast from a peer over IPv4 reaches local endpoints alone",
            arriving4(PLAIN, &broadcast4),
        )
        .with(|world| world.flood(PLAIN, &targets))
        .ends()
        .bytes(broadcast4.clone())
        .received(PEER4, broadcast4.len())
        .captured(to_everyone(&broadcast4)),
        rx(
            "multicast from a peer over IPv6 reaches local endpoints alone",
            arriving6(PLAIN, &group6),
        )
        .with(|world| world.flood(PLAIN, &targets))
        .ends()
        .bytes(group6.clone())
        .received(PEER6, group6.len())
        .captured(to_everyone(&group6)),
        rx(
            "an endpoint that is gone is counted, and the others get the frame",
            arriving4(PLAIN, &broadcast4),
        )
        .with(|world| world.flood(PLAIN, &[to_device(device::NONE), to_device(device::B)]))
        .drops(Reason::MulticastReplicationFailed)
        .as_bytes(broadcast4.clone())
        .received(PEER4, broadcast4.len())
        .captured(vec![(AT_B, broadcast4.clone())]),
        row("XDP leaves replication to TC", program::UNDERLAY_RX_XDP)
            .packet(arriving4(PLAIN, &broadcast4))
            .with(|world| {
                world.flood(PLAIN, &targets);
                world.set_flag(overlay_ebpf::abi::ConfigFlags::XDP_DECAP);
            })
            .passes(),
    ]
}
