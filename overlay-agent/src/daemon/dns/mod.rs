//! The resolver inside the containers: names of endpoints and services, and everything else from the
//! host's resolvers.
//!
//! These decide, without I/O:
//!
//! - [`names`]: which names there are, from the endpoints of this node and those that are believed of
//!   others
//! - [`answer`]: from a query's bytes to an answer, or to forward it
//! - [`upstream`]: the resolvers that a host names
//! - [`pace`]: how fast queries are taken
//!
//! These do: [`sockets`] in a container's network namespace, [`serve`], [`forward`].
//!
//! A socket keeps its network namespace alive, and with it the endpoint's interface. So the resolver
//! looks once a second whether each namespace is still what its endpoint was attached by, and closes
//! the sockets if it is not; the kernel then ends the namespace as it would have without us.

pub mod answer;
pub mod forward;
pub mod names;
pub mod pace;
pub mod serve;
pub mod sockets;
pub mod upstream;

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use overlay_ebpf::abi::Vni;
use tokio::{
    sync::Mutex as AsyncMutex,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use self::{
    forward::Forwarder,
    names::Names,
    serve::{Resolver, Shared},
    sockets::SocketsError,
};
use super::config;
use crate::{
    dataplane::desired::NetnsRef,
    kernel::netns::{self, Netns, NetnsId},
};

/// Where a container finds the resolver: the address that Docker's has.
pub const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 53);

/// Between two looks at the namespaces and at /etc/resolv.conf.
const LOOK: Duration = Duration::from_secs(1);

/// Whether a query can be forwarded there: not to nobody, and not to a group.
pub fn may_ask(resolver: SocketAddr) -> bool {
    let ip = resolver.ip().to_canonical();
    !ip.is_unspecified()
        && !ip.is_multicast()
        && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
        && resolver.port() != 0
}

/// Why a container has no resolver. Its endpoint works without.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// Its own queries would come back to the agent.
    #[error("{0} is the agent's own: it keeps the resolver of this host")]
    Own(String),
    #[error("no resolver in {netns}: {source}")]
    Sockets { netns: String, source: SocketsError },
}

/// The resolvers of all containers of this node.
#[derive(Debug)]
pub struct Dns {
    shared: Arc<Shared>,
    containers: Arc<AsyncMutex<Containers>>,
    /// The resolvers of the configuration; without, those of [`upstream::RESOLV_CONF`].
    configured: Arc<Mutex<Vec<SocketAddr>>>,
    enabled: bool,
    look: JoinHandle<()>,
}

/// An endpoint, of which a node has one with that name in a network.
type Key = (Vni, String);

#[derive(Debug, Default)]
struct Containers {
    resolvers: HashMap<NetnsId, Resolver>,
    /// In the order of attachment.
    attached: Vec<Attachment>,
}

#[derive(Debug)]
struct Attachment {
    endpoint: Key,
    /// What the endpoint was attached by.
    netns: NetnsRef,
    id: NetnsId,
}

impl Dns {
    /// Needs a tokio runtime. There are no names before [`Self::update`].
    pub fn start(config: &config::Dns) -> Self {
        Self::with_limits(config, forward::Limits::default(), serve::Limits::default())
    }

    pub fn with_limits(
        config: &config::Dns,
        forwarding: forward::Limits,
        limits: serve::Limits,
    ) -> Self {
        let configured = Arc::new(Mutex::new(resolvers(config)));
        let shared = Arc::new(Shared {
            names: Mutex::default(),
            forwarder: Forwarder::new(current(&configured), forwarding),
            limits,
        });
        let containers = Arc::<AsyncMutex<Containers>>::default();
        let look = tokio::spawn(look(
            Arc::clone(&containers),
            Arc::clone(&shared),
            Arc::clone(&configured),
        ));
        Self {
            shared,
            containers,
            configured,
            enabled: config.enabled,
            look,
        }
    }

    /// Takes over what a reload can change: the resolvers that are asked for the rest.
    pub fn reload(&self, config: &config::Dns) {
        *lock(&self.configured) = resolvers(config);
        self.shared
            .forwarder
            .set_resolvers(current(&self.configured));
    }

    /// From now on these are the names.
    pub fn update(&self, names: Names) {
        *lock(&self.shared.names) = Arc::new(names);
    }

    /// Gives the container of an endpoint the names of the endpoint's network, and a resolver at
    /// [`ADDRESS`] if it has none yet. To attach again changes nothing.
    pub async fn attach(&self, netns: &NetnsRef, vni: Vni, endpoint: &str) -> Result<(), DnsError> {
        if !self.enabled {
            return Ok(());
        }
        let opened = Netns::open(netns)?;
        let id = opened.id();
        if id == Netns::current()?.id() {
            return Err(DnsError::Own(opened.to_string()));
        }
        let mut containers = self.containers.lock().await;
        let key = (vni, endpoint.to_owned());
        if containers.attached.iter().any(|attachment| {
            attachment.endpoint == key && attachment.id == id && attachment.netns == *netns
        }) {
            return Ok(());
        }
        containers
            .attached
            .retain(|attachment| attachment.endpoint != key);
        let has_resolver = containers.resolvers.contains_key(&id);
        if !has_resolver {
            let error = |source| DnsError::Sockets {
                netns: opened.to_string(),
                source,
            };
            let std = opened
                .run(async || sockets::open(ADDRESS))
                .await?
                .map_err(error)?;
            let sockets = std.serve().map_err(error)?;
            let resolver = Resolver::start(sockets, Arc::clone(&self.shared));
            containers.resolvers.insert(id, resolver);
        }
        containers.attached.push(Attachment {
            endpoint: key,
            netns: netns.clone(),
            id,
        });
        containers.settle().await;
        Ok(())
    }

    /// Takes the names of the endpoint's network from its container, and the resolver if it was the last.
    /// The sockets are closed when this returns.
    pub async fn detach(&self, vni: Vni, endpoint: &str) {
        let mut containers = self.containers.lock().await;
        containers.attached.retain(|attachment| {
            (attachment.endpoint.0, attachment.endpoint.1.as_str()) != (vni, endpoint)
        });
        containers.settle().await;
    }

    /// Containers that have a resolver.
    pub async fn containers(&self) -> usize {
        self.containers.lock().await.resolvers.len()
    }

    /// Closes all sockets.
    pub async fn stop(&self) {
        self.look.abort();
        let mut containers = self.containers.lock().await;
        containers.attached.clear();
        containers.settle().await;
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        // It holds the containers, and they the sockets.
        self.look.abort();
    }
}

impl Containers {
    /// Gives each resolver its networks, and ends those without.
    async fn settle(&mut self) {
        let mut scopes: HashMap<NetnsId, Vec<Vni>> = HashMap::new();
        for Attachment { endpoint, id, .. } in &self.attached {
            let scope = scopes.entry(*id).or_default();
            if !scope.contains(&endpoint.0) {
                scope.push(endpoint.0);
            }
        }
        let ended: Vec<_> = self
            .resolvers
            .keys()
            .filter(|id| !scopes.contains_key(*id))
            .copied()
            .collect();
        for id in ended {
            if let Some(resolver) = self.resolvers.remove(&id) {
                resolver.stop().await;
            }
        }
        for (id, scope) in scopes {
            if let Some(resolver) = self.resolvers.get(&id) {
                resolver.set_scope(scope);
            }
        }
    }
}

/// Ends the resolvers of namespaces that are gone, and follows /etc/resolv.conf.
async fn look(
    containers: Arc<AsyncMutex<Containers>>,
    shared: Arc<Shared>,
    configured: Arc<Mutex<Vec<SocketAddr>>>,
) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut containers = containers.lock().await;
        let before = containers.attached.len();
        containers
            .attached
            .retain(|attachment| netns::is(&attachment.netns, attachment.id));
        if containers.attached.len() < before {
            tracing::info!(
                endpoints = before - containers.attached.len(),
                "network namespaces have ended: their resolvers end"
            );
            containers.settle().await;
        }
        drop(containers);
        let resolvers = current(&configured);
        if shared.forwarder.set_resolvers(resolvers.clone()) {
            tracing::info!(?resolvers, "other resolvers are asked from now on");
        }
    }
}

fn resolvers(config: &config::Dns) -> Vec<SocketAddr> {
    config
        .upstream
        .iter()
        .map(|upstream| upstream.get())
        .collect()
}

/// Who is to be asked now.
fn current(configured: &Mutex<Vec<SocketAddr>>) -> Vec<SocketAddr> {
    let configured = lock(configured).clone();
    match configured.is_empty() {
        false => configured,
        // Without the file libc asks the resolver of this host, as it does if the file names none.
        true => upstream::of_resolv_conf(&fs::read(upstream::RESOLV_CONF).unwrap_or_default()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing of ours panics while it holds one, and each change is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
