//! What a manager needs of its node.

use std::{collections::BTreeSet, fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use overlay_cluster::{id::NodeId, time::Timestamp};
use overlay_ebpf::abi::PeerIndex;
use rand::{SeedableRng as _, rngs::StdRng};
use zeroize::Zeroizing;

use super::address::Address;
use crate::daemon::{control::client::Client, store::seal::Seal};

/// Tells the time to the managers' log.
pub trait Clock: Send + Sync + 'static {
    /// `None` if the clock of this host cannot be read.
    fn now(&self) -> Option<Timestamp>;
}

/// The clock of this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostClock;

impl Clock for HostClock {
    fn now(&self) -> Option<Timestamp> {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let millis = u64::try_from(since.ok()?.as_millis()).ok()?;
        Some(Timestamp::from_millis(millis))
    }
}

/// Which nodes gossip believes alive. A node that is not among them is not waited for in a rotation: if it lives
/// after all, it has until the old epoch retires.
pub trait Liveness: Send + Sync + 'static {
    /// `None` as long as gossip cannot know: then all count as alive.
    fn alive(&self) -> Option<BTreeSet<NodeId>>;
}

/// Where the secrets of epochs come from.
pub trait Random: Send + Sync + 'static {
    fn rng(&self) -> Result<StdRng, getrandom::Error>;
}

/// The random numbers of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostRandom;

impl Random for HostRandom {
    fn rng(&self) -> Result<StdRng, getrandom::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed)?;
        Ok(StdRng::from_seed(*seed))
    }
}

/// How fast managers notice and how long they wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two signs of life of the leader; each must be answered in that time.
    pub heartbeat: Duration,
    /// A manager that hears no leader for a random time in between wants to lead.
    pub election: (Duration, Duration),
    /// How often the leader looks at its duties when nothing calls it.
    pub tick: Duration,
    /// For a command to be decided, from the time when there is a leader.
    pub propose: Duration,
    /// For a leader to be there.
    pub settle: Duration,
    /// For one change among the voters.
    pub change: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(300),
            election: (Duration::from_millis(1500), Duration::from_secs(3)),
            tick: Duration::from_millis(500),
            propose: Duration::from_secs(10),
            settle: Duration::from_secs(8),
            change: Duration::from_secs(10),
        }
    }
}

impl Timing {
    /// Who was not heard for so long does not answer.
    pub const fn silence(&self) -> Duration {
        self.election.1
    }
}

/// What a manager needs of its node.
#[derive(Clone)]
pub struct Setup {
    pub node: NodeId,
    pub index: PeerIndex,
    /// Own control address, which the other managers reach.
    pub control: SocketAddr,
    pub client: Client,
    /// The file of the store. Its directory exists.
    pub store: PathBuf,
    pub seal: Arc<dyn Seal>,
    pub clock: Arc<dyn Clock>,
    pub liveness: Arc<dyn Liveness>,
    pub random: Arc<dyn Random>,
    pub timing: Timing,
}

impl Setup {
    pub(super) const fn address(&self) -> Address {
        Address {
            node: self.node,
            control: self.control,
        }
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("node", &self.node)
            .field("index", &self.index)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}
