//! What the leader does next: the doing part. Each task looks at what is due when something changes
//! and at every tick, and does nothing on a manager that does not lead.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use openraft::ChangeMembers;
use overlay_cluster::{
    control::{
        member::ProposeRefused,
        raft::{RaftRequest, RaftResponse},
    },
    keys::EpochSecrets,
    log::{
        command::Command,
        epochs::{NewEpoch, Reason},
        state::Cluster,
    },
};
use overlay_ebpf::abi::PeerIndex;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Inner,
    address::{self, id},
    duties::{self, EpochStep, VoterStep, Voting},
};

/// So many digests may come together before the leader looks at them.
const GATHER: Duration = Duration::from_millis(50);

impl Inner {
    /// Returns when this manager stops.
    pub(super) async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // An error is that nobody is left who could say so.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    /// Waits for a change of the log, for `other`, or a tick.
    async fn wake(&self, changes: &mut watch::Receiver<u64>, other: impl Future<Output = ()>) {
        tokio::select! {
            _ = changes.changed() => {}
            () = other => {}
            () = sleep(self.setup.timing.tick) => {}
        }
    }

    /// Stages, activates and retires epochs.
    pub(super) async fn keep_epochs(self: Arc<Self>) {
        let mut changes = self.reader.changes();
        // What was said of a step that does not succeed, so that it is said once.
        let mut said = String::new();
        loop {
            self.wake(&mut changes, async {
                self.reports.heard.notified().await;
                sleep(GATHER).await;
            })
            .await;
            while self.leads_for_sure()
                && let Some(command) = self.due_epoch()
            {
                let what = describe(&command);
                match self.write(command).await {
                    Ok(_) => {
                        said.clear();
                        tracing::info!("{what}");
                    }
                    Err(error) => {
                        let error = error.to_string();
                        if error != said {
                            tracing::warn!(%error, "not carried out: {what}");
                            said = error;
                        }
                        sleep(self.setup.timing.tick).await;
                        break;
                    }
                }
            }
        }
    }

    fn due_epoch(&self) -> Option<Command> {
        let clock = self.setup.clock.now()?;
        let alive = self.setup.liveness.alive();
        let step = self.with_log(|log| {
            let log = log?;
            let live = live(log, alive.as_ref(), self.setup.index);
            let now = log.now(clock);
            Some(self.reports.with(log, |digests| {
                duties::epochs(log.epochs(), now, &live, digests)
            }))
        })?;
        match step {
            EpochStep::Stage(reason) => match self.next_epoch(reason) {
                Ok(command) => Some(command),
                Err(error) => {
                    tracing::error!(%error, "the next epoch cannot be made");
                    None
                }
            },
            EpochStep::Activate(expected, readiness) => Some(Command::ActivateEpoch {
                expected,
                readiness,
            }),
            EpochStep::Retire(expected) => Some(Command::RetireEpoch { expected }),
            EpochStep::Wait { .. } => None,
        }
    }

    /// Stages the epoch after the current one, with fresh secrets.
    pub(super) fn next_epoch(&self, reason: Reason) -> Result<Command, ProposeRefused> {
        let current = self.with_log(|log| log.map(|log| log.epochs().current()));
        let expected = current
            .ok_or_else(|| ProposeRefused::NoLeader("this manager has no cluster yet".into()))?;
        let mut rng = self
            .setup
            .random
            .rng()
            .map_err(|error| ProposeRefused::NoLeader(format!("no random numbers: {error}")))?;
        let secrets = EpochSecrets::random(&mut rng);
        let name = secrets.name(expected.incarnation, expected.number.saturating_add(1));
        Ok(Command::StageEpoch {
            expected,
            next: NewEpoch { name, secrets },
            reason,
        })
    }

    /// Makes the voters those that the roster has as managers.
    pub(super) async fn keep_voters(self: Arc<Self>) {
        let mut changes = self.reader.changes();
        loop {
            self.wake(&mut changes, std::future::pending()).await;
            while self.leads_for_sure() {
                let changing = self.changing.lock().await;
                let Some(voting) = self.voting() else { break };
                let step = duties::voters(&voting);
                if let VoterStep::Nothing | VoterStep::Hold(_) = step {
                    if let VoterStep::Hold(held) = step {
                        tracing::debug!(?held, "a change of managers waits for a majority");
                    }
                    break;
                }
                tracing::info!(?step, "the managers change");
                let changed = self.change_voters(&step, &voting).await;
                drop(changing);
                if let Err(error) = changed {
                    tracing::warn!(%error, ?step, "the managers did not change");
                    break;
                }
            }
        }
    }

    /// Takes one step. The caller holds [`Inner::changing`].
    pub(super) async fn change_voters(
        &self,
        step: &VoterStep,
        voting: &Voting,
    ) -> Result<(), String> {
        let (changes, retain) = match step {
            VoterStep::Nothing | VoterStep::Hold(_) => return Ok(()),
            VoterStep::FinishChange => {
                let last = self.last_voters();
                (ChangeMembers::ReplaceAllVoters(last), true)
            }
            VoterStep::AddLearner(id, address) => {
                let nodes = [(*id, address.to_raft())].into();
                (ChangeMembers::AddNodes(nodes), true)
            }
            VoterStep::Promote(id) => (ChangeMembers::AddVoterIds([*id].into()), true),
            // As a learner it hears who leads now.
            VoterStep::TakeOut(id) => {
                (ChangeMembers::RemoveVoters([*id].into()), *id == voting.own)
            }
            VoterStep::Forget(id) => (ChangeMembers::RemoveNodes([*id].into()), true),
        };
        let time = self.setup.timing.change;
        match timeout(time, self.raft.change_membership(changes, retain)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!(
                "the managers have not agreed on it within {time:?}: {}",
                self.silent()
            )),
        }
    }

    /// The voters to which a change under way leads.
    fn last_voters(&self) -> BTreeSet<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let configs = metrics.membership_config.membership().get_joint_config();
        configs.last().cloned().unwrap_or_default()
    }

    /// Passes on to the leader what nodes report here.
    pub(super) async fn pass_on(self: Arc<Self>) {
        let mut leader = None;
        loop {
            tokio::select! {
                () = self.reports.fresh.notified() => sleep(GATHER).await,
                () = sleep(self.setup.timing.tick) => {}
            }
            let now = self.raft.metrics().borrow().current_leader;
            if now != leader {
                leader = now;
                self.reports.all_fresh();
            }
            let own = id(self.setup.index);
            let Some(to) = leader.filter(|leader| *leader != own) else {
                continue;
            };
            let Some(index) = address::index(to) else {
                continue;
            };
            loop {
                let digests = self.reports.take_fresh();
                if digests.is_empty() {
                    break;
                }
                let request = RaftRequest::Digests {
                    head: self.links.head(index),
                    digests: digests.clone(),
                };
                match self.links.call(to, self.known_address(to), request).await {
                    Ok(RaftResponse::Heard) => {}
                    Ok(_) => break,
                    Err(error) => {
                        tracing::debug!(%error, "digests are not passed on yet");
                        self.reports.put_back(&digests);
                        break;
                    }
                }
            }
        }
    }

    /// After a rotation the log still has the secrets of the epoch that retired: a snapshot takes its
    /// place, on every manager.
    pub(super) async fn forget_secrets(self: Arc<Self>) {
        let mut changes = self.reader.changes();
        let mut oldest = self.oldest_epoch();
        while changes.changed().await.is_ok() {
            let now = self.oldest_epoch();
            if now != oldest {
                oldest = now;
                if let Err(error) = self.raft.trigger().snapshot().await {
                    tracing::warn!(%error, "the secrets of a retired epoch stay in the log");
                }
            }
        }
    }

    fn oldest_epoch(&self) -> Option<u32> {
        self.with_log(|log| log.map(|log| log.epochs().oldest()))
    }
}

/// The members that are alive, as [`super::Liveness`] says; this node is.
pub(super) fn live(
    log: &Cluster,
    alive: Option<&BTreeSet<overlay_cluster::id::NodeId>>,
    own: PeerIndex,
) -> BTreeSet<PeerIndex> {
    let is_alive = |node| alive.is_none_or(|alive| alive.contains(node));
    log.roster()
        .iter()
        .filter(|(node, member)| member.is_present() && (is_alive(node) || member.index == own))
        .map(|(_, member)| member.index)
        .collect()
}

fn describe(command: &Command) -> String {
    match command {
        Command::StageEpoch { next, reason, .. } => {
            format!("epoch {} is staged ({reason})", next.name)
        }
        Command::ActivateEpoch {
            expected,
            readiness,
        } => format!("epoch {expected} is activated ({readiness:?})"),
        Command::RetireEpoch { expected } => format!("epoch {expected} is retired"),
        _ => "another command".into(),
    }
}
