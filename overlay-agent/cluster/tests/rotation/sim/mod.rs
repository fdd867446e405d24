//! A cluster in virtual time: the machines of its nodes, model kernels, a network that loses, delays,
//! doubles and reorders, and a stub of the managers. One seed, one course of events.
//!
//! Checked at every step, for continuous traffic between all pairs:
//! - no key is handed out outbound twice, by any agent of any node;
//! - a slot that is sent in can be received at that instant, and is not removed at the receiver before
//!   the last packet sent in it has arrived (else the packet is counted as lost);
//! - SAs are bounded; no SPI gets a new key while its old SA stands.

mod kernel;
mod managers;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet},
    time::Duration,
};

use overlay_cluster::{
    id::{ClusterId, EpochName, Generation, NodeId},
    keys::{EphemeralRecord, EpochSecrets},
    rotation::{
        Acknowledgement, Action, Alarm, Digest, Direction, Identity, KernelEvent, Keying, LogView,
        PeerSas, Rotation, Settings, SlotKey, schedule::Timing,
    },
    time::{Instant, Timestamp},
};
use overlay_ebpf::abi::PeerIndex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use kernel::{Change, key_name};
pub use kernel::{Kernel, KeyName};
pub use managers::Managers;

/// How the world behaves.
#[derive(Debug, Clone)]
pub struct Weather {
    /// Share of messages lost, 0 to 1.
    pub loss: f64,
    /// Share of messages that come twice.
    pub duplicates: f64,
    /// Delay of a message to a peer or a manager, from and to.
    pub delay: (Duration, Duration),
    /// Delay of a gossip record on its way to all.
    pub gossip: (Duration, Duration),
    /// Every node compares its records with another's so often.
    pub anti_entropy: Duration,
    /// Delay of a data packet at the most, and of one between its mark and its encryption.
    pub packet: Duration,
    pub stack: Duration,
    /// Time that the executor needs for an SA.
    pub per_sa: Duration,
    /// Share of new slots that the kernel refuses.
    pub refusals: f64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            loss: 0.0,
            duplicates: 0.0,
            delay: (ms(1), ms(50)),
            gossip: (ms(20), ms(1500)),
            anti_entropy: ms(5000),
            packet: ms(200),
            stack: ms(100),
            per_sa: Duration::from_micros(50),
            refusals: 0.0,
        }
    }
}

impl Weather {
    pub fn bad() -> Self {
        Self {
            loss: 0.2,
            duplicates: 0.1,
            delay: (ms(1), ms(2000)),
            per_sa: ms(20),
            ..Self::default()
        }
    }
}

pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[derive(Debug)]
pub struct Node {
    pub index: PeerIndex,
    pub id: NodeId,
    /// The agent, unless it is dead.
    pub rotation: Option<Rotation>,
    pub generation: u64,
    pub kernel: Kernel,
    /// Nodes hear only others of their side; the managers are on side 0.
    pub side: u8,
    /// Since when the agent is up and on side 0.
    pub well_since: Instant,
    /// It hears of the log so much later.
    pub log_delay: Duration,
    /// It does not follow the log: a node that was removed and wants to stay.
    pub deaf: bool,
    known: HashSet<usize>,
    /// When the next call of `advance` is queued for.
    wake: Option<Instant>,
    pulls: BTreeSet<EpochName>,
    pub actions: usize,
    /// The agent dies after so many actions.
    pub dies_after: Option<usize>,
    pub sent: Traffic,
}

/// Bytes and messages that a node has sent.
#[derive(Debug, Default, Clone, Copy)]
pub struct Traffic {
    pub acknowledgements: u64,
    pub acknowledgement_bytes: u64,
    pub record_bytes: u64,
    pub digests: u64,
    pub digest_bytes: u64,
}

#[derive(Debug)]
enum Event {
    Message {
        to: usize,
        from: usize,
        bytes: Vec<u8>,
    },
    Record {
        to: usize,
        record: usize,
    },
    View {
        to: usize,
        /// `None` for the log as it is when the view arrives.
        view: Option<Box<LogView>>,
    },
    Secrets {
        to: usize,
        name: EpochName,
        secrets: Box<EpochSecrets>,
    },
    Digest {
        from: usize,
        bytes: Vec<u8>,
    },
    Apply {
        node: usize,
        generation: u64,
        peer: PeerIndex,
        sas: PeerSas,
    },
    Wake {
        node: usize,
    },
    /// Pulls, views and failure detection: what goes over reliable connections.
    Tick,
    AntiEntropy {
        node: usize,
    },
}

/// Orders the queue by time, then by age.
struct Queued(Instant, u64, Event);

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
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
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// A packet that did not arrive although both agents were well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub at: Instant,
    pub from: PeerIndex,
    pub to: PeerIndex,
    pub why: &'static str,
}

pub struct World {
    pub now: Instant,
    pub rng: StdRng,
    pub weather: Weather,
    pub settings: Settings,
    pub nodes: Vec<Node>,
    pub managers: Managers,
    queue: BinaryHeap<Reverse<Queued>>,
    queued: u64,
    records: Vec<(usize, EphemeralRecord)>,
    handed_out: HashSet<KeyName>,
    pub lost: Vec<Lost>,
    /// Losses while an agent was dead, cut off, or had just come back.
    pub excused: usize,
    pub alarms: Vec<(PeerIndex, Alarm)>,
    /// Per side change or death: an agent counts as well so long after.
    pub convalescence: Duration,
}

const START: Timestamp = Timestamp::from_secs(1_800_000_000);
const TICK: Duration = ms(200);
/// Membership finds a node dead so long after.
const DETECTION: Duration = ms(3000);

impl World {
    pub fn new(
        seed: u64,
        nodes: u32,
        weather: Weather,
        settings: Settings,
        timing: Timing,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let managers = Managers::new(timing, START, &mut rng);
        let mut world = Self {
            now: Instant::default(),
            rng,
            weather,
            settings,
            nodes: Vec::new(),
            managers,
            queue: BinaryHeap::new(),
            queued: 0,
            records: Vec::new(),
            handed_out: HashSet::new(),
            lost: Vec::new(),
            excused: 0,
            alarms: Vec::new(),
            convalescence: ms(10_000),
        };
        for index in 1..=nodes {
            world.add(index);
        }
        for node in 0..world.nodes.len() {
            world.start(node);
        }
        world.push(TICK, Event::Tick);
        world
    }

    fn add(&mut self, index: u32) {
        let index = PeerIndex::new(index).expect("an index");
        let mut id = [0; 16];
        id[..4].copy_from_slice(&index.get().to_be_bytes());
        let id = NodeId::from_bytes(id);
        self.managers.roster.insert(index, id);
        self.nodes.push(Node {
            index,
            id,
            rotation: None,
            generation: 0,
            kernel: Kernel::default(),
            side: 0,
            well_since: self.now,
            log_delay: Duration::ZERO,
            deaf: false,
            known: HashSet::new(),
            wake: None,
            pulls: BTreeSet::new(),
            actions: 0,
            dies_after: None,
            sent: Traffic::default(),
        });
        let node = self.nodes.len() - 1;
        let phase = self.between((Duration::ZERO, self.weather.anti_entropy));
        self.push(phase, Event::AntiEntropy { node });
    }

    pub fn index(&self, node: usize) -> PeerIndex {
        self.nodes[node].index
    }

    pub fn clock(&self) -> Timestamp {
        START.saturating_add(self.now.since_start())
    }

    fn push(&mut self, after: Duration, event: Event) {
        self.queued += 1;
        let queued = Queued(self.now + after, self.queued, event);
        self.queue.push(Reverse(queued));
    }

    fn between(&mut self, (from, to): (Duration, Duration)) -> Duration {
        let range = to.saturating_sub(from).as_micros() as u64;
        from + Duration::from_micros(self.rng.random_range(0..=range))
    }

    fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.rng.random_bool(share)
    }

    /// The agent starts, and finds what its kernel holds.
    pub fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.generation += 1;
        let identity = Identity {
            cluster: ClusterId::from_bytes([1; 16]),
            node: node.id,
            index: node.index,
            generation: Generation(node.generation),
        };
        let mut rotation = Rotation::new(self.settings, identity, self.now);
        for (peer, sas, transmit) in node.kernel.adopted() {
            rotation.adopt(peer, &sas, transmit);
            // An executor takes over what an earlier one left half done.
            if let Some(state) = node.kernel.peers.get_mut(&peer) {
                state.attempted = state.slots.keys().copied().collect();
            }
        }
        node.kernel.busy = self.now;
        node.rotation = Some(rotation);
        node.well_since = self.now;
        node.known.clear();
        node.pulls.clear();
        node.wake = None;
        node.dies_after = None;
        let delay = self.between(self.weather.delay);
        self.push(delay, Event::View { to: at, view: None });
        self.drain(at);
    }

    /// The agent dies; the kernel goes on.
    pub fn kill(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.rotation = None;
        node.well_since = self.now;
        node.dies_after = None;
    }

    /// The machine reboots: the kernel forgets, and the agent is down until it is started.
    pub fn reboot(&mut self, at: usize) {
        self.kill(at);
        self.nodes[at].kernel = Kernel::default();
    }

    pub fn set_side(&mut self, at: usize, side: u8) {
        self.nodes[at].side = side;
        self.nodes[at].well_since = self.now;
    }

    /// A slot vanishes from a kernel, and the executor notices.
    pub fn lose_sa(&mut self, at: usize, peer: PeerIndex, key: SlotKey) {
        let now = self.now;
        // Traffic in it is lost until it is replaced.
        self.nodes[at].well_since = now;
        self.nodes[at].kernel.lose(peer, key, now);
        if let Some(rotation) = &mut self.nodes[at].rotation {
            rotation.kernel(peer, key, KernelEvent::Lost, now);
        }
        self.drain(at);
    }

    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.run_until(end, |_| false);
    }

    /// Runs until `done`, at the longest until `end`; whether it was done.
    pub fn run_until(&mut self, end: Instant, mut done: impl FnMut(&Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            match self.queue.peek() {
                Some(Reverse(Queued(at, ..))) if *at <= end => {}
                _ => {
                    self.now = end;
                    return done(self);
                }
            }
            let Some(Reverse(Queued(at, _, event))) = self.queue.pop() else {
                return false;
            };
            self.now = at;
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Message { to, from, bytes } => {
                if self.nodes[to].side != self.nodes[from].side {
                    return;
                }
                let signer = self.nodes[from].id;
                let message = Acknowledgement::from_bytes(&bytes).expect("as it was sent");
                if let Some(rotation) = &mut self.nodes[to].rotation {
                    // A node that one side has not heard of, or not any more, is refused.
                    let _ = rotation.acknowledgement(signer, &message, now);
                    self.drain(to);
                }
            }
            Event::Record { to, record } => self.deliver_record(to, record),
            Event::View { to, view } => {
                if self.nodes[to].side != 0 || self.nodes[to].deaf {
                    return;
                }
                let index = self.nodes[to].index;
                let view = view.map_or_else(|| self.managers.view(index), |view| *view);
                self.see(to, &view);
            }
            Event::Secrets { to, name, secrets } => {
                if let Some(rotation) = &mut self.nodes[to].rotation {
                    rotation
                        .secrets(name, *secrets, now, &mut self.rng)
                        .expect("the managers give the secrets that they name");
                    self.nodes[to].pulls.remove(&name);
                    self.drain(to);
                }
            }
            Event::Digest { from, bytes } => {
                let digest = Digest::from_bytes(&bytes).expect("as it was sent");
                self.managers.digest(self.nodes[from].index, digest);
            }
            Event::Apply {
                node,
                generation,
                peer,
                sas,
            } => {
                // What a dead agent had in hand is not done.
                if self.nodes[node].generation == generation && self.nodes[node].rotation.is_some()
                {
                    self.apply(node, peer, sas);
                }
            }
            Event::Wake { node } => {
                if self.nodes[node].wake == Some(now) {
                    self.nodes[node].wake = None;
                }
                if let Some(rotation) = &mut self.nodes[node].rotation {
                    rotation.advance(now);
                    self.drain(node);
                }
            }
            Event::Tick => self.tick(),
            Event::AntiEntropy { node } => {
                self.push(self.weather.anti_entropy, Event::AntiEntropy { node });
                let side = self.nodes[node].side;
                for record in 0..self.records.len() {
                    let of = self.records[record].0;
                    if !self.nodes[node].known.contains(&record) && self.nodes[of].side == side {
                        self.deliver_record(node, record);
                    }
                }
            }
        }
    }

    fn see(&mut self, to: usize, view: &LogView) {
        let now = self.now;
        if let Some(rotation) = &mut self.nodes[to].rotation {
            rotation.log(view, now, &mut self.rng);
            // Records of nodes that the log has named only now are refused before: gossip keeps them.
            self.drain(to);
        }
    }

    fn deliver_record(&mut self, to: usize, record: usize) {
        let (from, body) = self.records[record];
        let signer = self.nodes[from].id;
        if self.nodes[to].side != self.nodes[from].side {
            return;
        }
        let now = self.now;
        let node = &mut self.nodes[to];
        if let Some(rotation) = &mut node.rotation
            && rotation.record(signer, &body, now).is_ok()
        {
            node.known.insert(record);
            self.drain(to);
        }
    }

    fn tick(&mut self) {
        self.push(TICK, Event::Tick);
        for at in 0..self.nodes.len() {
            let node = &self.nodes[at];
            let (index, up) = (node.index, node.rotation.is_some() && node.side == 0);
            if !self.managers.roster.contains_key(&index) {
                continue;
            }
            if up {
                self.managers.live.insert(index);
            } else if self.now.since(node.well_since) >= DETECTION {
                self.managers.live.remove(&index);
            }
            if up {
                let wanted: Vec<_> = self.nodes[at].pulls.iter().copied().collect();
                for name in wanted {
                    self.pull(at, name);
                }
            }
        }
        self.step_managers();
    }

    fn step_managers(&mut self) {
        let clock = self.clock();
        if self.managers.step(clock, &mut self.rng) {
            self.announce();
        }
    }

    /// The log has changed: all members within reach hear of it soon.
    pub fn announce(&mut self) {
        for to in 0..self.nodes.len() {
            let delay = self.between(self.weather.delay) + self.nodes[to].log_delay;
            let late = !self.nodes[to].log_delay.is_zero();
            let view = late.then(|| Box::new(self.managers.view(self.nodes[to].index)));
            // Connections to managers are reliable: a view that a cut swallowed comes later.
            let again = view.clone();
            self.push(delay, Event::View { to, view });
            self.push(delay + ms(1000), Event::View { to, view: again });
        }
    }

    fn pull(&mut self, at: usize, name: EpochName) {
        let node = &self.nodes[at];
        if node.side != 0 {
            return;
        }
        if let Some(secrets) = self.managers.secrets(node.index, name) {
            let delay = self.between(self.weather.delay);
            let secrets = Box::new(secrets);
            self.push(
                delay,
                Event::Secrets {
                    to: at,
                    name,
                    secrets,
                },
            );
        }
    }

    /// Does what a machine asks for.
    fn drain(&mut self, at: usize) {
        while let Some(action) = self.nodes[at]
            .rotation
            .as_mut()
            .and_then(Rotation::next_action)
        {
            self.nodes[at].actions += 1;
            self.act(at, action);
            if self.is_to_die(at) {
                self.kill(at);
                return;
            }
        }
        let node = &mut self.nodes[at];
        if let Some(deadline) = node.rotation.as_ref().and_then(Rotation::deadline) {
            let deadline = deadline.max(self.now);
            if node.wake.is_none_or(|wake| deadline < wake) {
                node.wake = Some(deadline);
                let after = deadline.since(self.now);
                self.push(after, Event::Wake { node: at });
            }
        }
    }

    fn act(&mut self, at: usize, action: Action) {
        match action {
            Action::Alarm(alarm) => self.alarms.push((self.nodes[at].index, alarm)),
            Action::Pull(name) => {
                self.nodes[at].pulls.insert(name);
                self.pull(at, name);
            }
            Action::Publish(record) => {
                self.nodes[at].sent.record_bytes += record.to_bytes().len() as u64;
                self.records.push((at, record));
                let record = self.records.len() - 1;
                self.nodes[at].known.insert(record);
                for to in (0..self.nodes.len()).filter(|to| *to != at) {
                    if !self.chance(self.weather.loss) {
                        let delay = self.between(self.weather.gossip);
                        self.push(delay, Event::Record { to, record });
                    }
                }
            }
            Action::Apply { peer, sas } => self.hand_out(at, peer, sas),
            Action::Send { peer, message } => {
                let to = peer.get() as usize - 1;
                let bytes = message.to_bytes();
                let sent = &mut self.nodes[at].sent;
                sent.acknowledgements += 1;
                sent.acknowledgement_bytes += bytes.len() as u64;
                let copies = 1 + usize::from(self.chance(self.weather.duplicates));
                for _ in 0..copies {
                    if !self.chance(self.weather.loss) {
                        let delay = self.between(self.weather.delay);
                        let bytes = bytes.clone();
                        self.push(
                            delay,
                            Event::Message {
                                to,
                                from: at,
                                bytes,
                            },
                        );
                    }
                }
            }
            Action::Digest(digest) => {
                let bytes = digest.to_bytes();
                let sent = &mut self.nodes[at].sent;
                sent.digests += 1;
                sent.digest_bytes += bytes.len() as u64;
                if self.nodes[at].side == 0 {
                    let delay = self.between(self.weather.delay);
                    self.push(delay, Event::Digest { from: at, bytes });
                }
            }
        }
    }

    fn hand_out(&mut self, at: usize, peer: PeerIndex, sas: PeerSas) {
        let mut new = 0;
        for sa in &sas.sas {
            if let Keying::Keyed(material) = &sa.keying {
                new += 1;
                if sa.direction == Direction::Out {
                    assert!(
                        self.handed_out.insert(key_name(material.expose())),
                        "a key is handed out outbound twice"
                    );
                }
            }
        }
        // Kernels differ: slow ones show who counts on the speed of another.
        let per_sa = self.weather.per_sa / if at.is_multiple_of(2) { 1 } else { 10 };
        let node = &mut self.nodes[at];
        node.kernel.busy = node.kernel.busy.max(self.now) + per_sa * (new + 1);
        let (generation, after) = (node.generation, node.kernel.busy.since(self.now));
        self.push(
            after,
            Event::Apply {
                node: at,
                generation,
                peer,
                sas,
            },
        );
    }

    fn apply(&mut self, at: usize, peer: PeerIndex, sas: PeerSas) {
        let (now, refusals) = (self.now, self.weather.refusals);
        let rng = &mut self.rng;
        let (events, changes) = self.nodes[at].kernel.apply(peer, sas, now, || {
            refusals > 0.0 && rng.random_bool(refusals)
        });
        for change in changes {
            self.judge(at, peer.get() as usize - 1, change);
        }
        self.nodes[at].actions += 1;
        if self.is_to_die(at) {
            // Between the system call and the news of it.
            self.kill(at);
        }
        for (key, event) in events {
            if let Some(rotation) = &mut self.nodes[at].rotation {
                rotation.kernel(peer, key, event, now);
            }
        }
        self.drain(at);
    }

    fn is_to_die(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        node.dies_after.is_some_and(|last| node.actions >= last)
    }

    /// Whether traffic is lost by a change of `at` towards `peer`.
    fn judge(&mut self, at: usize, peer: usize, change: Change) {
        let index = self.nodes[at].index;
        match change {
            Change::Opened(keys) => {
                if !self.nodes[peer].kernel.opens(index, &keys) {
                    self.lose(at, peer, "sent before the receiver could receive");
                }
            }
            Change::Dropped(keys, since) => {
                if since < self.weather.stack && self.nodes[peer].kernel.opens(index, &keys) {
                    self.lose(at, peer, "removed at the sender with packets in its stack");
                }
            }
            Change::Closed(keys) => {
                let Some(state) = self.nodes[peer].kernel.peers.get(&index) else {
                    return;
                };
                let sending = state.sent_in().as_ref() == Some(&keys);
                let packet = self.weather.packet;
                let in_flight = state.slots.values().any(|slot| {
                    slot.keys == keys
                        && slot
                            .last_sent
                            .is_some_and(|last| self.now.since(last) < packet)
                });
                if sending {
                    self.lose(peer, at, "closed at the receiver while it is sent in");
                } else if in_flight {
                    self.lose(peer, at, "closed at the receiver with packets in flight");
                }
            }
        }
    }

    fn lose(&mut self, from: usize, to: usize, why: &'static str) {
        let well = |node: &Node| {
            node.rotation.is_some()
                && node.side == 0
                && self.now.since(node.well_since) >= self.convalescence
        };
        let (sender, receiver) = (&self.nodes[from], &self.nodes[to]);
        let pair = (
            sender.index.min(receiver.index),
            sender.index.max(receiver.index),
        );
        let related = self.managers.roster.contains_key(&sender.index)
            && self.managers.roster.contains_key(&receiver.index)
            && !self.managers.apart.contains(&pair);
        if !related {
            return;
        }
        if well(sender) && well(receiver) {
            let (from, to) = (sender.index, receiver.index);
            let at = self.now;
            self.lost.push(Lost { at, from, to, why });
        } else {
            self.excused += 1;
        }
    }

    /// Ordered pairs of members with agents whose traffic does not arrive, or is not in the active
    /// epoch.
    pub fn astray(&self) -> Vec<(PeerIndex, PeerIndex, &'static str)> {
        let mut astray = Vec::new();
        let current = self.managers.log.current.number;
        let members = || {
            self.nodes.iter().filter(|node| {
                node.rotation.is_some() && self.managers.roster.contains_key(&node.index)
            })
        };
        for from in members() {
            for to in members().filter(|to| to.index != from.index) {
                let pair = (from.index.min(to.index), from.index.max(to.index));
                if self.managers.apart.contains(&pair) {
                    continue;
                }
                let state = from.kernel.peers.get(&to.index);
                let why = match state.and_then(|state| state.transmit.zip(state.sent_in())) {
                    None => "closed",
                    Some((_, keys)) if !to.kernel.opens(from.index, &keys) => "not received",
                    Some((transmit, _)) if transmit.epoch.get() != current => "in another epoch",
                    Some(_) => continue,
                };
                astray.push((from.index, to.index, why));
            }
        }
        astray
    }

    pub fn is_stable(&self) -> bool {
        self.managers.log.phase == overlay_cluster::rotation::schedule::Phase::Stable
    }

    /// One rotation from request to end.
    pub fn rotate(&mut self) {
        let number = self.managers.log.newest().number;
        self.managers.request();
        self.announce();
        let end = self.now + ms(600_000);
        let done = self.run_until(end, |world| {
            world.is_stable() && world.managers.log.current.number > number
        });
        assert!(done, "a rotation ends: {:?}", self.managers.log);
    }

    pub fn settled(&mut self, within: Duration) {
        let end = self.now + within;
        let mut next = self.now;
        let done = self.run_until(end, |world| {
            // Looking at all pairs is dear: not after every event.
            if world.now < next {
                return false;
            }
            next = world.now + ms(250);
            world.astray().is_empty()
        });
        assert!(done, "everything converges: {:?}", self.astray());
    }

    pub fn assert_lossless(&self) {
        assert!(self.lost.is_empty(), "lost: {:?}", self.lost);
    }

    /// Records per kind of what was sent since the last call.
    pub fn take_traffic(&mut self) -> BTreeMap<PeerIndex, Traffic> {
        self.nodes
            .iter_mut()
            .map(|node| (node.index, std::mem::take(&mut node.sent)))
            .collect()
    }
}
