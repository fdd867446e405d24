//! The last barrier before the wire.

use overlay_tests::testrun::{
    Row, World,
    frames::{self, ARP, ESP, ICMP, IPV4, IPV6, IPV6_FRAGMENT, Ip4, Ip6, TCP, UDP, V4},
    row,
    world::{
        A, C, LOCAL4, LOCAL6, NOWHERE, PLAIN, PORT, REMOTE4, REMOTE4_MAC, REMOTE6, SECRET,
        STRANGER4, STRANGER6, UNDERLAY_MAC,
    },
};

use super::common::*;

const OTHER4: Ip4 = [192, 0, 2, 98];
const OTHER6: Ip6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x98];

type Change = fn(&mut World);

fn audit(name: impl Into<String>, packet: Vec<u8>) -> Row {
    row(name, program::UNDERLAY_AUDIT).packet(packet)
}

fn out4(source: Ip4, destination: Ip4, ip: &V4, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let packet = ip.packet(source, destination, protocol, payload);
    frames::ethernet(REMOTE4_MAC, UNDERLAY_MAC, IPV4, &packet)
}

fn out6(source: Ip6, destination: Ip6, next: u8, payload: &[u8]) -> Vec<u8> {
    let packet = frames::ipv6(source, destination, next, payload);
    frames::ethernet(REMOTE4_MAC, UNDERLAY_MAC, IPV6, &packet)
}

fn datagram(vni: u32) -> Vec<u8> {
    frames::udp(50_000, PORT, &frames::vxlan(vni, &ping4(A, C).frame))
}

/// VXLAN from our VTEP to the peer's.
fn both(vni: u32) -> [(&'static str, Vec<u8>); 2] {
    [
        (
            "IPv4",
            out4(LOCAL4, REMOTE4, &V4::default(), UDP, &datagram(vni)),
        ),
        ("IPv6", out6(LOCAL6, REMOTE6, UDP, &datagram(vni))),
    ]
}

pub fn rows() -> Vec<Row> {
    let rows = ethernet();
    let layer3 = rows.iter().filter_map(without_ethernet).collect();
    [rows, layer3].concat()
}

/// The same packet on a device whose packets begin with the IP header. A test run demands 14 bytes.
fn without_ethernet(row: &Row) -> Option<Row> {
    let ip = matches!(row.packet[12..14], [0x08, 0x00] | [0x86, 0xdd]);
    (ip && row.packet.len() >= 28).then(|| Row {
        name: format!("without an Ethernet header, {}", row.name),
        program: program::UNDERLAY_AUDIT_L3,
        packet: row.packet[14..].to_vec(),
        ..row.clone()
    })
}

fn ethernet() -> Vec<Row> {
    let mut rows = Vec::new();
    for (family, packet) in both(PLAIN) {
        rows.push(
            audit(
                format!("a plain frame of ours over {family} passes"),
                packet.clone(),
            )
            .marked(0, PLAINTEXT)
            .passes(),
        );
        for origin in [0, DELIVER] {
            rows.push(
                audit(
                    format!("a plain frame over {family} of origin {origin:#x} is injected"),
                    packet.clone(),
                )
                .marked(0x6120_00a7, origin)
                .drops(Reason::LocalInjection),
            );
        }
    }
    for (name, vni) in [
        ("an encrypted", SECRET),
        ("an unknown", NOWHERE),
        ("the highest", 0xff_ffff),
    ] {
        for (family, packet) in both(vni) {
            for origin in [0, PLAINTEXT, ENCRYPT] {
                rows.push(
                    audit(
                        format!("barrier 3: {name} VNI over {family} of origin {origin:#x} does not leave in clear"),
                        packet.clone(),
                    )
                    .marked(0x6120_00a7, origin)
                    .drops(Reason::CleartextEncryptedVni),
                );
            }
        }
    }
    for (family, packet) in both(PLAIN) {
        let vxlan = if family == "IPv4" { 42 } else { 62 };
        for offset in [0, 1, 2, 3, 7] {
            rows.push(
                audit(
                    format!("VXLAN over {family} with byte {offset} wrong is nobody's"),
                    frames::patch8(packet.clone(), vxlan + offset, 0x41),
                )
                .marked(0, PLAINTEXT)
                .drops(Reason::BadVxlanFlags),
            );
        }
        for missing in 1..=8 {
            rows.push(
                audit(
                    format!("{missing} bytes short of a VXLAN header over {family}"),
                    frames::cut(packet.clone(), vxlan + 8 - missing),
                )
                .marked(0, PLAINTEXT)
                .drops(Reason::TooShort),
            );
        }
        for length in 14..vxlan {
            rows.push(
                audit(
                    format!("{length} bytes over {family} have no port to judge by"),
                    frames::cut(packet.clone(), length),
                )
                .passes(),
            );
        }
    }
    for (_, packet) in both(0) {
        rows.push(audit("VNI 0 is no network", packet).drops(Reason::VniZero));
    }
    rows.extend(sent_to_xfrm());
    rows.extend(bystanders());
    rows.extend(hidden());
    rows.extend(encrypted_for_a_socket());
    rows
}

/// ESP that XFRM made of what a local process sent. A test run's packet has a socket.
fn encrypted_for_a_socket() -> Vec<Row> {
    let v4 = V4::default();
    let esp = |spi: u32| [&spi.to_be_bytes()[..], &[0, 0, 0, 9], &[0x5a; 60]].concat();
    let first = V4 {
        dont_fragment: false,
        more_fragments: true,
        ..V4::default()
    };
    let options = V4 {
        options: vec![0x94, 4, 0, 0],
        ..V4::default()
    };
    let behind = |header: [u8; 8], spi: u32| [&header[..], &esp(spi)].concat();
    let fragment = behind([ESP, 0, 0, 1, 0, 0, 0, 7], OUT6);
    let extended = behind([ESP, 0, 1, 4, 0, 0, 0, 0], OUT6);
    let from4 = |ip: &V4, spi| out4(LOCAL4, REMOTE4, ip, ESP, &esp(spi));
    let from6 = |spi| out6(LOCAL6, REMOTE6, ESP, &esp(spi));
    let mut rows = vec![
        audit("a first fragment of ESP", from4(&first, OUT4)).drops(Reason::LocalInjection),
        audit(
            "a first fragment of ESP over IPv6",
            out6(LOCAL6, REMOTE6, IPV6_FRAGMENT, &fragment),
        )
        .drops(Reason::LocalInjection),
        audit("ESP behind IPv4 options", from4(&options, OUT4)).drops(Reason::OuterIpOptions),
        audit(
            "ESP behind IPv4 options to others passes",
            out4(LOCAL4, STRANGER4, &options, ESP, &esp(OUT4)),
        ),
    ];
    for header in [0, 43, 60] {
        rows.extend([
            audit(
                format!("ESP behind IPv6 header {header}"),
                out6(LOCAL6, REMOTE6, header, &extended),
            )
            .drops(Reason::OuterIpOptions),
            audit(
                format!("ESP behind IPv6 header {header} to others passes"),
                out6(LOCAL6, STRANGER6, header, &extended),
            ),
        ]);
    }
    for (family, ours, to_others, theirs, short) in [
        (
            "IPv4",
            from4(&v4, OUT4),
            out4(LOCAL4, STRANGER4, &v4, ESP, &esp(OUT4)),
            from4(&v4, OUT4 ^ 0xf),
            frames::cut(from4(&v4, OUT4), 37),
        ),
        (
            "IPv6",
            from6(OUT6),
            out6(LOCAL6, STRANGER6, ESP, &esp(OUT6)),
            from6(OUT6 ^ 0xf),
            frames::cut(from6(OUT6), 57),
        ),
    ] {
        for origin in [0, PLAINTEXT, ESP_IN_UDP, DELIVER] {
            rows.push(
                audit(
                    format!("ESP over {family} of origin {origin:#x} was made for a local process"),
                    ours.clone(),
                )
                .marked(0x6120_00a7, origin)
                .drops(Reason::LocalInjection),
            );
        }
        rows.extend([
            audit(
                format!("ESP over {family} of a frame from `endpoint_tx` passes"),
                ours,
            )
            .marked(0x6120_00a7, ENCRYPT)
            .leaves_marked(0x6120_00a7, 0),
            audit(
                format!("ESP over {family} to others passes, whatever its SPI"),
                to_others,
            ),
            audit(
                format!("ESP over {family} of an IKE daemon's SA passes"),
                theirs,
            ),
            audit(format!("ESP over {family} without an SPI passes"), short),
        ]);
    }
    rows.into_iter().map(|row| row.with(outbound)).collect()
}

/// What `endpoint_tx` sent to XFRM is ESP or is dropped, whatever the maps hold and however it looks.
fn sent_to_xfrm() -> Vec<Row> {
    const MARK: u32 = 0x6120_00a7;
    let states: [(&str, Change); 6] = [
        ("with all maps whole", |_| {}),
        ("without `config`", |world| world.maps.config = None),
        ("with `config` of another version", |world| {
            world.config(|config| config.abi_version = 0);
        }),
        ("on another port", |world| {
            world.config(|config| config.port = PORT + 1)
        }),
        ("without `vteps`", |world| world.maps.vteps.clear()),
        ("without `networks`", |world| world.maps.networks.clear()),
    ];
    let v4 = V4::default();
    let fragment = V4 {
        dont_fragment: false,
        offset: 20,
        ..V4::default()
    };
    let options = V4 {
        options: vec![0x94, 4, 0, 0],
        ..V4::default()
    };
    let secret = datagram(SECRET);
    let (whole4, whole6) = (
        out4(LOCAL4, REMOTE4, &v4, UDP, &secret),
        out6(LOCAL6, REMOTE6, UDP, &secret),
    );
    let behind = |first: u8, next: u8| {
        let payload = [&[next, 0, 0, 0, 0, 0, 0, 7][..], &secret].concat();
        out6(LOCAL6, REMOTE6, first, &payload)
    };
    let tagged = [
        &whole4[..12],
        &frames::VLAN.to_be_bytes(),
        &[0, 5],
        &whole4[12..],
    ]
    .concat();
    let [plain4, plain6] = both(PLAIN).map(|(_, packet)| packet);
    let clear = [
        ("VXLAN", whole4.clone()),
        ("VXLAN over IPv6", whole6.clone()),
        ("VXLAN of a plain VNI", plain4),
        ("VXLAN of a plain VNI over IPv6", plain6),
        (
            "VXLAN between addresses of nobody",
            out4(STRANGER4, OTHER4, &v4, UDP, &secret),
        ),
        (
            "VXLAN over IPv6 between addresses of nobody",
            out6(STRANGER6, OTHER6, UDP, &secret),
        ),
        (
            "a fragment of UDP",
            out4(LOCAL4, REMOTE4, &fragment, UDP, &secret),
        ),
        (
            "UDP with options",
            out4(LOCAL4, REMOTE4, &options, UDP, &secret),
        ),
        ("a fragment of UDP over IPv6", behind(IPV6_FRAGMENT, UDP)),
        ("ESP behind destination options", behind(60, ESP)),
        (
            "another protocol",
            out4(LOCAL4, REMOTE4, &v4, ICMP, &secret),
        ),
        (
            "VXLAN in a tunnel",
            out4(LOCAL4, REMOTE4, &v4, 4, &whole4[14..]),
        ),
        ("VXLAN behind a VLAN tag", tagged),
        (
            "another Ethertype",
            other(UNDERLAY_MAC, REMOTE4_MAC, 46).frame,
        ),
        ("a cut IPv4 header", frames::cut(whole4, 33)),
        ("a cut IPv6 header", frames::cut(whole6, 53)),
        ("an Ethernet header alone", vec![0; 14]),
    ];
    let esp = [
        ("ESP", out4(LOCAL4, REMOTE4, &v4, ESP, &[0x5a; 80])),
        ("ESP over IPv6", out6(LOCAL6, REMOTE6, ESP, &[0x5a; 80])),
        (
            "a fragment of ESP",
            out4(LOCAL4, REMOTE4, &fragment, ESP, &[0x5a; 80]),
        ),
        ("a fragment of ESP over IPv6", behind(IPV6_FRAGMENT, ESP)),
    ];
    let mut rows = Vec::new();
    for (when, state) in states {
        let configured = when != "without `config`" && when != "with `config` of another version";
        for (what, packet) in &clear {
            let row = audit(
                format!("barrier 3 {when}: {what} that was sent to XFRM does not leave"),
                packet.clone(),
            )
            .marked(MARK, ENCRYPT)
            .with(state)
            .drops(Reason::CleartextEncryptedVni);
            rows.push(if configured { row } else { row.silent() });
        }
        for (what, packet) in &esp {
            rows.push(
                audit(
                    format!("{when}, {what} leaves, for tunnels to carry as they like"),
                    packet.clone(),
                )
                .marked(MARK, ENCRYPT)
                .with(state)
                .passes()
                .leaves_marked(MARK, 0),
            );
        }
    }
    rows
}

/// Traffic that is not ours.
fn bystanders() -> Vec<Row> {
    let v4 = V4::default();
    let secret = datagram(SECRET);
    let elsewhere = frames::udp(50_000, PORT + 1, &frames::vxlan(SECRET, &[0; 60]));
    vec![
        audit(
            "VXLAN between other hosts is in transit",
            out4(STRANGER4, OTHER4, &v4, UDP, &secret),
        )
        .passes(),
        audit(
            "VXLAN between other hosts over IPv6 is in transit",
            out6(STRANGER6, OTHER6, UDP, &secret),
        )
        .passes(),
        audit(
            "our VTEP sends cleartext to nobody",
            out4(LOCAL4, STRANGER4, &v4, UDP, &secret),
        )
        .drops(Reason::CleartextEncryptedVni),
        audit(
            "nobody sends cleartext to a peer",
            out4(STRANGER4, REMOTE4, &v4, UDP, &secret),
        )
        .drops(Reason::CleartextEncryptedVni),
        audit(
            "nobody sends cleartext to a peer over IPv6",
            out6(STRANGER6, REMOTE6, UDP, &secret),
        )
        .drops(Reason::CleartextEncryptedVni),
        audit(
            "another port passes",
            out4(LOCAL4, REMOTE4, &v4, UDP, &elsewhere),
        )
        .passes(),
        audit(
            "another port over IPv6 passes",
            out6(LOCAL6, REMOTE6, UDP, &elsewhere),
        )
        .passes(),
        audit(
            "our port as the source means nothing",
            out4(LOCAL4, REMOTE4, &v4, UDP, &frames::udp(PORT, 53, &[0; 60])),
        )
        .passes(),
        audit("ESP passes", out4(LOCAL4, REMOTE4, &v4, ESP, &[0x5a; 80])).passes(),
        audit(
            "ESP over IPv6 passes",
            out6(LOCAL6, REMOTE6, ESP, &[0x5a; 80]),
        )
        .passes(),
        audit(
            "TCP passes",
            out4(LOCAL4, REMOTE4, &v4, TCP, &tcp_segment(1, PORT, 9)),
        )
        .passes(),
        audit(
            "TCP over IPv6 passes",
            out6(LOCAL6, REMOTE6, TCP, &tcp_segment(1, PORT, 9)),
        )
        .passes(),
        audit(
            "ICMP passes",
            out4(LOCAL4, REMOTE4, &v4, ICMP, &frames::echo(40)),
        )
        .passes(),
        audit(
            "ARP passes",
            frames::ethernet(
                [0xff; 6],
                UNDERLAY_MAC,
                ARP,
                &frames::arp(1, (UNDERLAY_MAC, LOCAL4), ([0; 6], REMOTE4)),
            ),
        )
        .passes(),
        audit(
            "other Ethertypes pass",
            other(UNDERLAY_MAC, REMOTE4_MAC, 46).frame,
        )
        .passes(),
        audit(
            "a wrong IP version passes",
            frames::patch8(out4(LOCAL4, REMOTE4, &v4, UDP, &secret), 14, 0x25),
        )
        .passes(),
    ]
}

/// What would hide the port.
fn hidden() -> Vec<Row> {
    let secret = datagram(SECRET);
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
    let options = V4 {
        options: vec![0x94, 4, 0, 0],
        ..V4::default()
    };
    let fragment6 = |protocol: u8, offset: u16| {
        let [high, low] = (offset << 3 | 1).to_be_bytes();
        [&[protocol, 0, high, low, 0, 0, 0, 7][..], &secret].concat()
    };
    let extended = |next: u8| [&[next, 0, 1, 4, 0, 0, 0, 0][..], &secret].concat();
    let mut rows = Vec::new();
    for (name, ip) in [("a first fragment", &first), ("a later fragment", &later)] {
        rows.extend([
            audit(
                format!("{name} of UDP between VTEPs does not leave"),
                out4(LOCAL4, REMOTE4, ip, UDP, &secret),
            )
            .marked(0, PLAINTEXT)
            .drops(Reason::UnderlayFragment),
            audit(
                format!("{name} of UDP from our VTEP to others passes"),
                out4(LOCAL4, STRANGER4, ip, UDP, &secret),
            )
            .passes(),
            audit(
                format!("{name} of UDP from others to a peer passes"),
                out4(STRANGER4, REMOTE4, ip, UDP, &secret),
            )
            .passes(),
            audit(
                format!("{name} of TCP between VTEPs passes"),
                out4(LOCAL4, REMOTE4, ip, TCP, &secret),
            )
            .passes(),
            audit(
                format!("{name} of ESP between VTEPs passes"),
                out4(LOCAL4, REMOTE4, ip, ESP, &secret),
            )
            .passes(),
        ]);
    }
    for offset in [0, 20] {
        rows.extend([
            audit(
                format!("an IPv6 fragment of UDP between VTEPs at {offset} does not leave"),
                out6(LOCAL6, REMOTE6, IPV6_FRAGMENT, &fragment6(UDP, offset)),
            )
            .marked(0, PLAINTEXT)
            .drops(Reason::UnderlayFragment),
            audit(
                format!("an IPv6 fragment of UDP to others at {offset} passes"),
                out6(LOCAL6, STRANGER6, IPV6_FRAGMENT, &fragment6(UDP, offset)),
            )
            .passes(),
            audit(
                format!("an IPv6 fragment of TCP between VTEPs at {offset} passes"),
                out6(LOCAL6, REMOTE6, IPV6_FRAGMENT, &fragment6(TCP, offset)),
            )
            .passes(),
        ]);
    }
    rows.extend([
        audit(
            "UDP with IPv4 options between VTEPs does not leave",
            out4(LOCAL4, REMOTE4, &options, UDP, &secret),
        )
        .marked(0, PLAINTEXT)
        .drops(Reason::OuterIpOptions),
        audit(
            "UDP with IPv4 options to others passes",
            out4(LOCAL4, STRANGER4, &options, UDP, &secret),
        )
        .passes(),
        audit(
            "TCP with IPv4 options between VTEPs passes",
            out4(LOCAL4, REMOTE4, &options, TCP, &secret),
        )
        .passes(),
    ]);
    for (name, header) in [
        ("hop-by-hop options", 0),
        ("a routing header", 43),
        ("destination options", 60),
    ] {
        rows.extend([
            audit(
                format!("UDP behind {name} between VTEPs does not leave"),
                out6(LOCAL6, REMOTE6, header, &extended(UDP)),
            )
            .marked(0, PLAINTEXT)
            .drops(Reason::OuterIpOptions),
            audit(
                format!("more headers behind {name} between VTEPs do not leave"),
                out6(LOCAL6, REMOTE6, header, &extended(60)),
            )
            .drops(Reason::OuterIpOptions),
            audit(
                format!("a fragment behind {name} between VTEPs does not leave"),
                out6(LOCAL6, REMOTE6, header, &extended(IPV6_FRAGMENT)),
            )
            .drops(Reason::OuterIpOptions),
            audit(
                format!("TCP behind {name} between VTEPs passes"),
                out6(LOCAL6, REMOTE6, header, &extended(TCP)),
            )
            .passes(),
            audit(
                format!("UDP behind {name} to others passes"),
                out6(LOCAL6, STRANGER6, header, &extended(UDP)),
            )
            .passes(),
        ]);
    }
    rows
}
