//! The devices of the overlay itself.

use overlay_ebpf::abi::Config;
use overlay_tests::testrun::{
    Row,
    frames::{self, IPV6},
    row,
    world::{A, B, C, SECRET, device},
};

use super::common::*;

const OURS: u32 = 0x6120_00a7;

pub fn rows() -> Vec<Row> {
    let packet = outer4(TO_STACK, SECRET, &ping4(A, C));
    let over6 = outer6(TO_STACK, SECRET, &ping6(A, C));
    let large = outer4(TO_STACK, SECRET, &tcp4(A, C, 1, 2, 2800));
    let reentry = |name: &str, packet: &[u8]| row(name, program::REENTRY).packet(packet);
    let sink = |name: &str, packet: &[u8]| row(name, program::SINK).packet(packet);
    let mut rows = vec![
        reentry(
            "a packet of `endpoint_tx` over IPv4 goes on to XFRM",
            &packet,
        )
        .marked(OURS, ENCRYPT)
        .passes(),
        reentry(
            "a packet of `endpoint_tx` over IPv6 goes on to XFRM",
            &over6,
        )
        .marked(OURS, ENCRYPT)
        .passes(),
        reentry("our mark alone opens nothing", &packet)
            .marked(OURS, 0)
            .drops(Reason::LocalInjection),
        reentry("a packet without anything of ours is injected", &packet)
            .drops(Reason::LocalInjection),
        reentry("plain packets have no business here", &packet)
            .marked(OURS, PLAINTEXT)
            .drops(Reason::LocalInjection),
        reentry(
            "a mark that other software cleared leads to no policy",
            &packet,
        )
        .marked(0, ENCRYPT)
        .drops(Reason::LocalInjection),
        reentry(
            "a mark that other software changed leads to no policy",
            &packet,
        )
        .marked(OURS ^ 1, ENCRYPT)
        .drops(Reason::LocalInjection),
        reentry("kube-proxy's bits do not spoil ours", &packet)
            .marked(OURS | 0x4000, ENCRYPT)
            .passes(),
        reentry("a GSO packet with its segments counted goes on", &large)
            .marked(OURS, ENCRYPT)
            .gso(1360, 3)
            .passes(),
        reentry("a GSO packet without a count would repeat a nonce", &large)
            .marked(OURS, ENCRYPT)
            .gso(1360, 0)
            .drops(Reason::GsoSegsZero),
        reentry("an injected GSO packet is first of all injected", &large)
            .gso(1360, 0)
            .drops(Reason::LocalInjection),
        reentry(
            "a frame on its second way is delivered to the device in its mark",
            &ping4(C, A).frame,
        )
        .marked(device::A, DELIVER)
        .redirects(ping4(C, A).frame)
        .leaves_marked(0, 0),
        reentry("an ordinary frame is injected", &ping4(A, B).frame).drops(Reason::LocalInjection),
        reentry(
            "fourteen bytes are injected",
            &frames::ethernet([2; 6], [4; 6], IPV6, &[]),
        )
        .drops(Reason::LocalInjection),
        sink("nothing of ours arrives at a sink", &packet)
            .marked(OURS, ENCRYPT)
            .drops(Reason::ForeignTraffic),
        sink(
            "a plain frame does not arrive at a sink",
            &ping4(A, B).frame,
        )
        .drops(Reason::ForeignTraffic),
        sink(
            "fourteen bytes do not arrive at a sink",
            &frames::ethernet([2; 6], [4; 6], IPV6, &[]),
        )
        .drops(Reason::ForeignTraffic),
    ];
    let unset: fn(&mut Config) = |config| config.abi_version = 0;
    rows.push(
        sink("a sink needs no configuration", &packet)
            .with(|world| world.config(unset))
            .drops(Reason::ForeignTraffic)
            .silent(),
    );
    rows
}
