//! foca with its timers, and what it may believe.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use foca::{
    BroadcastHandler, Foca, Identity as _, Invalidates, Member, Message as Kind, Notification,
    Runtime, Timer,
};
use rand::{SeedableRng as _, rngs::StdRng};

use super::{Identity, Message, config, wire::Wire};
use crate::{
    gossip::{
        limits::{HINTS, TokenBucket},
        record::{Key, RecordError, Signed, Version},
    },
    id::{Generation, NodeId},
    time::Instant,
};

/// Records waiting to be sent on. What does not fit is repaired by anti-entropy.
pub const MAX_BROADCASTS: usize = 256;

/// How far others may say that a member's rejoin counter advanced. The member itself, in a datagram of its
/// own, may say more.
const REJOINS_BELIEVED: u32 = 4;

/// What foca believes of a member now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    Up(NodeId),
    Down(NodeId),
}

/// What came of a call.
#[derive(Debug, Default)]
pub struct Effects {
    /// Payloads to seal and send.
    pub sends: Vec<(NodeId, Vec<u8>)>,
    pub hints: Vec<Hint>,
}

type Timers = BTreeMap<(Instant, u64), Timer<Identity>>;

pub struct Membership {
    foca: Foca<Identity, Wire, StdRng, Records>,
    timers: Timers,
    /// Orders timers of one instant.
    sequence: u64,
    /// Newest identity of each member.
    known: BTreeMap<NodeId, Identity>,
    up: BTreeSet<NodeId>,
    /// Announcements to who took us for dead.
    returns: TokenBucket,
}

struct Collect<'a> {
    now: Instant,
    timers: &'a mut Timers,
    sequence: &'a mut u64,
    up: &'a mut BTreeSet<NodeId>,
    effects: &'a mut Effects,
}

impl Runtime<Identity> for Collect<'_> {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        match notification {
            Notification::MemberUp(id) => {
                if self.up.insert(id.node) {
                    self.effects.hints.push(Hint::Up(id.node));
                }
            }
            Notification::MemberDown(id) => {
                if self.up.remove(&id.node) {
                    self.effects.hints.push(Hint::Down(id.node));
                }
            }
            Notification::Rename(..)
            | Notification::Active
            | Notification::Idle
            | Notification::Defunct
            | Notification::Rejoin(_) => {}
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.effects.sends.push((to.node, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        *self.sequence += 1;
        self.timers
            .insert((self.now + after, *self.sequence), event);
    }
}

impl Membership {
    pub fn new(me: Identity, nodes: usize, seed: [u8; 32], now: Instant) -> Self {
        let rng = StdRng::from_seed(seed);
        Self {
            foca: Foca::with_custom_broadcast(me, config(nodes), rng, Wire, Records),
            timers: BTreeMap::new(),
            sequence: 0,
            known: BTreeMap::new(),
            up: BTreeSet::new(),
            returns: TokenBucket::full(HINTS, now),
        }
    }

    /// Calls foca and gathers what comes of it. foca's errors speak of a peer's bad input or of a timer
    /// overtaken by events, and leave it in order.
    fn with(
        &mut self,
        now: Instant,
        effects: &mut Effects,
        call: impl FnOnce(
            &mut Foca<Identity, Wire, StdRng, Records>,
            &mut Collect<'_>,
        ) -> Result<(), foca::Error>,
    ) -> bool {
        let mut collect = Collect {
            now,
            timers: &mut self.timers,
            sequence: &mut self.sequence,
            up: &mut self.up,
            effects,
        };
        call(&mut self.foca, &mut collect).is_ok()
    }

    /// A member's signed node record is an invitation to probe it.
    pub fn learn(&mut self, now: Instant, node: NodeId, generation: Generation) -> Effects {
        let mut effects = Effects::default();
        let identity = Identity {
            node,
            generation,
            rejoined: 0,
        };
        let newer = |known: &Identity| identity.win_addr_conflict(known);
        if node != self.foca.identity().node && self.known.get(&node).is_none_or(newer) {
            self.known.insert(node, identity);
            let member = std::iter::once(Member::alive(identity));
            self.with(now, &mut effects, |foca, runtime| {
                foca.apply_many(member, false, runtime)
            });
        }
        effects
    }

    /// Takes a message of an authentic sender, without its records. `generation_of` gives that of a
    /// member's newest signed record. Dropped is
    ///
    /// - a message in another's name than the datagram,
    /// - what speaks of a start of which there is no signed record, by the sender or about others,
    /// - a claim by others that a member rejoined many times at once, which would outbid the member.
    pub fn receive(
        &mut self,
        now: Instant,
        sender: NodeId,
        mut message: Message<'_>,
        generation_of: impl Fn(NodeId) -> Option<Generation>,
    ) -> Effects {
        let mut effects = Effects::default();
        let source = message.header.src;
        if source.node != sender || generation_of(sender) != Some(source.generation) {
            return effects;
        }
        self.note(source);
        let me = *self.foca.identity();
        let known = &self.known;
        message.members.retain(|member| {
            let id = member.id();
            if id.node == me.node {
                return id.generation == me.generation && id.rejoined <= me.rejoined;
            }
            let believed = known
                .get(&id.node)
                .map_or(0, |known| known.rejoined.saturating_add(REJOINS_BELIEVED));
            id.rejoined <= believed && generation_of(id.node) == Some(id.generation)
        });
        for member in &message.members {
            self.note(*member.id());
        }
        let Ok(payload) = message.without_records() else {
            return effects;
        };
        self.with(now, &mut effects, |foca, runtime| {
            foca.handle_data(&payload, runtime)
        });
        // Who took us for dead hears of the new identity from us, and tells us in turn if we take it for
        // dead: a partition heals in a few round trips.
        let told = message.header.message == Kind::TurnUndead;
        if told && *self.foca.identity() != me && self.returns.take(now) {
            self.with(now, &mut effects, |foca, runtime| {
                foca.announce(source, runtime)
            });
        }
        effects
    }

    fn note(&mut self, identity: Identity) {
        if identity.node != self.foca.identity().node {
            let known = self.known.entry(identity.node).or_insert(identity);
            if identity.win_addr_conflict(known) {
                *known = identity;
            }
        }
    }

    /// What a peer that is believed says of who is down, for a node that just started.
    pub fn believe_down(&mut self, now: Instant, down: &[NodeId]) -> Effects {
        let mut effects = Effects::default();
        for node in down {
            if let Some(identity) = self.known.get(node) {
                let member = std::iter::once(Member::down(*identity));
                self.with(now, &mut effects, |foca, runtime| {
                    foca.apply_many(member, false, runtime)
                });
            }
        }
        effects
    }

    /// A node left the roster.
    pub fn remove(&mut self, now: Instant, node: NodeId) -> Effects {
        let mut effects = Effects::default();
        if let Some(identity) = self.known.remove(&node) {
            let member = std::iter::once(Member::down(identity));
            self.with(now, &mut effects, |foca, runtime| {
                foca.apply_many(member, false, runtime)
            });
            self.with(now, &mut effects, |foca, runtime| {
                foca.handle_timer(Timer::RemoveDown(identity), runtime)
            });
            self.timers.retain(|_, timer| match timer {
                Timer::SendIndirectProbe { probed_id: id, .. }
                | Timer::ChangeSuspectToDown { member_id: id, .. }
                | Timer::RemoveDown(id) => id.node != node,
                _ => true,
            });
        }
        effects
    }

    /// The roster has so many members now.
    pub fn resize(&mut self, nodes: usize) {
        let allowed = self.foca.set_config(config(nodes));
        debug_assert!(allowed.is_ok(), "only sizes change");
    }

    /// This node goes on under a later generation.
    pub fn renew(&mut self, now: Instant, generation: Generation) -> Effects {
        let mut effects = Effects::default();
        let identity = Identity {
            generation,
            rejoined: 0,
            ..*self.foca.identity()
        };
        self.with(now, &mut effects, |foca, runtime| {
            foca.change_identity(identity, runtime)
        });
        effects
    }

    /// Queues a record for dissemination. Says whether it had room.
    pub fn spread(&mut self, record: &Signed) -> bool {
        self.foca.custom_broadcast_backlog() < MAX_BROADCASTS
            && self.foca.add_broadcast(record.bytes()).is_ok()
    }

    /// Sends what is queued to a few members at once, without waiting for the next period.
    pub fn gossip(&mut self, now: Instant) -> Effects {
        let mut effects = Effects::default();
        if self.backlog() > 0 {
            self.with(now, &mut effects, |foca, runtime| foca.gossip(runtime));
        }
        effects
    }

    /// Asks a member that is down here whether it is.
    pub fn ask(&mut self, now: Instant, node: NodeId) -> Effects {
        let mut effects = Effects::default();
        if let Some(identity) = self.known.get(&node).copied() {
            self.with(now, &mut effects, |foca, runtime| {
                foca.announce(identity, runtime)
            });
        }
        effects
    }

    /// Tells a few members that this node stops, so that none has to find out.
    pub fn leave(&mut self, now: Instant) -> Effects {
        let mut effects = Effects::default();
        self.with(now, &mut effects, |foca, runtime| {
            foca.leave_cluster(runtime)
        });
        effects
    }

    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    pub fn handle_timeout(&mut self, now: Instant) -> Effects {
        let mut effects = Effects::default();
        while let Some(entry) = self.timers.first_entry()
            && entry.key().0 <= now
        {
            let timer = entry.remove();
            self.with(now, &mut effects, |foca, runtime| {
                foca.handle_timer(timer, runtime)
            });
        }
        effects
    }

    pub fn is_up(&self, node: NodeId) -> bool {
        self.up.contains(&node)
    }

    /// Members believed up, without this node.
    pub const fn up(&self) -> &BTreeSet<NodeId> {
        &self.up
    }

    /// Members known and believed down.
    pub fn down(&self) -> impl Iterator<Item = NodeId> {
        self.known
            .keys()
            .copied()
            .filter(|node| !self.up.contains(node))
    }

    /// Member updates and records waiting to be sent.
    pub fn backlog(&self) -> usize {
        self.foca.updates_backlog() + self.foca.custom_broadcast_backlog()
    }

    pub fn waiting_records(&self) -> usize {
        self.foca.custom_broadcast_backlog()
    }

    /// Things held, for the simulation to bound.
    pub fn held(&self) -> usize {
        self.timers.len() + self.known.len() + self.backlog()
    }
}

/// foca's side of records. Each was checked before foca sees it: see [`Membership::spread`].
struct Records;

struct Waiting {
    owner: NodeId,
    key: Key,
    version: Version,
}

impl Invalidates for Waiting {
    fn invalidates(&self, other: &Self) -> bool {
        (self.owner, self.key) == (other.owner, other.key) && self.version >= other.version
    }
}

impl BroadcastHandler<Identity> for Records {
    type Key = Waiting;
    type Error = RecordError;

    fn receive_item(
        &mut self,
        data: &[u8],
        _sender: Option<&Identity>,
    ) -> Result<Option<Waiting>, RecordError> {
        let signed = Signed::decode(data)?;
        let record = signed.record();
        Ok(Some(Waiting {
            owner: record.owner,
            key: record.content.key(),
            version: record.version,
        }))
    }
}
