//! Neighbour discovery from a container (RFC 4861, RFC 4862).

use overlay_tests::testrun::{
    Row,
    frames::{self, ICMPV6, IPV6, Ip6, Mac, V6},
    row,
    world::{A, B, C, D, NOBODY, PEER4, PLAIN, SECRET, device},
};

use super::common::*;

const UNSPECIFIED: Ip6 = [0; 16];
const ALL_NODES: Ip6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_ROUTERS: Ip6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

const ND: V6 = V6 {
    traffic_class: 0,
    flow_label: 0,
    hop_limit: 255,
};

fn frame(to: Mac, source: Ip6, destination: Ip6, message: &[u8]) -> Vec<u8> {
    let packet = ND.packet(source, destination, ICMPV6, message);
    frames::ethernet(to, A.mac, IPV6, &packet)
}

/// A solicitation from A with its MAC as option.
fn asks(source: Ip6, target: Ip6) -> Vec<u8> {
    let option = frames::link_layer_option(1, A.mac);
    asks_with(source, target, &option)
}

fn asks_with(source: Ip6, target: Ip6, options: &[u8]) -> Vec<u8> {
    let group = frames::solicited_node(target);
    let message = frames::solicitation(source, group, target, options);
    frame(frames::group_mac(group), source, group, &message)
}

/// The answer to A.
fn answer(owner: Mac, target: Ip6, destination: Ip6, flags: u8) -> Vec<u8> {
    let option = frames::link_layer_option(2, owner);
    let message = frames::advertisement(target, destination, target, flags, &option);
    let packet = ND.packet(target, destination, ICMPV6, &message);
    frames::ethernet(A.mac, owner, IPV6, &packet)
}

/// An advertisement that A sends to C.
fn claims(source: Ip6, target: Ip6) -> Vec<u8> {
    let option = frames::link_layer_option(2, A.mac);
    let message = frames::advertisement(source, C.ip6, target, SOLICITED | OVERRIDE, &option);
    frame(C.mac, source, C.ip6, &message)
}

fn tx(name: &str, packet: Vec<u8>) -> Row {
    row(name, program::ENDPOINT_TX).packet(packet)
}

/// The frame leaves for C, whose node is reached over IPv4.
fn leaves(name: &str, packet: Vec<u8>, source: Ip6, next: u8) -> Row {
    let inner = Inner {
        name: "",
        hash: overlay_ebpf::packet::flow::hash_v6(source, C.ip6, next, 0),
        frame: packet.clone(),
        tos: 0,
    };
    tx(name, packet)
        .redirects(outer4(TO_NIC4, PLAIN, &inner))
        .leaves_marked(0, PLAINTEXT)
        .sent(PEER4, inner.frame.len())
}

pub fn rows() -> Vec<Row> {
    const BOTH: u8 = SOLICITED | OVERRIDE;
    let mac = |kind| frames::link_layer_option(kind, A.mac);
    let nonce = [&mac(1)[..], &[14, 1, 1, 2, 3, 4, 5, 6]].concat();
    let unicast = frame(
        C.mac,
        A.ip6,
        C.ip6,
        &frames::solicitation(A.ip6, C.ip6, C.ip6, &mac(1)),
    );
    let code_one = {
        let group = frames::solicited_node(C.ip6);
        let rest = [&C.ip6[..], &mac(1)].concat();
        let message = frames::icmpv6(A.ip6, group, (135, 1), [0; 4], &rest);
        frame(frames::group_mac(group), A.ip6, group, &message)
    };
    let router_solicitation = frame(
        frames::group_mac(ALL_ROUTERS),
        A.link_local(),
        ALL_ROUTERS,
        &frames::icmpv6(A.link_local(), ALL_ROUTERS, (133, 0), [0; 4], &mac(1)),
    );
    let far = {
        let group = frames::solicited_node(C.ip6);
        let message = frames::solicitation(A.ip6, group, C.ip6, &mac(1));
        let packet = V6::default().packet(A.ip6, group, ICMPV6, &message);
        frames::ethernet(frames::group_mac(group), A.mac, IPV6, &packet)
    };
    let report = {
        let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16];
        let message = frames::icmpv6(UNSPECIFIED, group, (143, 0), [0, 0, 0, 0], &[]);
        frame(frames::group_mac(group), UNSPECIFIED, group, &message)
    };

    let mut rows = vec![
        tx(
            "a solicitation for an endpoint of the peer over IPv4 is answered",
            asks(A.ip6, C.ip6),
        )
        .redirects(answer(C.mac, C.ip6, A.ip6, BOTH)),
        tx(
            "a solicitation for an endpoint of the peer over IPv6 is answered",
            asks(A.ip6, D.ip6),
        )
        .redirects(answer(D.mac, D.ip6, A.ip6, BOTH)),
        tx(
            "a solicitation for a local endpoint is answered",
            asks(A.ip6, B.ip6),
        )
        .redirects(answer(B.mac, B.ip6, A.ip6, BOTH)),
        tx(
            "a solicitation on the encrypted network is answered there",
            asks(A.ip6, C.ip6),
        )
        .on(device::SECRET_A)
        .redirects(answer(C.mac, C.ip6, A.ip6, BOTH)),
        tx(
            "a solicitation from the own link-local address is answered to it",
            asks(A.link_local(), C.ip6),
        )
        .redirects(answer(C.mac, C.ip6, A.link_local(), BOTH)),
        tx(
            "a solicitation without an option gets a longer answer",
            asks_with(A.ip6, C.ip6, &[]),
        )
        .redirects(answer(C.mac, C.ip6, A.ip6, BOTH)),
        tx(
            "a solicitation with a nonce gets a shorter answer",
            asks_with(A.ip6, C.ip6, &nonce),
        )
        .redirects(answer(C.mac, C.ip6, A.ip6, BOTH)),
        tx(
            "a unicast solicitation, as the kernel sends to confirm, is answered",
            unicast,
        )
        .redirects(answer(C.mac, C.ip6, A.ip6, BOTH)),
        tx(
            "a probe for an address in use is told so, to all nodes",
            asks_with(UNSPECIFIED, C.ip6, &[]),
        )
        .redirects(answer(C.mac, C.ip6, ALL_NODES, OVERRIDE)),
        tx(
            "a probe for the asker's own address hears nothing",
            asks_with(UNSPECIFIED, A.ip6, &[]),
        )
        .drops(Reason::UnknownNeighbour),
        tx(
            "a probe for the own link-local address hears nothing",
            asks_with(UNSPECIFIED, A.link_local(), &[]),
        )
        .drops(Reason::UnknownNeighbour),
        tx(
            "a solicitation for the own address hears nothing",
            asks(A.ip6, A.ip6),
        )
        .drops(Reason::UnknownNeighbour),
        tx("an unknown address is nobody's", asks(A.ip6, NOBODY.ip6))
            .drops(Reason::UnknownNeighbour),
        tx(
            "an address of another network is unknown",
            asks(A.ip6, C.ip6),
        )
        .with(|world| {
            world
                .maps
                .addresses
                .retain(|key, _| key.vni == SECRET || key.address[15] == A.ip6[15])
        })
        .drops(Reason::UnknownNeighbour),
        tx("the source must be the endpoint's", asks(C.ip6, B.ip6)).drops(Reason::SpoofedAddress),
        tx(
            "a foreign link-local source is spoofed",
            asks(C.link_local(), B.ip6),
        )
        .drops(Reason::SpoofedAddress),
        tx("a solicitation that a router has forwarded is refused", far)
            .drops(Reason::SpoofedAddress),
        tx(
            "a code that does not exist is no solicitation, but multicast",
            code_one,
        )
        .drops(Reason::MulticastNotReplicated),
        tx("a router solicitation is multicast", router_solicitation)
            .drops(Reason::MulticastNotReplicated),
        tx("a multicast report from `::` is multicast", report)
            .drops(Reason::MulticastNotReplicated),
        tx(
            "`::` sends to groups only",
            frame(
                C.mac,
                UNSPECIFIED,
                C.ip6,
                &frames::solicitation(UNSPECIFIED, C.ip6, C.ip6, &[]),
            ),
        )
        .drops(Reason::SpoofedAddress),
        leaves(
            "an advertisement of the own address leaves",
            claims(A.ip6, A.ip6),
            A.ip6,
            ICMPV6,
        ),
        leaves(
            "an advertisement of the own link-local address leaves",
            claims(A.link_local(), A.link_local()),
            A.link_local(),
            ICMPV6,
        ),
        tx(
            "an advertisement of another's address is spoofed",
            claims(A.ip6, B.ip6),
        )
        .drops(Reason::SpoofedAddress),
        tx(
            "an advertisement of nobody's address is spoofed",
            claims(A.ip6, NOBODY.ip6),
        )
        .drops(Reason::SpoofedAddress),
        tx(
            "an advertisement of a foreign link-local address is spoofed",
            claims(A.ip6, B.link_local()),
        )
        .drops(Reason::SpoofedAddress),
    ];
    // RFC 7113 section 3: an extension header hides what follows from those who do not walk it.
    let message = frames::advertisement(A.ip6, C.ip6, B.ip6, BOTH, &mac(2));
    for (name, header) in [
        ("hop-by-hop options", 0),
        ("routing", 43),
        ("destination options", 60),
    ] {
        // Next header, length in units of 8 bytes beyond the first, and six bytes of padding.
        let hidden = [&[ICMPV6, 0, 1, 4, 0, 0, 0, 0][..], &message].concat();
        let packet = ND.packet(A.ip6, C.ip6, header, &hidden);
        rows.push(
            tx(
                &format!("an advertisement does not hide behind {name}"),
                frames::ethernet(C.mac, A.mac, IPV6, &packet),
            )
            .drops(Reason::SpoofedAddress),
        );
        let packet = V6::default().packet(A.ip6, C.ip6, header, &hidden);
        rows.push(leaves(
            &format!("{name} with an ordinary hop limit hide no ND and leave"),
            frames::ethernet(C.mac, A.mac, IPV6, &packet),
            A.ip6,
            header,
        ));
    }
    for length in 14..78 {
        rows.push(
            tx(
                &format!("a solicitation of {length} bytes is too short"),
                frames::cut(asks(A.ip6, C.ip6), length),
            )
            .drops(Reason::TooShort),
        );
    }
    rows
}
