//! The demo: three nodes make a cluster by the commands that a user types, with an encrypted and a plain
//! network; what is on the wire between them; a rotation and an eviction under traffic.

mod explore;
mod report;
mod tables;
mod timeline;

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use self::{report::Report, timeline::Timeline};
use crate::{
    cluster::{Cluster, SETTLE, nodes},
    lab::{
        Counters, eventually,
        traffic::{Iperf, Stream, StreamResult, UdpEcho, transfer, transfers_while},
        wire::Wire,
    },
};

/// What `overlay status` says of an encrypted network where the kernel cannot encrypt.
const NO_IPSEC: &str = "this kernel cannot do IPsec";
/// What containers say; it must be found in clear on the plain network only.
const SECRET: &[u8] = b"the launch code is 0451";
const PUBLIC: &[u8] = b"nothing to hide over here";
/// How long old keys are kept in the rotations that are shown; the default is a minute.
const GRACE: &str = "5s";

/// Runs it; whether every check held. `without_ipsec` allows a kernel that cannot encrypt: then the
/// encrypted network must stay closed.
pub fn run(keep: bool, without_ipsec: bool) -> Result<bool> {
    let mut report = Report::new();
    report.title("A cluster of three nodes");
    let mut cluster = Cluster::new(nodes(&["a", "b", "c"]))?;
    make(&mut cluster, &mut report)?;
    let status = cluster.overlay_or_reported(1, &["status"])?;
    if without_ipsec && status.contains(NO_IPSEC) {
        report.say(&status);
        plain_only(&cluster, &mut report)?;
    } else {
        let networks = ["blue", "green"];
        for node in 1..=3 {
            let open = eventually(SETTLE, || cluster.good(node));
            report.check(
                &format!("node {node}: every peer is open, encrypted"),
                open.is_ok(),
                &open
                    .err()
                    .map_or(String::new(), |error| format!("{error:#}")),
            );
        }
        pings(&cluster, &mut report, &networks)?;
        throughput(&cluster, &mut report, &networks)?;
        wire(&cluster, &mut report)?;
        tables::show(&cluster, &mut report)?;
        rotation(&cluster, &mut report)?;
        if !keep {
            eviction(&mut cluster, &mut report)?;
        }
    }
    let good = report.verdict();
    if keep {
        explore::stay(&cluster, &mut report)?;
    }
    Ok(good)
}

/// The commands that make the cluster, as a user types them.
fn make(cluster: &mut Cluster, report: &mut Report) -> Result<()> {
    for node in 1..=3 {
        cluster.agent_mut(node)?.start()?;
    }
    let started = Instant::now();
    let at = cluster.address(1)?;
    report.command(1, &format!("overlay init --advertise {at}"));
    cluster.init(1, &[])?;
    for node in 2..=3 {
        report.command(node, &format!("overlay join --token-file - {at}"));
        cluster.join(node, 1, "worker")?;
    }
    for (network, options) in [
        (
            "blue",
            &["--opt", "encrypted", "--subnet", "10.0.9.0/24"][..],
        ),
        ("green", &["--subnet", "10.0.10.0/24"]),
    ] {
        report.command(
            1,
            &format!(
                "overlay network create --driver overlay {} {network}",
                options.join(" ")
            ),
        );
        cluster.create(network, options)?;
    }
    cluster.overlay(1, &["keys", "policy", "--grace", GRACE])?;
    for (node, container) in [(1, "a"), (2, "b"), (3, "c")] {
        for network in ["blue", "green"] {
            report.command(
                node,
                &format!("overlay endpoint attach {network} --netns … --name {container}"),
            );
            cluster.attach(container, network, &[])?;
        }
    }
    report.check(
        "cluster, networks and endpoints are made",
        true,
        &format!("in {:.1} s", started.elapsed().as_secs_f64()),
    );
    report.command(1, "overlay node ls");
    report.say(&cluster.overlay(1, &["node", "ls"])?);
    report.command(1, "overlay network ls");
    report.say(&cluster.overlay(1, &["network", "ls"])?);
    eventually(SETTLE, || {
        let all = cluster.json(1, &["endpoint", "ls", "--all"])?;
        let known = all.as_array().map_or(0, Vec::len);
        ensure!(known == 6, "node 1 knows {known} of 6 endpoints");
        Ok(())
    })?;
    report.command(1, "overlay endpoint ls --all");
    report.say(&cluster.overlay(1, &["endpoint", "ls", "--all"])?);
    Ok(())
}

/// A kernel without IPsec: the encrypted network must be closed, not open in clear.
fn plain_only(cluster: &Cluster, report: &mut Report) -> Result<()> {
    report.title("This kernel has no IPsec: blue stays closed");
    cluster.reaches("a", "b", "green")?;
    let blue = vni(cluster, "blue")?;
    let capture = cluster.lab.capture()?;
    let ping = cluster.lab.ping("a", "b", "blue")?.run()?;
    let wire = capture.stop()?;
    report.check(
        "blue carries nothing",
        ping.received == 0,
        &format!("{} of {} pings answered", ping.received, ping.sent),
    );
    report.check(
        "and leaks nothing",
        wire.vxlan(blue) == 0,
        &format!("{} frames of blue on the wire", wire.vxlan(blue)),
    );
    pings(cluster, report, &["green"])?;
    throughput(cluster, report, &["green"])
}

/// The VXLAN network identifier of a network.
fn vni(cluster: &Cluster, network: &str) -> Result<u32> {
    let all = cluster.json(1, &["network", "ls"])?;
    let named = all.as_array().into_iter().flatten();
    let vni = named
        .filter(|one| one["name"] == network)
        .find_map(|one| one["vni"].as_u64());
    let vni = vni.with_context(|| format!("network {network} has no VNI: {all}"))?;
    Ok(u32::try_from(vni)?)
}

fn pings(cluster: &Cluster, report: &mut Report, networks: &[&str]) -> Result<()> {
    report.title("Pings between containers");
    for network in networks {
        for (from, to) in [("a", "b"), ("a", "c"), ("b", "c")] {
            cluster.reaches(from, to, network)?;
            let ping = cluster.lab.ping(from, to, network)?.run()?;
            let time = ping
                .average
                .map_or(String::new(), |ms| format!(", {ms:.2} ms"));
            report.check(
                &format!("{network:5} {from} → {to}"),
                ping.lost() == 0,
                &format!("{} of {} answered{time}", ping.received, ping.sent),
            );
        }
    }
    Ok(())
}

fn throughput(cluster: &Cluster, report: &mut Report, networks: &[&str]) -> Result<()> {
    let lab = &cluster.lab;
    report.title("TCP throughput a → b (one second, one stream)");
    for network in networks {
        let ip = lab.ip("b", network)?;
        let result = Iperf::new(lab.netns("a")?, lab.netns("b")?, ip).run()?;
        report.check(
            &format!("{network:5}"),
            result.bits_per_second > 0.0,
            &format!(
                "{:.0} Mbit/s, {} segments sent again",
                result.bits_per_second / 1e6,
                result.retransmits
            ),
        );
    }
    Ok(())
}

fn wire(cluster: &Cluster, report: &mut Report) -> Result<()> {
    report.title("On the wire");
    let lab = &cluster.lab;
    let (blue, green) = (vni(cluster, "blue")?, vni(cluster, "green")?);
    let capture = lab.capture()?;
    let (a, b) = (lab.netns("a")?, lab.netns("b")?);
    transfer(a, b, lab.ip("b", "blue")?, 512 << 10, SECRET).context("send a text over blue")?;
    transfer(a, b, lab.ip("b", "green")?, 512 << 10, PUBLIC).context("send a text over green")?;
    let wire = capture.stop()?;
    report.check("the capture missed nothing", wire.complete().is_ok(), "");
    picture(&wire, report);
    report.check(
        "blue is on the wire as ESP",
        wire.esp() > 0,
        &format!("{} frames", wire.esp()),
    );
    report.check(
        "and never as VXLAN",
        wire.vxlan(blue) == 0,
        &format!("{} frames", wire.vxlan(blue)),
    );
    report.check(
        "green is on the wire as VXLAN",
        wire.vxlan(green) > 0,
        &format!("{} frames", wire.vxlan(green)),
    );
    let (public, secret) = (wire.frames_with(PUBLIC), wire.frames_with(SECRET));
    report.check(
        "green's text is found in clear: the search works",
        public > 0,
        &format!("in {public} frames"),
    );
    report.check(
        "blue's text is not found anywhere",
        secret == 0,
        &format!("in {secret} frames"),
    );
    let repeated = wire.repeated_nonces().len();
    report.check(
        "no nonce was used twice",
        repeated == 0,
        &format!("{} ESP packets", wire.esp()),
    );
    Ok(())
}

/// Shares of the captured bytes, as bars.
fn picture(wire: &Wire, report: &mut Report) {
    const WIDTH: f64 = 40.0;
    let summary = wire.summary();
    let total = summary.total().bytes.max(1) as f64;
    for (name, share) in &summary.0 {
        let part = share.bytes as f64 / total;
        let bar = "█".repeat(((part * WIDTH).round() as usize).max(1));
        report.say(&format!(
            "{name:16} {:5.1} %  {:6} frames  {bar}",
            part * 100.0,
            share.frames
        ));
    }
}

/// What became of traffic from a to b.
struct Traffic {
    datagrams: StreamResult,
    /// Of TCP, checked.
    bytes: u64,
    wire: Wire,
    /// By namespace, what its kernel says of losses.
    losses: BTreeMap<String, Counters>,
}

impl Traffic {
    fn check(&self, cluster: &Cluster, report: &mut Report) -> Result<()> {
        let blue = vni(cluster, "blue")?;
        let Self {
            datagrams: sent,
            bytes,
            wire,
            losses,
        } = self;
        let complete = sent.lossless().is_ok() && sent.duplicates == 0;
        report.check(
            "not a datagram lost or doubled from a to b",
            complete,
            &sent.described(),
        );
        if !complete {
            for (name, counters) in losses {
                report.say(&format!("{name} has counted: {counters}"));
            }
        }
        report.check(
            "and every TCP byte as it was sent",
            *bytes > 0,
            &format!("{} KiB", bytes >> 10),
        );
        report.check(
            "nothing in clear meanwhile",
            wire.vxlan(blue) == 0 && wire.frames_with(SECRET) == 0,
            &format!("{} ESP packets", wire.esp()),
        );
        let repeated = wire.repeated_nonces().len();
        report.check("no nonce was used twice", repeated == 0, "");
        Ok(())
    }
}

/// Numbered datagrams and TCP transfers from a to b while `meanwhile` runs.
fn under_traffic<T>(
    cluster: &Cluster,
    meanwhile: impl FnOnce() -> Result<T>,
) -> Result<(T, Traffic)> {
    let lab = &cluster.lab;
    let address = lab.ip("b", "blue")?;
    let (from, to) = (lab.netns("a")?, lab.netns("b")?);
    let echo = UdpEcho::start(to, address, 7)?;
    let stream = Stream::start(from, echo.address, 50, 200, SECRET)?;
    let before = lab.counters()?;
    let capture = lab.capture()?;
    let path = (from, to, address);
    let (result, bytes) = transfers_while(path, 256 << 10, SECRET, 1, meanwhile)?;
    let datagrams = stream.stop()?;
    let losses = lab.counters()?.into_iter().map(|(name, after)| {
        let before = before.get(&name).cloned().unwrap_or_default();
        let losses = after.since(&before).losses();
        (name, losses)
    });
    let traffic = Traffic {
        datagrams,
        bytes,
        wire: capture.stop()?,
        losses: losses.collect(),
    };
    Ok((result, traffic))
}

fn rotation(cluster: &Cluster, report: &mut Report) -> Result<()> {
    report.title("All keys change under traffic");
    report.command(1, "overlay keys rotate --wait");
    let timeline = Timeline::begin(cluster)?;
    let (said, traffic) = under_traffic(cluster, || {
        cluster.overlay(1, &["keys", "rotate", "--wait"])
    })?;
    report.say(&said);
    timeline.show(cluster, report)?;
    traffic.check(cluster, report)?;
    // Number of the slot, SPI bits 4 to 11.
    let slots: std::collections::BTreeSet<u32> = traffic
        .wire
        .esp_headers()
        .map(|esp| esp.spi >> 4 & 0xff)
        .collect();
    report.check(
        "old and new SAs were seen on the wire",
        slots.len() > 1,
        &format!("slots {slots:?}"),
    );
    Ok(())
}

fn eviction(cluster: &mut Cluster, report: &mut Report) -> Result<()> {
    report.title("A node is put out under traffic of the others");
    report.say("Its agent is killed before, so that its kernel keeps every key that it had.");
    let before = cluster.epoch(1)?;
    cluster.agent_mut(3)?.kill()?;
    let open = cluster.lab.ping("c", "a", "blue")?.run()?;
    report.check(
        "node 3 still reaches the others without an agent",
        open.received > 0,
        &format!("{} of {} pings answered", open.received, open.sent),
    );
    report.command(1, "overlay node rm --force --yes node-3");
    let timeline = Timeline::begin(cluster)?;
    let (cut, traffic) = under_traffic(cluster, || {
        let started = Instant::now();
        cluster.overlay(1, &["node", "rm", "--force", "--yes", "node-3"])?;
        eventually(SETTLE, || {
            for to in ["a", "b"] {
                let ping = cluster.lab.ping("c", to, "blue")?.count(1).run()?;
                ensure!(ping.received == 0, "node 3 still reaches {to}");
            }
            Ok(())
        })?;
        let cut = started.elapsed();
        eventually(SETTLE, || {
            for node in [1, 2] {
                cluster.stable(node, before + 1..)?;
            }
            Ok(())
        })?;
        Ok(cut)
    })?;
    timeline.show(cluster, report)?;
    traffic.check(cluster, report)?;
    report.check(
        "node 3 is cut off, and a new epoch began",
        true,
        &format!(
            "after {:.1} s, with a process for each ping",
            cut.as_secs_f64()
        ),
    );
    thread::sleep(Duration::from_millis(300));
    let ping = cluster.lab.ping("c", "a", "blue")?.run()?;
    report.check(
        "it stays so",
        ping.received == 0,
        &format!("{} of {} pings answered", ping.received, ping.sent),
    );
    report.command(1, "overlay node ls");
    report.say(&cluster.overlay(1, &["node", "ls"])?);
    Ok(())
}
