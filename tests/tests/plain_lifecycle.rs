//! Applying again, while traffic runs; and removing everything.

use std::{collections::BTreeSet, net::UdpSocket, time::Duration};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::lab::{
    Family, Lab, NetworkSpec, Node, NodeSpec, Spec,
    checks::{self, Load},
    command, eventually,
    traffic::{Stream, UdpEcho},
};

const VNI: u32 = 4097;
const VXLAN_PORT: u16 = 4789;

fn lab() -> Result<Lab> {
    Lab::new(
        Spec::new()
            .network(NetworkSpec::plain("green", VNI))
            .node(NodeSpec::new().container("a", &["green"]))
            .node(NodeSpec::new().container("b", &["green"])),
    )
}

#[test]
fn a_second_apply_changes_nothing_and_show_agrees() -> Result<()> {
    let lab = lab()?;
    lab.apply()?;
    for node in &lab.nodes {
        let again = node.apply(&lab.keyring)?;
        ensure!(again.changes()? == 0, "{again:?}");
        let shown = node.show()?;
        let differences = shown["differences"].as_array();
        ensure!(
            differences.is_some_and(Vec::is_empty),
            "{:#}",
            shown["differences"]
        );
        let networks = shown["networks"].as_array();
        ensure!(networks.is_some_and(|networks| {
            networks.len() == 1 && networks[0]["name"] == "green" && networks[0]["open"] == true
        }));
    }
    Ok(())
}

#[test]
fn show_counts_what_the_firewall_keeps_a_local_process_from_sending() -> Result<()> {
    let lab = lab()?;
    let node = &lab.nodes[0];
    node.apply(&lab.keyring)?;
    let counted = || -> Result<Option<u64>> {
        let shown = node.show()?;
        let mut drops = shown["kernel_drops"].as_array().into_iter().flatten();
        let drop = drops.find(|drop| drop["counter"] == "local_injection");
        Ok(drop.and_then(|drop| drop["packets"].as_u64()))
    };
    ensure!(counted()? == Some(0), "{:?}", counted()?);
    let port = (lab.underlay.vtep(2, Family::V4)?, VXLAN_PORT);
    let sent = node
        .netns
        .enter(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"inject", port))?;
    ensure!(sent.is_err(), "{sent:?}");
    ensure!(counted()? == Some(1), "{:?}", counted()?);
    Ok(())
}

#[test]
fn show_names_what_is_gone_and_says_so_by_its_exit_status() -> Result<()> {
    let lab = lab()?;
    let node = &lab.nodes[0];
    node.apply(&lab.keyring)?;
    let show = || -> Result<(Option<i32>, String)> {
        let output = node.overlay()?.args(["dataplane", "show"]).output()?;
        let text = String::from_utf8(output.stdout)?;
        Ok((output.status.code(), text))
    };
    let (status, text) = show()?;
    ensure!(status == Some(0), "{status:?}: {text}");
    node.netns.run("nft", "delete table inet overlay")?;
    let shown = node.show()?;
    let differences = shown["differences"].as_array();
    ensure!(
        differences.is_some_and(|steps| {
            steps.len() == 1
                && steps[0]
                    .as_str()
                    .is_some_and(|s| s.contains("set firewall"))
        }),
        "{:#}",
        shown["differences"]
    );
    let (status, text) = show()?;
    ensure!(
        status == Some(1) && text.contains("set firewall"),
        "{status:?}: {text}"
    );
    Ok(())
}

#[test]
fn a_take_over_under_traffic_loses_nothing() -> Result<()> {
    let lab = lab()?;
    lab.apply()?;
    lab.ping("a", "b", "green")?.count(2).run()?;
    let echo = UdpEcho::start(lab.netns("b")?, lab.ip("b", "green")?, 7)?;
    let stream = Stream::start(lab.netns("a")?, echo.address, 1000, 200, b"x")?;
    for _ in 0..3 {
        lab.apply()?;
    }
    // No process of ours runs between the applies and after the last.
    std::thread::sleep(Duration::from_millis(500));
    let result = stream.stop()?;
    result
        .lossless()
        .with_context(|| checks::drops(&lab))
        .map(drop)
}

#[test]
fn a_network_and_an_endpoint_come_and_go_beside_running_traffic() -> Result<()> {
    let spec = Spec::new()
        .network(NetworkSpec::plain("green", VNI))
        .network(NetworkSpec::plain("amber", VNI + 1))
        .node(
            NodeSpec::new()
                .container("a", &["green"])
                .container("c", &["amber"]),
        )
        .node(
            NodeSpec::new()
                .container("b", &["green"])
                .container("d", &["amber"]),
        );
    let mut lab = Lab::new(spec)?;
    let whole: Vec<_> = lab.nodes.iter().map(|node| node.desired.clone()).collect();
    for node in &mut lab.nodes {
        node.desired
            .networks
            .retain(|network| network.name == "green");
        node.desired
            .endpoints
            .retain(|endpoint| endpoint.network == "green");
        node.desired
            .remote_endpoints
            .retain(|endpoint| endpoint.network == "green");
    }
    let reduced: Vec<_> = lab.nodes.iter().map(|node| node.desired.clone()).collect();
    lab.apply()?;
    lab.ping("a", "b", "green")?.count(2).run()?;
    let echo = UdpEcho::start(lab.netns("b")?, lab.ip("b", "green")?, 7)?;
    let stream = Stream::start(lab.netns("a")?, echo.address, 500, 200, b"x")?;
    for (node, desired) in lab.nodes.iter_mut().zip(whole) {
        node.desired = desired;
    }
    lab.apply()?;
    checks::traffic(&lab, "c", "d", "amber", Load::LIGHT)?;
    for (node, desired) in lab.nodes.iter_mut().zip(reduced) {
        node.desired = desired;
    }
    lab.apply()?;
    stream
        .stop()?
        .lossless()
        .with_context(|| checks::drops(&lab))?;
    let links = lab.netns("c")?.ip("-o link")?;
    ensure!(!links.contains("eth0"), "an endpoint stayed: {links}");
    Ok(())
}

#[test]
fn the_next_apply_takes_out_an_endpoint_whose_namespace_is_gone() -> Result<()> {
    let lab = lab()?;
    lab.apply()?;
    let node = &lab.nodes[0];
    let name = lab.netns("a")?.name().to_owned();
    command::shell("ip", &format!("netns del {name}"))?;
    // The kernel takes the devices away in its own time.
    let applied = eventually(Duration::from_secs(20), || {
        let applied = node.try_apply(&lab.keyring)?;
        let named = applied
            .stderr
            .contains("endpoint a-green: closed: its network namespace");
        ensure!(named, "{applied:?}");
        Ok(applied)
    })?;
    ensure!(
        applied.status == 1 && !applied.stderr.contains("failed"),
        "{applied:?}"
    );
    let endpoints = node.show()?["endpoints"].to_string();
    ensure!(!endpoints.contains("local"), "{endpoints}");
    command::shell("ip", &format!("netns add {name}"))?;
    lab.apply()?;
    eventually(Duration::from_secs(20), || {
        lab.ping("a", "b", "green")?.lossless()
    })?;
    Ok(())
}

/// What a node's kernel holds that an apply could have changed.
fn footprint(node: &Node) -> Result<BTreeSet<String>> {
    let netns = &node.netns;
    let mut lines = BTreeSet::new();
    let mut add = |what: &str, text: String| {
        lines.extend(text.lines().map(|line| format!("{what}: {}", line.trim())));
    };
    add("link", netns.ip("-o link")?);
    add("address", netns.ip("-o addr")?);
    add("XFRM state", netns.ip("xfrm state")?);
    add("XFRM policy", netns.ip("xfrm policy")?);
    add("rule", netns.ip("rule")?);
    add("firewall", netns.run("nft", "list ruleset")?);
    let neighbours = netns.ip("neigh show")?;
    let managed = neighbours.lines().filter(|line| line.contains("managed"));
    add("neighbour", managed.collect::<Vec<_>>().join("\n"));
    for hook in ["ingress", "egress"] {
        add(
            "filter",
            netns.run("tc", &format!("filter show dev wire0 {hook}"))?,
        );
    }
    add("qdisc", netns.run("tc", "qdisc show dev wire0")?);
    let attached = netns.run("bpftool", "net show dev wire0")?;
    add("program", attached);
    let sysctls = netns.run("sysctl", "-a -r ^net\\.ipv[46]\\.(conf|ip_forward)")?;
    add("sysctl", sysctls);
    Ok(lines)
}

#[test]
fn clear_leaves_nothing_behind() -> Result<()> {
    for family in Family::BOTH {
        let node = || NodeSpec::new().family(family);
        let lab = Lab::new(
            Spec::new()
                .network(NetworkSpec::plain("green", VNI))
                .network(NetworkSpec::plain("amber", VNI + 1).replicate())
                .node(node().container("a", &["green", "amber"]))
                .node(node().container("b", &["green", "amber"])),
        )?;
        let before = footprint(&lab.nodes[0])?;
        lab.apply()?;
        lab.ping("a", "b", "green")?.count(2).run()?;
        let during = footprint(&lab.nodes[0])?;
        ensure!(during.len() > before.len(), "apply changed nothing");
        lab.nodes[0].clear()?;
        let after = footprint(&lab.nodes[0])?;
        let added: Vec<_> = after.difference(&before).collect();
        let removed: Vec<_> = before.difference(&after).collect();
        ensure!(
            added.is_empty() && removed.is_empty(),
            "left behind: {added:#?}\ntaken away: {removed:#?}"
        );
        let pins = lab.nodes[0].pins();
        let left: Vec<_> = walk(pins);
        ensure!(left.is_empty(), "pins left: {left:?}");
        let links = lab.netns("a")?.ip("-o link")?;
        ensure!(!links.contains("eth"), "the container keeps {links}");
        // And it can be applied again.
        lab.nodes[0].apply(&lab.keyring)?;
        checks::traffic(&lab, "a", "b", "green", Load::LIGHT)?;
    }
    Ok(())
}

/// Files below a directory.
fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .flat_map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}
