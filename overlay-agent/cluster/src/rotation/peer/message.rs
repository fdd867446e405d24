//! The conversation with one peer.

use crate::{
    rotation::{
        acknowledgement::{Acknowledgement, EpochState, Refused, Seen, Staged},
        alarm::Alarm,
        log_view::Role,
        sa::Direction,
        slots::SlotState,
    },
    time::Instant,
};

use super::{Context, Peer};

impl Peer {
    /// Something has happened that the peer waits for.
    pub(super) fn tell_at_once(&mut self, ctx: &Context<'_>) {
        self.outbox.news = true;
        self.outbox.wait = ctx.settings.resend;
        self.outbox.by(ctx.now);
    }

    /// Takes a message whose signature and names have been checked.
    pub fn hear(&mut self, message: &Acknowledgement, ctx: &mut Context<'_>) {
        // An answer waits a little: it often finds company.
        let answer_at = ctx.now + ctx.settings.resend / 4;
        if message.wants_reply {
            self.outbox.by(answer_at);
        }
        if !self.meet(message.generation, ctx) {
            // An old agent of the peer, or one restored: the answer names the newer generation.
            self.outbox.by(answer_at);
            return;
        }
        let this = Seen {
            generation: message.generation,
            sequence: message.sequence,
        };
        if let Some(seen) = message.seen
            && seen.generation > ctx.generation
        {
            ctx.alarms.raise(Alarm::GenerationBehind {
                ours: ctx.generation,
                known: seen.generation,
            });
        }
        if self.seen.is_some_and(|seen| seen > this) {
            return;
        }
        let confirms = message.seen
            == Some(Seen {
                generation: ctx.generation,
                sequence: self.outbox.sequence,
            });
        if !confirms && self.outbox.confirmed {
            // It has forgotten: a new agent, or one that has parted with us in between.
            self.outbox.wait = ctx.settings.resend;
            self.outbox.by(answer_at);
        }
        self.outbox.confirmed = confirms;
        if confirms && !self.outbox.news && !message.wants_reply {
            self.outbox.at = None;
        }
        if self.seen == Some(this) {
            return;
        }
        self.seen = Some(this);
        for theirs in &mut self.theirs {
            theirs.offer = None;
        }
        for state in &message.epochs {
            self.hear_epoch(state, ctx);
        }
        self.their_held.clone_from(&message.held);
        self.knows_us = message
            .seen
            .is_some_and(|seen| seen.generation == ctx.generation);
        self.their_transmit = message.transmit;
        self.see_idle(ctx.now);
    }

    fn hear_epoch(&mut self, state: &EpochState, ctx: &mut Context<'_>) {
        let Some(at) = self.learn(state.epoch, state.public, state.lanes, ctx) else {
            return;
        };
        let theirs = &mut self.theirs[at];
        theirs.offer = state.staged;
        if let Some(refused) = state.refused
            && refused.receiver_generation == ctx.generation
            // Nobody can have met a session that is still to come.
            && refused.session <= *ctx.counter
        {
            theirs.refused_by_them = refused.session;
        }
    }

    /// Inbound slots older than the one that the peer sends in, and gone from its kernel.
    fn see_idle(&mut self, now: Instant) {
        let Some((slot, _)) = self.their_transmit else {
            return;
        };
        let Some(order) = self
            .slots
            .of(Direction::In)
            .find(|state| state.key.slot == slot)
            .map(|state| state.order)
        else {
            return;
        };
        for state in self.slots.of_mut(Direction::In) {
            if state.order < order && !self.their_held.contains(&state.key.slot) {
                state.idle.get_or_insert(now);
            } else {
                state.idle = None;
            }
        }
    }

    /// The message that is due.
    pub fn speak(&mut self, ctx: &mut Context<'_>) -> Option<Acknowledgement> {
        if self.outbox.at.is_none_or(|at| at > ctx.now) || self.gone {
            return None;
        }
        let to = self.node?;
        if self.outbox.news || self.outbox.sequence == 0 {
            self.outbox.sequence = ctx.count();
            self.outbox.news = false;
            self.outbox.confirmed = false;
        }
        let wants_reply = !self.outbox.confirmed;
        self.outbox.at = wants_reply.then(|| ctx.now + self.outbox.wait.max(ctx.settings.resend));
        self.outbox.wait =
            (self.outbox.wait.max(ctx.settings.resend) * 2).min(ctx.settings.resend_max);
        Some(Acknowledgement {
            cluster: ctx.cluster,
            from: ctx.node,
            to,
            index: ctx.index,
            generation: ctx.generation,
            sequence: self.outbox.sequence,
            seen: self.seen.or(self.generation.map(|generation| Seen {
                generation,
                sequence: 0,
            })),
            wants_reply,
            epochs: self.epoch_states(ctx),
            held: self
                .slots
                .of(Direction::Out)
                .map(|state| state.key.slot)
                .collect(),
            transmit: self
                .transmit()
                .map(|transmit| (transmit.slot, transmit.epoch)),
        })
    }

    fn epoch_states(&self, ctx: &Context<'_>) -> Vec<EpochState> {
        let mut states: Vec<_> = ctx
            .epochs
            .live
            .iter()
            .rev()
            .filter(|(_, epoch)| epoch.role != Role::Retiring)
            .filter_map(|(name, epoch)| {
                let material = epoch.material.as_ref()?;
                let theirs = self.theirs.iter().find(|theirs| theirs.epoch == *name);
                let staged = self
                    .slots
                    .newest(Direction::In, |state| {
                        state.name == Some(*name)
                            && Some(state.sender_generation) == self.generation
                            && state.receiver_generation == ctx.generation
                            && state.is_ready()
                    })
                    .zip(theirs)
                    .map(|(state, theirs): (&SlotState, _)| Staged {
                        sender_generation: state.sender_generation,
                        sender_public: theirs.public,
                        slot: state.key.slot,
                        lanes: state.lanes,
                        session: state.session,
                    });
                let refused = theirs
                    .and_then(|theirs| theirs.refused_by_us)
                    .zip(self.generation)
                    .map(|(session, receiver_generation)| Refused {
                        receiver_generation,
                        session,
                    });
                Some(EpochState {
                    epoch: *name,
                    public: material.ephemeral.public(),
                    lanes: ctx.settings.lanes,
                    staged,
                    refused,
                })
            })
            .take(Acknowledgement::EPOCHS)
            .collect();
        states.reverse();
        states
    }
}
