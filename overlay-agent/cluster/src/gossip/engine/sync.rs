//! Anti-entropy as part of a node.

use super::{Action, Gossip};
use crate::{
    gossip::{
        anti_entropy::{self, Ask, SyncError},
        limits::{ANSWERS, TokenBucket},
        roster::Roster,
    },
    id::NodeId,
    time::Instant,
};

/// One exchange that this node asked for.
#[derive(Debug)]
pub struct Sync {
    ask: Ask,
    /// Whether it brought anything.
    learned: bool,
    down: Vec<NodeId>,
}

impl Sync {
    pub const fn peer(&self) -> NodeId {
        self.ask.peer()
    }
}

impl<R: Roster> Gossip<R> {
    /// Begins an exchange. The bytes are the first message for the peer.
    pub fn start_sync(&mut self, peer: NodeId) -> (Sync, Vec<u8>) {
        let (ask, message) = Ask::start(peer, !self.plan.synced, &self.store);
        let sync = Sync {
            ask,
            learned: false,
            down: Vec::new(),
        };
        (sync, message)
    }

    /// Takes the peer's answer. Gives the next message, or nothing when the exchange is over: then
    /// call [`Gossip::end_sync`].
    pub fn continue_sync(
        &mut self,
        now: Instant,
        sync: &mut Sync,
        answer: &[u8],
    ) -> Result<(Option<Vec<u8>>, Vec<Action>), SyncError> {
        let mut actions = Vec::new();
        let learned = sync.ask.receive(answer, &self.store)?;
        sync.down.extend(learned.down);
        for signed in learned.records {
            let spread = self.is_news(sync.peer(), signed.owner());
            sync.learned |= self.take(now, signed, spread, &mut actions);
        }
        Ok((sync.ask.next(&self.store)?, actions))
    }

    /// Answers a message of `peer`, whose certificate the caller has checked.
    pub fn answer_sync(
        &mut self,
        now: Instant,
        peer: NodeId,
        message: &[u8],
    ) -> Result<(Vec<u8>, Vec<Action>), SyncError> {
        if self.roster.key_of(peer).is_none() {
            return Err(SyncError::Stranger(peer));
        }
        let full = || TokenBucket::full(ANSWERS, now);
        if !self.answers.entry(peer).or_insert_with(full).take(now) {
            return Err(SyncError::Busy);
        }
        let mut actions = Vec::new();
        let mut answer = anti_entropy::answer(message)?;
        for signed in std::mem::take(&mut answer.records) {
            let spread = self.is_news(peer, signed.owner());
            self.take(now, signed, spread, &mut actions);
        }
        let reply = answer.reply(&self.store, &self.roster, self.membership.down());
        Ok((reply, actions))
    }

    /// An exchange ended, well or not at all (`None`: the peer could not be reached or broke off).
    pub fn end_sync(&mut self, now: Instant, peer: NodeId, sync: Option<Sync>) -> Vec<Action> {
        let mut actions = Vec::new();
        let learned = sync.as_ref().is_some_and(|sync| sync.learned);
        self.plan.barren = match learned {
            true => 0,
            false => self.plan.barren.saturating_add(1),
        };
        if let Some(sync) = sync {
            self.plan.synced = true;
            let effects = self.membership.believe_down(now, &sync.down);
            self.settle(now, effects, &mut actions);
            if !self.membership.is_up(peer) {
                let effects = self.membership.ask(now, peer);
                self.settle(now, effects, &mut actions);
            }
        }
        let pause = self.plan.pause();
        let next = now + self.jittered(pause);
        self.plan.sync_by(next, None);
        actions
    }

    /// Whether to pass on what an exchange brought: what the owner itself brings others lack; anything
    /// else only while little is waiting, since a node that was away lacks what all others have.
    fn is_news(&self, peer: NodeId, owner: NodeId) -> bool {
        const LITTLE: usize = 32;
        peer == owner || self.membership.waiting_records() < LITTLE
    }
}
