//! Frames that are not addressed to one IP address: other Ethertypes, broadcast, multicast.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use overlay_tests::lab::{Family, Lab, NetworkSpec, NodeSpec, Spec, checks, eventually, mac_text};

const VNI: u32 = 4097;
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
        checks::frames_of_every_length(&lab, "green", &[("a", "b"), ("b", "a")])
            .with_context(|| format!("{family:?} underlay"))?;
    }
    Ok(())
}

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
    for group in checks::GROUPS {
        checks::send_to_group(&lab, "green", "a", group, 9000, b"to all")?;
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
    checks::replicated(&lab, "green", "a", &["a2", "b", "c"])
}

#[test]
fn nodes_of_both_families_connect_those_of_either() -> Result<()> {
    // Each node derives the MTU from its own paths, and a veth takes no packet above its MTU: nodes whose
    // paths differ need one value for all.
    let lab = Lab::up(
        Spec::new()
            .network(NetworkSpec::plain("green", VNI).mtu(1430))
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
