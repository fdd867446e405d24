//! What is due when.

use std::{collections::BTreeSet, time::Duration};

use rand::RngExt as _;

use super::{Action, Gossip};
use crate::{
    gossip::{
        envelope::BootNonce,
        record::{Content, Version},
        roster::Roster,
    },
    id::NodeId,
    time::Instant,
};

/// News wait this long for more news before they go out together.
const GATHER: Duration = Duration::from_millis(10);
/// And no more often than this.
const BETWEEN: Duration = Duration::from_millis(50);
/// More than two datagrams hold.
const LONG: usize = 64;
/// How long the signed record of a restarted member may take to arrive before it is asked for.
const MISSING: Duration = Duration::from_secs(2);

/// Anti-entropy while nothing is new.
const CALM: Duration = Duration::from_secs(60);
/// After an exchange that brought something. Each that brings nothing doubles the pause.
const SOON: Duration = Duration::from_secs(1);

/// Everything that waits for a time, beside foca's timers.
#[derive(Debug)]
pub(super) struct Plan {
    gossip: Option<Instant>,
    gossiped: Instant,
    pub sync: Instant,
    /// With whom, if with somebody in particular.
    pub partner: Option<NodeId>,
    /// Members that went down and did not come back.
    pub fallen: BTreeSet<NodeId>,
    /// An exchange succeeded since the start.
    pub synced: bool,
    /// Exchanges, one after another, that brought nothing or failed.
    pub barren: u32,
    /// This node has published all it has.
    pub complete: bool,
    /// Records of an earlier start of this node are about.
    pub remains: bool,
    floor: Option<(Instant, Version)>,
    missing: Option<(Instant, NodeId, BootNonce)>,
}

impl Plan {
    pub const fn new(now: Instant) -> Self {
        Self {
            gossip: None,
            gossiped: now,
            sync: now,
            partner: None,
            fallen: BTreeSet::new(),
            synced: false,
            barren: 0,
            complete: false,
            remains: false,
            floor: None,
            missing: None,
        }
    }

    /// There is news.
    pub fn hurry(&mut self, now: Instant) {
        let soon = (now + GATHER).max(self.gossiped + BETWEEN);
        self.gossip.get_or_insert(soon);
    }

    /// A datagram named a start of which there is no record. One such at a time is looked after.
    pub fn miss(&mut self, now: Instant, sender: NodeId, boot: BootNonce) {
        self.missing.get_or_insert((now + MISSING, sender, boot));
    }

    pub const fn floor_is_due(&self) -> bool {
        self.floor.is_some()
    }

    pub const fn raise_floor(&mut self, at: Instant, below: Version) {
        self.floor = Some((at, below));
    }

    /// A member went down or came back. Who comes back may have what others lack.
    pub fn hear(&mut self, now: Instant, after: Duration, node: NodeId, up: bool) {
        if !up {
            self.fallen.insert(node);
        } else if self.fallen.remove(&node) {
            self.sync_by(now + after, Some(node));
        }
    }

    /// Anti-entropy no later than this.
    pub fn sync_by(&mut self, at: Instant, partner: Option<NodeId>) {
        if at < self.sync {
            self.sync = at;
            self.partner = partner;
        }
    }

    /// Until the next exchange.
    pub fn pause(&self) -> Duration {
        CALM.min(SOON * (1 << self.barren.min(6)))
    }

    fn next(&self) -> Instant {
        let others = [
            self.gossip,
            self.floor.map(|(at, _)| at),
            self.missing.map(|(at, ..)| at),
        ];
        others.into_iter().flatten().fold(self.sync, Instant::min)
    }
}

/// Takes what is due.
fn due<T>(slot: &mut Option<T>, at: impl Fn(&T) -> Instant, now: Instant) -> Option<T> {
    slot.take_if(|value| at(value) <= now)
}

impl<R: Roster> Gossip<R> {
    /// When to call [`Gossip::handle_timeout`] at the latest.
    pub fn next_timeout(&self) -> Instant {
        let plan = self.plan.next();
        self.membership
            .next_timeout()
            .map_or(plan, |at| at.min(plan))
    }

    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let effects = self.membership.handle_timeout(now);
        self.settle(now, effects, &mut actions);
        if due(&mut self.plan.gossip, |at| *at, now).is_some() {
            self.plan.gossiped = now;
            self.refill();
            let effects = self.membership.gossip(now);
            self.settle(now, effects, &mut actions);
        }
        // Own records that wait for room are not left to anti-entropy, and a long queue (a partition that
        // healed renames every member) not to foca's period.
        if !self.unsent.is_empty() || self.membership.backlog() > LONG {
            self.plan.hurry(now);
        }
        if let Some((_, below)) = due(&mut self.plan.floor, |(at, _)| *at, now)
            && self.store.floor(self.me) < below
            && let Ok(changed) = self.write(now, Content::Floor(below))
        {
            actions.extend(changed);
        }
        if let Some((_, sender, boot)) = due(&mut self.plan.missing, |(at, ..)| *at, now)
            && self
                .store
                .node(sender)
                .is_none_or(|(_, node)| node.boot != boot)
            && self.roster.key_of(sender).is_some()
        {
            self.plan.sync_by(now, Some(sender));
        }
        if self.plan.sync <= now {
            let partner = self.plan.partner.take();
            self.plan.sync = now + self.jittered(CALM);
            let up = |node: &NodeId| self.roster.key_of(*node).is_some() && *node != self.me;
            if let Some(peer) = partner.filter(up).or_else(|| self.choose_partner()) {
                actions.push(Action::RequestSync { peer });
            }
        }
        actions
    }

    /// Half to one and a half of it, so that nodes that started together drift apart.
    pub(super) fn jittered(&mut self, duration: Duration) -> Duration {
        duration.mul_f64(self.rng.random_range(0.5..1.5))
    }
}
