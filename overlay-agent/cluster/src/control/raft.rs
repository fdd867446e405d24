//! What managers say to each other: how the log is agreed on, and the digests that came to one of
//! them and are for the leader.
//!
//! The messages of raft are bytes here, in the form of whoever runs raft; [`Head`] says of what
//! cluster and between which managers. Entries and snapshots hold the secrets of epochs.

use std::fmt;

use overlay_ebpf::abi::PeerIndex;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};
use zeroize::Zeroizing;

use super::{message::Message, nested};
use crate::{
    id::{ClusterId, NodeId},
    log::state::Cluster,
    rotation::Digest,
};

/// Bytes of one message of raft at the most. One command fits, and a chunk of a snapshot.
pub const MAX_BODY: usize = 400 * 1024;

/// Digests in one message at the most.
pub const MAX_DIGESTS: usize = 128;

/// Bytes that may hold secrets: zeroized when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Body(Zeroizing<Vec<u8>>);

impl Body {
    pub const fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.0.len())
    }
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Body;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Body, E> {
                Ok(Body(Zeroizing::new(bytes.to_vec())))
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

/// The log of which cluster, at its how many-th life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOf {
    pub cluster: ClusterId,
    /// Times the log was restored from a backup.
    pub incarnation: u32,
}

impl LogOf {
    pub fn new(cluster: &Cluster) -> Self {
        Self {
            cluster: cluster.id(),
            incarnation: cluster.version().incarnation,
        }
    }
}

impl fmt::Display for LogOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cluster {}, restored {} times",
            self.cluster, self.incarnation
        )
    }
}

/// Who says something to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The sender's log; `None` while it has none.
    pub log: Option<LogOf>,
    pub from: PeerIndex,
    pub to: PeerIndex,
}

/// What a manager says to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RaftRequest {
    /// Entries of the log, or none: the sender leads.
    Append { head: Head, body: Body },
    /// The sender wants to lead.
    Vote { head: Head, body: Body },
    /// One chunk of a snapshot.
    Snapshot { head: Head, body: Body },
    /// Digests that nodes reported to the sender.
    Digests {
        head: Head,
        digests: Vec<ReportedDigest>,
    },
}

/// The digest of a node, told by a manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedDigest {
    pub node: NodeId,
    #[serde(with = "nested::digest")]
    pub digest: Digest,
}

impl RaftRequest {
    pub const fn head(&self) -> &Head {
        match self {
            Self::Append { head, .. }
            | Self::Vote { head, .. }
            | Self::Snapshot { head, .. }
            | Self::Digests { head, .. } => head,
        }
    }
}

impl Message for RaftRequest {
    const NAME: &'static str = "request of a manager";
    const LIMITS: &'static [usize] = &[
        64 + MAX_BODY,
        64 + 1024,
        64 + MAX_BODY,
        64 + (18 + Digest::MAX_LEN) * MAX_DIGESTS,
    ];

    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Digests { digests, .. } if digests.len() > MAX_DIGESTS => {
                Err("it has more digests than one message may have")
            }
            _ => Ok(()),
        }
    }
}

/// The answer to a [`RaftRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RaftResponse {
    Append(Body),
    Vote(Body),
    Snapshot(Body),
    /// The digests were heard.
    Heard,
    Refused(RaftRefused),
}

impl Message for RaftResponse {
    const NAME: &'static str = "answer to a manager";
    const LIMITS: &'static [usize] = &[1024, 1024, 1024, 2, 8 * 1024];
}

/// Why a manager does not listen to another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum RaftRefused {
    /// The node that was asked has no log.
    #[error("the node that was asked is no manager, or has not begun to be one: it is tried again")]
    NoLog,
    /// The log of the node that was asked knows better than its TLS did.
    #[error("node {node} is no member any longer")]
    NotMember { node: NodeId },
    /// The caller takes the place of another.
    #[error("node {node} calls itself number {claimed}, and that is another: its state is damaged")]
    OtherIndex { node: NodeId, claimed: PeerIndex },
    /// It was for another manager.
    #[error(
        "the message is for manager {wanted}, and this is {own}: its address has changed hands"
    )]
    Misdirected { wanted: PeerIndex, own: PeerIndex },
    /// The managers were restored from a backup, and one of the two was not there.
    #[error(
        "the log here is that of {here}, that of the caller of {there}: the manager with the older \
         one removes its state and is promoted again"
    )]
    OtherLog { here: LogOf, there: LogOf },
    /// Not a message of raft in the form of this release.
    #[error("the message is not understood ({0}): run the same release on all managers")]
    Malformed(String),
    /// A disk fails, or the node stops.
    #[error("the manager that was asked stops: {0}")]
    Stopped(String),
}

/// Whether a manager listens to another, as its own log has it. That the caller is a manager, TLS
/// has asked what this node knows of the roster now: a log that lags knows new managers late, and
/// learns of them from them.
pub fn check(
    head: &Head,
    caller: NodeId,
    own: PeerIndex,
    log: Option<&Cluster>,
) -> Result<(), RaftRefused> {
    if head.to != own {
        return Err(RaftRefused::Misdirected {
            wanted: head.to,
            own,
        });
    }
    let Some(log) = log else {
        return Ok(());
    };
    let (here, there) = (LogOf::new(log), head.log);
    if let Some(there) = there.filter(|there| *there != here) {
        return Err(RaftRefused::OtherLog { here, there });
    }
    let roster = log.roster();
    if roster.evicted().contains_key(&caller) {
        return Err(RaftRefused::NotMember { node: caller });
    }
    match roster.get(&caller) {
        Some(member) if member.index != head.from => Err(RaftRefused::OtherIndex {
            node: caller,
            claimed: head.from,
        }),
        _ => Ok(()),
    }
}
