//! What `overlay keys status` shows: by a manager of the cluster, by each node of its peers.

use std::{collections::BTreeMap, time::Duration};

use overlay_ebpf::abi::{Epoch, PeerIndex, Slot};
use serde::{Deserialize, Serialize};

use crate::{
    id::EpochName,
    time::{Instant, Timestamp},
};

use super::{
    Lag, Rotation, Usage,
    schedule::{self, Input, Laggard, Phase},
};

/// The cluster's epochs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    pub epoch: EpochName,
    pub phase: Phase,
    /// Since the newest epoch was staged.
    pub age: Duration,
    /// When the interval is over; a rotation under way ends first.
    pub next_rotation: Timestamp,
    /// Live nodes, and those of them that are ready in the newest epoch.
    pub live: usize,
    pub staged: usize,
    /// The others, and why.
    pub laggards: BTreeMap<PeerIndex, Laggard>,
    /// What the nodes that are ready say of nodes that are not: how many say so, and the first reason.
    pub blamed: BTreeMap<PeerIndex, Blame>,
}

/// What others say of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blame {
    pub by: u32,
    pub reason: Lag,
}

impl ClusterStatus {
    pub fn new(input: &Input<'_>) -> Self {
        let newest = input.log.newest();
        let laggards = schedule::laggards(input);
        let mut blamed = BTreeMap::new();
        for digest in input.digests.values() {
            for (peer, reason) in digest.laggards.iter().filter(|_| digest.epoch == newest) {
                let blame = blamed.entry(*peer).or_insert(Blame {
                    by: 0,
                    reason: *reason,
                });
                blame.by += 1;
            }
        }
        Self {
            epoch: input.log.current,
            phase: input.log.phase,
            age: input.now.since(input.log.last_rotation),
            next_rotation: input
                .log
                .last_rotation
                .saturating_add(input.timing.interval.get()),
            live: input.live.len(),
            staged: input.live.len() - laggards.len(),
            laggards,
            blamed,
        }
    }
}

/// One peer, as a node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    pub peer: PeerIndex,
    /// `None` if the peer is closed to encrypted networks.
    pub sends: Option<SendStatus>,
    /// What is missing in the newest epoch.
    pub lag: Option<Lag>,
}

/// The SAs that carry the traffic to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendStatus {
    pub epoch: Epoch,
    pub slot: Slot,
    pub lanes: u8,
    /// Since this node sends in them; since the agent's start if it adopted them.
    pub age: Duration,
    /// Bytes of all lanes.
    pub bytes: u64,
    /// The largest sequence number of a lane.
    pub sequence: u64,
}

impl SendStatus {
    /// Used part of the sequence numbers, 0 to 1.
    pub fn sequence_share(&self) -> f64 {
        self.sequence as f64 / u64::MAX as f64
    }
}

/// All peers of a node. `usage` is the kernel's, of the SAs that carry the traffic.
pub fn peers(
    rotation: &Rotation,
    usage: &BTreeMap<PeerIndex, Usage>,
    now: Instant,
) -> Vec<PeerStatus> {
    rotation
        .peers()
        .map(|(peer, sends, lag)| {
            let used = usage.get(&peer);
            let sends = sends.map(|(transmit, since)| SendStatus {
                epoch: transmit.epoch,
                slot: transmit.slot,
                lanes: transmit.lanes,
                age: now.since(since),
                bytes: used.map_or(0, |used| used.bytes),
                sequence: used.map_or(0, |used| used.sequence),
            });
            PeerStatus { peer, sends, lag }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        id::Generation,
        rotation::{
            Digest,
            schedule::{EpochLog, Timing},
        },
    };

    #[test]
    fn the_status_names_who_lags_and_why() {
        let index = |index| PeerIndex::new(index).expect("an index");
        let name = |number| EpochName {
            incarnation: 0,
            number,
            hash: [0; 8],
        };
        let start = Timestamp::from_secs(1_800_000_000);
        let log = EpochLog {
            current: name(1),
            phase: Phase::Staging {
                next: name(2),
                since: start,
            },
            last_rotation: start,
            requested_at: None,
            evicted_at: None,
        };
        let digest = |ready, laggards| Digest {
            generation: Generation(1),
            sequence: 1,
            epoch: name(2),
            secrets: true,
            peers: 2,
            ready,
            laggards,
            oldest: None,
            exhausted: None,
        };
        let blame = vec![(index(3), Lag::NoKey)];
        let status = ClusterStatus::new(&Input {
            log: &log,
            timing: &Timing::default(),
            now: start.saturating_add(Duration::from_secs(7)),
            live: &BTreeSet::from([index(1), index(2)]),
            digests: &BTreeMap::from([
                (index(1), digest(1, blame.clone())),
                (
                    index(2),
                    digest(0, [vec![(index(1), Lag::NotAcknowledged)], blame].concat()),
                ),
            ]),
        });
        assert_eq!(status.age, Duration::from_secs(7));
        assert_eq!((status.live, status.staged), (2, 1));
        assert_eq!(
            status.laggards,
            BTreeMap::from([(index(2), Laggard::Pairs(1))])
        );
        let reason = Lag::NoKey;
        assert_eq!(status.blamed[&index(3)], Blame { by: 2, reason });
        assert_eq!(
            status.next_rotation.since(start),
            Duration::from_secs(12 * 3600)
        );
    }
}
