//! ARP from a container (RFC 826, RFC 5227).

use overlay_tests::testrun::{
    Row,
    frames::{self, ARP, BROADCAST, Ip4, Mac},
    row,
    world::{A, B, C, D, NOBODY, PEER4, PLAIN, SECRET, device},
};

use super::common::*;

const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const NO_MAC: Mac = [0; 6];
const NO_IP: Ip4 = [0; 4];

fn asks(sender: (Mac, Ip4), target: Ip4) -> Vec<u8> {
    let body = frames::arp(REQUEST, sender, (NO_MAC, target));
    frames::ethernet(BROADCAST, A.mac, ARP, &body)
}

fn reply(owner: (Mac, Ip4), asker: Ip4) -> Vec<u8> {
    let body = frames::arp(REPLY, owner, (A.mac, asker));
    frames::ethernet(A.mac, owner.0, ARP, &body)
}

fn tx(name: &str, packet: Vec<u8>) -> Row {
    row(name, program::ENDPOINT_TX).packet(packet)
}

pub fn rows() -> Vec<Row> {
    let own = (A.mac, A.ip4);
    let mut padded = asks(own, C.ip4);
    padded.resize(60, 0);
    let mut padded_reply = reply((C.mac, C.ip4), A.ip4);
    padded_reply.resize(60, 0);
    let unicast = frames::ethernet(
        C.mac,
        A.mac,
        ARP,
        &frames::arp(REQUEST, own, (C.mac, C.ip4)),
    );
    let answer_to_c = frames::ethernet(C.mac, A.mac, ARP, &frames::arp(REPLY, own, (C.mac, C.ip4)));
    let answer_inner = Inner {
        name: "an ARP reply",
        hash: hash_other(&answer_to_c),
        frame: answer_to_c.clone(),
        tos: 0,
    };
    let mut rows = vec![
        tx(
            "a request for an endpoint of the peer over IPv4 is answered",
            asks(own, C.ip4),
        )
        .redirects(reply((C.mac, C.ip4), A.ip4)),
        tx(
            "a request for an endpoint of the peer over IPv6 is answered",
            asks(own, D.ip4),
        )
        .redirects(reply((D.mac, D.ip4), A.ip4)),
        tx(
            "a request for a local endpoint is answered",
            asks(own, B.ip4),
        )
        .redirects(reply((B.mac, B.ip4), A.ip4)),
        tx(
            "a request on the encrypted network is answered there",
            asks(own, C.ip4),
        )
        .on(device::SECRET_A)
        .redirects(reply((C.mac, C.ip4), A.ip4)),
        tx(
            "a request is answered whether or not the peer can be reached",
            asks(own, C.ip4),
        )
        .with(|world| world.maps.peers.clear())
        .redirects(reply((C.mac, C.ip4), A.ip4)),
        tx("padding of a request stays behind the answer", padded).redirects(padded_reply),
        tx(
            "a unicast request, as the kernel sends to confirm, is answered",
            unicast,
        )
        .redirects(reply((C.mac, C.ip4), A.ip4)),
        tx(
            "a probe for an address in use is told so",
            asks((A.mac, NO_IP), C.ip4),
        )
        .redirects(reply((C.mac, C.ip4), NO_IP)),
        tx(
            "a probe for the asker's own address hears nothing",
            asks((A.mac, NO_IP), A.ip4),
        )
        .drops(Reason::UnknownNeighbour),
        tx(
            "an announcement of the own address is not answered",
            asks(own, A.ip4),
        )
        .drops(Reason::UnknownNeighbour),
        tx("an unknown address is nobody's", asks(own, NOBODY.ip4)).drops(Reason::UnknownNeighbour),
        tx("an address of another network is unknown", asks(own, C.ip4))
            .with(|world| {
                world
                    .maps
                    .addresses
                    .retain(|key, _| key.vni == SECRET || key.address[15] == A.ip4[3])
            })
            .drops(Reason::UnknownNeighbour),
        tx(
            "the sender's IP must be the endpoint's",
            asks((A.mac, C.ip4), B.ip4),
        )
        .drops(Reason::SpoofedAddress),
        tx(
            "the sender's IP must be an endpoint's",
            asks((A.mac, NOBODY.ip4), B.ip4),
        )
        .drops(Reason::SpoofedAddress),
        tx(
            "the sender's MAC must be the frame's",
            asks((C.mac, A.ip4), B.ip4),
        )
        .drops(Reason::SpoofedAddress),
        tx(
            "the address of another may not be announced",
            asks((A.mac, C.ip4), C.ip4),
        )
        .drops(Reason::SpoofedAddress),
        tx(
            "a reply from 0.0.0.0 is no probe",
            frames::ethernet(
                C.mac,
                A.mac,
                ARP,
                &frames::arp(REPLY, (A.mac, NO_IP), (C.mac, C.ip4)),
            ),
        )
        .drops(Reason::SpoofedAddress),
        tx(
            "a reply that claims another's address is spoofed",
            frames::ethernet(
                B.mac,
                A.mac,
                ARP,
                &frames::arp(REPLY, (A.mac, C.ip4), (B.mac, B.ip4)),
            ),
        )
        .drops(Reason::SpoofedAddress),
        tx(
            "a reply goes to the endpoint that it names, as any frame",
            answer_to_c.clone(),
        )
        .redirects(outer4(TO_NIC4, PLAIN, &answer_inner))
        .leaves_marked(0, PLAINTEXT)
        .sent(PEER4, answer_to_c.len()),
        tx(
            "a broadcast reply is multicast, which this network does not replicate",
            frames::ethernet(
                BROADCAST,
                A.mac,
                ARP,
                &frames::arp(REPLY, own, (A.mac, A.ip4)),
            ),
        )
        .drops(Reason::MulticastNotReplicated),
    ];
    for (what, offset, value) in [
        ("a hardware type other than Ethernet", 15, 6),
        ("a protocol other than IPv4", 16, 0x86),
        ("a hardware address of another length", 18, 8),
        ("a protocol address of another length", 19, 16),
    ] {
        rows.push(
            tx(
                &format!("{what} is refused"),
                frames::patch8(asks(own, C.ip4), offset, value),
            )
            .drops(Reason::SpoofedAddress),
        );
    }
    for length in 14..42 {
        rows.push(
            tx(
                &format!("ARP of {length} bytes is too short"),
                frames::cut(asks(own, C.ip4), length),
            )
            .drops(Reason::TooShort),
        );
    }
    rows
}
