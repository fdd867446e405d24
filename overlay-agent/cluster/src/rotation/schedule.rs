//! The managers' side: when an epoch is staged, activated and retired.
//!
//! [`decide`] is a pure function of the log, the clock, the nodes that are alive and what they have
//! said. Any manager may ask it; only the log commits what it answers, each step by compare-and-set on
//! the one before. A step depends on times in the log alone, so a change of leader neither hastens nor
//! delays it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use overlay_ebpf::abi::PeerIndex;
use serde::{Deserialize, Serialize};

use crate::{id::EpochName, time::Timestamp};

use super::{Digest, Role};

/// Why an epoch was staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// The interval is over.
    Interval,
    /// An SA came to its limit of packets or bytes.
    Volume,
    /// An operator asked for it.
    Request,
    /// A node was removed: it knows the secrets of all epochs before.
    Eviction,
}

/// Where a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// One epoch.
    Stable,
    /// `next` is spread, traffic is in `current`.
    Staging { next: EpochName, since: Timestamp },
    /// Traffic moves to `current`, which has been active `since` then, out of `previous`.
    Activated {
        previous: EpochName,
        since: Timestamp,
    },
    /// The previous epoch is being removed.
    Retiring { since: Timestamp },
}

/// What the log holds of epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochLog {
    /// The epoch that traffic belongs to.
    pub current: EpochName,
    pub phase: Phase,
    /// When the newest epoch was staged.
    pub last_rotation: Timestamp,
    /// Number of the newest epoch when an operator last asked for a rotation.
    pub requested_at: Option<u32>,
    /// Number of the newest epoch when a node was last removed.
    pub evicted_at: Option<u32>,
}

impl EpochLog {
    pub const fn newest(&self) -> EpochName {
        match self.phase {
            Phase::Staging { next, .. } => next,
            _ => self.current,
        }
    }

    /// The epochs that live, and their roles: what nodes are told.
    pub fn roles(&self) -> BTreeMap<EpochName, Role> {
        let mut roles = BTreeMap::from([(self.current, Role::Active)]);
        match self.phase {
            Phase::Staging { next, .. } => drop(roles.insert(next, Role::Staged)),
            Phase::Activated { previous, .. } => drop(roles.insert(previous, Role::Retiring)),
            Phase::Stable | Phase::Retiring { .. } => {}
        }
        roles
    }

    /// A removed node knows the secrets of the newest epoch.
    fn is_exposed(&self) -> bool {
        self.evicted_at.is_some_and(|at| at >= self.newest().number)
    }
}

/// An interval that no cluster should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("key rotation interval of {} s: use 10 minutes to 7 days", .0.as_secs())]
pub struct IntervalError(Duration);

/// Time between rotations, 10 minutes to 7 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval(Duration);

impl Interval {
    pub const DEFAULT: Self = Self(Duration::from_secs(12 * 60 * 60));
    pub const MIN: Duration = Duration::from_secs(10 * 60);
    pub const MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

    pub fn new(interval: Duration) -> Result<Self, IntervalError> {
        if (Self::MIN..=Self::MAX).contains(&interval) {
            Ok(Self(interval))
        } else {
            Err(IntervalError(interval))
        }
    }

    pub const fn get(self) -> Duration {
        self.0
    }
}

/// Durations of the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub interval: Interval,
    /// Staging ends so late at the latest, with or without the nodes that lag.
    pub stage_deadline: Duration,
    /// Both epochs are accepted so long after activation, and at the most a `stage_deadline` longer for live nodes that
    /// are not ready.
    pub grace: Duration,
    /// The same when a removed node knows the newest secrets.
    pub urgent_grace: Duration,
    /// Removal of the old epoch ends so late at the latest.
    pub retire_deadline: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Interval::DEFAULT,
            stage_deadline: Duration::from_secs(60),
            grace: Duration::from_secs(60),
            urgent_grace: Duration::from_secs(2),
            retire_deadline: Duration::from_secs(60),
        }
    }
}

/// All that a decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub log: &'a EpochLog,
    pub timing: &'a Timing,
    /// The log's time, which never goes back.
    pub now: Timestamp,
    /// Roster members that membership believes alive.
    pub live: &'a BTreeSet<PeerIndex>,
    /// The last digest of each.
    pub digests: &'a BTreeMap<PeerIndex, Digest>,
}

/// What to write into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing before this time, unless an input changes.
    Wait { until: Timestamp },
    /// Make the secrets of epoch `number` and stage it; one that is being staged is abandoned.
    Stage { number: u32, cause: Cause },
    /// Make the staged epoch the current one.
    Activate,
    /// Begin to remove the previous epoch.
    Retire,
    /// The rotation is over.
    Finish,
}

/// What to do now.
pub fn decide(input: &Input<'_>) -> Decision {
    let Input {
        log, timing, now, ..
    } = *input;
    let wait = |since: Timestamp, duration| Decision::Wait {
        until: since.saturating_add(duration),
    };
    let over = |since: Timestamp, duration| now >= since.saturating_add(duration);
    let stage = |cause| Decision::Stage {
        number: log.newest().number.saturating_add(1),
        cause,
    };
    match log.phase {
        Phase::Stable => match due(input) {
            Some(cause) => stage(cause),
            None => wait(log.last_rotation, timing.interval.get()),
        },
        Phase::Staging { .. } if log.is_exposed() => stage(Cause::Eviction),
        Phase::Staging { since, .. } => {
            if laggards(input).is_empty() || over(since, timing.stage_deadline) {
                Decision::Activate
            } else {
                wait(since, timing.stage_deadline)
            }
        }
        Phase::Activated { since, .. } => {
            let urgent = log.is_exposed();
            let grace = if urgent {
                timing.grace.min(timing.urgent_grace)
            } else {
                timing.grace
            };
            // What a live node that is not ready sends has no other epoch.
            let patience = grace.saturating_add(timing.stage_deadline);
            if !over(since, grace) {
                wait(since, grace)
            } else if urgent || over(since, patience) || laggards(input).is_empty() {
                Decision::Retire
            } else {
                wait(since, patience)
            }
        }
        Phase::Retiring { .. } if log.is_exposed() => stage(Cause::Eviction),
        Phase::Retiring { since } => {
            if keepers(input).next().is_none() || over(since, timing.retire_deadline) {
                Decision::Finish
            } else {
                wait(since, timing.retire_deadline)
            }
        }
    }
}

/// Why a rotation is due, the gravest cause first.
fn due(input: &Input<'_>) -> Option<Cause> {
    let Input {
        log, timing, now, ..
    } = *input;
    let number = log.current.number;
    let exhausted = |digest: &Digest| digest.exhausted.is_some_and(|epoch| epoch.get() == number);
    if log.is_exposed() {
        Some(Cause::Eviction)
    } else if log.requested_at.is_some_and(|at| at >= number) {
        Some(Cause::Request)
    } else if input.digests.values().any(exhausted) {
        Some(Cause::Volume)
    } else if now >= log.last_rotation.saturating_add(timing.interval.get()) {
        Some(Cause::Interval)
    } else {
        None
    }
}

/// Why a node holds up a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Laggard {
    /// Nothing was heard of it in this epoch.
    Silent,
    /// It has not pulled the secrets.
    NoSecrets,
    /// So many of its pairs with live nodes are not ready.
    Pairs(u32),
}

/// Live nodes that are not ready in the epoch being staged. Pairs with nodes that are not alive do not
/// count.
pub fn laggards(input: &Input<'_>) -> BTreeMap<PeerIndex, Laggard> {
    let target = input.log.newest();
    input
        .live
        .iter()
        .filter_map(|index| {
            let digest = input
                .digests
                .get(index)
                .filter(|digest| digest.epoch == target);
            let reason = match digest {
                None => Some(Laggard::Silent),
                Some(digest) if !digest.secrets => Some(Laggard::NoSecrets),
                Some(digest) => {
                    let waiting = if digest.laggards.is_empty() {
                        digest.lagging()
                    } else {
                        let live = |(peer, _): &&(PeerIndex, _)| input.live.contains(peer);
                        let live = digest.laggards.iter().filter(live).count();
                        u32::try_from(live).unwrap_or(u32::MAX)
                    };
                    (waiting > 0).then_some(Laggard::Pairs(waiting))
                }
            };
            Some((*index, reason?))
        })
        .collect()
}

/// Live nodes that still hold SAs of an epoch before the current one.
fn keepers<'a>(input: &'a Input<'a>) -> impl Iterator<Item = PeerIndex> + 'a {
    let current = input.log.current;
    input.live.iter().copied().filter(move |index| {
        input.digests.get(index).is_none_or(|digest| {
            digest.epoch != current
                || digest
                    .oldest
                    .is_some_and(|oldest| oldest.get() < current.number)
        })
    })
}

#[cfg(test)]
mod tests;
