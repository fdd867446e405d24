//! Frames that are not addressed to one IP address: other Ethertypes, broadcast, multicast.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::lab::{
    Family, Lab, NetworkSpec, NodeSpec, RawSocket, Spec, checks, eventually, mac_text,
    traffic::UdpSink,
};

const VNI: u32 = 4097;
/// Local experimental Ethertype 1 (IEEE 802).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

fn frame(to: [u8; 6], from: [u8; 6], length: usize) -> Vec<u8> {
    let payload = (0..length).map(|at| u8::try_from(at % 251).unwrap_or(0));
    [&to[..], &from, &ETHERTYPE]
        .concat()
        .into_iter()
        .chain(payload)
        .collect()
}

/// Sends a frame of every length between two containers, both ways.
fn frames_of_every_length(lab: &Lab, pairs: &[(&str, &str)]) -> Result<()> {
    for &(from, to) in pairs {
        let (here, there) = (lab.container(from)?, lab.container(to)?);
        let (source, destination) = (here.attachment("green")?, there.attachment("green")?);
        let sender = RawSocket::open(&here.netns, &source.interface)?;
        let receiver = RawSocket::open_receiver(&there.netns, &destination.interface)?;
        // Without payload, shorter than any outer header, as short as a wire allows, and full.
        for length in [0, 1, 5, 20, 36, 46, 47, 200, 1400] {
            let sent = frame(destination.mac, source.mac, length);
            sender.send(&sent)?;
            let received = receiver.wait_for(Duration::from_secs(3), |frame| {
                frame.get(12..14) == Some(&ETHERTYPE[..])
            })?;
            let received = received.with_context(|| {
                format!(
                    "{from} → {to}: no frame with {length} bytes of payload\n{}",
                    checks::drops(lab)
                )
            })?;
            // Ethernet pads what is shorter than 60 bytes.
            let (frame, padding) = received.split_at(sent.len().min(received.len()));
            ensure!(
                frame == sent
                    && received.len() <= sent.len().max(60)
                    && padding.iter().all(|&byte| byte == 0),
                "{from} → {to}: {length} bytes of payload: {sent:02x?} became {received:02x?}"
            );
        }
    }
    Ok(())
}

#[test]
fn frames_of_any_ethertype_and_length_pass_over_ipv4_and_ipv6() -> Result<()> {
    for family in Family::BOTH {
        let node = || NodeSpec::new().family(family);
        let lab = Lab::up(
            Spec::new()
                .network(NetworkSpec::plain("green", VNI))
                .node(node().container("a", &["green"]))
                .node(node().container("b", &["green"])),
        )?;
        // Raw frames make no node resolve its peer.
        lab.ping("a", "b", "green")?.count(2).run()?;
        frames_of_every_length(&lab, &[("a", "b"), ("b", "a")])
            .with_context(|| format!("{family:?} underlay"))?;
    }
    Ok(())
}

/// Sends one datagram from a container to a group or broadcast address.
fn send(lab: &Lab, from: &str, to: IpAddr, port: u16, payload: &[u8]) -> Result<()> {
    let container = lab.container(from)?;
    let own = lab.ip_of(from, "green", Family::of(to))?;
    if to.is_multicast() {
        let family = if to.is_ipv6() { "-6" } else { "-4" };
        let interface = &container.attachment("green")?.interface;
        container.netns.ip(&format!(
            "{family} route replace {to} dev {interface} table local"
        ))?;
    }
    container.netns.enter(|| {
        let socket = UdpSocket::bind((own, 0))?;
        socket.set_broadcast(true)?;
        socket.send_to(payload, (to, port))
    })??;
    Ok(())
}

const GROUPS: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(10, 64, 255, 255)),
    IpAddr::V4(Ipv4Addr::new(239, 1, 2, 3)),
    IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 1)),
];

#[test]
fn without_replication_broadcast_and_multicast_stay_on_the_node_and_are_counted() -> Result<()> {
    let lab = Lab::up(
        Spec::new()
            .network(NetworkSpec::plain("green", VNI))
            .node(
                NodeSpec::new()
                    .container("a", &["green"])
                    .container("a2", &["green"]),
            )
            .node(NodeSpec::new().container("b", &["green"])),
    )?;
    lab.ping("a", "b", "green")?.count(2).run()?;
    let reason = "MulticastNotReplicated";
    let before = lab.nodes[0].drops(reason)?;
    let capture = lab.capture()?;
    for group in GROUPS {
        send(&lab, "a", group, 9000, b"to all")?;
    }
    let after = eventually(Duration::from_secs(3), || {
        let now = lab.nodes[0].drops(reason)?;
        ensure!(now >= before + 3, "{now} of {} drops", before + 3);
        Ok(now)
    })?;
    ensure!(after >= before + 3);
    let wire = capture.stop()?;
    wire.complete()?;
    ensure!(wire.vxlan(VNI) == 0, "{}", wire.summary());
    Ok(())
}

#[test]
fn with_replication_every_other_container_gets_one_copy_whatever_its_nodes_family() -> Result<()> {
    let lab = Lab::up(
        Spec::new()
            .network(NetworkSpec::plain("green", VNI).replicate())
            .node(
                NodeSpec::new()
                    .dual()
                    .container("a", &["green"])
                    .container("a2", &["green"]),
            )
            .node(NodeSpec::new().container("b", &["green"]))
            .node(NodeSpec::new().v6().container("c", &["green"])),
    )?;
    for to in ["a2", "b", "c"] {
        lab.ping("a", to, "green")?.count(2).run()?;
    }
    for (port, group) in (9001..).zip(GROUPS) {
        let groups: &[IpAddr] = if group.is_multicast() { &[group] } else { &[] };
        let sinks: Vec<(&str, UdpSink)> = ["a2", "b", "c"]
            .into_iter()
            .map(|name| {
                Ok((
                    name,
                    UdpSink::start(lab.netns(name)?, port, "eth0", groups)?,
                ))
            })
            .collect::<Result<_>>()?;
        send(&lab, "a", group, port, b"to all")?;
        for (name, sink) in &sinks {
            eventually(Duration::from_secs(3), || {
                ensure!(!sink.received().is_empty(), "nothing to {group} at {name}");
                Ok(())
            })
            .with_context(|| checks::drops(&lab))?;
        }
        // Time for a second copy that must not come.
        std::thread::sleep(Duration::from_millis(200));
        for (name, sink) in &sinks {
            let received = sink.received();
            ensure!(received.len() == 1, "{name} got {received:?} for {group}");
            ensure!(received[0].payload == b"to all");
            ensure!(received[0].from.ip() == lab.ip_of("a", "green", Family::of(group))?);
        }
    }
    Ok(())
}

#[test]
fn nodes_of_both_families_connect_those_of_either() -> Result<()> {
    let lab = Lab::up(
        Spec::new()
            .network(NetworkSpec::plain("green", VNI))
            .node(NodeSpec::new().dual().container("a", &["green"]))
            .node(NodeSpec::new().container("b", &["green"]))
            .node(NodeSpec::new().v6().container("c", &["green"])),
    )?;
    checks::traffic(&lab, "a", "b", "green", checks::Load::LIGHT)?;
    checks::traffic(&lab, "a", "c", "green", checks::Load::LIGHT)
}

#[test]
fn arp_and_neighbour_discovery_are_answered_without_the_wire() -> Result<()> {
    let lab = Lab::up(
        Spec::new()
            .network(NetworkSpec::plain("green", VNI))
            .node(NodeSpec::new().container("a", &["green"]))
            .node(NodeSpec::new().container("b", &["green"])),
    )?;
    let capture = lab.capture()?;
    lab.ping("a", "b", "green")?.lossless()?;
    let (a, to) = (lab.container("a")?, lab.ip_of("b", "green", Family::V6)?);
    overlay_tests::lab::traffic::Ping::new(&a.netns, to).lossless()?;
    let mac = mac_text(lab.container("b")?.attachment("green")?.mac);
    for ip in &lab.container("b")?.attachment("green")?.addresses {
        let neighbour = a.netns.ip(&format!("neigh show {ip}"))?;
        ensure!(neighbour.contains(&mac), "{ip}: {neighbour}");
    }
    let wire = capture.stop()?;
    wire.complete()?;
    // Of the overlay, the pings alone were on the wire: five and five, requests and replies.
    ensure!(wire.vxlan(VNI) == 20, "{}", wire.summary());

    // Nobody has this address: no answer, and no question on the wire.
    let unknown = overlay_tests::lab::traffic::Ping::new(&a.netns, "10.64.9.9".parse()?);
    let capture = lab.capture()?;
    ensure!(unknown.count(2).run()?.received == 0);
    ensure!(capture.stop()?.vxlan(VNI) == 0);
    ensure!(lab.nodes[0].drops("UnknownNeighbour")? > 0);
    Ok(())
}
