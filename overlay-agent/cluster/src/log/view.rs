//! What a node is told of the managers' state, whole or as the difference to what it has.
//!
//! A view holds no secret and no token. A node pulls: it names the version that it has, and gets what
//! changed since, or everything if that is no longer known.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::IpNet;
use overlay_ebpf::abi::{PeerIndex, Vni};
use serde::{Deserialize, Serialize};

use super::{
    changes::Change,
    epochs::{Phase, RotationPolicy},
    member::{Availability, Contact, Member, NodeKey, Role},
    names::{Labels, NodeName},
    networks::Network,
    roster::RosterRefusal,
    settings::Settings,
    state::Cluster,
    wire::{self, DecodeError},
};
use crate::{
    id::{ClusterId, EpochName, NodeId},
    identity::trust::TrustBundle,
    time::Timestamp,
};

/// Which state a view shows. A later incarnation is newer, whatever its revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    pub incarnation: u32,
    pub revision: u64,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.revision)
    }
}

/// A node as the others know it. Its labels are its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub index: PeerIndex,
    pub name: NodeName,
    pub key: NodeKey,
    pub role: Role,
    pub availability: Availability,
    pub contact: Contact,
    /// Certificates issued earlier are void.
    pub joined: Timestamp,
}

impl Peer {
    fn of(member: &Member) -> Option<Self> {
        member.is_present().then(|| Self {
            index: member.index,
            name: member.name.clone(),
            key: member.key,
            role: member.role,
            availability: member.availability,
            contact: member.contact.clone(),
            joined: member.joined,
        })
    }
}

/// Epochs without their secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochsView {
    pub current: EpochName,
    pub phase: Phase,
    /// Not retired, the oldest first.
    pub kept: Vec<EpochName>,
    /// When the last rotation began.
    pub rotated: Timestamp,
    pub policy: RotationPolicy,
}

/// All that a node is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    pub cluster: ClusterId,
    pub version: Version,
    pub time: Timestamp,
    /// The roots by which nodes are known.
    pub trust: TrustBundle,
    /// Whose view it is.
    pub node: NodeId,
    pub labels: Labels,
    /// The nodes that take part, this one included.
    pub peers: BTreeMap<NodeId, Peer>,
    /// The networks that this node may host endpoints of.
    pub networks: BTreeMap<Vni, Network>,
    /// The address blocks of each node in these networks: what an endpoint's addresses are measured by.
    pub leases: BTreeMap<NodeId, Leases>,
    pub epochs: EpochsView,
    pub settings: Settings,
}

/// Address blocks of one node, by network.
pub type Leases = BTreeMap<Vni, Vec<IpNet>>;

/// What changed from one version to another; `None` in a map is what went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    pub from: Version,
    pub to: Version,
    pub time: Timestamp,
    pub trust: Option<TrustBundle>,
    pub peers: BTreeMap<NodeId, Option<Peer>>,
    pub networks: BTreeMap<Vni, Option<Network>>,
    /// All that a node has now; empty if it has none.
    pub leases: BTreeMap<NodeId, Leases>,
    pub epochs: Option<EpochsView>,
    pub settings: Option<Settings>,
}

/// The managers' answer to a node that pulls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Update {
    Whole(Box<View>),
    Delta(Box<Delta>),
}

impl Update {
    /// Whether it says anything of nodes, networks or leases. Else it is of epochs and settings: endpoints and peers stay.
    pub fn tells_of_members(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Delta(delta) => {
                !(delta.peers.is_empty() && delta.networks.is_empty() && delta.leases.is_empty())
            }
        }
    }
}

/// Why a node does not take an update.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// Of a state that was replaced by a restored one, or of a manager that lags.
    #[error(
        "a manager offers version {offered}, and this node has {known}: it lags, or its state is older than a restored one; ask another"
    )]
    Older { offered: Version, known: Version },
    /// A difference to another version.
    #[error(
        "the difference begins at version {from}, and this node has {known}: pull the whole view"
    )]
    Gap { from: Version, known: Version },
    /// Another cluster or node.
    #[error(
        "the view is of node {node} in cluster {cluster}: this is another, pull from its own managers"
    )]
    Foreign { cluster: ClusterId, node: NodeId },
    /// Roots of another cluster.
    #[error(
        "the roots in the view are of cluster {roots}, and this node is of {cluster}: ask another manager"
    )]
    ForeignRoots {
        roots: ClusterId,
        cluster: ClusterId,
    },
}

impl Cluster {
    pub fn version(&self) -> Version {
        Version {
            incarnation: self.epochs().current().incarnation,
            revision: self.revision(),
        }
    }

    /// What `node` is told, if it takes part; `have` is the version that it has.
    pub fn update(&self, node: &NodeId, have: Option<Version>) -> Result<Update, RosterRefusal> {
        let member = self.roster().present(node)?;
        let delta = have.and_then(|from| self.delta(node, member, from));
        Ok(match delta {
            Some(delta) => Update::Delta(Box::new(delta)),
            None => Update::Whole(Box::new(self.view(node, member))),
        })
    }

    fn view(&self, node: &NodeId, member: &Member) -> View {
        let networks: BTreeMap<_, _> = self
            .networks()
            .iter()
            .filter(|network| network.may_host(&member.labels).is_ok())
            .map(|network| (network.vni, network.clone()))
            .collect();
        let mut leases: BTreeMap<NodeId, Leases> = BTreeMap::new();
        for (vni, holder, block) in self.blocks().held() {
            if networks.contains_key(&vni) {
                let held = leases.entry(holder).or_default();
                held.entry(vni).or_default().push(block);
            }
        }
        View {
            cluster: self.id(),
            version: self.version(),
            time: self.time(),
            trust: self.trust().clone(),
            node: *node,
            labels: member.labels.clone(),
            peers: self
                .roster()
                .iter()
                .filter_map(|(id, member)| Some((*id, Peer::of(member)?)))
                .collect(),
            networks,
            leases,
            epochs: self.epochs_view(),
            settings: self.settings().clone(),
        }
    }

    /// The blocks of `holder` in networks that a node with these labels may host.
    fn leases(&self, holder: &NodeId, labels: &Labels) -> Leases {
        let mut leases = self.blocks().held_by(holder);
        leases.retain(|vni, _| {
            let network = self.networks().get(*vni);
            network.is_ok_and(|network| network.may_host(labels).is_ok())
        });
        leases
    }

    fn epochs_view(&self) -> EpochsView {
        let epochs = self.epochs();
        EpochsView {
            current: epochs.current(),
            phase: epochs.phase(),
            kept: epochs.names().collect(),
            rotated: epochs.rotated(),
            policy: *epochs.policy(),
        }
    }

    /// `None` if only the whole view will do: too long ago, another incarnation, or the node's own
    /// labels may have changed, and with them the networks that it sees.
    fn delta(&self, node: &NodeId, member: &Member, from: Version) -> Option<Delta> {
        let to = self.version();
        if from.incarnation != to.incarnation || from.revision > to.revision {
            return None;
        }
        let changes = self.changes().after(from.revision)?;
        let mut delta = Delta {
            from,
            to,
            time: self.time(),
            trust: None,
            peers: BTreeMap::new(),
            networks: BTreeMap::new(),
            leases: BTreeMap::new(),
            epochs: None,
            settings: None,
        };
        for change in changes {
            match change {
                Change::Member(id) if id == *node => return None,
                Change::Member(id) => {
                    let peer = self.roster().get(&id).and_then(Peer::of);
                    delta.peers.insert(id, peer);
                }
                Change::Network(vni) => {
                    let network = self.networks().get(vni).ok();
                    let seen = network.filter(|network| network.may_host(&member.labels).is_ok());
                    delta.networks.insert(vni, seen.cloned());
                }
                Change::Blocks(id) => {
                    let leases = self.leases(&id, &member.labels);
                    delta.leases.insert(id, leases);
                }
                Change::Epochs => delta.epochs = Some(self.epochs_view()),
                Change::Settings => delta.settings = Some(self.settings().clone()),
                Change::Trust => delta.trust = Some(self.trust().clone()),
            }
        }
        Some(delta)
    }
}

impl View {
    /// The blocks that this node gives addresses from.
    pub fn blocks(&self) -> Leases {
        self.leases.get(&self.node).cloned().unwrap_or_default()
    }

    /// Whether the log leased `address` of a network to `holder`.
    pub fn leased(&self, holder: &NodeId, network: Vni, address: IpAddr) -> bool {
        self.leases
            .get(holder)
            .and_then(|leases| leases.get(&network))
            .is_some_and(|blocks| blocks.iter().any(|block| block.contains(&address)))
    }

    /// Takes an update; refused, the view stays as it is.
    pub fn take(&mut self, update: Update) -> Result<(), UpdateError> {
        let known = self.version;
        self.check_roots(&update)?;
        match update {
            Update::Whole(view) if (view.cluster, view.node) != (self.cluster, self.node) => {
                Err(UpdateError::Foreign {
                    cluster: view.cluster,
                    node: view.node,
                })
            }
            Update::Whole(view) if view.version < known => Err(UpdateError::Older {
                offered: view.version,
                known,
            }),
            Update::Whole(view) => {
                *self = *view;
                Ok(())
            }
            Update::Delta(delta) if delta.from != known => Err(UpdateError::Gap {
                from: delta.from,
                known,
            }),
            Update::Delta(delta) if delta.to < known => Err(UpdateError::Older {
                offered: delta.to,
                known,
            }),
            Update::Delta(delta) => {
                self.take_delta(*delta);
                Ok(())
            }
        }
    }

    fn check_roots(&self, update: &Update) -> Result<(), UpdateError> {
        let trust = match update {
            Update::Whole(view) if view.cluster == self.cluster => Some(&view.trust),
            Update::Whole(_) => None,
            Update::Delta(delta) => delta.trust.as_ref(),
        };
        match trust.map(TrustBundle::cluster) {
            Some(roots) if roots != self.cluster => Err(UpdateError::ForeignRoots {
                roots,
                cluster: self.cluster,
            }),
            Some(_) | None => Ok(()),
        }
    }

    fn take_delta(&mut self, delta: Delta) {
        let Delta {
            from: _,
            to,
            time,
            trust,
            peers,
            networks,
            leases,
            epochs,
            settings,
        } = delta;
        self.version = to;
        self.time = time;
        if let Some(trust) = trust {
            self.trust = trust;
        }
        replace(&mut self.peers, peers);
        replace(&mut self.networks, networks);
        let leases = leases
            .into_iter()
            .map(|(node, leases)| (node, (!leases.is_empty()).then_some(leases)));
        replace(&mut self.leases, leases.collect());
        if let Some(epochs) = epochs {
            self.epochs = epochs;
        }
        if let Some(settings) = settings {
            self.settings = settings;
        }
    }
}

fn replace<K: Ord, V>(map: &mut BTreeMap<K, V>, changes: BTreeMap<K, Option<V>>) {
    for (key, value) in changes {
        match value {
            Some(value) => {
                map.insert(key, value);
            }
            None => {
                map.remove(&key);
            }
        }
    }
}

impl Update {
    /// The version that [`Self::encode`] writes.
    pub const VERSION: u8 = 1;
    /// Bytes of an encoded update at the most. A cluster at all its bounds has about 50 MiB.
    pub const MAX_LEN: usize = 64 * 1024 * 1024;

    /// [`Self::VERSION`] and postcard.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(Self::VERSION, self).to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        wire::decode("view", Self::VERSION, Self::MAX_LEN, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{
        addresses::Family,
        command::Command,
        samples::{apply, epoch, founded, join, labels, network, node, tokens},
        state::State,
    };

    fn update(state: &State, n: u8, have: Option<Version>) -> Update {
        let cluster = state.cluster().expect("a cluster");
        cluster.update(&node(n), have).expect("an update")
    }

    fn whole(state: &State, n: u8) -> View {
        match update(state, n, None) {
            Update::Whole(view) => *view,
            Update::Delta(delta) => panic!("{delta:?}"),
        }
    }

    #[test]
    fn a_node_sees_peers_its_networks_and_whose_addresses_there_are() {
        let mut state = founded();
        join(&mut state, 2);
        join(&mut state, 3);
        let mut request = network("a", "10.0.1.0/24");
        request.rules = vec!["node.zone==a".parse().expect("a rule")];
        apply(&mut state, 0, Command::CreateNetwork(request));
        apply(
            &mut state,
            0,
            Command::CreateNetwork(network("b", "10.0.2.0/24")),
        );
        let labels = labels(&[("zone", "a")]);
        let command = Command::SetLabels {
            node: node(2),
            labels,
        };
        apply(&mut state, 0, command);
        let vni = whole(&state, 2)
            .networks
            .into_keys()
            .next()
            .expect("a network");
        let command = Command::LeaseBlock {
            network: vni,
            node: node(2),
            family: Family::V4,
            known: 0,
        };
        apply(&mut state, 0, command);
        let (second, third) = (whole(&state, 2), whole(&state, 3));
        assert_eq!((second.peers.len(), third.peers.len()), (3, 3));
        assert_eq!((second.networks.len(), third.networks.len()), (2, 1));
        assert_eq!((second.blocks().len(), third.blocks().len()), (1, 0));
        assert!(third.leases.is_empty(), "of a network that it may not host");
        let block = second.blocks()[&vni][0];
        assert!(second.leased(&node(2), vni, block.addr()));
        assert!(!second.leased(&node(3), vni, block.addr()));
        assert!(!third.leased(&node(2), vni, block.addr()));
        let stranger = state.cluster().expect("a cluster").update(&node(9), None);
        assert!(stranger.is_err());
    }

    #[test]
    fn a_difference_is_small_and_leads_to_the_whole() {
        let mut state = founded();
        join(&mut state, 2);
        let mut view = whole(&state, 2);
        join(&mut state, 3);
        apply(
            &mut state,
            0,
            Command::CreateNetwork(network("a", "10.0.1.0/24")),
        );
        let update = update(&state, 2, Some(view.version));
        match &update {
            Update::Delta(delta) => {
                assert_eq!((delta.peers.len(), delta.networks.len()), (1, 1));
                assert_eq!((&delta.epochs, &delta.settings), (&None, &None));
            }
            Update::Whole(view) => panic!("{view:?}"),
        }
        let update = Update::decode(&update.encode()).expect("decodes");
        view.take(update.clone()).expect("fits");
        assert_eq!(view, whole(&state, 2));
        assert!(matches!(view.take(update), Err(UpdateError::Gap { .. })));
    }

    #[test]
    fn a_restored_state_is_newer_and_shown_whole() {
        let mut state = founded();
        join(&mut state, 2);
        let backup = state.clone();
        apply(
            &mut state,
            0,
            Command::CreateNetwork(network("a", "10.0.1.0/24")),
        );
        let mut view = whole(&state, 2);
        let mut restored = backup.clone();
        let command = Command::Restore {
            next: epoch(1, 2),
            tokens: tokens(7),
        };
        apply(&mut restored, 0, command);
        let update = update(&restored, 2, Some(view.version));
        assert!(matches!(update, Update::Whole(_)));
        view.take(update).expect("newer");
        let older = Update::Whole(Box::new(whole(&backup, 2)));
        assert!(matches!(view.take(older), Err(UpdateError::Older { .. })));
    }
}
