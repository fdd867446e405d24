//! Endpoints come and go: with a lease if the node needs one, and in the kernel before it is said.

use std::{sync::Arc, time::Duration};

use overlay_cluster::{log::pool::PoolError, time::Instant};
use rand::rngs::ThreadRng;
use tokio::time::timeout;

use super::{Node, UpstreamError, events::What, shared::Shared};
use crate::{
    dataplane::{desired::LocalEndpoint, endpoint_name::host_device_name},
    member::{self, Member, attach},
    state::StateError,
};

/// Leases that one endpoint may need: one of each family, and some that others took meanwhile.
const LEASES: usize = 6;
/// For the kernel to have it.
const KERNEL: Duration = Duration::from_secs(90);

/// Why an endpoint is not attached. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Member(#[from] member::AttachError),
    /// The node needs a block of addresses, and has not got it.
    #[error("{reason}; a lease from the managers was not to be had: {error}")]
    Lease {
        reason: PoolError,
        error: UpstreamError,
    },
    /// The managers leased something, and this node does not see it.
    #[error("{0}; the managers gave a lease, and the view of it did not come: try again")]
    Unseen(PoolError),
    /// The kernel refused.
    #[error("the kernel refuses endpoint {name}: {why}")]
    Kernel { name: String, why: String },
    /// The data path is stuck.
    #[error("the kernel does not have endpoint {name} after {KERNEL:?}: see `overlay status`")]
    Slow { name: String },
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the agent stops: try again when it has started")]
    Stopped,
}

/// Why an endpoint is not detached.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    #[error(transparent)]
    Member(#[from] member::DetachError),
    #[error(transparent)]
    State(#[from] StateError),
    /// It is gone for the others, and its device is still there.
    #[error("the kernel still has endpoint {name} after {KERNEL:?}: see `overlay status`")]
    Slow { name: String },
}

impl Node {
    /// Attaches an endpoint, and returns when the kernel has it.
    pub async fn attach(&self, request: attach::Request) -> Result<LocalEndpoint, AttachError> {
        let shared = &self.shared;
        if shared.is_stopped() {
            return Err(AttachError::Stopped);
        }
        let network = request.network.clone();
        let (endpoint, attempt) = attach(shared, request).await?;
        let done = match keep_endpoints(shared).await {
            Ok(()) => in_kernel(shared, &endpoint, attempt).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = done {
            let _taken_back =
                shared.with(|member, now, rng| member.detach(&network, &endpoint.name, now, rng));
            let _unwritten = keep_endpoints(shared).await;
            return Err(error);
        }
        shared.tell(What::EndpointAttached {
            network,
            name: endpoint.name.clone(),
            addresses: endpoint.addresses.iter().map(|(ip, _)| *ip).collect(),
        });
        Ok(endpoint)
    }

    /// Detaches an endpoint, and returns when the kernel is rid of it.
    pub async fn detach(&self, network: &str, name: &str) -> Result<LocalEndpoint, DetachError> {
        let shared = &self.shared;
        let (detached, attempt) =
            shared.with_attempt(|member, now, rng| member.detach(network, name, now, rng));
        let endpoint = detached?;
        shared.tell(What::EndpointDetached {
            network: network.to_owned(),
            name: name.to_owned(),
        });
        keep_endpoints(shared).await?;
        wait_for(shared, attempt)
            .await
            .ok_or_else(|| DetachError::Slow {
                name: name.to_owned(),
            })?;
        Ok(endpoint)
    }
}

impl Shared {
    /// As [`Self::with`]; the attempt includes what the work came to.
    fn with_attempt<T>(
        &self,
        work: impl FnOnce(&mut Member, Instant, &mut ThreadRng) -> T,
    ) -> (T, u64) {
        let done = self.with(work);
        // What others wanted meanwhile includes it.
        (done, self.wanted())
    }
}

async fn attach(
    shared: &Arc<Shared>,
    request: attach::Request,
) -> Result<(LocalEndpoint, u64), AttachError> {
    let try_it = || {
        let request = request.clone();
        shared.with_attempt(|member, now, rng| member.attach(request, now, rng))
    };
    if let (Ok(endpoint), attempt) = try_it() {
        return Ok((endpoint, attempt));
    }
    // One at a time asks for a lease: the next may find room in it.
    let _one = shared.leasing.lock().await;
    let mut last = None;
    for _ in 0..LEASES {
        let (reason, command) = match try_it() {
            (Ok(endpoint), attempt) => return Ok((endpoint, attempt)),
            (
                Err(member::AttachError::Endpoint(attach::AttachError::Lease { reason, command })),
                _,
            ) => (reason, command),
            (Err(error), _) => return Err(error.into()),
        };
        let version = shared.view.borrow().version;
        let proposed = shared.upstream.propose(*command).await;
        // Whatever came of it, the view says; the log has it once if it is proposed twice.
        let seen = newer_view(shared, version).await;
        match (proposed, seen) {
            (Err(error), false) => return Err(AttachError::Lease { reason, error }),
            (Err(_), true) => {}
            (Ok(_), false) => return Err(AttachError::Unseen(reason)),
            (Ok(_), true) => {}
        }
        last = Some(reason);
    }
    Err(last.map_or(AttachError::Stopped, AttachError::Unseen))
}

/// Whether a newer view than this comes soon.
async fn newer_view(shared: &Arc<Shared>, version: overlay_cluster::log::view::Version) -> bool {
    // The manager that is asked may lag behind the one that decided.
    for wait in [0, 50, 200, 1000, 2000] {
        let mut views = shared.view.subscribe();
        let wait = Duration::from_millis(wait);
        // What comes is a guard, which no wait may hold.
        let comes = timeout(wait, views.wait_for(|view| view.version > version))
            .await
            .is_ok_and(|seen| seen.is_ok());
        if comes {
            return true;
        }
        if shared.pull().await.is_err() {
            return false;
        }
    }
    shared.view.borrow().version > version
}

/// Writes the endpoints down, so that the next agent knows them.
async fn keep_endpoints(shared: &Arc<Shared>) -> Result<(), StateError> {
    let number = {
        let mut state = shared.state();
        state.endpoints += 1;
        state.endpoints
    };
    let list = shared.look(|member| member.endpoints().to_vec());
    let shared = shared.clone();
    let kept = tokio::task::spawn_blocking(move || shared.keep.endpoints(number, &list)).await;
    kept.unwrap_or_else(|error| {
        tracing::error!(%error, "the endpoints are not kept");
        Ok(())
    })
}

/// Waits until the kernel has had its chance with an attempt.
async fn wait_for(shared: &Arc<Shared>, attempt: u64) -> Option<Arc<super::applier::Outcome>> {
    let mut outcomes = shared.outcome.subscribe();
    let wait = timeout(
        KERNEL,
        outcomes.wait_for(|outcome| outcome.attempt >= attempt),
    );
    match wait.await {
        Ok(Ok(outcome)) => Some(outcome.clone()),
        _ => None,
    }
}

async fn in_kernel(
    shared: &Arc<Shared>,
    endpoint: &LocalEndpoint,
    attempt: u64,
) -> Result<(), AttachError> {
    let name = || endpoint.name.clone();
    let outcome = wait_for(shared, attempt)
        .await
        .ok_or_else(|| AttachError::Slow { name: name() })?;
    let device = host_device_name(endpoint.vni, endpoint.mac);
    match outcome.refused.get(&device) {
        None => Ok(()),
        Some(why) => Err(AttachError::Kernel {
            name: name(),
            why: why.clone(),
        }),
    }
}
