//! The agent's side: how long an attach takes, how fast the kernel is filled, how long a new agent
//! takes to take over, and what memory that holds.

mod attach;
mod crowd;
mod kept;
mod members;
mod remote;
mod rotation;
mod times;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::lab::{
    Keyring, Lab, NetworkSpec, Node, NodeSpec, Peer, RemoteEndpoint, Spec, Transmit, WIRE,
    command::{self, QUICK, Running},
};

/// One `apply` takes no longer, or something is wrong.
const LIMIT: Duration = Duration::from_secs(300);

/// What is filled in.
#[derive(Debug, Clone, clap::Args)]
pub struct Control {
    /// Remote endpoints of a plain network on one peer
    #[arg(long, value_delimiter = ',', num_args = 0.., default_values_t = [100, 1000, 10_000, 100_000])]
    pub endpoints: Vec<u32>,
    /// Peers of an encrypted network, each with two SAs; needs ESP
    #[arg(long, value_delimiter = ',')]
    pub peers: Vec<u32>,
    /// Endpoints of a node on which others are attached and detached
    #[arg(long, value_delimiter = ',', num_args = 0.., default_values_t = [1, 100, 1000])]
    pub local: Vec<u32>,
    /// So many others
    #[arg(long, default_value_t = 200)]
    pub attaches: u32,
    /// Remote endpoints that come at once, on a thousand peers
    #[arg(long, value_delimiter = ',', num_args = 0.., default_values_t = [1000, 50_000])]
    pub remote: Vec<u32>,
    /// Peers whose SAs are staged, switched to and retired; needs ESP
    #[arg(long, value_delimiter = ',')]
    pub rotate: Vec<u32>,
    /// SAs of each of them in each direction
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub lanes: u8,
    /// Members with 50 endpoints each, whose records come by gossip
    #[arg(long, value_delimiter = ',', num_args = 0.., default_values_t = [1000])]
    pub members: Vec<u32>,
    /// Their network is encrypted. Where the kernel has no ESP it stays closed, and all but the SAs is there
    #[arg(long)]
    pub encrypted: bool,
    /// How often endpoints come, or SAs are replaced
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
}

/// Measures each size in a lab of its own, and prints a line for each.
pub fn control(options: &Control) -> Result<()> {
    for &count in &options.local {
        attach::measure(count, options.attaches)?;
    }
    for &count in &options.remote {
        remote::measure(count, options.rounds)?;
    }
    for &count in &options.rotate {
        rotation::measure(count, options.lanes, options.rounds)?;
    }
    for &count in &options.members {
        members::measure(count, options.encrypted)?;
    }
    for &count in &options.endpoints {
        let mut lab = lab(false)?;
        lab.node_mut(1)?.desired.remote_endpoints = (0..count).map(endpoint).collect();
        measure(&lab, "endpoints", count, &lab.keyring)?;
    }
    for &count in &options.peers {
        let mut lab = lab(true)?;
        let indices: Vec<u32> = (2..count + 2).collect();
        let node = lab.node_mut(1)?;
        node.desired.remote_endpoints.clear();
        node.desired.peers = indices.iter().map(|&index| peer(index)).collect();
        let mut keys = Keyring::default();
        for &index in &indices {
            keys.generate(&[1, index], 1, 1, 1)?;
        }
        measure(&lab, "peers", count, &keys)?;
    }
    Ok(())
}

/// A node with a container, and the wire to a second one that nobody applies.
fn lab(encrypted: bool) -> Result<Lab> {
    let network = if encrypted {
        NetworkSpec::encrypted("net", 4097).mtu(1400)
    } else {
        NetworkSpec::plain("net", 4097)
    };
    let lab = Lab::new(
        Spec::new()
            .cabled()
            .network(network)
            .node(NodeSpec::new().container("a", &["net"]))
            .node(NodeSpec::new()),
    )?;
    // A subnet with room for as many VTEPs as there may be.
    lab.node(1)?
        .netns
        .ip(&format!("route add 198.18.0.0/15 dev {WIRE}"))?;
    Ok(lab)
}

fn measure(lab: &Lab, what: &str, count: u32, keys: &Keyring) -> Result<()> {
    let node = lab.node(1)?;
    let first = apply(node, keys)?;
    // Another process, which finds everything in place.
    let again = apply(node, keys)?;
    ensure!(
        again.changes == 0,
        "a second apply made {} changes",
        again.changes
    );
    let line = json!({
        "fills": what,
        "count": count,
        "apply_ms": first.milliseconds,
        "per_second": f64::from(count) * 1000.0 / first.milliseconds.max(0.001),
        "take_over_ms": again.milliseconds,
        "agent_peak_kib": again.peak_kib.max(first.peak_kib),
        "maps_kib": maps_kib(node)?,
    });
    println!("{line}");
    Ok(())
}

struct Applied {
    milliseconds: f64,
    peak_kib: u64,
    changes: u64,
}

fn apply(node: &Node, keys: &Keyring) -> Result<Applied> {
    let mut command = node.apply_command(keys)?;
    command.arg("--quiet");
    let started = Instant::now();
    let mut running = Running::spawn(&mut command)?;
    // Gone with the process, so looked at while it runs: the last look may miss what came after.
    let status = format!("/proc/{}/status", running.pid());
    let mut peak_kib = 0;
    while running.is_running()? && started.elapsed() < LIMIT {
        peak_kib = peak_kib.max(peak(&status).unwrap_or(0));
        thread::sleep(Duration::from_millis(1));
    }
    let milliseconds = started.elapsed().as_secs_f64() * 1e3;
    let output = running.wait(QUICK)?;
    ensure!(
        output.status.success(),
        "apply ended with {}: {}{}",
        output.status,
        output.stderr,
        output.stdout
    );
    let changes = output
        .stdout
        .lines()
        .rev()
        .find_map(|line| line.split_once(" change")?.0.parse().ok())
        .context("apply says how many changes it made")?;
    Ok(Applied {
        milliseconds,
        peak_kib,
        changes,
    })
}

/// `VmHWM`: the most that was resident at once.
fn peak(status: &str) -> Option<u64> {
    field(status, "VmHWM:")
}

/// A line of `/proc/PID/status`, KiB.
fn field(status: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// What the pinned maps hold of the kernel's memory.
fn maps_kib(node: &Node) -> Result<u64> {
    let directory = node.map("");
    let mut bytes = 0;
    for entry in fs::read_dir(&directory)
        .with_context(|| format!("list the maps in {}", directory.display()))?
    {
        let mut bpftool = Command::new("bpftool");
        bpftool
            .args(["-j", "map", "show", "pinned"])
            .arg(entry?.path());
        let shown: Value = serde_json::from_str(&command::capture(&mut bpftool, QUICK)?)
            .context("read what bpftool says of a map")?;
        bytes += shown["bytes_memlock"].as_u64().unwrap_or(0);
    }
    Ok(bytes / 1024)
}

/// Of peer 2, on the plain network.
fn endpoint(number: u32) -> RemoteEndpoint {
    let [_, b, c, d] = (number + 0x0200).to_be_bytes();
    RemoteEndpoint {
        network: "net".to_owned(),
        peer: 2,
        mac: [2, 0x42, 0x0b, b, c, d],
        addresses: vec![IpAddr::V4(Ipv4Addr::new(11, b, c, d))],
    }
}

fn peer(index: u32) -> Peer {
    let [_, _, c, d] = index.to_be_bytes();
    Peer {
        index,
        vtep: IpAddr::V4(Ipv4Addr::new(198, 18, c, d)),
        networks: vec!["net".to_owned()],
        transmit: Some(Transmit {
            epoch: 1,
            slot: 1,
            lanes: 1,
        }),
    }
}
