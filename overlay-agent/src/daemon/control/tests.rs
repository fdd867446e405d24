//! Nodes in one process, with real sockets on the loopback interface.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use ed25519_dalek::VerifyingKey;
use futures_util::future::BoxFuture;
use overlay_cluster::{
    control::{
        join::{Join, JoinRefused},
        member::{MemberRefused, ProposeRefused},
        permission::Denied,
    },
    gossip::anti_entropy::SyncError,
    id::{ClusterId, NodeId},
    identity::{
        Role,
        authority::{Authority, Validity},
        csr::CertificateRequest,
        node_key::NodeKey,
        revocation::Standing,
        token::JoinToken,
        trust::TrustBundle,
    },
    keys::EpochSecrets,
    log::{
        command::{Command, Genesis, Outcome},
        epochs::{NewEpoch, RotationPolicy},
        member::{Contact, NodeKey as LogKey},
        names::{NodeName, SoftwareVersion},
        roster::Applicant,
        settings::Settings,
        state::{Cluster, State},
        tokens::{Token, Tokens},
        view::Update,
    },
    rotation::{Acknowledgement, Digest},
    time::Timestamp,
};
use rand::{SeedableRng as _, rngs::StdRng};
use rustls::{AlertDescription, pki_types::UnixTime, time_provider::TimeProvider};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    client::{Client, ClientError, join},
    desk::{Desk, Office},
    limits::{ClientLimits, Pace, ServerLimits},
    server::Server,
};
use crate::daemon::tls::{Members, Own, Service, Tls, server_name};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const SHORT: Duration = Duration::from_millis(300);
/// Long enough for a loaded machine.
const LONG: Duration = Duration::from_secs(20);

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

#[derive(Debug)]
struct At(Timestamp);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(
            self.0.as_secs(),
        )))
    }
}

/// What all nodes of a test know.
#[derive(Debug)]
struct Known {
    trust: Arc<TrustBundle>,
    roster: RwLock<BTreeMap<NodeId, Standing>>,
}

impl Members for Known {
    fn trust(&self) -> Arc<TrustBundle> {
        self.trust.clone()
    }

    fn standing(&self, node: NodeId) -> Standing {
        let roster = self.roster.read().unwrap();
        roster.get(&node).copied().unwrap_or(Standing::Unknown)
    }
}

/// A member for an hour.
fn member(role: Role) -> Standing {
    let joined = NOW.saturating_sub(Duration::from_secs(3600));
    Standing::Member { role, joined }
}

/// A manager that leads.
struct Manager {
    state: RwLock<State>,
    changes: watch::Sender<u64>,
    heard: Mutex<Vec<NodeId>>,
}

impl Office for Manager {
    fn log(&self, read: &mut dyn FnMut(Option<&Cluster>)) {
        read(self.state.read().unwrap().cluster());
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn issue(&self, key: &VerifyingKey, role: Role) -> Result<Vec<u8>, String> {
        let state = self.state.read().unwrap();
        let log = state.cluster().ok_or("no cluster")?;
        log.issue(key, role, &Validity::default(), NOW, &mut rng(3))
            .map_err(|error| error.to_string())
    }

    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Outcome, ProposeRefused>> {
        Box::pin(async move {
            let outcome = self.state.write().unwrap().apply(NOW, command)?;
            self.changes.send_modify(|revision| *revision += 1);
            Ok(outcome)
        })
    }

    fn acknowledged(&self, message: Acknowledgement) {
        self.heard.lock().unwrap().push(message.from);
    }

    fn reported(&self, node: NodeId, _: Digest) {
        self.heard.lock().unwrap().push(node);
    }

    fn sync(&self, _: NodeId, message: &[u8]) -> Result<Vec<u8>, SyncError> {
        if message.is_empty() {
            return Err(SyncError::Malformed);
        }
        Ok(message.iter().rev().copied().collect())
    }
}

/// A cluster of one manager that serves.
struct World {
    id: NodeId,
    known: Arc<Known>,
    manager: Arc<Manager>,
    token: JoinToken,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

fn limits() -> ServerLimits {
    ServerLimits {
        strangers_per_source: 4,
        handshake: SHORT * 3,
        recheck: SHORT / 3,
        pace: Pace {
            base: SHORT * 3,
            rate: 1 << 20,
        },
        ..ServerLimits::default()
    }
}

fn client_limits() -> ClientLimits {
    ClientLimits {
        connect: LONG,
        handshake: LONG,
        answer: LONG,
        ..ClientLimits::default()
    }
}

fn key(n: u8) -> NodeKey {
    NodeKey::generate(&mut rng(1000 + u64::from(n)))
}

fn contact(n: u8) -> Contact {
    Contact {
        vteps: [[192, 0, 2, n].into()].into_iter().collect(),
        control: ([192, 0, 2, n], 7946).into(),
        software: SoftwareVersion::new(env!("CARGO_PKG_VERSION")).expect("a version"),
    }
}

fn name(n: u8) -> NodeName {
    NodeName::new(format!("node-{n}")).expect("a name")
}

impl World {
    async fn new(cluster: u8) -> Self {
        let cluster = ClusterId::from_bytes([cluster; 16]);
        let mut seeds = rng(cluster.as_bytes()[0].into());
        let authority = Authority::generate(cluster, &Validity::default(), NOW, &mut seeds);
        let authority = authority.expect("an authority");
        let root = authority.root().digest();
        let [worker, manager] = Role::ALL.map(|role| JoinToken::generate(role, root, &mut seeds));
        let token = |token: &JoinToken| Token {
            secret: token.secret.clone(),
            expires: None,
        };
        let secrets = EpochSecrets::random(&mut seeds);
        let own = key(cluster.as_bytes()[0]);
        let genesis = Genesis {
            cluster,
            authority: authority.clone(),
            manager: Applicant {
                key: LogKey::new(own.public().to_bytes()).expect("a key"),
                name: name(1),
                contact: contact(1),
                labels: Default::default(),
            },
            tokens: Tokens {
                worker: token(&worker),
                manager: token(&manager),
            },
            epoch: NewEpoch {
                name: secrets.name(0, 1),
                secrets,
            },
            policy: RotationPolicy::default(),
            settings: Settings::default(),
        };
        let mut state = State::default();
        let begun = state.apply(NOW, Command::Initialise(Box::new(genesis)));
        begun.expect("a cluster");

        let known = Arc::new(Known {
            trust: Arc::new(TrustBundle::new(authority.root().clone())),
            roster: RwLock::new([(own.node_id(), member(Role::Manager))].into()),
        });
        let manager = Arc::new(Manager {
            state: RwLock::new(state),
            changes: watch::channel(0).0,
            heard: Mutex::default(),
        });
        let certificate = manager.issue(&own.public(), Role::Manager).expect("issues");
        let tls = tls(&own, &certificate, &known, NOW);
        let client = Client::new(tls.clone(), client_limits()).expect("a client");
        let desk = Desk::new(own.node_id(), manager.clone(), client);
        let server = Server::new(tls, desk, limits()).expect("a server");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = watch::channel(false);
        Self {
            id: own.node_id(),
            known,
            manager,
            token: worker,
            address,
            stop,
            serving: tokio::spawn(server.serve(listener, stopped)),
        }
    }

    fn ask(&self, n: u8) -> Join {
        Join {
            token: self.token.clone(),
            request: CertificateRequest::sign(&key(n)).expect("signs"),
            name: name(n),
            contact: contact(n),
            labels: Default::default(),
            clock: NOW,
        }
    }

    /// Node `n` joins over the wire, and can call members.
    async fn join(&self, n: u8) -> Client {
        let clock = Arc::new(At(NOW));
        let joined = join(self.address, self.ask(n), clock, client_limits()).await;
        let (manager, joined) = joined.expect("joins");
        assert_eq!(manager.node, self.id);
        let key = key(n);
        self.set_standing(key.node_id(), member(Role::Worker));
        self.client(&key, &joined.certificate, NOW)
    }

    fn client(&self, key: &NodeKey, certificate: &[u8], now: Timestamp) -> Client {
        Client::new(tls(key, certificate, &self.known, now), client_limits()).expect("a client")
    }

    fn set_standing(&self, node: NodeId, standing: Standing) {
        self.known.roster.write().unwrap().insert(node, standing);
    }
}

fn tls(key: &NodeKey, certificate: &[u8], known: &Arc<Known>, now: Timestamp) -> Tls {
    let own = Arc::new(Own::new(key.clone(), certificate).expect("its own"));
    Tls::new(own, known.clone(), Arc::new(At(now)))
}

/// Whether the server ends this connection soon.
async fn is_ended(stream: &mut TcpStream) -> bool {
    let end = async {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    };
    timeout(LONG, end).await.is_ok()
}

#[tokio::test]
async fn a_node_joins_pulls_syncs_renews_and_leaves() {
    let world = World::new(1).await;
    let client = world.join(2).await;
    let mut connection = client
        .connect(world.address, world.id)
        .await
        .expect("connects");
    let Ok(Update::Whole(view)) = connection.pull_view(None).await else {
        panic!("the whole view")
    };
    assert_eq!(view.peers.len(), 2);
    let update = connection.pull_view(Some(view.version)).await;
    assert!(matches!(update, Ok(Update::Delta(_))));

    let epochs = vec![view.epochs.current];
    let secrets = connection.pull_secrets(epochs).await.expect("secrets");
    assert_eq!(secrets[0].1.check(view.epochs.current), Ok(()));

    assert_eq!(
        connection.sync(vec![1, 2, 3]).await.expect("syncs"),
        [3, 2, 1]
    );
    let malformed = connection.sync(Vec::new()).await;
    assert!(matches!(malformed, Err(ClientError::Refused(_))));

    let request = CertificateRequest::sign(&key(2)).expect("signs");
    assert_eq!(
        connection.renew(request).await.expect("renews").role,
        Role::Worker
    );

    let leave = Command::Leave { node: world.id };
    let refused = connection.propose(leave, false).await.expect_err("denied");
    let ClientError::Refused(refused) = refused else {
        panic!("{refused}")
    };
    assert!(matches!(
        *refused,
        MemberRefused::Proposal(ProposeRefused::Denied(Denied::OtherNode { .. }))
    ));
    let leave = Command::Leave {
        node: key(2).node_id(),
    };
    assert_eq!(
        connection.propose(leave, false).await.expect("leaves"),
        Outcome::Done
    );
    // The log knows at once.
    assert!(connection.pull_view(None).await.is_err());
    connection.close().await;
}

#[tokio::test]
async fn who_waits_for_news_hears_of_a_change_at_once_and_holds_nobody_up() {
    let world = World::new(1).await;
    let client = world.join(2).await;
    let connect = || client.connect(world.address, world.id);
    let mut waiting = connect().await.expect("connects");
    let Ok(Update::Whole(view)) = waiting.pull_view(None).await else {
        panic!("the whole view")
    };
    let have = view.version;
    let waiter = tokio::spawn(async move { (waiting.watch_view(have).await, waiting) });
    tokio::time::sleep(SHORT).await;
    assert!(!waiter.is_finished(), "there is nothing new");
    let began = Instant::now();
    let rename = Command::Rename {
        node: key(2).node_id(),
        name: name(7),
    };
    world.manager.propose(rename).await.expect("renames");
    let (update, mut waiting) = waiter.await.expect("no panic");
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
    let version = match update.expect("news") {
        Update::Whole(view) => view.version,
        Update::Delta(delta) => delta.to,
    };
    assert!(version > have);

    let waiter = tokio::spawn(async move { waiting.watch_view(version).await });
    tokio::time::sleep(SHORT).await;
    let began = Instant::now();
    world.stop.send_replace(true);
    world.serving.await.expect("ends");
    assert!(began.elapsed() < limits().grace, "{:?}", began.elapsed());
    assert!(waiter.await.expect("no panic").is_err());
}

#[tokio::test]
async fn a_join_is_refused_in_words_and_a_foreign_manager_in_the_handshake() {
    let world = World::new(1).await;
    let ask = Join {
        name: name(1),
        ..world.ask(2)
    };
    let refused = join(world.address, ask, Arc::new(At(NOW)), client_limits()).await;
    let ClientError::JoinRefused(refused) = refused.expect_err("taken") else {
        panic!("another error")
    };
    assert!(matches!(*refused, JoinRefused::Log(_)), "{refused}");

    let other = World::new(9).await;
    let refused = join(
        other.address,
        world.ask(2),
        Arc::new(At(NOW)),
        client_limits(),
    )
    .await;
    assert!(matches!(refused, Err(ClientError::Handshake { .. })));
}

#[tokio::test]
async fn an_expired_certificate_is_renewed_and_good_for_nothing_else() {
    let world = World::new(1).await;
    let node = key(2);
    world.join(2).await;
    let validity = Validity {
        node: Duration::from_secs(1),
        ..Validity::default()
    };
    let authority = {
        let state = world.manager.state.read().unwrap();
        state.cluster().unwrap().authority().expect("issues")
    };
    let before = NOW.saturating_sub(Duration::from_secs(600));
    let over = authority
        .issue(&node.public(), Role::Worker, &validity, before, &mut rng(6))
        .expect("issues");
    let client = world.client(&node, &over, NOW);
    let request = CertificateRequest::sign(&node).expect("signs");
    let renewed = client.renew(world.address, world.id, request).await;
    assert_eq!(renewed.expect("renews").role, Role::Worker);
    let refused = match client.connect(world.address, world.id).await {
        Ok(mut connection) => connection.pull_view(None).await.expect_err("refused"),
        Err(error) => error,
    };
    assert!(matches!(
        refused,
        ClientError::Alert {
            alert: AlertDescription::CertificateExpired,
            ..
        }
    ));
}

#[tokio::test]
async fn a_wrong_node_id_and_a_foreign_authority_are_refused() {
    let (world, other) = (World::new(1).await, World::new(9).await);
    let client = world.join(2).await;
    world.set_standing(key(7).node_id(), member(Role::Manager));
    let wrong = client.connect(world.address, key(7).node_id()).await;
    assert!(matches!(wrong, Err(ClientError::Handshake { .. })));
    world.set_standing(other.id, member(Role::Manager));
    let foreign = client.connect(other.address, other.id).await;
    assert!(matches!(foreign, Err(ClientError::Handshake { .. })));
}

#[tokio::test]
async fn an_evicted_node_learns_why_also_when_the_server_has_closed_before_it_asks() {
    let world = World::new(1).await;
    let client = world.join(2).await;
    world.set_standing(key(2).node_id(), Standing::Evicted);
    for wait in [0, 500] {
        let refused = match client.connect(world.address, world.id).await {
            Ok(mut connection) => {
                tokio::time::sleep(Duration::from_millis(wait)).await;
                connection.pull_view(None).await.expect_err("refused")
            }
            Err(error) => error,
        };
        let revoked = matches!(
            refused,
            ClientError::Alert {
                alert: AlertDescription::CertificateRevoked,
                ..
            }
        );
        assert!(revoked, "after {wait} ms: {refused}");
    }
}

#[tokio::test]
async fn the_connection_of_an_evicted_node_is_closed() {
    let world = World::new(1).await;
    let client = world.join(2).await;
    let tls = client.tls().client(Service::Member).expect("a config");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let stream = TcpStream::connect(world.address).await.expect("connects");
    let mut stream = connector
        .connect(server_name(world.id), stream)
        .await
        .expect("a member");
    world.set_standing(key(2).node_id(), Standing::Evicted);
    let mut rest = Vec::new();
    let end = timeout(LONG, stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "it is still open");
}

#[tokio::test]
async fn garbage_ends_a_connection_before_and_after_the_handshake() {
    let world = World::new(1).await;
    let mut stream = TcpStream::connect(world.address).await.expect("connects");
    stream
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .expect("goes");
    assert!(is_ended(&mut stream).await);

    let client = world.join(2).await;
    let tls = client.tls().client(Service::Member).expect("a config");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    // An unknown kind, another version, and a view that has 64 MiB.
    for garbage in [[0, 0, 0, 9, 1, 99], [0, 0, 0, 9, 7, 0], [4, 0, 0, 0, 1, 0]] {
        let stream = TcpStream::connect(world.address).await.expect("connects");
        let mut stream = connector
            .connect(server_name(world.id), stream)
            .await
            .expect("a member");
        stream.write_all(&garbage).await.expect("goes");
        let mut rest = Vec::new();
        let end = timeout(LONG, stream.read_to_end(&mut rest)).await;
        assert!(end.is_ok() && rest.is_empty(), "{garbage:?}");
    }
}

#[tokio::test]
async fn stalled_strangers_are_cut_off_and_hold_no_more_places_than_are_theirs() {
    let world = World::new(1).await;
    let client = world.join(2).await;
    let mut member = client
        .connect(world.address, world.id)
        .await
        .expect("connects");
    let begun = Instant::now();
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(world.address).await.expect("connects");
        // The beginning of a TLS record that never ends.
        let _ = stream.write_all(&[22, 3, 1, 2, 0]).await;
        stalled.push(stream);
    }
    // Who is a member already does not notice.
    assert!(member.pull_view(None).await.is_ok());
    for stream in &mut stalled {
        assert!(is_ended(stream).await);
    }
    assert!(begun.elapsed() >= limits().handshake);
    assert!(client.connect(world.address, world.id).await.is_ok());
}

#[tokio::test]
async fn a_server_that_stops_closes_silent_connections_and_accepts_no_more() {
    let world = World::new(1).await;
    let client = world.join(2).await;
    let mut member = client
        .connect(world.address, world.id)
        .await
        .expect("connects");
    assert!(member.pull_view(None).await.is_ok());
    world.stop.send(true).expect("it serves");
    timeout(LONG, world.serving)
        .await
        .expect("it stops")
        .expect("in order");
    assert!(member.pull_view(None).await.is_err());
    assert!(!member.is_usable());
    assert!(TcpStream::connect(world.address).await.is_err());
}
