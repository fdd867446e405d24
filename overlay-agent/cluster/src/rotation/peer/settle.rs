//! From what is known to what should be: the rules of staging, switching and retiring one peer.
//!
//! [`Peer::settle`] is idempotent. It is called after every input and at every deadline, so no rule
//! depends on the order in which facts arrive.

use overlay_ebpf::abi::{Epoch, Lane};

use crate::{
    keys::{PairError, PairSecret, SaName, Side},
    secret::KeyMaterial,
    time::Instant,
};

use super::{Context, Peer};
use crate::{
    id::EpochName,
    rotation::{
        alarm::Alarm,
        epochs::Used,
        log_view::Role,
        sa::{Direction, SlotKey},
        slots::{Progress, SlotState},
    },
};

impl Peer {
    pub fn settle(&mut self, ctx: &mut Context<'_>) {
        self.settle_at = None;
        self.slots.sweep();
        if self.gone {
            return;
        }
        self.forget_secrets(ctx);
        let names: Vec<EpochName> = ctx
            .epochs
            .live
            .iter()
            .filter(|(_, epoch)| epoch.material.is_some())
            .map(|(name, _)| *name)
            .collect();
        for name in names {
            if self.agree(name, ctx) {
                self.stage(name, ctx);
                self.accept(name, ctx);
            }
        }
        self.choose(ctx);
        if self.retire(ctx) {
            // What traffic was in until the last moment may have gone.
            self.choose(ctx);
        }
        self.slots.sweep();
    }

    fn wake(&mut self, at: Instant) {
        self.settle_at = Some(self.settle_at.map_or(at, |set| set.min(at)));
    }

    /// Pair secrets go with the material that they were made from.
    fn forget_secrets(&mut self, ctx: &Context<'_>) {
        for theirs in &mut self.theirs {
            let live = ctx.epochs.live.get(&theirs.epoch);
            if live.is_none_or(|epoch| epoch.material.is_none()) {
                theirs.secret = None;
            }
        }
    }

    /// Whether there is a pair secret for the epoch.
    fn agree(&mut self, name: EpochName, ctx: &mut Context<'_>) -> bool {
        let Some(theirs) = self.theirs.iter_mut().find(|theirs| theirs.epoch == name) else {
            return false;
        };
        if theirs.secret.is_some() || theirs.broken {
            return !theirs.broken;
        }
        let Some(material) = &ctx.epochs.live[&name].material else {
            return false;
        };
        match PairSecret::new(&material.secrets, &material.ephemeral, theirs.public) {
            Ok(secret) => theirs.secret = Some(secret),
            Err(PairError::ZeroSharedSecret(public)) => {
                theirs.broken = true;
                ctx.alarms.raise(Alarm::BrokenKey {
                    peer: self.index,
                    public,
                });
            }
        }
        !theirs.broken
    }

    /// Installs inbound SAs for the peer's present key, unless there are some.
    fn stage(&mut self, name: EpochName, ctx: &mut Context<'_>) {
        let (Some(node), Some(generation)) = (self.node, self.generation) else {
            return;
        };
        let Some(theirs) = self.theirs.iter().find(|theirs| theirs.epoch == name) else {
            return;
        };
        let refused = theirs.refused_by_them;
        let ours = ctx.generation;
        let present = |state: &SlotState| {
            state.name == Some(name)
                && state.sender_generation == generation
                && state.receiver_generation == ours
        };
        if self
            .slots
            .newest(Direction::In, present)
            .is_some_and(|state| state.session > refused)
        {
            return;
        }
        if !self.inbound_retry.is_due(ctx.now) {
            if let Some(at) = self.inbound_retry.at {
                self.wake(at);
            }
            return;
        }
        let sends_in = self.their_transmit.map(|(slot, _)| slot);
        let newest: Vec<_> = ctx
            .epochs
            .live
            .keys()
            .filter_map(|live| {
                let of_epoch = |state: &SlotState| state.name == Some(*live) && state.is_ready();
                Some(self.slots.newest(Direction::In, of_epoch)?.key.slot)
            })
            .collect();
        // The peer may send in any that it holds. What that is, its agent that runs now has to say to ours.
        let (knows_us, held) = (self.knows_us, &self.their_held);
        let room = self.slots.make_room(Direction::In, |state| {
            Some(state.key.slot) == sends_in
                || held.contains(&state.key.slot)
                || !knows_us
                || (newest.contains(&state.key.slot)
                    && !(present(state) && state.session <= refused))
        });
        if !room {
            self.changed = true;
            return;
        }
        if let Err(at) = self.budget.spend(ctx.settings, ctx.now) {
            self.wake(at);
            return;
        }
        let slot = self.slots.free_inbound(self.last_inbound, &self.their_held);
        let Some((secret, public, lanes)) = self.pair_secret(name, ctx) else {
            return;
        };
        let session = ctx.count();
        let material = ctx.epochs.live[&name].material.as_ref();
        let our_public = material.map(|material| material.ephemeral.public());
        let sa_name = SaName {
            cluster: ctx.cluster,
            epoch: name,
            sender: Side {
                node,
                generation,
                public,
            },
            receiver: Side {
                node: ctx.node,
                generation: ours,
                public: our_public.expect("a pair secret was made of it"),
            },
            session,
            slot,
            lane: FIRST_LANE,
        };
        let keys = keys(secret, sa_name, lanes);
        self.last_inbound = slot;
        self.push(Direction::In, sa_name, keys, ctx);
    }

    /// Installs outbound SAs for what the peer has staged for our present key, once.
    fn accept(&mut self, name: EpochName, ctx: &mut Context<'_>) {
        let (Some(node), Some(generation)) = (self.node, self.generation) else {
            return;
        };
        let Some(theirs) = self.theirs.iter_mut().find(|theirs| theirs.epoch == name) else {
            return;
        };
        let Some(offer) = theirs.offer else { return };
        let Some(material) = &ctx.epochs.live[&name].material else {
            return;
        };
        let our_public = material.ephemeral.public();
        if offer.sender_generation != ctx.generation || offer.sender_public != our_public {
            return;
        }
        let taken = self.slots.of(Direction::Out).any(|state| {
            state.name == Some(name)
                && state.session == offer.session
                && state.receiver_generation == generation
                && !state.is_leaving()
        });
        if taken {
            return;
        }
        if !self.outbound_retry.is_due(ctx.now) {
            if let Some(at) = self.outbound_retry.at {
                self.wake(at);
            }
            return;
        }
        let use_of = Used {
            generation,
            session: offer.session,
        };
        if material
            .used
            .get(&self.index)
            .is_some_and(|used| *used >= use_of)
        {
            // These keys were handed out: another staging is asked for.
            if theirs.refused_by_us != Some(offer.session) {
                theirs.refused_by_us = Some(offer.session);
                self.tell_at_once(ctx);
            }
            return;
        }
        let key = SlotKey {
            direction: Direction::Out,
            slot: offer.slot,
        };
        if let Some(state) = self.slots.get_mut(key) {
            // The peer has given the number to new SAs, so it has none of the old ones: what is sent
            // on those is lost already.
            if !state.is_leaving() {
                state.let_go();
                self.changed = true;
            }
            return;
        }
        // Packets that were sent in it may not have left yet.
        let (sends_in, now, drain) = (self.transmit, ctx.now, ctx.settings.drain);
        let drained = |state: &SlotState| state.idle.map(|idle| idle + drain);
        let room = self.slots.make_room(Direction::Out, |state| {
            Some(state.key.slot) == sends_in || drained(state).is_none_or(|at| at > now)
        });
        if !room {
            self.changed = true;
            let next = self.slots.of(Direction::Out).filter_map(drained).min();
            if let Some(at) = next.filter(|at| *at > now) {
                self.wake(at);
            }
            return;
        }
        if let Err(at) = self.budget.spend(ctx.settings, ctx.now) {
            self.wake(at);
            return;
        }
        let Some((secret, public, _)) = self.pair_secret(name, ctx) else {
            return;
        };
        let sa_name = SaName {
            cluster: ctx.cluster,
            epoch: name,
            sender: Side {
                node: ctx.node,
                generation: ctx.generation,
                public: our_public,
            },
            receiver: Side {
                node,
                generation,
                public,
            },
            session: offer.session,
            slot: offer.slot,
            lane: FIRST_LANE,
        };
        let keys = keys(secret, sa_name, offer.lanes);
        if let Some(epoch) = ctx.epochs.live.get_mut(&name)
            && let Some(material) = &mut epoch.material
        {
            material.used.insert(self.index, use_of);
        }
        self.push(Direction::Out, sa_name, keys, ctx);
    }

    /// Pair secret, their key, and lanes of the pair.
    fn pair_secret(
        &self,
        name: EpochName,
        ctx: &Context<'_>,
    ) -> Option<(&PairSecret, crate::keys::PublicKey, u8)> {
        let theirs = self.theirs.iter().find(|theirs| theirs.epoch == name)?;
        let lanes = theirs.lanes.max(ctx.settings.lanes);
        Some((theirs.secret.as_ref()?, theirs.public, lanes))
    }

    fn push(
        &mut self,
        direction: Direction,
        name: SaName,
        keys: Vec<KeyMaterial>,
        ctx: &mut Context<'_>,
    ) {
        let lanes = u8::try_from(keys.len()).expect("at most 16 lanes");
        self.slots.push(SlotState {
            key: SlotKey {
                direction,
                slot: name.slot,
            },
            epoch: Epoch::new(name.epoch.number),
            name: Some(name.epoch),
            lanes,
            sender_generation: name.sender.generation,
            receiver_generation: name.receiver.generation,
            session: name.session,
            order: ctx.count(),
            progress: Progress::New(keys),
            since: ctx.now,
            idle: (direction == Direction::Out).then_some(ctx.now),
            expires: None,
        });
        self.changed = true;
        self.outbox.news |= direction == Direction::Out;
    }

    /// Chooses the slot to send in: the active epoch before a staged one before a retiring one, and
    /// in each the newest that is installed. Without any, traffic stays where it is until
    /// [`Self::retire`] ends that.
    fn choose(&mut self, ctx: &mut Context<'_>) {
        let sends = self.transmit.and_then(|slot| self.outbound(slot));
        if !ctx.epochs.known && sends.is_some_and(SlotState::is_ready) {
            // The agent before knew the log better than we do yet.
            return;
        }
        let ahead = self.their_transmit.map(|(_, epoch)| epoch);
        let best = self
            .slots
            .of(Direction::Out)
            .filter(|state| state.is_ready())
            .filter_map(|state| {
                let role = match ctx.epochs.role(state.epoch, state.name) {
                    // The peer sends in it already: the log of one of us is behind.
                    Some(Role::Staged) if ahead == Some(state.epoch) => Some(Role::Active),
                    None if Some(state.key.slot) != self.transmit => return None,
                    role => role,
                };
                Some((role, state.epoch, state.order, state.key.slot))
            })
            .max()
            .map(|(.., slot)| slot);
        if best == self.transmit {
            return;
        }
        let before = self.transmit_epoch();
        for state in self.slots.of_mut(Direction::Out) {
            if Some(state.key.slot) == self.transmit {
                state.idle = Some(ctx.now);
            }
            if Some(state.key.slot) == best {
                (state.idle, state.since) = (None, ctx.now);
            }
        }
        self.transmit = best;
        self.changed = true;
        self.outbox.news = true;
        if before == self.transmit_epoch() {
            // Without it the peer would keep what it has replaced until the epoch retires.
            self.tell_at_once(ctx);
        }
    }

    fn transmit_epoch(&self) -> Option<Epoch> {
        Some(self.outbound(self.transmit?)?.epoch)
    }

    /// Lets go what has retired or been replaced, and is used by nobody; what has retired and is used,
    /// after a while. Whether anything went.
    fn retire(&mut self, ctx: &mut Context<'_>) -> bool {
        let (drain, linger, overtime) = (
            ctx.settings.drain,
            ctx.settings.linger,
            ctx.settings.overtime,
        );
        // Per slot: whether its epoch lives, and whether a newer one of its epoch is installed.
        let fate: Vec<_> = self
            .slots
            .iter()
            .map(|state| {
                let live = ctx.epochs.role(state.epoch, state.name).is_some();
                let replaced = self.slots.of(state.key.direction).any(|newer| {
                    newer.order > state.order && newer.epoch == state.epoch && newer.is_ready()
                });
                (live, replaced)
            })
            .collect();
        let mut wake = None;
        let mut changed = false;
        for (state, (live, replaced)) in self.slots.iter_mut().zip(fate) {
            if state.is_leaving() || (live && !replaced) {
                continue;
            }
            if !live && state.expires.is_none() {
                state.expires = Some(match state.key.direction {
                    Direction::In => ctx.now + linger,
                    Direction::Out => ctx.now + overtime,
                });
            }
            let unused = !live && !state.is_ready();
            let drained = state.idle.map(|idle| idle + drain);
            let end = [drained, state.expires].into_iter().flatten().min();
            if unused || end.is_some_and(|end| end <= ctx.now) {
                state.let_go();
                changed = true;
            } else if let Some(end) = end {
                wake = Some(wake.map_or(end, |set: Instant| set.min(end)));
            }
        }
        self.changed |= changed;
        if let Some(at) = wake {
            self.wake(at);
        }
        changed
    }
}

const FIRST_LANE: Lane = match Lane::new(0) {
    Ok(lane) => lane,
    Err(_) => panic!("lane 0 exists"),
};

fn keys(secret: &PairSecret, name: SaName, lanes: u8) -> Vec<KeyMaterial> {
    (0..lanes)
        .map(|lane| {
            let lane = Lane::new(lane).expect("lanes are checked where they are read");
            secret.key(&SaName { lane, ..name })
        })
        .collect()
}
