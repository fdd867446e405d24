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

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        control::{
            message::{self, MessageError},
            samples::{CLUSTER, World, node},
        },
        id::{EpochName, Generation},
        log::{command::Command, samples::tokens},
    };

    fn index(n: u32) -> PeerIndex {
        PeerIndex::new(n).expect("an index")
    }

    fn head(from: u32, incarnation: u32) -> Head {
        let log = Some(LogOf {
            cluster: CLUSTER,
            incarnation,
        });
        Head {
            log,
            from: index(from),
            to: index(1),
        }
    }

    fn digest(sequence: u64) -> Digest {
        Digest {
            generation: Generation(sequence),
            sequence,
            epoch: EpochName {
                incarnation: 0,
                number: 1,
                hash: [1; 8],
            },
            secrets: true,
            peers: 0,
            ready: 0,
            laggards: Vec::new(),
            oldest: None,
            exhausted: None,
        }
    }

    prop_compose! {
        fn any_request()(
            kind in 0..4,
            bytes in vec(any::<u8>(), 0..600),
            (from, to) in (1..=PeerIndex::MAX, 1..=PeerIndex::MAX),
            incarnation: Option<u32>,
            sequence: u64,
        ) -> RaftRequest {
            let head = Head {
                log: incarnation.map(|incarnation| LogOf { cluster: CLUSTER, incarnation }),
                from: index(from),
                to: index(to),
            };
            let body = Body::new(bytes.into());
            match kind {
                0 => RaftRequest::Append { head, body },
                1 => RaftRequest::Vote { head, body },
                2 => RaftRequest::Snapshot { head, body },
                _ => RaftRequest::Digests {
                    head,
                    digests: vec![ReportedDigest { node: node(2), digest: digest(sequence) }; 3],
                },
            }
        }
    }

    proptest! {
        #[test]
        fn requests_are_read_as_they_are_written(request in any_request()) {
            let bytes = message::encode(&request).expect("short");
            let decoded = message::decode::<RaftRequest>(&bytes);
            prop_assert_eq!(decoded.as_ref(), Ok(&request));
            for len in 0..bytes.len() {
                prop_assert!(message::decode::<RaftRequest>(&bytes[..len]).is_err());
            }
        }
    }

    #[test]
    fn the_longest_messages_fit_and_longer_ones_do_not() {
        let request = |len| RaftRequest::Append {
            head: head(PeerIndex::MAX, u32::MAX),
            body: Body::new(vec![0; len].into()),
        };
        assert!(message::encode(&request(MAX_BODY)).is_ok());
        let long = message::encode(&request(MAX_BODY + 100));
        assert!(matches!(long, Err(MessageError::TooLong { .. })));
        // One command, with room for what raft says of it.
        const { assert!(Command::MAX_LEN + 1024 < MAX_BODY) };
        let digests = |count| RaftRequest::Digests {
            head: head(2, 0),
            digests: vec![
                ReportedDigest {
                    node: node(2),
                    digest: digest(u64::MAX),
                };
                count
            ],
        };
        assert!(message::encode(&digests(MAX_DIGESTS)).is_ok());
        let many = message::encode(&digests(MAX_DIGESTS + 1)).expect("short");
        let many = message::decode::<RaftRequest>(&many);
        assert!(matches!(many, Err(MessageError::Unsound { .. })));
    }

    #[test]
    fn debug_prints_no_byte_of_a_body() {
        let request = RaftRequest::Append {
            head: head(2, 0),
            body: Body::new(vec![0xab; 3].into()),
        };
        let text = format!("{request:?}");
        assert!(
            text.contains("Body(3 bytes)") && !text.contains("171"),
            "{text}"
        );
    }

    #[test]
    fn a_manager_listens_to_managers_of_its_own_log() {
        let mut world = World::new();
        world.admit(2, &world.manager.clone());
        let heard = |world: &World, head: Head, from: u8| {
            check(&head, node(from), index(1), world.state.cluster())
        };
        assert_eq!(heard(&world, head(2, 0), 2), Ok(()));
        // Its log may lag: TLS knows of node 3.
        assert_eq!(heard(&world, head(3, 0), 3), Ok(()));
        let fresh = Head {
            log: None,
            ..head(2, 0)
        };
        assert_eq!(heard(&world, fresh, 2), Ok(()));
        assert_eq!(check(&head(2, 9), node(2), index(1), None), Ok(()));

        let refusals = [
            (head(2, 1), 2, "removes its state"),
            (head(1, 0), 2, "that is another"),
            (
                Head {
                    to: index(4),
                    ..head(2, 0)
                },
                2,
                "for manager 4",
            ),
        ];
        for (head, from, words) in refusals {
            let refused = heard(&world, head, from).expect_err(words).to_string();
            assert!(refused.contains(words), "{refused}");
        }
        world.apply(Command::Evict {
            node: node(2),
            tokens: tokens(9),
        });
        let refused = heard(&world, head(2, 0), 2);
        assert_eq!(refused, Err(RaftRefused::NotMember { node: node(2) }));
    }
}
