//! A stub of the managers' log: the roster, the epochs, and who may have their secrets.

use std::collections::{BTreeMap, BTreeSet};

use overlay_cluster::{
    id::{EpochName, NodeId},
    keys::EpochSecrets,
    rotation::{
        Digest, LogView, Member,
        schedule::{self, Decision, EpochLog, Input, Phase, Timing},
    },
    time::Timestamp,
};
use overlay_ebpf::abi::PeerIndex;
use rand::rngs::StdRng;

#[derive(Debug)]
pub struct Managers {
    pub revision: u64,
    pub log: EpochLog,
    pub timing: Timing,
    pub roster: BTreeMap<PeerIndex, NodeId>,
    /// Pairs that share no encrypted network for the moment, the lower index first.
    pub apart: BTreeSet<(PeerIndex, PeerIndex)>,
    pub live: BTreeSet<PeerIndex>,
    pub digests: BTreeMap<PeerIndex, Digest>,
    secrets: BTreeMap<EpochName, EpochSecrets>,
    pub steps: Vec<(Timestamp, Decision)>,
}

impl Managers {
    pub fn new(timing: Timing, now: Timestamp, rng: &mut StdRng) -> Self {
        let secrets = EpochSecrets::random(rng);
        let current = secrets.name(0, 1);
        Self {
            revision: 1,
            log: EpochLog {
                current,
                phase: Phase::Stable,
                last_rotation: now,
                requested_at: None,
                evicted_at: None,
            },
            timing,
            roster: BTreeMap::new(),
            apart: BTreeSet::new(),
            live: BTreeSet::new(),
            digests: BTreeMap::new(),
            secrets: BTreeMap::from([(current, secrets)]),
            steps: Vec::new(),
        }
    }

    pub fn view(&self, of: PeerIndex) -> LogView {
        let shared = |peer: PeerIndex| !self.apart.contains(&(of.min(peer), of.max(peer)));
        LogView {
            revision: self.revision,
            epochs: self.log.roles(),
            member: self.roster.contains_key(&of),
            peers: self
                .roster
                .iter()
                .filter(|(peer, _)| **peer != of && shared(**peer))
                .map(|(peer, node)| (*peer, Member { node: *node }))
                .collect(),
        }
    }

    /// Only members get secrets, and only of epochs that live.
    pub fn secrets(&self, of: PeerIndex, name: EpochName) -> Option<EpochSecrets> {
        self.roster.get(&of)?;
        self.log.roles().get(&name)?;
        self.secrets.get(&name).cloned()
    }

    pub fn request(&mut self) {
        self.log.requested_at = Some(self.log.newest().number);
        self.revision += 1;
    }

    pub fn evict(&mut self, peer: PeerIndex) {
        self.roster.remove(&peer);
        self.live.remove(&peer);
        self.digests.remove(&peer);
        self.log.evicted_at = Some(self.log.newest().number);
        self.revision += 1;
    }

    pub fn digest(&mut self, from: PeerIndex, digest: Digest) {
        let order = |digest: &Digest| (digest.generation, digest.sequence);
        if self.roster.contains_key(&from)
            && self
                .digests
                .get(&from)
                .is_none_or(|known| order(known) < order(&digest))
        {
            self.digests.insert(from, digest);
        }
    }

    /// Commits what the schedule decides. The answer says whether anything changed.
    pub fn step(&mut self, now: Timestamp, rng: &mut StdRng) -> bool {
        let decision = schedule::decide(&Input {
            log: &self.log,
            timing: &self.timing,
            now,
            live: &self.live,
            digests: &self.digests,
        });
        match decision {
            Decision::Wait { .. } => return false,
            Decision::Stage { number, .. } => {
                let secrets = EpochSecrets::random(rng);
                let next = secrets.name(0, number);
                assert!(
                    self.secrets.keys().all(|known| known.number < number),
                    "at most one secret per epoch"
                );
                self.secrets.insert(next, secrets);
                self.log.phase = Phase::Staging { next, since: now };
                self.log.last_rotation = now;
            }
            Decision::Activate => {
                let previous = self.log.current;
                self.log.current = self.log.newest();
                self.log.phase = Phase::Activated {
                    previous,
                    since: now,
                };
            }
            Decision::Retire => self.log.phase = Phase::Retiring { since: now },
            Decision::Finish => self.log.phase = Phase::Stable,
        }
        self.revision += 1;
        self.steps.push((now, decision));
        true
    }
}
