//! What a lab is made of.

use serde_json::{Map, Value};

use super::addressing::Family;

/// A cluster to build.
#[derive(Debug, Clone)]
pub struct Spec {
    pub topology: Topology,
    /// Largest IP packet on the wire, bytes.
    pub mtu: u32,
    pub networks: Vec<NetworkSpec>,
    /// Their indices in the cluster are their places here, from 1.
    pub nodes: Vec<NodeSpec>,
    /// SAs per direction of a pair.
    pub lanes: u8,
    /// `[settings]` of every node.
    pub settings: Map<String, Value>,
    /// Segmentation and checksum offloads of the wire: off makes every captured frame what a real
    /// wire would carry.
    pub offloads: bool,
}

/// How the nodes are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// One switch: VTEPs are neighbours.
    Switch,
    /// One router: every node in a subnet of its own behind a gateway.
    Router,
    /// Nodes 1 and 2 at the ends of one cable, with nothing between them: nothing can be captured
    /// there either.
    Cable,
}

/// An overlay network.
#[derive(Debug, Clone)]
pub struct NetworkSpec {
    pub name: String,
    pub vni: u32,
    pub encrypted: bool,
    pub replicate: bool,
    pub mtu: Option<u32>,
    /// Families of the addresses inside.
    pub ipv4: bool,
    pub ipv6: bool,
}

/// A node.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Families of its VTEPs.
    pub ipv4: bool,
    pub ipv6: bool,
    /// Made of the stock kernel's bridge, vxlan and `ip xfrm` alone.
    pub stock: bool,
    pub containers: Vec<ContainerSpec>,
}

/// A container.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// Unique in the lab.
    pub name: String,
    /// Names of the networks; the first is `eth0`, the next `eth1`.
    pub networks: Vec<String>,
}

impl Default for Spec {
    fn default() -> Self {
        Self::new()
    }
}

impl Spec {
    /// A switch with an MTU of 1500 and nothing on it, one lane, XDP off.
    pub fn new() -> Self {
        let mut settings = Map::new();
        // Every drop is an event, so that a failing test can be explained.
        settings.insert("event_sample".into(), 1.into());
        Self {
            topology: Topology::Switch,
            mtu: 1500,
            networks: Vec::new(),
            nodes: Vec::new(),
            lanes: 1,
            settings,
            offloads: false,
        }
    }

    pub fn network(mut self, network: NetworkSpec) -> Self {
        self.networks.push(network);
        self
    }

    pub fn node(mut self, node: NodeSpec) -> Self {
        self.nodes.push(node);
        self
    }

    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    pub fn lanes(mut self, lanes: u8) -> Self {
        self.lanes = lanes;
        self
    }

    pub fn routed(mut self) -> Self {
        self.topology = Topology::Router;
        self
    }

    pub fn cabled(mut self) -> Self {
        self.topology = Topology::Cable;
        self
    }

    pub fn offloads(mut self) -> Self {
        self.offloads = true;
        self
    }

    /// A line of `[settings]` on every node.
    pub fn setting(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.settings.insert(name.to_owned(), value.into());
        self
    }
}

impl NetworkSpec {
    /// Dual-stack, without replication.
    pub fn plain(name: &str, vni: u32) -> Self {
        Self {
            name: name.to_owned(),
            vni,
            encrypted: false,
            replicate: false,
            mtu: None,
            ipv4: true,
            ipv6: true,
        }
    }

    pub fn encrypted(name: &str, vni: u32) -> Self {
        Self {
            encrypted: true,
            ..Self::plain(name, vni)
        }
    }

    pub fn replicate(mut self) -> Self {
        self.replicate = true;
        self
    }

    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    pub fn only(mut self, family: Family) -> Self {
        self.ipv4 = family == Family::V4;
        self.ipv6 = family == Family::V6;
        self
    }

    pub(super) fn families(&self) -> impl Iterator<Item = Family> {
        Family::chosen(self.ipv4, self.ipv6)
    }
}

impl Default for NodeSpec {
    fn default() -> Self {
        Self::new()
    }
}

impl NodeSpec {
    /// A node of ours with an IPv4 VTEP.
    pub fn new() -> Self {
        Self {
            ipv4: true,
            ipv6: false,
            stock: false,
            containers: Vec::new(),
        }
    }

    /// A node of the stock kernel with an IPv4 VTEP.
    pub fn stock() -> Self {
        Self {
            stock: true,
            ..Self::new()
        }
    }

    /// With an IPv6 VTEP instead.
    pub fn v6(mut self) -> Self {
        self.ipv4 = false;
        self.ipv6 = true;
        self
    }

    /// With VTEPs of both families.
    pub fn dual(mut self) -> Self {
        self.ipv4 = true;
        self.ipv6 = true;
        self
    }

    /// With VTEPs of this family.
    pub fn family(self, family: Family) -> Self {
        match family {
            Family::V4 => self,
            Family::V6 => self.v6(),
        }
    }

    pub fn container(mut self, name: &str, networks: &[&str]) -> Self {
        self.containers.push(ContainerSpec {
            name: name.to_owned(),
            networks: networks.iter().map(|&network| network.to_owned()).collect(),
        });
        self
    }

    pub(crate) fn families(&self) -> impl Iterator<Item = Family> {
        Family::chosen(self.ipv4, self.ipv6)
    }
}
