use std::net::IpAddr;

use ipnet::IpNet;
use overlay_cluster::log::{
    self,
    names::{Labels, NetworkName},
    networks::NetworkRequest,
    rules::Rule,
    subnet::SubnetRequest,
};
use overlay_ebpf::abi::Vni;
use serde::{Deserialize, Serialize};

use super::{Time, endpoint::Endpoint};

/// `POST /v1/networks`, answered by the [`Network`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkCreate {
    pub name: NetworkName,
    /// `None` has one given.
    #[serde(default)]
    pub vni: Option<Vni>,
    #[serde(default)]
    pub encrypted: bool,
    /// Whether anyone who may use the agent attaches, or only orchestrators.
    #[serde(default = "yes")]
    pub attachable: bool,
    /// Broadcast and multicast reach every node with an endpoint (head-end replication).
    #[serde(default)]
    pub replicate: bool,
    /// Largest inner IP packet, bytes; `None` follows the underlay.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// One or two, of different families; none takes one from the cluster's pools.
    #[serde(default)]
    pub subnets: Vec<SubnetSpec>,
    #[serde(default)]
    pub rules: Vec<Rule>,
    #[serde(default)]
    pub labels: Labels,
}

const fn yes() -> bool {
    true
}

/// A subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubnetSpec {
    pub subnet: IpNet,
    /// `None` is the first host address.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// Where addresses are given from; `None` is the subnet.
    #[serde(default)]
    pub ip_range: Option<IpNet>,
    /// Prefix length of the address blocks that nodes lease.
    #[serde(default)]
    pub block_prefix: Option<u8>,
}

impl From<SubnetSpec> for SubnetRequest {
    fn from(spec: SubnetSpec) -> Self {
        Self {
            net: spec.subnet,
            gateway: spec.gateway,
            range: spec.ip_range,
            block_prefix: spec.block_prefix,
        }
    }
}

impl From<NetworkCreate> for NetworkRequest {
    fn from(create: NetworkCreate) -> Self {
        Self {
            name: create.name,
            vni: create.vni,
            encrypted: create.encrypted,
            attachable: create.attachable,
            replicate: create.replicate,
            mtu: create.mtu,
            subnets: create.subnets.into_iter().map(Into::into).collect(),
            rules: create.rules,
            labels: create.labels,
        }
    }
}

/// `GET /v1/networks` lists them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub name: NetworkName,
    pub vni: Vni,
    pub encrypted: bool,
    pub attachable: bool,
    pub replicate: bool,
    /// `None` follows the underlay.
    #[serde(default)]
    pub mtu: Option<u32>,
    pub subnets: Vec<Subnet>,
    pub rules: Vec<Rule>,
    pub labels: Labels,
    pub created: Time,
}

/// A subnet of a network, with nothing left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub subnet: IpNet,
    pub gateway: IpAddr,
    pub ip_range: IpNet,
    pub block_prefix: u8,
}

impl From<&log::subnet::Subnet> for Subnet {
    fn from(subnet: &log::subnet::Subnet) -> Self {
        Self {
            subnet: subnet.net(),
            gateway: subnet.gateway(),
            ip_range: subnet.range(),
            block_prefix: subnet.block_prefix(),
        }
    }
}

impl From<&log::networks::Network> for Network {
    fn from(network: &log::networks::Network) -> Self {
        Self {
            name: network.name.clone(),
            vni: network.vni,
            encrypted: network.encrypted,
            attachable: network.attachable,
            replicate: network.replicate,
            mtu: network.mtu,
            subnets: network.subnets.values().map(Subnet::from).collect(),
            rules: network.rules.clone(),
            labels: network.labels.clone(),
            created: network.created.into(),
        }
    }
}

/// `GET /v1/networks/{network}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDetail {
    #[serde(flatten)]
    pub network: Network,
    /// Those that this node knows of.
    pub endpoints: Vec<Endpoint>,
    /// Address blocks by node.
    pub blocks: Vec<Blocks>,
}

/// Address blocks of a node in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// Name of the node.
    pub node: String,
    pub blocks: Vec<IpNet>,
}

/// `POST /v1/prune/networks`: removes networks without endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneRequest {
    /// Only those that were made so long ago.
    #[serde(default)]
    pub older_than_seconds: Option<u64>,
    /// Only those with all these labels.
    #[serde(default)]
    pub labels: Labels,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pruned {
    pub networks: Vec<NetworkName>,
}
