//! Networks: names, VNIs, subnets, and who may attach.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use overlay_ebpf::abi::Vni;
use serde::{Deserialize, Serialize};

use super::{
    addresses::{Family, overlap},
    names::{Labels, NetworkName, NodeName},
    rules::{Rule, Subject},
    settings::{SettingsError, check_mtu},
    subnet::{Subnet, SubnetError, SubnetRequest},
    vnis::{VniRefusal, Vnis},
};
use crate::time::Timestamp;

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRequest {
    pub name: NetworkName,
    /// `None` has one given.
    pub vni: Option<Vni>,
    pub encrypted: bool,
    /// Whether anyone on a node may attach, or only who manages endpoints.
    pub attachable: bool,
    /// Broadcast and multicast reach every node with an endpoint (head-end replication).
    pub replicate: bool,
    /// Largest inner IP packet, bytes; `None` follows the settings.
    pub mtu: Option<u32>,
    /// One or two, of different families.
    pub subnets: Vec<SubnetRequest>,
    pub rules: Vec<Rule>,
    pub labels: Labels,
}

/// A network of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub name: NetworkName,
    pub vni: Vni,
    pub encrypted: bool,
    pub attachable: bool,
    pub replicate: bool,
    pub mtu: Option<u32>,
    pub subnets: BTreeMap<Family, Subnet>,
    pub rules: Vec<Rule>,
    pub labels: Labels,
    pub created: Timestamp,
}

/// Why the networks stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum NetworkRefusal {
    /// No network has this VNI.
    #[error("no network with VNI {0}: `overlay network ls` lists them")]
    Unknown(Vni),
    /// Names are unique.
    #[error("network {name} exists (VNI {holder}): choose another name")]
    NameTaken { name: NetworkName, holder: Vni },
    /// The VNI cannot be had.
    #[error(transparent)]
    Vni(#[from] VniRefusal),
    /// A subnet cannot be.
    #[error(transparent)]
    Subnet(#[from] SubnetError),
    /// A network has one subnet of a family.
    #[error(
        "network {name} has no subnet, or two of one family: give one of IPv4, one of IPv6, or one of each"
    )]
    Subnets { name: NetworkName },
    /// Addresses must be of one network.
    #[error(
        "subnet {subnet} overlaps {other} of network {holder}: choose another, or remove that network"
    )]
    Overlap {
        subnet: IpNet,
        other: IpNet,
        holder: NetworkName,
    },
    /// An overlay must not hide what carries it.
    #[error("subnet {subnet} holds {address}, the address of node {holder}: choose another")]
    HidesNode {
        subnet: IpNet,
        address: IpAddr,
        holder: NodeName,
    },
    /// The same, as a node comes with such an address.
    #[error(
        "address {address} is within {subnet} of network {holder}: advertise another, or remove that network"
    )]
    HiddenNode {
        address: IpAddr,
        subnet: IpNet,
        holder: NetworkName,
    },
    /// The MTU is out of bounds.
    #[error(transparent)]
    Mtu(#[from] SettingsError),
    /// Rules are bounded.
    #[error("{given} rules are more than {max}: leave some out", max = Network::MAX_RULES)]
    TooManyRules { given: usize },
    /// Networks are bounded.
    #[error("the cluster has {limit} networks, as many as it can: remove some")]
    Full { limit: usize },
    /// Networks were made and removed faster than epochs retire.
    #[error(
        "{limit} removed networks wait for an epoch to retire: run `overlay keys rotate --wait` first"
    )]
    TooManyClosing { limit: usize },
    /// Endpoints would lose their network.
    #[error("network {name} has {endpoints} endpoints: detach them first")]
    HasEndpoints { name: NetworkName, endpoints: u32 },
    /// Nodes hold addresses of the network.
    #[error(
        "nodes hold {blocks} address blocks of network {name}, and the command discards {discarded}: detach its endpoints, or name the number to discard them"
    )]
    HasBlocks {
        name: NetworkName,
        blocks: usize,
        discarded: usize,
    },
    /// The node may host no endpoint of the network.
    #[error(transparent)]
    Attach(#[from] AttachRefusal),
}

/// Why an endpoint may not attach.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum AttachRefusal {
    /// The reference's behaviour for networks without `--attachable`.
    #[error(
        "network {network} is managed and not attachable: attach through what manages it, or create the network with `--attachable`"
    )]
    Managed { network: NetworkName },
    /// A rule does not hold.
    #[error(
        "network {network} demands `{rule}`, and the labels of the {subject} do not satisfy it: change the labels, or choose another {subject}",
        subject = rule.subject()
    )]
    Rule { network: NetworkName, rule: Rule },
}

impl Network {
    pub const MAX_RULES: usize = 16;

    /// Whether a node with these labels may host endpoints of the network.
    pub fn may_host(&self, node: &Labels) -> Result<(), AttachRefusal> {
        self.check_rules(Subject::Node, node)
    }

    /// Whether an endpoint may attach: `managed` says that an orchestrator asks for it.
    pub fn may_attach(
        &self,
        managed: bool,
        node: &Labels,
        endpoint: &Labels,
    ) -> Result<(), AttachRefusal> {
        if !managed && !self.attachable {
            let network = self.name.clone();
            return Err(AttachRefusal::Managed { network });
        }
        self.may_host(node)?;
        self.check_rules(Subject::Endpoint, endpoint)
    }

    fn check_rules(&self, subject: Subject, labels: &Labels) -> Result<(), AttachRefusal> {
        let broken = self
            .rules
            .iter()
            .find(|rule| rule.subject() == subject && !rule.holds(labels));
        match broken {
            None => Ok(()),
            Some(rule) => Err(AttachRefusal::Rule {
                network: self.name.clone(),
                rule: rule.clone(),
            }),
        }
    }
}

/// All networks, by VNI.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Networks {
    networks: BTreeMap<Vni, Network>,
    vnis: Vnis,
}

impl Networks {
    /// Networks at the most.
    pub const MAX: usize = 4096;
    /// VNIs of removed networks that wait for an epoch to retire.
    pub const MAX_CLOSING: usize = 65_536;

    pub fn get(&self, vni: Vni) -> Result<&Network, NetworkRefusal> {
        self.networks.get(&vni).ok_or(NetworkRefusal::Unknown(vni))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Network> {
        self.networks.values()
    }

    pub fn by_name(&self, name: &NetworkName) -> Option<&Network> {
        self.networks.values().find(|network| network.name == *name)
    }

    /// The subnets of all networks: what a new one must avoid.
    pub fn subnets(&self) -> impl Iterator<Item = (&Network, &Subnet)> {
        self.networks.values().flat_map(|network| {
            network
                .subnets
                .values()
                .map(move |subnet| (network, subnet))
        })
    }

    /// VNIs that belong to no network, and are not free.
    pub fn closing(&self) -> impl Iterator<Item = Vni> {
        self.vnis.closing()
    }

    /// Makes a network. `nodes` are the addresses of all nodes, `vnis` the range of the settings.
    pub fn create<'a>(
        &mut self,
        now: Timestamp,
        request: NetworkRequest,
        nodes: impl IntoIterator<Item = (IpAddr, &'a NodeName)>,
        vnis: (Vni, Vni),
    ) -> Result<Vni, NetworkRefusal> {
        let subnets = self.check(&request, nodes)?;
        let vni = match request.vni {
            Some(vni) => {
                let holder = self.networks.get(&vni).map(|network| &network.name);
                self.vnis.name(vni, holder)?;
                vni
            }
            None => {
                let networks = &self.networks;
                self.vnis.give(vnis, |vni| networks.contains_key(&vni))?
            }
        };
        let network = Network {
            name: request.name,
            vni,
            encrypted: request.encrypted,
            attachable: request.attachable,
            replicate: request.replicate,
            mtu: request.mtu,
            subnets,
            rules: request.rules,
            labels: request.labels,
            created: now,
        };
        self.networks.insert(vni, network);
        Ok(vni)
    }

    /// All of `request` but its VNI.
    fn check<'a>(
        &self,
        request: &NetworkRequest,
        nodes: impl IntoIterator<Item = (IpAddr, &'a NodeName)>,
    ) -> Result<BTreeMap<Family, Subnet>, NetworkRefusal> {
        if let Some(holder) = self.by_name(&request.name) {
            return Err(NetworkRefusal::NameTaken {
                name: request.name.clone(),
                holder: holder.vni,
            });
        }
        if self.networks.len() >= Self::MAX {
            return Err(NetworkRefusal::Full { limit: Self::MAX });
        }
        if self.vnis.closing().count() >= Self::MAX_CLOSING {
            let limit = Self::MAX_CLOSING;
            return Err(NetworkRefusal::TooManyClosing { limit });
        }
        if request.rules.len() > Network::MAX_RULES {
            let given = request.rules.len();
            return Err(NetworkRefusal::TooManyRules { given });
        }
        let mut subnets = BTreeMap::new();
        for subnet in &request.subnets {
            let subnet = Subnet::new(subnet)?;
            if let Some(mtu) = request.mtu {
                check_mtu(mtu, subnet.family())?;
            }
            subnets.insert(subnet.family(), subnet);
        }
        if subnets.is_empty() || subnets.len() != request.subnets.len() {
            let name = request.name.clone();
            return Err(NetworkRefusal::Subnets { name });
        }
        for subnet in subnets.values() {
            let clash = self
                .subnets()
                .find(|(_, other)| overlap(&other.net(), &subnet.net()));
            if let Some((holder, other)) = clash {
                return Err(NetworkRefusal::Overlap {
                    subnet: subnet.net(),
                    other: other.net(),
                    holder: holder.name.clone(),
                });
            }
        }
        for (address, holder) in nodes {
            let hides = subnets
                .values()
                .find(|subnet| subnet.net().contains(&address));
            if let Some(subnet) = hides {
                return Err(NetworkRefusal::HidesNode {
                    subnet: subnet.net(),
                    address,
                    holder: holder.clone(),
                });
            }
        }
        Ok(subnets)
    }

    /// Whether a node may have these addresses: none is within a network.
    pub fn check_node(
        &self,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), NetworkRefusal> {
        for address in addresses {
            let hides = self
                .subnets()
                .find(|(_, subnet)| subnet.net().contains(&address));
            if let Some((holder, subnet)) = hides {
                return Err(NetworkRefusal::HiddenNode {
                    address,
                    subnet: subnet.net(),
                    holder: holder.name.clone(),
                });
            }
        }
        Ok(())
    }

    /// Whether a network may go: it has no endpoints, and as many blocks as are to be `discarded`.
    pub fn check_remove(
        &self,
        vni: Vni,
        endpoints: u32,
        blocks: usize,
        discarded: usize,
    ) -> Result<(), NetworkRefusal> {
        let name = self.get(vni)?.name.clone();
        if endpoints > 0 {
            return Err(NetworkRefusal::HasEndpoints { name, endpoints });
        }
        if blocks != discarded {
            return Err(NetworkRefusal::HasBlocks {
                name,
                blocks,
                discarded,
            });
        }
        Ok(())
    }

    /// Removes a network. If it had blocks, its VNI waits until `epoch` has retired.
    pub fn remove(&mut self, vni: Vni, had_blocks: bool, epoch: u32) -> Option<Network> {
        let network = self.networks.remove(&vni)?;
        if had_blocks {
            self.vnis.close(vni, epoch);
        }
        Some(network)
    }

    /// Frees what waited for epochs below `oldest`.
    pub fn retired(&mut self, oldest: u32) {
        self.vnis.retired(oldest);
    }

    pub fn restored(&mut self) {
        self.vnis.restored();
    }

    /// What is wrong with the networks, if anything.
    pub fn fault(&self) -> Option<String> {
        if self.networks.len() > Self::MAX {
            return Some(format!("{} networks", self.networks.len()));
        }
        let mut names = std::collections::BTreeSet::new();
        let mut subnets: Vec<(u128, u128, Family, &Network)> = Vec::new();
        for (vni, network) in &self.networks {
            if network.vni != *vni {
                return Some(format!("network {} is kept under VNI {vni}", network.name));
            }
            if !names.insert(&network.name) {
                return Some(format!("two networks are named {}", network.name));
            }
            if network.subnets.is_empty() || network.rules.len() > Network::MAX_RULES {
                return Some(format!(
                    "network {} has no subnet, or too many rules",
                    network.name
                ));
            }
            if self.vnis.closing().any(|closing| closing == *vni) {
                return Some(format!(
                    "network {} has a VNI that is not free",
                    network.name
                ));
            }
            for (family, subnet) in &network.subnets {
                if *family != subnet.family() {
                    return Some(format!(
                        "subnet {} of {} is unsound",
                        subnet.net(),
                        network.name
                    ));
                }
                let (first, last) = super::addresses::bounds(&subnet.net());
                subnets.push((first, last, *family, network));
            }
        }
        subnets.sort_unstable_by_key(|(first, _, family, _)| (*family, *first));
        subnets
            .windows(2)
            .find(|pair| pair[0].2 == pair[1].2 && pair[0].1 >= pair[1].0)
            .map(|pair| format!("networks {} and {} overlap", pair[0].3.name, pair[1].3.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{
        samples::{labels, network, now},
        settings::Settings,
    };

    fn create(networks: &mut Networks, request: NetworkRequest) -> Result<Vni, NetworkRefusal> {
        networks.create(now(0), request, [], Settings::default().vnis)
    }

    #[test]
    fn a_network_gets_the_next_vni_or_its_own() {
        let mut networks = Networks::default();
        let first = create(&mut networks, network("a", "10.0.1.0/24")).expect("created");
        assert_eq!(first.get(), 4096);
        let named = NetworkRequest {
            vni: Vni::new(4097).ok(),
            ..network("b", "10.0.2.0/24")
        };
        create(&mut networks, named.clone()).expect("created");
        let third = create(&mut networks, network("c", "10.0.3.0/24")).expect("created");
        assert_eq!(third.get(), 4098);
        let again = NetworkRequest {
            name: NetworkName::new("d").expect("a name"),
            ..named
        };
        let again = NetworkRequest {
            subnets: network("d", "10.0.4.0/24").subnets,
            ..again
        };
        let refusal = create(&mut networks, again).expect_err("taken").to_string();
        assert!(refusal.contains("belongs to network b"), "{refusal}");
        assert_eq!(networks.fault(), None);
    }

    #[test]
    fn overlaps_are_refused_with_the_name_of_the_clash() {
        let mut networks = Networks::default();
        create(&mut networks, network("web", "10.0.0.0/16")).expect("created");
        for subnet in ["10.0.9.0/24", "10.0.0.0/8", "10.0.0.0/16"] {
            let refusal = create(&mut networks, network("db", subnet))
                .expect_err(subnet)
                .to_string();
            assert!(refusal.contains("10.0.0.0/16 of network web"), "{refusal}");
        }
        let name = NodeName::new("node-1").expect("a name");
        let vtep: IpAddr = [192, 168, 0, 7].into();
        let refusal = networks
            .create(
                now(0),
                network("db", "192.168.0.0/24"),
                [(vtep, &name)],
                Settings::default().vnis,
            )
            .expect_err("hides a node")
            .to_string();
        assert!(
            refusal.contains("192.168.0.7, the address of node node-1"),
            "{refusal}"
        );
        let refusal = networks
            .check_node([[10, 0, 3, 3].into()])
            .expect_err("hidden");
        assert!(refusal.to_string().contains("network web"), "{refusal}");
    }

    #[test]
    fn a_refused_network_takes_no_vni() {
        let mut networks = Networks::default();
        let before = networks.clone();
        for request in [
            network("a", "10.0.0.1/24"),
            NetworkRequest {
                subnets: Vec::new(),
                ..network("a", "10.0.0.0/24")
            },
            NetworkRequest {
                subnets: [network("a", "10.0.0.0/24"), network("a", "10.0.1.0/24")]
                    .map(|request| request.subnets[0].clone())
                    .to_vec(),
                ..network("a", "10.0.0.0/24")
            },
            NetworkRequest {
                mtu: Some(60),
                ..network("a", "10.0.0.0/24")
            },
        ] {
            assert!(create(&mut networks, request).is_err());
        }
        assert_eq!(networks, before);
    }

    #[test]
    fn a_network_with_endpoints_or_blocks_stays() {
        let mut networks = Networks::default();
        let vni = create(&mut networks, network("a", "10.0.0.0/24")).expect("created");
        assert!(networks.check_remove(vni, 1, 0, 0).is_err());
        assert!(networks.check_remove(vni, 0, 2, 0).is_err());
        assert!(networks.check_remove(vni, 0, 2, 1).is_err());
        assert_eq!(networks.check_remove(vni, 0, 2, 2), Ok(()));
        networks.remove(vni, true, 3).expect("removed");
        assert_eq!(networks.closing().collect::<Vec<_>>(), [vni]);
        networks.retired(4);
        assert_eq!(networks.closing().count(), 0);
    }

    #[test]
    fn a_managed_network_refuses_an_unmanaged_attach_with_the_reason() {
        let mut networks = Networks::default();
        let request = NetworkRequest {
            attachable: false,
            rules: vec![
                "node.zone==a".parse().expect("a rule"),
                "endpoint.tier!=db".parse().expect("a rule"),
            ],
            ..network("a", "10.0.0.0/24")
        };
        let vni = create(&mut networks, request).expect("created");
        let network = networks.get(vni).expect("exists");
        let (node, endpoint) = (labels(&[("zone", "a")]), labels(&[]));
        let refusal = network
            .may_attach(false, &node, &endpoint)
            .expect_err("managed");
        assert!(refusal.to_string().contains("--attachable"), "{refusal}");
        assert_eq!(network.may_attach(true, &node, &endpoint), Ok(()));
        let refusal = network.may_host(&labels(&[])).expect_err("another zone");
        assert!(refusal.to_string().contains("`node.zone==a`"), "{refusal}");
        let refusal = network
            .may_attach(true, &node, &labels(&[("tier", "db")]))
            .expect_err("a database");
        assert!(refusal.to_string().contains("the endpoint"), "{refusal}");
    }
}
