//! The managers, as one of the nodes asks them: the one on this host, or any that answers.

use std::{
    collections::VecDeque,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use overlay_cluster::{
    control::{
        handler::Caller,
        member::{MemberRefused, MemberRequest, MemberResponse, ProposeRefused},
        secrets::HandoutError,
    },
    id::{EpochName, NodeId},
    identity::Role,
    keys::EpochSecrets,
    log::{
        command::{Command, Outcome},
        roster::RosterRefusal,
        view::{Update, UpdateError, Version, View},
    },
    rotation::Digest,
};
use rustls::AlertDescription;
use tokio::{sync::Semaphore, time::timeout};

use crate::daemon::control::{
    client::{Client, ClientError, Connection},
    desk::{Desk, HOLD},
    server::Host as _,
};

/// Requests under way at a time, those that wait for news aside.
const AT_ONCE: usize = 4;
/// Connections that are kept for the next request.
const KEPT: usize = 3;
/// A connection is not used again after it: less than the server's patience.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// For an answer that was held back to come, after the time of holding.
const NEWS: Duration = Duration::from_secs(4);
/// For an answer of the manager on this host.
const LOCAL: Duration = Duration::from_secs(30);
/// Stands for the manager on this host where addresses are listed.
const HERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Why the managers did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The view names none but this node, and this node runs none.
    #[error("this node knows no manager that it could ask: join the cluster again")]
    NoManager,
    /// None answers.
    #[error("no manager can be asked: {}", Tried(.0))]
    Unreachable(Vec<(SocketAddr, String)>),
    /// A manager that answered said no.
    #[error(transparent)]
    Refused(Box<MemberRefused>),
    /// This node is no member any more.
    #[error("this node takes part no longer: {0}")]
    PutOut(String),
    /// A proposal went out, and no answer came.
    #[error(
        "it is not known whether the managers have done it ({0}): look at the state before you try again"
    )]
    Undecided(String),
    /// An answer to another question.
    #[error("the manager gave another kind of answer than was asked for: update the older release")]
    Unexpected,
    #[error(transparent)]
    Secrets(#[from] HandoutError),
    /// What it says of the log cannot be.
    #[error(transparent)]
    Update(#[from] UpdateError),
}

struct Tried<'a>(&'a [(SocketAddr, String)]);

impl fmt::Display for Tried<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (address, why)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "; " } else { "" };
            // Most errors name the address already.
            if why.contains(&address.to_string()) {
                write!(f, "{comma}{why}")?;
            } else {
                write!(f, "{comma}{address}: {why}")?;
            }
        }
        Ok(())
    }
}

/// The way to the managers. Clones are the same one.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    own: NodeId,
    client: Client,
    turn: Semaphore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    desk: Option<Arc<Desk>>,
    role: Option<Role>,
    /// The one that answered last in front.
    managers: VecDeque<(NodeId, SocketAddr)>,
    kept: Vec<(Connection, Instant)>,
}

/// How an attempt with one manager ended.
enum Attempt {
    Answered(MemberResponse),
    /// Another may answer better.
    Next(String),
    Failed(UpstreamError),
}

/// How the attempts with all of them ended.
enum Attempts {
    Answered(Box<MemberResponse>),
    Failed(UpstreamError),
    /// Where each was asked, and why it did not answer.
    None(Vec<(SocketAddr, String)>),
}

impl Upstream {
    /// Asks by `client`, the one of node `own`.
    pub fn new(own: NodeId, client: Client) -> Self {
        Self(Arc::new(Inner {
            own,
            client,
            turn: Semaphore::new(AT_ONCE),
            state: Mutex::default(),
        }))
    }

    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// This node runs a manager from now on, or none any more.
    pub fn set_desk(&self, desk: Option<Arc<Desk>>) {
        self.state().desk = desk;
    }

    /// The managers of this view are to be asked.
    pub fn follow(&self, view: &View) {
        let mut state = self.state();
        state.role = view.peers.get(&view.node).map(|own| own.role);
        let is_manager = |node: &NodeId| {
            let peer = view.peers.get(node);
            peer.filter(|peer| peer.role == Role::Manager && *node != self.0.own)
                .map(|peer| (*node, peer.contact.control))
        };
        let known = state.managers.iter();
        let mut managers: VecDeque<_> = known.filter_map(|(node, _)| is_manager(node)).collect();
        let mut new: Vec<_> = view
            .peers
            .keys()
            .filter_map(is_manager)
            .filter(|manager| !managers.contains(manager))
            .collect();
        // Not all nodes begin with the same one.
        if !new.is_empty() {
            let first = usize::from(self.0.own.as_bytes()[0]) % new.len();
            new.rotate_left(first);
        }
        managers.extend(new);
        let still: Vec<_> = managers.iter().map(|(node, _)| *node).collect();
        state.managers = managers;
        state
            .kept
            .retain(|(connection, _)| still.contains(&connection.node()));
    }

    /// The next request goes to another manager, if there is one: this one lags.
    pub fn turn_away(&self) {
        let managers = &mut self.state().managers;
        if let Some(first) = managers.pop_front() {
            managers.push_back(first);
        }
    }

    /// Whether the manager on this host, if there is one, knows what the managers have decided.
    pub fn is_current(&self) -> bool {
        let desk = self.state().desk.clone();
        desk.is_none_or(|desk| desk.is_current())
    }

    /// What has changed since the version that the node has.
    pub async fn pull_view(&self, have: Option<Version>) -> Result<Update, UpstreamError> {
        match self.ask(MemberRequest::PullView { have }).await? {
            MemberResponse::View(update) => Ok(update),
            _ => Err(UpstreamError::Unexpected),
        }
    }

    /// The same as soon as there is something newer; after a while, without.
    pub async fn watch_view(&self, have: Version) -> Result<Update, UpstreamError> {
        match self.ask(MemberRequest::WatchView { have }).await? {
            MemberResponse::View(update) => Ok(update),
            _ => Err(UpstreamError::Unexpected),
        }
    }

    /// The secrets of those of `epochs` that are live.
    pub async fn pull_secrets(
        &self,
        epochs: Vec<EpochName>,
    ) -> Result<Vec<(EpochName, EpochSecrets)>, UpstreamError> {
        let asked = epochs.clone();
        match self.ask(MemberRequest::PullSecrets { epochs }).await? {
            MemberResponse::Secrets(handout) => Ok(handout.open(&asked)?),
            _ => Err(UpstreamError::Unexpected),
        }
    }

    pub async fn report(&self, digest: Digest) -> Result<(), UpstreamError> {
        match self.ask(MemberRequest::Report(digest)).await? {
            MemberResponse::Heard => Ok(()),
            _ => Err(UpstreamError::Unexpected),
        }
    }

    /// Puts a command in the log, if this node may.
    pub async fn propose(&self, command: Command) -> Result<Outcome, UpstreamError> {
        let request = MemberRequest::Propose {
            command: Box::new(command),
            forwarded: false,
        };
        match self.ask(request).await? {
            MemberResponse::Outcome(outcome) => Ok(*outcome),
            _ => Err(UpstreamError::Unexpected),
        }
    }

    /// Asks the manager on this host, else one after the other. One that hears no other manager is asked
    /// last: it may be out of office, and not have heard of that either.
    pub async fn ask(&self, request: MemberRequest) -> Result<MemberResponse, UpstreamError> {
        let (desk, managers) = {
            let state = self.state();
            let desk = state.desk.clone().zip(state.role);
            (desk, state.managers.clone())
        };
        if desk.is_none() && managers.is_empty() {
            return Err(UpstreamError::NoManager);
        }
        let here_first = desk.as_ref().is_some_and(|(desk, _)| desk.is_current());
        let mut tried = Vec::new();
        for here in [here_first, !here_first] {
            let attempts = match &desk {
                Some((desk, role)) if here => self.ask_here(desk, *role, &request).await,
                None if here => continue,
                _ => self.ask_others(&managers, &request).await,
            };
            match attempts {
                Attempts::Answered(answer) => return Ok(*answer),
                Attempts::Failed(error) => return Err(error),
                Attempts::None(more) => tried.extend(more),
            }
        }
        Err(UpstreamError::Unreachable(tried))
    }

    async fn ask_here(&self, desk: &Desk, role: Role, request: &MemberRequest) -> Attempts {
        let node = self.0.own;
        let answered = timeout(LOCAL, desk.member(Caller { node, role }, request.clone()));
        let attempt = match answered.await {
            Ok(MemberResponse::Refused(refused)) => judge(refused, request),
            Ok(answer) => Attempt::Answered(answer),
            Err(_) if is_proposal(request) => {
                let error = format!("the manager on this host did not answer within {LOCAL:?}");
                Attempt::Failed(UpstreamError::Undecided(error))
            }
            Err(_) => Attempt::Next("no answer".to_owned()),
        };
        match attempt {
            Attempt::Answered(answer) => Attempts::Answered(Box::new(answer)),
            Attempt::Failed(error) => Attempts::Failed(error),
            Attempt::Next(why) => {
                tracing::debug!(%why, "the manager on this host cannot answer");
                Attempts::None(vec![(HERE, why)])
            }
        }
    }

    async fn ask_others(
        &self,
        managers: &VecDeque<(NodeId, SocketAddr)>,
        request: &MemberRequest,
    ) -> Attempts {
        let waits = matches!(request, MemberRequest::WatchView { .. });
        let _turn = if waits {
            None
        } else {
            self.0.turn.acquire().await.ok()
        };
        let mut tried = Vec::new();
        for (node, address) in managers.iter().copied() {
            let attempt = self.attempt(node, address, request);
            let attempt = if waits {
                // A manager whose host is gone says nothing, and others have news.
                let silent = |_| Attempt::Next("no answer".to_owned());
                timeout(HOLD + NEWS, attempt).await.unwrap_or_else(silent)
            } else {
                attempt.await
            };
            match attempt {
                Attempt::Answered(answer) => {
                    self.prefer(node);
                    return Attempts::Answered(Box::new(answer));
                }
                Attempt::Failed(error) => return Attempts::Failed(error),
                Attempt::Next(why) => {
                    tracing::debug!(%node, %address, %why, "asking another manager");
                    tried.push((address, why));
                }
            }
        }
        Attempts::None(tried)
    }

    async fn attempt(&self, node: NodeId, address: SocketAddr, request: &MemberRequest) -> Attempt {
        // One that a manager has ended without our notice takes a proposal as well as any, and nobody could
        // tell then whether the manager has it.
        if !is_proposal(request)
            && let Some(mut connection) = self.kept(node)
        {
            match connection.ask_manager(request).await {
                // The manager has closed it meanwhile, before it read anything.
                Err(
                    ClientError::Closed { .. }
                    | ClientError::Frame { .. }
                    | ClientError::Alert { .. },
                ) => {}
                asked => return self.settle(connection, asked, request),
            }
        }
        match self.0.client.connect(address, node).await {
            Ok(mut connection) => {
                let asked = connection.ask_manager(request).await;
                self.settle(connection, asked, request)
            }
            Err(error) => refused_here(error),
        }
    }

    fn settle(
        &self,
        connection: Connection,
        asked: Result<MemberResponse, ClientError>,
        request: &MemberRequest,
    ) -> Attempt {
        let attempt = match asked {
            Ok(answer) => Attempt::Answered(answer),
            Err(ClientError::Refused(refused)) => judge(refused, request),
            Err(error @ (ClientError::NotManager { .. } | ClientError::Peer(_))) => {
                Attempt::Next(error.to_string())
            }
            Err(
                error @ (ClientError::Closed { .. }
                | ClientError::Frame { .. }
                | ClientError::Timeout { .. }),
            ) if is_proposal(request) => {
                Attempt::Failed(UpstreamError::Undecided(error.to_string()))
            }
            Err(error) => refused_here(error),
        };
        if connection.is_usable() {
            let mut state = self.state();
            state.kept.push((connection, Instant::now()));
            if state.kept.len() > KEPT {
                state.kept.remove(0);
            }
        }
        attempt
    }

    fn kept(&self, node: NodeId) -> Option<Connection> {
        let mut state = self.state();
        state.kept.retain(|(_, since)| since.elapsed() < KEPT_FOR);
        let at = state
            .kept
            .iter()
            .rposition(|(connection, _)| connection.node() == node)?;
        Some(state.kept.remove(at).0)
    }

    fn prefer(&self, node: NodeId) {
        let managers = &mut self.state().managers;
        if let Some(at) = managers.iter().position(|(known, _)| *known == node) {
            managers.rotate_left(at);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn is_proposal(request: &MemberRequest) -> bool {
    matches!(request, MemberRequest::Propose { .. })
}

/// What a refusal of one manager says of the others.
fn judge(refused: Box<MemberRefused>, request: &MemberRequest) -> Attempt {
    match &*refused {
        MemberRefused::Roster(
            refusal @ (RosterRefusal::Evicted { .. } | RosterRefusal::HasLeft { .. }),
        ) => Attempt::Failed(UpstreamError::PutOut(refusal.to_string())),
        // It lags, or has no log.
        MemberRefused::NotManager
        | MemberRefused::Roster(_)
        | MemberRefused::Proposal(ProposeRefused::NotLeader { .. } | ProposeRefused::NoLeader(_)) => {
            Attempt::Next(refused.to_string())
        }
        // It may not have heard of the epoch yet.
        MemberRefused::Epoch(_) if !is_proposal(request) => Attempt::Next(refused.to_string()),
        _ => Attempt::Failed(UpstreamError::Refused(refused)),
    }
}

/// A connection that was not made.
fn refused_here(error: ClientError) -> Attempt {
    match error {
        ClientError::Alert {
            alert: AlertDescription::CertificateRevoked,
            ..
        } => Attempt::Failed(UpstreamError::PutOut(error.to_string())),
        error => Attempt::Next(error.to_string()),
    }
}
