//! The client: calls a node by its id, asks, and checks what it is told.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use overlay_cluster::{
    control::{
        join::{Join, JoinRefused, JoinRequest, JoinResponse, Joined},
        member::{MemberRefused, MemberRequest, MemberResponse},
        renew::{RenewRefused, RenewRequest, RenewResponse, Renewed},
        secrets::HandoutError,
    },
    id::{EpochName, NodeId},
    identity::{
        Role,
        certificate::{self, CertificateError, Identity},
        csr::{CertificateRequest, RequestError},
        trust::{RootDigest, TrustBundle},
    },
    keys::EpochSecrets,
    log::{
        command::{Command, Outcome},
        view::{Update, Version},
    },
    rotation::{Acknowledgement, Digest},
};
use rustls::{
    AlertDescription, ClientConfig,
    pki_types::{CertificateDer, ServerName},
    time_provider::TimeProvider,
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    frame::{self, FrameError},
    limits::ClientLimits,
};
use crate::daemon::tls::{self, PeerError, Service, Tls, join_name, server_name};

/// Why a node did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No TCP connection.
    #[error("node at {address} cannot be reached: {error}")]
    Connect {
        address: SocketAddr,
        error: io::Error,
    },
    /// One side does not believe the other.
    #[error("no trusted connection with {address}: {error}")]
    Handshake {
        address: SocketAddr,
        error: io::Error,
    },
    /// The other side does not believe this one, and says why.
    #[error("{address} refuses this node ({alert:?}): {}", advice(*.alert))]
    Alert {
        address: SocketAddr,
        alert: AlertDescription,
    },
    /// It answers nothing.
    #[error("{address} did not answer within {time:?} ({what})")]
    Timeout {
        address: SocketAddr,
        what: &'static str,
        time: Duration,
    },
    #[error("no answer from {address}: {error}")]
    Frame {
        address: SocketAddr,
        error: FrameError,
    },
    /// It ended the connection instead of an answer: it stops, is too busy, or does not let this
    /// node in.
    #[error("{address} closed the connection without an answer: try again, or ask another")]
    Closed { address: SocketAddr },
    /// An earlier request was given up half-way.
    #[error("an earlier request on this connection was not finished: make a new connection")]
    Broken,
    /// An answer to another question.
    #[error("node {node} gave another kind of answer than was asked for: update the older release")]
    Unexpected { node: NodeId },
    /// The peer is trusted no longer.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// What managers alone may say.
    #[error("node {node} is no manager, and is not believed in this: ask a manager")]
    NotManager { node: NodeId },
    /// The clock of this host cannot be read.
    #[error("the clock of this host cannot be read")]
    NoClock,
    /// The manager said no.
    #[error("the join is refused: {0}")]
    JoinRefused(Box<JoinRefused>),
    #[error("the certificate is not renewed: {0}")]
    RenewRefused(RenewRefused),
    #[error(transparent)]
    Refused(Box<MemberRefused>),
    /// The own request for a certificate is bad.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The certificate that was issued is bad.
    #[error("the manager issued a certificate that is not good: {0}")]
    Issued(#[from] CertificateError),
    /// The parts of an answer do not fit together.
    #[error("the manager's answer contradicts itself: {0}")]
    Contradiction(&'static str),
    #[error(transparent)]
    Secrets(#[from] HandoutError),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// For what stands to be read of a connection that broke.
const LAST: Duration = Duration::from_secs(1);

/// What can be done about an alert of the other side.
fn advice(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRevoked => {
            "this node was evicted, and comes back with a new key and a join token"
        }
        AlertDescription::CertificateExpired => {
            "the certificate of this node is over, or a clock is wrong: renew it"
        }
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "it knows neither this node nor its root: see its log; a node that has just joined is \
             tried again"
        }
        AlertDescription::NoApplicationProtocol => {
            "it does not speak the protocols of this release: the two are more than one release apart, \
             update the older one (`overlay --version` tells)"
        }
        _ => "see its log",
    }
}

/// Calls members.
#[derive(Clone)]
pub struct Client {
    tls: Tls,
    member: TlsConnector,
    renew: TlsConnector,
    pub(super) raft: TlsConnector,
    pub(super) limits: ClientLimits,
    /// Nodes of one process have addresses of documentation, and listen elsewhere.
    #[cfg(test)]
    pub detours: Detours,
}

/// Where a node listens in truth, by the address under which it is known.
#[cfg(test)]
pub type Detours = Arc<std::sync::RwLock<std::collections::BTreeMap<SocketAddr, SocketAddr>>>;

impl Client {
    pub fn new(tls: Tls, limits: ClientLimits) -> Result<Self, rustls::Error> {
        let connector = |service| {
            tls.client(service)
                .map(|config| TlsConnector::from(Arc::new(config)))
        };
        Ok(Self {
            member: connector(Service::Member)?,
            renew: connector(Service::Renew)?,
            raft: connector(Service::Raft)?,
            tls,
            limits,
            #[cfg(test)]
            detours: Detours::default(),
        })
    }

    pub const fn tls(&self) -> &Tls {
        &self.tls
    }

    #[cfg(not(test))]
    pub(super) const fn way(&self, address: SocketAddr) -> SocketAddr {
        address
    }

    #[cfg(test)]
    pub(super) fn way(&self, address: SocketAddr) -> SocketAddr {
        let detours = self.detours.read().unwrap();
        detours.get(&address).copied().unwrap_or(address)
    }

    /// Connects with `node`, and with no other that may answer at `address`.
    pub async fn connect(
        &self,
        address: SocketAddr,
        node: NodeId,
    ) -> Result<Connection, ClientError> {
        let way = self.way(address);
        let stream = open(&self.member, way, server_name(node), self.limits).await?;
        let connection = Connection {
            certificates: certificates(&stream),
            stream,
            address,
            node,
            tls: self.tls.clone(),
            limits: self.limits,
            broken: false,
        };
        connection.role()?;
        Ok(connection)
    }

    /// Renews a certificate that has expired, at a manager. `request` is DER of the request for a
    /// certificate. One that is still good is renewed by [`Connection::renew`].
    pub async fn renew(
        &self,
        address: SocketAddr,
        node: NodeId,
        request: Vec<u8>,
    ) -> Result<Renewed, ClientError> {
        let own = CertificateRequest::parse(&request)?.node_id();
        let mut stream = open(&self.renew, address, server_name(node), self.limits).await?;
        let now = self.tls.now().ok_or(ClientError::NoClock)?;
        let shown = certificates(&stream);
        let peer = tls::peer(Some(&shown), Service::Member, &**self.tls.members(), now)?;
        if peer.admission.role != Role::Manager {
            return Err(ClientError::NotManager { node });
        }
        let request = RenewRequest::Renew { request };
        let response = exchange(&mut stream, &request, address, self.limits).await?;
        goodbye(&mut stream).await;
        match response {
            RenewResponse::Renewed(renewed) => check_renewed(*renewed, own, &self.tls),
            RenewResponse::Refused(refused) => Err(ClientError::RenewRefused(refused)),
        }
    }
}

/// Joins the cluster of the token at a manager. Who the manager is comes back with what it gave:
/// a certificate for the key of the request, and roots among which is that of the token.
pub async fn join(
    address: SocketAddr,
    join: Join,
    clock: Arc<dyn TimeProvider>,
    limits: ClientLimits,
) -> Result<(Identity, Joined), ClientError> {
    let own = CertificateRequest::parse(&join.request)?.node_id();
    let root = join.token.root;
    let config: ClientConfig = tls::join_client(root, clock.clone())?;
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = open(&connector, address, join_name(), limits).await?;
    let now = tls::now(&*clock).ok_or(ClientError::NoClock)?;
    let shown = certificates(&stream);
    let (pinned, manager) = tls::manager(Some(&shown), root, now)?;
    let request = JoinRequest::Join(Box::new(join));
    let response = exchange(&mut stream, &request, address, limits).await?;
    goodbye(&mut stream).await;
    let joined = match response {
        JoinResponse::Joined(joined) => *joined,
        JoinResponse::Refused(refused) => return Err(ClientError::JoinRefused(refused)),
    };
    let identity = certificate::verify(&joined.certificate, &joined.trust, now)?;
    check_joined(&joined, &identity, own, &pinned, root)?;
    Ok((manager, joined))
}

fn check_joined(
    joined: &Joined,
    identity: &Identity,
    own: NodeId,
    pinned: &TrustBundle,
    root: RootDigest,
) -> Result<(), ClientError> {
    let cluster = pinned.cluster();
    let fault = if joined.trust.get(root).is_none() {
        "the root of the token is not among the trusted ones"
    } else if [joined.cluster, joined.trust.cluster(), joined.view.cluster] != [cluster; 3] {
        "it is of another cluster than the manager"
    } else if joined.view.trust != joined.trust {
        "the view has other roots"
    } else if identity.node != own || joined.view.node != own {
        "it is for another node"
    } else if identity.role != joined.role {
        "the certificate has another role"
    } else if joined.view.peers.get(&own).map(|peer| peer.index) != Some(joined.index) {
        "the view does not have this node under its index"
    } else {
        return Ok(());
    };
    Err(ClientError::Contradiction(fault))
}

fn check_renewed(renewed: Renewed, own: NodeId, tls: &Tls) -> Result<Renewed, ClientError> {
    let now = tls.now().ok_or(ClientError::NoClock)?;
    let identity = certificate::verify(&renewed.certificate, &renewed.trust, now)?;
    if renewed.trust.cluster() != tls.members().trust().cluster() {
        return Err(ClientError::Contradiction(
            "the roots are of another cluster",
        ));
    }
    if identity.node != own || identity.role != renewed.role {
        return Err(ClientError::Contradiction(
            "the certificate is for another node or role",
        ));
    }
    Ok(renewed)
}

/// A connection with a member, for one request after the other.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    certificates: Vec<CertificateDer<'static>>,
    address: SocketAddr,
    node: NodeId,
    tls: Tls,
    limits: ClientLimits,
    /// A request was begun and its answer not read: what comes next is not the answer to the next.
    broken: bool,
}

impl Connection {
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Whether another request can be made.
    pub const fn is_usable(&self) -> bool {
        !self.broken
    }

    /// Asks for anything. The methods below also check the answer.
    pub async fn request(
        &mut self,
        request: &MemberRequest,
    ) -> Result<MemberResponse, ClientError> {
        if self.broken {
            return Err(ClientError::Broken);
        }
        self.role()?;
        // Also if this future is dropped half-way.
        self.broken = true;
        let response = exchange(&mut self.stream, request, self.address, self.limits).await?;
        self.broken = false;
        match response {
            MemberResponse::Refused(refused) => Err(ClientError::Refused(refused)),
            response => Ok(response),
        }
    }

    /// What has changed since `have`, or everything.
    pub async fn pull_view(&mut self, have: Option<Version>) -> Result<Update, ClientError> {
        match self.ask_manager(&MemberRequest::PullView { have }).await? {
            MemberResponse::View(update) => Ok(update),
            _ => Err(self.unexpected()),
        }
    }

    /// What has changed since `have`, when something has; nothing, if that takes long.
    pub async fn watch_view(&mut self, have: Version) -> Result<Update, ClientError> {
        match self.ask_manager(&MemberRequest::WatchView { have }).await? {
            MemberResponse::View(update) => Ok(update),
            _ => Err(self.unexpected()),
        }
    }

    /// The secrets of those of `epochs` that are live, each checked against the epoch's name.
    pub async fn pull_secrets(
        &mut self,
        epochs: Vec<EpochName>,
    ) -> Result<Vec<(EpochName, EpochSecrets)>, ClientError> {
        let asked = epochs.clone();
        let request = MemberRequest::PullSecrets { epochs };
        match self.ask_manager(&request).await? {
            MemberResponse::Secrets(handout) => Ok(handout.open(&asked)?),
            _ => Err(self.unexpected()),
        }
    }

    /// A new certificate for the key of `request`, this node's own.
    pub async fn renew(&mut self, request: Vec<u8>) -> Result<Renewed, ClientError> {
        let own = CertificateRequest::parse(&request)?.node_id();
        match self.ask_manager(&MemberRequest::Renew { request }).await? {
            MemberResponse::Renewed(renewed) => check_renewed(*renewed, own, &self.tls),
            _ => Err(self.unexpected()),
        }
    }

    pub async fn acknowledge(&mut self, message: Acknowledgement) -> Result<(), ClientError> {
        match self.request(&MemberRequest::Acknowledge(message)).await? {
            MemberResponse::Heard => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    pub async fn report(&mut self, digest: Digest) -> Result<(), ClientError> {
        match self.ask_manager(&MemberRequest::Report(digest)).await? {
            MemberResponse::Heard => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    /// One message of an anti-entropy exchange, and the answer to it.
    pub async fn sync(&mut self, message: Vec<u8>) -> Result<Vec<u8>, ClientError> {
        match self.request(&MemberRequest::Sync(message)).await? {
            MemberResponse::Sync(answer) => Ok(answer),
            _ => Err(self.unexpected()),
        }
    }

    /// Lets a manager put a command in the log. `forwarded`: by a manager that does not lead.
    pub async fn propose(
        &mut self,
        command: Command,
        forwarded: bool,
    ) -> Result<Outcome, ClientError> {
        let command = Box::new(command);
        let request = MemberRequest::Propose { command, forwarded };
        match self.ask_manager(&request).await? {
            MemberResponse::Outcome(outcome) => Ok(*outcome),
            _ => Err(self.unexpected()),
        }
    }

    /// Says goodbye.
    pub async fn close(mut self) {
        goodbye(&mut self.stream).await;
    }

    /// Asks for anything, if the peer is a manager.
    pub async fn ask_manager(
        &mut self,
        request: &MemberRequest,
    ) -> Result<MemberResponse, ClientError> {
        if self.role()? != Role::Manager {
            return Err(ClientError::NotManager { node: self.node });
        }
        self.request(request).await
    }

    /// What the peer may do now: it may have been evicted since the handshake.
    fn role(&self) -> Result<Role, ClientError> {
        let now = self.tls.now().ok_or(ClientError::NoClock)?;
        let members = &**self.tls.members();
        let peer = tls::peer(Some(&self.certificates), Service::Member, members, now)?;
        Ok(peer.admission.role)
    }

    const fn unexpected(&self) -> ClientError {
        ClientError::Unexpected { node: self.node }
    }
}

pub(super) fn certificates(stream: &TlsStream<TcpStream>) -> Vec<CertificateDer<'static>> {
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    shown.iter().map(|der| der.clone().into_owned()).collect()
}

pub(super) async fn open(
    connector: &TlsConnector,
    address: SocketAddr,
    name: ServerName<'static>,
    limits: ClientLimits,
) -> Result<TlsStream<TcpStream>, ClientError> {
    let late = |what, time| {
        move |_| ClientError::Timeout {
            address,
            what,
            time,
        }
    };
    let stream = timeout(limits.connect, TcpStream::connect(address))
        .await
        .map_err(late("connect", limits.connect))?
        .map_err(|error| ClientError::Connect { address, error })?;
    // Messages are small and waited for. Without it they are late, and nothing else.
    let _ = stream.set_nodelay(true);
    timeout(limits.handshake, connector.connect(name, stream))
        .await
        .map_err(late("handshake", limits.handshake))?
        .map_err(|error| match alert(&error) {
            Some(alert) => ClientError::Alert { address, alert },
            None => ClientError::Handshake { address, error },
        })
}

/// Sends `request` and waits for the answer to it.
pub(super) async fn exchange<Q, A>(
    stream: &mut TlsStream<TcpStream>,
    request: &Q,
    address: SocketAddr,
    limits: ClientLimits,
) -> Result<A, ClientError>
where
    Q: overlay_cluster::control::message::Message,
    A: overlay_cluster::control::message::Message,
{
    let answered = async {
        match frame::send(stream, request, limits.pace).await {
            Ok(()) => frame::receive(stream, limits.answer, limits.pace).await,
            // A server that refuses its client may have closed before all of the request was out. Its alert came before
            // that, and stands to be read.
            Err(FrameError::Io(broken)) => {
                match frame::receive::<A>(stream, LAST, limits.pace).await {
                    Err(FrameError::Io(error)) if alert(&error).is_some() => Err(error.into()),
                    _ => Err(broken.into()),
                }
            }
            Err(error) => Err(error),
        }
    };
    match answered.await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(ClientError::Closed { address }),
        Err(FrameError::Silent(time)) => Err(ClientError::Timeout {
            address,
            what: "answer",
            time,
        }),
        Err(FrameError::Io(error)) => Err(match alert(&error) {
            Some(alert) => ClientError::Alert { address, alert },
            None => ClientError::Frame {
                address,
                error: error.into(),
            },
        }),
        Err(error) => Err(ClientError::Frame { address, error }),
    }
}

/// The alert of the peer, if that is what ended the connection. In TLS 1.3 a server refuses its
/// client after the client has taken the handshake for done.
fn alert(error: &io::Error) -> Option<AlertDescription> {
    let inner = error.get_ref()?;
    let tls = inner
        .downcast_ref::<rustls::Error>()
        .or_else(|| inner.source()?.downcast_ref())?;
    match tls {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// The peer may be gone already.
pub(super) async fn goodbye(stream: &mut TlsStream<TcpStream>) {
    let _ = timeout(Duration::from_secs(1), stream.shutdown()).await;
}
