//! Which endpoints of other nodes are believed.
//!
//! A record's signature says who wrote it, not that it is true. What it claims is measured by the
//! managers' log: the owner takes part, the network is one that this node may host, and each address
//! is of a block that the log leased to the owner. So no node can take another's addresses.
//!
//! MACs are leased to nobody. The default, `02:42:` and an IPv4 address, belongs to who has that
//! address. Any other belongs to who has it already, and else to the claimant of the lowest index.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
    net::IpAddr,
};

use overlay_cluster::{gossip::record::Endpoint, id::NodeId, log::view::View};
use overlay_ebpf::abi::{MacAddr, Vni};

use crate::dataplane::copy_on_write::CopyOnWrite;

/// Endpoints of other nodes that are believed. It is much of what an agent of a large cluster holds: an owner whose
/// endpoints stay as they are has the same list in both when it is judged again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Believed {
    /// By owner, those of one ascending by [`place`].
    owners: BTreeMap<NodeId, CopyOnWrite<Vec<Endpoint>>>,
}

/// What an endpoint is known by, of all that its owner has.
fn place(endpoint: &Endpoint) -> (Vni, MacAddr) {
    (endpoint.vni, endpoint.mac)
}

impl Believed {
    /// Ascending by owner, network and MAC.
    pub fn endpoints(&self) -> impl Iterator<Item = (&NodeId, &Endpoint)> {
        self.owners
            .iter()
            .flat_map(|(owner, endpoints)| endpoints.iter().map(move |endpoint| (owner, endpoint)))
    }

    pub fn len(&self) -> usize {
        self.owners.values().map(|endpoints| endpoints.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    fn get(&self, owner: &NodeId, at: (Vni, MacAddr)) -> Option<&Endpoint> {
        let endpoints = self.owners.get(owner)?;
        let found = endpoints.binary_search_by_key(&at, place).ok()?;
        endpoints.get(found)
    }

    /// Adds what one owner has. If that is all as it was `before`, the list of then stays.
    fn add(&mut self, owner: NodeId, mut endpoints: Vec<Endpoint>, before: &Self) {
        if endpoints.is_empty() {
            return;
        }
        if let Some(others) = self.owners.get(&owner) {
            endpoints.splice(0..0, others.iter().cloned());
        }
        endpoints.sort_by_key(place);
        endpoints.dedup_by_key(|endpoint| place(endpoint));
        let same = before
            .owners
            .get(&owner)
            .filter(|known| ***known == endpoints);
        let list = same.cloned().unwrap_or_else(|| {
            endpoints.shrink_to_fit();
            endpoints.into()
        });
        self.owners.insert(owner, list);
    }

    fn remove(&mut self, owner: &NodeId, at: (Vni, MacAddr)) {
        if let Some(endpoints) = self.owners.get_mut(owner) {
            endpoints.retain(|endpoint| place(endpoint) != at);
            if endpoints.is_empty() {
                self.owners.remove(owner);
            }
        }
    }
}

/// An endpoint that is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    pub owner: NodeId,
    pub vni: Vni,
    pub mac: MacAddr,
    pub reason: Reason,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The log has no block of the owner with this address: it was returned, or the owner lies.
    NotLeased(IpAddr),
    /// An address that no endpoint may have.
    NotUsable(IpAddr),
    /// A group address, or all zeros.
    BadMac,
    /// Another node's endpoint has the MAC.
    MacTaken(NodeId),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            owner,
            vni,
            mac,
            reason,
        } = self;
        write!(f, "node {owner} tells of endpoint {mac} in network {vni}: ")?;
        match reason {
            Reason::NotLeased(address) => write!(f, "{address} is not leased to it"),
            Reason::NotUsable(address) => write!(f, "{address} is no endpoint's address"),
            Reason::BadMac => f.write_str("the MAC address is no host's"),
            Reason::MacTaken(holder) => write!(f, "node {holder} has that MAC address"),
        }
    }
}

/// Sorts what other nodes tell of. `before` is what was believed last; `own` are the MACs of this
/// node's endpoints. Records of nodes that do not take part, of this node, and of networks that this
/// node does not see are passed over in silence: they may come before the log does. Of two that an owner tells for one
/// network and MAC the first counts.
pub fn judge(
    view: &View,
    before: &Believed,
    own: &BTreeSet<(Vni, MacAddr)>,
    told: impl IntoIterator<Item = (NodeId, Endpoint)>,
) -> (Believed, Vec<Doubt>) {
    let mut doubts = Vec::new();
    let mut believed = Believed::default();
    // Told owner by owner, mostly.
    let mut claimed: (NodeId, Vec<Endpoint>) = (view.node, Vec::new());
    for (owner, endpoint) in told {
        if owner == view.node || !view.peers.contains_key(&owner) {
            continue;
        }
        let (vni, mac) = (endpoint.vni, endpoint.mac);
        let Some(network) = view.networks.get(&vni) else {
            continue;
        };
        let bad_mac = mac.is_multicast() || mac == MacAddr([0; 6]);
        let bad_address = endpoint.ips.iter().copied().find_map(|address| {
            let usable = network
                .subnets
                .values()
                .any(|subnet| subnet.is_usable(address));
            match usable {
                false => Some(Reason::NotUsable(address)),
                true if !view.leased(&owner, vni, address) => Some(Reason::NotLeased(address)),
                true => None,
            }
        });
        if let Some(reason) = bad_address.or(bad_mac.then_some(Reason::BadMac)) {
            doubts.push(Doubt {
                owner,
                vni,
                mac,
                reason,
            });
            continue;
        }
        if claimed.0 != owner {
            let (owner, endpoints) = mem::replace(&mut claimed, (owner, Vec::new()));
            believed.add(owner, endpoints, before);
        }
        claimed.1.push(endpoint);
    }
    let (owner, endpoints) = claimed;
    believed.add(owner, endpoints, before);

    let mut claims = Vec::with_capacity(believed.len());
    claims.extend(
        believed
            .endpoints()
            .map(|(owner, endpoint)| (place(endpoint), owner)),
    );
    claims.sort_unstable();
    let index = |owner: &NodeId| view.peers.get(owner).map(|peer| peer.index);
    let mut lost = Vec::new();
    for claimants in claims.chunk_by(|one, other| one.0 == other.0) {
        let at = claimants[0].0;
        let is_ours = own.contains(&at);
        if claimants.len() == 1 && !is_ours {
            continue;
        }
        let owners = claimants.iter().map(|(_, owner)| **owner);
        let winner = owners.clone().filter(|_| !is_ours).min_by_key(|owner| {
            let default = believed.get(owner, at).is_some_and(is_default);
            let held = before.get(owner, at).is_some();
            (!default, !held, index(owner))
        });
        let holder = winner.unwrap_or(view.node);
        lost.extend(owners.filter(|owner| *owner != holder).map(|owner| Doubt {
            owner,
            vni: at.0,
            mac: at.1,
            reason: Reason::MacTaken(holder),
        }));
    }
    for doubt in &lost {
        believed.remove(&doubt.owner, (doubt.vni, doubt.mac));
    }
    doubts.extend(lost);
    (believed, doubts)
}

/// Whether the MAC is made from an address of the endpoint.
fn is_default(endpoint: &Endpoint) -> bool {
    endpoint.ips.iter().any(|ip| match ip {
        IpAddr::V4(v4) => MacAddr::from_ipv4(v4.octets()) == endpoint.mac,
        IpAddr::V6(_) => false,
    })
}
