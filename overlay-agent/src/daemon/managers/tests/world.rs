//! Nodes of one process that know each other by addresses of documentation.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ed25519_dalek::VerifyingKey;
use futures_util::future::BoxFuture;
use overlay_cluster::{
    control::{
        member::ProposeRefused,
        raft::{RaftRefused, RaftRequest, RaftResponse},
    },
    gossip::anti_entropy::SyncError,
    id::{ClusterId, EpochName, Generation, NodeId},
    identity::{
        Role,
        authority::{Authority, Validity},
        node_key::NodeKey,
        revocation::Standing,
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
        state::Cluster,
        tokens::{Token, TokenSecret, Tokens},
    },
    rotation::{Acknowledgement, Digest},
    time::Timestamp,
};
use overlay_ebpf::abi::PeerIndex;
use rand::{SeedableRng as _, rngs::StdRng};
use rustls::{pki_types::UnixTime, time_provider::TimeProvider};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use zeroize::Zeroizing;

use super::super::*;
use crate::daemon::{
    control::{
        client::{Client, Detours},
        desk::{Desk, Office},
        limits::{ClientLimits, ServerLimits},
        server::Server,
    },
    store::seal::{Place, Seal, SealError},
    tls::{Members, Own, Tls},
};

pub const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

/// Long enough for a loaded machine.
pub const LONG: Duration = Duration::from_secs(60);

pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

fn key(n: u8) -> NodeKey {
    NodeKey::generate(&mut rng(1000 + u64::from(n)))
}

pub fn node(n: u8) -> NodeId {
    key(n).node_id()
}

pub fn name(n: u8) -> NodeName {
    NodeName::new(format!("node-{n}")).expect("a name")
}

fn control(n: u8) -> SocketAddr {
    ([192, 0, 2, n], 7946).into()
}

fn applicant(n: u8) -> Applicant {
    Applicant {
        key: LogKey::new(key(n).public().to_bytes()).expect("a key"),
        name: name(n),
        contact: Contact {
            vteps: [[192, 0, 2, n].into()].into_iter().collect(),
            control: control(n),
            software: SoftwareVersion::new(env!("CARGO_PKG_VERSION")).expect("a version"),
        },
        labels: Default::default(),
    }
}

pub fn tokens(n: u8) -> Tokens {
    let token = |n| Token {
        secret: TokenSecret::new([n; TokenSecret::LEN]),
        expires: None,
    };
    Tokens {
        worker: token(n),
        manager: token(n + 100),
    }
}

/// Time goes on as it does, and a test moves it.
#[derive(Debug)]
pub struct Time {
    begun: Instant,
    ahead: AtomicU64,
}

impl Time {
    pub fn pass(&self, time: Duration) {
        self.ahead
            .fetch_add(time.as_millis() as u64, Ordering::SeqCst);
    }

    fn millis(&self) -> u64 {
        let ahead = self.ahead.load(Ordering::SeqCst);
        1_800_000_000_000 + ahead + self.begun.elapsed().as_millis() as u64
    }
}

impl Clock for Time {
    fn now(&self) -> Option<Timestamp> {
        Some(Timestamp::from_millis(self.millis()))
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(
            self.millis(),
        )))
    }
}

struct TestSeal;

impl Seal for TestSeal {
    fn seal(&self, _: Place, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        Ok(plain.to_vec())
    }

    fn open(&self, _: Place, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        Ok(sealed.to_vec().into())
    }
}

/// Nodes that gossip believes alive.
#[derive(Debug)]
pub struct Alive(pub RwLock<Option<BTreeSet<NodeId>>>);

impl Default for Alive {
    fn default() -> Self {
        Self(RwLock::new(Some(BTreeSet::new())))
    }
}

impl Liveness for Alive {
    fn alive(&self) -> Option<BTreeSet<NodeId>> {
        self.0.read().unwrap().clone()
    }
}

#[derive(Debug)]
struct Seeds(AtomicU64);

impl Random for Seeds {
    fn rng(&self) -> Result<StdRng, getrandom::Error> {
        Ok(rng(self.0.fetch_add(1, Ordering::SeqCst)))
    }
}

/// What one node is: its log says who is a member, and before it has one the others do.
pub struct Desktop {
    trust: Arc<TrustBundle>,
    told: Arc<RwLock<BTreeMap<NodeId, Standing>>>,
    pub managers: RwLock<Option<Managers>>,
}

impl std::fmt::Debug for Desktop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Desktop")
    }
}

impl Desktop {
    fn managers(&self) -> Option<Managers> {
        self.managers.read().unwrap().clone()
    }
}

/// Of a node that the log does not have yet.
fn told_as(role: Role) -> Standing {
    let joined = Timestamp::from_millis(0);
    Standing::Member { role, joined }
}

impl Members for Desktop {
    fn trust(&self) -> Arc<TrustBundle> {
        self.trust.clone()
    }

    fn standing(&self, node: NodeId) -> Standing {
        let told = self.told.read().unwrap().get(&node).copied();
        let in_log = self
            .managers()
            .and_then(|managers| managers.with_log(|log| Some(log?.roster().standing(&node))));
        match in_log {
            None | Some(Standing::Unknown) => told.unwrap_or(Standing::Unknown),
            Some(standing) => standing,
        }
    }
}

impl Office for Desktop {
    fn log(&self, read: &mut dyn FnMut(Option<&Cluster>)) {
        match self.managers() {
            Some(managers) => managers.log(read),
            None => read(None),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        match self.managers() {
            Some(managers) => managers.changes(),
            None => watch::channel(0).1,
        }
    }

    fn issue(&self, _: &VerifyingKey, _: Role) -> Result<Vec<u8>, String> {
        Err("no authority".into())
    }

    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Outcome, ProposeRefused>> {
        Box::pin(async move {
            match self.managers() {
                Some(managers) => managers.propose(command).await,
                None => Err(ProposeRefused::NotLeader { leader: None }),
            }
        })
    }

    fn acknowledged(&self, _: Acknowledgement) {}

    fn reported(&self, node: NodeId, digest: Digest) {
        if let Some(managers) = self.managers() {
            managers.reported(node, digest);
        }
    }

    fn sync(&self, _: NodeId, _: &[u8]) -> Result<Vec<u8>, SyncError> {
        Err(SyncError::Malformed)
    }

    fn raft(&self, from: NodeId, request: RaftRequest) -> BoxFuture<'_, RaftResponse> {
        Box::pin(async move {
            match self.managers() {
                Some(managers) => managers.raft(from, request).await,
                None => RaftResponse::Refused(RaftRefused::NoLog),
            }
        })
    }
}

pub struct Node {
    pub desktop: Arc<Desktop>,
    pub desk: Arc<Desk>,
    pub client: Client,
    pub own: Arc<Own>,
    pub setup: Setup,
    serving: Option<(watch::Sender<bool>, JoinHandle<()>)>,
    _directory: tempfile::TempDir,
}

impl Node {
    pub fn managers(&self) -> Managers {
        self.desktop.managers().expect("it runs")
    }

    async fn serve(&mut self, detours: &Detours, n: u8) {
        let limits = ServerLimits::default();
        let server = Server::new(self.client.tls().clone(), self.desk.clone(), limits);
        let server = server.expect("a server");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        detours.write().unwrap().insert(control(n), address);
        let (stop, stopped) = watch::channel(false);
        self.serving = Some((stop, tokio::spawn(server.serve(listener, stopped))));
    }

    async fn stop(&mut self) {
        let managers = self.desktop.managers.write().unwrap().take();
        if let Some((_, serving)) = self.serving.take() {
            // Its connections end with it.
            serving.abort();
            let _ = serving.await;
        }
        if let Some(managers) = managers {
            managers.shutdown().await;
        }
    }

    /// What was spawned for its connections ends a little later, and until then the store is open. A process takes
    /// all of it along.
    async fn wait_for_the_store(&self) {
        let Ok(file) = std::fs::File::open(&self.setup.store) else {
            return;
        };
        for _ in 0..1000 {
            if file.try_lock().is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the store is open ten seconds after the end of its agent");
    }
}

pub struct World {
    pub authority: Authority,
    pub time: Arc<Time>,
    pub alive: Arc<Alive>,
    told: Arc<RwLock<BTreeMap<NodeId, Standing>>>,
    detours: Detours,
    pub nodes: BTreeMap<u8, Node>,
}

pub fn timing() -> Timing {
    Timing {
        heartbeat: Duration::from_millis(250),
        election: (Duration::from_millis(1500), Duration::from_secs(4)),
        tick: Duration::from_millis(150),
        propose: Duration::from_secs(4),
        settle: Duration::from_secs(6),
        change: Duration::from_secs(6),
    }
}

/// Two seconds to stage, two of grace.
pub fn policy() -> RotationPolicy {
    RotationPolicy {
        interval: Duration::from_secs(3600),
        deadline: Duration::from_secs(2),
        grace: Duration::from_secs(2),
        urgent_deadline: Duration::from_secs(1),
        urgent_grace: Duration::from_secs(1),
    }
}

impl World {
    /// One manager, node 1.
    pub async fn new() -> Self {
        let mut world = Self::empty();
        world.add(1, Role::Manager).await;
        let genesis = world.genesis();
        let setup = world.nodes[&1].setup.clone();
        let managers = found(setup, genesis).await.expect("a cluster");
        world.run(1, managers);
        world
    }

    pub fn empty() -> Self {
        let time = Arc::new(Time {
            begun: Instant::now(),
            ahead: AtomicU64::new(0),
        });
        let now = Clock::now(&*time).expect("a time");
        let authority = Authority::generate(CLUSTER, &Validity::default(), now, &mut rng(1));
        Self {
            authority: authority.expect("an authority"),
            time,
            alive: Arc::default(),
            told: Arc::default(),
            detours: Detours::default(),
            nodes: BTreeMap::new(),
        }
    }

    pub fn genesis(&self) -> Genesis {
        let secrets = EpochSecrets::random(&mut rng(2));
        Genesis {
            cluster: CLUSTER,
            authority: self.authority.clone(),
            manager: applicant(1),
            tokens: tokens(1),
            epoch: NewEpoch {
                name: secrets.name(0, 1),
                secrets,
            },
            policy: policy(),
            settings: Settings::default(),
        }
    }

    /// `n` managers.
    pub async fn with_managers(n: u8) -> Self {
        let mut world = Self::new().await;
        for next in 2..=n {
            world.join(next).await;
        }
        world
            // And all know it: a change that is under way wants the majority of before as well.
            .wait("all have a vote", |world| {
                world.running().all(|at| world.votes(at) == usize::from(n))
            })
            .await;
        world
    }

    pub fn certificate(&self, n: u8, role: Role) -> Vec<u8> {
        let now = Clock::now(&*self.time).expect("a time");
        let key = key(n).public();
        self.authority
            .issue_since(
                now,
                &key,
                role,
                &Validity::default(),
                now,
                &mut rng(u64::from(n) + 50),
            )
            .expect("issues")
    }

    /// A node that serves, and runs no manager yet.
    pub async fn add(&mut self, n: u8, role: Role) {
        let certificate = self.certificate(n, role);
        let own = Arc::new(Own::new(key(n), &certificate).expect("its own"));
        let told = self.told.clone();
        told.write().unwrap().insert(node(n), told_as(role));
        let desktop = Arc::new(Desktop {
            trust: Arc::new(TrustBundle::new(self.authority.root().clone())),
            told,
            managers: RwLock::default(),
        });
        let tls = Tls::new(own.clone(), desktop.clone(), self.time.clone());
        let mut client = Client::new(tls, ClientLimits::default()).expect("a client");
        client.detours = self.detours.clone();
        let desk = Desk::new(node(n), desktop.clone(), client.clone());
        let directory = tempfile::tempdir().expect("a directory");
        let setup = Setup {
            node: node(n),
            index: PeerIndex::new(n.into()).expect("an index"),
            control: control(n),
            client: client.clone(),
            store: directory.path().join("managers.redb"),
            seal: Arc::new(TestSeal),
            clock: self.time.clone(),
            liveness: self.alive.clone(),
            random: Arc::new(Seeds(AtomicU64::new(u64::from(n) << 32))),
            timing: timing(),
        };
        let mut added = Node {
            desktop,
            desk,
            client,
            own,
            setup,
            serving: None,
            _directory: directory,
        };
        added.serve(&self.detours, n).await;
        self.nodes.insert(n, added);
    }

    pub fn run(&self, n: u8, managers: Managers) {
        *self.nodes[&n].desktop.managers.write().unwrap() = Some(managers);
    }

    /// Node `n` joins by the managers' token, and waits for its promotion.
    pub async fn join(&mut self, n: u8) {
        let token = tokens(1).manager.hash(CLUSTER);
        let applicant = applicant(n);
        let outcome = self.propose(Command::Join { token, applicant }).await;
        let Outcome::Joined { index, .. } = outcome else {
            panic!("{outcome:?}")
        };
        self.add(n, Role::Manager).await;
        self.nodes.get_mut(&n).unwrap().setup.index = index;
        let setup = self.nodes[&n].setup.clone();
        let managers = await_promotion(setup).await.expect("starts");
        self.run(n, managers);
    }

    /// The desk of any node that runs takes the command where it belongs.
    pub async fn propose(&self, command: Command) -> Outcome {
        let decided = self.try_propose(command).await;
        decided.unwrap_or_else(|error| panic!("{error}"))
    }

    pub async fn try_propose(&self, command: Command) -> Result<Outcome, ProposeRefused> {
        let mut last = ProposeRefused::NotLeader { leader: None };
        let begun = Instant::now();
        while begun.elapsed() < LONG {
            let at = self.running().next_back().expect("a manager");
            match self.nodes[&at].desk.propose(command.clone(), false).await {
                Err(refused @ ProposeRefused::NotLeader { .. }) => last = refused,
                decided => return decided,
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(last)
    }

    pub fn running(&self) -> impl DoubleEndedIterator<Item = u8> {
        let run = |(n, node): (&u8, &Node)| node.desktop.managers().map(|_| *n);
        self.nodes.iter().filter_map(run)
    }

    /// The node that leads, if those that run agree on it.
    pub fn leader(&self) -> Option<u8> {
        let mut running = self.running();
        let leader = running.find(|n| self.nodes[n].managers().is_leader())?;
        let id = node(leader);
        let agrees = |n: u8| {
            self.nodes[&n]
                .managers()
                .leader()
                .is_some_and(|(it, _)| it == id)
        };
        self.running().all(agrees).then_some(leader)
    }

    /// Managers that have a vote for good.
    fn votes(&self, seen_by: u8) -> usize {
        let managers = self.nodes[&seen_by].managers().status().managers;
        let votes = |it: &&ManagerStatus| it.place == ManagerPlace::Voter;
        managers.iter().filter(votes).count()
    }

    pub fn voters(&self, seen_by: u8) -> BTreeSet<u64> {
        self.nodes[&seen_by].managers().0.voters()
    }

    pub async fn wait(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waited = timeout(LONG, async {
            while !holds(self) {
                sleep(Duration::from_millis(30)).await;
            }
        });
        if waited.await.is_err() {
            for n in self.running() {
                eprintln!("{n}: {:#?}", self.nodes[&n].managers().status());
            }
            panic!("not in time: {what}");
        }
    }

    pub async fn wait_for_leader(&self) -> u8 {
        self.wait("a leader", |world| world.leader().is_some())
            .await;
        self.leader().expect("a leader")
    }

    pub async fn kill(&mut self, n: u8) {
        let node = self.nodes.get_mut(&n).expect("a node");
        node.stop().await;
        node.wait_for_the_store().await;
    }

    /// The agent starts again on its store.
    pub async fn restart(&mut self, n: u8) {
        let detours = self.detours.clone();
        let node = self.nodes.get_mut(&n).expect("a node");
        node.serve(&detours, n).await;
        let managers = open(node.setup.clone()).await.expect("opens");
        self.run(n, managers);
    }

    pub async fn stop(&mut self) {
        for node in self.nodes.values_mut() {
            node.stop().await;
        }
    }

    /// What `read` makes of the log of a node.
    pub fn log<T>(&self, n: u8, read: impl FnOnce(&Cluster) -> T) -> T {
        let managers = self.nodes[&n].managers();
        managers.with_log(|log| read(log.expect("a cluster")))
    }

    /// The same, once the node has a log.
    pub fn seen<T>(&self, n: u8, read: impl FnOnce(&Cluster) -> T) -> Option<T> {
        let managers = self.nodes[&n].managers();
        managers.with_log(|log| log.map(read))
    }

    pub fn epoch(&self, n: u8) -> EpochName {
        self.log(n, |log| log.epochs().current())
    }

    /// A node says that it is ready in an epoch.
    pub fn ready(epoch: EpochName, sequence: u64) -> Digest {
        Digest {
            generation: Generation(1),
            sequence,
            epoch,
            secrets: true,
            peers: 0,
            ready: 0,
            laggards: Vec::new(),
            oldest: None,
            exhausted: None,
        }
    }
}

/// A command that leaves a trace which is easy to find.
pub fn lanes(lanes: u8) -> Command {
    Command::SetSettings(Settings {
        lanes: Some(lanes),
        ..Settings::default()
    })
}

pub fn lanes_of(log: &Cluster) -> Option<u8> {
    log.settings().lanes
}
