//! A backend with fixed answers, behind a real socket.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{FutureExt as _, StreamExt as _, future::ready, stream};
use overlay_cluster::{
    id::{ClusterId, NodeId},
    identity::Role,
    log::names::{Labels, NodeName},
};
use overlay_ebpf::abi::{MacAddr, PeerIndex, Vni};
use tokio::{sync::watch, task::JoinHandle};

use super::{Access, Answer, Backend, EventStream, Limits, Server, Socket};
use crate::api::{
    ApiError, Code, SecretText, Time,
    client::Client,
    cluster::{
        Backup, CaRotation, InitRequest, Initialised, JoinRequest, JoinToken, LeaveRequest,
        Membership, RestoreRequest, RotateToken, UnlockKey, UnlockRequest,
    },
    endpoint::{Endpoint, EndpointAttach, EndpointQuery, Netns},
    event::{Event, EventQuery, Kind},
    keys::{
        ClusterKeys, Epoch, KeysStatus, Laggard, PeerKeys, Phase, Policy, PolicyRequest,
        RotationBegun, Sends,
    },
    network::{Blocks, Network, NetworkCreate, NetworkDetail, PruneRequest, Pruned, Subnet},
    node::{Availability, ManagerStatus, Node, NodeStatus, NodeUpdate, Removed},
    secret::Blob,
    status::{
        ClosedPeer, Drop as DropView, Encryption, Endpoints, EpochStatus, Layer, Managers, Nodes,
        Peer, Problem, SelfNode, Severity, State, Status,
    },
};

/// Whatever was said is in the past.
pub const TIME: Time = Time::from_secs(1_700_000_000);

/// Answers alike whatever happened before, and remembers what it was asked.
#[derive(Default)]
pub struct Fake {
    asked: Mutex<Vec<String>>,
    /// Looks at the keys until a rotation is over.
    looks: Mutex<u32>,
    refusal: Option<ApiError>,
    hangs: bool,
    troubled: bool,
}

impl Fake {
    /// Refuses everything.
    pub fn refusing(error: ApiError) -> Self {
        Self {
            refusal: Some(error),
            ..Self::default()
        }
    }

    /// Never answers.
    pub fn hanging() -> Self {
        Self {
            hangs: true,
            ..Self::default()
        }
    }

    /// A node in trouble.
    pub fn troubled() -> Self {
        Self {
            troubled: true,
            ..Self::default()
        }
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What was asked since the last time.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn answer<T: Send + 'static>(&self, asked: impl Into<String>, value: T) -> Answer<'_, T> {
        let mut all = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(asked.into());
        if self.hangs {
            return std::future::pending().boxed();
        }
        let refusal = self.refusal.clone();
        ready(refusal.map_or(Ok(value), Err)).boxed()
    }
}

fn index(index: u32) -> PeerIndex {
    PeerIndex::new(index).expect("an index")
}

fn name(name: &str) -> NodeName {
    NodeName::new(name).expect("a name")
}

fn key() -> SecretText {
    SecretText::from(UNLOCK_KEY.to_owned())
}

fn labels(labels: &[(&str, &str)]) -> Labels {
    let pairs = labels.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    Labels::new(pairs.collect()).expect("labels")
}

/// Not a key.
pub const UNLOCK_KEY: &str = "OVLKEY-1-EXAMPLE";
/// Not a token.
pub const TOKEN: &str = "OVL1-W-EXAMPLE";

pub fn membership() -> Membership {
    Membership {
        cluster: ClusterId::from_bytes([0xc1; 16]),
        node: NodeId::from_bytes([0x0a; 16]),
        name: name("n1"),
        index: index(1),
        role: Role::Manager,
    }
}

pub fn network(text: &str, vni: u32, encrypted: bool) -> Network {
    Network {
        name: text.parse().expect("a name"),
        vni: Vni::new(vni).expect("a VNI"),
        encrypted,
        attachable: !encrypted,
        replicate: false,
        mtu: None,
        subnets: vec![Subnet {
            subnet: "10.0.9.0/24".parse().expect("a net"),
            gateway: [10, 0, 9, 1].into(),
            ip_range: "10.0.9.0/24".parse().expect("a net"),
            block_prefix: 28,
        }],
        rules: vec!["node.zone==a".parse().expect("a rule")],
        labels: labels(&[("tier", "web")]),
        created: TIME,
    }
}

pub fn endpoint(text: &str, local: bool) -> Endpoint {
    Endpoint {
        network: "my-net".into(),
        vni: Vni::new(4097).expect("a VNI"),
        name: text.into(),
        node: if local { "n1" } else { "n2" }.into(),
        local,
        mac: MacAddr([2, 0x42, 10, 0, 9, 2]),
        addresses: vec![[10, 0, 9, 2].into()],
        netns: local.then(|| Netns::Name(format!("ns-{text}"))),
        interface: local.then(|| "eth0".into()),
        labels: Labels::default(),
        problem: None,
    }
}

pub fn node(number: u8, role: Role) -> Node {
    Node {
        id: NodeId::from_bytes([number; 16]),
        is_self: number == 1,
        name: name(&format!("n{number}")),
        index: index(u32::from(number)),
        role,
        status: NodeStatus::Ready,
        availability: Availability::Active,
        manager_status: (role == Role::Manager).then_some(ManagerStatus::Leader),
        vteps: vec![[192, 0, 2, number].into()],
        control: ([192, 0, 2, number], 7790).into(),
        software: "0.1.0".into(),
        labels: labels(&[("zone", if number == 1 { "a" } else { "b" })]),
        joined: TIME,
    }
}

fn epoch(number: u32) -> Epoch {
    Epoch {
        number,
        incarnation: 0,
        hash: "00112233aabbccdd".into(),
    }
}

fn peer_keys(number: u32, open: bool) -> PeerKeys {
    PeerKeys {
        index: index(number),
        name: format!("n{number}"),
        sends: open.then_some(Sends {
            epoch: 12,
            slot: 3,
            lanes: 4,
            age_seconds: 7200,
            bytes: 12_345_678,
            sequence_share: 0.00012,
        }),
        lag: (!open).then(|| "has published no key for the epoch".into()),
    }
}

fn keys(phase: Phase, current: u32, troubled: bool) -> KeysStatus {
    KeysStatus {
        cluster: Some(ClusterKeys {
            epoch: epoch(current),
            phase,
            next: (phase == Phase::Staging).then(|| epoch(current + 1)),
            since: (phase != Phase::Stable).then_some(TIME),
            age_seconds: 7200,
            interval_seconds: 43_200,
            next_rotation: TIME,
            live: 3,
            staged: if troubled { 2 } else { 3 },
            laggards: if troubled {
                vec![Laggard {
                    index: index(3),
                    name: "n3".into(),
                    reason: "has not fetched the secrets of the epoch".into(),
                    blamed_by: 2,
                }]
            } else {
                vec![]
            },
        }),
        peers: vec![peer_keys(2, true), peer_keys(3, !troubled)],
    }
}

fn status(troubled: bool) -> Status {
    let closed = ClosedPeer {
        name: "n3".into(),
        why: "it has published no key for epoch 12".into(),
    };
    Status {
        version: "0.1.0".into(),
        state: State::Member,
        cluster: Some(membership().cluster),
        node: Some(SelfNode {
            id: membership().node.to_string(),
            name: "n1".into(),
            index: index(1),
            role: Role::Manager,
            availability: Availability::Active,
        }),
        encryption: Encryption {
            encrypted_networks: 2,
            plain_networks: vec!["lab".into()],
            peers: 2,
            open: if troubled { 1 } else { 2 },
            closed: if troubled { vec![closed] } else { vec![] },
            cleartext_stopped: 0,
        },
        epoch: Some(EpochStatus {
            number: 12,
            phase: Phase::Stable,
            age_seconds: 7200,
            next_rotation: TIME,
        }),
        managers: Some(Managers {
            total: 3,
            reachable: if troubled { 1 } else { 3 },
            voters: Some(3),
            quorum: !troubled,
            leader: (!troubled).then(|| "n1".into()),
        }),
        nodes: Nodes {
            total: 25,
            ready: if troubled { 23 } else { 25 },
            down: if troubled { 2 } else { 0 },
            drained: 0,
        },
        endpoints: Endpoints {
            local: 12,
            remote: 300,
        },
        drops: vec![DropView {
            layer: Layer::Program,
            reason: "NoSa".into(),
            direction: "egress".into(),
            packets: 7,
            bytes: Some(9_800),
            text: "the peer has no live outbound SA".into(),
        }],
        problems: if troubled {
            vec![Problem {
                severity: Severity::Alarm,
                message: "node 3 published two keys".into(),
                remedy: "stop one of the two".into(),
            }]
        } else {
            vec![]
        },
    }
}

impl Backend for Fake {
    fn init(&self, request: InitRequest) -> Answer<'_, Initialised> {
        let made = Initialised {
            membership: membership(),
            managers: vec![([192, 0, 2, 1], 7790).into()],
            worker_token: SecretText::from(TOKEN.to_owned()),
            unlock_key: request.autolock.then(key),
        };
        self.answer(format!("init {request:?}"), made)
    }

    fn join(&self, request: JoinRequest) -> Answer<'_, Membership> {
        let mut joined = membership();
        joined.role = Role::Worker;
        self.answer(format!("join {request:?}"), joined)
    }

    fn leave(&self, request: LeaveRequest) -> Answer<'_, ()> {
        self.answer(format!("leave {request:?}"), ())
    }

    fn unlock(&self, request: UnlockRequest) -> Answer<'_, ()> {
        self.answer(format!("unlock {request:?}"), ())
    }

    fn unlock_key(&self) -> Answer<'_, UnlockKey> {
        let key = UnlockKey {
            autolock: !self.troubled,
            key: (!self.troubled).then(key),
        };
        self.answer("unlock_key", key)
    }

    fn rotate_unlock_key(&self) -> Answer<'_, UnlockKey> {
        let key = UnlockKey {
            autolock: true,
            key: Some(key()),
        };
        self.answer("rotate_unlock_key", key)
    }

    fn set_autolock(&self, enabled: bool) -> Answer<'_, UnlockKey> {
        let key = UnlockKey {
            autolock: enabled,
            key: enabled.then(key),
        };
        self.answer(format!("set_autolock {enabled}"), key)
    }

    fn token(&self, role: Role) -> Answer<'_, JoinToken> {
        let token = JoinToken {
            role,
            token: SecretText::from(TOKEN.to_owned()),
            expires: None,
            managers: vec![([192, 0, 2, 1], 7790).into(), ([192, 0, 2, 2], 7790).into()],
        };
        self.answer(format!("token {role}"), token)
    }

    fn rotate_token(&self, role: Role, request: RotateToken) -> Answer<'_, JoinToken> {
        let token = JoinToken {
            role,
            token: SecretText::from(TOKEN.to_owned()),
            expires: request.expires_in_seconds.map(|_| TIME),
            managers: vec![([192, 0, 2, 1], 7790).into()],
        };
        self.answer(format!("rotate_token {role} {request:?}"), token)
    }

    fn rotate_ca(&self) -> Answer<'_, CaRotation> {
        let rotation = CaRotation {
            root: "ab".repeat(32),
            old_until: Some(TIME),
        };
        self.answer("rotate_ca", rotation)
    }

    fn backup(&self) -> Answer<'_, Backup> {
        let backup = Backup {
            backup: Blob(vec![0, 1, 2, 255]),
            key: key(),
        };
        self.answer("backup", backup)
    }

    fn restore(&self, request: RestoreRequest) -> Answer<'_, Membership> {
        self.answer(format!("restore {request:?}"), membership())
    }

    fn networks(&self) -> Answer<'_, Vec<Network>> {
        let networks = vec![network("my-net", 4097, true), network("lab", 4098, false)];
        self.answer("networks", networks)
    }

    fn create_network(&self, request: NetworkCreate) -> Answer<'_, Network> {
        let made = network(request.name.as_str(), 4099, request.encrypted);
        self.answer(format!("create_network {request:?}"), made)
    }

    fn network(&self, text: String) -> Answer<'_, NetworkDetail> {
        let detail = NetworkDetail {
            network: network("my-net", 4097, true),
            endpoints: vec![endpoint("web-1", true), endpoint("web-2", false)],
            blocks: vec![Blocks {
                node: "n1".into(),
                blocks: vec!["10.0.9.0/28".parse().expect("a net")],
            }],
        };
        self.answer(format!("network {text}"), detail)
    }

    fn remove_network(&self, network: String) -> Answer<'_, ()> {
        self.answer(format!("remove_network {network}"), ())
    }

    fn prune_networks(&self, request: PruneRequest) -> Answer<'_, Pruned> {
        let pruned = Pruned {
            networks: vec!["lab".parse().expect("a name")],
        };
        self.answer(format!("prune_networks {request:?}"), pruned)
    }

    fn endpoints(&self, query: EndpointQuery) -> Answer<'_, Vec<Endpoint>> {
        let mut found = vec![endpoint("web-1", true)];
        if query.all {
            found.push(endpoint("web-2", false));
        }
        if self.troubled {
            found[0].problem = Some("no SA with n3 yet".into());
        }
        self.answer(format!("endpoints {query:?}"), found)
    }

    fn attach(&self, request: EndpointAttach) -> Answer<'_, Endpoint> {
        let asked = format!("attach {request:?}");
        let attached = request.into_request().map(|request| Endpoint {
            name: request.name,
            netns: Some(request.netns.into()),
            ..endpoint("web-1", true)
        });
        match attached {
            Ok(attached) => self.answer(asked, attached),
            Err(error) => ready(Err(error)).boxed(),
        }
    }

    fn endpoint(&self, network: String, name: String) -> Answer<'_, Endpoint> {
        let found = endpoint(&name, true);
        self.answer(format!("endpoint {network} {name}"), found)
    }

    fn detach(&self, network: String, name: String) -> Answer<'_, ()> {
        self.answer(format!("detach {network} {name}"), ())
    }

    fn nodes(&self) -> Answer<'_, Vec<Node>> {
        let nodes = vec![node(1, Role::Manager), node(2, Role::Worker)];
        self.answer("nodes", nodes)
    }

    fn node(&self, text: String) -> Answer<'_, Node> {
        self.answer(format!("node {text}"), node(1, Role::Manager))
    }

    fn update_node(&self, text: String, update: NodeUpdate) -> Answer<'_, Node> {
        let role = update.role.unwrap_or(Role::Worker);
        self.answer(format!("update_node {text} {update:?}"), node(2, role))
    }

    fn remove_node(&self, text: String, force: bool) -> Answer<'_, Removed> {
        let removed = Removed {
            name: name(&text),
            evicted: force,
        };
        self.answer(format!("remove_node {text} {force}"), removed)
    }

    fn keys(&self) -> Answer<'_, KeysStatus> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let phase = match *looks {
            0 => (Phase::Stable, 12),
            3 => (Phase::Staging, 12),
            2 => (Phase::Activated, 13),
            _ => (Phase::Stable, 13),
        };
        *looks = looks.saturating_sub(u32::from(*looks > 1));
        let keys = keys(phase.0, phase.1, self.troubled);
        drop(looks);
        self.answer("keys", keys)
    }

    fn rotate_keys(&self) -> Answer<'_, RotationBegun> {
        *self.looks.lock().unwrap_or_else(PoisonError::into_inner) = 3;
        self.answer("rotate_keys", RotationBegun { epoch: epoch(13) })
    }

    fn set_key_policy(&self, request: PolicyRequest) -> Answer<'_, Policy> {
        let policy = Policy {
            interval_seconds: request.interval_seconds.unwrap_or(43_200),
            deadline_seconds: request.deadline_seconds.unwrap_or(60),
            grace_seconds: request.grace_seconds.unwrap_or(60),
        };
        self.answer(format!("set_key_policy {request:?}"), policy)
    }

    fn status(&self) -> Answer<'_, Status> {
        self.answer("status", status(self.troubled))
    }

    fn peers(&self) -> Answer<'_, Vec<Peer>> {
        let peer = |number: u8, closed: bool| Peer {
            index: index(u32::from(number)),
            name: format!("n{number}"),
            status: NodeStatus::Ready,
            vtep: [192, 0, 2, number].into(),
            device: Some("eth0".into()),
            path_mtu: Some(1500),
            epoch: (!closed).then_some(12),
            slot: (!closed).then_some(3),
            lanes: if closed { 0 } else { 4 },
            closed: closed.then(|| "it has published no key for epoch 12".into()),
            tx_packets: 10,
            tx_bytes: 12_345,
            rx_packets: 20,
            rx_bytes: 67_890_000,
        };
        self.answer("peers", vec![peer(2, false), peer(3, self.troubled)])
    }

    fn events(&self, query: EventQuery) -> Answer<'_, EventStream> {
        let event = |sequence, kind, action: &str, name: &str| Event {
            sequence,
            time: TIME,
            kind,
            action: action.into(),
            name: name.into(),
            attributes: [("vni".to_owned(), "4097".to_owned())].into(),
        };
        let past = stream::iter([
            event(7, Kind::Network, "create", "my-net"),
            event(9, Kind::Keys, "stage", "13"),
        ]);
        let events: EventStream = if query.follow {
            past.chain(stream::pending()).boxed()
        } else {
            past.boxed()
        };
        self.answer(format!("events {query:?}"), events)
    }
}

/// A server with a socket of its own.
pub struct Running {
    pub directory: tempfile::TempDir,
    pub fake: Arc<Fake>,
    pub stop: watch::Sender<bool>,
    pub served: JoinHandle<()>,
}

impl Running {
    pub async fn start(fake: Fake) -> Self {
        Self::with(fake, Limits::default()).await
    }

    pub async fn with(fake: Fake, limits: Limits) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let access = Access {
            owner: rustix::process::geteuid().as_raw(),
            group: None,
        };
        let path = directory.path().join("agent.sock");
        let socket = Socket::bind(&path, &access).await.expect("a socket");
        let fake = Arc::new(fake);
        let (stop, stopping) = watch::channel(false);
        let server = Server::new(fake.clone(), access, limits);
        let served = tokio::spawn(server.serve(socket, stopping));
        Self {
            directory,
            fake,
            stop,
            served,
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    pub fn client(&self) -> Client {
        Client::new(self.socket())
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// What a backend refuses a network with.
pub fn no_network() -> ApiError {
    ApiError::new(
        Code::NotFound,
        "no network x",
        "`overlay network ls` lists them",
    )
}
