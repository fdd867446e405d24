//! What connects the nodes: a switch or a router in a namespace of its own.

use std::net::IpAddr;

use anyhow::{Result, ensure};

use super::{
    Netns, WIRE,
    addressing::{Family, routed_vtep, switched_vtep},
    spec::{NodeSpec, Spec, Topology},
    wire::Capture,
};

const BRIDGE: &str = "br0";
/// The other switch of a wire that is cut.
const ISLAND: &str = "br1";

/// The namespace between the nodes. Node 1 is at its device `port1`, and so on.
#[derive(Debug)]
pub struct Underlay {
    pub netns: Netns,
    topology: Topology,
    mtu: u32,
    nodes: Vec<u32>,
}

impl Underlay {
    pub(super) fn new(prefix: &str, spec: &Spec) -> Result<Self> {
        let netns = Netns::new(&format!("{prefix}-wire"))?;
        no_duplicate_detection(&netns)?;
        match spec.topology {
            Topology::Switch => switch(&netns, BRIDGE, spec.mtu)?,
            Topology::Router => {
                netns.set_sysctl("net/ipv4/ip_forward", "1")?;
                netns.set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
            }
            Topology::Cable => {}
        }
        Ok(Self {
            netns,
            topology: spec.topology,
            mtu: spec.mtu,
            nodes: Vec::new(),
        })
    }

    /// Makes a node's namespace and wires it.
    pub(super) fn attach(
        &mut self,
        prefix: &str,
        index: u32,
        node: &NodeSpec,
        spec: &Spec,
    ) -> Result<Netns> {
        let netns = Netns::new(&format!("{prefix}-n{index}"))?;
        no_duplicate_detection(&netns)?;
        if self.topology == Topology::Cable {
            return self.plug_in(netns, index, node, spec);
        }
        let port = port(index);
        let mtu = spec.mtu;
        // A first name that both namespaces have free.
        self.netns.ip(&format!(
            "link add {port} mtu {mtu} type veth peer name {WIRE} mtu {mtu} netns {}",
            netns.name()
        ))?;
        for (netns, device) in [(&self.netns, port.as_str()), (&netns, WIRE)] {
            like_a_nic(netns, device, spec.offloads)?;
        }
        match self.topology {
            Topology::Switch => {
                self.netns
                    .set_sysctl(&format!("net/ipv6/conf/{port}/disable_ipv6"), "1")?;
                self.netns
                    .ip(&format!("link set {port} master {BRIDGE} up"))?;
                netns.ip(&format!("link set {WIRE} up"))?;
                for family in node.families() {
                    let (ip, length) = switched_vtep(family, u8::try_from(index)?);
                    netns.ip(&format!("addr add {ip}/{length} dev {WIRE} {}", nodad(ip)))?;
                }
            }
            Topology::Router => {
                self.netns.ip(&format!("link set {port} up"))?;
                netns.ip(&format!("link set {WIRE} up"))?;
                for family in node.families() {
                    let (ip, gateway, length) = routed_vtep(family, u8::try_from(index)?);
                    self.netns.ip(&format!(
                        "addr add {gateway}/{length} dev {port} {}",
                        nodad(gateway)
                    ))?;
                    netns.ip(&format!("addr add {ip}/{length} dev {WIRE} {}", nodad(ip)))?;
                    netns.ip(&format!("route add default via {gateway}"))?;
                }
            }
            Topology::Cable => {}
        }
        self.nodes.push(index);
        Ok(netns)
    }

    /// Gives the node its end of the cable. It hangs out of the first one until the second has its own.
    fn plug_in(&mut self, netns: Netns, index: u32, node: &NodeSpec, spec: &Spec) -> Result<Netns> {
        ensure!(index <= 2, "a cable has two ends");
        let loose = port(2);
        if index == 1 {
            let mtu = spec.mtu;
            self.netns.ip(&format!(
                "link add {loose} mtu {mtu} type veth peer name {WIRE} mtu {mtu} netns {}",
                netns.name()
            ))?;
        } else {
            self.netns.ip(&format!(
                "link set {loose} netns {} name {WIRE}",
                netns.name()
            ))?;
        }
        like_a_nic(&netns, WIRE, spec.offloads)?;
        netns.ip(&format!("link set {WIRE} up"))?;
        for family in node.families() {
            let (ip, length) = switched_vtep(family, u8::try_from(index)?);
            netns.ip(&format!("addr add {ip}/{length} dev {WIRE} {}", nodad(ip)))?;
        }
        Ok(netns)
    }

    /// Address of a node's VTEP.
    pub fn vtep(&self, index: u32, family: Family) -> Result<IpAddr> {
        let index = u8::try_from(index)?;
        Ok(match self.topology {
            Topology::Switch | Topology::Cable => switched_vtep(family, index).0,
            Topology::Router => routed_vtep(family, index).0,
        })
    }

    /// Captures what every node sends, each frame once.
    pub fn capture(&self) -> Result<Capture> {
        let ports: Vec<String> = self.nodes.iter().map(|&index| port(index)).collect();
        Capture::start(&self.netns, &ports, super::wire::Direction::Received)
    }

    /// Cuts a switched wire: these nodes hear each other and nobody else, until [`Self::heal`].
    pub fn cut_off(&self, nodes: &[u32]) -> Result<()> {
        ensure!(
            self.topology == Topology::Switch,
            "only a switched wire is cut"
        );
        switch(&self.netns, ISLAND, self.mtu)?;
        for node in nodes {
            self.netns
                .ip(&format!("link set {} master {ISLAND}", port(*node)))?;
        }
        Ok(())
    }

    /// Makes a wire that was cut whole again.
    pub fn heal(&self) -> Result<()> {
        for node in &self.nodes {
            self.netns
                .ip(&format!("link set {} master {BRIDGE}", port(*node)))?;
        }
        self.netns.ip(&format!("link del {ISLAND}")).map(drop)
    }

    /// Sets the MTU of a node's link at the side of the switch or router.
    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<()> {
        self.netns
            .ip(&format!("link set {} mtu {mtu}", port(index)))
            .map(drop)
    }
}

/// Makes a switch of this name.
fn switch(netns: &Netns, name: &str, mtu: u32) -> Result<()> {
    netns.ip(&format!(
        "link add {name} mtu {mtu} type bridge stp_state 0 mcast_snooping 0"
    ))?;
    netns.set_sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1")?;
    netns.ip(&format!("link set {name} up")).map(drop)
}

/// Makes an end of a veth pair send what a real wire would carry.
pub(crate) fn like_a_nic(netns: &Netns, device: &str, offloads: bool) -> Result<()> {
    if !offloads {
        netns.run("ethtool", &format!("-K {device} tx off tso off gso off"))?;
    }
    // As a real NIC does; it also gives native XDP a queue to redirect into.
    netns.run("ethtool", &format!("-K {device} gro on"))?;
    Ok(())
}

/// A router sends no neighbour solicitation while its link-local address is tentative
/// (`ndisc_send_ns`, net/ipv6/ndisc.c): seconds in which nothing passes.
fn no_duplicate_detection(netns: &Netns) -> Result<()> {
    for conf in ["all", "default"] {
        netns.set_sysctl(&format!("net/ipv6/conf/{conf}/accept_dad"), "0")?;
    }
    Ok(())
}

fn port(index: u32) -> String {
    format!("port{index}")
}

fn nodad(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { "nodad" } else { "" }
}
