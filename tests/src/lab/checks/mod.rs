//! What must hold between two containers of a network, however their nodes are connected.

mod frames;
pub mod netfilter;
mod path_mtu;

pub use self::{
    frames::{GROUPS, frames_of_every_length, replicated, send_to_group},
    path_mtu::narrowing_is_told,
};

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::lab::{
    Container, Lab,
    addressing::Family,
    eventually,
    traffic::{Ping, Stream, TcpEcho, UdpEcho, transfer},
};

/// In every payload of these checks, so that a capture can look for it.
pub const MARKER: &[u8] = b"<known plaintext of the overlay tests>";

/// How much traffic the checks make.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Bytes of a TCP transfer.
    pub transfer: usize,
    /// TCP connections at once.
    pub flows: usize,
}

impl Load {
    /// 2 MiB, 200 connections.
    pub const FULL: Self = Self {
        transfer: 2 << 20,
        flows: 200,
    };
    /// 256 KiB, 20 connections.
    pub const LIGHT: Self = Self {
        transfer: 256 << 10,
        flows: 20,
    };
}

/// Ping, the largest packet, TCP both ways, UDP and many connections, over every family that both
/// have.
pub fn traffic(lab: &Lab, from: &str, to: &str, network: &str, load: Load) -> Result<()> {
    for family in Family::BOTH {
        let Ok(there) = lab.ip_of(to, network, family) else {
            continue;
        };
        let here = lab.ip_of(from, network, family)?;
        traffic_between(lab, (from, here), (to, there), network, load)
            .with_context(|| format!("{from} → {to} in {network}, {family:?} inside"))
            .with_context(|| drops(lab))?;
    }
    Ok(())
}

fn traffic_between(
    lab: &Lab,
    (from, here): (&str, IpAddr),
    (to, there): (&str, IpAddr),
    network: &str,
    load: Load,
) -> Result<()> {
    let (a, b) = (lab.netns(from)?, lab.netns(to)?);
    // The first packet of a pair may wait for the underlay's neighbour resolution.
    eventually(Duration::from_secs(10), || {
        Ping::new(a, there).count(1).lossless()
    })?;
    Ping::new(a, there).lossless()?;
    Ping::new(b, here).lossless()?;

    // Frames shorter than the outer headers.
    for size in [0, 1] {
        Ping::new(a, there)
            .size(size)
            .count(2)
            .lossless()
            .with_context(|| format!("{size} bytes of payload"))?;
    }

    let mtu = mtu(lab.container(from)?, network)?.min(self::mtu(lab.container(to)?, network)?);
    Ping::new(a, there).packet(mtu).count(3).lossless()?;
    Ping::new(b, here).packet(mtu).count(3).lossless()?;
    // Fragments inside are the containers' own business.
    Ping::new(a, there)
        .size(3 * mtu)
        .count(2)
        .lossless()
        .context("fragmented inside")?;

    transfer(a, b, there, load.transfer, MARKER).context("TCP")?;
    transfer(b, a, here, load.transfer, MARKER).context("TCP, the other way")?;

    let echo = UdpEcho::start(b, there, 7007)?;
    let stream = Stream::start(a, echo.address, 500, 400, MARKER)?;
    std::thread::sleep(Duration::from_millis(200));
    stream.stop()?.lossless().context("UDP")?;

    TcpEcho::start(b, there)?
        .flows(a, load.flows)
        .context("many TCP connections")
}

/// A packet above the network's MTU comes back as "too big" with that MTU, although both ends of
/// the container's link would take it.
pub fn too_big_is_answered(lab: &Lab, from: &str, to: &str, network: &str) -> Result<()> {
    let container = lab.container(from)?;
    let interface = &container.attachment(network)?.interface;
    let node = lab.node(container.node)?;
    let mtu = mtu(container, network)?;
    let device = host_device(lab, from, network)?;
    for (netns, device) in [(&container.netns, interface), (&node.netns, &device)] {
        netns.ip(&format!("link set {device} mtu {}", mtu + 300))?;
    }
    for family in Family::BOTH {
        let Ok(there) = lab.ip_of(to, network, family) else {
            continue;
        };
        let result = Ping::new(&container.netns, there)
            .packet(mtu + 1)
            .count(3)
            .run()?;
        let told = match family {
            Family::V4 => format!("mtu = {mtu}"),
            Family::V6 => format!("mtu={mtu}"),
        };
        // Once told, the container's own kernel refuses, with the same number.
        ensure!(
            result.received == 0 && result.output.contains(&told),
            "a packet of {} bytes over {family:?} was not answered with {mtu}: {}",
            mtu + 1,
            result.output
        );
        Ping::new(&container.netns, there).packet(mtu).lossless()?;
    }
    for (netns, device) in [(&container.netns, interface), (&node.netns, &device)] {
        netns.ip(&format!("link set {device} mtu {mtu}"))?;
    }
    Ok(())
}

/// MTU of a container's interface.
pub fn mtu(container: &Container, network: &str) -> Result<u32> {
    let interface = &container.attachment(network)?.interface;
    let text = container
        .netns
        .ip(&format!("-o link show dev {interface}"))?;
    text.split_whitespace()
        .skip_while(|word| *word != "mtu")
        .nth(1)
        .and_then(|mtu| mtu.parse().ok())
        .with_context(|| format!("no MTU in `{text}`"))
}

/// Name of the host side of a container's interface.
pub fn host_device(lab: &Lab, container: &str, network: &str) -> Result<String> {
    let inside = lab.container(container)?;
    let interface = &inside.attachment(network)?.interface;
    let text = inside.netns.ip(&format!("-o link show dev {interface}"))?;
    // `2: eth0@if6: …`: the index of the other end.
    let index = text
        .split("@if")
        .nth(1)
        .and_then(|rest| rest.split(':').next())
        .with_context(|| format!("no peer in `{text}`"))?;
    let node = lab.node(inside.node)?;
    let links = node.netns.ip("-o link show")?;
    links
        .lines()
        .find_map(|line| {
            let rest = line.strip_prefix(&format!("{index}: "))?;
            Some(rest.split(['@', ':']).next()?.to_owned())
        })
        .with_context(|| format!("no device {index} in `{links}`"))
}

/// Drop counters of all nodes, for messages.
pub fn drops(lab: &Lab) -> String {
    let lines: Vec<String> = lab.nodes.iter().map(|node| node.drop_summary()).collect();
    lines.join("\n")
}
