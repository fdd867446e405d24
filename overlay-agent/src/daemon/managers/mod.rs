//! What a manager runs: openraft over the store and the control channel, and the leader's duties.
//!
//! | part | does |
//! |---|---|
//! | [`setup`] | what a manager needs of its node |
//! | [`address`], [`wire`], [`links`], [`network`] | raft between managers, over TLS |
//! | [`duties`], [`leader`] | decides and does what the leader does: epochs, and who has a vote |
//! | [`reports`] | digests of nodes, on their way to the leader |
//! | [`propose`], [`serve`] | commands for the log, and what other managers say |
//! | [`start`] | a first manager, a restart, a promotion, a backup |
//!
//! A manager's number in raft is its node index, which is never given twice. Who has a vote follows
//! the roster, one change at a time, and no change is begun that leaves fewer managers that answer
//! than a majority. A manager that leaves office loses its vote first and its role then.

pub mod address;
pub mod duties;
mod error;
mod leader;
mod links;
mod network;
mod propose;
mod reports;
mod serve;
mod setup;
mod start;
pub mod status;
mod wire;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use openraft::{Raft, RaftMetrics, ServerState};
use overlay_cluster::{
    id::NodeId,
    log::state::{Cluster, State},
    rotation::{
        Digest,
        schedule::{Input, Interval, Timing as Schedule},
        status::ClusterStatus,
    },
};
use tokio::{
    sync::{Mutex, watch},
    task::JoinSet,
};

use self::{
    address::{Address, id},
    duties::{Voting, has_majority},
    links::Links,
    reports::Reports,
    status::{ManagerPlace, ManagerStatus, Status},
};
pub use self::{
    error::ManagersError,
    setup::{Clock, HostClock, HostRandom, Liveness, Random, Setup, Timing},
    start::{await_promotion, forget, found, open, restore},
};
use crate::daemon::store::{Managers as Types, StateReader};

type Metrics = RaftMetrics<u64, openraft::BasicNode>;

/// A manager that runs. Clones are the same manager; it runs until [`Self::shutdown`].
#[derive(Clone)]
pub struct Managers(Arc<Inner>);

struct Inner {
    setup: Setup,
    raft: Raft<Types>,
    reader: StateReader,
    links: Arc<Links>,
    reports: Reports,
    stop: watch::Sender<bool>,
    tasks: std::sync::Mutex<JoinSet<()>>,
    /// Held by who changes the voters.
    changing: Mutex<()>,
}

impl Managers {
    /// Shows the state of the log, as far as this manager has it.
    pub fn log(&self, read: &mut dyn FnMut(Option<&Cluster>)) {
        self.0.with_log(read);
    }

    /// What `read` makes of the state of the log. No command is carried out meanwhile: be quick.
    pub fn with_log<T>(&self, read: impl FnOnce(Option<&Cluster>) -> T) -> T {
        self.0.with_log(read)
    }

    /// All of the state, for a backup.
    pub fn state(&self) -> State {
        self.0.reader.with(State::clone)
    }

    /// Tells when the log has changed: its value is the revision, 0 without a cluster.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.reader.changes()
    }

    /// The manager that leads, and where it is, if there is one.
    pub fn leader(&self) -> Option<(NodeId, SocketAddr)> {
        self.0.leader()
    }

    pub fn is_leader(&self) -> bool {
        self.0.leads(&self.0.raft.metrics().borrow())
    }

    /// Whether the managers can decide, as far as this one knows: it leads a majority, or hears the leader.
    pub fn has_quorum(&self) -> bool {
        self.0.has_quorum(&self.0.raft.metrics().borrow())
    }

    /// A node has reported to this manager, which may be this node itself.
    pub fn reported(&self, node: NodeId, digest: Digest) {
        self.0.with_log(|log| {
            if let Some(log) = log {
                self.0.reports.take(log, node, digest, true);
            }
        });
    }

    /// The managers, for people.
    pub fn status(&self) -> Status {
        self.0.status()
    }

    /// The epochs, for people: who has staged, who lags and why. Only the leader knows all digests.
    pub fn rotation(&self) -> Option<ClusterStatus> {
        let clock = self.0.setup.clock.now()?;
        let alive = self.0.setup.liveness.alive();
        self.0.with_log(|log| {
            let log = log?;
            let epochs = log.epochs();
            let timing = Schedule {
                interval: Interval::new(epochs.policy().interval).unwrap_or(Interval::DEFAULT),
                ..Schedule::default()
            };
            Some(self.0.reports.with(log, |digests| {
                ClusterStatus::new(&Input {
                    log: &duties::epoch_log(epochs),
                    timing: &timing,
                    now: log.now(clock),
                    live: &leader::live(log, alive.as_ref(), self.0.setup.index),
                    digests,
                })
            }))
        })
    }

    /// Ends all tasks and lets go of the store. The other managers notice that this one is silent.
    pub async fn shutdown(&self) {
        self.0.stop.send_replace(true);
        let mut tasks = {
            let mut tasks = self.0.tasks.lock().unwrap_or_else(|it| it.into_inner());
            std::mem::take(&mut *tasks)
        };
        tasks.shutdown().await;
        if let Err(error) = self.0.raft.shutdown().await {
            tracing::warn!(%error, "the managers' log did not end in order");
        }
        self.0.links.close().await;
    }
}

impl Inner {
    fn with_log<T>(&self, read: impl FnOnce(Option<&Cluster>) -> T) -> T {
        self.reader.with(|state| read(state.cluster()))
    }

    fn leads(&self, metrics: &Metrics) -> bool {
        metrics.running_state.is_ok()
            && metrics.state == ServerState::Leader
            && metrics.current_leader == Some(id(self.setup.index))
    }

    /// Whether this manager leads and has carried out all that leaders before it have decided.
    fn leads_for_sure(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        self.leads(&metrics)
            && metrics
                .last_applied
                .is_some_and(|id| id.leader_id.term == metrics.current_term)
    }

    fn leader(&self) -> Option<(NodeId, SocketAddr)> {
        let leader = self.raft.metrics().borrow().current_leader?;
        let in_roster = self.with_log(|log| address::in_roster(log?, leader));
        let Address { node, control } = in_roster.or_else(|| self.known_address(leader))?;
        Some((node, control))
    }

    /// Where the membership says that a manager is.
    fn known_address(&self, of: u64) -> Option<Address> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        Address::of_raft(membership.get_node(&of)?).ok()
    }

    fn voters(&self) -> BTreeSet<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.voter_ids().collect()
    }

    /// The managers as this one sees them, once it has a cluster.
    fn voting(&self) -> Option<Voting> {
        let managers = self.with_log(|log| log.map(duties::managers))?;
        let metrics = self.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let last = metrics.last_log_index.unwrap_or(0);
        let matched = metrics.replication.unwrap_or_default();
        // A few entries may be on their way.
        let near = |matched: u64| matched + 8 >= last;
        Some(Voting {
            own: id(self.setup.index),
            managers,
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            joint: membership.get_joint_config().len() > 1,
            answering: self.links.answering(self.setup.timing.silence()),
            caught_up: matched
                .into_iter()
                .filter(|(_, matched)| matched.is_some_and(|it| near(it.index)))
                .map(|(id, _)| id)
                .collect(),
        })
    }

    /// Whether another manager was heard lately.
    fn hears(&self, of: u64) -> bool {
        let silence = self.setup.timing.silence();
        self.links.answering(silence).contains(&of)
    }

    /// Whether the managers can decide, as far as this one knows.
    fn has_quorum(&self, metrics: &Metrics) -> bool {
        if metrics.running_state.is_err() {
            return false;
        }
        if !self.leads(metrics) {
            // One that led before it was started anew still has itself for the leader.
            return metrics
                .current_leader
                .is_some_and(|leader| leader != id(self.setup.index) && self.hears(leader));
        }
        let answering = self.links.answering(self.setup.timing.silence());
        let configs = metrics.membership_config.membership().get_joint_config();
        configs
            .iter()
            .all(|voters| has_majority(voters, &answering))
    }

    /// The name of a manager.
    fn name(&self, of: u64) -> String {
        let name = self.with_log(|log| {
            let roster = log?.roster();
            let (_, member) = roster.iter().find(|(_, it)| id(it.index) == of)?;
            Some(member.name.to_string())
        });
        name.unwrap_or_else(|| format!("number {of}"))
    }

    /// Which of the managers do not answer, in words.
    fn silent(&self) -> String {
        let answering = self.links.answering(self.setup.timing.silence());
        let metrics = self.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        // Of two, while the voters change, the one without a majority is in the way.
        let configs = membership.get_joint_config();
        let lacking = configs.iter().find(|it| !has_majority(it, &answering));
        let voters = lacking.cloned().unwrap_or_else(|| self.voters());
        let silent: Vec<String> = voters
            .difference(&answering)
            .map(|it| self.name(*it))
            .collect();
        let (needed, all) = (voters.len() / 2 + 1, voters.len());
        if silent.is_empty() {
            return format!("all {all} managers answer");
        }
        format!(
            "{needed} of {all} managers are needed, and this one does not hear {}",
            silent.join(", ")
        )
    }

    fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let learners: BTreeSet<u64> = membership.learner_ids().collect();
        let roster = self
            .with_log(|log| log.map(duties::managers))
            .unwrap_or_default();
        let answering = self.links.answering(self.setup.timing.silence());
        let last = metrics.last_log_index.unwrap_or(0);
        let all = voters.iter().chain(&learners).chain(roster.keys());
        let all: BTreeSet<u64> = all.copied().collect();
        let configs = membership.get_joint_config();
        let known = |index: &u64| voters.contains(index) || learners.contains(index);
        let managers = all.into_iter().map(|index| {
            // One that comes or goes has no full vote while the voters change.
            let votes = configs.iter().all(|voters| voters.contains(&index));
            let place = match (roster.contains_key(&index), votes) {
                (false, _) => ManagerPlace::Leaves,
                (true, true) => ManagerPlace::Voter,
                (true, false) if known(&index) => ManagerPlace::CatchesUp,
                (true, false) => ManagerPlace::Waits,
            };
            let address = roster.get(&index).copied();
            let address = address.or_else(|| self.known_address(index));
            let matched = metrics.replication.as_ref().and_then(|all| all.get(&index));
            ManagerStatus {
                index,
                node: address.map(|it| it.node),
                name: address.map(|_| self.name(index)),
                control: address.map(|it| it.control),
                place,
                answers: answering.contains(&index),
                lag: matched.map(|matched| last.saturating_sub(matched.map_or(0, |it| it.index))),
            }
        });
        let managers = managers.collect();
        let quorum = self.has_quorum(&metrics);
        let failure = metrics
            .running_state
            .as_ref()
            .err()
            .map(ToString::to_string);
        let mut notes = Vec::new();
        if let Some(failure) = &failure {
            notes.push(format!(
                "this manager has stopped ({failure}): check its disk and start it again"
            ));
        } else if !quorum {
            notes.push(format!(
                "the managers cannot decide: {}. The data path goes on; no key is rotated and \
                 nothing changes until they are back. Are they gone for good, restore a backup",
                self.silent()
            ));
        }
        if self.leads(&metrics)
            && let Some(duties::VoterStep::Hold(held)) = self.voting().map(|it| duties::voters(&it))
        {
            notes.push(match held {
                duties::Held::Promote(of) => format!(
                    "manager {} gets no vote while too few managers answer",
                    self.name(of)
                ),
                duties::Held::TakeOut(of) => format!(
                    "manager {} keeps its vote while too few managers answer",
                    self.name(of)
                ),
            });
        }
        if voters.len() == 2 {
            notes.push("two managers decide nothing when one is down: have one, or three".into());
        }
        Status {
            leader: self.leader().map(|(node, _)| node),
            leads: self.leads(&metrics),
            term: metrics.current_term,
            quorum,
            last_log: last,
            applied: metrics.last_applied.map_or(0, |it| it.index),
            managers,
            failure,
            notes,
        }
    }
}
