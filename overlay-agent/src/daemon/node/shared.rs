//! What all tasks of a node have in common: the member behind a lock that is held briefly, and where
//! its actions go. Every place that they go to is bounded.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use overlay_cluster::{
    id::{EpochName, Generation, NodeId},
    log::view::{Update, UpdateError, View},
    rotation::{self, Digest, Direction, SlotKey, Usage},
    time::{Instant, Timestamp},
};
use overlay_ebpf::abi::PeerIndex;
use rand::rngs::ThreadRng;
use tokio::{
    net::UdpSocket,
    sync::{Mutex as AsyncMutex, Notify, watch},
};

use super::{
    applier::{News, Orders, Outcome},
    calls::{Call, Calls},
    clock::Clock,
    events::{self, Events, What},
    keep::Keep,
    status::{GossipStatus, KernelStatus, ManagersStatus, Status},
    upstream::{Upstream, UpstreamError},
};
use crate::{
    daemon::members::LiveMembers,
    kernel::keeper::Told,
    member::{Action, Member},
};

/// Secrets that are wanted at a time: more epochs are not live.
const SECRETS: usize = 8;
/// Alarms that are remembered for people.
const ALARMS: usize = 64;
/// Datagrams that wait until the socket takes them.
const UNSENT: usize = 1024;

pub struct Parts {
    pub clock: Clock,
    pub socket: UdpSocket,
    pub keep: Keep,
    pub upstream: Upstream,
    pub known: Arc<LiveMembers>,
    pub orders: Arc<Orders>,
    pub view: Arc<View>,
    pub stopped: watch::Receiver<bool>,
}

pub struct Shared {
    member: Mutex<Member>,
    pub clock: Clock,
    pub socket: UdpSocket,
    pub keep: Keep,
    pub upstream: Upstream,
    pub known: Arc<LiveMembers>,
    pub orders: Arc<Orders>,
    pub calls: Calls,
    pub events: Events,
    pub view: watch::Sender<Arc<View>>,
    pub outcome: watch::Sender<Arc<Outcome>>,
    stopped: watch::Receiver<bool>,
    /// The deadline may have changed.
    pub changed: Notify,
    /// One lease at a time, one pull at a time.
    pub leasing: AsyncMutex<()>,
    pub pulling: AsyncMutex<()>,
    pub pull_wanted: Notify,
    pub secrets_wanted: Notify,
    pub report_wanted: Notify,
    pub generation_wanted: Notify,
    pub send_wanted: Notify,
    unsent: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    pub secrets: BTreeSet<EpochName>,
    pub report: Option<Digest>,
    pub generation: Option<Generation>,
    pub outbox: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Exchanges that do not come about.
    unsynced: BTreeSet<NodeId>,
    /// The attempt that is wanted.
    wanted: u64,
    /// Counts the lists of endpoints.
    pub endpoints: u64,
    usage: BTreeMap<(PeerIndex, SlotKey), Usage>,
    alarms: VecDeque<String>,
    managers: ManagersStatus,
    put_out: Option<String>,
    problems: BTreeMap<&'static str, String>,
}

impl Shared {
    pub fn new(member: Member, parts: Parts) -> Self {
        let Parts {
            clock,
            socket,
            keep,
            upstream,
            known,
            orders,
            view,
            stopped,
        } = parts;
        Self {
            member: Mutex::new(member),
            clock,
            socket,
            keep,
            upstream,
            known,
            orders,
            calls: Calls::default(),
            events: Events::default(),
            view: watch::Sender::new(view),
            outcome: watch::Sender::new(Arc::default()),
            stopped,
            changed: Notify::new(),
            leasing: AsyncMutex::new(()),
            pulling: AsyncMutex::new(()),
            pull_wanted: Notify::new(),
            secrets_wanted: Notify::new(),
            report_wanted: Notify::new(),
            generation_wanted: Notify::new(),
            send_wanted: Notify::new(),
            unsent: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// Looks at the member.
    pub fn look<T>(&self, look: impl FnOnce(&Member) -> T) -> T {
        look(&self.member())
    }

    /// Hands the member something, and does what it wants. The lock is held to the end, so that what
    /// is wanted later comes later; nothing under it waits.
    pub fn with<T>(&self, work: impl FnOnce(&mut Member, Instant, &mut ThreadRng) -> T) -> T {
        let mut member = self.member();
        let done = work(&mut member, self.clock.now(), &mut rand::rng());
        let known = self.view.borrow().version;
        if member.view().version != known {
            self.follow(member.view());
        }
        for action in member.take_actions() {
            self.act(action);
        }
        drop(member);
        self.changed.notify_one();
        done
    }

    /// The attempt that includes everything that the member wants now.
    pub fn wanted(&self) -> u64 {
        self.state().wanted
    }

    /// When the member is to be advanced.
    pub fn deadline(&self) -> tokio::time::Instant {
        self.clock.at(self.member().deadline())
    }

    pub async fn stopped(&self) {
        let mut stopped = self.stopped.clone();
        // An error is that nobody is left who could say so.
        let _ended = stopped.wait_for(|stop| *stop).await;
    }

    pub fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// The time on this host's clock.
    pub fn time(&self) -> Timestamp {
        let clock = self.upstream.client().tls().now();
        clock.unwrap_or(Timestamp::from_millis(0))
    }

    pub fn tell(&self, what: What) {
        tracing::info!("{what}");
        self.events.add(self.time(), what);
    }

    /// Something that the agent could not do, until it can.
    pub fn problem(&self, of: &'static str, error: Option<String>) {
        let before = match &error {
            Some(error) => self.state().problems.insert(of, error.clone()),
            None => self.state().problems.remove(of),
        };
        match (before, error) {
            (None, Some(text)) => self.tell(What::Problem { text }),
            (Some(text), None) => self.tell(What::Solved { text }),
            _ => {}
        }
    }

    fn act(&self, action: Action) {
        match action {
            Action::Send { to, bytes } => self.send(to, bytes),
            Action::Sync { peer, address } => {
                let dropped = self.calls.push(peer, address, Call::Sync);
                if dropped.is_some() {
                    self.unsynced(peer);
                }
            }
            Action::Acknowledge {
                peer,
                address,
                message,
            } => {
                let dropped = self.calls.push(peer, address, Call::Acknowledge(message));
                if dropped == Some(Call::Sync) {
                    self.unsynced(peer);
                }
            }
            Action::PullView => self.pull_wanted.notify_one(),
            Action::PullSecrets(name) => {
                let mut state = self.state();
                state.secrets.insert(name);
                while state.secrets.len() > SECRETS {
                    state.secrets.pop_first();
                }
                self.secrets_wanted.notify_one();
            }
            Action::Report(digest) => {
                self.state().report = Some(digest);
                self.report_wanted.notify_one();
            }
            Action::KeepGeneration(generation) => {
                self.state().generation = Some(generation);
                self.generation_wanted.notify_one();
            }
            Action::Apply {
                attempt,
                data_plane,
            } => {
                self.state().wanted = attempt;
                self.orders.apply(attempt, data_plane);
            }
            Action::Alarm(alarm) => {
                let text = alarm.to_string();
                tracing::error!("alarm: {text}");
                let mut state = self.state();
                if state.alarms.len() == ALARMS {
                    state.alarms.pop_front();
                }
                state.alarms.push_back(text.clone());
                drop(state);
                self.tell(What::Alarm { text });
            }
            Action::Doubt(doubt) => {
                let text = doubt.to_string();
                tracing::warn!("{text}");
                self.tell(What::Doubt { text });
            }
        }
    }

    /// An exchange that does not come about. The member is locked by who calls this; it is told
    /// later.
    fn unsynced(&self, peer: NodeId) {
        self.state().unsynced.insert(peer);
        self.changed.notify_one();
    }

    /// At once, or when the socket has room.
    fn send(&self, to: SocketAddr, bytes: Vec<u8>) {
        let to = self.destination(to);
        let mut state = self.state();
        if state.outbox.is_empty() {
            match self.socket.try_send_to(&bytes, to) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::debug!(%to, %error, "a datagram is not sent");
                    self.unsent.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Ok(_) => return,
            }
        }
        if state.outbox.len() == UNSENT {
            state.outbox.pop_front();
            self.unsent.fetch_add(1, Ordering::Relaxed);
        }
        state.outbox.push_back((to, bytes));
        self.send_wanted.notify_one();
    }

    /// A socket for both families knows IPv4 as a part of IPv6.
    fn destination(&self, to: SocketAddr) -> SocketAddr {
        match (to, self.socket.local_addr()) {
            (SocketAddr::V4(v4), Ok(SocketAddr::V6(_))) => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            _ => to,
        }
    }

    /// Everybody goes by this view from now on.
    fn follow(&self, view: &View) {
        let before = self.view.borrow().clone();
        let view = Arc::new(view.clone());
        self.known.take_view(&view);
        self.upstream.follow(&view);
        for what in events::changes(&before, &view) {
            self.tell(what);
        }
        self.view.send_replace(view);
    }

    /// Pulls what has changed. Several who want that at a time get one answer.
    pub async fn pull(&self) -> Result<(), UpstreamError> {
        let before = self.view.borrow().version;
        let _one = self.pulling.lock().await;
        let have = self.view.borrow().version;
        if have != before {
            return Ok(());
        }
        let update = self.upstream.pull_view(Some(have)).await;
        self.updated(update).await
    }

    /// Takes what managers said, and pulls the whole view where a part does not fit.
    pub async fn updated(
        &self,
        update: Result<Update, UpstreamError>,
    ) -> Result<(), UpstreamError> {
        let update = match update {
            Ok(update) => update,
            Err(error) => {
                if let UpstreamError::PutOut(reason) = &error {
                    self.put_out(reason.clone());
                }
                self.state().managers.error = Some(error.to_string());
                return Err(error);
            }
        };
        let time = self.time();
        self.state().managers = ManagersStatus {
            heard: Some(time),
            error: None,
        };
        match self.take(update) {
            Ok(()) => Ok(()),
            Err(UpdateError::Gap { .. }) => {
                let whole = self.upstream.pull_view(None).await?;
                self.taken(self.take(whole))
            }
            taken => self.taken(taken),
        }
    }

    /// Another manager is asked next: this one lags, or is of another cluster.
    fn taken(&self, taken: Result<(), UpdateError>) -> Result<(), UpstreamError> {
        taken.map_err(|error| {
            self.upstream.turn_away();
            self.state().managers.error = Some(error.to_string());
            UpstreamError::Update(error)
        })
    }

    fn take(&self, update: Update) -> Result<(), UpdateError> {
        let have = self.view.borrow().version;
        let offered = match &update {
            Update::Whole(view) => view.version,
            Update::Delta(delta) => delta.to,
        };
        // Nothing has changed, or another answer was faster.
        if offered == have {
            return Ok(());
        }
        self.with(|member, now, rng| member.update(update, now, rng))
    }

    /// The managers say that this node takes part no longer.
    pub fn put_out(&self, reason: String) {
        let before = self.state().put_out.replace(reason.clone());
        if before.is_none() {
            tracing::error!("this node takes part no longer: {reason}");
            self.tell(What::Evicted { reason });
            self.with(|member, now, rng| member.removed(now, rng));
        }
    }

    /// What comes from the kernel's side.
    pub fn news(&self, news: News) {
        match news {
            News::Outcome(outcome) => {
                self.with(|member, now, rng| {
                    member.applied(outcome.attempt, &outcome.held, now, rng);
                });
                let before = self.outcome.send_replace(Arc::new(outcome));
                let now = self.outcome.borrow().clone();
                for text in now.problems.difference(&before.problems) {
                    let text = text.clone();
                    self.tell(What::Problem { text });
                }
                for text in before.problems.difference(&now.problems) {
                    let text = text.clone();
                    self.tell(What::Solved { text });
                }
            }
            // Problems are in the outcome.
            News::Told(Told::Problem(_) | Told::Gone(_)) => {}
            News::Told(told @ Told::Alarm(_)) => self.tell(What::Alarm {
                text: told.to_string(),
            }),
            News::Told(told) => self.tell(What::Drift {
                text: told.to_string(),
            }),
            News::Usage(usage) => {
                self.with(|member, _, _| {
                    for ((peer, slot), usage) in &usage {
                        member.usage(*peer, *slot, *usage);
                    }
                });
                self.state().usage = usage;
            }
        }
    }

    /// Writes down what is not on disk yet.
    pub async fn keep_now(self: &Arc<Self>) {
        let shared = self.clone();
        let kept = tokio::task::spawn_blocking(move || {
            let generation = shared.state().generation.take();
            if let Some(generation) = generation {
                shared.keep.generation(generation)?;
            }
            let view = shared.view.borrow().clone();
            if view.peers.contains_key(&view.node) {
                shared.keep.view(&view)?;
            }
            Ok::<_, crate::state::StateError>(())
        });
        match kept.await {
            Ok(Ok(())) => self.problem("keep", None),
            Ok(Err(error)) => self.problem("keep", Some(error.to_string())),
            Err(error) => self.problem("keep", Some(error.to_string())),
        }
    }

    pub fn status(&self) -> Status {
        let outcome = self.outcome.borrow().clone();
        let member = self.member();
        let now = self.clock.now();
        let view = member.view();
        let state = self.state();
        let sends = |peer: PeerIndex| {
            let slot = member.rotation().transmit(peer)?.slot;
            let slot = SlotKey {
                direction: Direction::Out,
                slot,
            };
            Some((peer, *state.usage.get(&(peer, slot))?))
        };
        let usage = member
            .rotation()
            .peers()
            .filter_map(|(peer, ..)| sends(peer))
            .collect();
        let mut sas: BTreeMap<PeerIndex, usize> = BTreeMap::new();
        for (peer, ..) in &outcome.held {
            *sas.entry(*peer).or_default() += 1;
        }
        let membership = member.gossip().membership();
        Status {
            node: view.node,
            name: view
                .peers
                .get(&view.node)
                .map_or_else(String::new, |own| own.name.to_string()),
            version: view.version,
            time: view.time,
            epochs: view.epochs.clone(),
            peers: rotation::status::peers(member.rotation(), &usage, now),
            gossip: GossipStatus {
                up: membership.up().clone(),
                down: membership.down().collect(),
                records: member.gossip().held(),
                refused: member.gossip().counters(),
                unsent: self.unsent.load(Ordering::Relaxed),
            },
            kernel: KernelStatus {
                wanted: state.wanted,
                applied: outcome.attempt,
                local_endpoints: outcome.local_endpoints,
                remote_endpoints: outcome.remote_endpoints,
                sas,
                problems: outcome.problems.clone(),
            },
            managers: state.managers.clone(),
            put_out: state.put_out.clone(),
            alarms: state.alarms.iter().cloned().collect(),
            doubts: member.doubts().iter().map(ToString::to_string).collect(),
            problems: state.problems.values().cloned().collect(),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn member(&self) -> MutexGuard<'_, Member> {
        self.member.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The exchange that was asked for ends before it began.
pub fn end_unsynced(shared: &Shared) {
    let peers = std::mem::take(&mut shared.state().unsynced);
    for peer in peers {
        shared.with(|member, now, rng| member.end_sync(peer, None, now, rng));
    }
}

/// How long the view may be on its way to the disk.
pub const KEEP_VIEW: Duration = Duration::from_secs(1);
