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
    fmt,
    net::IpAddr,
};

use overlay_cluster::{gossip::record::Endpoint, id::NodeId, log::view::View};
use overlay_ebpf::abi::{MacAddr, PeerIndex, Vni};

/// Endpoints of other nodes that are believed, by owner, network and MAC.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Believed {
    endpoints: BTreeMap<(NodeId, Vni, MacAddr), Endpoint>,
}

impl Believed {
    pub fn endpoints(&self) -> impl Iterator<Item = (&NodeId, &Endpoint)> {
        self.endpoints
            .iter()
            .map(|((owner, _, _), endpoint)| (owner, endpoint))
    }

    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    fn holds(&self, owner: &NodeId, vni: Vni, mac: MacAddr) -> bool {
        self.endpoints.contains_key(&(*owner, vni, mac))
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

/// Who claims a MAC, and for what.
type Claim<'a> = (PeerIndex, NodeId, &'a Endpoint);

/// Sorts what other nodes tell of. `before` is what was believed last; `own` are the MACs of this
/// node's endpoints. Records of nodes that do not take part, of this node, and of networks that this
/// node does not see are passed over in silence: they may come before the log does.
pub fn judge<'a>(
    view: &View,
    before: &Believed,
    own: &BTreeSet<(Vni, MacAddr)>,
    told: impl IntoIterator<Item = (NodeId, &'a Endpoint)>,
) -> (Believed, Vec<Doubt>) {
    let mut doubts = Vec::new();
    let mut claims: BTreeMap<(Vni, MacAddr), Vec<Claim<'_>>> = BTreeMap::new();
    for (owner, endpoint) in told {
        let Some(peer) = view.peers.get(&owner).filter(|_| owner != view.node) else {
            continue;
        };
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
        let claim = (peer.index, owner, endpoint);
        claims.entry((vni, mac)).or_default().push(claim);
    }
    let mut believed = Believed::default();
    for ((vni, mac), claimants) in claims {
        let winner = match own.contains(&(vni, mac)) {
            true => None,
            false => claimants.iter().min_by_key(|(index, owner, endpoint)| {
                let default = is_default(endpoint);
                (!default, !before.holds(owner, vni, mac), *index)
            }),
        };
        let holder = winner.map_or(view.node, |(_, owner, _)| *owner);
        for (_, owner, endpoint) in &claimants {
            if *owner == holder {
                believed
                    .endpoints
                    .insert((*owner, vni, mac), (*endpoint).clone());
            } else {
                doubts.push(Doubt {
                    owner: *owner,
                    vni,
                    mac,
                    reason: Reason::MacTaken(holder),
                });
            }
        }
    }
    (believed, doubts)
}

/// Whether the MAC is made from an address of the endpoint.
fn is_default(endpoint: &Endpoint) -> bool {
    endpoint.ips.iter().any(|ip| match ip {
        IpAddr::V4(v4) => MacAddr::from_ipv4(v4.octets()) == endpoint.mac,
        IpAddr::V6(_) => false,
    })
}
