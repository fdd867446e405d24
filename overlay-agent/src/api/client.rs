//! The client of the local API.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use overlay_cluster::identity::Role;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, task::JoinHandle, time::timeout};
use zeroize::Zeroizing;

use super::{
    ApiError, Code, Empty, GROUP,
    cluster::{
        AutolockRequest, Backup, CaRotation, InitRequest, Initialised, JoinRequest, JoinToken,
        LeaveRequest, Membership, RestoreRequest, RotateToken, UnlockKey, UnlockRequest,
    },
    endpoint::{Endpoint, EndpointAttach, EndpointQuery},
    event::{Event, EventQuery},
    keys::{KeysStatus, Policy, PolicyRequest, RotationBegun},
    network::{Network, NetworkCreate, NetworkDetail, PruneRequest, Pruned},
    node::{Node, NodeUpdate, Removed},
    path,
    status::{Peer, Status, Version},
};

/// Why the agent did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "the agent is not running (no answer at {}): start it with `systemctl start overlay-agent`, or `overlay-agent run --config FILE`",
        .0.display()
    )]
    NotRunning(PathBuf),
    /// The mode of the socket.
    #[error(
        "this user may not use the agent at {}: run the command as root, or as a member of the group `{GROUP}`",
        .0.display()
    )]
    Denied(PathBuf),
    /// The socket is there, and cannot be used.
    #[error("the agent at {} cannot be reached: {source}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    /// The agent ended, or is another program.
    #[error(
        "the connection to the agent broke: {0}; look at its log (`journalctl -u overlay-agent`)"
    )]
    Broken(#[from] hyper::Error),
    /// It takes longer than the agent itself allows.
    #[error("the agent did not answer within {} seconds: look at its log (`journalctl -u overlay-agent`)", .0.as_secs())]
    Silent(Duration),
    /// The answer is of another program or release.
    #[error(
        "the answer of the agent cannot be read ({0}): use an `overlay` command of its release"
    )]
    Answer(String),
    /// The agent refused.
    #[error(transparent)]
    Refused(#[from] ApiError),
}

impl ClientError {
    /// Whether what was asked for makes no sense, whatever the state of agent and cluster.
    pub fn is_input(&self) -> bool {
        matches!(self, Self::Refused(error) if error.code.is_input())
    }

    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(error) => Some(error.code),
            _ => None,
        }
    }
}

type Result<T> = std::result::Result<T, ClientError>;

/// Longer than the agent takes: its refusal says more than a timeout.
const ANSWER: Duration = Duration::from_secs(200);
/// Bytes of an answer. The longest is a backup.
const ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// A client of the agent of this host. Each request has a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    answer: Duration,
}

impl Client {
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            answer: ANSWER,
        }
    }

    /// The same with less patience.
    pub fn within(&self, answer: Duration) -> Self {
        Self {
            socket: self.socket.clone(),
            answer,
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub async fn version(&self) -> Result<Version> {
        self.get(path::VERSION).await
    }

    pub async fn status(&self) -> Result<Status> {
        self.get(path::STATUS).await
    }

    pub async fn peers(&self) -> Result<Vec<Peer>> {
        self.get(path::PEERS).await
    }

    pub async fn init(&self, request: &InitRequest) -> Result<Initialised> {
        self.send(Method::POST, path::INIT, request).await
    }

    pub async fn join(&self, request: &JoinRequest) -> Result<Membership> {
        self.send(Method::POST, path::JOIN, request).await
    }

    pub async fn leave(&self, request: LeaveRequest) -> Result<Empty> {
        self.send(Method::POST, path::LEAVE, &request).await
    }

    pub async fn unlock(&self, request: &UnlockRequest) -> Result<Empty> {
        self.send(Method::POST, path::UNLOCK, request).await
    }

    pub async fn unlock_key(&self) -> Result<UnlockKey> {
        self.get(path::UNLOCK_KEY).await
    }

    pub async fn rotate_unlock_key(&self) -> Result<UnlockKey> {
        self.send(Method::POST, path::UNLOCK_KEY_ROTATE, &Empty {})
            .await
    }

    pub async fn set_autolock(&self, enabled: bool) -> Result<UnlockKey> {
        self.send(Method::PUT, path::AUTOLOCK, &AutolockRequest { enabled })
            .await
    }

    pub async fn token(&self, role: Role) -> Result<JoinToken> {
        self.get(&path::fill(path::TOKEN, &[role.name()])).await
    }

    pub async fn rotate_token(&self, role: Role, request: RotateToken) -> Result<JoinToken> {
        let path = path::fill(path::TOKEN_ROTATE, &[role.name()]);
        self.send(Method::POST, &path, &request).await
    }

    pub async fn rotate_ca(&self) -> Result<CaRotation> {
        self.send(Method::POST, path::CA_ROTATE, &Empty {}).await
    }

    pub async fn backup(&self) -> Result<Backup> {
        self.send(Method::POST, path::BACKUP, &Empty {}).await
    }

    pub async fn restore(&self, request: &RestoreRequest) -> Result<Membership> {
        self.send(Method::POST, path::RESTORE, request).await
    }

    pub async fn networks(&self) -> Result<Vec<Network>> {
        self.get(path::NETWORKS).await
    }

    pub async fn create_network(&self, request: &NetworkCreate) -> Result<Network> {
        self.send(Method::POST, path::NETWORKS, request).await
    }

    pub async fn network(&self, network: &str) -> Result<NetworkDetail> {
        self.get(&path::fill(path::NETWORK, &[network])).await
    }

    pub async fn remove_network(&self, network: &str) -> Result<Empty> {
        self.remove(&path::fill(path::NETWORK, &[network])).await
    }

    pub async fn prune_networks(&self, request: &PruneRequest) -> Result<Pruned> {
        self.send(Method::POST, path::NETWORKS_PRUNE, request).await
    }

    pub async fn endpoints(&self, query: &EndpointQuery) -> Result<Vec<Endpoint>> {
        self.get(&with_query(path::ENDPOINTS, query)?).await
    }

    pub async fn attach(&self, request: &EndpointAttach) -> Result<Endpoint> {
        self.send(Method::POST, path::ENDPOINTS, request).await
    }

    pub async fn endpoint(&self, network: &str, name: &str) -> Result<Endpoint> {
        self.get(&path::fill(path::ENDPOINT, &[network, name]))
            .await
    }

    pub async fn detach(&self, network: &str, name: &str) -> Result<Empty> {
        self.remove(&path::fill(path::ENDPOINT, &[network, name]))
            .await
    }

    pub async fn nodes(&self) -> Result<Vec<Node>> {
        self.get(path::NODES).await
    }

    pub async fn node(&self, node: &str) -> Result<Node> {
        self.get(&path::fill(path::NODE, &[node])).await
    }

    pub async fn update_node(&self, node: &str, update: &NodeUpdate) -> Result<Node> {
        let path = path::fill(path::NODE, &[node]);
        self.send(Method::PATCH, &path, update).await
    }

    pub async fn remove_node(&self, node: &str, force: bool) -> Result<Removed> {
        let path = path::fill(path::NODE, &[node]);
        self.remove(&format!("{path}?force={force}")).await
    }

    pub async fn keys(&self) -> Result<KeysStatus> {
        self.get(path::KEYS).await
    }

    pub async fn rotate_keys(&self) -> Result<RotationBegun> {
        self.send(Method::POST, path::KEYS_ROTATE, &Empty {}).await
    }

    pub async fn set_key_policy(&self, request: &PolicyRequest) -> Result<Policy> {
        self.send(Method::PUT, path::KEYS_POLICY, request).await
    }

    /// Events, until there are no more.
    pub async fn events(&self, query: EventQuery) -> Result<Events> {
        let path = with_query(path::EVENTS, &query)?;
        let (response, connection) = self.ask(Method::GET, &path, Bytes::new()).await?;
        if response.status() != StatusCode::OK {
            return Err(refusal(response).await);
        }
        Ok(Events {
            body: response.into_body(),
            line: Vec::new(),
            _connection: connection,
        })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.exchange(Method::GET, path, Bytes::new()).await
    }

    async fn remove<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.exchange(Method::DELETE, path, Bytes::new()).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        request: &impl Serialize,
    ) -> Result<T> {
        let body = serde_json::to_vec(request)
            .map_err(|error| ClientError::Answer(format!("the request: {error}")))?;
        // It may hold a secret.
        let body = Bytes::from_owner(Zeroizing::new(body));
        self.exchange(method, path, body).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T> {
        let exchange = async {
            let (response, _connection) = self.ask(method, path, body).await?;
            if !response.status().is_success() {
                return Err(refusal(response).await);
            }
            let bytes = collect(response.into_body()).await?;
            serde_json::from_slice(&bytes).map_err(|error| ClientError::Answer(error.to_string()))
        };
        timeout(self.answer, exchange)
            .await
            .map_err(|_| ClientError::Silent(self.answer))?
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Connection)> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| self.no_connection(source))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = Connection(tokio::spawn(async move {
            // What breaks it is told to who waits for the answer.
            let _ = connection.await;
        }));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Answer(format!("the request: {error}")))?;
        Ok((sender.send_request(request).await?, connection))
    }

    fn no_connection(&self, source: io::Error) -> ClientError {
        let path = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(path)
            }
            io::ErrorKind::PermissionDenied => ClientError::Denied(path),
            _ => ClientError::Connect { path, source },
        }
    }
}

/// The task that moves the bytes of a connection.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Events as they come.
pub struct Events {
    body: Incoming,
    /// Bytes of a line that has no end yet.
    line: Vec<u8>,
    _connection: Connection,
}

impl Events {
    /// The next event; `None` is the end.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|error| ClientError::Answer(error.to_string()));
            }
            if self.line.len() > MAX_LINE {
                return Err(ClientError::Answer("a line without an end".into()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.line.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

const MAX_LINE: usize = 1024 * 1024;

fn with_query(path: &str, query: &impl Serialize) -> Result<String> {
    let query = serde_urlencoded::to_string(query)
        .map_err(|error| ClientError::Answer(format!("the request: {error}")))?;
    Ok(format!("{path}?{query}"))
}

async fn refusal(response: Response<Incoming>) -> ClientError {
    let status = response.status();
    match collect(response.into_body()).await {
        Ok(bytes) => match serde_json::from_slice::<ApiError>(&bytes) {
            Ok(error) => ClientError::Refused(error),
            Err(_) => ClientError::Answer(format!("HTTP status {status}")),
        },
        Err(error) => error,
    }
}

/// Answers may hold tokens and keys: what they are collected in is zeroized.
async fn collect(mut body: Incoming) -> Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if bytes.len() + data.len() > ANSWER_BYTES {
                return Err(ClientError::Answer("longer than any".into()));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}
