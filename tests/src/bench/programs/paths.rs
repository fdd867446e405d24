//! The ways of a packet through the programs that carry the load.

use overlay_agent::dataplane::desired::MapSizes;
use overlay_ebpf::abi::{ConfigFlags, program};

use crate::testrun::{
    frames::{self, IPV4, Ip4, UDP, V4},
    row,
    row::{Row, Verdict},
    world::{
        A, B, C, Host, LOCAL4, PLAIN, PORT, REENTRY_MAC, REMOTE4, REMOTE4_MAC, SECRET, SPI4,
        UNDERLAY_MAC, device,
    },
};

/// `skb->tc_index` of what `endpoint_tx` sent to XFRM (`programs::origin`).
const ENCRYPT: u16 = 0x6f76;
/// And of what it sent straight to the NIC.
const PLAINTEXT: u16 = 0x6f70;

/// A mark of [`overlay_ebpf::abi::MarkLayout::DEFAULT`], slot 0x12, lane 0.
const OUR_MARK: u32 = 0x6120_00a7;
/// An SPI of this node.
const OWN_SPI: u32 = 0x1010;

/// A packet and where it goes.
pub(super) struct Path {
    pub(super) name: &'static str,
    pub(super) row: Row,
    pub(super) with_shim: bool,
}

pub(super) fn sizes() -> MapSizes {
    MapSizes::default()
}

/// A program that drops at once.
pub(super) fn shortest() -> Path {
    let row = row("sink", program::SINK).packet(datagram(A, C, 64));
    Path {
        name: "sink",
        row: Row {
            verdict: Verdict::Drop,
            ..row
        },
        with_shim: false,
    }
}

pub(super) fn paths() -> Vec<Path> {
    let direct = |name, row: Row, verdict| Path {
        name,
        row: Row { verdict, ..row },
        with_shim: false,
    };
    let small = datagram(A, C, 64);
    let tx = |packet: Vec<u8>, on| row("", program::ENDPOINT_TX).packet(packet).on(on);
    let esp = frames::ethernet(
        REMOTE4_MAC,
        UNDERLAY_MAC,
        IPV4,
        &frames::ipv4(LOCAL4, REMOTE4, frames::ESP, &esp_bytes(OWN_SPI)),
    );
    let esp_in = frames::ethernet(
        UNDERLAY_MAC,
        REMOTE4_MAC,
        IPV4,
        &frames::ipv4(REMOTE4, LOCAL4, frames::ESP, &esp_bytes(SPI4)),
    );
    let mut paths = vec![
        direct(
            "endpoint_tx plain, 64 bytes",
            tx(small.clone(), device::A),
            Verdict::Redirect,
        ),
        direct(
            "endpoint_tx plain, 1300 bytes",
            tx(datagram(A, C, 1300), device::A),
            Verdict::Redirect,
        ),
        direct(
            "endpoint_tx encrypted, 64 bytes",
            tx(small.clone(), device::SECRET_A),
            Verdict::Redirect,
        ),
        direct(
            "endpoint_tx encrypted, 1300 bytes",
            tx(datagram(A, C, 1300), device::SECRET_A),
            Verdict::Redirect,
        ),
        direct(
            "endpoint_tx local",
            tx(datagram(A, B, 64), device::A),
            Verdict::Redirect,
        ),
        direct(
            "underlay_rx plain",
            row("", program::UNDERLAY_RX).packet(arriving(PLAIN, &datagram(C, A, 64))),
            Verdict::Redirect,
        ),
        direct(
            "underlay_rx ESP",
            row("", program::UNDERLAY_RX).packet(esp_in.clone()),
            Verdict::Pass,
        ),
        direct(
            "underlay_rx_xdp ESP",
            row("", program::UNDERLAY_RX_XDP).packet(esp_in),
            Verdict::Pass,
        ),
        direct(
            "underlay_rx_xdp plain UDP",
            row("", program::UNDERLAY_RX_XDP)
                .packet(arriving(PLAIN, &datagram(C, A, 64)))
                .with(|world| world.set_flag(ConfigFlags::XDP_DECAP)),
            Verdict::Redirect,
        ),
    ];
    // What these see, a test run cannot make.
    let inside = frames::udp(50_000, PORT, &frames::vxlan(SECRET, &small));
    let reentering = frames::ethernet(
        REENTRY_MAC,
        REENTRY_MAC,
        IPV4,
        &frames::ipv4(LOCAL4, REMOTE4, UDP, &inside),
    );
    let plain = frames::udp(50_000, PORT, &frames::vxlan(PLAIN, &small));
    let leaving = frames::ethernet(
        REMOTE4_MAC,
        UNDERLAY_MAC,
        IPV4,
        &frames::ipv4(LOCAL4, REMOTE4, UDP, &plain),
    );
    for (name, row) in [
        (
            "reentry",
            row("", program::REENTRY)
                .packet(reentering)
                .marked(OUR_MARK, ENCRYPT),
        ),
        (
            "underlay_audit ESP",
            row("", program::UNDERLAY_AUDIT)
                .packet(esp)
                .marked(0, ENCRYPT),
        ),
        (
            "underlay_audit plain",
            row("", program::UNDERLAY_AUDIT)
                .packet(leaving)
                .marked(0, PLAINTEXT),
        ),
    ] {
        paths.push(Path {
            name,
            row: Row {
                verdict: Verdict::Pass,
                ..row
            },
            with_shim: true,
        });
    }
    paths
}

/// A frame with a UDP datagram of this payload.
pub(super) fn datagram(from: Host, to: Host, length: usize) -> Vec<u8> {
    flow(from, to, 40_000, length)
}

/// The same, of a flow that its source port names.
pub(super) fn flow(from: Host, to: Host, port: u16, length: usize) -> Vec<u8> {
    let datagram = frames::udp(port, 5001, &vec![0x5a; length]);
    let packet = V4::default().packet(from.ip4, to.ip4, UDP, &datagram);
    frames::ethernet(to.mac, from.mac, IPV4, &packet)
}

/// VXLAN from the peer over IPv4.
pub(super) fn arriving(vni: u32, frame: &[u8]) -> Vec<u8> {
    arriving_from(REMOTE4, vni, frame)
}

/// VXLAN from a peer with this VTEP.
pub(super) fn arriving_from(source: Ip4, vni: u32, frame: &[u8]) -> Vec<u8> {
    let datagram = frames::udp(50_000, PORT, &frames::vxlan(vni, frame));
    frames::ethernet(
        UNDERLAY_MAC,
        REMOTE4_MAC,
        IPV4,
        &frames::ipv4(source, LOCAL4, UDP, &datagram),
    )
}

/// A header of ESP and as much behind it as a small packet has.
fn esp_bytes(spi: u32) -> Vec<u8> {
    let mut bytes = spi.to_be_bytes().to_vec();
    bytes.extend(1u32.to_be_bytes());
    bytes.resize(160, 0x5a);
    bytes
}
