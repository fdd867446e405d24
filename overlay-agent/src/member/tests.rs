//! A cluster in one process: nodes with their real gossip, rotation and keys, the managers' real log,
//! and models of the network and of the kernels.

use std::{net::IpAddr, time::Duration};

use overlay_cluster::{
    id::ClusterId,
    identity::authority::{Authority, Validity},
    log::{
        command::{Command, Genesis, Outcome},
        epochs::{NewEpoch, Readiness, Reason, RotationPolicy},
        member::{Contact, NodeKey, Vteps},
        names::{Labels, NetworkName, NodeName, SoftwareVersion},
        networks::NetworkRequest,
        roster::Applicant,
        settings::Settings as ClusterSettings,
        state::State,
        subnet::SubnetRequest,
        tokens::{Token, TokenSecret, Tokens},
    },
    rotation::{Direction, SlotKey},
    secret::KeyMaterial,
    time::Timestamp,
};
use rand::{SeedableRng as _, rngs::StdRng};

use super::*;
use crate::dataplane::desired::{self, Keying, NetnsRef};

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

/// The kernel of a node: SAs by name, and which one is sent in.
#[derive(Default)]
struct Kernel {
    sas: BTreeMap<Held, KeyMaterial>,
    /// Every key that was ever installed outbound.
    sent: BTreeSet<[u8; KeyMaterial::LEN]>,
    transmit: BTreeMap<PeerIndex, SlotKey>,
}

impl Kernel {
    fn apply(&mut self, plan: &DataPlane) -> BTreeSet<Held> {
        let mut desired = BTreeSet::new();
        for (index, peer) in &plan.peers {
            for sa in &peer.sas {
                let direction = sa.direction;
                let slot = SlotKey {
                    direction,
                    slot: sa.slot,
                };
                let name = (*index, slot, sa.lane);
                desired.insert(name);
                match &sa.keying {
                    Keying::Keyed(key) => {
                        if self.sas.contains_key(&name) {
                            continue;
                        }
                        if direction == Direction::Out {
                            assert!(self.sent.insert(*key.expose()), "a key twice: {name:?}");
                        }
                        self.sas.insert(name, key.clone());
                    }
                    Keying::Adopted => assert!(self.sas.contains_key(&name), "{name:?}"),
                }
            }
        }
        self.sas.retain(|name, _| desired.contains(name));
        self.transmit = plan
            .peers
            .iter()
            .filter_map(|(index, peer)| {
                let slot = SlotKey {
                    direction: Direction::Out,
                    slot: peer.transmit?.slot,
                };
                Some((*index, slot))
            })
            .collect();
        self.sas.keys().copied().collect()
    }
}

struct Host {
    member: Member,
    kernel: Kernel,
    plan: Option<DataPlane>,
}

struct World {
    state: State,
    hosts: BTreeMap<u8, Host>,
    now: Instant,
    rng: StdRng,
    /// Packets that met no key at their receiver.
    lost: u32,
}

fn signing_key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn node(n: u8) -> NodeId {
    NodeId::of(&signing_key(n).verifying_key())
}

fn index(n: u8) -> PeerIndex {
    PeerIndex::new(n.into()).unwrap()
}

fn applicant(n: u8) -> Applicant {
    Applicant {
        key: NodeKey::new(signing_key(n).verifying_key().to_bytes()).unwrap(),
        name: NodeName::new(format!("node-{n}")).unwrap(),
        contact: Contact {
            vteps: Vteps {
                v4: Some([192, 0, 2, n].into()),
                v6: None,
            },
            control: ([192, 0, 2, n], 7946).into(),
            software: SoftwareVersion::new("0.1.0").unwrap(),
        },
        labels: Labels::default(),
    }
}

fn tokens(first: u8) -> Tokens {
    let token = |n| Token {
        secret: TokenSecret::new([n; TokenSecret::LEN]),
        expires: None,
    };
    Tokens {
        worker: token(first),
        manager: token(first + 1),
    }
}

fn adopted(sa: &desired::SecurityAssociation) -> AdoptedSa {
    AdoptedSa {
        direction: sa.direction,
        epoch: sa.epoch,
        slot: sa.slot,
        lane: sa.lane,
        sender_generation: Generation(sa.sender_generation),
        receiver_generation: Generation(sa.receiver_generation),
    }
}

impl World {
    /// A cluster of nodes 1 to `size`, each with one endpoint in an encrypted network.
    fn new(size: u8) -> Self {
        let mut rng = StdRng::seed_from_u64(size.into());
        let secrets = EpochSecrets::random(&mut rng);
        let genesis = Genesis {
            cluster: CLUSTER,
            authority: Authority::generate(
                CLUSTER,
                &Validity::default(),
                Timestamp::from_secs(1_800_000_000),
                &mut rng,
            )
            .unwrap(),
            manager: applicant(1),
            tokens: tokens(1),
            epoch: NewEpoch {
                name: secrets.name(0, 1),
                secrets,
            },
            policy: RotationPolicy::default(),
            settings: ClusterSettings::default(),
        };
        let mut world = Self {
            state: State::default(),
            hosts: BTreeMap::new(),
            now: Instant::from_start(Duration::from_secs(1)),
            rng,
            lost: 0,
        };
        world.apply(Command::Initialise(Box::new(genesis)));
        for n in 2..=size {
            world.apply(Command::Join {
                token: tokens(1).worker.hash(CLUSTER),
                applicant: applicant(n),
            });
        }
        let request = NetworkRequest {
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
        };
        world.apply(Command::CreateNetwork(request));
        for n in 1..=size {
            world.start(n, 1);
            world.attach(n);
        }
        world
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_secs(1_800_000_000).saturating_add(self.now.since_start())
    }

    fn apply(&mut self, command: Command) -> Outcome {
        let outcome = self.state.apply(self.time(), command);
        assert_eq!(self.state.fault(), None);
        outcome.unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    fn cluster(&self) -> &overlay_cluster::log::state::Cluster {
        self.state.cluster().expect("a cluster")
    }

    /// Starts the agent of a node; a kernel that was there stays as it is.
    fn start(&mut self, n: u8, generation: u64) {
        let Ok(Update::Whole(view)) = self.cluster().update(&node(n), None) else {
            panic!("node {n} has no view");
        };
        let settings = Settings {
            key: signing_key(n),
            generation: Generation(generation),
            boot: BootNonce::from_bytes([u8::try_from(generation).unwrap() ^ n << 4; 16]),
            seed: [n; 32],
            newest: None,
            host: HostSettings::default(),
            rotation: rotation::Settings {
                lanes: 2,
                ..rotation::Settings::default()
            },
        };
        let mut member = Member::new(settings, *view, self.now).unwrap();
        let old = self.hosts.remove(&n);
        let plan = old.as_ref().and_then(|old| old.plan.clone());
        let (now, rng) = (self.now, &mut self.rng);
        if let Some(plan) = &plan {
            for (index, peer) in &plan.peers {
                let sas: Vec<_> = peer.sas.iter().map(adopted).collect();
                member.adopt(*index, &sas, peer.transmit);
            }
            let endpoints = plan.local_endpoints.clone();
            member.adopt_endpoints(endpoints, now).unwrap();
            let remembered = plan.remote_endpoints.iter().map(|endpoint| {
                let remembered = Endpoint {
                    vni: endpoint.vni,
                    mac: endpoint.mac,
                    ips: endpoint.addresses.clone(),
                    name: Default::default(),
                };
                let owner = u8::try_from(endpoint.peer.get()).unwrap();
                (node(owner), remembered)
            });
            member.remember(remembered.collect(), now);
        }
        member.announce(now, rng).unwrap();
        let host = Host {
            member,
            kernel: old.map(|old| old.kernel).unwrap_or_default(),
            plan,
        };
        self.hosts.insert(n, host);
    }

    /// Gives a node an endpoint, with an address that the log leases to it.
    fn attach(&mut self, n: u8) {
        loop {
            let request = attach::Request {
                network: "blue".into(),
                name: format!("web-{n}"),
                netns: NetnsRef::Name(format!("web-{n}")),
                interface: "eth0".into(),
                mac: None,
                addresses: Vec::new(),
                routes: Vec::new(),
                labels: Labels::default(),
                managed: false,
            };
            let (now, rng) = (self.now, &mut self.rng);
            let member = &mut self.hosts.get_mut(&n).unwrap().member;
            match member.attach(request, now, rng) {
                Ok(_) => return,
                Err(AttachError::Endpoint(attach::AttachError::Lease { command, .. })) => {
                    self.apply(*command);
                    self.pull_all();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn pull(&mut self, n: u8) {
        let have = self.hosts[&n].member.view().version;
        let Ok(update) = self.cluster().update(&node(n), Some(have)) else {
            return;
        };
        let (now, rng) = (self.now, &mut self.rng);
        let member = &mut self.hosts.get_mut(&n).unwrap().member;
        member.update(update, now, rng).unwrap();
    }

    /// Every node hears of a change of the log.
    fn pull_all(&mut self) {
        for n in self.hosts.keys().copied().collect::<Vec<_>>() {
            self.pull(n);
        }
    }

    fn by_address(&self, address: SocketAddr) -> Option<u8> {
        let IpAddr::V4(ip) = address.ip() else {
            return None;
        };
        let n = ip.octets()[3];
        self.hosts.contains_key(&n).then_some(n)
    }

    fn sync(&mut self, n: u8, with: u8) {
        let (now, peer) = (self.now, node(with));
        let (mut sync, mut message) = self.hosts.get_mut(&n).unwrap().member.start_sync(peer);
        loop {
            let answerer = &mut self.hosts.get_mut(&with).unwrap().member;
            let answer = answerer.answer_sync(node(n), &message, now, &mut self.rng);
            let asker = &mut self.hosts.get_mut(&n).unwrap().member;
            let Ok(answer) = answer else {
                return asker.end_sync(peer, None, now, &mut self.rng);
            };
            match asker.continue_sync(&mut sync, &answer, now, &mut self.rng) {
                Ok(Some(next)) => message = next,
                Ok(None) => return asker.end_sync(peer, Some(sync), now, &mut self.rng),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn act(&mut self, n: u8, action: Action) {
        let now = self.now;
        match action {
            Action::Send { to, bytes } => {
                let from = ([192, 0, 2, n], 7946).into();
                if let Some(to) = self.by_address(to) {
                    let member = &mut self.hosts.get_mut(&to).unwrap().member;
                    member.datagram(from, &bytes, now, &mut self.rng);
                }
            }
            Action::Sync { address, .. } => {
                if let Some(with) = self.by_address(address) {
                    self.sync(n, with);
                }
            }
            Action::PullView => self.pull(n),
            Action::PullSecrets(name) => {
                if let Ok(secrets) = self.cluster().secrets(&node(n), name) {
                    let secrets = secrets.clone();
                    let member = &mut self.hosts.get_mut(&n).unwrap().member;
                    member.secrets(name, secrets, now, &mut self.rng).unwrap();
                }
            }
            Action::Acknowledge {
                address, message, ..
            } => {
                if let Some(to) = self.by_address(address) {
                    let member = &mut self.hosts.get_mut(&to).unwrap().member;
                    // One that has not heard of the pair yet refuses, and is told again.
                    let _told = member.acknowledged(node(n), &message, now, &mut self.rng);
                }
            }
            Action::Report(_) | Action::KeepGeneration(_) => {}
            Action::Apply {
                attempt,
                data_plane,
            } => {
                let host = self.hosts.get_mut(&n).unwrap();
                let held = host.kernel.apply(&data_plane);
                host.plan = Some(*data_plane);
                host.member.applied(attempt, &held, now, &mut self.rng);
            }
            Action::Alarm(alarm) => panic!("node {n}: {alarm}"),
            Action::Doubt(doubt) => panic!("node {n}: {doubt}"),
        }
    }

    /// Lets time pass; every 100 ms each node sends a packet to each peer that it has a slot for.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(100);
            for n in self.hosts.keys().copied().collect::<Vec<_>>() {
                let (now, rng) = (self.now, &mut self.rng);
                let member = &mut self.hosts.get_mut(&n).unwrap().member;
                if member.deadline() <= now {
                    member.advance(now, rng);
                }
            }
            for _ in 0..1000 {
                let mut quiet = true;
                for n in self.hosts.keys().copied().collect::<Vec<_>>() {
                    let actions = self.hosts.get_mut(&n).unwrap().member.take_actions();
                    quiet &= actions.is_empty();
                    for action in actions {
                        self.act(n, action);
                    }
                }
                if quiet {
                    break;
                }
            }
            self.packets();
        }
    }

    fn packets(&mut self) {
        for (n, host) in &self.hosts {
            for (peer, slot) in &host.kernel.transmit {
                let to = u8::try_from(peer.get()).unwrap();
                let Some(receiver) = self.hosts.get(&to) else {
                    continue;
                };
                for lane in [0, 1].map(|lane| overlay_ebpf::abi::Lane::new(lane).unwrap()) {
                    let inbound = SlotKey {
                        direction: Direction::In,
                        ..*slot
                    };
                    let sent = host.kernel.sas.get(&(*peer, *slot, lane));
                    let read = receiver.kernel.sas.get(&(index(*n), inbound, lane));
                    if sent.is_none() || sent != read {
                        self.lost += 1;
                    }
                }
            }
        }
    }

    /// Pairs that send encrypted.
    fn open(&self) -> usize {
        let kernels = self.hosts.values().map(|host| &host.kernel);
        kernels.map(|kernel| kernel.transmit.len()).sum()
    }

    /// The epochs in which anything is sent.
    fn epochs(&self) -> BTreeSet<u32> {
        let plans = self.hosts.values().filter_map(|host| host.plan.as_ref());
        plans
            .flat_map(|plan| plan.peers.values())
            .filter_map(|peer| Some(peer.transmit?.epoch.get()))
            .collect()
    }

    fn stage(&mut self, reason: Reason) -> EpochName {
        let expected = self.cluster().epochs().current();
        let secrets = EpochSecrets::random(&mut self.rng);
        let name = secrets.name(expected.incarnation, expected.number + 1);
        self.apply(Command::StageEpoch {
            expected,
            next: NewEpoch { name, secrets },
            reason,
        });
        self.pull_all();
        name
    }
}

#[test]
fn nodes_of_an_encrypted_network_come_to_send_with_keys_that_the_other_has() {
    let mut world = World::new(4);
    world.run(Duration::from_secs(20));
    assert_eq!(world.open(), 4 * 3);
    assert_eq!(world.lost, 0);
    for host in world.hosts.values() {
        let plan = host.plan.as_ref().unwrap();
        assert_eq!(plan.remote_endpoints.len(), 3);
        let sas: usize = plan.peers.values().map(|peer| peer.sas.len()).sum();
        assert_eq!(sas, 3 * 2 * 2, "two directions of two lanes per peer");
    }
}

#[test]
fn a_rotation_loses_no_packet_and_ends_in_the_next_epoch() {
    let mut world = World::new(3);
    world.run(Duration::from_secs(20));
    let endpoints = |world: &World| {
        let plan = world.hosts[&1].plan.as_ref().unwrap();
        plan.remote_endpoints.clone()
    };
    let known = endpoints(&world);
    for round in 2..5 {
        let before = world.cluster().epochs().current();
        let next = world.stage(Reason::Operator);
        world.run(Duration::from_secs(5));
        assert_eq!(world.epochs(), BTreeSet::from([round - 1]));
        world.apply(Command::ActivateEpoch {
            expected: next,
            readiness: Readiness::All,
        });
        world.pull_all();
        world.run(Duration::from_secs(5));
        assert_eq!(world.epochs(), BTreeSet::from([round]));
        world.run(Duration::from_secs(60));
        world.apply(Command::RetireEpoch { expected: before });
        world.pull_all();
        world.run(Duration::from_secs(30));
        assert_eq!((world.open(), world.lost), (3 * 2, 0));
    }
    assert!(
        endpoints(&world).is(&known),
        "endpoints are not judged anew when an epoch moves"
    );
    for host in world.hosts.values() {
        assert_eq!(host.kernel.sas.len(), 2 * 2 * 2, "nothing is left behind");
    }
}

#[test]
fn an_agent_that_starts_anew_takes_over_and_then_replaces_every_sa_without_loss() {
    let mut world = World::new(3);
    world.run(Duration::from_secs(20));
    let before = world.hosts[&2].kernel.sas.clone();
    for generation in 2..5 {
        world.start(2, generation);
        world.run(Duration::from_millis(300));
        assert_eq!((world.open(), world.lost), (3 * 2, 0));
        world.run(Duration::from_secs(40));
        assert_eq!((world.open(), world.lost), (3 * 2, 0));
    }
    // What the last start replaced has gone, too.
    world.run(Duration::from_secs(120));
    let after = &world.hosts[&2].kernel.sas;
    assert_eq!(after.len(), before.len());
    let same = |(name, key)| before.get(name) == Some(key);
    assert!(!after.iter().any(same), "no key outlives its agent");
}

#[test]
fn an_agent_that_starts_anew_wants_at_once_what_the_one_before_left() {
    let mut world = World::new(3);
    world.run(Duration::from_secs(20));
    let before = world.hosts[&2].plan.clone().unwrap();
    world.start(2, 2);
    let member = &mut world.hosts.get_mut(&2).unwrap().member;
    let wanted = member
        .take_actions()
        .into_iter()
        .find_map(|action| match action {
            Action::Apply { data_plane, .. } => Some(*data_plane),
            _ => None,
        });
    let wanted = wanted.unwrap();
    assert_eq!(wanted.remote_endpoints, before.remote_endpoints);
    assert_eq!(wanted.local_endpoints, before.local_endpoints);
    let sas = |plan: &DataPlane| -> Vec<_> {
        let peers = plan.peers.values();
        peers
            .map(|peer| {
                let sas = peer.sas.iter().map(adopted);
                (peer.index, peer.transmit, sas.collect::<Vec<_>>())
            })
            .collect()
    };
    assert_eq!(sas(&wanted).len(), 2);
    for ((peer, transmit, sas), (_, sent, held)) in sas(&wanted).into_iter().zip(sas(&before)) {
        assert_eq!(transmit, sent, "{peer}");
        assert!(sas.len() == held.len() && held.iter().all(|sa| sas.contains(sa)));
    }
    // What gossip knows better counts: an endpoint that goes does not come back.
    let (now, rng) = (world.now, &mut world.rng);
    let member = &mut world.hosts.get_mut(&3).unwrap().member;
    member.detach("blue", "web-3", now, rng).unwrap();
    world.start(2, 3);
    world.run(REMEMBER + Duration::from_secs(5));
    let plan = world.hosts[&2].plan.as_ref().unwrap();
    assert_eq!(plan.remote_endpoints.len(), 1);
}

#[test]
fn an_endpoint_that_goes_takes_the_sas_of_its_pairs_along() {
    let mut world = World::new(3);
    world.run(Duration::from_secs(20));
    let (now, rng) = (world.now, &mut world.rng);
    let member = &mut world.hosts.get_mut(&3).unwrap().member;
    member.detach("blue", "web-3", now, rng).unwrap();
    world.run(Duration::from_secs(30));
    assert_eq!(world.open(), 2, "nodes 1 and 2");
    assert!(world.hosts[&3].kernel.sas.is_empty());
    assert_eq!(world.hosts[&1].kernel.sas.len(), 2 * 2);
}

#[test]
fn an_evicted_node_is_closed_out_at_once_and_the_others_go_on() {
    let mut world = World::new(3);
    world.run(Duration::from_secs(20));
    let evict = Command::Evict {
        node: node(3),
        tokens: tokens(7),
    };
    world.apply(evict);
    world.pull_all();
    world.hosts.remove(&3);
    world.run(Duration::from_millis(200));
    assert_eq!((world.open(), world.lost), (2, 0));
    for n in [1, 2] {
        let kernel = &world.hosts[&n].kernel;
        assert!(kernel.sas.keys().all(|(peer, _, _)| *peer != index(3)));
    }
    world.stage(Reason::Eviction);
    world.run(Duration::from_secs(5));
    assert_eq!(world.lost, 0);
}
