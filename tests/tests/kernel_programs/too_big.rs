//! Packets too large for the path: the container is told (RFC 1191, RFC 4443 section 3.2).

use overlay_tests::testrun::{
    Row,
    frames::{self, BROADCAST, ICMP, ICMPV6, IPV4, IPV6, V4, V6},
    row,
    world::{A, B, C, D, MTU, PEER4, PLAIN, device},
};

use super::common::*;

fn tx(name: &str, packet: Vec<u8>) -> Row {
    row(name, program::ENDPOINT_TX).packet(packet)
}

/// The message to A about its packet: fragmentation needed, by hand.
fn needs_fragmentation(original: &[u8]) -> Vec<u8> {
    let [high, low] = (MTU as u16).to_be_bytes();
    let mut message = vec![3, 4, 0, 0, 0, 0, high, low];
    message.extend(&original[14..14 + 28]);
    let sum = frames::ones_complement(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let ip = V4 {
        tos: 0xc0,
        ..V4::default()
    };
    let packet = ip.packet(C.ip4, A.ip4, ICMP, &message);
    frames::ethernet(A.mac, C.mac, IPV4, &packet)
}

/// The message to A about its packet: packet too big.
fn packet_too_big(original: &[u8]) -> Vec<u8> {
    let quoted = &original[14..14 + 48];
    let message = frames::icmpv6(C.ip6, A.ip6, (2, 0), MTU.to_be_bytes(), quoted);
    let packet = frames::ipv6(C.ip6, A.ip6, ICMPV6, &message);
    frames::ethernet(A.mac, C.mac, IPV6, &packet)
}

const FITS4: usize = MTU as usize - 28;
const FITS6: usize = MTU as usize - 48;

pub fn rows() -> Vec<Row> {
    let fits4 = udp4(A, C, &V4::default(), 7, 9, FITS4);
    let fits6 = udp6(A, C, &V6::default(), 7, 9, FITS6);
    let fits_other = other(A.mac, C.mac, MTU as usize);
    let large4 = udp4(A, C, &V4::default(), 7, 9, FITS4 + 1).frame;
    let large6 = udp6(A, C, &V6::default(), 7, 9, FITS6 + 1).frame;
    let may_fragment = V4 {
        dont_fragment: false,
        ..V4::default()
    };
    let later = V4 {
        offset: 100,
        ..V4::default()
    };
    let optioned = V4 {
        options: vec![0x94, 4, 0, 0],
        ..V4::default()
    };
    let error4 = {
        let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
        message.resize(1500, 0);
        packet4(A, C, &V4::default(), ICMP, &message)
    };
    let error6 = {
        let message = frames::icmpv6(A.ip6, C.ip6, (1, 4), [0; 4], &[0; 1500]);
        packet6(A, C, &V6::default(), ICMPV6, &message)
    };
    let echo6 = {
        let message = frames::icmpv6(A.ip6, C.ip6, (128, 0), [0; 4], &[0; 1500]);
        packet6(A, C, &V6::default(), ICMPV6, &message)
    };
    let to_all = |frame: &[u8]| {
        let mut frame = frame.to_vec();
        frame[..6].copy_from_slice(&BROADCAST);
        frame
    };
    let leaves = |name: &str, inner: &Inner| {
        tx(name, inner.frame.clone())
            .redirects(outer4(TO_NIC4, PLAIN, inner))
            .leaves_marked(0, PLAINTEXT)
            .sent(PEER4, inner.frame.len())
    };
    let segments = |name: &str, mss: u32| {
        tx(name, tcp4(A, C, 1000, 2000, 2800).frame).gso(mss, 2800u32.div_ceil(mss))
    };
    let segments6 = |name: &str, mss: u32| {
        tx(name, tcp6(A, C, 1000, 2000, 2800).frame).gso(mss, 2800u32.div_ceil(mss))
    };
    let tcp_large4 = tcp4(A, C, 1000, 2000, 2800).frame;
    let tcp_large6 = tcp6(A, C, 1000, 2000, 2800).frame;
    vec![
        leaves("an IPv4 packet of exactly the MTU leaves", &fits4),
        leaves("an IPv6 packet of exactly the MTU leaves", &fits6),
        leaves("another packet of exactly the MTU leaves", &fits_other),
        tx(
            "one byte more over IPv4: fragmentation needed",
            large4.clone(),
        )
        .answers(Reason::FrameTooBig, needs_fragmentation(&large4)),
        tx("one byte more over IPv6: packet too big", large6.clone())
            .answers(Reason::FrameTooBig, packet_too_big(&large6)),
        tx(
            "the same on the encrypted network over IPv4",
            large4.clone(),
        )
        .on(device::SECRET_A)
        .answers(Reason::FrameTooBig, needs_fragmentation(&large4)),
        tx(
            "the same on the encrypted network over IPv6",
            large6.clone(),
        )
        .on(device::SECRET_A)
        .answers(Reason::FrameTooBig, packet_too_big(&large6)),
        tx(
            "an echo request too large for the path is answered",
            echo6.clone(),
        )
        .answers(Reason::FrameTooBig, packet_too_big(&echo6)),
        tx(
            "the MTU is the network's, also to a local endpoint",
            udp4(A, B, &V4::default(), 7, 9, FITS4 + 1).frame,
        )
        .answers(Reason::FrameTooBig, {
            let original = udp4(A, B, &V4::default(), 7, 9, FITS4 + 1).frame;
            let mut answer = needs_fragmentation(&original);
            answer[11] = B.mac[5];
            answer[14 + 15] = B.ip4[3];
            // C is .4, B is .3: one less in the source is one more in the complement.
            let sum = u16::from_be_bytes([answer[24], answer[25]]) + 1;
            frames::patch16(answer, 24, sum)
        }),
        tx(
            "a packet that may be fragmented is dropped, for the MTU of the device forbids it",
            udp4(A, C, &may_fragment, 7, 9, FITS4 + 1).frame,
        )
        .drops(Reason::FrameTooBig),
        tx(
            "nothing is said about a later fragment",
            udp4(A, C, &later, 7, 9, FITS4 + 1).frame,
        )
        .drops(Reason::FrameTooBig),
        tx(
            "nothing is said about a packet with options",
            udp4(A, C, &optioned, 7, 9, FITS4).frame,
        )
        .drops(Reason::FrameTooBig),
        tx("nothing is said about an ICMP error", error4).drops(Reason::FrameTooBig),
        tx("nothing is said about an ICMPv6 error", error6).drops(Reason::FrameTooBig),
        tx("nothing is said about an IPv4 broadcast", to_all(&large4)).drops(Reason::FrameTooBig),
        tx(
            "nothing is said about an IPv6 multicast frame",
            to_all(&large6),
        )
        .drops(Reason::FrameTooBig),
        tx(
            "nobody could be told of another Ethertype",
            other(A.mac, D.mac, MTU as usize + 1).frame,
        )
        .drops(Reason::FrameTooBig),
        segments(
            "segments of TCP over IPv4 beyond the MTU are too big",
            MTU - 40 + 1,
        )
        .answers(Reason::FrameTooBig, needs_fragmentation(&tcp_large4)),
        segments6(
            "segments of TCP over IPv6 beyond the MTU are too big",
            MTU - 60 + 1,
        )
        .answers(Reason::FrameTooBig, packet_too_big(&tcp_large6)),
        // A test run makes GSO packets without a GSO type, which the kernel refuses to encapsulate:
        // so far they came, and no further.
        segments("segments of TCP over IPv4 of exactly the MTU fit", MTU - 40)
            .leaves_marked(0, PLAINTEXT)
            .drops(Reason::EncapFailed),
        segments6("segments of TCP over IPv6 of exactly the MTU fit", MTU - 60)
            .leaves_marked(0, PLAINTEXT)
            .drops(Reason::EncapFailed),
    ]
}
