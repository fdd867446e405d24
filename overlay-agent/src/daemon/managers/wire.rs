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
    let sizes = 1..=2;
    if !sizes.contains(&configs.len()) || configs.iter().any(|config| config.is_empty()) {
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::{CommittedLeaderId, Entry, LogId, SnapshotMeta, StoredMembership};
    use overlay_cluster::{id::NodeId, log::command::Command, time::Timestamp};
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::daemon::store::Proposal;

    fn manager(n: u32) -> PeerIndex {
        PeerIndex::new(n).expect("an index")
    }

    fn log_id(index: u64) -> LogId<u64> {
        LogId::new(CommittedLeaderId::new(3, 1), index)
    }

    fn managers(ids: &[u64]) -> Membership<u64, openraft::BasicNode> {
        let node = |id: &u64| {
            let address = Address {
                node: NodeId::from_bytes([*id as u8; 16]),
                control: ([192, 0, 2, *id as u8], 7946).into(),
            };
            (*id, address.to_raft())
        };
        let voters = BTreeSet::from_iter(ids.iter().copied());
        Membership::new(
            vec![voters],
            ids.iter().map(node).collect::<BTreeMap<_, _>>(),
        )
    }

    fn append(entries: u64) -> Append {
        let command = Command::Leave {
            node: NodeId::from_bytes([4; 16]),
        };
        let proposal = |index| Entry {
            log_id: log_id(index),
            payload: EntryPayload::Normal(Proposal {
                at: Timestamp::from_secs(5),
                command: command.clone(),
            }),
        };
        let mut entries: Vec<_> = (8..8 + entries).map(proposal).collect();
        if let Some(last) = entries.last_mut() {
            last.payload = EntryPayload::Membership(managers(&[1, 2, 3]));
        }
        Append {
            vote: openraft::Vote::new_committed(3, 1),
            prev_log_id: Some(log_id(7)),
            entries,
            leader_commit: Some(log_id(6)),
        }
    }

    fn chunk() -> Chunk {
        Chunk {
            vote: openraft::Vote::new_committed(3, 1),
            meta: SnapshotMeta {
                last_log_id: Some(log_id(6)),
                last_membership: StoredMembership::new(Some(log_id(1)), managers(&[1])),
                snapshot_id: "3-1-6".into(),
            },
            offset: 1 << 20,
            data: vec![5; 1000],
            done: true,
        }
    }

    fn vote() -> Vote {
        Vote::new(openraft::Vote::new(4, 1), Some(log_id(7)))
    }

    fn fault<T: Received + Serialize>(message: &T, from: u32) -> Option<String> {
        let body = encode(message).expect("short");
        decode::<T>(&body, manager(from))
            .err()
            .map(|it| it.to_string())
    }

    #[test]
    fn messages_are_read_as_they_are_written() {
        let body = encode(&append(3)).expect("short");
        let again: Append = decode(&body, manager(1)).expect("good");
        assert_eq!(encode(&again), Ok(body));
        let body = encode(&chunk()).expect("short");
        assert_eq!(decode::<Chunk>(&body, manager(1)), Ok(chunk()));
        let body = encode(&vote()).expect("short");
        assert_eq!(decode::<Vote>(&body, manager(1)), Ok(vote()));
        let answer: Chunked = Ok(InstallSnapshotResponse {
            vote: openraft::Vote::new(4, 1),
        });
        let body = encode(&answer).expect("short");
        assert_eq!(decode::<Chunked>(&body, manager(1)), Ok(answer));
    }

    #[test]
    fn nobody_speaks_for_another_manager() {
        for fault in [fault(&append(1), 2), fault(&vote(), 2), fault(&chunk(), 2)] {
            assert!(fault.expect("refused").contains("who sends it"));
        }
        let mut decided = vote();
        decided.vote.committed = true;
        assert!(fault(&decided, 1).expect("refused").contains("decided"));
    }

    #[test]
    fn what_openraft_would_believe_is_checked() {
        let mut gap = append(3);
        gap.entries.remove(1);
        assert!(fault(&gap, 1).expect("refused").contains("follow"));
        let mut nobody = append(2);
        let voter = vec![BTreeSet::from([1])];
        nobody.entries[1].payload = EntryPayload::Membership(Membership::new(
            voter,
            BTreeMap::from([(1, openraft::BasicNode::new("192.0.2.1:7946"))]),
        ));
        assert!(fault(&nobody, 1).expect("refused").contains("node id"));
        let mut empty = append(1);
        empty.entries[0].payload = EntryPayload::Membership(Membership::default());
        assert!(fault(&empty, 1).expect("refused").contains("cannot be"));
        empty.entries[0].payload = EntryPayload::Membership(Membership::new(
            vec![BTreeSet::new()],
            BTreeMap::<u64, openraft::BasicNode>::new(),
        ));
        assert!(fault(&empty, 1).expect("refused").contains("cannot be"));
        let mut far = chunk();
        far.offset = u64::MAX;
        assert!(fault(&far, 1).expect("refused").contains("behind the end"));
        let long = Chunk {
            data: vec![0; MAX_BODY],
            ..chunk()
        };
        assert!(encode(&long).is_err());
    }

    proptest! {
        #[test]
        fn noise_is_refused_or_read_without_panic(
            mut bytes in vec(any::<u8>(), 0..300),
            from in 1..4u32,
            versioned: bool,
        ) {
            if versioned && !bytes.is_empty() {
                bytes[0] = VERSION;
            }
            any_message(bytes, from);
        }

        #[test]
        fn changed_messages_are_refused_or_read_without_panic(
            which in 0..3,
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
            from in 1..4u32,
        ) {
            let body = match which {
                0 => encode(&append(3)),
                1 => encode(&chunk()),
                _ => encode(&vote()),
            };
            let mut bytes = body.expect("short").as_bytes().to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            any_message(bytes, from);
        }
    }

    fn any_message(bytes: Vec<u8>, from: u32) {
        let body = Body::new(bytes.into());
        let from = manager(from);
        if let Ok(message) = decode::<Append>(&body, from) {
            assert_eq!(message.vote.leader_id.node_id, id(from));
        }
        let _ = decode::<Chunk>(&body, from);
        let _ = decode::<Vote>(&body, from);
        let _ = decode::<Appended>(&body, from);
        let _ = decode::<Voted>(&body, from);
        let _ = decode::<Chunked>(&body, from);
    }
}
