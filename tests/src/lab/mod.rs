//! A cluster in network namespaces, for tests and for the demo.
//!
//! ```no_run
//! # use overlay_tests::lab::{Lab, NetworkSpec, NodeSpec, Spec};
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::up(
//!     Spec::new()
//!         .network(NetworkSpec::plain("green", 4097))
//!         .node(NodeSpec::new().container("a", &["green"]))
//!         .node(NodeSpec::new().container("b", &["green"])),
//! )?;
//! let capture = lab.capture()?;
//! let ping = lab.ping("a", "b", "green")?.run()?;
//! assert_eq!(ping.lost(), 0);
//! assert!(capture.stop()?.vxlan(4097) > 0);
//! # Ok(())
//! # }
//! ```
//!
//! In the order in which a lab is made: a [`Spec`] says what there is; [`Netns`] are made for it and
//! wired by an [`Underlay`]; every [`Node`] gets a data-plane file and applies it with the `overlay`
//! command (`OVERLAY_BIN`, else the newest one in the target directory), every [`StockNode`] is
//! configured with `ip` and `bridge` alone. [`traffic`] runs between containers while a [`wire`]
//! capture watches the underlay.
//!
//! Names are unique on the machine and everything is removed when the [`Lab`] is dropped, also in a
//! panic; what a killed process left is removed by the next lab.

mod addressing;
pub mod checks;
pub mod command;
mod counters;
mod desired;
pub(crate) mod keyring;
mod netns;
mod node;
mod raw_socket;
mod spec;
mod stock;
mod sweep;
pub mod traffic;
mod underlay;
mod watcher;
pub mod wire;

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

pub(crate) use self::raw_socket::{bind_packet_socket, packet_socket, set_mark, set_option};
pub(crate) use self::underlay::like_a_nic;
pub use self::{
    addressing::{Family, mac_text},
    counters::Counters,
    desired::{Desired, Endpoint, Network, Peer, RemoteEndpoint, Transmit},
    keyring::{Keyring, SaKey},
    netns::Netns,
    node::{Applied, Node, overlay_binary},
    raw_socket::{RawSocket, VnetHeader},
    spec::{ContainerSpec, NetworkSpec, NodeSpec, Spec, Topology},
    stock::StockNode,
    sweep::remove_leftovers,
    underlay::Underlay,
    watcher::Watcher,
};
use self::{traffic::Ping, wire::Capture};

/// Name of the device that carries the underlay in every node.
pub const WIRE: &str = "wire0";

/// A running cluster.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: endpoints before the nodes that hold their other end.
    containers: BTreeMap<String, Container>,
    /// Nodes of ours, in the order of the spec.
    pub nodes: Vec<Node>,
    /// Nodes of the stock kernel, in the order of the spec.
    pub stock: Vec<StockNode>,
    pub underlay: Underlay,
    pub keyring: Keyring,
    pub spec: Spec,
    directory: Directory,
}

/// A network namespace with endpoints.
#[derive(Debug)]
pub struct Container {
    pub netns: Netns,
    /// Index of its node in the cluster, from 1.
    pub node: u32,
    /// By network name.
    attachments: BTreeMap<String, Attachment>,
}

/// An endpoint of a container.
#[derive(Debug, Clone)]
pub struct Attachment {
    pub interface: String,
    pub mac: [u8; 6],
    pub addresses: Vec<IpAddr>,
}

/// Removed when dropped.
#[derive(Debug)]
struct Directory(PathBuf);

impl Lab {
    /// Builds everything but the data planes of our nodes: call [`Lab::apply`], or use
    /// [`Lab::up`].
    pub fn new(spec: Spec) -> Result<Self> {
        sweep::remove_leftovers();
        let prefix = unique_prefix();
        let directory = Directory(std::env::temp_dir().join(&prefix));
        fs::create_dir(&directory.0)
            .with_context(|| format!("create {}", directory.0.display()))?;

        let underlay = Underlay::new(&prefix, &spec)?;
        let mut keyring = Keyring::default();
        let indices: Vec<u32> = (1..).take(spec.nodes.len()).collect();
        keyring.generate(&indices, 1, 1, spec.lanes)?;

        let mut lab = Self {
            containers: BTreeMap::new(),
            nodes: Vec::new(),
            stock: Vec::new(),
            underlay,
            keyring,
            spec,
            directory,
        };
        lab.containers(&prefix)?;
        for (index, node) in (1..).zip(lab.spec.nodes.clone()) {
            let netns = lab.underlay.attach(&prefix, index, &node, &lab.spec)?;
            if node.stock {
                lab.stock.push(StockNode::new(&lab, index, netns)?);
            } else {
                lab.nodes.push(Node::new(&lab, &prefix, index, netns)?);
            }
        }
        Ok(lab)
    }

    /// Builds everything and applies the data plane of every node.
    pub fn up(spec: Spec) -> Result<Self> {
        let lab = Self::new(spec)?;
        lab.apply()?;
        Ok(lab)
    }

    /// Applies every node's data plane; an error if one is not as asked for.
    pub fn apply(&self) -> Result<()> {
        for node in &self.nodes {
            node.apply(&self.keyring)?;
        }
        Ok(())
    }

    fn containers(&mut self, prefix: &str) -> Result<()> {
        for (index, node) in (1..).zip(&self.spec.nodes) {
            for (position, spec) in (1..).zip(&node.containers) {
                let netns = Netns::new(&format!("{prefix}-{}", spec.name))?;
                let mut attachments = BTreeMap::new();
                for (number, name) in spec.networks.iter().enumerate() {
                    let (at, network) = self
                        .spec
                        .networks
                        .iter()
                        .enumerate()
                        .find(|(_, network)| network.name == *name)
                        .with_context(|| format!("the spec has no network {name}"))?;
                    let place = addressing::Place {
                        network: u8::try_from(at)?,
                        node: u8::try_from(index)?,
                        container: position,
                    };
                    let attachment = Attachment {
                        interface: format!("eth{number}"),
                        mac: place.mac(),
                        addresses: network.families().map(|family| place.ip(family)).collect(),
                    };
                    attachments.insert(name.clone(), attachment);
                }
                let container = Container {
                    netns,
                    node: index,
                    attachments,
                };
                ensure!(
                    self.containers
                        .insert(spec.name.clone(), container)
                        .is_none(),
                    "two containers are named {}",
                    spec.name
                );
            }
        }
        Ok(())
    }

    /// A container by name.
    pub fn container(&self, name: &str) -> Result<&Container> {
        self.containers
            .get(name)
            .with_context(|| format!("the lab has no container {name}"))
    }

    /// A container was attached to a network by others than the lab.
    pub fn set_attachment(
        &mut self,
        container: &str,
        network: &str,
        attachment: Attachment,
    ) -> Result<()> {
        self.containers
            .get_mut(container)
            .with_context(|| format!("the lab has no container {container}"))?
            .attachments
            .insert(network.to_owned(), attachment);
        Ok(())
    }

    /// The namespace of a container.
    pub fn netns(&self, container: &str) -> Result<&Netns> {
        Ok(&self.container(container)?.netns)
    }

    /// All containers by name.
    pub fn all_containers(&self) -> impl Iterator<Item = (&str, &Container)> {
        self.containers.iter().map(|(name, c)| (name.as_str(), c))
    }

    /// What is counted in the namespaces of nodes and containers, by their names.
    pub fn counters(&self) -> Result<BTreeMap<String, Counters>> {
        let nodes = self.nodes.iter().map(|node| {
            let name = format!("node-{}", node.index);
            Ok((name, Counters::of(&node.netns)?))
        });
        let containers = self
            .all_containers()
            .map(|(name, container)| Ok((name.to_owned(), Counters::of(&container.netns)?)));
        nodes.chain(containers).collect()
    }

    /// The first address of a container in a network: IPv4 where the network has it.
    pub fn ip(&self, container: &str, network: &str) -> Result<IpAddr> {
        self.container(container)?
            .attachment(network)?
            .addresses
            .first()
            .copied()
            .with_context(|| format!("{container} has no address in {network}"))
    }

    /// The address of this family of a container in a network.
    pub fn ip_of(&self, container: &str, network: &str, family: Family) -> Result<IpAddr> {
        self.container(container)?
            .attachment(network)?
            .addresses
            .iter()
            .copied()
            .find(|ip| Family::of(*ip) == family)
            .with_context(|| format!("{container} has no {family:?} address in {network}"))
    }

    /// A ping from a container to another's first address in the network.
    pub fn ping(&self, from: &str, to: &str, network: &str) -> Result<Ping<'_>> {
        Ok(Ping::new(self.netns(from)?, self.ip(to, network)?))
    }

    /// Captures what every node sends on the wire, each frame once.
    pub fn capture(&self) -> Result<Capture> {
        self.underlay.capture()
    }

    /// The node of ours with this index in the cluster, from 1.
    pub fn node(&self, index: u32) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.index == index)
            .with_context(|| format!("node {index} is none of ours"))
    }

    /// As [`Lab::node`], to change its desired data plane.
    pub fn node_mut(&mut self, index: u32) -> Result<&mut Node> {
        self.nodes
            .iter_mut()
            .find(|node| node.index == index)
            .with_context(|| format!("node {index} is none of ours"))
    }

    /// First part of a rotation: every node can receive, and could send, in the new slot.
    pub fn stage(&mut self, epoch: u32, slot: u8) -> Result<()> {
        let indices: Vec<u32> = (1..).take(self.spec.nodes.len()).collect();
        self.keyring
            .generate(&indices, epoch, slot, self.spec.lanes)?;
        for node in &mut self.stock {
            node.stage(&self.keyring, slot)?;
        }
        self.apply()
    }

    /// Second part: every node sends in the new slot.
    pub fn activate(&mut self, epoch: u32, slot: u8) -> Result<()> {
        let lanes = self.spec.lanes;
        for node in &mut self.nodes {
            for peer in &mut node.desired.peers {
                peer.transmit = Some(Transmit { epoch, slot, lanes });
            }
        }
        for node in &mut self.stock {
            node.activate(slot)?;
        }
        self.apply()
    }

    /// Last part: the SAs of the old slot go.
    pub fn retire(&mut self, slot: u8) -> Result<()> {
        for node in &mut self.stock {
            node.retire(&self.keyring, slot)?;
        }
        self.keyring.remove_slot(slot);
        self.apply()
    }

    /// A directory for files of the test; it goes with the lab.
    pub fn directory(&self) -> &Path {
        &self.directory.0
    }
}

impl Container {
    /// Its endpoint in a network.
    pub fn attachment(&self, network: &str) -> Result<&Attachment> {
        self.attachments
            .get(network)
            .with_context(|| format!("{} is not in network {network}", self.netns.name()))
    }

    /// Names of the networks, and the endpoints in them.
    pub fn attachments(&self) -> impl Iterator<Item = (&str, &Attachment)> {
        self.attachments.iter().map(|(name, a)| (name.as_str(), a))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// No two labs of any processes share it. The process id lets [`sweep`] find whose owner is gone.
pub(crate) fn unique_prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}{}-{number}", sweep::MARK, std::process::id())
}

/// Whether this is the VM that `cargo xtask` boots: mostly emulated, and nobody else's machine.
pub fn in_test_vm() -> Result<bool> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").context("read the host's name")?;
    Ok(name.trim() == "overlay-vm")
}

/// Tries until it holds, at most this long; the last error otherwise.
pub fn eventually<T>(limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = std::time::Instant::now() + limit;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if std::time::Instant::now() >= deadline => {
                bail!("not within {} ms: {error:#}", limit.as_millis())
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
