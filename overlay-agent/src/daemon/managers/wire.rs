//! The messages of openraft as bytes: a version, then postcard. What a peer sends is checked as far as
//! openraft believes it unchecked.

use openraft::{
    EntryPayload, Membership,
    error::InstallSnapshotError,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, VoteRequest, VoteResponse,
    },
};
use overlay_cluster::{
    control::raft::{Body, MAX_BODY, RaftRefused},
    log::{snapshot, wire},
};
use overlay_ebpf::abi::PeerIndex;
use serde::{Serialize, de::DeserializeOwned};

use super::address::{Address, id};
use crate::daemon::store::Managers;

const VERSION: u8 = 1;

/// Managers in one membership at the most, those that are to become voters included.
const MAX_MANAGERS: usize = 256;

pub type Append = AppendEntriesRequest<Managers>;
pub type Appended = AppendEntriesResponse<u64>;
pub type Vote = VoteRequest<u64>;
pub type Voted = VoteResponse<u64>;
pub type Chunk = InstallSnapshotRequest<Managers>;
pub type Chunked = Result<InstallSnapshotResponse<u64>, InstallSnapshotError>;

/// A message longer than may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message between managers has {0} bytes, and {MAX_BODY} are the most")]
pub struct TooLong(pub usize);

/// A message that came from a peer.
pub trait Received: DeserializeOwned {
    const NAME: &'static str;

    /// What is wrong with it, if anything, as a message of manager `from`.
    fn fault(&self, from: PeerIndex) -> Option<&'static str>;
}

pub fn encode(message: &impl Serialize) -> Result<Body, TooLong> {
    let bytes = wire::encode(VERSION, message);
    if bytes.len() > MAX_BODY {
        return Err(TooLong(bytes.len()));
    }
    Ok(Body::new(bytes))
}

/// What manager `from` has sent.
pub fn decode<T: Received>(body: &Body, from: PeerIndex) -> Result<T, RaftRefused> {
    let message: T = wire::decode(T::NAME, VERSION, MAX_BODY, body.as_bytes())
        .map_err(|error| RaftRefused::Malformed(error.to_string()))?;
    match message.fault(from) {
        None => Ok(message),
        Some(fault) => Err(RaftRefused::Malformed(format!("{}: {fault}", T::NAME))),
    }
}

/// A vote names who wants to lead, or leads: nobody speaks for another.
fn is_of(vote: &openraft::Vote<u64>, from: PeerIndex) -> bool {
    vote.leader_id.node_id == id(from)
}

fn membership_fault(membership: &Membership<u64, openraft::BasicNode>) -> Option<&'static str> {
    let configs = membership.get_joint_config();
    if configs.len() > 2 || configs.iter().any(|config| config.is_empty()) {
        return Some("its managers cannot be");
    }
    if membership.nodes().count() > MAX_MANAGERS {
        return Some("it has too many managers");
    }
    let known = |id: &u64| membership.get_node(id).is_some();
    if !configs.iter().flatten().all(known) {
        return Some("it has a voter without an address");
    }
    membership
        .nodes()
        .any(|(_, node)| Address::of_raft(node).is_err())
        .then_some("it has a manager without a node id")
}

impl Received for Append {
    const NAME: &'static str = "append-entries request";

    fn fault(&self, from: PeerIndex) -> Option<&'static str> {
        if !is_of(&self.vote, from) {
            return Some("it is of another leader than who sends it");
        }
        let mut next = self.prev_log_id.map_or(0, |id| id.index.saturating_add(1));
        for entry in &self.entries {
            if entry.log_id.index != next {
                return Some("its entries do not follow each other");
            }
            next = next.saturating_add(1);
            if let EntryPayload::Membership(membership) = &entry.payload
                && let Some(fault) = membership_fault(membership)
            {
                return Some(fault);
            }
        }
        None
    }
}

impl Received for Vote {
    const NAME: &'static str = "vote request";

    fn fault(&self, from: PeerIndex) -> Option<&'static str> {
        if !is_of(&self.vote, from) {
            Some("it is for another candidate than who sends it")
        } else if self.vote.committed {
            Some("it says that it is decided already")
        } else {
            None
        }
    }
}

impl Received for Chunk {
    const NAME: &'static str = "chunk of a snapshot";

    fn fault(&self, from: PeerIndex) -> Option<&'static str> {
        let end = self.offset.saturating_add(self.data.len() as u64);
        if !is_of(&self.vote, from) {
            Some("it is of another leader than who sends it")
        } else if end > snapshot::MAX_LEN as u64 {
            Some("it lies behind the end of any snapshot")
        } else if self.meta.snapshot_id.len() > 128 {
            Some("its name is too long")
        } else {
            membership_fault(self.meta.last_membership.membership())
                // The snapshot of a log that has no membership yet.
                .filter(|_| self.meta.last_membership.log_id().is_some())
        }
    }
}

impl Received for Appended {
    const NAME: &'static str = "append-entries answer";

    fn fault(&self, _: PeerIndex) -> Option<&'static str> {
        None
    }
}

impl Received for Voted {
    const NAME: &'static str = "vote answer";

    fn fault(&self, _: PeerIndex) -> Option<&'static str> {
        None
    }
}

impl Received for Chunked {
    const NAME: &'static str = "answer to a chunk";

    fn fault(&self, _: PeerIndex) -> Option<&'static str> {
        None
    }
}
