//! ESP in UDP (RFC 3948): the UDP header comes off on the way in; on the way out it is no cleartext.

use overlay_ebpf::abi::SaDirection;
use overlay_tests::testrun::{
    Row, World,
    frames::{self, ESP, IPV4, IPV6, IPV6_FRAGMENT, Ip4, Ip6, UDP, V4},
    row,
    world::{
        A, C, LOCAL4, LOCAL6, NODE, PEER4, PEER6, PORT, REMOTE4, REMOTE4_MAC, REMOTE6, REMOTE6_MAC,
        SECRET, SPI4, STRANGER4, STRANGER6, UNDERLAY_MAC,
    },
};

use super::common::*;

const ESP_PORT: u16 = 4500;
const SPI6: u32 = PEER6 << 12 | 0x34 << 4 | 2;
const RECEIVERS: [&str; 2] = [program::UNDERLAY_RX_XDP, program::UNDERLAY_RX];

fn on(world: &mut World) {
    world.config(|config| config.esp_in_udp_port = ESP_PORT);
    world.sa(SPI6, NODE, PEER6, SaDirection::In);
    outbound(world);
}

fn esp(spi: u32) -> Vec<u8> {
    [&spi.to_be_bytes()[..], &[0, 0, 0, 9], &[0x5a; 60]].concat()
}

fn in_udp(payload: &[u8]) -> Vec<u8> {
    frames::udp(0xc341, ESP_PORT, payload)
}

fn from4(source: Ip4, destination: Ip4, ip: &V4, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let packet = ip.packet(source, destination, protocol, payload);
    frames::ethernet(UNDERLAY_MAC, REMOTE4_MAC, IPV4, &packet)
}

fn from6(source: Ip6, destination: Ip6, next: u8, payload: &[u8]) -> Vec<u8> {
    let packet = frames::ipv6(source, destination, next, payload);
    frames::ethernet(UNDERLAY_MAC, REMOTE6_MAC, IPV6, &packet)
}

fn peer4(ip: &V4, payload: &[u8]) -> Vec<u8> {
    from4(REMOTE4, LOCAL4, ip, UDP, payload)
}

fn peer6(payload: &[u8]) -> Vec<u8> {
    from6(REMOTE6, LOCAL6, UDP, payload)
}

pub fn rows() -> Vec<Row> {
    [stripped(), passing(), refused(), leaving()].concat()
}

fn receive(name: impl Into<String>, program: &'static str, packet: Vec<u8>) -> Row {
    row(name, program).packet(packet).with(on)
}

fn stripped() -> Vec<Row> {
    let v4 = V4::default();
    let marked = V4 {
        tos: 0x2f,
        ..V4::default()
    };
    let mut rows = Vec::new();
    for (name, packet, bare) in [
        (
            "IPv4",
            peer4(&v4, &in_udp(&esp(SPI4))),
            peer4_esp(&v4, &esp(SPI4)),
        ),
        (
            "IPv4 with DSCP and ECN",
            peer4(&marked, &in_udp(&esp(SPI4))),
            peer4_esp(&marked, &esp(SPI4)),
        ),
        (
            "IPv4 of the least length",
            peer4(&v4, &in_udp(&esp(SPI4)[..8])),
            peer4_esp(&v4, &esp(SPI4)[..8]),
        ),
        (
            "IPv6",
            peer6(&in_udp(&esp(SPI6))),
            from6(REMOTE6, LOCAL6, ESP, &esp(SPI6)),
        ),
        (
            "IPv6 of the least length",
            peer6(&in_udp(&esp(SPI6)[..8])),
            from6(REMOTE6, LOCAL6, ESP, &esp(SPI6)[..8]),
        ),
    ] {
        rows.extend([
            receive(
                format!("ESP in UDP over {name} becomes ESP"),
                program::UNDERLAY_RX,
                packet.clone(),
            )
            .bytes(bare),
            receive(
                format!("ESP in UDP over {name} is left to TC"),
                program::UNDERLAY_RX_XDP,
                packet.clone(),
            ),
            // The setting is what makes it ours.
            row(
                format!("ESP in UDP over {name} is the host's while the setting is off"),
                program::UNDERLAY_RX,
            )
            .packet(packet)
            .with(|world| {
                on(world);
                world.config(|config| config.esp_in_udp_port = 0);
            }),
        ]);
    }
    // A test run knows no GSO type; the kernel refuses all but TCP.
    rows.push(
        receive(
            "a superpacket of GRO",
            program::UNDERLAY_RX,
            peer4(&v4, &in_udp(&esp(SPI4))),
        )
        .gso(30, 2)
        .drops(Reason::DecapFailed),
    );
    rows
}

fn peer4_esp(ip: &V4, payload: &[u8]) -> Vec<u8> {
    from4(REMOTE4, LOCAL4, ip, ESP, payload)
}

/// What shares the port.
fn passing() -> Vec<Row> {
    let v4 = V4::default();
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
        offset: 20,
        ..V4::default()
    };
    let ike = in_udp(&[&[0; 4][..], &[0x11; 60]].concat());
    let ours = in_udp(&esp(SPI4));
    let keep_alive = in_udp(&[0xff]);
    // On Ethernet, a keep-alive is padded, and read with its padding it would have an SPI.
    let padded = [peer4(&v4, &keep_alive), vec![0; 17]].concat();
    let mut rows = Vec::new();
    for program in RECEIVERS {
        let pass = |name: &str, packet: Vec<u8>| {
            receive(name, program, packet).with(|world| {
                world.sa(0xff00_0000, NODE, PEER4, SaDirection::In);
            })
        };
        rows.extend([
            pass("a keep-alive", peer4(&v4, &keep_alive)),
            pass("a padded keep-alive", padded.clone()),
            pass("a keep-alive over IPv6", peer6(&keep_alive)),
            pass("IKE behind the non-ESP marker", peer4(&v4, &ike)),
            pass("IKE over IPv6", peer6(&ike)),
            pass("IKE in a first fragment", peer4(&first, &ike)),
            pass("a later fragment", peer4(&later, &esp(SPI4))),
            pass(
                "a fragment over IPv6",
                from6(
                    REMOTE6,
                    LOCAL6,
                    IPV6_FRAGMENT,
                    &[&[UDP, 0, 0, 1, 0, 0, 0, 7][..], &in_udp(&esp(SPI6))].concat(),
                ),
            ),
            pass("an SPI of others", peer4(&v4, &in_udp(&esp(0xdead_beef)))),
            pass(
                "an SPI of others from a stranger over IPv6",
                from6(STRANGER6, LOCAL6, UDP, &in_udp(&esp(0xdead_beef))),
            ),
            pass("an SPI that we send with", peer4(&v4, &in_udp(&esp(OUT4)))),
            pass(
                "our SPI to another host",
                from4(STRANGER4, REMOTE4, &v4, UDP, &ours),
            ),
            pass(
                "our SPI to another host over IPv6",
                from6(STRANGER6, REMOTE6, UDP, &in_udp(&esp(SPI6))),
            ),
            pass("our SPI behind IPv4 options", peer4(&options, &ours)),
            pass(
                "our SPI to another port",
                peer4(&v4, &frames::udp(ESP_PORT, ESP_PORT + 1, &esp(SPI4))),
            ),
            pass(
                "our SPI and half a sequence number",
                peer4(&v4, &in_udp(&esp(SPI4)[..6])),
            ),
        ]);
    }
    rows
}

fn refused() -> Vec<Row> {
    let v4 = V4::default();
    let first = V4 {
        dont_fragment: false,
        more_fragments: true,
        ..V4::default()
    };
    let (whole4, whole6) = (peer4(&v4, &in_udp(&esp(SPI4))), peer6(&in_udp(&esp(SPI6))));
    let mapped = overlay_ebpf::abi::ids::mapped(REMOTE4);
    let mut rows = Vec::new();
    for program in RECEIVERS {
        let drop =
            |name: &str, packet: Vec<u8>, reason| receive(name, program, packet).drops(reason);
        rows.extend([
            drop(
                "an SPI of ours in UDP from a stranger",
                from4(STRANGER4, LOCAL4, &v4, UDP, &in_udp(&esp(SPI4))),
                Reason::UnknownVtep,
            ),
            drop(
                "an SPI of ours in UDP from a stranger over IPv6",
                from6(STRANGER6, LOCAL6, UDP, &in_udp(&esp(SPI6))),
                Reason::UnknownVtep,
            ),
            drop(
                "an SPI of another peer in UDP",
                peer4(&v4, &in_udp(&esp(SPI6))),
                Reason::UnknownVtep,
            ),
            drop(
                "an SPI of ours in UDP from ourselves",
                from4(LOCAL4, LOCAL4, &v4, UDP, &in_udp(&esp(SPI4))),
                Reason::UnknownVtep,
            ),
            drop(
                "an SPI of ours in UDP from a mapped address",
                from6(mapped, LOCAL6, UDP, &in_udp(&esp(SPI4))),
                Reason::UnknownVtep,
            ),
            drop(
                "an SPI of ours in a first fragment",
                peer4(&first, &in_udp(&esp(SPI4))),
                Reason::UnderlayFragment,
            ),
            drop(
                "a UDP length one too small",
                frames::patch16(whole4.clone(), 34 + 4, 75),
                Reason::BadUdpLength,
            ),
            drop(
                "a UDP length one too large over IPv6",
                frames::patch16(whole6.clone(), 54 + 4, 77),
                Reason::BadUdpLength,
            ),
        ]);
        for (family, whole, spi_end) in [("IPv4", &whole4, 46), ("IPv6", &whole6, 66)] {
            for length in 14..whole.len() {
                let name = format!("ESP in UDP over {family} cut to {length} bytes");
                let row = receive(name, program, frames::cut(whole.clone(), length));
                rows.push(if length < spi_end {
                    row.passes()
                } else {
                    row.drops(Reason::TooShort)
                });
            }
        }
    }
    rows
}

fn leaving() -> Vec<Row> {
    const MARK: u32 = 0x6120_00a7;
    let v4 = V4::default();
    let first = V4 {
        dont_fragment: false,
        more_fragments: true,
        ..V4::default()
    };
    let out4 = |ip: &V4, payload: &[u8]| {
        let packet = ip.packet(LOCAL4, REMOTE4, UDP, payload);
        frames::ethernet(REMOTE4_MAC, UNDERLAY_MAC, IPV4, &packet)
    };
    let out6 = |payload: &[u8]| {
        let packet = frames::ipv6(LOCAL6, REMOTE6, UDP, payload);
        frames::ethernet(REMOTE6_MAC, UNDERLAY_MAC, IPV6, &packet)
    };
    let audit =
        |name: String, packet: Vec<u8>| row(name, program::UNDERLAY_AUDIT).packet(packet).with(on);
    let clear = frames::vxlan(SECRET, &ping4(A, C).frame);
    let mut rows = Vec::new();
    for (family, packet, ike, injected_vxlan) in [
        (
            "IPv4",
            out4(&v4, &in_udp(&esp(OUT4))),
            out4(&v4, &in_udp(&[0; 64])),
            out4(&v4, &in_udp(&clear)),
        ),
        (
            "IPv6",
            out6(&in_udp(&esp(OUT6))),
            out6(&in_udp(&[0; 64])),
            out6(&in_udp(&clear)),
        ),
    ] {
        rows.extend([
            audit(format!("ESP in UDP over {family} leaves"), packet.clone())
                .marked(MARK, ENCRYPT)
                .leaves_marked(MARK, ESP_IN_UDP),
            audit(
                format!("ESP in UDP over {family} leaves by a second device"),
                packet.clone(),
            )
            .marked(MARK, ESP_IN_UDP),
            audit(
                format!("ESP in UDP over {family} that XFRM did not make is injected"),
                packet.clone(),
            )
            .marked(MARK, 0)
            .drops(Reason::LocalInjection),
            audit(
                format!("ESP in UDP over {family} does not leave while the setting is off"),
                packet.clone(),
            )
            .with(|world| world.config(|config| config.esp_in_udp_port = 0))
            .marked(MARK, ENCRYPT)
            .drops(Reason::CleartextEncryptedVni),
            audit(
                format!("barrier 3: ESP in UDP over {family} of another sender is none of ours"),
                packet.clone(),
            )
            .with(|world| world.config(|config| config.node = PEER4))
            .marked(MARK, ENCRYPT)
            .drops(Reason::CleartextEncryptedVni),
            audit(format!("IKE over {family} leaves"), ike.clone()),
            audit(format!("barrier 3: IKE over {family} is no ESP"), ike)
                .marked(MARK, ENCRYPT)
                .drops(Reason::CleartextEncryptedVni),
            audit(
                format!("barrier 3: VXLAN over {family} to the port of ESP in UDP is cleartext"),
                injected_vxlan,
            )
            // The node whose SPIs look like VXLAN.
            .with(|world| world.config(|config| config.node = 0x0800_0000 >> 12))
            .marked(MARK, ENCRYPT)
            .drops(Reason::CleartextEncryptedVni),
        ]);
    }
    rows.extend([
        audit(
            "barrier 3: a fragment of ESP in UDP is not seen to be ESP".into(),
            out4(&first, &in_udp(&esp(OUT4))),
        )
        .marked(MARK, ENCRYPT)
        .drops(Reason::CleartextEncryptedVni),
        audit(
            "barrier 3: an altered configuration makes no ESP of VXLAN".into(),
            out4(&v4, &frames::udp(50_000, PORT, &clear)),
        )
        .with(|world| {
            world.config(|config| {
                config.esp_in_udp_port = PORT;
                config.port = 1;
                config.node = 0x0800_0000 >> 12;
            });
        })
        .marked(MARK, ENCRYPT)
        .drops(Reason::CleartextEncryptedVni),
    ]);
    rows
}
