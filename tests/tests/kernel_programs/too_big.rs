//! Packets too large for the path: the container is told (RFC 1191, RFC 4443 section 3.2).

use overlay_ebpf::packet::flow::source_port;
use overlay_tests::testrun::{
    Row, World,
    frames::{self, BROADCAST, ICMP, ICMPV6, IPV4, IPV6, UDP, V4, V6, udp, vxlan},
    row,
    world::{
        A, B, C, D, Host, LOCAL4, LOCAL6, MTU, NARROW4, NARROW6, PEER4, PEER6, PLAIN, PORT,
        REMOTE4_MAC, REMOTE6_MAC, UNDERLAY_MAC, device,
    },
};

use super::common::*;

fn tx(name: &str, packet: Vec<u8>) -> Row {
    row(name, program::ENDPOINT_TX).packet(packet)
}

/// The message to A about its packet: fragmentation needed, by hand.
fn needs_fragmentation(original: &[u8]) -> Vec<u8> {
    needs_fragmentation_to(MTU, original)
}

fn needs_fragmentation_to(mtu: u32, original: &[u8]) -> Vec<u8> {
    let [high, low] = (mtu as u16).to_be_bytes();
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
    packet_too_big_to(MTU, C, original)
}

fn packet_too_big_to(mtu: u32, to: Host, original: &[u8]) -> Vec<u8> {
    let quoted = &original[14..14 + 48];
    let message = frames::icmpv6(to.ip6, A.ip6, (2, 0), mtu.to_be_bytes(), quoted);
    let packet = frames::ipv6(to.ip6, A.ip6, ICMPV6, &message);
    frames::ethernet(A.mac, to.mac, IPV6, &packet)
}

const FITS4: usize = MTU as usize - 28;
const FITS6: usize = MTU as usize - 48;

pub fn rows() -> Vec<Row> {
    let mut rows = of_the_network();
    rows.extend(of_the_path());
    rows
}

fn of_the_network() -> Vec<Row> {
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

/// The path has become narrower than the networks' MTU. The largest inner packets, by hand: of 1300
/// bytes over IPv4, 50 go to the plain headers; encrypted, 52 go outside the ciphertext, the rest is
/// 1248 and a multiple of four, and of that 30 go to the inner headers and 2 to the trailer. Over
/// IPv6, of 1400, everything is 20 more.
fn of_the_path() -> Vec<Row> {
    let narrow = |name: &str, packet: &[u8]| tx(name, packet.to_vec()).with(World::narrow);
    let of4 = |to: Host, length: u32| udp4(A, to, &V4::default(), 7, 9, length as usize - 28);
    let of6 = |to: Host, length: u32| udp6(A, to, &V6::default(), 7, 9, length as usize - 48);
    let may_fragment = V4 {
        dont_fragment: false,
        ..V4::default()
    };
    let fits4 = of4(C, 1250);
    let fits6 = of6(D, 1330);
    let over4 = {
        let datagram = udp(source_port(fits4.hash), PORT, &vxlan(PLAIN, &fits4.frame));
        let packet = frames::ipv4(LOCAL4, NARROW4, UDP, &datagram);
        frames::ethernet(REMOTE4_MAC, UNDERLAY_MAC, IPV4, &packet)
    };
    let over6 = {
        let datagram = udp(source_port(fits6.hash), PORT, &vxlan(PLAIN, &fits6.frame));
        let ip = V6 {
            flow_label: fits6.hash & 0xf_ffff,
            ..V6::default()
        };
        let packet = ip.packet(LOCAL6, NARROW6, UDP, &datagram);
        frames::ethernet(REMOTE6_MAC, UNDERLAY_MAC, IPV6, &packet)
    };
    let (plain4, plain6) = (of4(C, 1251).frame, of6(D, 1331).frame);
    let (secret4, secret6) = (of4(C, 1217).frame, of6(D, 1297).frame);
    let segments = tcp4(A, C, 1000, 2000, 2800).frame;
    vec![
        narrow(
            "a packet that just fits a narrow path over IPv4 leaves",
            &fits4.frame,
        )
        .redirects(over4)
        .leaves_marked(0, PLAINTEXT)
        .sent(PEER4, fits4.frame.len()),
        narrow(
            "a packet that just fits a narrow path over IPv6 leaves",
            &fits6.frame,
        )
        .redirects(over6)
        .leaves_marked(0, PLAINTEXT)
        .sent(PEER6, fits6.frame.len()),
        narrow("one byte more over IPv4: the path's MTU is told", &plain4)
            .answers(Reason::FrameTooBig, needs_fragmentation_to(1250, &plain4)),
        narrow("one byte more over IPv6: the path's MTU is told", &plain6)
            .answers(Reason::FrameTooBig, packet_too_big_to(1330, D, &plain6)),
        narrow(
            "encrypted over IPv4, less of a narrow path is left",
            &secret4,
        )
        .on(device::SECRET_A)
        .answers(Reason::FrameTooBig, needs_fragmentation_to(1216, &secret4)),
        narrow(
            "encrypted over IPv6, less of a narrow path is left",
            &secret6,
        )
        .on(device::SECRET_A)
        .answers(Reason::FrameTooBig, packet_too_big_to(1296, D, &secret6)),
        narrow(
            "a packet that may be fragmented does not fit a narrow path either",
            &udp4(A, C, &may_fragment, 7, 9, 1251 - 28).frame,
        )
        .drops(Reason::FrameTooBig),
        narrow("segments are measured against the narrow path", &segments)
            .gso(1211, 3)
            .answers(Reason::FrameTooBig, needs_fragmentation_to(1250, &segments)),
        narrow(
            "a local endpoint is not behind the narrow path",
            &of4(B, 1400).frame,
        )
        .redirects(of4(B, 1400).frame),
    ]
}
