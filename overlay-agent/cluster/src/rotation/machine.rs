//! The machine of one node: inputs in, [`Action`]s out.

use std::collections::{BTreeMap, BTreeSet};

use overlay_ebpf::abi::{Epoch, PeerIndex};
use rand::CryptoRng;

use crate::{
    id::{ClusterId, EpochName, Generation, NodeId},
    keys::{Ephemeral, EphemeralRecord, EpochSecrets, WrongSecrets},
    time::Instant,
};

use super::{
    acknowledgement::Acknowledgement,
    alarm::Alarm,
    alarms::Alarms,
    digest::{Digest, Lag},
    epochs::{Epochs, LiveEpoch, Material},
    log_view::{LogView, Role},
    peer::{Context, Peer},
    sa::{AdoptedSa, Direction, KernelEvent, PeerSas, SlotKey, Transmit},
    settings::Settings,
};

/// Who this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub index: PeerIndex,
    /// This start of the agent: larger than every one before.
    pub generation: Generation,
}

/// What the agent is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Show it to the operator.
    Alarm(Alarm),
    /// Ask a manager for the secrets of an epoch, until it gives them, and hand them to
    /// [`Rotation::secrets`].
    Pull(EpochName),
    /// Sign it and spread it by gossip.
    Publish(EphemeralRecord),
    /// Make the kernel's SAs of this peer these, and tell [`Rotation::kernel`] of each slot. Keys are
    /// in one such action only: the executor keeps a key until it is installed or refused, and then
    /// forgets it.
    Apply { peer: PeerIndex, sas: PeerSas },
    /// Sign it and send it to this peer; it may be lost.
    Send {
        peer: PeerIndex,
        message: Acknowledgement,
    },
    /// Tell the managers.
    Digest(Digest),
}

/// The node does not accept what was offered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    /// Not the secrets that the log names.
    #[error(transparent)]
    WrongSecrets(#[from] WrongSecrets),
    /// A message from a node that the log does not pair with this one.
    #[error("node {0} shares no encrypted network with this one, or was removed")]
    UnknownPeer(NodeId),
    /// The message's body names other nodes than its envelope, or another cluster.
    #[error(
        "a message signed by {signer} speaks for another node or cluster: {signer} is hostile or broken"
    )]
    Misdirected { signer: NodeId },
}

/// Usage of one SA, from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Packets sent or the highest sequence number seen.
    pub sequence: u64,
    pub bytes: u64,
}

/// The rotation of one node.
#[derive(Debug)]
pub struct Rotation {
    settings: Settings,
    identity: Identity,
    epochs: Epochs,
    revision: Option<u64>,
    /// The newest epoch ever seen.
    newest: Option<EpochName>,
    /// Not a member any more, or not entitled to its generation: closed until the agent starts anew.
    ended: bool,
    nodes: BTreeMap<NodeId, PeerIndex>,
    peers: BTreeMap<PeerIndex, Peer>,
    counter: u64,
    alarms: Alarms,
    pull: BTreeSet<EpochName>,
    publish: BTreeSet<EpochName>,
    /// Peers with something to apply or to say.
    touched: BTreeSet<PeerIndex>,
    deadlines: BTreeSet<(Instant, PeerIndex)>,
    exhausted: Option<Epoch>,
    digest: DigestClock,
    now: Instant,
}

#[derive(Debug, Default)]
struct DigestClock {
    sequence: u64,
    last: Option<Instant>,
    said: Option<Digest>,
    news: bool,
}

impl Rotation {
    pub fn new(settings: Settings, identity: Identity, now: Instant) -> Self {
        Self {
            settings,
            identity,
            epochs: Epochs::default(),
            revision: None,
            newest: None,
            ended: false,
            nodes: BTreeMap::new(),
            peers: BTreeMap::new(),
            counter: 0,
            alarms: Alarms::default(),
            pull: BTreeSet::new(),
            publish: BTreeSet::new(),
            touched: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            exhausted: None,
            digest: DigestClock::default(),
            now,
        }
    }

    /// The newest epoch that an earlier agent has seen: managers that offer epochs of an older
    /// incarnation are refused.
    pub fn remember(&mut self, newest: EpochName) {
        self.newest = self.newest.max(Some(newest));
    }

    /// Takes over the SAs of one peer that an earlier agent installed, and the slot that the peer's
    /// map entry names. To be called before the first view of the log.
    pub fn adopt(&mut self, peer: PeerIndex, sas: &[AdoptedSa], transmit: Option<Transmit>) {
        let ours = self.identity.generation;
        let of_us = |sa: &AdoptedSa| match sa.direction {
            Direction::In => sa.receiver_generation,
            Direction::Out => sa.sender_generation,
        };
        if let Some(known) = sas.iter().map(of_us).max().filter(|known| *known >= ours) {
            self.alarms.raise(Alarm::GenerationBehind { ours, known });
            self.ended = true;
        }
        self.with_peer(peer, 0, |peer, ctx| peer.adopt(sas, transmit, ctx));
    }

    /// What the log says now. Older views than the last are ignored.
    pub fn log(&mut self, view: &LogView, now: Instant, rng: &mut impl CryptoRng) {
        self.now = self.now.max(now);
        if self.ended || self.revision.is_some_and(|known| view.revision <= known) {
            return;
        }
        self.revision = Some(view.revision);
        if !view.member {
            self.end();
            return;
        }
        let epochs_changed = self.follow_epochs(view);
        self.follow_roster(view, rng);
        self.digest.news = true;
        if epochs_changed {
            let all: Vec<_> = self.peers.keys().copied().collect();
            for peer in all {
                self.with_peer(peer, 0, |peer, _| peer.epochs_changed());
            }
        }
    }

    /// Removed from the cluster: every secret and every SA goes.
    fn end(&mut self) {
        self.ended = true;
        self.alarms.raise(Alarm::Evicted);
        self.epochs.live.clear();
        self.nodes.clear();
        self.pull.clear();
        self.publish.clear();
        let all: Vec<_> = self.peers.keys().copied().collect();
        for peer in all {
            self.with_peer(peer, 0, |peer, ctx| peer.leave(ctx));
        }
    }

    fn follow_epochs(&mut self, view: &LogView) -> bool {
        if view.epochs.len() > LogView::EPOCHS {
            self.alarms.raise(Alarm::TooManyEpochs(view.epochs.len()));
            return false;
        }
        let newest = view.epochs.keys().next_back().copied();
        if let (Some(offered), Some(seen)) = (newest, self.newest)
            && offered.incarnation < seen.incarnation
        {
            let seen = seen.incarnation;
            self.alarms.raise(Alarm::OldIncarnation { offered, seen });
            return false;
        }
        self.newest = self.newest.max(newest);
        for name in view.epochs.keys() {
            let twin = self.epochs.live.keys().find(|live| {
                (live.incarnation, live.number) == (name.incarnation, name.number) && *live != name
            });
            if let Some(kept) = twin.copied() {
                self.alarms.raise(Alarm::TwoSecrets {
                    kept,
                    refused: *name,
                });
                return false;
            }
        }
        let before: Vec<_> = self.roles().collect();
        self.epochs.known = true;
        self.epochs
            .live
            .retain(|name, _| view.epochs.contains_key(name));
        for (name, role) in &view.epochs {
            let epoch = self.epochs.live.entry(*name).or_insert(LiveEpoch {
                role: *role,
                material: None,
            });
            epoch.role = *role;
            if *role == Role::Retiring {
                epoch.material = None;
            }
        }
        let wanted = |name: &EpochName, epoch: &LiveEpoch| {
            (epoch.role != Role::Retiring && epoch.material.is_none()).then_some(*name)
        };
        self.pull = self
            .epochs
            .live
            .iter()
            .filter_map(|(name, epoch)| wanted(name, epoch))
            .collect();
        self.publish
            .retain(|name| self.epochs.live.contains_key(name));
        let live = |epoch: &Epoch| {
            self.epochs
                .live
                .keys()
                .any(|name| name.number == epoch.get())
        };
        self.exhausted = self.exhausted.filter(live);
        !before.into_iter().eq(self.roles())
    }

    fn roles(&self) -> impl Iterator<Item = (EpochName, Role)> {
        self.epochs
            .live
            .iter()
            .map(|(name, epoch)| (*name, epoch.role))
    }

    fn follow_roster(&mut self, view: &LogView, rng: &mut impl CryptoRng) {
        self.nodes = view
            .peers
            .iter()
            .map(|(index, member)| (member.node, *index))
            .collect();
        let gone: Vec<_> = self
            .peers
            .values()
            .filter(|peer| !peer.gone && !view.peers.contains_key(&peer.index))
            .map(|peer| peer.index)
            .collect();
        for peer in gone {
            self.with_peer(peer, 0, |peer, ctx| peer.leave(ctx));
        }
        for (index, member) in &view.peers {
            let known = self.peers.get(index);
            if known.is_none_or(|peer| peer.gone || peer.node.is_none()) {
                let first_slot = rng.next_u32().to_le_bytes()[0];
                self.with_peer(*index, first_slot, |peer, ctx| {
                    peer.join(member.node, ctx);
                });
            }
        }
    }

    /// The secrets of an epoch, as a manager gave them. Secrets that the log does not ask for are
    /// dropped.
    pub fn secrets(
        &mut self,
        name: EpochName,
        secrets: EpochSecrets,
        now: Instant,
        rng: &mut impl CryptoRng,
    ) -> Result<(), RotationError> {
        self.now = self.now.max(now);
        secrets.check(name)?;
        let Some(epoch) = self.epochs.live.get_mut(&name) else {
            return Ok(());
        };
        if epoch.material.is_some() || epoch.role == Role::Retiring || self.ended {
            return Ok(());
        }
        epoch.material = Some(Material {
            secrets,
            ephemeral: Ephemeral::random(rng),
            used: BTreeMap::new(),
        });
        self.pull.remove(&name);
        self.publish.insert(name);
        self.digest.news = true;
        let all: Vec<_> = self.peers.keys().copied().collect();
        for peer in all {
            self.with_peer(peer, 0, |peer, _| peer.epochs_changed());
        }
        Ok(())
    }

    /// An ephemeral record from gossip, its signature checked.
    pub fn record(
        &mut self,
        signer: NodeId,
        record: &EphemeralRecord,
        now: Instant,
    ) -> Result<(), RotationError> {
        self.now = self.now.max(now);
        if signer == self.identity.node {
            self.own_record(record);
            return Ok(());
        }
        let peer = self.peer_of(signer)?;
        self.with_peer(peer, 0, |peer, ctx| peer.record(record, ctx));
        Ok(())
    }

    /// A record of this node that comes back: it must be ours, or of an agent before.
    fn own_record(&mut self, record: &EphemeralRecord) {
        let Identity { generation, .. } = self.identity;
        if record.generation > generation {
            self.alarms.raise(Alarm::GenerationBehind {
                ours: generation,
                known: record.generation,
            });
        }
        let material = self
            .epochs
            .live
            .get(&record.epoch)
            .and_then(|epoch| epoch.material.as_ref());
        if record.generation == generation
            && material.is_some_and(|material| material.ephemeral.public() != record.public)
        {
            self.alarms.raise(Alarm::Cloned { generation });
        }
    }

    /// A peer's message, its signature checked.
    pub fn acknowledgement(
        &mut self,
        signer: NodeId,
        message: &Acknowledgement,
        now: Instant,
    ) -> Result<(), RotationError> {
        self.now = self.now.max(now);
        let peer = self.peer_of(signer)?;
        let Identity { cluster, node, .. } = self.identity;
        let named = (message.cluster, message.from, message.to, message.index);
        if named != (cluster, signer, node, peer) {
            return Err(RotationError::Misdirected { signer });
        }
        self.with_peer(peer, 0, |peer, ctx| peer.hear(message, ctx));
        Ok(())
    }

    fn peer_of(&self, node: NodeId) -> Result<PeerIndex, RotationError> {
        self.nodes
            .get(&node)
            .copied()
            .ok_or(RotationError::UnknownPeer(node))
    }

    /// What the executor did to a slot of a peer, or found.
    pub fn kernel(&mut self, peer: PeerIndex, slot: SlotKey, event: KernelEvent, now: Instant) {
        self.now = self.now.max(now);
        if self.peers.contains_key(&peer) {
            self.with_peer(peer, 0, |peer, ctx| peer.kernel(slot, event, ctx));
        }
    }

    /// How much an SA has carried.
    pub fn usage(&mut self, peer: PeerIndex, slot: SlotKey, usage: Usage) {
        let over = usage.sequence >= self.settings.sequence_limit
            || usage.bytes >= self.settings.byte_limit;
        let state = self
            .peers
            .get(&peer)
            .and_then(|peer| peer.slots.get(slot))
            .filter(|_| over);
        if let Some(state) = state
            && self.exhausted.is_none_or(|epoch| epoch < state.epoch)
            && self.epochs.role(state.epoch, state.name) != Some(Role::Retiring)
        {
            self.exhausted = Some(state.epoch);
            self.digest.news = true;
        }
    }

    /// Time has passed.
    pub fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let due: Vec<_> = self
            .deadlines
            .iter()
            .take_while(|(at, _)| *at <= self.now)
            .map(|(_, peer)| *peer)
            .collect();
        for peer in due {
            self.with_peer(peer, 0, |_, _| {});
        }
    }

    /// When [`Self::advance`] is due, if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        let peers = self.deadlines.first().map(|(at, _)| *at);
        let digest = self.digest_at();
        [peers, digest].into_iter().flatten().min()
    }

    /// The next thing to do, until `None`.
    pub fn next_action(&mut self) -> Option<Action> {
        if let Some(alarm) = self.alarms.take() {
            return Some(Action::Alarm(alarm));
        }
        if let Some(name) = self.pull.pop_first() {
            return Some(Action::Pull(name));
        }
        while let Some(name) = self.publish.pop_first() {
            if let Some(record) = self.own(name) {
                return Some(Action::Publish(record));
            }
        }
        while let Some(index) = self.touched.first().copied() {
            let now = self.now;
            if let Some(sas) = self.peers.get_mut(&index).and_then(Peer::hand_out) {
                return Some(Action::Apply { peer: index, sas });
            }
            let mut message = None;
            self.lend(index, |peer, ctx| {
                if peer.deadline().is_some_and(|at| at <= now) {
                    message = peer.speak(ctx);
                }
            });
            if let Some(message) = message {
                return Some(Action::Send {
                    peer: index,
                    message,
                });
            }
            self.touched.remove(&index);
        }
        self.next_digest().map(Action::Digest)
    }

    fn own(&self, epoch: EpochName) -> Option<EphemeralRecord> {
        let material = self.epochs.live.get(&epoch)?.material.as_ref()?;
        Some(EphemeralRecord {
            epoch,
            generation: self.identity.generation,
            public: material.ephemeral.public(),
            lanes: self.settings.lanes,
        })
    }

    /// Records of this node that gossip is to hold.
    pub fn records(&self) -> impl Iterator<Item = EphemeralRecord> {
        self.epochs.live.keys().filter_map(|name| self.own(*name))
    }

    /// Alarms that were raised.
    pub fn alarms(&self) -> impl Iterator<Item = &Alarm> {
        self.alarms.open()
    }

    /// What this node sends in to a peer.
    pub fn transmit(&self, peer: PeerIndex) -> Option<Transmit> {
        self.peers.get(&peer)?.transmit()
    }

    /// Per peer that the log names: index, slot that is sent in and since when, and what is missing in
    /// the newest epoch.
    pub fn peers(
        &self,
    ) -> impl Iterator<Item = (PeerIndex, Option<(Transmit, Instant)>, Option<Lag>)> {
        let target = self.epochs.target();
        self.peers
            .values()
            .filter(|peer| !peer.gone && peer.node.is_some())
            .map(move |peer| {
                let lag = target.and_then(|name| peer.lag(name, self.identity.generation));
                let sends = peer.transmit().zip(peer.transmit_since());
                (peer.index, sends, lag)
            })
    }

    fn digest_at(&self) -> Option<Instant> {
        self.epochs.target().filter(|_| !self.ended)?;
        let changing = self.epochs.live.len() > 1;
        let every = self.settings.digest;
        match self.digest.last {
            None => Some(self.now),
            Some(last) if self.digest.news => Some(last + every),
            Some(last) if changing => Some(last + every * 10),
            Some(_) => None,
        }
    }

    fn next_digest(&mut self) -> Option<Digest> {
        if self.digest_at()? > self.now {
            return None;
        }
        let repeated = self
            .digest
            .last
            .is_none_or(|last| last + self.settings.digest * 10 <= self.now);
        self.digest.last = Some(self.now);
        self.digest.news = false;
        let digest = self.make_digest()?;
        if !repeated && self.digest.said.as_ref() == Some(&digest) {
            return None;
        }
        self.digest.said = Some(digest.clone());
        self.digest.sequence += 1;
        Some(Digest {
            sequence: self.digest.sequence,
            ..digest
        })
    }

    fn make_digest(&self) -> Option<Digest> {
        let epoch = self.epochs.target()?;
        let (mut peers, mut ready, mut laggards) = (0, 0, Vec::new());
        for (index, _, lag) in self.peers() {
            peers += 1;
            match lag {
                None => ready += 1,
                Some(lag) if laggards.len() <= Digest::LAGGARDS => laggards.push((index, lag)),
                Some(_) => {}
            }
        }
        if laggards.len() > Digest::LAGGARDS {
            laggards.clear();
        }
        let oldest = self
            .peers
            .values()
            .flat_map(|peer| peer.slots.iter())
            .map(|state| state.epoch)
            .min();
        Some(Digest {
            generation: self.identity.generation,
            sequence: 0,
            epoch,
            secrets: self.own(epoch).is_some(),
            peers,
            ready,
            laggards,
            oldest,
            exhausted: self.exhausted,
        })
    }

    /// Gives a peer what happened, then lets it settle.
    fn with_peer(
        &mut self,
        index: PeerIndex,
        first_slot: u8,
        input: impl FnOnce(&mut Peer, &mut Context<'_>),
    ) {
        self.peers
            .entry(index)
            .or_insert_with(|| Peer::new(index, first_slot));
        self.lend(index, |peer, ctx| {
            input(peer, ctx);
            peer.settle(ctx);
        });
        self.touched.insert(index);
        self.digest.news = true;
    }

    /// A peer and its surroundings; its deadline is kept up to date.
    fn lend(&mut self, index: PeerIndex, work: impl FnOnce(&mut Peer, &mut Context<'_>)) {
        let Some(peer) = self.peers.get_mut(&index) else {
            return;
        };
        if let Some(at) = peer.deadline() {
            self.deadlines.remove(&(at, index));
        }
        let Identity {
            cluster,
            node,
            index: own,
            generation,
        } = self.identity;
        let mut context = Context {
            settings: &self.settings,
            cluster,
            node,
            index: own,
            generation,
            epochs: &mut self.epochs,
            counter: &mut self.counter,
            alarms: &mut self.alarms,
            now: self.now,
        };
        work(peer, &mut context);
        if let Some(at) = peer.deadline() {
            self.deadlines.insert((at, index));
        }
        if peer.gone && peer.slots.is_empty() && !peer.has_news() {
            self.peers.remove(&index);
            self.deadlines.retain(|(_, of)| *of != index);
        }
    }
}

#[cfg(test)]
mod tests;
