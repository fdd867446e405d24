//! Plain frames at TC ingress: outer headers off, ECN combined, into the endpoint.

use overlay_ebpf::abi::ConfigFlags;
use overlay_tests::testrun::{
    Row,
    frames::{self, V4, V6},
    row,
    world::{A, C, D, Host, PEER4, PEER6, PLAIN, PORT},
};

use super::common::*;

fn rx(name: impl Into<String>, packet: Vec<u8>) -> Row {
    row(name, program::UNDERLAY_RX).packet(packet)
}

/// As Ethernet itself would pad it, where the kernel wants an IP header to stay.
fn padded(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame.len() < 34 {
        frame.resize(60, 0);
    }
    frame
}

fn arriving(from: Host, frame: &[u8]) -> (Vec<u8>, u32, &'static str) {
    if from.mac == C.mac {
        (arriving4(PLAIN, frame), PEER4, "IPv4")
    } else {
        (arriving6(PLAIN, frame), PEER6, "IPv6")
    }
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for from in [C, D] {
        let frames = [
            ping4(from, A),
            ping6(from, A),
            tcp4(from, A, 1, 2, 1300),
            tcp6(from, A, 1, 2, 1300),
            udp4(from, A, &V4::default(), 1, 2, 0),
            udp6(from, A, &V6::default(), 1, 2, 0),
            other(from.mac, A.mac, 46),
            other(from.mac, A.mac, 1),
            other(from.mac, A.mac, 0),
            other(from.mac, A.mac, 19),
            other(from.mac, A.mac, 20),
            other(from.mac, A.mac, 39),
            other(from.mac, A.mac, 40),
            other(from.mac, A.mac, 41),
            other(from.mac, A.mac, 1400),
        ];
        for inner in frames {
            let length = inner.frame.len();
            let (packet, peer, family) = arriving(from, &inner.frame);
            for (flags, how) in [
                (0, "to the veth"),
                (
                    ConfigFlags::REDIRECT_PEER,
                    "to its peer where that is right",
                ),
                (ConfigFlags::XDP_DECAP, "with XDP on"),
            ] {
                rows.push(
                    rx(
                        format!("{} of {length} bytes over {family}, {how}", inner.name),
                        packet.clone(),
                    )
                    .with(|world| world.set_flag(flags))
                    .redirects(padded(&inner.frame))
                    .received(peer, length),
                );
            }
            rows.push(
                rx(
                    format!(
                        "{} of {length} bytes over {family}, with the inner family told",
                        inner.name
                    ),
                    packet,
                )
                .with(|world| world.set_flag(ConfigFlags::DECAP_L3 | ConfigFlags::REDIRECT_PEER))
                .redirects(padded(&inner.frame))
                .received(peer, length)
                .needs_decap_l3(),
            );
        }
    }
    rows.extend(congestion());
    rows.extend(gso());
    rows.extend([
        rx("padding behind the outer packet goes with the frame", {
            let mut packet = arriving4(PLAIN, &ping4(C, A).frame);
            packet.extend([0; 7]);
            packet
        })
        .redirects([&ping4(C, A).frame[..], &[0; 7]].concat())
        .received(PEER4, ping4(C, A).frame.len() + 7),
        rx(
            "a mark from outside stays with the packet",
            arriving4(PLAIN, &ping4(C, A).frame),
        )
        .marked(0x4000, 0)
        .redirects(ping4(C, A).frame)
        .received(PEER4, ping4(C, A).frame.len()),
    ]);
    rows
}

/// RFC 6040 section 4.2, figure 4. Rows: inner Not-ECT, ECT(1), ECT(0), CE; columns: outer the same.
/// `None`: dropped.
const FIGURE_4: [[Option<u8>; 4]; 4] = [
    [Some(0), Some(0), Some(0), None],
    [Some(1), Some(1), Some(1), Some(3)],
    [Some(2), Some(1), Some(2), Some(3)],
    [Some(3), Some(3), Some(3), Some(3)],
];

fn congestion() -> Vec<Row> {
    let mut rows = Vec::new();
    for inner_ecn in 0..4u8 {
        for outer_ecn in 0..4u8 {
            let combined = FIGURE_4[usize::from(inner_ecn)][usize::from(outer_ecn)];
            // DSCPs differ: the outer one stays outside.
            let (inner_dscp, outer_dscp) = (0x2e << 2, 0x0a << 2);
            let v4 = |ecn| V4 {
                tos: inner_dscp | ecn,
                ..V4::default()
            };
            let v6 = |ecn| V6 {
                traffic_class: inner_dscp | ecn,
                flow_label: 0x12345,
                hop_limit: 9,
            };
            for from in [C, D] {
                let inners: [(&str, [Vec<u8>; 2]); 2] = [
                    (
                        "IPv4",
                        [inner_ecn, combined.unwrap_or(0)]
                            .map(|ecn| udp4(from, A, &v4(ecn), 1, 2, 33).frame),
                    ),
                    (
                        "IPv6",
                        [inner_ecn, combined.unwrap_or(0)]
                            .map(|ecn| udp6(from, A, &v6(ecn), 1, 2, 33).frame),
                    ),
                ];
                for (family, [before, after]) in inners {
                    let payload = frames::vxlan(PLAIN, &before);
                    let tos = outer_dscp | outer_ecn;
                    let (packet, peer, outside) = if from.mac == C.mac {
                        let ip = V4 {
                            tos,
                            ..V4::default()
                        };
                        (from_peer4(&ip, PORT, &payload), PEER4, "IPv4")
                    } else {
                        let ip = V6 {
                            traffic_class: tos,
                            ..V6::default()
                        };
                        (from_peer6(&ip, PORT, &payload), PEER6, "IPv6")
                    };
                    let row = rx(
                        format!("ECN {inner_ecn:02b} of {family} in {outer_ecn:02b} of {outside}"),
                        packet,
                    );
                    rows.push(if combined.is_some() {
                        let length = after.len();
                        row.redirects(after).received(peer, length)
                    } else {
                        row.drops(Reason::EcnCongestion)
                    });
                }
            }
        }
    }
    let frame = other(C.mac, A.mac, 46).frame;
    let ip = V4 {
        tos: 3,
        ..V4::default()
    };
    rows.push(
        rx(
            "a congestion mark says nothing to other Ethertypes",
            from_peer4(&ip, PORT, &frames::vxlan(PLAIN, &frame)),
        )
        .redirects(frame.clone())
        .received(PEER4, frame.len()),
    );
    rows
}

/// A test run makes GSO packets without a GSO type, which the kernel refuses to change: what became
/// of the first header is seen, and that nothing is delivered.
fn gso() -> Vec<Row> {
    [C, D]
        .into_iter()
        .map(|from| {
            let inner = tcp4(from, A, 1, 2, 2800).frame;
            let (packet, _, family) = arriving(from, &inner);
            let mut touched = packet.clone();
            touched[..14].copy_from_slice(&inner[..14]);
            rx(
                format!("a GSO packet of no known type over {family} is not delivered"),
                packet,
            )
            .gso(1360, 3)
            .drops(Reason::DecapFailed)
            .as_bytes(touched)
        })
        .collect()
}
