//! One node of a cluster, without I/O: its view of the managers' log, its gossip, its rotation and
//! its endpoints in; actions out.
//!
//! The caller hands in what arrives, with the time, and does what comes back. After each input it takes
//! the actions; at [`Member::deadline`] it calls [`Member::advance`].

pub mod attach;
mod sas;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use ed25519_dalek::{SigningKey, VerifyingKey};
use overlay_cluster::{
    gossip::{
        self,
        anti_entropy::SyncError,
        engine::{Gossip, PublishError, Sync},
        envelope::BootNonce,
        record::{Body, Endpoint, Key, Node},
    },
    id::{EpochName, Generation, NodeId},
    keys::EpochSecrets,
    log::view::{Update, UpdateError, View},
    rotation::{
        self, Acknowledgement, AdoptedSa, Alarm, Digest, Rotation, RotationError, SlotKey,
        Transmit, Usage,
    },
    secret::Secret,
    time::Instant,
};
use overlay_ebpf::abi::PeerIndex;
use rand::CryptoRng;

use crate::{
    dataplane::desired::{self, DataPlane, LocalEndpoint},
    plan::{
        self, HostSettings, Reached,
        claims::{self, Believed, Doubt},
        epochs,
    },
};

use self::attach::Endpoints;
pub use self::sas::{Held, Sas};

/// From the first word of others' endpoints to a look at all of them.
const GATHER: Duration = Duration::from_millis(20);
/// And so much longer for each that is known.
const GATHER_EACH: Duration = Duration::from_micros(2);

/// How long at most an agent goes by what the one before it believed.
const REMEMBER: Duration = Duration::from_secs(60);

/// What the caller is to do.
#[derive(Debug)]
pub enum Action {
    /// Send a datagram.
    Send { to: SocketAddr, bytes: Vec<u8> },
    /// Run anti-entropy with this member: [`Member::start_sync`].
    Sync { peer: NodeId, address: SocketAddr },
    /// Ask a manager what has changed, and hand it to [`Member::update`].
    PullView,
    /// Ask a manager for the secrets of an epoch until it gives them, and hand them to
    /// [`Member::secrets`].
    PullSecrets(EpochName),
    /// Tell a peer; it may be lost.
    Acknowledge {
        peer: NodeId,
        address: SocketAddr,
        message: Acknowledgement,
    },
    /// Tell a manager.
    Report(Digest),
    /// Make the kernel equal to it, and say to [`Member::applied`] what it holds then. A later one
    /// replaces it.
    Apply {
        attempt: u64,
        data_plane: Box<DataPlane>,
    },
    /// Keep this count of starts in the place of this node's own.
    KeepGeneration(Generation),
    /// Show it to the operator.
    Alarm(Alarm),
    /// The same: what another node tells is not believed.
    Doubt(Doubt),
}

/// Who this node is.
pub struct Settings {
    pub key: SigningKey,
    /// Larger with every start.
    pub generation: Generation,
    /// Fresh random bytes with every start.
    pub boot: BootNonce,
    /// Of every random choice of gossip.
    pub seed: [u8; 32],
    /// The newest epoch that an earlier agent has seen.
    pub newest: Option<EpochName>,
    pub host: HostSettings,
    pub rotation: rotation::Settings,
}

type Roster = Arc<BTreeMap<NodeId, VerifyingKey>>;

/// One node.
pub struct Member {
    view: View,
    host: HostSettings,
    gossip: Gossip<Roster>,
    rotation: Rotation,
    /// Secrets of gossip that are held, of the epochs in the view.
    secrets: BTreeMap<EpochName, Secret>,
    endpoints: Endpoints,
    believed: Believed,
    reached: Reached,
    /// What the agent before believed, and until when.
    remembered: Option<(Vec<(NodeId, Endpoint)>, Instant)>,
    /// Gossip has caught up with a peer.
    informed: bool,
    doubted: Vec<Doubt>,
    sas: Sas,
    /// Peers that the rotation knows, so that what gossip has of a new one is given to it.
    paired: BTreeSet<PeerIndex>,
    /// As it was when it was a member last.
    own: desired::Node,
    /// Counts the views that the rotation was given.
    revision: u64,
    /// Records of endpoints have changed.
    claims_changed: bool,
    /// If others' alone, they are looked at then: they come in bursts.
    claims_due: Option<Instant>,
    /// With whom this node shares a network may have changed.
    reach_changed: bool,
    /// What the rotation is told may have changed: that, or epochs.
    pairs_changed: bool,
    /// The data plane may have changed.
    plan_changed: bool,
    actions: Vec<Action>,
}

/// A node that is not in its own view.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// The managers do not have this node.
    #[error("node {0} is not in the roster: it left or was removed; join again")]
    NotAMember(NodeId),
}

/// An endpoint that is not attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Endpoint(#[from] attach::AttachError),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// An endpoint that is not detached, or of which the others do not hear.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DetachError {
    #[error(transparent)]
    Endpoint(#[from] attach::NoEndpoint),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl Member {
    /// A node with the view that it pulled or kept.
    pub fn new(settings: Settings, view: View, now: Instant) -> Result<Self, MemberError> {
        let own = view
            .peers
            .get(&view.node)
            .ok_or(MemberError::NotAMember(view.node))?;
        let Settings {
            key,
            generation,
            boot,
            seed,
            newest,
            host,
            rotation,
        } = settings;
        let identity = rotation::Identity {
            cluster: view.cluster,
            node: view.node,
            index: own.index,
            generation,
        };
        let managers = view
            .peers
            .iter()
            .filter(|(_, peer)| peer.role == overlay_cluster::identity::Role::Manager)
            .map(|(id, _)| *id)
            .collect();
        let gossip = gossip::engine::Settings {
            cluster: view.cluster,
            key,
            generation,
            boot,
            seed,
            managers,
        };
        let mut rotation = Rotation::new(rotation, identity, now);
        if let Some(newest) = newest {
            rotation.remember(newest);
        }
        let mut endpoints = Endpoints::default();
        endpoints.follow(&view);
        Ok(Self {
            own: plan::node(own),
            host,
            gossip: Gossip::new(now, gossip, roster(&view)),
            rotation,
            view,
            secrets: BTreeMap::new(),
            endpoints,
            believed: Believed::default(),
            reached: Reached::default(),
            remembered: None,
            informed: false,
            doubted: Vec::new(),
            sas: Sas::default(),
            paired: BTreeSet::new(),
            revision: 0,
            claims_changed: true,
            claims_due: None,
            reach_changed: false,
            pairs_changed: false,
            plan_changed: true,
            actions: Vec::new(),
        })
    }

    /// Takes over the SAs that an earlier agent left in the kernel. Before anything else.
    pub fn adopt(&mut self, peer: PeerIndex, sas: &[AdoptedSa], transmit: Option<Transmit>) {
        self.rotation.adopt(peer, sas, transmit);
    }

    /// Takes over the endpoints that an earlier agent attached. Before [`Self::announce`].
    pub fn adopt_endpoints(
        &mut self,
        endpoints: Vec<LocalEndpoint>,
        now: Instant,
    ) -> Result<(), PublishError> {
        self.endpoints.adopt(&self.view, endpoints);
        for endpoint in self.endpoints.to_vec() {
            self.publish_endpoint(&endpoint, now)?;
        }
        self.judge_at_once();
        Ok(())
    }

    /// Endpoints of other nodes that the agent before believed. They count as told until gossip knows
    /// of their owners, so that a start of the agent takes nothing out of the kernel. Before
    /// [`Self::announce`].
    pub fn remember(&mut self, endpoints: Vec<(NodeId, Endpoint)>, now: Instant) {
        self.remembered = Some((endpoints, now + REMEMBER));
    }

    /// Attaches an endpoint and tells the others. If it says so, the node needs a lease: the caller
    /// proposes the command, pulls the view, and tries again.
    pub fn attach(
        &mut self,
        request: attach::Request,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) -> Result<LocalEndpoint, AttachError> {
        let network = request.network.clone();
        let endpoint = self.endpoints.attach(&self.view, request, now)?.clone();
        if let Err(error) = self.publish_endpoint(&endpoint, now) {
            // It was there a moment ago.
            let _taken_back = self
                .endpoints
                .detach(&self.view, &network, &endpoint.name, now);
            return Err(error.into());
        }
        self.own_changed(&endpoint);
        self.settle(now, rng);
        Ok(endpoint)
    }

    /// Takes an endpoint out everywhere.
    pub fn detach(
        &mut self,
        network: &str,
        name: &str,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) -> Result<LocalEndpoint, DetachError> {
        let endpoint = self.endpoints.detach(&self.view, network, name, now)?;
        let key = Key::Endpoint {
            vni: endpoint.vni,
            mac: endpoint.mac,
        };
        let withdrawn = self.gossip.withdraw(now, key);
        self.own_changed(&endpoint);
        let actions = withdrawn?;
        self.gossiped(actions, now);
        self.settle(now, rng);
        Ok(endpoint)
    }

    fn publish_endpoint(
        &mut self,
        endpoint: &LocalEndpoint,
        now: Instant,
    ) -> Result<(), PublishError> {
        let body = Body::Endpoint(Endpoint {
            vni: endpoint.vni,
            mac: endpoint.mac,
            ips: endpoint.addresses.iter().map(|(ip, _)| *ip).collect(),
            name: endpoint.name.as_str().into(),
        });
        let actions = self.gossip.publish(now, body)?;
        self.gossiped(actions, now);
        Ok(())
    }

    /// Publishes the node itself. Everything that this start publishes is published then.
    pub fn announce(&mut self, now: Instant, rng: &mut impl CryptoRng) -> Result<(), PublishError> {
        self.publish_node(now)?;
        self.gossip.complete(now);
        self.follow(now, rng);
        Ok(())
    }

    fn publish_node(&mut self, now: Instant) -> Result<(), PublishError> {
        let Some(own) = self.view.peers.get(&self.view.node) else {
            return Ok(());
        };
        let body = Body::Node(Node {
            vteps: own.contact.vteps.iter().collect(),
            control: own.contact.control,
            software: own.contact.software.to_string(),
            // Gossip fills it in.
            boot: BootNonce::from_bytes([0; 16]),
        });
        let actions = self.gossip.publish(now, body)?;
        self.gossiped(actions, now);
        Ok(())
    }

    /// What a manager says has changed.
    pub fn update(
        &mut self,
        update: Update,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) -> Result<(), UpdateError> {
        let tells_of_members = update.tells_of_members();
        self.view.take(update)?;
        if tells_of_members {
            self.follow_members(now);
        }
        self.follow_epochs();
        self.pairs_changed = true;
        self.settle(now, rng);
        Ok(())
    }

    /// The managers say that this node takes part no longer: nothing stays open.
    pub fn removed(&mut self, now: Instant, rng: &mut impl CryptoRng) {
        if self.view.peers.remove(&self.view.node).is_some() {
            self.follow(now, rng);
        }
    }

    /// Secrets that a manager gave.
    pub fn secrets(
        &mut self,
        name: EpochName,
        secrets: EpochSecrets,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) -> Result<(), RotationError> {
        let gossip = secrets.gossip.clone();
        self.rotation.secrets(name, secrets, now, rng)?;
        if self.view.epochs.kept.contains(&name) {
            self.secrets.insert(name, gossip);
        }
        self.follow_epochs();
        self.settle(now, rng);
        Ok(())
    }

    /// A datagram from the network.
    pub fn datagram(
        &mut self,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
        rng: &mut impl CryptoRng,
    ) {
        let actions = self.gossip.handle_datagram(now, from, bytes);
        self.gossiped(actions, now);
        self.settle(now, rng);
    }

    /// What a peer said over its own connection.
    pub fn acknowledged(
        &mut self,
        peer: NodeId,
        message: &Acknowledgement,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) -> Result<(), RotationError> {
        self.rotation.acknowledgement(peer, message, now)?;
        self.settle(now, rng);
        Ok(())
    }

    /// What the kernel holds after an attempt.
    pub fn applied(
        &mut self,
        attempt: u64,
        held: &BTreeSet<Held>,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) {
        for (peer, slot, event) in self.sas.found(attempt, held) {
            self.rotation.kernel(peer, slot, event, now);
        }
        self.settle(now, rng);
    }

    /// What the SAs of a slot have carried, by the kernel.
    pub fn usage(&mut self, peer: PeerIndex, slot: SlotKey, usage: Usage) {
        self.rotation.usage(peer, slot, usage);
    }

    /// Other settings of this host.
    pub fn set_host(&mut self, host: HostSettings, now: Instant, rng: &mut impl CryptoRng) {
        self.host = host;
        self.plan_changed = true;
        self.settle(now, rng);
    }

    /// Says to others that this agent stops. What is in the kernel stays.
    pub fn leave(&mut self, now: Instant) {
        let actions = self.gossip.leave(now);
        self.gossiped(actions, now);
    }

    /// Time has passed.
    pub fn advance(&mut self, now: Instant, rng: &mut impl CryptoRng) {
        if self.gossip.next_timeout() <= now {
            let actions = self.gossip.handle_timeout(now);
            self.gossiped(actions, now);
        }
        self.rotation.advance(now);
        if self
            .remembered
            .as_ref()
            .is_some_and(|(_, until)| *until <= now)
        {
            self.remembered = None;
            self.judge_at_once();
        }
        self.settle(now, rng);
    }

    /// When [`Self::advance`] is due, if nothing happens before.
    pub fn deadline(&self) -> Instant {
        let gossip = self.gossip.next_timeout();
        let remembered = self.remembered.as_ref().map(|(_, until)| *until);
        [self.rotation.deadline(), self.claims_due, remembered]
            .into_iter()
            .flatten()
            .fold(gossip, Instant::min)
    }

    /// Begins anti-entropy with a member: the first message, and what is to be handed to
    /// [`Self::continue_sync`] with the answer.
    pub fn start_sync(&mut self, peer: NodeId) -> (Sync, Vec<u8>) {
        self.gossip.start_sync(peer)
    }

    /// The next message, or `None` when the exchange has ended well.
    pub fn continue_sync(
        &mut self,
        sync: &mut Sync,
        answer: &[u8],
        now: Instant,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Vec<u8>>, SyncError> {
        let (next, actions) = self.gossip.continue_sync(now, sync, answer)?;
        self.gossiped(actions, now);
        self.settle(now, rng);
        Ok(next)
    }

    /// Answers a member's message of anti-entropy.
    pub fn answer_sync(
        &mut self,
        peer: NodeId,
        message: &[u8],
        now: Instant,
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<u8>, SyncError> {
        let (answer, actions) = self.gossip.answer_sync(now, peer, message)?;
        self.gossiped(actions, now);
        self.settle(now, rng);
        Ok(answer)
    }

    /// Ends an exchange; `None` after one that failed.
    pub fn end_sync(
        &mut self,
        peer: NodeId,
        sync: Option<Sync>,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) {
        if sync.is_some() && !self.informed {
            self.informed = true;
            if self.remembered.is_some() {
                self.judge_soon(now);
            }
        }
        let actions = self.gossip.end_sync(now, peer, sync);
        self.gossiped(actions, now);
        self.settle(now, rng);
    }

    /// What is to be done, in this order.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    pub const fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    pub const fn view(&self) -> &View {
        &self.view
    }

    pub const fn rotation(&self) -> &Rotation {
        &self.rotation
    }

    pub const fn gossip(&self) -> &Gossip<Roster> {
        &self.gossip
    }

    /// The endpoints of other nodes that are believed.
    pub const fn believed(&self) -> &Believed {
        &self.believed
    }

    /// What other nodes tell and is not believed.
    pub fn doubts(&self) -> &[Doubt] {
        &self.doubted
    }

    /// Everything that depends on the view.
    fn follow(&mut self, now: Instant, rng: &mut impl CryptoRng) {
        self.follow_members(now);
        self.follow_epochs();
        self.settle(now, rng);
    }

    /// What depends on the view's nodes, networks and leases.
    fn follow_members(&mut self, now: Instant) {
        let actions = self.gossip.set_roster(now, roster(&self.view));
        self.gossiped(actions, now);
        self.endpoints.follow(&self.view);
        if let Some(own) = self.view.peers.get(&self.view.node) {
            self.own = plan::node(own);
        }
        // A node that was removed is in no roster, and nobody takes its records.
        let _unpublished = self.publish_node(now);
        self.judge_at_once();
    }

    /// An endpoint of this node came or went. What others tell is judged again only where they claim its MAC:
    /// that takes the longer the more they tell.
    fn own_changed(&mut self, endpoint: &LocalEndpoint) {
        let of = (endpoint.vni, endpoint.mac);
        let believed = |(_, endpoint): (_, &Endpoint)| (endpoint.vni, endpoint.mac) == of;
        let doubted = |doubt: &Doubt| (doubt.vni, doubt.mac) == of;
        if self.believed.endpoints().any(believed) || self.doubted.iter().any(doubted) {
            self.judge_at_once();
        }
        self.reach_changed = true;
    }

    fn judge_at_once(&mut self) {
        self.claims_changed = true;
        self.claims_due = None;
    }

    /// Looking at what others tell takes the longer the more it is.
    fn judge_soon(&mut self, now: Instant) {
        if !self.claims_changed {
            self.claims_changed = true;
            let known = u32::try_from(self.believed.len()).unwrap_or(u32::MAX);
            self.claims_due = Some(now + GATHER + GATHER_EACH * known);
        }
    }

    /// Makes gossip use the secrets of the view's epochs.
    fn follow_epochs(&mut self) {
        let kept: BTreeSet<_> = self.view.epochs.kept.iter().copied().collect();
        let ended: Vec<_> = self
            .secrets
            .keys()
            .filter(|name| !kept.contains(name))
            .copied()
            .collect();
        for name in ended {
            self.secrets.remove(&name);
            self.gossip.retire_epoch(name);
        }
        for (name, secret) in &self.secrets {
            if *name == self.view.epochs.current {
                self.gossip.activate_epoch(*name, secret);
            } else {
                self.gossip.accept_epoch(*name, secret);
            }
        }
    }

    fn gossiped(&mut self, actions: Vec<gossip::engine::Action>, now: Instant) {
        use gossip::engine::Action as Gossiped;
        for action in actions {
            match action {
                Gossiped::Send { to, bytes } => self.actions.push(Action::Send { to, bytes }),
                Gossiped::RecordChanged { owner, key } => self.record_changed(owner, key, now),
                // For people: they ask gossip.
                Gossiped::MemberHint { .. } => {}
                Gossiped::EpochHint { .. } => self.actions.push(Action::PullView),
                Gossiped::RequestSync { peer } => {
                    if let Some(address) = self.address(&peer) {
                        self.actions.push(Action::Sync { peer, address });
                    }
                }
                Gossiped::GenerationRaised { generation } => {
                    self.actions.push(Action::KeepGeneration(generation));
                }
            }
        }
    }

    fn record_changed(&mut self, owner: NodeId, key: Key, now: Instant) {
        match key {
            // What becomes of this node's own is known where it does.
            Key::Endpoint { .. } if owner == self.view.node => {}
            Key::Endpoint { .. } => self.judge_soon(now),
            Key::Ephemeral { .. } => {
                if let Some(Body::Ephemeral(record)) = self.gossip.store().get(owner, &key) {
                    // Of a node that shares no network with this one: given again if it comes to.
                    let _unpaired = self.rotation.record(owner, &record, now);
                }
            }
            Key::Node | Key::Floor => {}
        }
    }

    fn address(&self, node: &NodeId) -> Option<SocketAddr> {
        Some(self.view.peers.get(node)?.contact.control)
    }

    /// Follows what has changed until nothing more does.
    fn settle(&mut self, now: Instant, rng: &mut impl CryptoRng) {
        if self.claims_changed && self.claims_due.is_none_or(|due| due <= now) {
            self.claims_changed = false;
            self.claims_due = None;
            self.judge();
            self.reach_changed = true;
        }
        if std::mem::take(&mut self.reach_changed) {
            self.reached = Reached::of(&self.view, &self.endpoints.to_vec(), &self.believed);
            self.pairs_changed = true;
        }
        if std::mem::take(&mut self.pairs_changed) {
            self.pair(now, rng);
            self.plan_changed = true;
        }
        self.rotate(now);
        if std::mem::take(&mut self.plan_changed) {
            let data_plane = plan::data_plane(
                &self.view,
                &self.host,
                &self.endpoints.to_vec(),
                &self.reached,
                self.sas.wanted(),
            );
            // Who was removed has said so by an alarm, and has an empty plan.
            let data_plane = data_plane.unwrap_or_else(|_removed| self.closed());
            self.actions
                .retain(|action| !matches!(action, Action::Apply { .. }));
            self.actions.push(Action::Apply {
                attempt: self.sas.begin(),
                data_plane: Box::new(data_plane),
            });
        }
    }
    /// Which endpoints of others are believed. What is doubted is told once.
    fn judge(&mut self) {
        let own = self.endpoints.iter().map(|of| (of.vni, of.mac)).collect();
        let me = self.view.node;
        let store = self.gossip.store();
        let remembered = self.remembered.iter().flat_map(|(endpoints, _)| endpoints);
        let remembered = remembered.filter(|(owner, endpoint)| {
            let (vni, mac) = (endpoint.vni, endpoint.mac);
            let known = self.informed && store.get(*owner, &Key::Node).is_some();
            !known && store.get(*owner, &Key::Endpoint { vni, mac }).is_none()
        });
        let told = store
            .bodies()
            .filter_map(|(owner, body)| match body {
                Body::Endpoint(endpoint) if owner != me => Some((owner, endpoint)),
                _ => None,
            })
            .chain(remembered.cloned());
        let (believed, doubts) = claims::judge(&self.view, &self.believed, &own, told);
        let news = doubts.iter().filter(|doubt| !self.doubted.contains(doubt));
        self.actions.extend(news.cloned().map(Action::Doubt));
        self.believed = believed;
        self.doubted = doubts;
    }

    /// Tells the rotation who shares an encrypted network with this node.
    fn pair(&mut self, now: Instant, rng: &mut impl CryptoRng) {
        self.revision += 1;
        let view = epochs::log_view(&self.view, self.revision, &self.reached);
        self.rotation.log(&view, now, rng);
        self.withdraw_keys(now);
        let paired: BTreeSet<_> = view.peers.keys().copied().collect();
        for (index, member) in &view.peers {
            if self.paired.contains(index) {
                continue;
            }
            for signed in self.gossip.store().of(member.node) {
                if let Some(Body::Ephemeral(record)) = signed.record().content.body() {
                    let _known = self.rotation.record(member.node, record, now);
                }
            }
        }
        self.paired = paired;
    }

    /// Does what the rotation asks for.
    fn rotate(&mut self, now: Instant) {
        while let Some(action) = self.rotation.next_action() {
            match action {
                rotation::Action::Alarm(alarm) => self.actions.push(Action::Alarm(alarm)),
                rotation::Action::Pull(name) => self.actions.push(Action::PullSecrets(name)),
                rotation::Action::Publish(record) => {
                    // A node that was removed is in no roster, and nobody takes its records.
                    if let Ok(actions) = self.gossip.publish(now, Body::Ephemeral(record)) {
                        self.gossiped(actions, now);
                    }
                }
                rotation::Action::Apply { peer, sas } => {
                    self.sas.want(peer, sas);
                    self.plan_changed = true;
                }
                rotation::Action::Send { peer, message } => {
                    if let Some((peer, address)) = self.peer(peer) {
                        self.actions.push(Action::Acknowledge {
                            peer,
                            address,
                            message,
                        });
                    }
                }
                rotation::Action::Digest(digest) => self.actions.push(Action::Report(digest)),
            }
        }
    }

    /// Ephemeral keys of epochs that have ended.
    fn withdraw_keys(&mut self, now: Instant) {
        let live: BTreeSet<_> = self.rotation.records().map(|record| record.epoch).collect();
        let ended: Vec<_> = self
            .gossip
            .store()
            .of(self.view.node)
            .filter_map(|signed| match signed.record().content.body() {
                Some(Body::Ephemeral(record)) if !live.contains(&record.epoch) => {
                    Some(record.epoch)
                }
                _ => None,
            })
            .collect();
        for epoch in ended {
            if let Ok(actions) = self.gossip.withdraw(now, Key::Ephemeral { epoch }) {
                self.gossiped(actions, now);
            }
        }
    }

    fn peer(&self, index: PeerIndex) -> Option<(NodeId, SocketAddr)> {
        let (id, peer) = self
            .view
            .peers
            .iter()
            .find(|(_, peer)| peer.index == index)?;
        Some((*id, peer.contact.control))
    }

    /// Nothing is open on a node that does not take part.
    fn closed(&self) -> DataPlane {
        DataPlane {
            node: self.own.clone(),
            settings: plan::settings(&self.view.settings, &self.host),
            networks: BTreeMap::new(),
            peers: BTreeMap::new(),
            local_endpoints: Vec::new(),
            remote_endpoints: Default::default(),
        }
    }
}

fn roster(view: &View) -> Roster {
    let members = view.peers.iter();
    Arc::new(
        members
            .map(|(id, peer)| (*id, *peer.key.verifying_key()))
            .collect(),
    )
}

#[cfg(test)]
mod tests;
