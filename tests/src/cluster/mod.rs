//! A cluster of real agents in the namespaces of a lab, made through the commands that a user types.
//!
//! ```no_run
//! # use overlay_tests::{cluster::Cluster, lab::{NodeSpec, Spec}};
//! # fn main() -> anyhow::Result<()> {
//! let mut cluster = Cluster::up(
//!     Spec::new()
//!         .node(NodeSpec::new().container("a", &[]))
//!         .node(NodeSpec::new().container("b", &[])),
//! )?;
//! cluster.create("blue", &["--opt", "encrypted"])?;
//! cluster.attach("a", "blue", &[])?;
//! cluster.attach("b", "blue", &[])?;
//! assert_eq!(cluster.lab.ping("a", "b", "blue")?.run()?.lost(), 0);
//! # Ok(())
//! # }
//! ```

mod agent;
pub mod liar;
pub mod stranger;

use std::{
    net::IpAddr,
    ops::RangeBounds,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

pub use self::agent::Agent;
use crate::lab::{
    Attachment, Family, Lab, NodeSpec, Spec, command, eventually, overlay_binary,
    traffic::{Stream, UdpEcho},
};

/// How long a command may take, on an emulated machine that has other work.
pub const LIMIT: Duration = Duration::from_secs(180);
/// For agents to hear of each other, and for SAs to be made.
pub const SETTLE: Duration = Duration::from_secs(120);

/// Agents on the nodes of a lab.
#[derive(Debug)]
pub struct Cluster {
    // Dropped before the namespaces.
    pub agents: Vec<Agent>,
    pub lab: Lab,
}

impl Cluster {
    /// Namespaces and wires; no agent runs.
    pub fn new(spec: Spec) -> Result<Self> {
        let lab = Lab::new(spec)?;
        let agents = lab
            .nodes
            .iter()
            .map(|node| Agent::new(&lab, node))
            .collect::<Result<_>>()?;
        Ok(Self { agents, lab })
    }

    /// One manager, node 1, and workers.
    pub fn up(spec: Spec) -> Result<Self> {
        Self::with_managers(spec, 1)
    }

    /// The first so many nodes are managers.
    pub fn with_managers(spec: Spec, managers: u32) -> Result<Self> {
        Self::of_release(spec, managers, &overlay_binary()?)
    }

    /// The same, of the release whose `overlay` this is.
    pub fn of_release(spec: Spec, managers: u32, overlay: &Path) -> Result<Self> {
        let mut cluster = Self::new(spec)?;
        for agent in &mut cluster.agents {
            agent.set_release(overlay.to_owned());
        }
        let all = u32::try_from(cluster.agents.len())?;
        cluster.agent_mut(1)?.start()?;
        cluster.init(1, &[])?;
        for node in 2..=all {
            cluster.agent_mut(node)?.start()?;
            let role = if node <= managers {
                "manager"
            } else {
                "worker"
            };
            cluster.join(node, 1, role)?;
        }
        if managers > 1 {
            cluster.voters(1, managers)?;
        }
        Ok(cluster)
    }

    /// The agent of a node, from 1.
    pub fn agent(&self, node: u32) -> Result<&Agent> {
        self.agents
            .iter()
            .find(|agent| agent.node == node)
            .with_context(|| format!("there is no node {node}"))
    }

    pub fn agent_mut(&mut self, node: u32) -> Result<&mut Agent> {
        self.agents
            .iter_mut()
            .find(|agent| agent.node == node)
            .with_context(|| format!("there is no node {node}"))
    }

    /// The `overlay` command on a node, with arguments.
    pub fn command(&self, node: u32, arguments: &[&str]) -> Result<Command> {
        self.agent(node)?.command(arguments)
    }

    /// Runs it; its standard output. An error unless it succeeds.
    pub fn overlay(&self, node: u32, arguments: &[&str]) -> Result<String> {
        command::capture(&mut self.command(node, arguments)?, LIMIT)
    }

    /// Runs it; its standard output. A status of 1 is that something is reported.
    pub fn overlay_or_reported(&self, node: u32, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(node, arguments)?;
        let output = command::run(&mut command, LIMIT)?;
        ensure!(
            matches!(output.status.code(), Some(0 | 1)) && !output.stdout.is_empty(),
            "`{}` ended with {}: {}",
            command::display(&command),
            output.status,
            output.stderr
        );
        Ok(output.stdout)
    }

    /// Runs it with `--format json`. A status of 1 is that something is reported.
    pub fn json(&self, node: u32, arguments: &[&str]) -> Result<Value> {
        let arguments = [arguments, &["--format", "json"]].concat();
        let text = self.overlay_or_reported(node, &arguments)?;
        serde_json::from_str(&text).with_context(|| format!("read what {arguments:?} says: {text}"))
    }

    /// Runs it, and expects it to fail: exit status and what it says on standard error.
    pub fn refused(&self, node: u32, arguments: &[&str]) -> Result<(i32, String)> {
        let output = command::run(&mut self.command(node, arguments)?, LIMIT)?;
        ensure!(
            !output.status.success(),
            "{arguments:?} on node {node} succeeded: {}",
            output.stdout
        );
        Ok((output.status.code().unwrap_or(-1), output.stderr))
    }

    /// The first address of a node on the wire.
    pub fn address(&self, node: u32) -> Result<IpAddr> {
        let spec = &self.lab.spec.nodes[usize::try_from(node)? - 1];
        let family = spec.families().next().unwrap_or(Family::V4);
        self.lab.underlay.vtep(node, family)
    }

    fn addresses(&self, node: u32) -> Result<String> {
        let spec = &self.lab.spec.nodes[usize::try_from(node)? - 1];
        let all = spec
            .families()
            .map(|family| Ok(self.lab.underlay.vtep(node, family)?.to_string()))
            .collect::<Result<Vec<_>>>()?;
        Ok(all.join(","))
    }

    /// Makes the cluster of a node.
    pub fn init(&self, node: u32, more: &[&str]) -> Result<String> {
        let (addresses, name) = (self.addresses(node)?, name(node));
        let mut arguments = vec!["init", "--advertise", &addresses, "--name", &name];
        arguments.extend(more);
        self.overlay(node, &arguments)
    }

    /// The token of a role, as a manager shows it.
    pub fn token(&self, manager: u32, role: &str) -> Result<String> {
        let text = self.overlay(manager, &["token", "show", role, "-q"])?;
        Ok(text.trim().to_owned())
    }

    /// Lets a node join at a manager, with the token on its standard input.
    pub fn join(&self, node: u32, manager: u32, role: &str) -> Result<String> {
        let token = self.token(manager, role)?;
        self.join_with(node, manager, &token)
    }

    /// The same with any token.
    pub fn join_with(&self, node: u32, manager: u32, token: &str) -> Result<String> {
        self.join_at(node, &self.address(manager)?.to_string(), token)
    }

    /// The same at whatever address.
    pub fn join_at(&self, node: u32, at: &str, token: &str) -> Result<String> {
        let (addresses, name) = (self.addresses(node)?, name(node));
        let arguments = [
            "join",
            "--token-file",
            "-",
            "--advertise",
            &addresses,
            "--name",
            &name,
            at,
        ];
        let mut command = self.command(node, &arguments)?;
        let output = command::run_with_input(&mut command, Some(token), LIMIT)?;
        ensure!(
            output.status.success(),
            "node {node} does not join: {}",
            output.stderr
        );
        Ok(output.stdout)
    }

    /// Makes a network, on node 1.
    pub fn create(&self, network: &str, more: &[&str]) -> Result<String> {
        let mut arguments = vec!["network", "create", "--driver", "overlay"];
        arguments.extend(more);
        arguments.push(network);
        self.overlay(1, &arguments)
    }

    /// Attaches a container to a network: the lab knows its addresses then.
    pub fn attach(&mut self, container: &str, network: &str, more: &[&str]) -> Result<Value> {
        let netns = self.lab.netns(container)?.name().to_owned();
        let node = self.lab.container(container)?.node;
        let number = self.lab.container(container)?.attachments().count();
        let interface = format!("eth{number}");
        // A network that was made a moment ago on another node.
        let mut arguments = vec![
            "endpoint",
            "attach",
            network,
            "--netns",
            &netns,
            "--name",
            container,
            "--interface",
            &interface,
        ];
        arguments.extend(more);
        self.sees(node, network)?;
        let answer = self.json(node, &arguments)?;
        let attachment = attachment(&answer, interface.clone())
            .with_context(|| format!("read the answer to an attach: {answer}"))?;
        self.lab.set_attachment(container, network, attachment)?;
        Ok(answer)
    }

    /// Makes a network with these containers in it, and waits until each reaches the next.
    pub fn connect(&mut self, network: &str, options: &[&str], containers: &[&str]) -> Result<()> {
        self.create(network, options)?;
        for container in containers {
            self.attach(container, network, &[])?;
        }
        for pair in containers.windows(2) {
            self.reaches(pair[0], pair[1], network)?;
        }
        Ok(())
    }

    /// Waits until so many managers have a vote, as a manager sees them.
    pub fn voters(&self, asked: u32, count: u32) -> Result<()> {
        eventually(SETTLE, || {
            let status = self.status(asked)?;
            ensure!(status["managers"]["voters"] == count, "{status}");
            Ok(())
        })
    }

    /// Waits until a node knows a network.
    pub fn sees(&self, node: u32, network: &str) -> Result<()> {
        eventually(SETTLE, || {
            let known = self.json(node, &["network", "ls"])?;
            let named = |one: &&Value| one["name"] == network;
            ensure!(
                known
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|one| named(&one)),
                "node {node} does not know network {network}: {known}"
            );
            Ok(())
        })
    }

    /// Waits until no node has anything to report: all encrypted, every peer open.
    pub fn settled(&self) -> Result<()> {
        for agent in &self.agents {
            if agent.is_running() {
                eventually(SETTLE, || self.good(agent.node))?;
            }
        }
        Ok(())
    }

    /// Whether a node has nothing to report.
    pub fn good(&self, node: u32) -> Result<()> {
        let status = self.status(node)?;
        let closed = &status["encryption"]["closed"];
        ensure!(
            closed.as_array().is_some_and(Vec::is_empty)
                && status["problems"].as_array().is_some_and(Vec::is_empty)
                && status["state"] == "member",
            "node {node} is not well: {status}"
        );
        Ok(())
    }

    /// What `overlay status` says on a node.
    pub fn status(&self, node: u32) -> Result<Value> {
        self.json(node, &["status"])
    }

    /// Whether a node is at rest in one of these epochs.
    pub fn stable(&self, node: u32, epochs: impl RangeBounds<u64>) -> Result<()> {
        let status = self.status(node)?;
        let epoch = &status["epoch"];
        let number = epoch["number"].as_u64();
        ensure!(
            number.is_some_and(|number| epochs.contains(&number)) && epoch["phase"] == "stable",
            "node {node}: {epoch}"
        );
        Ok(())
    }

    /// The number of the epoch that a node sends in.
    pub fn epoch(&self, node: u32) -> Result<u64> {
        let status = self.status(node)?;
        status["epoch"]["number"]
            .as_u64()
            .with_context(|| format!("node {node} has no epoch: {status}"))
    }

    /// Waits until pings of a container reach another: gossip has told of both.
    pub fn reaches(&self, from: &str, to: &str, network: &str) -> Result<()> {
        eventually(SETTLE, || {
            let ping = self.lab.ping(from, to, network)?.count(1).run()?;
            ensure!(ping.received > 0, "{from} does not reach {to} in {network}");
            Ok(())
        })
        .with_context(|| self.explain())
    }

    /// Fifty numbered datagrams a second from a container to another, and back.
    pub fn stream(&self, from: &str, to: &str, network: &str) -> Result<(UdpEcho, Stream)> {
        let echo = UdpEcho::start(self.lab.netns(to)?, self.lab.ip(to, network)?, 7)?;
        let stream = Stream::start(self.lab.netns(from)?, echo.address, 50, 200, b"numbered")?;
        Ok((echo, stream))
    }

    /// What all agents say, for messages.
    pub fn explain(&self) -> String {
        let mut text = String::new();
        for agent in &self.agents {
            text += &format!("--- node {}: ", agent.node);
            match self.overlay(agent.node, &["status"]) {
                Ok(status) => text += &status,
                Err(error) => text += &format!("{error:#}\n"),
            }
            text += &agent.log_tail();
        }
        match self.lab.counters() {
            Ok(counters) => {
                text += "what the kernel counts as lost:\n";
                for (name, counters) in counters {
                    text += &format!("{name}: {}\n", counters.nonzero().losses());
                }
            }
            Err(error) => text += &format!("{error:#}\n"),
        }
        text
    }

    /// The release that a node runs, as another is told.
    pub fn release_of(&self, node: u32, asked: u32) -> Result<String> {
        let nodes = self.json(asked, &["node", "ls"])?;
        let wanted = name(node);
        let mut all = nodes.as_array().into_iter().flatten();
        let release = all
            .find(|one| one["name"] == wanted.as_str())
            .and_then(|one| one["software"].as_str());
        release
            .map(str::to_owned)
            .with_context(|| format!("node {asked} knows no release of {wanted}: {nodes}"))
    }

    /// The node that leads, as node 1's listing, or another's, says.
    pub fn leader(&self, asked: u32) -> Result<u32> {
        let nodes = self.json(asked, &["node", "ls"])?;
        let leads = |node: &&Value| node["manager_status"] == "leader";
        let all = nodes.as_array().map_or(&[][..], Vec::as_slice);
        let Some(leader) = all.iter().find(leads) else {
            bail!("no node leads: {nodes}");
        };
        let name = leader["name"].as_str().unwrap_or_default();
        name.strip_prefix("node-")
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("the leader is none of ours: {leader}"))
    }
}

/// The `overlay` of the release before this one, where `cargo xtask test` has built it.
pub fn previous_release() -> Option<PathBuf> {
    std::env::var_os("OVERLAY_PREVIOUS_BIN").map(PathBuf::from)
}

/// A node for each container.
pub fn nodes(containers: &[&str]) -> Spec {
    containers.iter().fold(Spec::new(), |spec, container| {
        spec.node(NodeSpec::new().container(container, &[]))
    })
}

/// Name of a node in the cluster.
pub fn name(node: u32) -> String {
    format!("node-{node}")
}

fn attachment(answer: &Value, interface: String) -> Result<Attachment> {
    let mac = answer["mac"].as_str().context("no MAC address")?;
    let bytes = mac
        .split(':')
        .map(|byte| Ok(u8::from_str_radix(byte, 16)?))
        .collect::<Result<Vec<_>>>()?;
    let addresses = answer["addresses"].as_array().context("no addresses")?;
    Ok(Attachment {
        interface,
        mac: bytes.try_into().ok().context("a MAC address of 6 bytes")?,
        addresses: addresses
            .iter()
            .map(|address| Ok(address.as_str().context("no address")?.parse()?))
            .collect::<Result<_>>()?,
    })
}

/// What the resolver of a container says to a name: its IPv4 addresses.
pub fn resolve(netns: &crate::lab::Netns, name: &str) -> Result<Vec<IpAddr>> {
    use std::net::UdpSocket;

    use hickory_proto::{
        op::{Message, MessageType, OpCode, Query},
        rr::{Name, RData, RecordType},
    };

    let mut question = Message::new(7, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_ascii(name)?, RecordType::A));
    let question = question.to_vec()?;
    let answer = netns.enter(|| -> Result<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        socket.send_to(&question, "127.0.0.11:53")?;
        let mut answer = vec![0; 2048];
        let len = socket
            .recv(&mut answer)
            .context("no answer of the resolver")?;
        answer.truncate(len);
        Ok(answer)
    })??;
    let answer = Message::from_vec(&answer)?;
    Ok(answer
        .answers
        .iter()
        .filter_map(|record| match record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            _ => None,
        })
        .collect())
}
