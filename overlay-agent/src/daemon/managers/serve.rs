//! What other managers say.

use openraft::error::RaftError;
use overlay_cluster::{
    control::raft::{self, Body, Head, RaftRefused, RaftRequest, RaftResponse, ReportedDigest},
    id::NodeId,
};
use serde::Serialize;

use super::{
    Inner, Managers,
    address::id,
    wire::{self, Append, Chunk, Vote},
};

impl Managers {
    /// The answer to another manager. That it is one, TLS has asked.
    pub async fn raft(&self, from: NodeId, request: RaftRequest) -> RaftResponse {
        self.0
            .answer(from, request)
            .await
            .unwrap_or_else(|refused| {
                tracing::debug!(%from, %refused, "another manager is refused");
                RaftResponse::Refused(refused)
            })
    }
}

fn stopped(error: impl std::fmt::Display) -> RaftRefused {
    RaftRefused::Stopped(error.to_string())
}

fn body(answer: &impl Serialize) -> Result<Body, RaftRefused> {
    wire::encode(answer).map_err(stopped)
}

impl Inner {
    async fn answer(
        &self,
        caller: NodeId,
        request: RaftRequest,
    ) -> Result<RaftResponse, RaftRefused> {
        let head: Head = *request.head();
        self.with_log(|log| raft::check(&head, caller, self.setup.index, log))?;
        self.links.hear(id(head.from));
        match request {
            RaftRequest::Append { body: sent, .. } => {
                let request: Append = wire::decode(&sent, head.from)?;
                let answer = self.raft.append_entries(request).await;
                Ok(RaftResponse::Append(body(&answer.map_err(stopped)?)?))
            }
            RaftRequest::Vote { body: sent, .. } => {
                let request: Vote = wire::decode(&sent, head.from)?;
                let answer = self.raft.vote(request).await;
                Ok(RaftResponse::Vote(body(&answer.map_err(stopped)?)?))
            }
            RaftRequest::Snapshot { body: sent, .. } => {
                let request: Chunk = wire::decode(&sent, head.from)?;
                let answer = match self.raft.install_snapshot(request).await {
                    Ok(answer) => Ok(answer),
                    Err(RaftError::APIError(error)) => Err(error),
                    Err(RaftError::Fatal(error)) => return Err(stopped(error)),
                };
                Ok(RaftResponse::Snapshot(body(&answer)?))
            }
            RaftRequest::Digests { digests, .. } => self.with_log(|log| {
                let log = log.ok_or(RaftRefused::NoLog)?;
                for ReportedDigest { node, digest } in digests {
                    self.reports.take(log, node, digest, false);
                }
                Ok(RaftResponse::Heard)
            }),
        }
    }
}
