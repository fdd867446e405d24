//! The record of key epochs: which there are, and how far a rotation is.
//!
//! Only the log moves it, by compare-and-set from e to e+1, and only from the time in the log: a
//! change of leader starts no rotation and delays none. Rotations do not overlap:
//! `Stable(e)` → `Staging(e+1)` → `Activated(e+1, retiring e)` → `Stable(e+1)`.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{id::EpochName, keys::EpochSecrets, time::Timestamp};

/// An epoch to be: its name is made of its secrets by the key schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEpoch {
    pub name: EpochName,
    pub secrets: EpochSecrets,
}

/// Why a rotation was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The interval has passed.
    Schedule,
    /// `overlay keys rotate`.
    Operator,
    /// An SA has used its share of the sequence space or of its bytes.
    Volume,
    /// A node that was evicted knows the current epoch.
    Eviction,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Schedule => "schedule",
            Self::Operator => "operator",
            Self::Volume => "volume",
            Self::Eviction => "eviction",
        })
    }
}

/// Why a staged epoch becomes the current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    /// All live nodes have staged it, says the leader.
    All,
    /// Not all have, and the deadline has passed: who lags heals by itself.
    Deadline,
}

/// How far the rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Stable,
    /// All nodes install the inbound SAs of `next`.
    Staging {
        next: EpochName,
        reason: Reason,
        since: Timestamp,
    },
    /// All nodes send in the current epoch; SAs of `retiring` still receive.
    Activated {
        retiring: EpochName,
        since: Timestamp,
    },
}

/// How often epochs change, and how long a rotation takes at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationPolicy {
    /// From one rotation's beginning to the next.
    pub interval: Duration,
    /// From staging to activation, if not all nodes are ready before; as long again do they hold up the retirement.
    pub deadline: Duration,
    /// From activation to retirement, at the least.
    pub grace: Duration,
    /// The same two while an evicted node knows an epoch that is in use.
    pub urgent_deadline: Duration,
    pub urgent_grace: Duration,
}

impl Default for RotationPolicy {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(12 * 3600),
            deadline: Duration::from_secs(60),
            grace: Duration::from_secs(60),
            urgent_deadline: Duration::from_secs(2),
            urgent_grace: Duration::from_secs(2),
        }
    }
}

impl RotationPolicy {
    pub const SHORTEST: Duration = Duration::from_secs(600);
    pub const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

    pub fn check(&self) -> Result<(), EpochRefusal> {
        if !(Self::SHORTEST..=Self::LONGEST).contains(&self.interval) {
            return Err(EpochRefusal::Interval {
                given: self.interval,
            });
        }
        let rotation = self.deadline.saturating_add(self.grace);
        if rotation >= self.interval {
            return Err(EpochRefusal::TooSlow {
                rotation,
                interval: self.interval,
            });
        }
        if self.urgent_deadline > self.deadline || self.urgent_grace > self.grace {
            return Err(EpochRefusal::UrgentSlower);
        }
        Ok(())
    }
}

/// Why the record of epochs stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum EpochRefusal {
    /// Compare-and-set: another rotation was faster.
    #[error(
        "the command expects epoch {expected:?}, and the log has {found:?}: read the state again"
    )]
    Expected {
        expected: EpochName,
        found: EpochName,
    },
    /// Rotations serialise.
    #[error(
        "a rotation to epoch {to} is under way: wait for its end (`overlay keys rotate --wait`)"
    )]
    Rotating { to: EpochName },
    /// Nothing is staged, or nothing retires.
    #[error("no epoch is {wanted}: the rotation has gone on, read the state again")]
    NotInPhase { wanted: WantedPhase },
    /// The next epoch has the next number of the same incarnation.
    #[error("epoch {given:?} does not follow {after:?}: its number is the next one")]
    NotNext { given: EpochName, after: EpochName },
    /// Each epoch has secrets of its own.
    #[error("epoch {given:?} repeats a secret or hash of epoch {of:?}: draw new random secrets")]
    Repeated { given: EpochName, of: EpochName },
    /// Gossip and data have secrets of their own.
    #[error("the two secrets of epoch {given:?} are the same: draw two random ones")]
    SameSecrets { given: EpochName },
    /// The interval has not passed.
    #[error("the next rotation by schedule is due at {due}: `overlay keys rotate` does not wait")]
    NotDue { due: Timestamp },
    /// Deadline or grace has not passed.
    #[error("epoch {epoch} is {wanted} at {due} at the earliest: wait")]
    TooEarly {
        epoch: EpochName,
        wanted: WantedPhase,
        due: Timestamp,
    },
    /// Nothing was evicted that knows the current epoch.
    #[error("no evicted node knows epoch {current}: name the reason for the rotation")]
    NobodyEvicted { current: EpochName },
    /// The interval is out of bounds.
    #[error(
        "a key rotation interval of {given:?} is not between 10 minutes and 7 days: choose one that is"
    )]
    Interval { given: Duration },
    /// A rotation would not end before the next.
    #[error(
        "deadline and grace of a rotation last {rotation:?}, and the interval is {interval:?}: shorten them, or rotate less often"
    )]
    TooSlow {
        rotation: Duration,
        interval: Duration,
    },
    /// Urgent is faster.
    #[error("the urgent deadline or grace is longer than the ordinary one: shorten it")]
    UrgentSlower,
    /// The secrets are gone, or never were.
    #[error("epoch {wanted:?} is not kept; the current one is {current:?}: ask for that")]
    Unknown {
        wanted: EpochName,
        current: EpochName,
    },
}

/// What an epoch must be for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WantedPhase {
    Staged,
    Activated,
    Retired,
}

impl fmt::Display for WantedPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Staged => "staged",
            Self::Activated => "activated",
            Self::Retired => "retired",
        })
    }
}

/// What the leader does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Draw secrets and propose the epoch after the current one.
    Stage(Reason),
    /// Propose its activation: the deadline has passed.
    Activate(EpochName),
    /// Propose its retirement, if no live node holds it up ([`Epochs::retires_by`]).
    Retire(EpochName),
    /// Nothing before `until`; a staged epoch is activated earlier if all live nodes are ready.
    Wait { until: Timestamp },
}

/// An epoch that is not retired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    name: EpochName,
    secrets: EpochSecrets,
    since: Timestamp,
}

/// The record of epochs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epochs {
    current: EpochName,
    phase: Phase,
    /// By number: the current one, and the one that is staged or retires.
    held: BTreeMap<u32, Held>,
    /// When the last rotation began.
    rotated: Timestamp,
    /// Largest epoch number that an evicted node may know, while such an epoch is held.
    known_outside: Option<u32>,
    policy: RotationPolicy,
}

impl Epochs {
    /// The record of a new cluster.
    pub fn new(
        now: Timestamp,
        first: NewEpoch,
        policy: RotationPolicy,
    ) -> Result<Self, EpochRefusal> {
        policy.check()?;
        check_secrets(&first)?;
        let NewEpoch { name, secrets } = first;
        if name.incarnation != 0 || name.number != 1 {
            let after = EpochName {
                incarnation: 0,
                number: 0,
                hash: [0; 8],
            };
            return Err(EpochRefusal::NotNext { given: name, after });
        }
        let held = Held {
            name,
            secrets,
            since: now,
        };
        Ok(Self {
            current: name,
            phase: Phase::Stable,
            held: BTreeMap::from([(name.number, held)]),
            rotated: now,
            known_outside: None,
            policy,
        })
    }

    pub const fn current(&self) -> EpochName {
        self.current
    }

    pub const fn phase(&self) -> Phase {
        self.phase
    }

    pub const fn policy(&self) -> &RotationPolicy {
        &self.policy
    }

    /// The epoch of the incarnation before a restored backup, until it has retired: so long nodes
    /// learn of the new one, and tell what they hold.
    pub fn restoring(&self) -> Option<EpochName> {
        match self.phase {
            Phase::Activated { retiring, .. }
                if retiring.incarnation != self.current.incarnation =>
            {
                Some(retiring)
            }
            Phase::Stable | Phase::Staging { .. } | Phase::Activated { .. } => None,
        }
    }

    /// When the last rotation began.
    pub const fn rotated(&self) -> Timestamp {
        self.rotated
    }

    /// Epochs that are not retired, the oldest first.
    pub fn names(&self) -> impl Iterator<Item = EpochName> {
        self.held.values().map(|held| held.name)
    }

    /// When an epoch was staged.
    pub fn since(&self, name: EpochName) -> Option<Timestamp> {
        let held = self.held.get(&name.number)?;
        (held.name == name).then_some(held.since)
    }

    /// The secrets of an epoch that is not retired. The caller has checked who asks.
    pub fn secrets(&self, name: EpochName) -> Result<&EpochSecrets, EpochRefusal> {
        self.held
            .get(&name.number)
            .filter(|held| held.name == name)
            .map(|held| &held.secrets)
            .ok_or(EpochRefusal::Unknown {
                wanted: name,
                current: self.current,
            })
    }

    /// Number of the newest epoch whose secrets a node may have.
    pub fn newest(&self) -> u32 {
        self.held
            .last_key_value()
            .map_or(self.current.number, |(number, _)| *number)
    }

    /// Number of the oldest epoch that is not retired.
    pub fn oldest(&self) -> u32 {
        self.held
            .first_key_value()
            .map_or(self.current.number, |(number, _)| *number)
    }

    /// Whether an evicted node knows an epoch that is not retired.
    pub const fn is_urgent(&self) -> bool {
        self.known_outside.is_some()
    }

    fn deadline(&self) -> Duration {
        if self.is_urgent() {
            self.policy.urgent_deadline
        } else {
            self.policy.deadline
        }
    }

    fn grace(&self) -> Duration {
        if self.is_urgent() {
            self.policy.urgent_grace
        } else {
            self.policy.grace
        }
    }

    /// Until when the epoch that retires stays for live nodes that are not ready in the current one: what they send
    /// has no other. While an evicted node knows it, nobody is waited for. `None` if none retires.
    pub fn retires_by(&self) -> Option<Timestamp> {
        let Phase::Activated { since, .. } = self.phase else {
            return None;
        };
        let patience = if self.is_urgent() {
            Duration::ZERO
        } else {
            self.policy.deadline
        };
        Some(since.saturating_add(self.grace().saturating_add(patience)))
    }

    /// Whether the current epoch is known to an evicted node.
    fn must_advance(&self) -> bool {
        self.known_outside
            .is_some_and(|number| self.current.number <= number)
    }

    /// What is to be done at `at`. It depends on the record and the time alone: every manager that
    /// becomes leader finds the same.
    pub fn due(&self, at: Timestamp) -> Due {
        let (until, then) = match self.phase {
            Phase::Stable if self.must_advance() => return Due::Stage(Reason::Eviction),
            Phase::Stable => (
                self.rotated.saturating_add(self.policy.interval),
                Due::Stage(Reason::Schedule),
            ),
            Phase::Staging { next, since, .. } => {
                (since.saturating_add(self.deadline()), Due::Activate(next))
            }
            Phase::Activated { retiring, since } => {
                (since.saturating_add(self.grace()), Due::Retire(retiring))
            }
        };
        if at >= until {
            then
        } else {
            Due::Wait { until }
        }
    }

    /// Compare-and-set from `expected` to the epoch after it.
    pub fn stage(
        &mut self,
        now: Timestamp,
        expected: EpochName,
        next: NewEpoch,
        reason: Reason,
    ) -> Result<(), EpochRefusal> {
        match self.phase {
            Phase::Stable => {}
            Phase::Staging { next, .. } => return Err(EpochRefusal::Rotating { to: next }),
            Phase::Activated { .. } => {
                return Err(EpochRefusal::Rotating { to: self.current });
            }
        }
        if expected != self.current {
            return Err(EpochRefusal::Expected {
                expected,
                found: self.current,
            });
        }
        let follows = next.name.incarnation == self.current.incarnation
            && self.current.number.checked_add(1) == Some(next.name.number);
        if !follows {
            return Err(EpochRefusal::NotNext {
                given: next.name,
                after: self.current,
            });
        }
        self.check_new(&next)?;
        match reason {
            Reason::Schedule => {
                let due = self.rotated.saturating_add(self.policy.interval);
                if now < due {
                    return Err(EpochRefusal::NotDue { due });
                }
            }
            Reason::Eviction if !self.must_advance() => {
                return Err(EpochRefusal::NobodyEvicted {
                    current: self.current,
                });
            }
            Reason::Operator | Reason::Volume | Reason::Eviction => {}
        }
        self.phase = Phase::Staging {
            next: next.name,
            reason,
            since: now,
        };
        self.rotated = now;
        self.hold(now, next);
        Ok(())
    }

    /// Makes the staged epoch the current one.
    pub fn activate(
        &mut self,
        now: Timestamp,
        expected: EpochName,
        readiness: Readiness,
    ) -> Result<(), EpochRefusal> {
        let wanted = WantedPhase::Staged;
        let Phase::Staging { next, since, .. } = self.phase else {
            return Err(EpochRefusal::NotInPhase { wanted });
        };
        if next != expected {
            return Err(EpochRefusal::Expected {
                expected,
                found: next,
            });
        }
        let due = since.saturating_add(self.deadline());
        if readiness == Readiness::Deadline && now < due {
            return Err(EpochRefusal::TooEarly {
                epoch: next,
                wanted: WantedPhase::Activated,
                due,
            });
        }
        self.phase = Phase::Activated {
            retiring: self.current,
            since: now,
        };
        self.current = next;
        Ok(())
    }

    /// Forgets the secrets of the epoch that retires. Returns the number of the oldest epoch left.
    pub fn retire(&mut self, now: Timestamp, expected: EpochName) -> Result<u32, EpochRefusal> {
        let wanted = WantedPhase::Activated;
        let Phase::Activated { retiring, since } = self.phase else {
            return Err(EpochRefusal::NotInPhase { wanted });
        };
        if retiring != expected {
            return Err(EpochRefusal::Expected {
                expected,
                found: retiring,
            });
        }
        let due = since.saturating_add(self.grace());
        if now < due {
            return Err(EpochRefusal::TooEarly {
                epoch: retiring,
                wanted: WantedPhase::Retired,
                due,
            });
        }
        self.held.remove(&retiring.number);
        self.phase = Phase::Stable;
        self.close_outside();
        Ok(self.oldest())
    }

    /// What an evicted node knows is of no use once it has retired.
    fn close_outside(&mut self) {
        let oldest = self.oldest();
        self.known_outside = self.known_outside.filter(|number| *number >= oldest);
    }

    /// An evicted node may know every epoch that is held: the next one is due at once.
    pub fn evicted(&mut self) {
        self.known_outside = Some(self.newest());
    }

    pub fn set_policy(&mut self, policy: RotationPolicy) -> Result<(), EpochRefusal> {
        policy.check()?;
        self.policy = policy;
        Ok(())
    }

    /// Goes on under the next incarnation, after this state came from a backup. Nodes may be at
    /// epochs that the backup does not know; all of the older incarnation retire together.
    pub fn restore(&mut self, now: Timestamp, next: NewEpoch) -> Result<(), EpochRefusal> {
        let follows = self.current.incarnation.checked_add(1) == Some(next.name.incarnation)
            && next.name.number > self.newest();
        if !follows {
            return Err(EpochRefusal::NotNext {
                given: next.name,
                after: self.current,
            });
        }
        self.check_new(&next)?;
        let retiring = self.current;
        self.held.retain(|number, _| *number == retiring.number);
        self.close_outside();
        self.phase = Phase::Activated {
            retiring,
            since: now,
        };
        self.current = next.name;
        self.rotated = now;
        self.hold(now, next);
        Ok(())
    }

    fn hold(&mut self, now: Timestamp, epoch: NewEpoch) {
        let NewEpoch { name, secrets } = epoch;
        let held = Held {
            name,
            secrets,
            since: now,
        };
        self.held.insert(name.number, held);
    }

    fn check_new(&self, next: &NewEpoch) -> Result<(), EpochRefusal> {
        check_secrets(next)?;
        let repeats = |held: &&Held| {
            let old = [&held.secrets.gossip, &held.secrets.data];
            held.name.hash == next.name.hash
                || old.contains(&&next.secrets.gossip)
                || old.contains(&&next.secrets.data)
        };
        match self.held.values().find(repeats) {
            Some(held) => Err(EpochRefusal::Repeated {
                given: next.name,
                of: held.name,
            }),
            None => Ok(()),
        }
    }

    /// What is wrong with the record, if anything.
    pub fn fault(&self) -> Option<String> {
        if let Err(refusal) = self.policy.check() {
            return Some(refusal.to_string());
        }
        let other = match self.phase {
            Phase::Stable => None,
            Phase::Staging { next, .. } => Some((next, next > self.current)),
            Phase::Activated { retiring, .. } => Some((retiring, retiring < self.current)),
        };
        if let Some((other, false)) = other {
            return Some(format!(
                "epoch {other:?} is on the wrong side of {:?}",
                self.current
            ));
        }
        let names: Vec<_> = self.names().collect();
        let mut expected: Vec<_> = [self.current]
            .into_iter()
            .chain(other.map(|(name, _)| name))
            .collect();
        expected.sort_unstable();
        if names != expected {
            return Some(format!(
                "secrets of {names:?} are kept for epochs {expected:?}"
            ));
        }
        if self
            .held
            .iter()
            .any(|(number, held)| held.name.number != *number)
        {
            return Some("an epoch is kept under another number".into());
        }
        self.known_outside
            .filter(|number| !(self.oldest()..=self.newest()).contains(number))
            .map(|number| format!("epoch {number}, known outside, is not kept"))
    }
}

fn check_secrets(epoch: &NewEpoch) -> Result<(), EpochRefusal> {
    if epoch.secrets.gossip == epoch.secrets.data {
        Err(EpochRefusal::SameSecrets { given: epoch.name })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::samples::{epoch, now},
        secret::Secret,
    };

    const HOUR: u64 = 3600;

    fn epochs() -> Epochs {
        Epochs::new(now(0), epoch(0, 1), RotationPolicy::default()).expect("a first epoch")
    }

    #[test]
    fn a_rotation_stages_activates_and_retires() {
        let mut epochs = epochs();
        let (first, second) = (epoch(0, 1).name, epoch(0, 2).name);
        epochs
            .stage(now(5), first, epoch(0, 2), Reason::Operator)
            .expect("stages");
        assert_eq!(epochs.current(), first);
        assert_eq!(epochs.names().collect::<Vec<_>>(), [first, second]);
        epochs
            .activate(now(6), second, Readiness::All)
            .expect("activates");
        assert_eq!(epochs.current(), second);
        assert_eq!(epochs.due(now(65)), Due::Wait { until: now(66) });
        assert_eq!(epochs.due(now(66)), Due::Retire(first));
        assert_eq!(epochs.retires_by(), Some(now(6 + 60 + 60)));
        assert!(epochs.secrets(first).is_ok());
        assert_eq!(epochs.retire(now(66), first), Ok(2));
        assert!(epochs.secrets(first).is_err());
        assert_eq!(epochs.fault(), None);
    }

    #[test]
    fn the_schedule_counts_from_the_log() {
        let mut epochs = epochs();
        let due = now(12 * HOUR);
        assert_eq!(epochs.due(now(1)), Due::Wait { until: due });
        assert_eq!(epochs.due(due), Due::Stage(Reason::Schedule));
        let first = epochs.current();
        assert_eq!(
            epochs.stage(now(1), first, epoch(0, 2), Reason::Schedule),
            Err(EpochRefusal::NotDue { due })
        );
        epochs
            .stage(due, first, epoch(0, 2), Reason::Schedule)
            .expect("stages");
        assert_eq!(epochs.rotated(), due);
    }

    #[test]
    fn of_two_leaders_one_rotates() {
        let mut epochs = epochs();
        let first = epochs.current();
        let mut other = epoch(0, 2);
        other.name.hash = [0xee; 8];
        other.secrets.data = Secret::new([0xee; 32]);
        epochs
            .stage(now(1), first, epoch(0, 2), Reason::Operator)
            .expect("stages");
        assert_eq!(
            epochs.stage(now(1), first, other.clone(), Reason::Operator),
            Err(EpochRefusal::Rotating {
                to: epoch(0, 2).name
            })
        );
        let refusal = epochs.activate(now(2), other.name, Readiness::All);
        assert!(matches!(refusal, Err(EpochRefusal::Expected { .. })));
        assert_eq!(epochs.fault(), None);
    }

    #[test]
    fn a_slow_node_delays_until_the_deadline_only() {
        let mut epochs = epochs();
        let (first, second) = (epochs.current(), epoch(0, 2).name);
        epochs
            .stage(now(0), first, epoch(0, 2), Reason::Operator)
            .expect("stages");
        let early = epochs.activate(now(59), second, Readiness::Deadline);
        assert!(matches!(early, Err(EpochRefusal::TooEarly { .. })));
        assert_eq!(epochs.due(now(60)), Due::Activate(second));
        epochs
            .activate(now(60), second, Readiness::Deadline)
            .expect("activates");
    }

    #[test]
    fn an_eviction_makes_the_next_epoch_due_at_once() {
        let mut epochs = epochs();
        let (first, second) = (epochs.current(), epoch(0, 2).name);
        epochs.evicted();
        assert_eq!(epochs.due(now(0)), Due::Stage(Reason::Eviction));
        epochs
            .stage(now(0), first, epoch(0, 2), Reason::Eviction)
            .expect("stages");
        assert_eq!(epochs.due(now(2)), Due::Activate(second));
        epochs
            .activate(now(2), second, Readiness::Deadline)
            .expect("activates");
        assert!(epochs.is_urgent(), "the old epoch still opens packets");
        assert_eq!(epochs.retires_by(), Some(now(4)), "nobody is waited for");
        epochs.retire(now(4), first).expect("retires");
        assert!(!epochs.is_urgent());
        assert!(matches!(epochs.due(now(4)), Due::Wait { .. }));
    }

    #[test]
    fn an_eviction_while_staging_ends_that_rotation_fast_and_makes_another() {
        let mut epochs = epochs();
        let (first, second) = (epochs.current(), epoch(0, 2).name);
        epochs
            .stage(now(0), first, epoch(0, 2), Reason::Operator)
            .expect("stages");
        epochs.evicted();
        assert_eq!(epochs.due(now(2)), Due::Activate(second));
        epochs
            .activate(now(2), second, Readiness::Deadline)
            .expect("activates");
        epochs.retire(now(4), first).expect("retires");
        assert_eq!(epochs.due(now(4)), Due::Stage(Reason::Eviction));
    }

    #[test]
    fn an_epoch_follows_its_predecessor_with_new_secrets() {
        let mut epochs = epochs();
        let first = epochs.current();
        let mut stage = |next| {
            epochs
                .stage(now(1), first, next, Reason::Operator)
                .expect_err("refused")
        };
        for (incarnation, number) in [(0, 1), (0, 3), (1, 2)] {
            let refusal = stage(epoch(incarnation, number));
            assert!(matches!(refusal, EpochRefusal::NotNext { .. }), "{refusal}");
        }
        let mut next = epoch(0, 2);
        next.secrets.gossip = epoch(0, 1).secrets.data.clone();
        assert!(matches!(stage(next), EpochRefusal::Repeated { .. }));
        let mut next = epoch(0, 2);
        next.secrets.gossip = next.secrets.data.clone();
        assert!(matches!(stage(next), EpochRefusal::SameSecrets { .. }));
    }

    #[test]
    fn a_restored_state_goes_on_under_the_next_incarnation() {
        let mut epochs = epochs();
        let first = epochs.current();
        epochs
            .stage(now(0), first, epoch(0, 2), Reason::Operator)
            .expect("stages");
        assert!(
            epochs.restore(now(1), epoch(1, 2)).is_err(),
            "a number again"
        );
        epochs.restore(now(1), epoch(1, 3)).expect("restored");
        assert_eq!(epochs.current(), epoch(1, 3).name);
        assert!(epochs.secrets(epoch(0, 2).name).is_err());
        assert_eq!(epochs.fault(), None);
        epochs.retire(now(61), first).expect("retires");
        assert_eq!(epochs.fault(), None);
    }

    #[test]
    fn a_restored_state_forgets_what_an_evicted_node_knew_of_retired_epochs() {
        let mut epochs = epochs();
        let (first, second) = (epochs.current(), epoch(0, 2).name);
        epochs.evicted();
        epochs
            .stage(now(0), first, epoch(0, 2), Reason::Eviction)
            .expect("stages");
        epochs
            .activate(now(0), second, Readiness::All)
            .expect("activates");
        epochs.restore(now(1), epoch(1, 3)).expect("restored");
        assert!(!epochs.is_urgent());
        assert_eq!(epochs.fault(), None);
    }

    #[test]
    fn the_interval_has_bounds() {
        let policy = |minutes: u64| RotationPolicy {
            interval: Duration::from_secs(minutes * 60),
            ..RotationPolicy::default()
        };
        assert!(policy(9).check().is_err());
        assert!(policy(10).check().is_ok());
        assert!(policy(7 * 24 * 60).check().is_ok());
        assert!(policy(7 * 24 * 60 + 1).check().is_err());
        let slow = RotationPolicy {
            grace: Duration::from_secs(600),
            ..policy(10)
        };
        assert!(matches!(slow.check(), Err(EpochRefusal::TooSlow { .. })));
    }

    #[test]
    fn secrets_are_not_printed() {
        assert!(!format!("{:?}", epochs()).contains("[1"), "{:?}", epochs());
    }
}
