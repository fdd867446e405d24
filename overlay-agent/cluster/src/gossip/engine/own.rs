//! What this node says of itself.

use std::time::Duration;

use super::{Action, Gossip};
use crate::{
    gossip::{
        record::{Body, Content, Key, Record, RecordError, Signed, Version},
        roster::Roster,
        store::Refused,
    },
    id::Generation,
    time::Instant,
};

/// Time that records written anew have to spread before the floor voids the old ones. A node that they
/// missed would drop the old ones and be without until its next anti-entropy.
const SETTLE: Duration = Duration::from_secs(30);
/// Tombstones before the floor is raised, beyond as many as there are live records.
const MANY_TOMBSTONES: usize = 64;

/// A record of this node that no other would take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The body is invalid.
    #[error("cannot publish: {0}")]
    Record(#[from] RecordError),
    /// This node is in no roster, or has too many records.
    #[error("cannot publish: {0}")]
    Refused(#[from] Refused),
    /// The floor is raised by [`Gossip::complete`] and never deleted.
    #[error("a floor is not withdrawn")]
    Floor,
}

impl<R: Roster> Gossip<R> {
    /// Publishes a record of this node. What is published already costs nothing. In a node record the
    /// boot nonce is filled in: it is the one that this start seals with.
    pub fn publish(&mut self, now: Instant, mut body: Body) -> Result<Vec<Action>, PublishError> {
        if let Body::Node(node) = &mut body {
            node.boot = self.sealer.boot();
        }
        if self.store.get(self.me, &body.key()).as_ref() == Some(&body) {
            return Ok(Vec::new());
        }
        self.write(now, Content::Live(body))
    }

    /// Deletes a record of this node everywhere. What is not there costs nothing.
    pub fn withdraw(&mut self, now: Instant, key: Key) -> Result<Vec<Action>, PublishError> {
        if key == Key::Floor {
            return Err(PublishError::Floor);
        }
        if self.store.get(self.me, &key).is_none() {
            return Ok(Vec::new());
        }
        let actions = self.write(now, Content::Deleted(key))?;
        let tombstones = self.store.tombstones(self.me);
        let live = self.store.of(self.me).count() - tombstones;
        if tombstones >= MANY_TOMBSTONES.max(live) && !self.plan.floor_is_due() {
            let below = self.rewrite(now);
            self.plan.raise_floor(now + SETTLE, below);
        }
        Ok(actions)
    }

    /// Everything this node has is published. What it wrote in earlier starts and did not write again is
    /// voided soon after some of it shows up; until then others keep it.
    pub fn complete(&mut self, now: Instant) {
        self.plan.complete = true;
        self.end_remains(now);
    }

    fn end_remains(&mut self, now: Instant) {
        let below = Version {
            generation: self.generation,
            counter: 0,
        };
        let due = self.plan.complete && self.plan.remains && !self.plan.floor_is_due();
        if due && self.store.floor(self.me) < below {
            self.plan.remains = false;
            let settled = now + SETTLE + self.jittered(SETTLE);
            self.plan.raise_floor(settled, below);
        }
    }

    pub(super) fn write(
        &mut self,
        now: Instant,
        content: Content,
    ) -> Result<Vec<Action>, PublishError> {
        let key = content.key();
        let record = Record {
            owner: self.me,
            version: Version {
                generation: self.generation,
                counter: self.counter,
            },
            content,
        };
        let signed = Signed::new(record, self.cluster, &self.key)?;
        let change = self.store.apply(signed, &self.roster)?;
        self.counter += 1;
        self.unsent.insert(key);
        self.refill();
        self.plan.hurry(now);
        let owner = self.me;
        let keys = change.keys.into_iter();
        Ok(keys
            .map(|key| Action::RecordChanged { owner, key })
            .collect())
    }

    /// Writes every live record anew. Gives the version that all of them reach.
    fn rewrite(&mut self, now: Instant) -> Version {
        let below = Version {
            generation: self.generation,
            counter: self.counter,
        };
        let live: Vec<_> = self
            .store
            .of(self.me)
            .map(|signed| signed.record().content)
            .filter(|content| content.body().is_some())
            .collect();
        for content in live {
            let written = self.write(now, content);
            debug_assert_eq!(written, Ok(Vec::new()), "the same content in a known key");
        }
        below
    }

    /// Moves own records into dissemination while it has room: members first, then endpoints.
    pub(super) fn refill(&mut self) {
        while let Some(key) = self.unsent.first().copied() {
            let signed = self.store.signed(self.me, &key);
            if signed.is_some_and(|signed| !self.membership.spread(signed)) {
                break;
            }
            self.unsent.pop_first();
        }
    }

    /// A record of this node came from elsewhere: the remains of an earlier start, most likely. One
    /// that this start did not write and that outbids it tells of a lost generation, or of a second node
    /// with this key: this one goes above it.
    pub(super) fn see_own(&mut self, now: Instant, signed: &Signed, actions: &mut Vec<Action>) {
        let version = signed.version();
        let next = Version {
            generation: self.generation,
            counter: self.counter,
        };
        let is_remains = version.generation < self.generation
            && version >= self.store.floor(self.me)
            && !self.plan.remains;
        let is_news = is_remains || version >= next;
        let key = self.key.verifying_key();
        if !is_news || !signed.verify(self.cluster, &key) || !self.raises.take(now) {
            return;
        }
        self.plan.remains = true;
        if version >= next {
            let generation = Generation(version.generation.0 + 1);
            let first = Version {
                generation,
                counter: 0,
            };
            if first.is_absurd() {
                return;
            }
            self.generation = generation;
            self.counter = 0;
            self.rewrite(now);
            let effects = self.membership.renew(now, generation);
            self.settle(now, effects, actions);
            actions.push(Action::GenerationRaised { generation });
        }
        self.end_remains(now);
    }
}
