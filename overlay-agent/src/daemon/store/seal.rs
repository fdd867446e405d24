//! How the store's values are sealed: whoever opens the store brings the key.

use std::{
    error::Error,
    fmt,
    sync::{Mutex, PoisonError},
};

use overlay_cluster::{
    id::ClusterId,
    identity::{
        seal::{SealKind, Sealer, Subject},
        unlock::DataKey,
    },
};
use rand::rngs::StdRng;
use zeroize::Zeroizing;

/// Where a value belongs. It is sealed with its place, so that it opens in no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// An entry of the log, by its index.
    LogEntry(u64),
    /// The snapshot.
    Snapshot,
    Vote,
    /// The last log id that is committed.
    Committed,
    /// The last log id that was purged.
    Purged,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LogEntry(index) => write!(f, "log entry {index}"),
            Self::Snapshot => f.write_str("snapshot"),
            Self::Vote => f.write_str("vote"),
            Self::Committed => f.write_str("committed log id"),
            Self::Purged => f.write_str("purged log id"),
        }
    }
}

/// Why a value was not sealed or opened, in the words of what seals it.
pub type SealError = Box<dyn Error + Send + Sync>;

/// Authenticated encryption under the manager's key.
///
/// It need not notice that an older value was put back in its own place: that is what restoring a
/// backup does, and it is done by a command of its own.
pub trait Seal: Send + Sync + 'static {
    fn seal(&self, place: Place, plain: &[u8]) -> Result<Vec<u8>, SealError>;

    fn open(&self, place: Place, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError>;
}

/// Seals with the data key of a manager, which is itself locked on disk.
pub struct ManagerSeal {
    cluster: ClusterId,
    /// A seal draws a nonce and counts against the bound of its session.
    sealer: Mutex<(Sealer, StdRng)>,
}

impl ManagerSeal {
    /// `rng` is seeded by the operating system.
    pub fn new(key: &DataKey, cluster: ClusterId, mut rng: StdRng) -> Self {
        let sealer = key.sealer(&mut rng);
        Self {
            cluster,
            sealer: Mutex::new((sealer, rng)),
        }
    }

    const fn subject(&self, place: Place) -> Subject {
        let (kind, number) = match place {
            Place::LogEntry(index) => (SealKind::LogEntry, index),
            Place::Snapshot => (SealKind::Snapshot, 0),
            Place::Vote => (SealKind::Consensus, 0),
            Place::Committed => (SealKind::Consensus, 1),
            Place::Purged => (SealKind::Consensus, 2),
        };
        Subject {
            cluster: self.cluster,
            kind,
            number,
        }
    }
}

impl Seal for ManagerSeal {
    fn seal(&self, place: Place, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        // Whoever panicked in between has drawn a nonce and not used it.
        let mut sealer = self.sealer.lock().unwrap_or_else(PoisonError::into_inner);
        let (sealer, rng) = &mut *sealer;
        Ok(sealer.seal(self.subject(place), plain, rng)?)
    }

    fn open(&self, place: Place, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let sealer = self.sealer.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(sealer.0.open(self.subject(place), sealed)?)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    const PLACES: [Place; 6] = [
        Place::LogEntry(0),
        Place::LogEntry(1),
        Place::Snapshot,
        Place::Vote,
        Place::Committed,
        Place::Purged,
    ];

    fn seal(key: u64, cluster: u8) -> ManagerSeal {
        let key = DataKey::generate(&mut StdRng::seed_from_u64(key));
        let cluster = ClusterId::from_bytes([cluster; 16]);
        ManagerSeal::new(&key, cluster, StdRng::seed_from_u64(9))
    }

    #[test]
    fn a_value_opens_in_its_own_place_alone() {
        let seal = seal(1, 1);
        for place in PLACES {
            let sealed = seal.seal(place, b"a vote").unwrap();
            for other in PLACES {
                let opened = seal.open(other, &sealed);
                assert_eq!(opened.is_ok(), place == other, "{place} as {other}");
            }
        }
    }

    #[test]
    fn another_key_and_another_cluster_open_nothing() {
        let sealed = seal(1, 1).seal(Place::Vote, b"a vote").unwrap();
        let opened = seal(1, 1).open(Place::Vote, &sealed).unwrap();
        assert_eq!(opened.as_slice(), b"a vote");
        assert!(seal(2, 1).open(Place::Vote, &sealed).is_err());
        assert!(seal(1, 2).open(Place::Vote, &sealed).is_err());
        assert!(seal(1, 1).open(Place::Vote, &sealed[1..]).is_err());
    }
}
