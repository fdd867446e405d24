//! Frames whose headers do not hold what they say.

use overlay_tests::testrun::{
    Row,
    frames::{self, BROADCAST, ICMP, V4, V6},
    row,
    world::{A, C, PEER4, PLAIN},
};

use super::common::*;

fn tx(name: impl Into<String>, packet: Vec<u8>) -> Row {
    row(name, program::ENDPOINT_TX).packet(packet)
}

/// The frame leaves as it is.
fn leaves(name: &str, inner: &Inner) -> Row {
    tx(name, inner.frame.clone())
        .redirects(outer4(TO_NIC4, PLAIN, inner))
        .leaves_marked(0, PLAINTEXT)
        .sent(PEER4, inner.frame.len())
}

pub fn rows() -> Vec<Row> {
    let v4 = udp4(A, C, &V4::default(), 1000, 2000, 20);
    let v6 = udp6(A, C, &V6::default(), 1000, 2000, 20);
    let mut rows = Vec::new();
    for length in 14..v4.frame.len() {
        rows.push(
            tx(
                format!("IPv4 of {length} bytes is shorter than its headers say"),
                frames::cut(v4.frame.clone(), length),
            )
            .drops(Reason::TooShort),
        );
    }
    for length in 14..v6.frame.len() {
        rows.push(
            tx(
                format!("IPv6 of {length} bytes is shorter than its headers say"),
                frames::cut(v6.frame.clone(), length),
            )
            .drops(Reason::TooShort),
        );
    }
    let total = (v4.frame.len() - 14) as u16;
    let payload = (v6.frame.len() - 54) as u16;
    rows.extend([
        tx(
            "an IPv4 length one byte beyond the frame",
            frames::patch16(v4.frame.clone(), 16, total + 1),
        )
        .drops(Reason::TooShort),
        tx(
            "the greatest IPv4 length",
            frames::patch16(v4.frame.clone(), 16, 0xffff),
        )
        .drops(Reason::TooShort),
        tx(
            "an IPv4 length below the header's",
            frames::patch16(v4.frame.clone(), 16, 19),
        )
        .drops(Reason::TooShort),
        tx(
            "an IPv4 length of 0",
            frames::patch16(v4.frame.clone(), 16, 0),
        )
        .drops(Reason::TooShort),
        tx(
            "an IPv4 header of four words",
            frames::patch8(v4.frame.clone(), 14, 0x44),
        )
        .drops(Reason::TooShort),
        tx(
            "version 6 under IPv4's Ethertype",
            frames::patch8(v4.frame.clone(), 14, 0x65),
        )
        .drops(Reason::TooShort),
        tx(
            "an IPv6 length one byte beyond the frame",
            frames::patch16(v6.frame.clone(), 18, payload + 1),
        )
        .drops(Reason::TooShort),
        tx(
            "the greatest IPv6 length",
            frames::patch16(v6.frame.clone(), 18, 0xffff),
        )
        .drops(Reason::TooShort),
        tx(
            "version 4 under IPv6's Ethertype",
            frames::patch8(v6.frame.clone(), 14, 0x40),
        )
        .drops(Reason::TooShort),
        tx("a broadcast where the network does not replicate", {
            let mut frame = v4.frame.clone();
            frame[..6].copy_from_slice(&BROADCAST);
            frame
        })
        .drops(Reason::MulticastNotReplicated),
        tx("an IPv4 group where the network does not replicate", {
            let mut frame = v4.frame.clone();
            frame[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 0xfb]);
            frame
        })
        .drops(Reason::MulticastNotReplicated),
    ]);

    // What is odd, but right.
    let padded = {
        let mut inner = udp4(A, C, &V4::default(), 1000, 2000, 3);
        inner.frame.resize(60, 0);
        inner
    };
    let first = {
        let ip = V4 {
            dont_fragment: false,
            more_fragments: true,
            ..V4::default()
        };
        let mut inner = udp4(A, C, &ip, 1000, 2000, 32);
        inner.hash = ping4_hash(frames::UDP);
        inner
    };
    let second = {
        let ip = V4 {
            dont_fragment: false,
            offset: 5,
            ..V4::default()
        };
        let mut inner = udp4(A, C, &ip, 1000, 2000, 32);
        inner.hash = ping4_hash(frames::UDP);
        inner
    };
    let optioned = {
        let ip = V4 {
            // Router alert (RFC 2113).
            options: vec![0x94, 4, 0, 0],
            ..V4::default()
        };
        let mut inner = udp4(A, C, &ip, 1000, 2000, 32);
        inner.hash = ping4_hash(frames::UDP);
        inner
    };
    let headed = {
        let datagram = frames::udp(1000, 2000, &[7; 24]);
        // Destination options: UDP follows.
        let hidden = [&[frames::UDP, 0, 1, 4, 0, 0, 0, 0][..], &datagram].concat();
        Inner {
            name: "",
            frame: packet6(A, C, &V6::default(), 60, &hidden),
            tos: 0,
            hash: overlay_ebpf::packet::flow::hash_v6(A.ip6, C.ip6, 60, 0),
        }
    };
    let fragment6 = {
        let datagram = frames::udp(1000, 2000, &[7; 24]);
        let hidden = [&[frames::UDP, 0, 0, 1, 0, 0, 0, 9][..], &datagram].concat();
        Inner {
            name: "",
            frame: packet6(A, C, &V6::default(), frames::IPV6_FRAGMENT, &hidden),
            tos: 0,
            hash: overlay_ebpf::packet::flow::hash_v6(A.ip6, C.ip6, frames::IPV6_FRAGMENT, 0),
        }
    };
    let truncated_tcp = Inner {
        name: "",
        frame: packet4(A, C, &V4::default(), frames::TCP, &[1, 2]),
        tos: 0,
        hash: ping4_hash(frames::TCP),
    };
    rows.extend([
        leaves("padding behind a short packet goes with it", &padded),
        leaves("a first fragment takes the way of the others", &first),
        leaves("a later fragment has no ports to hash", &second),
        leaves("IPv4 options are the endpoints' business", &optioned),
        leaves(
            "IPv6 extension headers are the endpoints' business",
            &headed,
        ),
        leaves("IPv6 fragments are the endpoints' business", &fragment6),
        leaves(
            "a transport header that is cut short has no ports to hash",
            &truncated_tcp,
        ),
        leaves(
            "an empty frame of another Ethertype",
            &other(A.mac, C.mac, 0),
        ),
        leaves("one byte of another Ethertype", &other(A.mac, C.mac, 1)),
        leaves("an 802.3 frame with a length for a type", &{
            let frame = frames::ethernet(C.mac, A.mac, 3, &[0x42, 0x42, 3]);
            Inner {
                name: "",
                hash: hash_other(&frame),
                frame,
                tos: 0,
            }
        }),
    ]);
    rows
}

/// The hash of a packet from A to C without ports.
fn ping4_hash(protocol: u8) -> u32 {
    debug_assert_ne!(protocol, ICMP);
    overlay_ebpf::packet::flow::hash_v4(A.ip4, C.ip4, protocol, 0)
}
