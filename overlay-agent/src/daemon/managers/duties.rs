//! What the leader does next: the deciding part. It depends on the log, on who answers and on what
//! nodes report, and never on when this manager came to lead.

use std::collections::{BTreeMap, BTreeSet};

use overlay_cluster::{
    id::{EpochName, NodeId},
    identity::Role,
    log::{
        command::Command,
        epochs::{Due, Epochs, Phase, Readiness, Reason},
        state::Cluster,
    },
    rotation::{
        Digest,
        schedule::{self, EpochLog, Input},
    },
    time::Timestamp,
};
use overlay_ebpf::abi::PeerIndex;

use super::address::{Address, id};

/// The next step of the epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpochStep {
    /// Draw the secrets of the epoch after the current one and stage it.
    Stage(Reason),
    Activate(EpochName, Readiness),
    Retire(EpochName),
    /// Nothing before, unless an input changes.
    Wait {
        until: Timestamp,
    },
}

/// The record of the log in the terms of the schedule, which knows who lags.
pub fn epoch_log(epochs: &Epochs) -> EpochLog {
    let phase = match epochs.phase() {
        Phase::Stable => schedule::Phase::Stable,
        Phase::Staging { next, since, .. } => schedule::Phase::Staging { next, since },
        Phase::Activated { retiring, since } => schedule::Phase::Activated {
            previous: retiring,
            since,
        },
    };
    EpochLog {
        current: epochs.current(),
        phase,
        last_rotation: epochs.rotated(),
        requested_at: None,
        evicted_at: None,
    }
}

/// The step of the epochs that is due at `now` in the time of the log.
pub fn epochs(
    epochs: &Epochs,
    now: Timestamp,
    live: &BTreeSet<PeerIndex>,
    digests: &BTreeMap<PeerIndex, Digest>,
) -> EpochStep {
    let until = match epochs.due(now) {
        Due::Stage(reason) => return EpochStep::Stage(reason),
        Due::Activate(epoch) => {
            let readiness = if is_ready(epochs, now, live, digests) {
                Readiness::All
            } else {
                Readiness::Deadline
            };
            return EpochStep::Activate(epoch, readiness);
        }
        Due::Retire(epoch) => match epochs.retires_by().filter(|until| now < *until) {
            Some(until) if !is_ready(epochs, now, live, digests) => until,
            _ => return EpochStep::Retire(epoch),
        },
        Due::Wait { until } => until,
    };
    match epochs.phase() {
        Phase::Stable if is_exhausted(epochs, digests) => EpochStep::Stage(Reason::Volume),
        Phase::Staging { next, .. } if is_ready(epochs, now, live, digests) => {
            EpochStep::Activate(next, Readiness::All)
        }
        _ => EpochStep::Wait { until },
    }
}

/// Whether all nodes that are alive can receive, and send, in the newest epoch.
fn is_ready(
    epochs: &Epochs,
    now: Timestamp,
    live: &BTreeSet<PeerIndex>,
    digests: &BTreeMap<PeerIndex, Digest>,
) -> bool {
    let input = Input {
        log: &epoch_log(epochs),
        timing: &schedule::Timing::default(),
        now,
        live,
        digests,
    };
    schedule::laggards(&input).is_empty()
}

/// Whether an SA of the current epoch comes to its limit of packets or bytes.
fn is_exhausted(epochs: &Epochs, digests: &BTreeMap<PeerIndex, Digest>) -> bool {
    let current = epochs.current().number;
    digests
        .values()
        .any(|digest| digest.exhausted.is_some_and(|epoch| epoch.get() == current))
}

/// The managers as the leader sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voting {
    /// The leader.
    pub own: u64,
    /// Members of the roster with the role of a manager.
    pub managers: BTreeMap<u64, Address>,
    pub voters: BTreeSet<u64>,
    /// Managers that get the log and have no vote.
    pub learners: BTreeSet<u64>,
    /// Whether a change of voters was begun and not ended.
    pub joint: bool,
    /// Managers that were heard lately, the leader included.
    pub answering: BTreeSet<u64>,
    /// Managers whose log is as long as the leader's, or nearly.
    pub caught_up: BTreeSet<u64>,
}

/// The next change of voters. There is one at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoterStep {
    Nothing,
    /// Ends a change that a leader before has begun.
    FinishChange,
    /// Gives the log to a manager.
    AddLearner(u64, Address),
    /// Gives a vote to a manager that has the log.
    Promote(u64),
    /// Takes its vote and the log from a node that is no manager.
    TakeOut(u64),
    /// Takes the log from a node that has no vote.
    Forget(u64),
    /// It would be due, and would leave no majority.
    Hold(Held),
}

/// A change that waits for managers to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    Promote(u64),
    TakeOut(u64),
}

/// The next step, so that voters are the managers of the roster.
pub fn voters(voting: &Voting) -> VoterStep {
    let Voting {
        own,
        managers,
        voters,
        learners,
        joint,
        caught_up,
        ..
    } = voting;
    if *joint {
        return VoterStep::FinishChange;
    }
    let mut held = None;
    // The leader last: it can do all the rest before.
    let gone = voters
        .iter()
        .copied()
        .filter(|id| !managers.contains_key(id));
    let (leader, others): (Vec<u64>, Vec<u64>) = gone.partition(|id| id == own);
    for gone in others.into_iter().chain(leader) {
        if without(voting, gone).is_ok() {
            return VoterStep::TakeOut(gone);
        }
        held.get_or_insert(Held::TakeOut(gone));
    }
    if let Some(gone) = learners.iter().find(|id| !managers.contains_key(id)) {
        return VoterStep::Forget(*gone);
    }
    let ready = |id: &&u64| managers.contains_key(id) && caught_up.contains(id);
    for new in learners.iter().filter(ready) {
        let more = voters.iter().chain([new]).copied().collect();
        if voting.has_majority(&more) {
            return VoterStep::Promote(*new);
        }
        held.get_or_insert(Held::Promote(*new));
    }
    let known = |id: &u64| voters.contains(id) || learners.contains(id);
    if let Some((new, address)) = managers.iter().find(|(id, _)| !known(id)) {
        return VoterStep::AddLearner(*new, *address);
    }
    held.map_or(VoterStep::Nothing, VoterStep::Hold)
}

impl Voting {
    /// Whether more than half of `voters` answer.
    pub fn has_majority(&self, voters: &BTreeSet<u64>) -> bool {
        has_majority(voters, &self.answering)
    }
}

/// Whether more than half of `voters` are `answering`.
pub fn has_majority(voters: &BTreeSet<u64>, answering: &BTreeSet<u64>) -> bool {
    voters.intersection(answering).count() * 2 > voters.len()
}

/// Why a manager keeps its vote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Needed {
    #[error(
        "it is the only manager that has the managers' log: wait until another one has caught up \
         (`overlay node ls`), or promote one"
    )]
    Last,
    #[error(
        "only {answering} of the {left} managers that would be left answer, and more than half must: \
         bring back those that are down, or take them out first"
    )]
    Majority { answering: usize, left: usize },
}

/// Whether the managers go on without the vote of `gone`.
pub fn without(voting: &Voting, gone: u64) -> Result<BTreeSet<u64>, Needed> {
    let mut left = voting.voters.clone();
    left.remove(&gone);
    if left.is_empty() {
        return Err(Needed::Last);
    }
    if !voting.has_majority(&left) {
        return Err(Needed::Majority {
            answering: left.intersection(&voting.answering).count(),
            left: left.len(),
        });
    }
    Ok(left)
}

/// The manager that a command puts out of office, if any. It loses its vote before the log has the
/// command: after it, it is not let in any more, and its answer may be needed to take it out.
pub fn put_out(log: &Cluster, command: &Command) -> Option<(NodeId, u64)> {
    let node = match command {
        Command::SetRole {
            node,
            role: Role::Worker,
        }
        | Command::Leave { node }
        | Command::Remove { node, .. }
        | Command::Evict { node, .. } => node,
        _ => return None,
    };
    let member = log.roster().get(node).filter(|it| it.is_manager())?;
    Some((*node, id(member.index)))
}

/// The managers of the roster, by their number.
pub fn managers(log: &Cluster) -> BTreeMap<u64, Address> {
    let managers = log.roster().managers();
    managers
        .map(|(node, member)| {
            let address = Address {
                node: *node,
                control: member.contact.control,
            };
            (id(member.index), address)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use overlay_cluster::{
        id::Generation,
        keys::EpochSecrets,
        log::epochs::{NewEpoch, RotationPolicy},
        secret::Secret,
    };
    use overlay_ebpf::abi::Epoch;
    use proptest::{collection::btree_set, prelude::*};

    use super::*;

    fn address(n: u64) -> Address {
        let n = u8::try_from(n).expect("a byte");
        Address {
            node: NodeId::from_bytes([n; 16]),
            control: ([192, 0, 2, n], 7946).into(),
        }
    }

    fn voting(managers: &[u64], voters: &[u64], answering: &[u64]) -> Voting {
        Voting {
            own: voters[0],
            managers: managers.iter().map(|id| (*id, address(*id))).collect(),
            voters: voters.iter().copied().collect(),
            learners: BTreeSet::new(),
            joint: false,
            answering: answering.iter().copied().collect(),
            caught_up: voters.iter().copied().collect(),
        }
    }

    #[test]
    fn a_manager_gets_the_log_first_and_a_vote_when_it_has_all_of_it() {
        let mut now = voting(&[1, 2], &[1], &[1, 2]);
        assert_eq!(voters(&now), VoterStep::AddLearner(2, address(2)));
        now.learners.insert(2);
        assert_eq!(voters(&now), VoterStep::Nothing);
        now.caught_up.insert(2);
        assert_eq!(voters(&now), VoterStep::Promote(2));
        now.answering.remove(&2);
        assert_eq!(voters(&now), VoterStep::Hold(Held::Promote(2)));
        now.managers.remove(&2);
        assert_eq!(voters(&now), VoterStep::Forget(2));
    }

    #[test]
    fn who_is_no_manager_loses_its_vote_and_the_leader_goes_last() {
        let mut now = voting(&[2, 3], &[1, 2, 3, 4], &[1, 2, 3, 4]);
        assert_eq!(voters(&now), VoterStep::TakeOut(4));
        now.voters.remove(&4);
        assert_eq!(voters(&now), VoterStep::TakeOut(1));
        now.joint = true;
        assert_eq!(voters(&now), VoterStep::FinishChange);
    }

    #[test]
    fn who_is_needed_for_a_majority_keeps_its_vote_with_the_reason() {
        // Manager 3 is down: 1 and 3 would be left.
        let mut now = voting(&[1, 3], &[1, 2, 3], &[1, 2]);
        assert_eq!(voters(&now), VoterStep::Hold(Held::TakeOut(2)));
        let needed = without(&now, 2).expect_err("needed");
        assert!(needed.to_string().contains("only 1 of the 2"), "{needed}");
        // Down and out of office: it goes, and then the other one.
        now.managers.remove(&3);
        assert_eq!(voters(&now), VoterStep::TakeOut(3));
        let alone = voting(&[1], &[1], &[1]);
        assert_eq!(without(&alone, 1), Err(Needed::Last));
    }

    proptest! {
        /// Whatever the leader sees, a step leaves a majority that answers, if there was one.
        #[test]
        fn no_step_loses_the_majority(
            managers in btree_set(1..=7u64, 1..=7),
            voting_now in btree_set(1..=7u64, 1..=7),
            learning in btree_set(1..=7u64, 0..=7),
            answering in btree_set(1..=7u64, 0..=7),
            caught_up in btree_set(1..=7u64, 0..=7),
            leader: prop::sample::Index,
        ) {
            let own = *leader.get(&voting_now.iter().copied().collect::<Vec<_>>());
            let mut now = Voting {
                own,
                managers: managers.iter().map(|id| (*id, address(*id))).collect(),
                learners: &learning - &voting_now,
                voters: voting_now,
                joint: false,
                answering: &answering | &BTreeSet::from([own]),
                caught_up,
            };
            if !now.has_majority(&now.voters) {
                return Ok(());
            }
            // The leader's own vote can go only if the rest go on without it.
            for _ in 0..40 {
                match voters(&now) {
                    VoterStep::Nothing | VoterStep::Hold(_) => break,
                    VoterStep::FinishChange => unreachable!("nothing was begun"),
                    VoterStep::AddLearner(id, address) => {
                        prop_assert_eq!(now.managers.get(&id), Some(&address));
                        prop_assert!(now.learners.insert(id));
                    }
                    VoterStep::Promote(id) => {
                        prop_assert!(now.learners.remove(&id));
                        now.voters.insert(id);
                    }
                    VoterStep::TakeOut(id) => {
                        prop_assert!(!now.managers.contains_key(&id));
                        prop_assert!(now.voters.remove(&id));
                    }
                    VoterStep::Forget(id) => prop_assert!(now.learners.remove(&id)),
                }
                prop_assert!(now.has_majority(&now.voters), "{now:?}");
            }
            let next = voters(&now);
            prop_assert!(matches!(next, VoterStep::Nothing | VoterStep::Hold(_)), "{next:?}");
            if now.answering.len() == 7 && now.caught_up.len() == 7 {
                prop_assert!(now.voters.iter().eq(now.managers.keys()));
            }
        }
    }

    fn epoch(number: u32) -> NewEpoch {
        let secrets = EpochSecrets {
            gossip: Secret::new([number as u8; 32]),
            data: Secret::new([number as u8 + 100; 32]),
        };
        NewEpoch {
            name: secrets.name(0, number),
            secrets,
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + seconds)
    }

    fn peer(n: u32) -> PeerIndex {
        PeerIndex::new(n).expect("an index")
    }

    fn digest(epoch: EpochName, exhausted: Option<u32>) -> Digest {
        Digest {
            generation: Generation(1),
            sequence: 1,
            epoch,
            secrets: true,
            peers: 1,
            ready: 1,
            laggards: Vec::new(),
            oldest: None,
            exhausted: exhausted.map(Epoch::new),
        }
    }

    #[test]
    fn epochs_go_by_the_log_and_by_who_is_ready() {
        let policy = RotationPolicy::default();
        let interval = policy.interval.as_secs();
        let (first, second) = (epoch(1).name, epoch(2).name);
        let mut record = Epochs::new(at(0), epoch(1), policy).expect("a first epoch");
        let live = BTreeSet::from([peer(1), peer(2)]);
        let mut digests = BTreeMap::new();
        let step = |record: &Epochs, now, digests: &_| epochs(record, at(now), &live, digests);

        let until = at(interval);
        assert_eq!(step(&record, 0, &digests), EpochStep::Wait { until });
        let due = EpochStep::Stage(Reason::Schedule);
        assert_eq!(step(&record, interval, &digests), due);
        // An SA of an epoch that is over counts for nothing.
        digests.insert(peer(1), digest(first, Some(0)));
        assert_eq!(step(&record, 0, &digests), EpochStep::Wait { until });
        digests.insert(peer(1), digest(first, Some(1)));
        let due = EpochStep::Stage(Reason::Volume);
        assert_eq!(step(&record, 0, &digests), due);

        let staged = record.stage(at(10), first, epoch(2), Reason::Volume);
        staged.expect("stages");
        let until = at(10).saturating_add(policy.deadline);
        assert_eq!(step(&record, 11, &digests), EpochStep::Wait { until });
        digests.insert(peer(1), digest(second, None));
        assert_eq!(step(&record, 11, &digests), EpochStep::Wait { until });
        let late = 10 + policy.deadline.as_secs();
        let over = EpochStep::Activate(second, Readiness::Deadline);
        assert_eq!(step(&record, late, &digests), over);
        digests.insert(peer(2), digest(second, None));
        let all = EpochStep::Activate(second, Readiness::All);
        assert_eq!(step(&record, 11, &digests), all);
        assert_eq!(step(&record, late, &digests), all);
        // A third one that is ready and not alive changes nothing, one that is alive does.
        let third: BTreeSet<_> = live.iter().copied().chain([peer(3)]).collect();
        let waits = epochs(&record, at(11), &third, &digests);
        assert_eq!(waits, EpochStep::Wait { until });

        let activated = record.activate(at(20), second, Readiness::All);
        activated.expect("activates");
        let until = at(20).saturating_add(policy.grace);
        assert_eq!(step(&record, 21, &digests), EpochStep::Wait { until });
        let over = 20 + policy.grace.as_secs();
        assert_eq!(step(&record, over, &digests), EpochStep::Retire(first));
        // What one sends that came too late for the activation has no other epoch, and is waited for.
        let until = at(over).saturating_add(policy.deadline);
        let waits = EpochStep::Wait { until };
        assert_eq!(epochs(&record, at(over), &third, &digests), waits);
        let in_the_end = EpochStep::Retire(first);
        assert_eq!(epochs(&record, until, &third, &digests), in_the_end);
        record.retire(at(over), first).expect("retires");
        record.evicted();
        let due = EpochStep::Stage(Reason::Eviction);
        assert_eq!(step(&record, over, &digests), due);
        assert!(policy.urgent_deadline > Duration::ZERO);
    }
}
