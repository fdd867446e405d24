//! One peer of this node: what both have said, and the SAs between them.

mod message;
mod settle;

use std::{collections::BTreeSet, time::Duration};

use overlay_ebpf::abi::{Epoch, Lane, PeerIndex, Slot};

use crate::{
    id::{ClusterId, EpochName, Generation, NodeId},
    keys::{EphemeralRecord, PairSecret, PublicKey},
    time::Instant,
};

use super::{
    acknowledgement::{Seen, Staged},
    alarm::Alarm,
    alarms::Alarms,
    digest::Lag,
    epochs::Epochs,
    sa::{AdoptedSa, Direction, KernelEvent, Keying, PeerSas, Sa, SlotKey, Transmit},
    settings::Settings,
    slots::{Progress, SlotState, Slots},
};

/// What the machine of the node lends to each of its peers.
pub(super) struct Context<'a> {
    pub settings: &'a Settings,
    pub cluster: ClusterId,
    pub node: NodeId,
    pub index: PeerIndex,
    pub generation: Generation,
    pub epochs: &'a mut Epochs,
    /// Counts stagings, messages and slots: one for all peers, so that a peer which leaves and comes
    /// back meets no number again.
    pub counter: &'a mut u64,
    pub alarms: &'a mut Alarms,
    pub now: Instant,
}

impl Context<'_> {
    fn count(&mut self) -> u64 {
        *self.counter += 1;
        *self.counter
    }
}

/// What a peer has said of one epoch, in its present generation.
#[derive(Debug)]
struct Theirs {
    epoch: EpochName,
    public: PublicKey,
    lanes: u8,
    /// Made when first needed, dropped with our own material.
    secret: Option<PairSecret>,
    /// Their key is of small order.
    broken: bool,
    /// What they have staged for us.
    offer: Option<Staged>,
    /// Our stagings up to this session are of no use to them.
    refused_by_them: u64,
    /// Their stagings up to this session are of no use to us.
    refused_by_us: Option<u64>,
}

/// Waits between attempts that fail.
#[derive(Debug, Default)]
struct Retry {
    failures: u32,
    at: Option<Instant>,
}

impl Retry {
    /// A kernel that refuses one peer's SAs refuses others', too, most times: they are tried again together, and
    /// the whole is planned once and not for each.
    fn failed(&mut self, settings: &Settings, now: Instant) {
        let wait = settings.retry * 2u32.saturating_pow(self.failures.min(16));
        let wait = wait.min(settings.retry_max);
        self.failures += 1;
        self.at = Some((now + wait).at_whole(wait));
    }

    fn is_due(&self, now: Instant) -> bool {
        self.at.is_none_or(|at| at <= now)
    }
}

/// Bounds what a peer can make this node's kernel do: so many new slots per [`Settings::retry`]. Honest
/// peers need one per direction and epoch.
#[derive(Debug, Default)]
struct Budget {
    since: Option<Instant>,
    spent: u32,
}

impl Budget {
    const SLOTS: u32 = 8;

    /// Spends one slot, or says when there will be one.
    fn spend(&mut self, settings: &Settings, now: Instant) -> Result<(), Instant> {
        let over = |since: Instant| now.since(since) >= settings.retry;
        if self.since.is_none_or(over) {
            (self.since, self.spent) = (Some(now), 0);
        }
        if self.spent == Self::SLOTS {
            return Err(self.since.map_or(now, |since| since + settings.retry));
        }
        self.spent += 1;
        Ok(())
    }
}

/// When to send what to the peer.
#[derive(Debug, Default)]
struct Outbox {
    /// Number of the last message with news.
    sequence: u64,
    /// The peer has seen that.
    confirmed: bool,
    /// Something is to be said that the last message did not say.
    news: bool,
    /// The next message, if any.
    at: Option<Instant>,
    /// Wait before the message after it.
    wait: Duration,
}

impl Outbox {
    fn by(&mut self, at: Instant) {
        self.at = Some(self.at.map_or(at, |set| set.min(at)));
    }
}

/// A peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub index: PeerIndex,
    /// `None` until the log names it: an SA of it was adopted.
    pub node: Option<NodeId>,
    /// The log does not pair us any more: closed, and forgotten when its SAs are gone.
    pub gone: bool,
    generation: Option<Generation>,
    /// The newest message.
    seen: Option<Seen>,
    theirs: Vec<Theirs>,
    their_held: Vec<Slot>,
    /// The newest message is of its agent that runs now, to ours: neither accepts what an agent before
    /// has offered.
    knows_us: bool,
    their_transmit: Option<(Slot, Epoch)>,
    pub slots: Slots,
    last_inbound: Slot,
    transmit: Option<Slot>,
    budget: Budget,
    inbound_retry: Retry,
    outbound_retry: Retry,
    outbox: Outbox,
    /// The desired SAs differ from those that were handed out last.
    changed: bool,
    /// When [`Self::settle`] has something to do without any input.
    settle_at: Option<Instant>,
}

impl Peer {
    /// Epochs of which a peer may speak at one time.
    const EPOCHS: usize = 3;

    /// `first_slot` is any number: a random one seldom meets a slot that the peer still holds.
    pub fn new(index: PeerIndex, first_slot: u8) -> Self {
        Self {
            index,
            node: None,
            gone: false,
            generation: None,
            seen: None,
            theirs: Vec::with_capacity(2),
            their_held: Vec::new(),
            knows_us: false,
            their_transmit: None,
            slots: Slots::default(),
            last_inbound: Slot::new(first_slot),
            transmit: None,
            budget: Budget::default(),
            inbound_retry: Retry::default(),
            outbound_retry: Retry::default(),
            outbox: Outbox::default(),
            changed: false,
            settle_at: None,
        }
    }

    /// Takes over what an earlier agent installed.
    pub fn adopt(&mut self, sas: &[AdoptedSa], transmit: Option<Transmit>, ctx: &mut Context<'_>) {
        let mut sas: Vec<_> = sas.to_vec();
        let sends = |sa: &AdoptedSa| {
            sa.direction == Direction::Out && transmit.is_some_and(|now| now.slot == sa.slot)
        };
        sas.sort_by_key(|sa| {
            (
                sa.epoch,
                sa.sender_generation.max(sa.receiver_generation),
                sends(sa),
                sa.slot,
                sa.lane,
            )
        });
        let key = |sa: &AdoptedSa| SlotKey {
            direction: sa.direction,
            slot: sa.slot,
        };
        for (at, sa) in sas.iter().enumerate() {
            if let Some(state) = self.slots.get_mut(key(sa)) {
                if sa.lane.get() == state.lanes {
                    state.lanes += 1;
                } else {
                    // The agent died between two lanes, or somebody took one.
                    state.let_go();
                }
                continue;
            }
            // No agent of this release leaves more than fit. Of more, the newest are kept.
            let newer: BTreeSet<_> = sas[at..]
                .iter()
                .map(key)
                .filter(|newer| newer.direction == sa.direction && *newer != key(sa))
                .collect();
            if newer.len() >= Slots::MAX {
                continue;
            }
            if sa.direction == Direction::In {
                self.last_inbound = sa.slot;
            }
            self.slots.push(SlotState {
                key: key(sa),
                epoch: sa.epoch,
                name: None,
                lanes: 1,
                sender_generation: sa.sender_generation,
                receiver_generation: sa.receiver_generation,
                session: 0,
                order: ctx.count(),
                progress: Progress::Ready,
                since: ctx.now,
                idle: (sa.direction == Direction::Out && !sends(sa)).then_some(ctx.now),
                expires: None,
            });
            if sa.lane.get() != 0
                && let Some(state) = self.slots.get_mut(key(sa))
            {
                state.let_go();
            }
        }
        self.transmit = transmit
            .map(|transmit| transmit.slot)
            .filter(|slot| self.outbound(*slot).is_some_and(SlotState::is_ready));
        self.changed = true;
    }

    /// The log pairs us with this node. If it has been paired before, neither may hear the other's
    /// record again: unless they come to talk, a message says the same.
    pub fn join(&mut self, node: NodeId, ctx: &Context<'_>) {
        self.node = Some(node);
        self.gone = false;
        self.outbox.news = true;
        self.outbox.by(ctx.now + ctx.settings.resend * 4);
    }

    /// The log pairs us no more: nothing of it is used from here on, and nothing that it has said
    /// counts if it comes back.
    pub fn leave(&mut self, ctx: &mut Context<'_>) {
        ctx.alarms.clear(self.index);
        let slots = std::mem::take(&mut self.slots);
        let node = self.node;
        *self = Self::new(self.index, self.last_inbound.get());
        (self.slots, self.node, self.gone, self.changed) = (slots, node, true, true);
        for state in self.slots.iter_mut() {
            state.let_go();
        }
    }

    /// Our keys for the peer are others than before: what it was told does not hold.
    pub fn epochs_changed(&mut self) {
        self.outbox.news = true;
    }

    /// Whether there is something to hand out.
    pub fn has_news(&self) -> bool {
        self.changed
    }

    /// The peer's ephemeral key, from its own record.
    pub fn record(&mut self, record: &EphemeralRecord, ctx: &mut Context<'_>) {
        if self.meet(record.generation, ctx) {
            self.learn(record.epoch, record.public, record.lanes, ctx);
        }
    }

    /// Whether a message of this generation counts. A later one than before is a new agent, to which
    /// nothing applies that the one before said, but for the SAs in both kernels.
    fn meet(&mut self, generation: Generation, ctx: &mut Context<'_>) -> bool {
        match self.generation {
            Some(known) if generation < known => return false,
            Some(known) if generation == known => return true,
            _ => {}
        }
        self.generation = Some(generation);
        ctx.alarms.clear(self.index);
        self.seen = None;
        self.knows_us = false;
        self.theirs.clear();
        self.inbound_retry = Retry::default();
        self.outbound_retry = Retry::default();
        self.outbox.confirmed = false;
        self.outbox.wait = ctx.settings.resend;
        true
    }

    /// Index in `theirs` of an epoch, if its key is the one known or new.
    fn learn(
        &mut self,
        epoch: EpochName,
        public: PublicKey,
        lanes: u8,
        ctx: &mut Context<'_>,
    ) -> Option<usize> {
        if !ctx.epochs.may_come(epoch) {
            return None;
        }
        if let Some(at) = self.theirs.iter().position(|theirs| theirs.epoch == epoch) {
            let kept = self.theirs[at].public;
            if kept == public {
                return Some(at);
            }
            ctx.alarms.raise(Alarm::PeerCloned {
                peer: self.index,
                kept,
                refused: public,
            });
            return None;
        }
        self.theirs
            .retain(|theirs| ctx.epochs.may_come(theirs.epoch));
        if self.theirs.len() == Self::EPOCHS {
            let oldest = (0..self.theirs.len()).min_by_key(|at| self.theirs[*at].epoch)?;
            self.theirs.swap_remove(oldest);
        }
        self.theirs.push(Theirs {
            epoch,
            public,
            lanes,
            secret: None,
            broken: false,
            offer: None,
            refused_by_them: 0,
            refused_by_us: None,
        });
        Some(self.theirs.len() - 1)
    }

    /// What the executor did or found.
    pub fn kernel(&mut self, key: SlotKey, event: KernelEvent, ctx: &mut Context<'_>) {
        let Some(state) = self.slots.get_mut(key) else {
            return;
        };
        let inbound = key.direction == Direction::In;
        let retry = if inbound {
            &mut self.inbound_retry
        } else {
            &mut self.outbound_retry
        };
        match event {
            KernelEvent::Installed => {
                if state.progress != Progress::HandedOut {
                    return;
                }
                state.progress = Progress::Ready;
                state.since = ctx.now;
                *retry = Retry::default();
                if inbound {
                    self.tell_at_once(ctx);
                }
            }
            KernelEvent::Failed => {
                if state.is_leaving() {
                    return;
                }
                state.let_go();
                retry.failed(ctx.settings, ctx.now);
                if retry.failures == ctx.settings.failures_alarm {
                    ctx.alarms.raise(Alarm::KernelRefuses {
                        peer: self.index,
                        direction: key.direction,
                        slot: key.slot,
                        failures: retry.failures,
                    });
                }
                self.changed = true;
            }
            KernelEvent::Lost => {
                if state.is_leaving() {
                    return;
                }
                state.let_go();
                self.changed = true;
                self.tell_at_once(ctx);
            }
            KernelEvent::Removed => {
                let live = ctx.epochs.role(state.epoch, state.name).is_some();
                if self.slots.removed(key) && !inbound {
                    self.outbox.news = true;
                    if live {
                        // What goes with its epoch ends at the peer without a word; this would stay
                        // there as long as the epoch.
                        self.outbox.wait = ctx.settings.resend;
                        self.outbox.by(ctx.now + ctx.settings.resend);
                    }
                }
            }
        }
    }

    /// The SAs as they should be, keys that were not handed out yet among them.
    pub fn hand_out(&mut self) -> Option<PeerSas> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut sas = Vec::new();
        for direction in [Direction::In, Direction::Out] {
            for state in self
                .slots
                .of_mut(direction)
                .filter(|state| !state.is_leaving())
            {
                let mut keys = match &mut state.progress {
                    Progress::New(keys) => std::mem::take(keys).into_iter(),
                    _ => Vec::new().into_iter(),
                };
                if matches!(state.progress, Progress::New(_)) {
                    state.progress = Progress::HandedOut;
                }
                for lane in 0..state.lanes {
                    sas.push(Sa {
                        direction,
                        epoch: state.epoch,
                        slot: state.key.slot,
                        lane: Lane::new(lane).expect("checked when the slot was made"),
                        sender_generation: state.sender_generation,
                        receiver_generation: state.receiver_generation,
                        keying: keys.next().map_or(Keying::Adopted, Keying::Keyed),
                    });
                }
            }
        }
        Some(PeerSas {
            transmit: self.transmit(),
            sas,
        })
    }

    /// In what this node sends to the peer.
    pub fn transmit(&self) -> Option<Transmit> {
        let state = self.outbound(self.transmit?)?;
        Some(Transmit {
            epoch: state.epoch,
            slot: state.key.slot,
            lanes: state.lanes,
        })
    }

    /// Since when it sends in that.
    pub fn transmit_since(&self) -> Option<Instant> {
        Some(self.outbound(self.transmit?)?.since)
    }

    fn outbound(&self, slot: Slot) -> Option<&SlotState> {
        self.slots.get(SlotKey {
            direction: Direction::Out,
            slot,
        })
    }

    /// What is missing before both directions are ready in an epoch.
    pub fn lag(&self, epoch: EpochName, generation: Generation) -> Option<Lag> {
        let Some(theirs) = self.theirs.iter().find(|theirs| theirs.epoch == epoch) else {
            return Some(Lag::NoKey);
        };
        if theirs.broken {
            return Some(Lag::BrokenKey);
        }
        let fits = |state: &SlotState, sender, receiver| {
            state.name == Some(epoch)
                && Some(state.sender_generation) == sender
                && Some(state.receiver_generation) == receiver
                && state.is_ready()
        };
        let ours = Some(generation);
        if self
            .slots
            .newest(Direction::In, |state| fits(state, self.generation, ours))
            .is_none()
        {
            return Some(Lag::NotInstalled);
        }
        if self
            .slots
            .newest(Direction::Out, |state| fits(state, ours, self.generation))
            .is_some()
        {
            return None;
        }
        let offered = theirs
            .offer
            .is_some_and(|offer| offer.sender_generation == generation);
        Some(if offered {
            Lag::NotInstalled
        } else {
            Lag::NotAcknowledged
        })
    }

    /// When the peer wants attention without any input.
    pub fn deadline(&self) -> Option<Instant> {
        let speaks = self.outbox.at.filter(|_| self.node.is_some());
        [self.settle_at, speaks].into_iter().flatten().min()
    }
}
