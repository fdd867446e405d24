//! Commands for the log.

use openraft::error::{ClientWriteError, RaftError};
use overlay_cluster::{
    control::member::ProposeRefused,
    log::{
        command::{Command, Outcome},
        epochs::Reason,
        state::State,
    },
};
use tokio::time::timeout;

use super::{
    Inner, Managers,
    address::id,
    duties::{self, VoterStep},
};
use crate::daemon::{
    control::desk::forward,
    store::{Applied, Proposal},
};

impl Managers {
    /// Puts a command in the log, if this manager leads; else says who does. The answer comes within
    /// [`super::Timing::settle`], [`super::Timing::change`] and [`super::Timing::propose`] together.
    pub async fn propose(&self, command: Command) -> Result<Outcome, ProposeRefused> {
        self.0.propose(command).await
    }

    /// Begins a rotation to the next epoch, at whichever manager leads. [`Outcome::Done`] is that it
    /// was begun; the leader ends it.
    pub async fn rotate(&self, reason: Reason) -> Result<Outcome, ProposeRefused> {
        let command = self.0.next_epoch(reason)?;
        match self.0.propose(command.clone()).await {
            Err(ProposeRefused::NotLeader {
                leader: Some((node, address)),
            }) => forward(&self.0.setup.client, node, address, command).await,
            decided => decided,
        }
    }

    /// The command that begins a rotation, with fresh secrets: for who proposes it himself.
    pub fn next_epoch(&self, reason: Reason) -> Result<Command, ProposeRefused> {
        self.0.next_epoch(reason)
    }
}

impl Inner {
    async fn propose(&self, command: Command) -> Result<Outcome, ProposeRefused> {
        self.wait_for_leader().await?;
        match self.with_log(|log| duties::put_out(log?, &command)) {
            Some((_, of)) => self.put_out(of, command).await,
            None => self.write(command).await,
        }
    }

    /// Waits until this manager leads a majority, or knows who leads.
    async fn wait_for_leader(&self) -> Result<(), ProposeRefused> {
        let time = self.setup.timing.settle;
        let mut metrics = self.raft.metrics();
        let settled = timeout(time, async {
            loop {
                let now = metrics.borrow_and_update().clone();
                if let Err(failure) = &now.running_state {
                    return Err(ProposeRefused::NoLeader(format!(
                        "this one has stopped: {failure}; check its disk and start it again"
                    )));
                }
                if self.leads(&now) {
                    if self.has_quorum(&now) {
                        return Ok(());
                    }
                } else if now.current_leader.is_some_and(|leader| self.hears(leader)) {
                    let leader = self.leader();
                    return Err(ProposeRefused::NotLeader { leader });
                }
                // Who answers is no part of the metrics.
                let changed = timeout(self.setup.timing.heartbeat, metrics.changed());
                if let Ok(Err(_)) = changed.await {
                    return Err(ProposeRefused::NoLeader("this one stops".into()));
                }
            }
        });
        settled
            .await
            .unwrap_or_else(|_| Err(ProposeRefused::NoLeader(self.silent())))
    }

    /// Puts a command in the log without asking who leads.
    pub(super) async fn write(&self, command: Command) -> Result<Outcome, ProposeRefused> {
        let len = command.encode().len();
        if len > Command::MAX_LEN {
            return Err(ProposeRefused::Majority(format!(
                "the command has {len} bytes, and {} are the most: ask for less at once",
                Command::MAX_LEN
            )));
        }
        let Some(at) = self.setup.clock.now() else {
            let why = "the clock of the leader cannot be read";
            return Err(ProposeRefused::NoLeader(why.into()));
        };
        let time = self.setup.timing.propose;
        let written = timeout(time, self.raft.client_write(Proposal { at, command }));
        match written.await {
            Ok(Ok(response)) => match response.data {
                Applied(Some(decided)) => Ok(decided?),
                Applied(None) => Err(ProposeRefused::Undecided("it came to nothing".into())),
            },
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                let leader = self.leader();
                let leader = leader.filter(|(node, _)| *node != self.setup.node);
                Err(ProposeRefused::NotLeader { leader })
            }
            Ok(Err(RaftError::APIError(error))) => Err(ProposeRefused::NoLeader(error.to_string())),
            Ok(Err(RaftError::Fatal(error))) => Err(ProposeRefused::Undecided(format!(
                "the manager that leads has stopped: {error}"
            ))),
            Err(_) => Err(ProposeRefused::Undecided(format!(
                "{time:?}: {}",
                self.silent()
            ))),
        }
    }

    /// Carries out a command that takes `node`, number `of`, out of office: first its vote goes.
    async fn put_out(&self, of: u64, command: Command) -> Result<Outcome, ProposeRefused> {
        self.try_out(&command)?;
        let changing = self.changing.lock().await;
        let late = |error| ProposeRefused::Undecided(error);
        let voting = self
            .voting()
            .ok_or_else(|| ProposeRefused::NoLeader("this manager has no cluster yet".into()))?;
        if voting.joint {
            self.change_voters(&VoterStep::FinishChange, &voting)
                .await
                .map_err(late)?;
        }
        if voting.voters.contains(&of) {
            if let Err(needed) = duties::without(&voting, of) {
                let name = self.name(of);
                return Err(ProposeRefused::Majority(format!(
                    "{name} cannot be taken out of the managers: {needed}"
                )));
            }
            if of == id(self.setup.index) {
                drop(changing);
                return self.hand_over(command).await;
            }
            self.change_voters(&VoterStep::TakeOut(of), &voting)
                .await
                .map_err(late)?;
        } else if voting.learners.contains(&of) {
            self.change_voters(&VoterStep::Forget(of), &voting)
                .await
                .map_err(late)?;
        }
        self.write(command).await
    }

    /// Whether the log would take the command now.
    fn try_out(&self, command: &Command) -> Result<(), ProposeRefused> {
        let Some(at) = self.setup.clock.now() else {
            return Ok(());
        };
        let mut state = self.reader.with(State::clone);
        state.apply(at, command.clone())?;
        Ok(())
    }

    /// Lets another manager lead, and has it carry out the command: a leader that took its own vote away
    /// would lead on, and nobody would be elected.
    async fn hand_over(&self, command: Command) -> Result<Outcome, ProposeRefused> {
        let own = id(self.setup.index);
        let mut metrics = self.raft.metrics();
        let config = self.raft.runtime_config();
        // The others hear nothing, and elect one of them.
        config.heartbeat(false);
        config.elect(false);
        let other = |leader: Option<u64>| leader.is_some_and(|leader| leader != own);
        let handed = metrics.wait_for(|now| other(now.current_leader));
        // They hold on to a leader that was silent for one such time, and wait for as long again at most.
        let elected = self.setup.timing.election.1 * 3;
        let handed = timeout(elected, handed).await.is_ok();
        config.heartbeat(true);
        config.elect(true);
        match self.leader().filter(|_| handed) {
            Some((leader, address)) => forward(&self.setup.client, leader, address, command).await,
            None => Err(ProposeRefused::NoLeader(
                "no other manager took the lead of this one, which is to leave office".into(),
            )),
        }
    }
}
