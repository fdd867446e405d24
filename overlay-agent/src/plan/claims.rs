//! Which endpoints of other nodes are believed.
//!
//! A record's signature says who wrote it, not that it is true. What it claims is measured by the
//! managers' log: the owner takes part, the network is one that this node may host, and each address
//! is of a block that the log leased to the owner. So no node can take another's addresses.
//!
//! MACs are leased to nobody. The default, `02:42:` and an IPv4 address, belongs to who has that
//! address. Any other belongs to who has it already, and else to the claimant of the lowest index.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use overlay_cluster::{gossip::record::Endpoint, id::NodeId, log::view::View};
use overlay_ebpf::abi::{MacAddr, Vni};

use crate::dataplane::copy_on_write::CopyOnWrite;

/// Endpoints of other nodes that are believed, by owner, network and MAC. Clones are the same ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Believed {
    /// Ascending by [`place`].
    endpoints: CopyOnWrite<Vec<(NodeId, Endpoint)>>,
}

/// Owner, network and MAC.
fn place((owner, endpoint): &(NodeId, Endpoint)) -> (NodeId, Vni, MacAddr) {
    (*owner, endpoint.vni, endpoint.mac)
}

impl Believed {
    pub fn endpoints(&self) -> impl Iterator<Item = (&NodeId, &Endpoint)> {
        self.endpoints
            .iter()
            .map(|(owner, endpoint)| (owner, endpoint))
    }

    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    fn holds(&self, owner: &NodeId, vni: Vni, mac: MacAddr) -> bool {
        let wanted = (*owner, vni, mac);
        self.endpoints.binary_search_by_key(&wanted, place).is_ok()
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

/// Network and MAC, and who claims it.
fn claim((owner, endpoint): &(NodeId, Endpoint)) -> (Vni, MacAddr, NodeId) {
    (endpoint.vni, endpoint.mac, *owner)
}

/// Sorts what other nodes tell of. `before` is what was believed last; `own` are the MACs of this
/// node's endpoints. Records of nodes that do not take part, of this node, and of networks that this
/// node does not see are passed over in silence: they may come before the log does.
pub fn judge(
    view: &View,
    before: &Believed,
    own: &BTreeSet<(Vni, MacAddr)>,
    told: impl IntoIterator<Item = (NodeId, Endpoint)>,
) -> (Believed, Vec<Doubt>) {
    let mut doubts = Vec::new();
    let mut claims: Vec<(NodeId, Endpoint)> = Vec::new();
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
        claims.push((owner, endpoint));
    }
    claims.sort_unstable_by_key(claim);
    let index = |owner: &NodeId| view.peers.get(owner).map(|peer| peer.index);
    let winners: Vec<bool> = claims
        .chunk_by(|one, other| one.1.vni == other.1.vni && one.1.mac == other.1.mac)
        .flat_map(|claimants| {
            let (vni, mac, _) = claim(&claimants[0]);
            let winner = match own.contains(&(vni, mac)) {
                true => None,
                false => claimants.iter().min_by_key(|(owner, endpoint)| {
                    let held = before.holds(owner, vni, mac);
                    (!is_default(endpoint), !held, index(owner))
                }),
            };
            let holder = winner.map_or(view.node, |(owner, _)| *owner);
            let losers = claimants.iter().filter(move |(owner, _)| *owner != holder);
            doubts.extend(losers.map(|(owner, _)| Doubt {
                owner: *owner,
                vni,
                mac,
                reason: Reason::MacTaken(holder),
            }));
            claimants.iter().map(move |(owner, _)| *owner == holder)
        })
        .collect();
    let mut won = winners.into_iter();
    claims.retain(|_| won.next() == Some(true));
    claims.sort_unstable_by_key(place);
    claims.dedup_by_key(|known| place(known));
    claims.shrink_to_fit();
    let believed = Believed {
        endpoints: claims.into(),
    };
    (believed, doubts)
}

/// Whether the MAC is made from an address of the endpoint.
fn is_default(endpoint: &Endpoint) -> bool {
    endpoint.ips.iter().any(|ip| match ip {
        IpAddr::V4(v4) => MacAddr::from_ipv4(v4.octets()) == endpoint.mac,
        IpAddr::V6(_) => false,
    })
}
