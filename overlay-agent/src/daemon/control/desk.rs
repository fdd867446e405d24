//! What a node does about the requests that it gets: the rules are in
//! [`overlay_cluster::control::handler`], the state in the node's [`Office`].

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ed25519_dalek::VerifyingKey;
use futures_util::future::BoxFuture;
use overlay_cluster::{
    control::{
        handler::{Caller, Handler, Issue, Todo},
        join::{Join, JoinRefused, JoinRequest, JoinResponse, Joined},
        member::{MemberRefused, MemberRequest, MemberResponse, ProposeRefused},
        raft::{RaftRefused, RaftRequest, RaftResponse},
        renew::{RenewRefused, RenewRequest, RenewResponse, Renewed},
    },
    gossip::anti_entropy::SyncError,
    id::NodeId,
    identity::Role,
    log::view::Version,
    log::{
        command::{Command, Outcome},
        refusal::Refusal,
        roster::RosterRefusal,
        state::Cluster,
    },
    rotation::{Acknowledgement, Digest},
    time::Timestamp,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    client::{Client, ClientError},
    server::Host,
};

/// How long a follower waits for its own log to have what the leader has decided.
const CATCH_UP: Duration = Duration::from_secs(5);

/// How long a node that has all there is waits for more: less than
/// [`super::limits::ServerLimits::answer`].
pub const HOLD: Duration = Duration::from_secs(5);

/// Between two looks while nothing is told: a manager that is none any longer tells nothing.
const LOOK: Duration = Duration::from_secs(1);

/// For the managers to agree on a leader after one has failed.
const ELECTION: Duration = Duration::from_secs(10);

/// Between two attempts to reach it.
const AGAIN: Duration = Duration::from_millis(300);

/// From a change of the log to the answers to those who wait for one: commands come in bursts, and
/// each answer goes to every node.
const GATHER: Duration = Duration::from_millis(20);

/// What the desk needs of its node.
pub trait Office: Send + Sync + 'static {
    /// Shows the state of the log, on a manager that has it. It is not changed meanwhile.
    fn log(&self, read: &mut dyn FnMut(Option<&Cluster>));
    /// Whether its log grows with that of the others. A manager cut off from them, or out of office without
    /// having heard of it, has an old one.
    fn is_current(&self) -> bool {
        true
    }
    /// Tells when the state of the log has changed.
    fn changes(&self) -> watch::Receiver<u64>;
    /// DER of a certificate, if the authority is unlocked here; else why not.
    fn issue(&self, key: &VerifyingKey, role: Role) -> Result<Vec<u8>, String>;
    /// Puts a command in the log, if this node leads. The caller has checked who asks for it.
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Outcome, ProposeRefused>>;
    /// For the rotation. The peer has said it itself.
    fn acknowledged(&self, message: Acknowledgement);
    /// For the schedule of rotations.
    fn reported(&self, node: NodeId, digest: Digest);
    /// The answer to one message of an anti-entropy exchange.
    fn sync(&self, peer: NodeId, message: &[u8]) -> Result<Vec<u8>, SyncError>;
    /// The answer to another manager, on a manager.
    fn raft(&self, from: NodeId, request: RaftRequest) -> BoxFuture<'_, RaftResponse> {
        let _ = (from, request);
        Box::pin(async { RaftResponse::Refused(RaftRefused::NoLog) })
    }
}

/// Answers requests by the rules.
pub struct Desk {
    own: NodeId,
    office: Arc<dyn Office>,
    /// For the way to the leader.
    client: Client,
}

impl Desk {
    pub fn new(own: NodeId, office: Arc<dyn Office>, client: Client) -> Arc<Self> {
        Arc::new(Self {
            own,
            office,
            client,
        })
    }

    /// Puts a command in the log: here, or at the manager that leads. Whoever calls it has checked
    /// who asks for the command.
    pub async fn propose(
        &self,
        command: Command,
        forwarded: bool,
    ) -> Result<Outcome, ProposeRefused> {
        let begun = Instant::now();
        loop {
            let decided = match self.office.propose(command.clone()).await {
                Err(ProposeRefused::NotLeader {
                    leader: Some((node, address)),
                }) if !forwarded && node != self.own => {
                    forward(&self.client, node, address, command.clone()).await
                }
                decided => decided,
            };
            // Nothing was done: the leader is gone, and the next one not elected.
            let may_come = matches!(
                decided,
                Err(ProposeRefused::NoLeader(_) | ProposeRefused::NotLeader { .. })
            );
            if forwarded || !may_come || begun.elapsed() > ELECTION {
                return decided;
            }
            sleep(AGAIN).await;
        }
    }

    /// Whether what it answers is what the managers have decided, as far as it knows.
    pub fn is_current(&self) -> bool {
        self.office.is_current()
    }

    fn now(&self) -> Timestamp {
        // A clock that cannot be read ends handshakes before it comes to this.
        self.client.tls().now().unwrap_or(Timestamp::from_millis(0))
    }

    /// What `decide` makes of this moment.
    fn decide<T>(&self, decide: impl FnOnce(&Handler<'_>) -> T) -> T {
        let trust = self.client.tls().members().trust();
        let now = self.now();
        let (mut decide, mut decided) = (Some(decide), None);
        self.office.log(&mut |log| {
            let handler = Handler {
                own: self.own,
                trust: &trust,
                log,
                now,
            };
            if let Some(decide) = decide.take() {
                decided = Some(decide(&handler));
            }
        });
        decided.expect("an office shows the log before it returns")
    }

    async fn let_in(&self, join: &Join) -> Result<Joined, JoinRefused> {
        let accepted = self.decide(|handler| handler.join(join))?;
        let mut changes = self.office.changes();
        if let Some(command) = accepted.command {
            self.propose(command, false).await.map_err(not_in_log)?;
        }
        let issue = accepted.issue;
        self.wait_for(&issue, &mut changes).await?;
        let certificate = self
            .office
            .issue(&issue.key, issue.role)
            .map_err(JoinRefused::Unavailable)?;
        self.decide(|handler| handler.joined(&issue, certificate))
    }

    /// Waits until the log of this manager has the node.
    async fn wait_for(
        &self,
        issue: &Issue,
        changes: &mut watch::Receiver<u64>,
    ) -> Result<(), JoinRefused> {
        let node = NodeId::of(&issue.key);
        let present = || self.decide(|handler| is_present(handler, &node));
        let waited = timeout(CATCH_UP, async {
            while !present() {
                if changes.changed().await.is_err() {
                    break;
                }
            }
        });
        match waited.await {
            Ok(()) if present() => Ok(()),
            _ => Err(JoinRefused::Unavailable(
                "this manager lags behind its leader".into(),
            )),
        }
    }

    fn issue(&self, issue: &Issue) -> Result<Renewed, RenewRefused> {
        let certificate = self
            .office
            .issue(&issue.key, issue.role)
            .map_err(RenewRefused::Unavailable)?;
        Ok(self.decide(|handler| handler.renewed(issue, certificate)))
    }

    /// Answers when the log has something newer than `have`, or the wait is over. Each wait costs a
    /// timer and one look at the version per change of the log.
    async fn watch(&self, caller: Caller, have: Version) -> MemberResponse {
        let mut changes = self.office.changes();
        let decide =
            || self.decide(|handler| handler.member(caller, MemberRequest::WatchView { have }));
        let news = async {
            loop {
                changes.mark_unchanged();
                match decide() {
                    Todo::Answer(answer) => return answer,
                    _ => match timeout(LOOK, changes.changed()).await {
                        Ok(Err(_)) => return self.pull(caller, have),
                        Ok(Ok(())) => sleep(GATHER).await,
                        Err(_) => {}
                    },
                }
            }
        };
        match timeout(HOLD, news).await {
            Ok(answer) => answer,
            Err(_) => self.pull(caller, have),
        }
    }

    fn pull(&self, caller: Caller, have: Version) -> MemberResponse {
        let request = MemberRequest::PullView { have: Some(have) };
        match self.decide(|handler| handler.member(caller, request)) {
            Todo::Answer(answer) => answer,
            // A pull is answered.
            _ => MemberResponse::Heard,
        }
    }

    async fn answer(&self, caller: Caller, request: MemberRequest) -> MemberResponse {
        let answered = match self.decide(|handler| handler.member(caller, request)) {
            Todo::Answer(answer) => Ok(answer),
            Todo::Wait(have) => Ok(self.watch(caller, have).await),
            Todo::Propose { command, forwarded } => self
                .propose(*command, forwarded)
                .await
                .map(|outcome| MemberResponse::Outcome(Box::new(outcome)))
                .map_err(MemberRefused::Proposal),
            Todo::Issue(issue) => self
                .issue(&issue)
                .map(|renewed| MemberResponse::Renewed(Box::new(renewed)))
                .map_err(MemberRefused::Renewal),
            Todo::Acknowledge(message) => {
                self.office.acknowledged(message);
                Ok(MemberResponse::Heard)
            }
            Todo::Report(node, digest) => {
                self.office.reported(node, digest);
                Ok(MemberResponse::Heard)
            }
            Todo::Sync(peer, message) => self
                .office
                .sync(peer, &message)
                .map(MemberResponse::Sync)
                .map_err(|error| MemberRefused::Sync(error.to_string())),
        };
        answered.unwrap_or_else(|refused| MemberResponse::Refused(Box::new(refused)))
    }
}

/// Lets the manager that leads put a command in the log.
pub async fn forward(
    client: &Client,
    leader: NodeId,
    address: SocketAddr,
    command: Command,
) -> Result<Outcome, ProposeRefused> {
    let mut leader = client
        .connect(address, leader)
        .await
        .map_err(|error| ProposeRefused::NoLeader(error.to_string()))?;
    let decided = leader.propose(command, true).await;
    match decided {
        Ok(outcome) => {
            leader.close().await;
            Ok(outcome)
        }
        Err(ClientError::Refused(refused)) => Err(match *refused {
            MemberRefused::Proposal(refused) => refused,
            refused => ProposeRefused::NoLeader(refused.to_string()),
        }),
        Err(error @ ClientError::NotManager { .. }) => {
            Err(ProposeRefused::NoLeader(error.to_string()))
        }
        Err(error) => Err(ProposeRefused::Undecided(error.to_string())),
    }
}

fn is_present(handler: &Handler<'_>, node: &NodeId) -> bool {
    handler
        .log
        .is_some_and(|log| log.roster().present(node).is_ok())
}

/// A join that the managers did not decide, or decided otherwise than this one.
fn not_in_log(refused: ProposeRefused) -> JoinRefused {
    match refused {
        ProposeRefused::Log(Refusal::Token(refused)) => JoinRefused::Token(refused),
        ProposeRefused::Log(refused) => JoinRefused::Log(refused),
        refused => JoinRefused::Unavailable(refused.to_string()),
    }
}

impl Host for Desk {
    fn join(&self, from: SocketAddr, request: JoinRequest) -> BoxFuture<'_, JoinResponse> {
        Box::pin(async move {
            let JoinRequest::Join(join) = request;
            match self.let_in(&join).await {
                Ok(joined) => {
                    let (name, index, role) = (&join.name, joined.index, joined.role);
                    tracing::info!(%from, %name, %index, %role, "a node joined");
                    JoinResponse::Joined(Box::new(joined))
                }
                Err(refused) => {
                    tracing::warn!(%from, "{}", refused.at_manager(&join.name));
                    JoinResponse::Refused(Box::new(refused))
                }
            }
        })
    }

    fn renew(&self, caller: Caller, request: RenewRequest) -> BoxFuture<'_, RenewResponse> {
        Box::pin(async move {
            let RenewRequest::Renew { request } = request;
            let renewed = self
                .decide(|handler| handler.renew(caller, &request))
                .and_then(|issue| self.issue(&issue));
            match renewed {
                Ok(renewed) => RenewResponse::Renewed(Box::new(renewed)),
                Err(refused) => {
                    log_refusal(caller, &refused);
                    RenewResponse::Refused(refused)
                }
            }
        })
    }

    fn member(&self, caller: Caller, request: MemberRequest) -> BoxFuture<'_, MemberResponse> {
        Box::pin(self.answer(caller, request))
    }

    fn raft(&self, caller: Caller, request: RaftRequest) -> BoxFuture<'_, RaftResponse> {
        self.office.raft(caller.node, request)
    }
}

/// An evicted node that asks is worth a line in the log.
fn log_refusal(caller: Caller, refused: &RenewRefused) {
    let node = caller.node;
    match refused {
        RenewRefused::Roster(RosterRefusal::Evicted { .. }) => {
            tracing::warn!(%node, %refused, "an evicted node asks for a certificate");
        }
        _ => tracing::debug!(%node, %refused, "a certificate is not renewed"),
    }
}
