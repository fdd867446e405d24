//! One node's gossip, without I/O.
//!
//! Bytes and time go in, [`Action`]s come out. The caller
//!
//! - hands every datagram to [`Gossip::handle_datagram`] and sends what comes back,
//! - calls [`Gossip::handle_timeout`] at [`Gossip::next_timeout`],
//! - publishes what the node is and has, and says [`Gossip::complete`] once all of it is published,
//! - carries anti-entropy over mutual TLS when asked for it ([`Action::RequestSync`]),
//! - says when an epoch is staged, activated and retired, and who is in the roster.

mod own;
mod peers;
mod sync;
mod timers;

pub use own::PublishError;
pub use sync::Sync;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ed25519_dalek::SigningKey;
use rand::{SeedableRng as _, rngs::StdRng};

use super::{
    envelope::{BootNonce, EpochId, OpenError, Opener, Sealer, Senders},
    limits::{HINTS, Limiter, TokenBucket},
    membership::{self, Effects, Hint, Identity, Membership},
    record::{Key, Signed},
    roster::Roster,
    store::{Refused, Store},
};
use crate::{
    id::{ClusterId, EpochName, Generation, NodeId},
    secret::Secret,
    time::Instant,
};

/// What the caller is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a datagram.
    Send { to: SocketAddr, bytes: Vec<u8> },
    /// Look at this key again: [`Gossip::store`] has what is alive of it now, or nothing.
    RecordChanged { owner: NodeId, key: Key },
    /// A member seems up or down. Nothing but what a person reads follows from it.
    MemberHint { node: NodeId, up: bool },
    /// Somebody, perhaps `from`, sends with an epoch newer than all that are accepted here: ask a
    /// manager. Not authentic.
    EpochHint { epoch: EpochId, from: NodeId },
    /// Run anti-entropy with this member: [`Gossip::start_sync`].
    RequestSync { peer: NodeId },
    /// Records of this node with a higher version than it ever wrote are about, so its count of starts was
    /// lost: it goes on as this one, which is to be kept in its place.
    GenerationRaised { generation: Generation },
}

/// Who this node is.
pub struct Settings {
    pub cluster: ClusterId,
    pub key: SigningKey,
    /// Larger with every start.
    pub generation: Generation,
    /// Fresh random bytes with every start.
    pub boot: BootNonce,
    /// Of every random choice from here on.
    pub seed: [u8; 32],
    /// Whom to sync with first, before other members' addresses are known: the managers.
    pub managers: Vec<NodeId>,
}

/// Anti-entropy follows this long after a member came back.
const REUNION: Duration = Duration::from_secs(2);

/// What was refused, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams beyond a rate limit: not looked at.
    pub limited: u64,
    /// Datagrams that did not open, but for these two.
    pub unopened: u64,
    /// Datagrams seen before, or too old.
    pub replayed: u64,
    /// Datagrams with a wrong tag.
    pub forged: u64,
    /// Payloads or records that no honest member writes.
    pub malformed: u64,
    /// Records without their owner's signature, or of no member.
    pub lies: u64,
    /// Records beyond their owner's quota.
    pub quota: u64,
    /// Datagrams not sent for want of a key, an address or a counter.
    pub unsent: u64,
}

pub struct Gossip<R> {
    me: NodeId,
    cluster: ClusterId,
    key: SigningKey,
    generation: Generation,
    /// Of the next record this node writes.
    counter: u64,
    roster: R,
    managers: Vec<NodeId>,
    store: Store,
    sealer: Sealer,
    opener: Opener,
    membership: Membership,
    limiter: Limiter,
    epoch_hints: TokenBucket,
    raises: TokenBucket,
    /// One bucket for each member that asks.
    answers: BTreeMap<NodeId, TokenBucket>,
    /// Addresses of members' signed records, and of how many members.
    addresses: BTreeMap<IpAddr, u32>,
    /// Own records that dissemination had no room for yet.
    unsent: BTreeSet<Key>,
    plan: timers::Plan,
    counters: Counters,
    rng: StdRng,
}

/// From whom the envelope accepts.
struct View<'a, R> {
    me: NodeId,
    roster: &'a R,
    store: &'a Store,
}

impl<R: Roster> Senders for View<'_, R> {
    fn is_member(&self, node: NodeId) -> bool {
        node != self.me && self.roster.key_of(node).is_some()
    }

    fn boot_of(&self, node: NodeId) -> Option<BootNonce> {
        Some(self.store.node(node)?.1.boot)
    }
}

impl<R: Roster> Gossip<R> {
    pub fn new(now: Instant, settings: Settings, roster: R) -> Self {
        let Settings {
            cluster,
            key,
            generation,
            boot,
            seed,
            managers,
        } = settings;
        let me = NodeId::of(&key.verifying_key());
        let mut rng = StdRng::from_seed(seed);
        let identity = Identity {
            node: me,
            generation,
            rejoined: 0,
        };
        let seed = rand::RngExt::random(&mut rng);
        Self {
            me,
            cluster,
            key,
            generation,
            counter: 0,
            store: Store::new(cluster),
            sealer: Sealer::new(me, boot),
            opener: Opener::default(),
            membership: Membership::new(identity, roster.len(), seed, now),
            limiter: Limiter::new(now),
            epoch_hints: TokenBucket::full(HINTS, now),
            raises: TokenBucket::full(HINTS, now),
            answers: BTreeMap::new(),
            addresses: BTreeMap::new(),
            unsent: BTreeSet::new(),
            plan: timers::Plan::new(now),
            counters: Counters::default(),
            roster,
            managers,
            rng,
        }
    }

    pub const fn id(&self) -> NodeId {
        self.me
    }

    /// All records, this node's own among them.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    pub const fn membership(&self) -> &Membership {
        &self.membership
    }

    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Accepts datagrams of an epoch: staged, or active.
    pub fn accept_epoch(&mut self, epoch: EpochName, secret: &Secret) {
        self.opener.accept(epoch, secret);
    }

    /// Accepts an epoch and sends with it from now on.
    pub fn activate_epoch(&mut self, epoch: EpochName, secret: &Secret) {
        self.opener.accept(epoch, secret);
        self.sealer.activate(epoch, secret);
    }

    /// Ends an epoch's grace period: its secret and keys are zeroized.
    pub fn retire_epoch(&mut self, epoch: EpochName) {
        self.opener.retire(epoch.into());
        self.sealer.retire(epoch.into());
    }

    /// The members changed. Who is gone leaves nothing behind.
    pub fn set_roster(&mut self, now: Instant, roster: R) -> Vec<Action> {
        let mut actions = Vec::new();
        let gone: Vec<_> = self
            .roster
            .members()
            .filter(|node| roster.key_of(*node).is_none())
            .collect();
        for node in gone {
            if let Some((_, record)) = self.store.node(node) {
                let address = record.control.ip();
                self.forget_address(address);
            }
            self.opener.forget(node);
            self.plan.fallen.remove(&node);
            self.answers.remove(&node);
            let effects = self.membership.remove(now, node);
            self.settle(now, effects, &mut actions);
        }
        self.roster = roster;
        for change in self.store.retain_members(&self.roster) {
            let owner = change.owner;
            let keys = change.keys.into_iter();
            actions.extend(keys.map(|key| Action::RecordChanged { owner, key }));
        }
        self.membership.resize(self.roster.len());
        actions
    }

    /// Says to a few members that this node stops, so that none has to find out. Its records stay: the
    /// roster says who belongs to the cluster.
    pub fn leave(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let effects = self.membership.leave(now);
        self.settle(now, effects, &mut actions);
        actions
    }

    /// Takes a datagram from the network. Whatever it is, it costs no more than a MAC check unless it was
    /// made by a member.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) -> Vec<Action> {
        let mut actions = Vec::new();
        let is_member = self.addresses.contains_key(&from.ip());
        if !self.limiter.admit(now, from.ip(), is_member) {
            self.counters.limited += 1;
            return actions;
        }
        let view = View {
            me: self.me,
            roster: &self.roster,
            store: &self.store,
        };
        let opened = match self.opener.open(bytes, &view) {
            Ok(opened) => opened,
            Err(error) => {
                self.refuse(now, error, &mut actions);
                return actions;
            }
        };
        let Ok(mut message) = membership::parse(&opened.payload) else {
            self.counters.malformed += 1;
            return actions;
        };
        // Records first: the message may speak of a start that one of them announces.
        for record in std::mem::take(&mut message.records) {
            match Signed::decode(record) {
                Ok(signed) => {
                    self.take(now, signed, true, &mut actions);
                }
                Err(_) => self.counters.malformed += 1,
            }
        }
        let store = &self.store;
        let generation_of = |node| Some(store.node(node)?.0.generation);
        let effects = self
            .membership
            .receive(now, opened.sender, message, generation_of);
        self.settle(now, effects, &mut actions);
        actions
    }

    fn refuse(&mut self, now: Instant, error: OpenError, actions: &mut Vec<Action>) {
        match error {
            OpenError::Epoch { sender, epoch } => {
                self.counters.unopened += 1;
                let newer = self
                    .opener
                    .newest_epoch()
                    .is_none_or(|newest| epoch > newest);
                if newer && self.epoch_hints.take(now) {
                    actions.push(Action::EpochHint {
                        epoch,
                        from: sender,
                    });
                }
            }
            OpenError::Boot { sender, boot } => {
                self.counters.unopened += 1;
                self.plan.miss(now, sender, boot);
            }
            OpenError::Replayed { .. } => self.counters.replayed += 1,
            OpenError::Forged { .. } => self.counters.forged += 1,
            OpenError::Header(_) | OpenError::Stranger(_) => self.counters.unopened += 1,
        }
    }

    /// Takes a record from wherever, and says whether it was new. `spread`: pass it on if there is room.
    fn take(
        &mut self,
        now: Instant,
        signed: Signed,
        spread: bool,
        actions: &mut Vec<Action>,
    ) -> bool {
        let owner = signed.owner();
        let key = signed.record().content.key();
        if owner == self.me {
            self.see_own(now, &signed, actions);
            return false;
        }
        let address = |store: &Store| Some(store.node(owner)?.1.control.ip());
        let before = address(&self.store);
        let change = match self.store.apply(signed, &self.roster) {
            Ok(change) => change,
            Err(Refused::Known | Refused::Void) => return false,
            Err(Refused::Stranger(_) | Refused::Signature(_)) => {
                self.counters.lies += 1;
                return false;
            }
            Err(Refused::Quota(_)) => {
                self.counters.quota += 1;
                return false;
            }
        };
        let after = address(&self.store);
        if before != after {
            if let Some(before) = before {
                self.forget_address(before);
            }
            if let Some(after) = after {
                *self.addresses.entry(after).or_default() += 1;
            }
        }
        if let (Key::Node, Some((version, _))) = (key, self.store.node(owner)) {
            let effects = self.membership.learn(now, owner, version.generation);
            self.settle(now, effects, actions);
        }
        if spread
            && let Some(signed) = self.store.signed(owner, &key)
            && self.membership.spread(signed)
        {
            self.plan.hurry(now);
        }
        let keys = change.keys.into_iter();
        actions.extend(keys.map(|key| Action::RecordChanged { owner, key }));
        true
    }

    fn forget_address(&mut self, address: IpAddr) {
        if let Some(members) = self.addresses.get_mut(&address) {
            *members -= 1;
            if *members == 0 {
                self.addresses.remove(&address);
            }
        }
    }

    /// Seals what membership wants sent and passes its hints on.
    fn settle(&mut self, now: Instant, effects: Effects, actions: &mut Vec<Action>) {
        for (node, payload) in effects.sends {
            let to = self.store.node(node).map(|(_, node)| node.control);
            match (to, self.sealer.seal(&payload)) {
                (Some(to), Ok(bytes)) => actions.push(Action::Send { to, bytes }),
                _ => self.counters.unsent += 1,
            }
        }
        for hint in effects.hints {
            let (node, up) = match hint {
                Hint::Up(node) => (node, true),
                Hint::Down(node) => (node, false),
            };
            let after = self.jittered(REUNION);
            self.plan.hear(now, after, node, up);
            actions.push(Action::MemberHint { node, up });
        }
    }

    /// Things held in memory that grow with what others send, for the simulation to bound.
    pub fn held(&self) -> usize {
        self.store.len() + self.membership.held() + self.unsent.len() + self.addresses.len()
    }
}

#[cfg(test)]
mod tests;
