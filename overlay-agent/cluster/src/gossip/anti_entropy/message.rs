//! The messages: one version byte, then postcard.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    gossip::{
        record::{MAX_RECORD, Signed, Version},
        store::{BUCKETS, Store},
    },
    id::NodeId,
};

/// Bytes of one message.
pub const MAX_MESSAGE: usize = 1 << 18;
/// Bytes of records or listings that are gathered into one message.
pub(super) const FULL: usize = 48 << 10;
/// Nodes that one message can say are down.
pub const MAX_DOWN: usize = 1024;
/// Records listed in one message.
pub(super) const MAX_LISTED: usize = 1500;

const VERSION: u8 = 1;

/// A peer that does not keep to the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// Longer than any message.
    #[error("{0} bytes are too many for an anti-entropy message, whose limit is {MAX_MESSAGE}")]
    Long(usize),
    /// Written by a newer agent.
    #[error("the anti-entropy message has another version than {VERSION}: update the older agent")]
    Version,
    /// Not the encoding of a message, or one whose parts contradict each other.
    #[error("the peer's anti-entropy message is malformed")]
    Malformed,
    /// An answer to another question.
    #[error("the peer answered another question than was asked")]
    Unexpected,
    /// The peer answers without end.
    #[error(
        "the exchange took more than {} messages and was given up",
        super::ask::MAX_ROUNDS
    )]
    Endless,
    /// Asked too often.
    #[error("too many anti-entropy messages at once: ask again later")]
    Busy,
    /// Asked by nobody of the cluster.
    #[error("{0} is not in the roster: anti-entropy is for members")]
    Stranger(NodeId),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Question {
    Root {
        hash: u64,
        /// Just started: who is down, the peer may say.
        fresh: bool,
    },
    Owners {
        /// Ascending. All owners in them follow.
        buckets: Vec<u8>,
        digests: Vec<(NodeId, u128)>,
    },
    Versions {
        records: Vec<Vec<u8>>,
        listings: Vec<Listing>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    InSync {
        down: Vec<NodeId>,
    },
    Buckets {
        hashes: Vec<u64>,
        down: Vec<NodeId>,
    },
    Differ {
        owners: Vec<NodeId>,
    },
    Delta {
        records: Vec<Vec<u8>>,
        /// Owner and place.
        wanted: Vec<(NodeId, u64)>,
        /// Listings that were gone through to their end.
        done: u32,
        /// Where in the next listing it stopped: this place was not looked at.
        resume: u64,
    },
}

/// What one side has of an owner between two places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listing {
    pub owner: NodeId,
    pub from: u64,
    /// Inclusive.
    pub to: u64,
    /// Ascending by place.
    pub entries: Vec<Listed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    pub place: u64,
    pub version: Version,
    /// First bits of the record's hash: tells two records of one version apart.
    pub tag: u32,
}

impl Listed {
    pub fn of(place: u64, signed: &Signed) -> Self {
        Self {
            place,
            version: signed.version(),
            tag: (signed.hash() >> 96) as u32,
        }
    }
}

pub(super) fn encode(message: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(message, vec![VERSION]).expect("a message has an encoding")
}

pub(super) fn decode<M: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<M, SyncError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(SyncError::Long(bytes.len()));
    }
    let (version, body) = bytes.split_first().ok_or(SyncError::Malformed)?;
    if *version != VERSION {
        return Err(SyncError::Version);
    }
    let (message, rest) = postcard::take_from_bytes(body).map_err(|_| SyncError::Malformed)?;
    match rest {
        [] => Ok(message),
        _ => Err(SyncError::Malformed),
    }
}

/// The records of a message. One that this agent cannot read, a newer one may have written.
pub(super) fn records(bytes: &[Vec<u8>]) -> Vec<Signed> {
    bytes
        .iter()
        .filter(|record| record.len() <= MAX_RECORD)
        .filter_map(|record| Signed::decode(record).ok())
        .collect()
}

/// One hash for a whole store.
pub(super) fn root(store: &Store) -> u64 {
    use sha2::{Digest as _, Sha256};
    let mut hash = Sha256::new();
    for bucket in store.buckets() {
        hash.update(bucket.to_be_bytes());
    }
    let hash: [u8; 32] = hash.finalize().into();
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_be_bytes(first)
}

pub(super) fn is_ascending<T: PartialOrd>(mut items: impl Iterator<Item = T>) -> bool {
    let Some(mut last) = items.next() else {
        return true;
    };
    items.all(|item| {
        let ascends = last < item;
        last = item;
        ascends
    })
}

pub(super) fn check_buckets(hashes: &[u64]) -> Result<(), SyncError> {
    match hashes.len() {
        BUCKETS => Ok(()),
        _ => Err(SyncError::Malformed),
    }
}
