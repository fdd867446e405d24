//! What XDP decapsulates: UDP, and frames too short to be joined by GRO.

use overlay_ebpf::abi::{ConfigFlags, DropReason};
use overlay_tests::testrun::{
    Row,
    frames::{V4, V6},
    row,
    world::{A, C, D, NOWHERE, PEER4, PEER6, PLAIN, PORT},
};

use super::common::*;
use overlay_tests::testrun::frames;

fn xdp(name: impl Into<String>, packet: Vec<u8>) -> Row {
    row(name, program::UNDERLAY_RX_XDP)
        .packet(packet)
        .with(|world| world.set_flag(ConfigFlags::XDP_DECAP))
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let small = [
        udp4(C, A, &V4::default(), 1, 2, 0),
        udp4(C, A, &V4::default(), 1, 2, 1350),
        udp6(C, A, &V6::default(), 1, 2, 0),
        udp6(C, A, &V6::default(), 1, 2, 1350),
        tcp4(C, A, 1, 2, 0),
        tcp6(C, A, 1, 2, 0),
        ping4(C, A),
        ping6(C, A),
        // More than a page: a packet of several buffers.
        udp4(C, A, &V4::default(), 1, 2, 8000),
    ];
    for inner in small {
        let length = inner.frame.len();
        rows.push(
            xdp(
                format!("{} of {length} bytes is taken over IPv4", inner.name),
                arriving4(PLAIN, &inner.frame),
            )
            .redirects(inner.frame.clone())
            .received(PEER4, length),
        );
        rows.push(
            xdp(
                format!(
                    "{} of {length} bytes is left alone when XDP is not to decapsulate",
                    inner.name
                ),
                arriving4(PLAIN, &inner.frame),
            )
            .with(|world| world.config(|config| config.flags = 0)),
        );
    }
    for inner in [
        udp4(D, A, &V4::default(), 1, 2, 1350),
        udp6(D, A, &V6::default(), 1, 2, 0),
        tcp4(D, A, 1, 2, 0),
        ping6(D, A),
    ] {
        let length = inner.frame.len();
        rows.push(
            xdp(
                format!("{} of {length} bytes is taken over IPv6", inner.name),
                arriving6(PLAIN, &inner.frame),
            )
            .redirects(inner.frame.clone())
            .received(PEER6, length),
        );
    }
    for inner in [
        tcp4(C, A, 1, 2, 1300),
        tcp6(C, A, 1, 2, 1300),
        tcp4(C, A, 1, 2, 8000),
        other(C.mac, A.mac, 46),
    ] {
        rows.push(xdp(
            format!(
                "{} of {} bytes is GRO's or TC's",
                inner.name,
                inner.frame.len()
            ),
            arriving4(PLAIN, &inner.frame),
        ));
    }
    // The longest small packet, and one byte more.
    let bulk = |length: usize| tcp4(C, A, 1, 2, length - 50 - 14 - 20 - 20);
    rows.push(
        xdp(
            "TCP of 256 bytes with outer headers carries no bulk",
            arriving4(PLAIN, &bulk(256).frame),
        )
        .redirects(bulk(256).frame)
        .received(PEER4, 206),
    );
    rows.push(xdp(
        "TCP of 257 bytes may",
        arriving4(PLAIN, &bulk(257).frame),
    ));
    for ecn in 1..=3 {
        let inner = udp4(C, A, &V4::default(), 1, 2, 30).frame;
        let ip = V4 {
            tos: ecn,
            ..V4::default()
        };
        rows.push(xdp(
            format!("outer ECN {ecn:02b} is for TC to combine"),
            from_peer4(&ip, PORT, &frames::vxlan(PLAIN, &inner)),
        ));
    }
    let ip = V4 {
        tos: 0xb8,
        ..V4::default()
    };
    let inner = udp4(C, A, &V4::default(), 1, 2, 30).frame;
    rows.push(
        xdp(
            "a packet of several buffers is counted with all its bytes",
            arriving4(NOWHERE, &udp4(C, A, &V4::default(), 1, 2, 8000).frame),
        )
        .drops(DropReason::UnknownNetwork),
    );
    rows.push(
        xdp(
            "the outer DSCP stays outside",
            from_peer4(&ip, PORT, &frames::vxlan(PLAIN, &inner)),
        )
        .redirects(inner.clone())
        .received(PEER4, inner.len()),
    );
    rows
}
