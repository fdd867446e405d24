//! How the store's values are sealed: whoever opens the store brings the key.

use std::{error::Error, fmt};

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
