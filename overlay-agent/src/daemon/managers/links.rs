//! The ways to the other managers: connections that are kept, and who was heard when.
//!
//! openraft gives up a call that takes longer than a heartbeat. The call goes on here and its
//! connection is used again, so that a far or slow manager is reached all the same.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use overlay_cluster::control::raft::{Head, LogOf, RaftRefused, RaftRequest, RaftResponse};
use overlay_ebpf::abi::PeerIndex;
use tokio::{sync::Semaphore, time::Instant};

use super::address::{self, Address, id};
use crate::daemon::{
    control::{
        client::{Client, ClientError},
        raft::RaftConnection,
    },
    store::StateReader,
};

/// Calls to one manager at a time.
const CALLS: usize = 8;

/// Why another manager did not answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("manager {to}: {error}")]
    Client { to: u64, error: Box<ClientError> },
    /// It takes calls and answers none.
    #[error("manager {to} has not answered {CALLS} calls before this one")]
    Busy { to: u64 },
    /// The membership names it, and nobody knows where it is.
    #[error("manager {to} is not in the roster and has no address")]
    NoAddress { to: u64 },
    #[error("manager {to} refuses: {refused}")]
    Refused { to: u64, refused: RaftRefused },
    #[error(
        "manager {to} gave another kind of answer than was asked for: update the older release"
    )]
    Unexpected { to: u64 },
    /// It was called while this node stops.
    #[error("this node stops")]
    Stopped,
}

/// All ways of one manager.
pub struct Links {
    client: Client,
    own: PeerIndex,
    reader: StateReader,
    ways: Mutex<HashMap<u64, Arc<Way>>>,
    heard: Mutex<BTreeMap<u64, Instant>>,
}

struct Way {
    idle: Mutex<Vec<RaftConnection>>,
    calls: Arc<Semaphore>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Links {
    pub fn new(client: Client, own: PeerIndex, reader: StateReader) -> Arc<Self> {
        Arc::new(Self {
            client,
            own,
            reader,
            ways: Mutex::default(),
            heard: Mutex::default(),
        })
    }

    /// The head of a message to manager `to`.
    pub fn head(&self, to: PeerIndex) -> Head {
        Head {
            log: self.reader.with(|state| state.cluster().map(LogOf::new)),
            from: self.own,
            to,
        }
    }

    /// A manager has said something.
    pub fn hear(&self, from: u64) {
        lock(&self.heard).insert(from, Instant::now());
    }

    /// The managers that were heard within `time`, this one included.
    pub fn answering(&self, time: Duration) -> BTreeSet<u64> {
        let heard = lock(&self.heard);
        let lately = |(_, at): &(&u64, &Instant)| at.elapsed() <= time;
        let others = heard.iter().filter(lately).map(|(from, _)| *from);
        others.chain([id(self.own)]).collect()
    }

    /// Where manager `to` is: as the log says, or as its membership did.
    fn locate(&self, to: u64, known: Option<Address>) -> Option<Address> {
        self.reader
            .with(|state| address::in_roster(state.cluster()?, to))
            .or(known)
    }

    fn way(&self, to: u64) -> Arc<Way> {
        let new = || {
            Arc::new(Way {
                idle: Mutex::default(),
                calls: Arc::new(Semaphore::new(CALLS)),
            })
        };
        lock(&self.ways).entry(to).or_insert_with(new).clone()
    }

    /// Asks manager `to`. Dropped, it goes on.
    pub async fn call(
        self: &Arc<Self>,
        to: u64,
        known: Option<Address>,
        request: RaftRequest,
    ) -> Result<RaftResponse, CallError> {
        let way = self.way(to);
        let Ok(call) = way.calls.clone().try_acquire_owned() else {
            return Err(CallError::Busy { to });
        };
        let address = self.locate(to, known).ok_or(CallError::NoAddress { to })?;
        let links = self.clone();
        let asked = tokio::spawn(async move {
            let _call = call;
            let answer = links.ask(&way, address, &request).await;
            if answer.is_ok() {
                links.hear(to);
            }
            answer
        });
        match asked.await {
            Ok(Ok(RaftResponse::Refused(refused))) => Err(CallError::Refused { to, refused }),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(CallError::Client {
                to,
                error: Box::new(error),
            }),
            Err(_) => Err(CallError::Stopped),
        }
    }

    async fn ask(
        &self,
        way: &Way,
        to: Address,
        request: &RaftRequest,
    ) -> Result<RaftResponse, ClientError> {
        let kept = lock(&way.idle).pop();
        // It may have been closed by the other side since. What raft says may be said twice.
        if let Some(mut connection) = kept
            && let Ok(response) = connection.request(request).await
        {
            lock(&way.idle).push(connection);
            return Ok(response);
        }
        let mut connection = self.client.connect_manager(to.control, to.node).await?;
        let response = connection.request(request).await?;
        lock(&way.idle).push(connection);
        Ok(response)
    }

    /// Closes all connections.
    pub async fn close(&self) {
        let ways: Vec<_> = lock(&self.ways).drain().collect();
        for (_, way) in ways {
            let idle = std::mem::take(&mut *lock(&way.idle));
            for connection in idle {
                connection.close().await;
            }
        }
    }
}
