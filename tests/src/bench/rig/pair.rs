//! Two bare hosts on a cable, and two bare containers.

use anyhow::Result;

use super::WIRE_MTU;
use crate::lab::{Netns, WIRE, like_a_nic};

/// Addresses of the hosts on the cable, `/24`.
pub(super) const HOST: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
/// Addresses of the containers.
pub(super) const CONTAINER: [&str; 2] = ["10.64.1.1", "10.64.2.1"];
/// Their MACs.
const MAC: [&str; 2] = ["02:42:0a:40:01:01", "02:42:0a:40:02:01"];

/// The namespaces of a competitor.
#[derive(Debug)]
pub(super) struct Pair {
    // Endpoints go before what holds their other end.
    pub(super) containers: [Netns; 2],
    /// Docker's namespace of an overlay network on a host. Empty with the others.
    pub(super) sandboxes: [Netns; 2],
    pub(super) hosts: [Netns; 2],
}

impl Pair {
    pub(super) fn new(prefix: &str, name: &str) -> Result<Self> {
        let both = |kind: &str| -> Result<[Netns; 2]> {
            Ok([
                Netns::new(&format!("{prefix}-{name}{kind}1"))?,
                Netns::new(&format!("{prefix}-{name}{kind}2"))?,
            ])
        };
        let pair = Self {
            containers: both("c")?,
            sandboxes: both("s")?,
            hosts: both("h")?,
        };
        let [first, second] = &pair.hosts;
        first.ip(&format!(
            "link add {WIRE} mtu {WIRE_MTU} type veth peer name {WIRE} mtu {WIRE_MTU} netns {}",
            second.name()
        ))?;
        for (host, address) in pair.hosts.iter().zip(HOST) {
            like_a_nic(host, WIRE, false)?;
            host.ip(&format!("addr add {address}/24 dev {WIRE}"))?;
            host.ip(&format!("link set {WIRE} up"))?;
        }
        Ok(pair)
    }

    /// Bridge and vxlan device in `place` on side `at` (0 or 1), and the container on the bridge. The
    /// vxlan device is there already, as `vx0`.
    pub(super) fn bridge(&self, place: &Netns, at: usize, mtu: u32, remote: &str) -> Result<()> {
        let other = 1 - at;
        let (address, mac) = (CONTAINER[other], MAC[other]);
        place.ip("link add br0 type bridge stp_state 0 mcast_snooping 0")?;
        for device in ["br0", "vx0"] {
            place.set_sysctl(&format!("net/ipv6/conf/{device}/disable_ipv6"), "1")?;
        }
        // Where the module is loaded, as Docker does, bridged packets would pass the host's firewall.
        // Nobody's best case: off for everyone.
        for table in ["iptables", "ip6tables", "arptables"] {
            let _not_loaded = place.set_sysctl(&format!("net/bridge/bridge-nf-call-{table}"), "0");
        }
        place.ip("link set vx0 master br0")?;
        place.ip("link set br0 up")?;
        place.ip("link set vx0 up")?;
        crate::lab::command::shell(
            "bridge",
            &format!(
                "-n {} fdb add {mac} dev vx0 dst {remote} self permanent",
                place.name()
            ),
        )?;
        place.ip(&format!(
            "neigh replace {address} lladdr {mac} dev vx0 nud permanent"
        ))?;
        self.plug(place, at, mtu, &format!("{}/16", CONTAINER[at]))?;
        place.ip("link set c0 master br0")?;
        Ok(())
    }

    /// Gives the container `eth0`, whose other end is `c0` in `place`.
    pub(super) fn plug(&self, place: &Netns, at: usize, mtu: u32, address: &str) -> Result<()> {
        let (inside, mac) = (&self.containers[at], MAC[at]);
        place.ip(&format!(
            "link add c0 mtu {mtu} type veth peer name eth0 mtu {mtu} address {mac} netns {}",
            inside.name()
        ))?;
        place.set_sysctl("net/ipv6/conf/c0/disable_ipv6", "1")?;
        inside.set_sysctl("net/ipv6/conf/eth0/disable_ipv6", "1")?;
        place.ip("link set c0 up")?;
        inside.ip("link set eth0 up")?;
        inside.ip(&format!("addr add {address} dev eth0"))?;
        Ok(())
    }
}
