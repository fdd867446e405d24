//! What a node tells the managers of its epoch: how many peers are ready, which are not, and why.

use std::fmt;

use overlay_ebpf::abi::{Epoch, PeerIndex};
use serde::{Deserialize, Serialize};

use crate::id::{EpochName, Generation};

/// Why a pair is not ready in an epoch, as one of its two nodes sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lag {
    /// The peer has published no key for the epoch: its agent is dead, or does not know the epoch.
    NoKey,
    /// The peer's key is of small order.
    BrokenKey,
    /// This node's kernel does not hold the SAs yet.
    NotInstalled,
    /// The peer has not acknowledged that it can receive.
    NotAcknowledged,
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoKey => "has published no key for the epoch",
            Self::BrokenKey => "has published a broken key",
            Self::NotInstalled => "is not installed in the kernel yet",
            Self::NotAcknowledged => "has not acknowledged that it can receive",
        })
    }
}

/// One report of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    pub generation: Generation,
    /// Grows with every digest of a generation.
    pub sequence: u64,
    /// The epoch that is being staged, or the active one.
    pub epoch: EpochName,
    /// Whether the node has the secrets of the epoch.
    pub secrets: bool,
    /// Peers that share an encrypted network with the node.
    pub peers: u32,
    /// Those that are ready in both directions.
    pub ready: u32,
    /// All others, if they are at most [`Self::LAGGARDS`]; else empty.
    pub laggards: Vec<(PeerIndex, Lag)>,
    /// Oldest epoch of which the node's kernel holds an SA.
    pub oldest: Option<Epoch>,
    /// An epoch whose SAs come to their limit of packets or bytes.
    pub exhausted: Option<Epoch>,
}

/// Bytes that are no [`Digest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The first byte names a version that this release does not read.
    #[error("digest of version {0}: this release reads version {version}; upgrade the older node", version = Digest::VERSION)]
    Version(u8),
    /// Nothing, or bytes that do not follow the encoding.
    #[error("malformed digest: {0}")]
    Malformed(#[from] postcard::Error),
    /// More follows after the digest.
    #[error("{0} bytes follow a digest")]
    Trailing(usize),
    /// Longer than any that this release writes.
    #[error("digest of {0} bytes: at most {max} are possible", max = Digest::MAX_LEN)]
    TooLong(usize),
    /// The list is too long, not ascending, or does not fit the counts.
    #[error("the laggards of a digest do not fit its {ready} of {peers} ready peers")]
    Laggards { ready: u32, peers: u32 },
}

impl Digest {
    pub const VERSION: u8 = 1;
    /// Laggards in one digest. When more lag, their names are of no use yet.
    pub const LAGGARDS: usize = 256;
    pub const MAX_LEN: usize = 1200;

    /// Version byte, then postcard.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![Self::VERSION];
        bytes.extend(postcard::to_stdvec(self).expect("plain fields encode"));
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DigestError> {
        use DigestError as E;
        if bytes.len() > Self::MAX_LEN {
            return Err(E::TooLong(bytes.len()));
        }
        let (version, body) = bytes
            .split_first()
            .ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        if *version != Self::VERSION {
            return Err(E::Version(*version));
        }
        let (digest, rest) = postcard::take_from_bytes::<Self>(body)?;
        if !rest.is_empty() {
            return Err(E::Trailing(rest.len()));
        }
        digest.check()?;
        Ok(digest)
    }

    /// Peers that are not ready.
    pub const fn lagging(&self) -> u32 {
        self.peers.saturating_sub(self.ready)
    }

    fn check(&self) -> Result<(), DigestError> {
        let listed = self.laggards.len();
        let all = usize::try_from(self.lagging()).unwrap_or(usize::MAX);
        let fits = self.ready <= self.peers
            && self.laggards.is_sorted_by(|(a, _), (b, _)| a < b)
            && if all <= Self::LAGGARDS {
                listed == all
            } else {
                listed == 0
            };
        if fits {
            Ok(())
        } else {
            Err(DigestError::Laggards {
                ready: self.ready,
                peers: self.peers,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*, sample::select};

    use super::*;

    prop_compose! {
        fn any_digest()(
            (generation, sequence, secrets) in any::<(u64, u64, bool)>(),
            (incarnation, number, hash) in any::<(u32, u32, [u8; 8])>(),
            ready in 0..100_000u32,
            laggards in btree_map(
                1..=PeerIndex::MAX,
                select(vec![Lag::NoKey, Lag::BrokenKey, Lag::NotInstalled, Lag::NotAcknowledged]),
                0..=Digest::LAGGARDS,
            ),
            more in prop_oneof![Just(0), Just(300)],
            oldest: Option<u32>,
            exhausted: Option<u32>,
        ) -> Digest {
            let lagging = if more > 0 { more } else { laggards.len() as u32 };
            Digest {
                generation: Generation(generation),
                sequence,
                epoch: EpochName { incarnation, number, hash },
                secrets,
                peers: ready + lagging,
                ready,
                laggards: laggards
                    .into_iter()
                    .filter(|_| more == 0)
                    .map(|(index, lag)| (PeerIndex::new(index).expect("in range"), lag))
                    .collect(),
                oldest: oldest.map(Epoch::new),
                exhausted: exhausted.map(Epoch::new),
            }
        }
    }

    proptest! {
        #[test]
        fn digests_are_read_as_they_are_written(digest in any_digest()) {
            let bytes = digest.to_bytes();
            prop_assert!(bytes.len() <= Digest::MAX_LEN, "{} bytes", bytes.len());
            prop_assert_eq!(Digest::from_bytes(&bytes), Ok(digest));
            for len in 0..bytes.len() {
                prop_assert!(Digest::from_bytes(&bytes[..len]).is_err());
            }
        }

        #[test]
        fn noise_is_refused_or_read_without_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200), versioned: bool,
        ) {
            if versioned && !bytes.is_empty() {
                bytes[0] = Digest::VERSION;
            }
            if let Ok(digest) = Digest::from_bytes(&bytes) {
                prop_assert_eq!(Digest::from_bytes(&digest.to_bytes()), Ok(digest));
            }
        }
    }
}
