//! Which nodes share a network with this one.

use std::collections::{BTreeMap, BTreeSet};

use overlay_cluster::{id::NodeId, log::networks::Network};
use overlay_ebpf::abi::Vni;

use super::claims::Believed;

/// The networks that this node hosts endpoints of and another node does too, by that node. They
/// come with its first endpoint and go with its last.
pub fn shared(hosted: &BTreeSet<Vni>, remote: &Believed) -> BTreeMap<NodeId, BTreeSet<Vni>> {
    let mut shared: BTreeMap<NodeId, BTreeSet<Vni>> = BTreeMap::new();
    for (owner, endpoint) in remote.endpoints() {
        if hosted.contains(&endpoint.vni) {
            shared.entry(*owner).or_default().insert(endpoint.vni);
        }
    }
    shared
}

/// Whether one of the networks is encrypted. One that the view lacks counts as such.
pub fn is_encrypted(networks: &BTreeSet<Vni>, known: &BTreeMap<Vni, Network>) -> bool {
    networks
        .iter()
        .any(|vni| known.get(vni).is_none_or(|network| network.encrypted))
}
