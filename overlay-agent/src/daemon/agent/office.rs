//! What the control channel needs of this node: the managers' log if it has it, and the running node.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::{Duration, Instant},
};

use ed25519_dalek::VerifyingKey;
use futures_util::future::BoxFuture;
use overlay_cluster::{
    control::{
        member::ProposeRefused,
        raft::{RaftRefused, RaftRequest, RaftResponse},
    },
    gossip::anti_entropy::SyncError,
    id::NodeId,
    identity::{Role, authority::Validity},
    log::{
        command::{Command, Outcome},
        state::Cluster,
    },
    rotation::{Acknowledgement, Digest},
};
use tokio::sync::watch;

use crate::daemon::{
    control::desk::Office,
    managers::{Clock as _, HostClock, HostRandom, Liveness, Managers, Random as _},
    node::Node,
};

/// The node, as other nodes ask it.
pub struct Bureau {
    /// And since when it runs.
    node: OnceLock<(Node, Instant)>,
    managers: RwLock<Option<Managers>>,
    /// Never sends: a node without the log has no changes to tell.
    silence: watch::Sender<u64>,
}

/// From the start of gossip until silence says something: it takes as long to find out that a node is dead.
const UNHEARD: Duration = Duration::from_secs(15);

impl Bureau {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            node: OnceLock::new(),
            managers: RwLock::new(None),
            silence: watch::Sender::new(0),
        })
    }

    /// The node runs.
    pub fn open(&self, node: Node) {
        // It is opened once.
        let _already = self.node.set((node, Instant::now()));
    }

    /// This node is a manager from now on, or no longer.
    pub fn set_managers(&self, managers: Option<Managers>) -> Option<Managers> {
        let mut held = self
            .managers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut held, managers)
    }

    pub fn managers(&self) -> Option<Managers> {
        let held = self.managers.read().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }
}

impl Liveness for Bureau {
    /// A manager that has just started has not heard of all that live, and might lead already, long before
    /// gossip begins on a slow host: it would take an epoch for ready that others are still staging.
    fn alive(&self) -> Option<BTreeSet<NodeId>> {
        let (node, since) = self.node.get()?;
        (since.elapsed() >= UNHEARD).then(|| node.alive())
    }
}

impl Office for Bureau {
    fn log(&self, read: &mut dyn FnMut(Option<&Cluster>)) {
        match self.managers() {
            Some(managers) => managers.log(read),
            None => read(None),
        }
    }

    fn is_current(&self) -> bool {
        self.managers()
            .is_some_and(|managers| managers.has_quorum())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.managers()
            .map_or_else(|| self.silence.subscribe(), |managers| managers.changes())
    }

    fn issue(&self, key: &VerifyingKey, role: Role) -> Result<Vec<u8>, String> {
        let managers = self.managers().ok_or("this node is no manager")?;
        let now = HostClock.now().ok_or("its clock cannot be read")?;
        let mut rng = HostRandom.rng().map_err(|error| error.to_string())?;
        managers.with_log(|log| {
            let log = log.ok_or("this manager does not have the log yet")?;
            log.issue(key, role, &Validity::default(), now, &mut rng)
                .map_err(|error| error.to_string())
        })
    }

    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Outcome, ProposeRefused>> {
        Box::pin(async move {
            match self.managers() {
                Some(managers) => managers.propose(command).await,
                None => Err(ProposeRefused::NoLeader(
                    "the node that was asked is no manager".into(),
                )),
            }
        })
    }

    fn acknowledged(&self, message: Acknowledgement) {
        if let Some((node, _)) = self.node.get()
            && let Err(error) = node.acknowledged(message.from, &message)
        {
            tracing::debug!(from = %message.from, %error, "an acknowledgement is not taken");
        }
    }

    fn reported(&self, node: NodeId, digest: Digest) {
        if let Some(managers) = self.managers() {
            managers.reported(node, digest);
        }
    }

    fn sync(&self, peer: NodeId, message: &[u8]) -> Result<Vec<u8>, SyncError> {
        let (node, _) = self.node.get().ok_or(SyncError::Unexpected)?;
        node.answer_sync(peer, message)
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
