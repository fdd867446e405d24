//! The network of openraft: its calls as messages between managers.

use std::{sync::Arc, time::Duration};

use openraft::{
    BasicNode, RaftNetwork, RaftNetworkFactory,
    error::{InstallSnapshotError, PayloadTooLarge, RPCError, RaftError, RemoteError, Unreachable},
    network::{Backoff, RPCOption},
};
use overlay_cluster::control::raft::{Body, Head, RaftRequest, RaftResponse};
use overlay_ebpf::abi::PeerIndex;

use super::{
    address::{self, Address},
    links::{CallError, Links},
    wire::{self, Append, Appended, Chunk, Chunked, Received, Vote, Voted},
};
use crate::daemon::store::Managers;

type Error<E = openraft::error::Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;

fn unreachable<E: std::error::Error>(error: &(impl std::error::Error + 'static)) -> Error<E> {
    tracing::debug!(%error, "a manager cannot be asked");
    RPCError::Unreachable(Unreachable::new(error))
}

/// Makes the lines to the other managers.
pub struct Network(pub Arc<Links>);

impl RaftNetworkFactory<Managers> for Network {
    type Network = Line;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Line {
        Line {
            links: self.0.clone(),
            target,
            known: Address::of_raft(node).ok(),
        }
    }
}

/// The line to one manager.
pub struct Line {
    links: Arc<Links>,
    target: u64,
    known: Option<Address>,
}

impl Line {
    async fn call<T: Received, E: std::error::Error>(
        &self,
        request: impl FnOnce(Head) -> RaftRequest,
        body: impl FnOnce(RaftResponse) -> Option<Body>,
    ) -> Result<T, Error<E>> {
        let to = self.target;
        let index = address::index(to).ok_or_else(|| unreachable(&CallError::NoAddress { to }))?;
        let request = request(self.links.head(index));
        let response = self
            .links
            .call(to, self.known, request)
            .await
            .map_err(|error| unreachable(&error))?;
        let body = body(response).ok_or_else(|| unreachable(&CallError::Unexpected { to }))?;
        self.decode(&body, index)
    }

    #[allow(clippy::result_large_err, reason = "the error is openraft's")]
    fn decode<T: Received, E: std::error::Error>(
        &self,
        body: &Body,
        from: PeerIndex,
    ) -> Result<T, Error<E>> {
        wire::decode(body, from).map_err(|refused| {
            let to = self.target;
            unreachable(&CallError::Refused { to, refused })
        })
    }
}

impl RaftNetwork<Managers> for Line {
    async fn append_entries(&mut self, request: Append, _: RPCOption) -> Result<Appended, Error> {
        let body = wire::encode(&request).map_err(|error| match request.entries.len() as u64 {
            0 | 1 => unreachable(&error),
            entries => RPCError::PayloadTooLarge(PayloadTooLarge::new_entries_hint(entries / 2)),
        })?;
        drop(request);
        self.call(
            |head| RaftRequest::Append { head, body },
            |response| match response {
                RaftResponse::Append(body) => Some(body),
                _ => None,
            },
        )
        .await
    }

    async fn install_snapshot(
        &mut self,
        request: Chunk,
        _: RPCOption,
    ) -> Result<openraft::raft::InstallSnapshotResponse<u64>, Error<InstallSnapshotError>> {
        let body = wire::encode(&request).map_err(|error| unreachable(&error))?;
        drop(request);
        let chunked: Chunked = self
            .call(
                |head| RaftRequest::Snapshot { head, body },
                |response| match response {
                    RaftResponse::Snapshot(body) => Some(body),
                    _ => None,
                },
            )
            .await?;
        chunked.map_err(|error| {
            let error = RemoteError::new(self.target, RaftError::APIError(error));
            RPCError::RemoteError(error)
        })
    }

    async fn vote(&mut self, request: Vote, _: RPCOption) -> Result<Voted, Error> {
        let body = wire::encode(&request).map_err(|error| unreachable(&error))?;
        self.call(
            |head| RaftRequest::Vote { head, body },
            |response| match response {
                RaftResponse::Vote(body) => Some(body),
                _ => None,
            },
        )
        .await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(Duration::from_millis(300)))
    }
}
