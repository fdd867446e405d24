//! Key epochs: which there is, how far a rotation is, who lags and why.

use overlay_cluster::{
    id::EpochName,
    rotation::{
        schedule::{Laggard as Lagging, Phase as SchedulePhase},
        status::{ClusterStatus, PeerStatus},
    },
};
use overlay_ebpf::abi::PeerIndex;
use serde::{Deserialize, Serialize};

use super::Time;

/// An epoch. Two of one number differ in incarnation and hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// Advances by one with each rotation.
    pub number: u32,
    /// Times the managers' state was restored.
    pub incarnation: u32,
    /// Names its secrets and reveals nothing of them, hexadecimal.
    pub hash: String,
}

impl From<EpochName> for Epoch {
    fn from(name: EpochName) -> Self {
        Self {
            number: name.number,
            incarnation: name.incarnation,
            hash: data_encoding::HEXLOWER.encode(&name.hash),
        }
    }
}

/// Where a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No rotation is under way.
    Stable,
    /// All nodes install receive SAs of the next epoch; traffic is in the current one.
    Staging,
    /// Traffic moves to the new epoch; SAs of the one before still receive.
    Activated,
    /// SAs of the epoch before are removed.
    Retiring,
    #[serde(other)]
    Unknown,
}

impl Phase {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Staging => "staging",
            Self::Activated => "activated",
            Self::Retiring => "retiring",
            Self::Unknown => "unknown",
        }
    }
}

/// `GET /v1/keys`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeysStatus {
    /// What the managers say; `None` if none of them can be reached.
    pub cluster: Option<ClusterKeys>,
    /// Each peer that shares an encrypted network with this node.
    pub peers: Vec<PeerKeys>,
}

/// The cluster's epochs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterKeys {
    /// The one that traffic belongs to.
    pub epoch: Epoch,
    pub phase: Phase,
    /// The one that is being staged.
    #[serde(default)]
    pub next: Option<Epoch>,
    /// When the phase began; `None` if no rotation is under way.
    #[serde(default)]
    pub since: Option<Time>,
    /// Since the newest epoch was staged.
    pub age_seconds: u64,
    pub interval_seconds: u64,
    pub next_rotation: Time,
    /// Live nodes, and those of them that are ready in the newest epoch.
    pub live: usize,
    pub staged: usize,
    pub laggards: Vec<Laggard>,
}

/// A node that is not ready in the newest epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Laggard {
    pub index: PeerIndex,
    pub name: String,
    pub reason: String,
    /// Other nodes that wait for it.
    pub blamed_by: u32,
}

/// The SAs with one peer, as this node sees them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerKeys {
    pub index: PeerIndex,
    pub name: String,
    /// The SAs that carry traffic to the peer; `None` if it is closed to encrypted networks.
    pub sends: Option<Sends>,
    /// What is missing in the newest epoch.
    #[serde(default)]
    pub lag: Option<String>,
}

/// The SAs that carry the traffic to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sends {
    pub epoch: u32,
    pub slot: u8,
    pub lanes: u8,
    pub age_seconds: u64,
    /// Of all lanes.
    pub bytes: u64,
    /// Used part of the sequence numbers of the lane that used most, 0 to 1.
    pub sequence_share: f64,
}

impl ClusterKeys {
    pub fn new(
        status: &ClusterStatus,
        interval_seconds: u64,
        name: impl Fn(PeerIndex) -> String,
    ) -> Self {
        let (phase, next, since) = match status.phase {
            SchedulePhase::Stable => (Phase::Stable, None, None),
            SchedulePhase::Staging { next, since } => (Phase::Staging, Some(next), Some(since)),
            SchedulePhase::Activated { since, .. } => (Phase::Activated, None, Some(since)),
            SchedulePhase::Retiring { since } => (Phase::Retiring, None, Some(since)),
        };
        let mut laggards: Vec<Laggard> = status
            .laggards
            .iter()
            .map(|(index, laggard)| Laggard {
                index: *index,
                name: name(*index),
                reason: match laggard {
                    Lagging::Silent => "nothing was heard of it in this epoch".into(),
                    Lagging::NoSecrets => "has not fetched the secrets of the epoch".into(),
                    Lagging::Pairs(1) => "waits for one peer".into(),
                    Lagging::Pairs(pairs) => format!("waits for {pairs} peers"),
                },
                blamed_by: status.blamed.get(index).map_or(0, |blame| blame.by),
            })
            .collect();
        for (index, blame) in &status.blamed {
            if !status.laggards.contains_key(index) {
                laggards.push(Laggard {
                    index: *index,
                    name: name(*index),
                    reason: blame.reason.to_string(),
                    blamed_by: blame.by,
                });
            }
        }
        Self {
            epoch: status.epoch.into(),
            phase,
            next: next.map(Into::into),
            since: since.map(Into::into),
            age_seconds: status.age.as_secs(),
            interval_seconds,
            next_rotation: status.next_rotation.into(),
            live: status.live,
            staged: status.staged,
            laggards,
        }
    }
}

impl PeerKeys {
    pub fn new(status: &PeerStatus, name: impl Fn(PeerIndex) -> String) -> Self {
        Self {
            index: status.peer,
            name: name(status.peer),
            sends: status.sends.map(|sends| Sends {
                epoch: sends.epoch.get(),
                slot: sends.slot.get(),
                lanes: sends.lanes,
                age_seconds: sends.age.as_secs(),
                bytes: sends.bytes,
                sequence_share: sends.sequence_share(),
            }),
            lag: status.lag.map(|lag| lag.to_string()),
        }
    }
}

/// `POST /v1/keys/rotate` begins a rotation and does not wait for its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationBegun {
    /// The rotation is over when this epoch is the current one and the phase is `stable`.
    pub epoch: Epoch,
}

/// `PUT /v1/keys/policy`: what is not named stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRequest {
    /// From one rotation to the next: 10 minutes to 7 days.
    #[serde(default)]
    pub interval_seconds: Option<u64>,
    /// From staging to activation, if not all nodes are ready before.
    #[serde(default)]
    pub deadline_seconds: Option<u64>,
    /// From activation to the end of the old keys.
    #[serde(default)]
    pub grace_seconds: Option<u64>,
}

/// The policy after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub interval_seconds: u64,
    pub deadline_seconds: u64,
    pub grace_seconds: u64,
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use overlay_cluster::{
        rotation::{Lag, status::Blame},
        time::Timestamp,
    };

    use super::*;

    #[test]
    fn the_managers_view_is_told_in_names() {
        let index = |index| PeerIndex::new(index).unwrap();
        let epoch = |number| EpochName {
            incarnation: 0,
            number,
            hash: [0xab; 8],
        };
        let since = Timestamp::from_secs(1_796_000_000);
        let blame = |by| Blame {
            by,
            reason: Lag::NoKey,
        };
        let status = ClusterStatus {
            epoch: epoch(7),
            phase: SchedulePhase::Staging {
                next: epoch(8),
                since,
            },
            age: Duration::from_secs(3),
            next_rotation: since,
            live: 3,
            staged: 2,
            laggards: BTreeMap::from([(index(2), Lagging::Pairs(2))]),
            blamed: BTreeMap::from([(index(2), blame(1)), (index(9), blame(2))]),
        };
        let keys = ClusterKeys::new(&status, 43_200, |index| format!("n{index}"));
        assert_eq!(keys.phase, Phase::Staging);
        assert_eq!(keys.next.unwrap().number, 8);
        assert_eq!(keys.epoch.hash, "abababababababab");
        let lag: Vec<_> = keys
            .laggards
            .iter()
            .map(|lag| (lag.name.as_str(), lag.reason.as_str(), lag.blamed_by))
            .collect();
        assert_eq!(
            lag,
            [
                ("n2", "waits for 2 peers", 1),
                ("n9", "has published no key for the epoch", 2)
            ]
        );
    }
}
