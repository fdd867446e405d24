//! The nodes, the network between them, and time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ed25519_dalek::{SigningKey, VerifyingKey};
use overlay_ebpf::abi::{MacAddr, Vni};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    Link,
    check::{Memory, Truth},
};
use crate::{
    gossip::{
        engine::{Action, Gossip, Settings, Sync},
        envelope::BootNonce,
        record::{Body, Endpoint, Key, Node},
    },
    id::{ClusterId, EpochName, Generation, NodeId},
    secret::Secret,
    time::Instant,
};

pub(super) type Members = Arc<BTreeMap<NodeId, VerifyingKey>>;

/// IPv4 and UDP before each datagram.
const UDP: u64 = 28;
/// What each side sends to open a mutual-TLS connection: certificate, signature, TCP's own packets.
const HANDSHAKE: u64 = 2500;
/// Exchanges that a node answers at once.
const ANSWERING: u32 = 64;
/// How long an exchange waits for a peer that does not answer.
const UNREACHABLE: Duration = Duration::from_secs(3);
/// Datagrams kept for replay.
const RECORDED: usize = 10_000;

/// Bytes sent, headers below included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub datagrams: u64,
    pub datagram_bytes: u64,
    pub sync_bytes: u64,
}

pub(super) struct Slot {
    pub id: NodeId,
    pub key: SigningKey,
    pub address: SocketAddr,
    pub generation: u64,
    /// Nothing while it is down.
    pub gossip: Option<Gossip<Members>>,
    pub traffic: Traffic,
    /// Partition it is in.
    pub side: u8,
    pub endpoints: BTreeMap<Key, Body>,
    memory: Memory,
    answering: u32,
    wake: Option<Instant>,
}

enum Event {
    Wake(usize),
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    Question {
        exchange: Box<Exchange>,
        bytes: Vec<u8>,
    },
    Answer {
        exchange: Box<Exchange>,
        /// Nothing: the peer was not reached, or refused.
        bytes: Option<Vec<u8>>,
    },
}

struct Exchange {
    asking: usize,
    /// Of the asking node when it began: a restart ends it.
    generation: u64,
    answering: usize,
    admitted: bool,
    sync: Sync,
}

struct Queued {
    at: Instant,
    sequence: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// A change being followed: who has it.
#[derive(Debug)]
struct Watched {
    owner: NodeId,
    key: Key,
    /// Nothing: it is deleted.
    body: Option<Body>,
    since: Instant,
    missing: BTreeSet<usize>,
    reached: Option<Instant>,
}

/// Everything.
pub struct World {
    pub(super) now: Instant,
    pub(super) nodes: Vec<Slot>,
    pub(super) roster: Members,
    pub(super) rng: StdRng,
    pub(super) link: Link,
    pub(super) truth: Truth,
    pub(super) secret: Secret,
    /// Nodes whose view of a node changed to down, with the time.
    pub(super) downs: Vec<(Instant, usize, NodeId)>,
    cluster: ClusterId,
    queue: BinaryHeap<Reverse<Queued>>,
    sequence: u64,
    recorded: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    watched: Vec<Watched>,
    written: u32,
}

pub(super) const EPOCH: EpochName = EpochName {
    incarnation: 0,
    number: 1,
    hash: [1; 8],
};

fn address(index: usize) -> SocketAddr {
    let [_, a, b, c] = (index as u32 + 1).to_be_bytes();
    SocketAddr::from(([10, a, b, c], 7946))
}

fn index(address: SocketAddr) -> Option<usize> {
    match address.ip() {
        IpAddr::V4(v4) => {
            let [_, a, b, c] = v4.octets();
            (u32::from_be_bytes([0, a, b, c]) as usize).checked_sub(1)
        }
        IpAddr::V6(_) => None,
    }
}

impl World {
    /// So many nodes, all of them down, all in the roster.
    pub fn new(nodes: usize, seed: u64, link: Link) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes: Vec<_> = (0..nodes)
            .map(|index| {
                let key = SigningKey::from_bytes(&rng.random());
                Slot {
                    id: NodeId::of(&key.verifying_key()),
                    key,
                    address: address(index),
                    generation: 0,
                    gossip: None,
                    traffic: Traffic::default(),
                    side: 0,
                    endpoints: BTreeMap::new(),
                    memory: Memory::default(),
                    answering: 0,
                    wake: None,
                }
            })
            .collect();
        let members = |slot: &Slot| (slot.id, slot.key.verifying_key());
        Self {
            now: Instant::default(),
            roster: Arc::new(nodes.iter().map(members).collect()),
            nodes,
            link,
            truth: Truth::default(),
            secret: Secret::new(rng.random()),
            downs: Vec::new(),
            cluster: ClusterId::from_bytes(rng.random()),
            queue: BinaryHeap::new(),
            sequence: 0,
            recorded: VecDeque::new(),
            watched: Vec::new(),
            written: 0,
            rng,
        }
    }

    pub const fn now(&self) -> Instant {
        self.now
    }

    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Starts a node, or starts it again: with a new boot nonce and an empty store, and with the
    /// endpoints that its host still has.
    pub fn start(&mut self, node: usize) {
        let managers = self.nodes.iter().take(3).map(|slot| slot.id).collect();
        let slot = &mut self.nodes[node];
        slot.generation += 1;
        slot.memory = Memory::default();
        slot.wake = None;
        let settings = Settings {
            cluster: self.cluster,
            key: slot.key.clone(),
            generation: Generation(slot.generation),
            boot: BootNonce::from_bytes(self.rng.random()),
            seed: self.rng.random(),
            managers,
        };
        let mut gossip = Gossip::new(self.now, settings, Arc::clone(&self.roster));
        gossip.activate_epoch(EPOCH, &self.secret);
        slot.gossip = Some(gossip);
        let bodies: Vec<_> = slot.endpoints.values().cloned().collect();
        let vtep = slot.address;
        self.publish(
            node,
            Body::Node(Node {
                vteps: vec![vtep.ip()],
                control: vtep,
                software: "0.1.0".to_owned(),
                boot: BootNonce::from_bytes([0; 16]),
            }),
        );
        for body in bodies {
            self.publish(node, body);
        }
        let now = self.now;
        self.with(node, |gossip| {
            gossip.complete(now);
            Vec::new()
        });
    }

    /// Stops a node without a word.
    pub fn crash(&mut self, node: usize) {
        self.nodes[node].gossip = None;
        for watched in &mut self.watched {
            watched.missing.remove(&node);
        }
    }

    /// Publishes in the name of a node.
    pub fn publish(&mut self, node: usize, body: Body) {
        let now = self.now;
        let id = self.nodes[node].id;
        let key = body.key();
        // The observer hears of it first, with the boot nonce that the node fills in.
        let mut actions = Vec::new();
        if let Some(gossip) = &mut self.nodes[node].gossip {
            actions = gossip.publish(now, body).expect("an honest record");
            let body = gossip.store().get(id, &key).expect("published");
            self.truth.publish(id, &body);
            if matches!(body, Body::Endpoint(_)) {
                self.nodes[node].endpoints.insert(key, body);
            }
        }
        self.act(node, actions);
    }

    /// A new endpoint of a node, unlike all before.
    pub fn attach(&mut self, node: usize) -> Key {
        self.written += 1;
        let n = self.written.to_be_bytes();
        let body = Body::Endpoint(Endpoint {
            vni: Vni::new(4096).expect("a VNI"),
            mac: MacAddr([2, 0x42, n[0], n[1], n[2], n[3]]),
            ips: [[10, n[1], n[2], n[3]].into()].into(),
            name: format!("web-{}", self.written).into(),
        });
        let key = body.key();
        self.publish(node, body);
        key
    }

    pub fn detach(&mut self, node: usize, key: Key) {
        let now = self.now;
        let id = self.nodes[node].id;
        self.nodes[node].endpoints.remove(&key);
        self.truth.withdraw(id, key);
        self.with(node, |gossip| {
            gossip.withdraw(now, key).expect("an honest deletion")
        });
    }

    /// Takes a node out of the roster, on all nodes at once.
    pub fn remove(&mut self, node: usize) {
        self.crash(node);
        let id = self.nodes[node].id;
        self.truth.forget(id);
        let mut roster = (*self.roster).clone();
        roster.remove(&id);
        self.roster = Arc::new(roster);
        for other in 0..self.nodes.len() {
            let (now, roster) = (self.now, Arc::clone(&self.roster));
            self.with(other, |gossip| gossip.set_roster(now, roster));
        }
    }

    /// Nodes that run.
    pub fn running(&self) -> impl Iterator<Item = usize> {
        let runs = |(index, slot): (usize, &Slot)| slot.gossip.is_some().then_some(index);
        self.nodes.iter().enumerate().filter_map(runs)
    }

    /// A node that runs, by chance.
    pub fn any(&mut self) -> usize {
        let running: Vec<_> = self.running().collect();
        running[self.rng.random_range(0..running.len())]
    }

    /// Follows a key until all running nodes have what its owner has of it now.
    pub fn watch(&mut self, node: usize, key: Key) -> usize {
        let owner = self.nodes[node].id;
        let body = self.nodes[node]
            .gossip
            .as_ref()
            .and_then(|gossip| gossip.store().get(owner, &key));
        let has = |slot: &Slot| match &slot.gossip {
            Some(gossip) => gossip.store().get(owner, &key) == body,
            None => true,
        };
        let missing: BTreeSet<_> = (0..self.nodes.len())
            .filter(|index| !has(&self.nodes[*index]))
            .collect();
        self.watched.push(Watched {
            owner,
            key,
            since: self.now,
            reached: missing.is_empty().then_some(self.now),
            missing,
            body,
        });
        self.watched.len() - 1
    }

    /// How long a watched change took to reach all, if it has.
    pub fn reached(&self, watched: usize) -> Option<Duration> {
        let watched = &self.watched[watched];
        Some(watched.reached?.since(watched.since))
    }

    /// Runs until a condition holds, asked every `step`, or for so long. Says whether it held.
    pub fn run_until(
        &mut self,
        limit: Duration,
        step: Duration,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> bool {
        let end = self.now + limit;
        while !holds(self) {
            if self.now >= end {
                return false;
            }
            self.run(step);
        }
        true
    }

    /// Runs for so long.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(Reverse(queued)) = self.queue.peek()
            && queued.at <= end
        {
            let Some(Reverse(queued)) = self.queue.pop() else {
                break;
            };
            self.now = queued.at;
            self.handle(queued.event);
        }
        self.now = end;
    }

    /// Whether all that run hold exactly what is alive.
    pub fn has_converged(&self) -> bool {
        self.nodes
            .iter()
            .filter_map(|slot| slot.gossip.as_ref())
            .all(|gossip| self.truth.is_held_by(gossip.store()))
    }

    /// Whether all that run believe up exactly the others that run.
    pub fn agrees_on_members(&self) -> bool {
        let running = self.running().count();
        self.running().all(|node| {
            let up = self.nodes[node]
                .gossip
                .as_ref()
                .map(|gossip| gossip.membership().up());
            up.is_some_and(|up| {
                up.len() + 1 == running
                    && self
                        .running()
                        .all(|other| other == node || up.contains(&self.nodes[other].id))
            })
        })
    }

    pub fn traffic(&self) -> Traffic {
        let mut sum = Traffic::default();
        for slot in &self.nodes {
            sum.datagrams += slot.traffic.datagrams;
            sum.datagram_bytes += slot.traffic.datagram_bytes;
            sum.sync_bytes += slot.traffic.sync_bytes;
        }
        sum
    }

    pub(super) fn with(
        &mut self,
        node: usize,
        call: impl FnOnce(&mut Gossip<Members>) -> Vec<Action>,
    ) {
        if let Some(gossip) = &mut self.nodes[node].gossip {
            let actions = call(gossip);
            self.act(node, actions);
        }
    }

    fn push(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse(Queued {
            at,
            sequence: self.sequence,
            event,
        }));
    }

    /// Puts a datagram on the wire, whoever made it.
    pub(super) fn transmit(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        if self.link.replayed > 0.0 {
            if self.recorded.len() == RECORDED {
                self.recorded.pop_front();
            }
            self.recorded.push_back((from, to, bytes.clone()));
            if self.rng.random_bool(self.link.replayed) {
                let old = self.rng.random_range(0..self.recorded.len());
                let (from, to, bytes) = self.recorded[old].clone();
                self.deliver(from, to, bytes);
            }
        }
        if self.rng.random_bool(self.link.loss) {
            return;
        }
        if self.rng.random_bool(self.link.duplicated) {
            self.deliver(from, to, bytes.clone());
        }
        self.deliver(from, to, bytes);
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let at = self.now + self.link.delay(&mut self.rng);
        self.push(at, Event::Datagram { from, to, bytes });
    }

    fn are_parted(&self, one: usize, other: usize) -> bool {
        self.nodes[one].side != self.nodes[other].side
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Wake(node) => {
                let slot = &mut self.nodes[node];
                if slot.wake == Some(now) {
                    slot.wake = None;
                    self.with(node, |gossip| gossip.handle_timeout(now));
                }
            }
            Event::Datagram { from, to, bytes } => {
                let (Some(source), Some(node)) = (index(from), index(to)) else {
                    return;
                };
                let parted = source < self.nodes.len() && self.are_parted(source, node);
                if !parted {
                    self.with(node, |gossip| gossip.handle_datagram(now, from, &bytes));
                }
            }
            Event::Question { exchange, bytes } => self.answer(exchange, &bytes),
            Event::Answer { exchange, bytes } => self.proceed(*exchange, bytes),
        }
    }

    fn act(&mut self, node: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { to, bytes } => {
                    let slot = &mut self.nodes[node];
                    slot.traffic.datagrams += 1;
                    slot.traffic.datagram_bytes += bytes.len() as u64 + UDP;
                    assert!(bytes.len() <= 1400, "a datagram of {} bytes", bytes.len());
                    let from = slot.address;
                    self.transmit(from, to, bytes);
                }
                Action::RecordChanged { owner, key } => self.changed(node, owner, key),
                Action::MemberHint { node: other, up } => {
                    if !up {
                        self.downs.push((self.now, node, other));
                    }
                }
                Action::RequestSync { peer } => self.begin(node, peer),
                Action::EpochHint { .. } => {}
                Action::GenerationRaised { generation } => {
                    self.nodes[node].generation = generation.0;
                }
            }
        }
        self.schedule(node);
    }

    fn schedule(&mut self, node: usize) {
        let Some(gossip) = &self.nodes[node].gossip else {
            return;
        };
        self.check_memory(gossip);
        let next = gossip.next_timeout().max(self.now);
        let slot = &mut self.nodes[node];
        if slot.wake.is_none_or(|wake| next < wake) {
            slot.wake = Some(next);
            self.push(next, Event::Wake(node));
        }
    }

    fn check_memory(&self, gossip: &Gossip<Members>) {
        // Live records, as many tombstones, a floor each; and what the others cause in foca.
        let bound = 3 * self.truth.alive() + 12 * self.nodes.len() + 64 * self.nodes.len() + 1024;
        let held = gossip.held();
        assert!(
            held <= bound,
            "{} holds {held}, more than {bound}",
            gossip.id()
        );
    }

    fn changed(&mut self, node: usize, owner: NodeId, key: Key) {
        let Slot {
            gossip: Some(gossip),
            memory,
            id,
            ..
        } = &mut self.nodes[node]
        else {
            return;
        };
        let store = gossip.store();
        if *id != owner {
            self.truth
                .check(self.now, memory, (owner, key), store, &*self.roster);
        }
        for watched in &mut self.watched {
            if watched.reached.is_none()
                && (watched.owner, watched.key) == (owner, key)
                && store.get(owner, &key) == watched.body
            {
                watched.missing.remove(&node);
                if watched.missing.is_empty() {
                    watched.reached = Some(self.now);
                }
            }
        }
    }

    fn begin(&mut self, asking: usize, peer: NodeId) {
        let Some(answering) = self.nodes.iter().position(|slot| slot.id == peer) else {
            return;
        };
        let Some(gossip) = &mut self.nodes[asking].gossip else {
            return;
        };
        let (sync, bytes) = gossip.start_sync(peer);
        // Two round trips open TCP and TLS.
        let opened = self.now + 4 * self.link.delay(&mut self.rng);
        self.nodes[asking].traffic.sync_bytes += HANDSHAKE;
        let exchange = Box::new(Exchange {
            asking,
            generation: self.nodes[asking].generation,
            answering,
            admitted: false,
            sync,
        });
        self.nodes[asking].traffic.sync_bytes += bytes.len() as u64;
        let at = opened + self.link.carry(bytes.len(), &mut self.rng);
        self.push(at, Event::Question { exchange, bytes });
    }

    fn answer(&mut self, mut exchange: Box<Exchange>, bytes: &[u8]) {
        let Exchange {
            asking, answering, ..
        } = *exchange;
        let reachable = !self.are_parted(asking, answering);
        let id = self.nodes[asking].id;
        let slot = &mut self.nodes[answering];
        let busy = !exchange.admitted && slot.answering >= ANSWERING;
        let Some(gossip) = slot.gossip.as_mut().filter(|_| reachable && !busy) else {
            let after = match busy && reachable {
                true => self.link.delay(&mut self.rng),
                false => UNREACHABLE,
            };
            self.push(
                self.now + after,
                Event::Answer {
                    exchange,
                    bytes: None,
                },
            );
            return;
        };
        if !exchange.admitted {
            exchange.admitted = true;
            slot.answering += 1;
            slot.traffic.sync_bytes += HANDSHAKE;
        }
        let (reply, actions) = match gossip.answer_sync(self.now, id, bytes) {
            Ok((reply, actions)) => (Some(reply), actions),
            Err(_) => (None, Vec::new()),
        };
        let length = reply.as_ref().map_or(0, Vec::len);
        slot.traffic.sync_bytes += length as u64;
        self.act(answering, actions);
        let at = self.now + self.link.carry(length, &mut self.rng);
        self.push(
            at,
            Event::Answer {
                exchange,
                bytes: reply,
            },
        );
    }

    fn proceed(&mut self, mut exchange: Exchange, bytes: Option<Vec<u8>>) {
        let Exchange {
            asking, answering, ..
        } = exchange;
        let now = self.now;
        let slot = &mut self.nodes[asking];
        let same = slot.generation == exchange.generation;
        let mut next = None;
        let mut failed = true;
        if let (true, Some(gossip), Some(bytes)) = (same, &mut slot.gossip, bytes)
            && let Ok((question, actions)) = gossip.continue_sync(now, &mut exchange.sync, &bytes)
        {
            failed = false;
            next = question;
            self.act(asking, actions);
        }
        if let Some(bytes) = next {
            self.nodes[asking].traffic.sync_bytes += bytes.len() as u64;
            let at = now + self.link.carry(bytes.len(), &mut self.rng);
            let exchange = Box::new(exchange);
            self.push(at, Event::Question { exchange, bytes });
            return;
        }
        if exchange.admitted {
            self.nodes[answering].answering -= 1;
        }
        if same {
            let peer = exchange.sync.peer();
            let sync = (!failed).then_some(exchange.sync);
            self.with(asking, |gossip| gossip.end_sync(now, peer, sync));
        }
    }
}
