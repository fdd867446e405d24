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
        Due::Retire(epoch) => return EpochStep::Retire(epoch),
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

/// Whether all nodes that are alive can receive in the epoch that is being staged.
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
