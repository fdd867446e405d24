//! One node of a cluster, running: [`crate::member`] with sockets, clocks, disks, and the kernel.
//!
//! | part | does |
//! |---|---|
//! | [`upstream`] | asks the managers: the one on this host, or any that answers |
//! | [`calls`] | speaks with peers: acknowledgements, anti-entropy |
//! | [`applier`] | makes the kernel hold what is wanted, on a thread of its own |
//! | [`keep`] | keeps on disk what the next start needs |
//! | [`events`], [`status`] | for people |

pub mod applier;
mod attaching;
mod calls;
pub mod clock;
pub mod events;
mod keep;
mod shared;
pub mod status;
mod tasks;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod upstream;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use overlay_cluster::{
    gossip::{
        anti_entropy::SyncError,
        envelope::BootNonce,
        record::{Addresses, Body, Endpoint},
    },
    id::NodeId,
    log::{command::Command, view::View},
    rotation::{self, Acknowledgement, RotationError},
};
use overlay_ebpf::abi::{Location, MacAddr, Vni};
use rand::Rng as _;
use rustix::net::{AddressFamily, SocketType, sockopt};
use tokio::{
    net::UdpSocket,
    sync::{broadcast, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use self::{
    applier::{Applier, DataPath, path::HostPath},
    keep::Keep,
    shared::Shared,
};
pub use self::{
    attaching::{AttachError, DetachError},
    events::{Event, What},
    status::Status,
    upstream::{Upstream, UpstreamError},
};
use crate::{
    daemon::{dns::names::Names, members::LiveMembers},
    dataplane::{
        desired::{DataPlane, LocalEndpoint},
        step::address_of,
    },
    kernel::{
        bpf::{BpfError, Pinned},
        host::Directories,
    },
    member::{Member, MemberError, Settings},
    plan::{self, HostSettings},
    state::{
        StateError, endpoints,
        last_desired::LastDesired,
        membership::{Membership, Stored},
    },
};

/// Tasks have ended within it, or are cut.
const END: Duration = Duration::from_secs(10);
/// Bytes that the socket of gossip may hold: a burst of a thousand nodes.
const SOCKET: usize = 4 << 20;

/// What a node starts from.
pub struct Setup {
    pub stored: Stored,
    pub membership: Membership,
    pub directories: Directories,
    pub host: HostSettings,
    pub rotation: rotation::Settings,
    /// Where gossip listens: the advertised address, or all of a family. `[::]` takes both families.
    pub listen: SocketAddr,
    pub upstream: Upstream,
    /// The members whom TLS lets in.
    pub known: Arc<LiveMembers>,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Member(#[from] MemberError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(
        "cannot listen for gossip at UDP {address}: {error}; the address must be one of this host, and the port free"
    )]
    Listen {
        address: SocketAddr,
        error: io::Error,
    },
    #[error("cannot take the data path over: {0}")]
    DataPath(String),
    #[error("the endpoints of the agent before cannot be told to the others: {0}")]
    Publish(#[from] overlay_cluster::gossip::engine::PublishError),
}

/// Why a node has not left.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    #[error("the managers have not let this node leave: {0}")]
    Upstream(#[from] UpstreamError),
    #[error(
        "this node has left, and its data path is not all gone: {0}; `overlay dataplane clear`"
    )]
    DataPath(String),
    #[error("this node has left, and its files are not all gone: {0}")]
    State(#[from] StateError),
}

/// A running node. Clones are the same one.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
    running: Arc<Mutex<Option<Running>>>,
}

struct Running {
    tasks: JoinSet<()>,
    applier: Applier,
    stop: watch::Sender<bool>,
}

impl Node {
    /// Starts the node of this host: takes over what an earlier agent left, listens, and tells the
    /// others.
    pub async fn start(setup: Setup) -> Result<Self, StartError> {
        let directories = setup.directories.clone();
        let initial = empty(&setup)?;
        Self::start_with(setup, move || HostPath::new(directories, initial)).await
    }

    /// The same over another kernel.
    pub async fn start_with<P: DataPath>(
        setup: Setup,
        path: impl FnOnce() -> P + Send + 'static,
    ) -> Result<Self, StartError> {
        let Setup {
            stored,
            membership,
            directories,
            host,
            rotation,
            listen,
            upstream,
            known,
        } = setup;
        let socket = bind_soon(listen)
            .await
            .map_err(|error| StartError::Listen {
                address: listen,
                error,
            })?;
        let newest = membership.newest_epoch()?;
        let generation = membership.start()?;
        let before = endpoints::read(&directories.run)?;
        let believed = remembered(&directories, &stored.view);
        let (applier, found, begin) = Applier::start(path).await.map_err(StartError::DataPath)?;

        let clock = clock::Clock::start();
        let mut rng = rand::rng();
        let (mut boot, mut seed) = ([0; 16], [0; 32]);
        rng.fill_bytes(&mut boot);
        rng.fill_bytes(&mut seed);
        let settings = Settings {
            key: stored.key.signing_key().clone(),
            generation,
            boot: BootNonce::from_bytes(boot),
            seed,
            newest,
            host,
            rotation,
        };
        let view = Arc::new(stored.view.clone());
        let mut member = Member::new(settings, stored.view, clock.now())?;
        for (peer, (sas, transmit)) in found {
            member.adopt(peer, &sas, transmit);
        }
        member.adopt_endpoints(before, clock.now())?;
        member.remember(believed, clock.now());
        member.announce(clock.now(), &mut rng)?;
        drop(rng);

        known.take_view(&view);
        upstream.follow(&view);
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared::new(
            member,
            shared::Parts {
                clock,
                socket,
                keep: Keep::new(membership, directories.run),
                upstream,
                known,
                orders: applier.orders.clone(),
                view,
                stopped,
            },
        ));
        let of_kernel = Arc::downgrade(&shared);
        begin.tell(move |news| {
            if let Some(shared) = of_kernel.upgrade() {
                shared.news(news);
            }
        });
        // What the start asks for.
        shared.with(|_, _, _| ());
        let tasks = tasks::start(&shared);
        Ok(Self {
            shared,
            running: Arc::new(Mutex::new(Some(Running {
                tasks,
                applier,
                stop,
            }))),
        })
    }

    pub fn id(&self) -> NodeId {
        self.view().node
    }

    /// The view of the managers' log that the node has.
    pub fn view(&self) -> Arc<View> {
        self.shared.view.borrow().clone()
    }

    /// It, and each that comes.
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.shared.view.subscribe()
    }

    /// The endpoints of this node.
    pub fn endpoints(&self) -> Vec<LocalEndpoint> {
        self.shared.look(|member| member.endpoints().to_vec())
    }

    /// The endpoints of all nodes that are believed, these ones among them: what a name server knows.
    /// One of which gossip has not told yet has no name.
    pub fn everybody(&self) -> Vec<(NodeId, Endpoint)> {
        self.shared.look(|member| {
            let own = member.view().node;
            let others = member.believed().endpoints();
            let mine = member.gossip().store().of(own);
            let mine = mine.filter_map(|signed| match signed.record().content.into_body() {
                Some(Body::Endpoint(endpoint)) => Some((own, endpoint)),
                _ => None,
            });
            mine.chain(others.map(|(node, endpoint)| (*node, endpoint.clone())))
                .collect()
        })
    }

    /// How many endpoints of other nodes are believed.
    pub fn remote_endpoints(&self) -> usize {
        self.shared.look(|member| member.believed().len())
    }

    /// A peer has said it over its own connection.
    pub fn acknowledged(
        &self,
        peer: NodeId,
        message: &Acknowledgement,
    ) -> Result<(), RotationError> {
        self.shared
            .with(|member, now, rng| member.acknowledged(peer, message, now, rng))
    }

    /// The answer to a peer's message of anti-entropy.
    pub fn answer_sync(&self, peer: NodeId, message: &[u8]) -> Result<Vec<u8>, SyncError> {
        self.shared
            .with(|member, now, rng| member.answer_sync(peer, message, now, rng))
    }

    /// The nodes that are up, as far as gossip knows, this one among them.
    pub fn alive(&self) -> BTreeSet<NodeId> {
        self.shared.look(|member| {
            let mut up = member.gossip().membership().up().clone();
            up.insert(member.view().node);
            up
        })
    }

    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// The latest events, and all that come.
    pub fn events(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        self.shared.events.follow()
    }

    /// Other settings of this host.
    pub fn set_host(&self, host: HostSettings) {
        self.shared
            .with(|member, now, rng| member.set_host(host, now, rng));
    }

    /// Pulls what has changed now, and returns when this node has it.
    pub async fn refresh(&self) -> Result<(), UpstreamError> {
        self.shared.pull().await
    }

    /// What came of each attempt to make the kernel hold what is wanted. A change of endpoints, of this
    /// node or of others, ends in one.
    pub fn outcomes(&self) -> watch::Receiver<Arc<applier::Outcome>> {
        self.shared.outcome.subscribe()
    }

    /// Why the kernel does not have the endpoint with this host-side device, if so.
    pub fn refused(&self, device: &str) -> Option<String> {
        self.shared.outcome.borrow().refused.get(device).cloned()
    }

    /// The names of the networks that this node hosts endpoints of.
    pub fn names(&self) -> Names {
        self.shared
            .look(|member| Names::of(member.view(), member.endpoints().iter(), member.believed()))
    }

    /// Leaves the cluster: tells managers and peers, takes everything out of the kernel, forgets the
    /// membership, and stops.
    pub async fn leave(&self) -> Result<(), LeaveError> {
        let node = self.id();
        match self.shared.upstream.propose(Command::Leave { node }).await {
            // It has left already, as an earlier attempt wanted.
            Ok(_) | Err(UpstreamError::PutOut(_)) => {}
            Err(error) => return Err(error.into()),
        }
        self.shared.with(|member, now, rng| {
            member.leave(now);
            member.removed(now, rng);
        });
        let cleared = self.shared.orders.clear().await;
        self.stop().await;
        self.shared.keep.forget()?;
        cleared
            .unwrap_or_else(|_| Err("the data path has ended".to_owned()))
            .map_err(LeaveError::DataPath)
    }

    /// Stops the agent's part: what is in the kernel stays and works.
    pub async fn stop(&self) {
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(Running {
            mut tasks,
            applier,
            stop,
        }) = running
        else {
            return;
        };
        self.shared.with(|member, now, _| member.leave(now));
        stop.send_replace(true);
        let all_ended = async { while tasks.join_next().await.is_some() {} };
        if timeout(END, all_ended).await.is_err() {
            tracing::warn!("tasks of the node are cut");
        }
        tasks.shutdown().await;
        applier.stop().await;
        self.shared.keep_now().await;
    }
}

/// A data plane of nothing, with the settings that the cluster and the host have.
fn empty(setup: &Setup) -> Result<DataPlane, StartError> {
    let view = &setup.stored.view;
    let own = view
        .peers
        .get(&view.node)
        .ok_or(MemberError::NotAMember(view.node))?;
    Ok(DataPlane {
        node: plan::node(own),
        settings: plan::settings(&view.settings, &setup.host),
        networks: Default::default(),
        peers: Default::default(),
        local_endpoints: Vec::new(),
        remote_endpoints: Default::default(),
    })
}

/// The endpoints of others that the agent before this one had in the kernel: as the maps have them, or where
/// there are none that this agent can read, as was on record, which lags behind. Others come by gossip.
fn remembered(directories: &Directories, view: &View) -> Vec<(NodeId, Endpoint)> {
    let owners: BTreeMap<_, _> = view
        .peers
        .iter()
        .map(|(id, peer)| (peer.index.get(), *id))
        .collect();
    let in_kernel = in_kernel(&directories.pins).unwrap_or_else(|error| {
        tracing::warn!(%error, "what is in the kernel is taken from the record of it");
        None
    });
    let endpoints = in_kernel.unwrap_or_else(|| on_record(&directories.run));
    endpoints
        .into_iter()
        .filter_map(|(peer, endpoint)| Some((*owners.get(&peer)?, endpoint)))
        .collect()
}

/// The endpoints of peers in the pinned maps; `None` without maps.
fn in_kernel(pins: &Path) -> Result<Option<Vec<(u32, Endpoint)>>, BpfError> {
    let Some(pinned) = Pinned::open(pins)? else {
        return Ok(None);
    };
    let maps = pinned.observe_maps()?;
    let mut addresses: BTreeMap<_, Addresses> = BTreeMap::new();
    for (key, value) in &maps.addresses {
        let of = addresses.entry((key.vni, value.mac)).or_default();
        of.push(address_of(&key.address));
    }
    let remote = maps
        .endpoints
        .iter()
        .filter(|(_, entry)| entry.location == Location::Remote);
    let endpoints = remote.filter_map(|(key, entry)| {
        let endpoint = Endpoint {
            vni: Vni::new(key.vni).ok()?,
            mac: MacAddr(key.mac),
            ips: addresses.remove(&(key.vni, key.mac)).unwrap_or_default(),
            // The kernel knows none.
            name: Default::default(),
        };
        Some((entry.peer, endpoint))
    });
    Ok(Some(endpoints.collect()))
}

/// The endpoints of peers as the last record says.
fn on_record(run: &Path) -> Vec<(u32, Endpoint)> {
    let read = LastDesired::read(run).map_err(|error| error.to_string());
    let last = read.and_then(|last| {
        let desired = last.map(|last| last.desired()).transpose();
        desired.map_err(|error| error.to_string())
    });
    let last = last.unwrap_or_else(|error| {
        tracing::warn!(%error, "traffic to other nodes stops until they have told of their endpoints");
        None
    });
    let endpoints = last.iter().flat_map(|last| last.remote_endpoints.iter());
    endpoints
        .map(|endpoint| {
            let remembered = Endpoint {
                vni: endpoint.vni,
                mac: endpoint.mac,
                ips: endpoint.addresses.clone(),
                name: Default::default(),
            };
            (endpoint.peer.get(), remembered)
        })
        .collect()
}

/// The same, where an agent that ends may have the port for a moment longer.
async fn bind_soon(address: SocketAddr) -> io::Result<UdpSocket> {
    const ATTEMPTS: u32 = 20;
    for _ in 0..ATTEMPTS {
        match bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                sleep(Duration::from_millis(100)).await;
            }
            bound => return bound,
        }
    }
    bind(address)
}

/// The socket of gossip. One at `[::]` takes IPv4, too.
fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(
        family,
        SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK,
        None,
    )?;
    if address.is_ipv6() {
        let all = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        sockopt::set_ipv6_v6only(&socket, !all)?;
    }
    // Without it bursts lose datagrams, and anti-entropy repairs that.
    let _smaller = sockopt::set_socket_recv_buffer_size(&socket, SOCKET);
    rustix::net::bind(&socket, &address)?;
    UdpSocket::from_std(std::net::UdpSocket::from(socket))
}
