//! A container sends only from its own MAC and addresses.

use overlay_ebpf::abi::ids::mapped;
use overlay_tests::testrun::{
    Row,
    frames::{self, BROADCAST, ICMP, ICMPV6, IPV4, IPV6, Ip4, Ip6, QINQ, VLAN},
    row,
    world::{A, B, C, NOBODY, NOWHERE, PEER4, PLAIN, device},
};

use super::common::*;

fn tx(name: &str, packet: Vec<u8>) -> Row {
    row(name, program::ENDPOINT_TX).packet(packet)
}

fn from4(source: Ip4) -> Vec<u8> {
    let packet = frames::ipv4(source, C.ip4, ICMP, &frames::echo(40));
    frames::ethernet(C.mac, A.mac, IPV4, &packet)
}

fn from6(source: Ip6) -> Vec<u8> {
    let message = frames::icmpv6(source, C.ip6, (128, 0), [0, 1, 0, 1], &[9; 32]);
    let packet = frames::ipv6(source, C.ip6, ICMPV6, &message);
    frames::ethernet(C.mac, A.mac, IPV6, &packet)
}

pub fn rows() -> Vec<Row> {
    let good = ping4(A, C).frame;
    let own_link_local = Inner {
        name: "",
        hash: overlay_ebpf::packet::flow::hash_v6(A.link_local(), C.ip6, ICMPV6, 0),
        frame: from6(A.link_local()),
        tos: 0,
    };
    let mut group_source = good.clone();
    group_source[6] |= 1;
    vec![
        tx("a device that is no endpoint's sends nothing", good.clone())
            .on(device::UNDERLAY)
            .drops(Reason::UnknownPort),
        tx(
            "an endpoint of a closed network sends nothing",
            good.clone(),
        )
        .with(|world| {
            world.maps.networks.clear();
        })
        .drops(Reason::UnknownNetwork),
        tx(
            "an endpoint moved to a network that is not there sends nothing",
            good.clone(),
        )
        .with(|world| world.local(NOWHERE, A, device::A))
        .drops(Reason::UnknownNetwork),
        tx("another endpoint's MAC is spoofed", ping4(B, C).frame).drops(Reason::SpoofedMac),
        tx("a MAC that nobody has is spoofed", ping4(NOBODY, C).frame).drops(Reason::SpoofedMac),
        tx(
            "a spoofed MAC is refused whatever the Ethertype",
            other(B.mac, C.mac, 46).frame,
        )
        .drops(Reason::SpoofedMac),
        tx("a group is no source", group_source).drops(Reason::SourceMacMulticast),
        tx("another endpoint's IPv4 address is spoofed", from4(B.ip4))
            .drops(Reason::SpoofedAddress),
        tx(
            "an IPv4 address that nobody has is spoofed",
            from4(NOBODY.ip4),
        )
        .drops(Reason::SpoofedAddress),
        tx(
            "0.0.0.0 is nobody's address: there is no DHCP here",
            from4([0; 4]),
        )
        .drops(Reason::SpoofedAddress),
        tx("an IPv4 group is no source", from4([224, 0, 0, 1])).drops(Reason::SpoofedAddress),
        tx("127.0.0.1 is spoofed", from4([127, 0, 0, 1])).drops(Reason::SpoofedAddress),
        tx(
            "the own address on another network is spoofed",
            good.clone(),
        )
        .with(|world| {
            world
                .maps
                .addresses
                .retain(|key, _| key.vni != PLAIN || key.address[15] != A.ip4[3]);
        })
        .drops(Reason::SpoofedAddress),
        tx("another endpoint's IPv6 address is spoofed", from6(B.ip6))
            .drops(Reason::SpoofedAddress),
        tx(
            "an IPv6 address that nobody has is spoofed",
            from6(NOBODY.ip6),
        )
        .drops(Reason::SpoofedAddress),
        tx(
            "`::1` is spoofed",
            from6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        )
        .drops(Reason::SpoofedAddress),
        tx(
            "a foreign link-local address is spoofed",
            from6(B.link_local()),
        )
        .drops(Reason::SpoofedAddress),
        tx(
            "the own IPv4 address as an IPv6 one is nobody's",
            from6(mapped(A.ip4)),
        )
        .drops(Reason::SpoofedAddress),
        tx(
            "an IPv6 group is no source",
            from6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        )
        .drops(Reason::SpoofedAddress),
        tx("`::` sends to no single node", from6([0; 16])).drops(Reason::SpoofedAddress),
        tx(
            "the own link-local address may send",
            own_link_local.frame.clone(),
        )
        .redirects(outer4(TO_NIC4, PLAIN, &own_link_local))
        .leaves_marked(0, PLAINTEXT)
        .sent(PEER4, own_link_local.frame.len()),
        tx("a tag in the frame is refused", frames::tagged(&good, VLAN)).drops(Reason::VlanTag),
        tx(
            "a service tag in the frame is refused",
            frames::tagged(&good, QINQ),
        )
        .drops(Reason::VlanTag),
        tx(
            "two tags in the frame are refused",
            frames::tagged(&frames::tagged(&good, VLAN), QINQ),
        )
        .drops(Reason::VlanTag),
        tx("a tag beside the frame is refused", good.clone())
            .vlan_beside(0x2007)
            .drops(Reason::VlanTag),
        tx(
            "a priority tag beside the frame is refused too",
            good.clone(),
        )
        .vlan_beside(0x2000)
        .drops(Reason::VlanTag),
        tx(
            "a tag on a broadcast is refused before anything is replicated",
            {
                let mut frame = frames::tagged(&good, VLAN);
                frame[..6].copy_from_slice(&BROADCAST);
                frame
            },
        )
        .with(|world| world.flood(PLAIN, &[]))
        .drops(Reason::VlanTag),
        tx(
            "an unknown unicast address is dropped, not flooded",
            ping4(A, NOBODY).frame,
        )
        .drops(Reason::UnknownDestination),
        tx(
            "it is not flooded where the network replicates, either",
            ping4(A, NOBODY).frame,
        )
        .with(|world| world.flood(PLAIN, &[overlay_tests::testrun::world::to_peer(PEER4)]))
        .drops(Reason::UnknownDestination),
    ]
}
