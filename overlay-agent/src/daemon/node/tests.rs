//! Nodes in one process, over loopback sockets: real TLS, gossip and rotation, the managers' real log,
//! and kernels that hold what they are told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{OnceLock, RwLock},
    time::Instant,
};

use ed25519_dalek::VerifyingKey;
use futures_util::future::BoxFuture;
use overlay_cluster::{
    control::member::ProposeRefused,
    id::ClusterId,
    identity::{
        Role,
        authority::{Authority, Validity},
        node_key::NodeKey,
        trust::TrustBundle,
    },
    keys::EpochSecrets,
    log::{
        command::{Genesis, Outcome as Decided},
        epochs::{NewEpoch, Readiness, Reason, RotationPolicy},
        member::{Contact, NodeKey as LogKey},
        names::{Labels, NetworkName, NodeName, SoftwareVersion},
        networks::NetworkRequest,
        roster::Applicant,
        settings::Settings as ClusterSettings,
        state::{Cluster, State},
        subnet::SubnetRequest,
        tokens::{Token, TokenSecret, Tokens},
        view::Update,
    },
    rotation::{AdoptedSa, Digest, Direction, SlotKey, Transmit},
    secret::KeyMaterial,
    time::Timestamp,
};
use overlay_ebpf::abi::PeerIndex;
use rand::{SeedableRng as _, rngs::StdRng};
use rustls::{pki_types::UnixTime, time_provider::TimeProvider};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};

use super::{
    applier::{Found, News, Orders, Outcome},
    testing::in_namespace,
    *,
};
use crate::{
    daemon::{
        control::{
            client::Client,
            desk::{Desk, Office},
            limits::{ClientLimits, ServerLimits},
            server::Server,
        },
        tls::{Own, Tls},
    },
    dataplane::{
        desired::{Keying, NetnsRef, SecurityAssociation},
        endpoint_name::host_device_name,
    },
    member::{Held, attach},
    state::last_desired::Record,
};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
/// Long enough for a loaded machine.
const LONG: Duration = Duration::from_secs(120);

#[derive(Debug)]
struct At(Timestamp);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(
            self.0.as_secs(),
        )))
    }
}

/// The kernel of a node: it outlives the agent.
#[derive(Default)]
struct Kernel {
    sas: BTreeMap<Held, (KeyMaterial, SecurityAssociation)>,
    transmit: BTreeMap<PeerIndex, Transmit>,
    plan: Option<DataPlane>,
    /// Endpoints that it refuses.
    refused: BTreeSet<String>,
    /// Applied since the beginning.
    passes: usize,
    cleared: bool,
}

impl Kernel {
    fn apply(&mut self, plan: DataPlane) -> Outcome {
        let mut desired = BTreeSet::new();
        for (index, peer) in &plan.peers {
            for sa in &peer.sas {
                let slot = SlotKey {
                    direction: sa.direction,
                    slot: sa.slot,
                };
                let name = (*index, slot, sa.lane);
                desired.insert(name);
                match &sa.keying {
                    Keying::Keyed(key) => {
                        let held = (key.clone(), sa.clone());
                        self.sas.entry(name).or_insert(held);
                    }
                    Keying::Adopted => assert!(self.sas.contains_key(&name), "{name:?}"),
                }
            }
        }
        self.sas.retain(|name, _| desired.contains(name));
        let sends = |(index, peer): (&PeerIndex, &crate::dataplane::desired::Peer)| {
            Some((*index, peer.transmit?))
        };
        self.transmit = plan.peers.iter().filter_map(sends).collect();
        self.passes += 1;
        let refused = plan
            .local_endpoints
            .iter()
            .filter(|endpoint| self.refused.contains(&endpoint.name))
            .map(|endpoint| {
                let device = host_device_name(endpoint.vni, endpoint.mac);
                (device, "told to refuse".to_owned())
            })
            .collect();
        let outcome = Outcome {
            held: self.sas.keys().copied().collect(),
            local_endpoints: plan.local_endpoints.len(),
            remote_endpoints: plan.remote_endpoints.len(),
            refused,
            ..Outcome::default()
        };
        self.plan = Some(plan);
        outcome
    }
}

struct FakePath {
    kernel: Arc<Mutex<Kernel>>,
    run: std::path::PathBuf,
}

impl FakePath {
    fn kernel(&self) -> std::sync::MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap()
    }
}

impl DataPath for FakePath {
    async fn take_over(&mut self) -> Result<Found, String> {
        let kernel = self.kernel();
        let mut found = Found::new();
        for ((peer, ..), (_, sa)) in &kernel.sas {
            let adopted = AdoptedSa {
                direction: sa.direction,
                epoch: sa.epoch,
                slot: sa.slot,
                lane: sa.lane,
                sender_generation: overlay_cluster::id::Generation(sa.sender_generation),
                receiver_generation: overlay_cluster::id::Generation(sa.receiver_generation),
            };
            found.entry(*peer).or_default().0.push(adopted);
        }
        for (peer, transmit) in &kernel.transmit {
            found.entry(*peer).or_default().1 = Some(*transmit);
        }
        Ok(found)
    }

    async fn apply(&mut self, desired: DataPlane, _: &Orders, _: &mut dyn FnMut(News)) -> Outcome {
        Record::settled(&desired).write(&self.run).unwrap();
        self.kernel().apply(desired)
    }

    async fn due(&mut self) {
        std::future::pending().await
    }

    async fn check(&mut self, _: &Orders, _: &mut dyn FnMut(News)) -> Option<Outcome> {
        None
    }

    async fn clear(&mut self) -> Result<(), String> {
        *self.kernel() = Kernel {
            cleared: true,
            ..Kernel::default()
        };
        Ok(())
    }

    async fn end(&mut self) {}
}

/// The managers' log, and who issues certificates.
struct Log {
    authority: Authority,
    state: RwLock<State>,
    changes: watch::Sender<u64>,
    reports: Mutex<BTreeMap<NodeId, Digest>>,
}

impl Log {
    fn apply(&self, command: Command) -> Result<Decided, ProposeRefused> {
        self.apply_at(NOW, command)
    }

    fn apply_at(&self, time: Timestamp, command: Command) -> Result<Decided, ProposeRefused> {
        let outcome = self.state.write().unwrap().apply(time, command)?;
        self.changes.send_modify(|revision| *revision += 1);
        Ok(outcome)
    }

    fn view(&self, node: NodeId) -> View {
        let state = self.state.read().unwrap();
        match state.cluster().unwrap().update(&node, None).unwrap() {
            Update::Whole(view) => *view,
            Update::Delta(_) => panic!("who has nothing gets the whole view"),
        }
    }
}

/// What a node answers with. `log` on a manager.
struct Desktop {
    log: Option<Arc<Log>>,
    changes: watch::Sender<u64>,
    node: OnceLock<Node>,
}

impl Office for Desktop {
    fn log(&self, read: &mut dyn FnMut(Option<&Cluster>)) {
        match &self.log {
            Some(log) => read(log.state.read().unwrap().cluster()),
            None => read(None),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        match &self.log {
            Some(log) => log.changes.subscribe(),
            None => self.changes.subscribe(),
        }
    }

    fn issue(&self, _: &VerifyingKey, _: Role) -> Result<Vec<u8>, String> {
        Err("not here".to_owned())
    }

    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Decided, ProposeRefused>> {
        Box::pin(async move {
            match &self.log {
                Some(log) => log.apply(command),
                None => Err(ProposeRefused::NoLeader("no manager".to_owned())),
            }
        })
    }

    fn acknowledged(&self, message: Acknowledgement) {
        if let Some(node) = self.node.get() {
            // One that has not heard of the pair yet refuses, and is told again.
            let _told = node.acknowledged(message.from, &message);
        }
    }

    fn reported(&self, node: NodeId, digest: Digest) {
        if let Some(log) = &self.log {
            log.reports.lock().unwrap().insert(node, digest);
        }
    }

    fn sync(&self, peer: NodeId, message: &[u8]) -> Result<Vec<u8>, SyncError> {
        let node = self.node.get().ok_or(SyncError::Malformed)?;
        node.answer_sync(peer, message)
    }
}

/// One host: its files and its kernel stay when its agent ends.
struct Host {
    key: NodeKey,
    number: u8,
    directory: TempDir,
    kernel: Arc<Mutex<Kernel>>,
    agent: Option<Agent>,
}

struct Agent {
    node: Node,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

struct World {
    log: Arc<Log>,
    hosts: Vec<Host>,
}

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

fn address(number: u8) -> SocketAddr {
    ([192, 0, 2, number], 7946).into()
}

fn applicant(key: &NodeKey, number: u8) -> Applicant {
    Applicant {
        key: LogKey::new(key.public().to_bytes()).unwrap(),
        name: NodeName::new(format!("node-{number}")).unwrap(),
        contact: Contact {
            vteps: [[192, 0, 2, number].into()].into_iter().collect(),
            control: address(number),
            software: SoftwareVersion::new(env!("CARGO_PKG_VERSION")).unwrap(),
        },
        labels: Labels::default(),
    }
}

impl World {
    /// A cluster whose node 1 is the manager, with an encrypted network `blue`.
    async fn new(size: u8) -> Self {
        let cluster = ClusterId::from_bytes([7; 16]);
        let mut seeds = rng(size.into());
        let authority =
            Authority::generate(cluster, &Validity::default(), NOW, &mut seeds).unwrap();
        let secrets = EpochSecrets::random(&mut seeds);
        let token = |n| Token {
            secret: TokenSecret::new([n; TokenSecret::LEN]),
            expires: None,
        };
        let keys: Vec<_> = (0..size).map(|_| NodeKey::generate(&mut seeds)).collect();
        let genesis = Genesis {
            cluster,
            authority: authority.clone(),
            manager: applicant(&keys[0], 1),
            tokens: Tokens {
                worker: token(1),
                manager: token(2),
            },
            epoch: NewEpoch {
                name: secrets.name(0, 1),
                secrets,
            },
            policy: RotationPolicy::default(),
            settings: ClusterSettings::default(),
        };
        let log = Arc::new(Log {
            authority,
            state: RwLock::new(State::default()),
            changes: watch::Sender::new(0),
            reports: Mutex::default(),
        });
        log.apply(Command::Initialise(Box::new(genesis))).unwrap();
        let worker = token(1).hash(cluster);
        for (key, number) in keys.iter().zip(1..).skip(1) {
            log.apply(Command::Join {
                token: worker,
                applicant: applicant(key, number),
            })
            .unwrap();
        }
        log.apply(Command::CreateNetwork(NetworkRequest {
            name: NetworkName::new("blue").unwrap(),
            vni: None,
            encrypted: true,
            attachable: true,
            replicate: false,
            mtu: None,
            subnets: vec![SubnetRequest {
                net: "10.9.0.0/16".parse().unwrap(),
                gateway: None,
                range: None,
                block_prefix: None,
            }],
            rules: Vec::new(),
            labels: Labels::default(),
        }))
        .unwrap();
        let hosts = keys.into_iter().zip(1..).map(|(key, number)| {
            let directory = TempDir::new().unwrap();
            let files = Membership::new(&directory.path().join("state"));
            let role = if number == 1 {
                Role::Manager
            } else {
                Role::Worker
            };
            let certificate = log
                .authority
                .issue_since(
                    NOW,
                    &key.public(),
                    role,
                    &Validity::default(),
                    NOW,
                    &mut seeds,
                )
                .unwrap();
            files.keep_key(&key).unwrap();
            files.keep_certificate(&certificate).unwrap();
            let trust = TrustBundle::new(log.authority.root().clone());
            files.keep_trust(&trust).unwrap();
            files.keep_view(&log.view(key.node_id())).unwrap();
            Host {
                key,
                number,
                directory,
                kernel: Arc::default(),
                agent: None,
            }
        });
        let hosts = hosts.collect();
        let mut world = Self { log, hosts };
        for number in 1..=size {
            world.start(number).await;
        }
        world
    }

    fn host(&self, number: u8) -> &Host {
        &self.hosts[usize::from(number) - 1]
    }

    fn node(&self, number: u8) -> &Node {
        &self.host(number).agent.as_ref().unwrap().node
    }

    fn plan<T>(&self, number: u8, look: impl FnOnce(&DataPlane) -> T) -> Option<T> {
        let kernel = self.host(number).kernel.lock().unwrap();
        kernel.plan.as_ref().map(look)
    }

    /// Starts the agent of a host.
    async fn start(&mut self, number: u8) {
        let log = (number == 1).then(|| self.log.clone());
        let at = address(number);
        let host = &mut self.hosts[usize::from(number) - 1];
        let path = |name| host.directory.path().join(name);
        let membership = Membership::new(&path("state"));
        let stored = membership.load().unwrap().unwrap();
        let known = Arc::new(LiveMembers::new(&stored.view));
        let own = Arc::new(Own::new(stored.key.clone(), &stored.certificate).unwrap());
        let tls = Tls::new(own, known.clone(), Arc::new(At(NOW)));
        let client = Client::new(tls.clone(), ClientLimits::default()).unwrap();
        let upstream = Upstream::new(host.key.node_id(), client.clone());
        let office = Arc::new(Desktop {
            log,
            changes: watch::Sender::new(0),
            node: OnceLock::new(),
        });
        let desk = Desk::new(host.key.node_id(), office.clone(), client);
        if number == 1 {
            upstream.set_desk(Some(desk.clone()));
        }
        let server = Server::new(tls, desk, ServerLimits::default()).unwrap();
        let listener = TcpListener::bind(at).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(server.serve(listener, stopped));
        let setup = Setup {
            stored,
            membership,
            directories: Directories {
                pins: path("pins"),
                state: path("state"),
                run: path("run"),
            },
            host: HostSettings::default(),
            rotation: rotation::Settings {
                lanes: 2,
                ..rotation::Settings::default()
            },
            listen: at,
            upstream,
            known,
        };
        let kernel = host.kernel.clone();
        let run = path("run");
        let node = Node::start_with(setup, move || FakePath { kernel, run })
            .await
            .unwrap();
        assert!(office.node.set(node.clone()).is_ok());
        host.agent = Some(Agent {
            node,
            stop,
            serving,
        });
    }

    async fn stop(&mut self, number: u8) {
        let agent = self.hosts[usize::from(number) - 1].agent.take().unwrap();
        let began = Instant::now();
        agent.node.stop().await;
        agent.stop.send_replace(true);
        agent.serving.await.unwrap();
        assert!(began.elapsed() < END, "{:?}", began.elapsed());
    }

    async fn attach(&self, number: u8, name: &str) -> Result<LocalEndpoint, AttachError> {
        let request = attach::Request {
            network: "blue".into(),
            name: name.into(),
            netns: NetnsRef::Name(name.into()),
            interface: "eth0".into(),
            mac: None,
            addresses: Vec::new(),
            routes: Vec::new(),
            labels: Labels::default(),
            managed: false,
        };
        self.node(number).attach(request).await
    }

    /// Pairs that send in SAs that the receiver has.
    fn open(&self) -> usize {
        let index = |host: &Host| PeerIndex::new(host.number.into()).unwrap();
        let mut open = 0;
        for sender in &self.hosts {
            for receiver in self.hosts.iter().filter(|to| to.number != sender.number) {
                let out = sender.kernel.lock().unwrap();
                let Some(transmit) = out.transmit.get(&index(receiver)).copied() else {
                    continue;
                };
                let slot = |direction| SlotKey {
                    direction,
                    slot: transmit.slot,
                };
                let sent: Vec<_> = out
                    .sas
                    .range((index(receiver), slot(Direction::Out), lane(0))..)
                    .take(2)
                    .map(|(name, (key, _))| (name.2, key.clone()))
                    .collect();
                drop(out);
                let into = receiver.kernel.lock().unwrap();
                let has = |(lane, key): &(_, KeyMaterial)| {
                    let name = (index(sender), slot(Direction::In), *lane);
                    into.sas.get(&name).is_some_and(|(held, _)| held == key)
                };
                assert!(sent.iter().all(has), "sent before it can be received");
                open += usize::from(!sent.is_empty());
            }
        }
        open
    }
}

fn lane(lane: u8) -> overlay_ebpf::abi::Lane {
    overlay_ebpf::abi::Lane::new(lane).unwrap()
}

/// Waits until it is so.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LONG, "not after {LONG:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn endpoints_are_seen_by_the_others_encrypted_and_outlive_their_agent() {
    in_namespace(async {
        let mut world = World::new(3).await;
        for (number, name) in [(1, "a"), (2, "b"), (3, "c")] {
            let endpoint = world.attach(number, name).await.unwrap();
            assert_eq!(endpoint.addresses.len(), 1);
            assert_eq!(
                world.plan(number, |plan| plan.local_endpoints.len()),
                Some(1)
            );
        }
        for number in 1..=3 {
            eventually("two remote endpoints", || {
                world.plan(number, |plan| plan.remote_endpoints.len()) == Some(2)
            })
            .await;
        }
        eventually("every pair is open", || world.open() == 6).await;
        let status = world.node(2).status();
        assert_eq!(status.peers.len(), 2, "{status:?}");
        assert!(status.peers.iter().all(|peer| peer.sends.is_some()));
        assert_eq!(status.kernel.local_endpoints, 1);
        assert!(
            status.alarms.is_empty() && status.problems.is_empty(),
            "{status:?}"
        );
        eventually("all are up", || world.node(2).alive().len() == 3).await;
        let (events, _) = world.node(2).events();
        let attached = |event: &Event| matches!(&event.what, What::EndpointAttached { name, .. } if name == "b");
        assert!(events.iter().any(attached), "{events:?}");
        let me = world.host(2).key.node_id();
        eventually("its digest is told", || {
            world.log.reports.lock().unwrap().contains_key(&me)
        })
        .await;

        // The next agent finds endpoints and SAs, and its peers never lose theirs.
        let before = world.plan(2, |plan| plan.local_endpoints.clone()).unwrap();
        world.stop(2).await;
        assert_eq!(world.open(), 6, "what is in the kernel stays");
        world.start(2).await;
        assert_eq!(world.node(2).endpoints(), before);
        eventually("it is in the kernel", || {
            world.plan(2, |plan| plan.remote_endpoints.len()) == Some(2)
        })
        .await;
        assert_eq!(world.open(), 6);
        let generations = || {
            let kernel = world.host(2).kernel.lock().unwrap();
            let sas = kernel.sas.iter();
            sas.map(|((_, slot, _), (_, sa))| match slot.direction {
                Direction::In => sa.receiver_generation,
                Direction::Out => sa.sender_generation,
            })
            .collect::<BTreeSet<_>>()
        };
        eventually("SAs of the new start", || {
            generations() == BTreeSet::from([2])
        })
        .await;
        assert_eq!(world.open(), 6);

        world.node(3).detach("blue", "c").await.unwrap();
        assert_eq!(world.plan(3, |plan| plan.local_endpoints.len()), Some(0));
        eventually("it is gone elsewhere", || {
            world.plan(1, |plan| plan.remote_endpoints.len()) == Some(1)
        })
        .await;
        for number in 1..=3 {
            world.stop(number).await;
        }
    });
}

#[test]
fn a_proposal_goes_by_no_connection_that_a_manager_may_have_ended() {
    in_namespace(async {
        let mut world = World::new(2).await;
        let host = world.host(2);
        let files = Membership::new(&host.directory.path().join("state"));
        let stored = files.load().unwrap().unwrap();
        let own = Own::new(stored.key, &stored.certificate).unwrap();
        let known = Arc::new(LiveMembers::new(&stored.view));
        let tls = Tls::new(Arc::new(own), known, Arc::new(At(NOW)));
        let client = Client::new(tls, ClientLimits::default()).unwrap();
        let node = host.key.node_id();
        let upstream = Upstream::new(node, client);
        upstream.follow(&stored.view);
        upstream.pull_view(None).await.unwrap();
        world.stop(1).await;
        let left = upstream.propose(Command::Leave { node }).await;
        // It is known that no manager has it.
        assert!(
            matches!(left, Err(UpstreamError::Unreachable(_))),
            "{left:?}"
        );
        world.stop(2).await;
    });
}

#[test]
fn a_node_tells_the_release_that_it_runs() {
    in_namespace(async {
        let world = World::new(2).await;
        let node = world.host(2).key.node_id();
        let known = || {
            let view = world.log.view(node);
            view.peers[&node].contact.clone()
        };
        let runs = known();
        let old = Contact {
            software: SoftwareVersion::new("0.0.1").unwrap(),
            ..runs.clone()
        };
        world
            .log
            .apply(Command::Renew { node, contact: old })
            .unwrap();
        assert_ne!(known(), runs);
        eventually("the log knows it again", || known() == runs).await;
    });
}

#[test]
#[ignore = "known: the agent that the test kills keeps its socket, which a process would not"]
fn a_rotation_reaches_every_node_at_once_and_a_manager_that_is_away_is_waited_for() {
    in_namespace(async {
        let mut world = World::new(2).await;
        world.attach(1, "a").await.unwrap();
        world.attach(2, "b").await.unwrap();
        eventually("the pair is open", || world.open() == 2).await;

        let before = world.node(2).view().epochs.current;
        let secrets = EpochSecrets::random(&mut rng(99));
        let next = secrets.name(0, 2);
        let began = Instant::now();
        world
            .log
            .apply(Command::StageEpoch {
                expected: before,
                next: NewEpoch {
                    name: next,
                    secrets,
                },
                reason: Reason::Operator,
            })
            .unwrap();
        eventually("it hears of the epoch", || {
            world.node(2).view().epochs.kept.contains(&next)
        })
        .await;
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
        let staged = |number: u8| {
            let kernel = world.host(number).kernel.lock().unwrap();
            kernel
                .sas
                .iter()
                .filter(|((_, slot, _), (_, sa))| {
                    slot.direction == Direction::In && sa.epoch.get() == 2
                })
                .count()
        };
        eventually("both receive", || staged(1) == 2 && staged(2) == 2).await;
        world
            .log
            .apply(Command::ActivateEpoch {
                expected: next,
                readiness: Readiness::All,
            })
            .unwrap();
        let sends = |number: u8| {
            let kernel = world.host(number).kernel.lock().unwrap();
            kernel
                .transmit
                .values()
                .map(|of| of.epoch.get())
                .collect::<Vec<_>>()
        };
        eventually("both send", || sends(1) == [2] && sends(2) == [2]).await;
        assert_eq!(world.open(), 2);

        // Without its manager a node goes on with what it has, and says what is wrong.
        world.stop(1).await;
        world.attach(2, "c").await.unwrap();
        eventually("it says so", || {
            world.node(2).status().managers.error.is_some()
        })
        .await;
        world
            .log
            .apply_at(
                NOW.saturating_add(LONG),
                Command::RetireEpoch { expected: before },
            )
            .unwrap();
        world.start(1).await;
        eventually("it catches up", || {
            world.node(2).view().epochs.kept == [next]
        })
        .await;
        assert_eq!(world.node(2).status().managers.error, None);
        world.stop(2).await;
        let files = Membership::new(&world.host(2).directory.path().join("state"));
        assert_eq!(files.newest_epoch().unwrap(), Some(next));
        let kept = files.load().unwrap().unwrap().view;
        assert_eq!(kept.epochs.kept, [next]);
        world.stop(1).await;
    });
}

#[test]
fn what_the_kernel_refuses_is_taken_back_with_the_reason() {
    in_namespace(async {
        let mut world = World::new(1).await;
        world
            .host(1)
            .kernel
            .lock()
            .unwrap()
            .refused
            .insert("bad".into());
        let error = world.attach(1, "bad").await.unwrap_err().to_string();
        assert!(
            error.contains("bad") && error.contains("told to refuse"),
            "{error}"
        );
        assert_eq!(world.node(1).endpoints(), []);
        eventually("it is not wanted any more", || {
            world.plan(1, |plan| plan.local_endpoints.len()) == Some(0)
        })
        .await;
        world.attach(1, "good").await.unwrap();
        let error = world.node(1).detach("blue", "bad").await.unwrap_err();
        assert!(error.to_string().contains("bad"), "{error}");
        world.stop(1).await;
    });
}

#[test]
fn who_leaves_forgets_and_who_is_put_out_is_closed() {
    in_namespace(async {
        let mut world = World::new(3).await;
        for (number, name) in [(1, "a"), (2, "b"), (3, "c")] {
            world.attach(number, name).await.unwrap();
        }
        eventually("every pair is open", || world.open() == 6).await;
        let leaving = world.node(3).clone();
        leaving.leave().await.unwrap();
        assert!(world.host(3).kernel.lock().unwrap().cleared);
        let files = Membership::new(&world.host(3).directory.path().join("state"));
        assert!(files.load().unwrap().is_none());
        eventually("the others hear of it", || {
            world.node(2).view().peers.len() == 2
        })
        .await;

        let evict = Command::Evict {
            node: world.host(2).key.node_id(),
            tokens: Tokens {
                worker: Token {
                    secret: TokenSecret::new([7; TokenSecret::LEN]),
                    expires: None,
                },
                manager: Token {
                    secret: TokenSecret::new([8; TokenSecret::LEN]),
                    expires: None,
                },
            },
        };
        let began = Instant::now();
        world.log.apply(evict).unwrap();
        eventually("it knows", || world.node(2).status().put_out.is_some()).await;
        eventually("its SAs are gone", || {
            world.host(2).kernel.lock().unwrap().sas.is_empty()
                && world.host(1).kernel.lock().unwrap().sas.is_empty()
        })
        .await;
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
        world.stop(1).await;
    });
}
