//! Invariants, checked at each change of each node.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    gossip::{
        record::{Body, Key},
        roster::Roster,
        store::Store,
    },
    id::NodeId,
    time::Instant,
};

/// A record that a node may hold.
type Written = (NodeId, Key, Vec<u8>);

fn written(owner: NodeId, body: &Body) -> Written {
    let bytes = postcard::to_stdvec(body).expect("a body has an encoding");
    (owner, body.key(), bytes)
}

/// What was written by whom, as an all-seeing observer knows.
#[derive(Debug, Default)]
pub(super) struct Truth {
    written: BTreeSet<Written>,
    alive: BTreeMap<(NodeId, Key), Vec<u8>>,
    /// May say of itself what it likes.
    liar: Option<NodeId>,
}

/// What one node saw go.
#[derive(Debug, Default)]
pub(super) struct Memory {
    alive: BTreeMap<(NodeId, Key), Vec<u8>>,
    gone: BTreeSet<Written>,
}

impl Truth {
    pub fn publish(&mut self, owner: NodeId, body: &Body) {
        let (owner, key, bytes) = written(owner, body);
        self.written.insert((owner, key, bytes.clone()));
        self.alive.insert((owner, key), bytes);
    }

    pub fn withdraw(&mut self, owner: NodeId, key: Key) {
        self.alive.remove(&(owner, key));
    }

    #[cfg(test)]
    pub fn distrust(&mut self, liar: NodeId) {
        self.forget(liar);
        self.liar = Some(liar);
    }

    pub fn forget(&mut self, owner: NodeId) {
        self.alive.retain(|(of, _), _| *of != owner);
    }

    /// Whether the store holds, alive, exactly what is alive.
    pub fn is_held_by(&self, store: &Store) -> bool {
        let mut held = 0;
        let mut honest = store
            .bodies()
            .filter(|(owner, _)| Some(*owner) != self.liar);
        honest.all(|(owner, body)| {
            held += 1;
            let (owner, key, bytes) = written(owner, &body);
            self.alive.get(&(owner, key)) == Some(&bytes)
        }) && held == self.alive.len()
    }

    pub fn alive(&self) -> usize {
        self.alive.len()
    }

    /// Checks a change of one node's store.
    ///
    /// # Panics
    ///
    /// If an invariant does not hold.
    pub fn check(
        &self,
        now: Instant,
        memory: &mut Memory,
        (owner, key): (NodeId, Key),
        store: &Store,
        roster: &impl Roster,
    ) {
        if self.liar == Some(owner) {
            return;
        }
        let before = memory.alive.remove(&(owner, key));
        if let Some(bytes) = before {
            memory.gone.insert((owner, key, bytes));
        }
        if let Some(body) = store.get(owner, &key) {
            let found = written(owner, &body);
            assert!(
                self.written.contains(&found),
                "{now}: {owner} never wrote this {key}: {body:?}"
            );
            assert!(
                !memory.gone.contains(&found),
                "{now}: {key} of {owner} returned after it was gone"
            );
            assert!(
                roster.key_of(owner).is_some(),
                "{now}: a record of {owner}, which left"
            );
            memory.alive.insert((owner, key), found.2);
        }
    }
}
