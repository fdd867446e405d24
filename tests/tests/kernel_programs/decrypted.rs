//! The xfrm interface. In a test run no packet has a security path, so the farthest that one comes
//! is `ForeignTraffic`. What follows, the SA and delivery, is tested with IPsec: `encrypted_*`.

use overlay_tests::testrun::{
    Row,
    frames::{self, IPV4, TCP, V4, V6},
    row,
    world::{A, C, D, LOCAL4, PLAIN, PORT, REMOTE4, REMOTE4_MAC, SECRET, STRANGER4, UNDERLAY_MAC},
};

use super::common::*;

fn rx(name: &str, packet: Vec<u8>) -> Row {
    row(name, program::DECRYPTED_RX).packet(packet)
}

pub fn rows() -> Vec<Row> {
    let good4 = arriving4(SECRET, &ping4(C, A).frame);
    let good6 = arriving6(SECRET, &ping6(D, A).frame);
    let tcp = frames::ethernet(
        UNDERLAY_MAC,
        REMOTE4_MAC,
        IPV4,
        &frames::ipv4(REMOTE4, LOCAL4, TCP, &tcp_segment(1, 2, 30)),
    );
    let fragment = V4 {
        dont_fragment: false,
        more_fragments: true,
        ..V4::default()
    };
    let stranger = {
        let datagram = frames::udp(50_000, PORT, &frames::vxlan(SECRET, &ping4(C, A).frame));
        frames::ethernet(
            UNDERLAY_MAC,
            REMOTE4_MAC,
            IPV4,
            &frames::ipv4(STRANGER4, LOCAL4, frames::UDP, &datagram),
        )
    };
    vec![
        rx(
            "VXLAN over IPv4 that no SA decrypted is foreign",
            good4.clone(),
        )
        .drops(Reason::ForeignTraffic),
        rx("VXLAN over IPv6 that no SA decrypted is foreign", good6).drops(Reason::ForeignTraffic),
        rx(
            "VXLAN of a plain network that no SA decrypted is foreign",
            arriving4(PLAIN, &ping4(C, A).frame),
        )
        .drops(Reason::ForeignTraffic),
        rx("anything but VXLAN is foreign", tcp).drops(Reason::ForeignTraffic),
        rx(
            "another port is foreign",
            from_peer4(&V4::default(), PORT + 1, &[0; 30]),
        )
        .drops(Reason::ForeignTraffic),
        rx("a bare frame is foreign", ping4(C, A).frame).drops(Reason::ForeignTraffic),
        rx("fourteen bytes are foreign", frames::cut(good4.clone(), 14))
            .drops(Reason::ForeignTraffic),
        rx("IP options are foreign", {
            let ip = V4 {
                options: vec![0x94, 4, 0, 0],
                ..V4::default()
            };
            from_peer4(&ip, PORT, &frames::vxlan(SECRET, &ping4(C, A).frame))
        })
        .drops(Reason::ForeignTraffic),
        rx("a later fragment is foreign", {
            let ip = V4 {
                dont_fragment: false,
                offset: 10,
                ..V4::default()
            };
            from_peer4(&ip, PORT, &frames::vxlan(SECRET, &ping4(C, A).frame))
        })
        .drops(Reason::ForeignTraffic),
        rx(
            "a first fragment is a fragment",
            from_peer4(&fragment, PORT, &frames::vxlan(SECRET, &[0; 60])),
        )
        .drops(Reason::UnderlayFragment),
        rx("a source that is no peer's", stranger).drops(Reason::UnknownVtep),
        rx(
            "wrong flags over IPv4",
            frames::patch8(good4.clone(), 42, 0x0c),
        )
        .drops(Reason::BadVxlanFlags),
        rx("VNI 0", arriving4(0, &ping4(C, A).frame)).drops(Reason::VniZero),
        rx(
            "a UDP length that disagrees",
            frames::patch16(good4.clone(), 38, 8),
        )
        .drops(Reason::BadUdpLength),
        rx(
            "an IP length beyond the packet",
            frames::cut(good4.clone(), good4.len() - 1),
        )
        .drops(Reason::TooShort),
        rx(
            "no VXLAN header",
            from_peer6(&V6::default(), PORT, &[8, 0, 0]),
        )
        .drops(Reason::TooShort),
    ]
}
