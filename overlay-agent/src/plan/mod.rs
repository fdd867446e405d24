//! From what the cluster agreed on to the desired data plane of this node. It decides and does
//! nothing: the same inputs give the same data plane.
//!
//! - [`claims`]: which of the endpoints that nodes tell of are believed
//! - [`pairs`]: which nodes share a network with this one, and which of them IPsec
//! - [`epochs`]: what the rotation needs of the log
//! - [`data_plane`]: all of it as the [`DataPlane`] that the reconciler makes the kernel equal to

pub mod claims;
pub mod epochs;
pub mod pairs;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use overlay_cluster::{
    id::NodeId,
    log::{
        member::Vteps,
        networks::Network,
        settings::{MtuPolicy, Settings as ClusterSettings},
        view::{Peer as ClusterPeer, View},
    },
    rotation::{self, PeerSas},
};
use overlay_ebpf::abi::{PeerIndex, Vni};

use crate::dataplane::{
    copy_on_write::CopyOnWrite,
    desired::{
        self, DataPlane, LocalEndpoint, MapSizes, Peer, RemoteEndpoint, SecurityAssociation,
        Settings, XdpMode,
    },
};

use self::claims::Believed;

/// What each host sets for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSettings {
    pub xdp: XdpMode,
    /// One drop in this many is reported to `events`; 0 reports none.
    pub event_sample: u32,
    pub map_sizes: MapSizes,
}

impl Default for HostSettings {
    fn default() -> Self {
        let Settings {
            xdp,
            event_sample,
            map_sizes,
            ..
        } = Settings::default();
        Self {
            xdp,
            event_sample,
            map_sizes,
        }
    }
}

/// Why there is no data plane.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The view is of a node that it does not hold.
    #[error("node {0} is not in the view that a manager gave it: it left or was removed")]
    NotAMember(NodeId),
}

/// The nodes that share a network with this one, and their endpoints there. To find them takes the longest of all, and a
/// rotation changes nothing of it.
#[derive(Debug, Clone, Default)]
pub struct Reached {
    /// Where each is, if there is an address family that both have, and the networks that it shares.
    peers: BTreeMap<NodeId, (Option<IpAddr>, BTreeSet<Vni>)>,
    endpoints: CopyOnWrite<Vec<RemoteEndpoint>>,
}

impl Reached {
    /// Of the node whose view it is; none, if the view does not hold it. `local` are its endpoints.
    pub fn of(view: &View, local: &[LocalEndpoint], remote: &Believed) -> Self {
        let Some(node) = view.peers.get(&view.node) else {
            return Self::default();
        };
        let hosted = hosted(view, local);
        let peers: BTreeMap<_, _> = pairs::shared(&hosted, remote)
            .into_iter()
            .filter_map(|(id, networks)| {
                let peer = view.peers.get(&id)?;
                let vtep = common_vtep(&node.contact.vteps, &peer.contact.vteps);
                Some((id, (vtep, networks)))
            })
            .collect();
        let has_vtep = |owner| matches!(peers.get(owner), Some((Some(_), _)));
        let mut endpoints: Vec<_> = remote
            .endpoints()
            .filter(|(owner, endpoint)| hosted.contains(&endpoint.vni) && has_vtep(owner))
            .filter_map(|(owner, endpoint)| {
                Some(RemoteEndpoint {
                    vni: endpoint.vni,
                    peer: view.peers.get(owner)?.index,
                    mac: endpoint.mac,
                    addresses: endpoint.ips.clone(),
                })
            })
            .collect();
        // It is most of what an agent of a large cluster holds.
        endpoints.shrink_to_fit();
        Self {
            peers,
            endpoints: endpoints.into(),
        }
    }
}

/// The networks of the view of which this node has an endpoint.
fn hosted(view: &View, local: &[LocalEndpoint]) -> BTreeSet<Vni> {
    let networks = local.iter().map(|endpoint| endpoint.vni);
    networks
        .filter(|vni| view.networks.contains_key(vni))
        .collect()
}

/// The desired data plane of the node whose view it is.
///
/// `local` are its endpoints; those of networks that the view lacks are left out, so they are closed. `reached` is
/// made of the same view and endpoints.
/// `sas` are those of the rotation: a peer without an entry has none, and encrypted networks to it
/// are closed. The SAs of a peer that shares no encrypted network any more go with it.
pub fn data_plane(
    view: &View,
    host: &HostSettings,
    local: &[LocalEndpoint],
    reached: &Reached,
    sas: &BTreeMap<PeerIndex, PeerSas>,
) -> Result<DataPlane, PlanError> {
    let node = view
        .peers
        .get(&view.node)
        .ok_or(PlanError::NotAMember(view.node))?;
    let local: Vec<_> = local
        .iter()
        .filter(|endpoint| view.networks.contains_key(&endpoint.vni))
        .cloned()
        .collect();
    let hosted = hosted(view, &local);
    let peers = reached
        .peers
        .iter()
        .filter_map(|(id, (vtep, networks))| {
            let peer = view.peers.get(id)?;
            let sas = match pairs::is_encrypted(networks, &view.networks) {
                true => sas.get(&peer.index),
                false => None,
            };
            let peer = of_peer(peer, (*vtep)?, networks.clone(), sas);
            Some((peer.index, peer))
        })
        .collect();
    Ok(DataPlane {
        node: self::node(node),
        settings: settings(&view.settings, host),
        networks: hosted
            .iter()
            .filter_map(|vni| Some((*vni, of_network(view.networks.get(vni)?, &view.settings))))
            .collect(),
        peers,
        local_endpoints: local,
        remote_endpoints: reached.endpoints.clone(),
    })
}

/// This node, as the data plane needs it.
pub fn node(node: &ClusterPeer) -> desired::Node {
    desired::Node {
        index: node.index,
        name: node.name.to_string(),
        vteps: node.contact.vteps.iter().collect(),
    }
}

/// The peer's address in a family that both have; IPv4 first, whose ESP keeps GSO.
fn common_vtep(ours: &Vteps, theirs: &Vteps) -> Option<IpAddr> {
    let v4 = ours.v4.and(theirs.v4).map(IpAddr::from);
    v4.or(ours.v6.and(theirs.v6).map(IpAddr::from))
}

fn of_peer(
    peer: &ClusterPeer,
    vtep: IpAddr,
    networks: BTreeSet<Vni>,
    sas: Option<&PeerSas>,
) -> Peer {
    Peer {
        index: peer.index,
        name: peer.name.to_string(),
        vtep,
        networks,
        transmit: sas.and_then(|sas| sas.transmit),
        sas: sas
            .map(|sas| sas.sas.iter().map(of_sa).collect())
            .unwrap_or_default(),
    }
}

fn of_sa(sa: &rotation::Sa) -> SecurityAssociation {
    SecurityAssociation {
        direction: sa.direction,
        epoch: sa.epoch,
        slot: sa.slot,
        lane: sa.lane,
        sender_generation: sa.sender_generation.0,
        receiver_generation: sa.receiver_generation.0,
        keying: sa.keying.clone(),
    }
}

fn of_network(network: &Network, settings: &ClusterSettings) -> desired::Network {
    desired::Network {
        name: network.name.to_string(),
        vni: network.vni,
        encrypted: network.encrypted,
        replicate: network.replicate,
        mtu: network.mtu,
        mtu_at_most: match settings.mtu {
            MtuPolicy::Derived => None,
            MtuPolicy::AtMost(mtu) => Some(mtu),
        },
    }
}

/// Settings of the data plane: the cluster's and the host's.
pub fn settings(cluster: &ClusterSettings, host: &HostSettings) -> Settings {
    Settings {
        port: cluster.port,
        esp_in_udp_port: cluster.esp_in_udp_port,
        mark: cluster.mark.layout(),
        hard_byte_limit: cluster.hard_byte_limit,
        xdp: host.xdp,
        event_sample: host.event_sample,
        map_sizes: host.map_sizes,
        ..Settings::default()
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
