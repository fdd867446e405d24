//! The agent of a host: it waits until the host is made a node of a cluster, and then runs it.
//!
//! | part | does |
//! |---|---|
//! | [`membership`] | makes a cluster, joins one, leaves it, goes on after a restart |
//! | [`running`] | the parts of a node that runs, and whether it is a manager |
//! | [`office`] | what other nodes ask this one |
//! | [`backend`] | what the local API asks it: networks, nodes, endpoints, keys, status |

mod backend;
mod endpoints;
mod errors;
mod keys;
mod membership;
mod networks;
mod nodes;
mod office;
mod running;
mod status;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
};

use overlay_cluster::{log::names::NodeName, rotation};

pub use self::{
    backend::Desktop,
    running::{ManagerState, RunError, Running},
};
use crate::{
    api::ApiError,
    daemon::{config::Config, dns::Dns},
    kernel::host::Directories,
    plan::HostSettings,
    state::membership::Membership,
};

/// What the host sets for its agent.
#[derive(Debug, Clone)]
pub struct Options {
    pub directories: Directories,
    pub host: HostSettings,
    pub rotation: rotation::Settings,
    /// Name of this node if nobody gives another.
    pub name: NodeName,
    /// Where other nodes' connections are taken; `None` is the control address of the node.
    pub listen: Option<IpAddr>,
    /// TCP and UDP port of a node that is made without one.
    pub port: u16,
}

/// What the host is now.
#[derive(Clone)]
enum Part {
    /// No node of a cluster.
    None,
    /// A node whose agent cannot run it.
    Broken(String),
    Node(Arc<Running>),
}

/// The agent. It runs until [`Self::stop`].
pub struct Agent {
    options: Options,
    part: RwLock<Part>,
    /// One at a time makes this host a node or ends it.
    turning: tokio::sync::Mutex<()>,
    dns: Option<Arc<Dns>>,
}

impl Agent {
    /// An agent that goes on with what this host was. If that fails, the host can still be asked why,
    /// and be made to leave.
    pub async fn start(options: Options, dns: Option<Dns>) -> Arc<Self> {
        let agent = Arc::new(Self {
            options,
            part: RwLock::new(Part::None),
            turning: tokio::sync::Mutex::new(()),
            dns: dns.map(Arc::new),
        });
        let _turn = agent.turning.lock().await;
        if let Err(error) = agent.go_on().await {
            tracing::error!(%error, "this host cannot go on as a node of its cluster");
            agent.set(Part::Broken(error.to_string()));
        }
        drop(_turn);
        agent
    }

    /// Stops the agent: what is in the kernel stays and works.
    pub async fn stop(&self) {
        let _turn = self.turning.lock().await;
        if let Part::Node(running) = self.part() {
            running.stop().await;
            self.set(Part::None);
        }
        if let Some(dns) = &self.dns {
            dns.stop().await;
        }
    }

    /// Takes over what a running agent can of another configuration.
    pub fn reload(&self, config: &Config) {
        if let Some(dns) = &self.dns {
            dns.reload(&config.dns);
        }
        if let Part::Node(running) = self.part() {
            running.node.set_host(config.host_settings());
        }
    }

    fn part(&self) -> Part {
        let part = self.part.read();
        part.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, part: Part) {
        *self.part.write().unwrap_or_else(PoisonError::into_inner) = part;
    }

    /// The node, if this host is one.
    fn running(&self) -> Result<Arc<Running>, ApiError> {
        match self.part() {
            Part::Node(running) => Ok(running),
            Part::None => Err(ApiError::not_member()),
            Part::Broken(why) => Err(errors::broken(&why)),
        }
    }

    fn files(&self) -> Membership {
        Membership::new(&self.options.directories.state)
    }

    /// Where a node with this control address listens.
    fn listen(&self, control: SocketAddr) -> SocketAddr {
        let ip = self.options.listen.unwrap_or(control.ip());
        SocketAddr::new(ip, control.port())
    }
}
