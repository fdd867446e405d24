//! What goes wrong with the store.

use std::{io, path::PathBuf};

use openraft::{AnyError, ErrorSubject, ErrorVerb, StorageIOError};
use overlay_cluster::log::wire::DecodeError;

use super::{StorageError, seal::Place};

/// Why a manager's state is not read or written. openraft stops at the first.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or made.
    #[error("open {path}: {source}; check the directory and its permissions")]
    Open { path: PathBuf, source: io::Error },
    /// Others may read the file.
    #[error(
        "{path} has mode {mode:04o} and others may open it: `chmod 600` it, and find out who did"
    )]
    Mode { path: PathBuf, mode: u32 },
    /// redb does not take the file.
    #[error("open {path}: {source}; stop the other agent that has it open, or restore a backup")]
    NotADatabase {
        path: PathBuf,
        source: Box<redb::DatabaseError>,
    },
    /// A backup must not replace what a manager has agreed to.
    #[error(
        "{path} has the state of a manager already: move it away first, so that nothing is lost"
    )]
    NotEmpty { path: PathBuf },
    /// A transaction failed: the disk is full or fails.
    #[error("the store of this manager fails: {0}; check the disk")]
    Database(Box<redb::Error>),
    /// A value does not open, or cannot be sealed.
    #[error("{place}: {reason}")]
    Seal { place: Place, reason: String },
    /// A value is none.
    #[error("{place}: {source}")]
    Decode { place: Place, source: DecodeError },
    /// The thread that works on the file ended.
    #[error("the store's task ended early: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// redb has an error for each of its calls.
macro_rules! from_redb {
    ($($error:ty),*) => {
        $(
            impl From<$error> for StoreError {
                fn from(error: $error) -> Self {
                    Self::Database(Box::new(error.into()))
                }
            }
        )*
    };
}

from_redb!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::SetDurabilityError
);

impl StoreError {
    /// As openraft wants to hear it.
    pub(super) fn raft(&self, subject: ErrorSubject<u64>, verb: ErrorVerb) -> StorageError {
        StorageIOError::new(subject, verb, AnyError::new(self)).into()
    }
}

/// A result as openraft wants it.
#[expect(
    clippy::result_large_err,
    reason = "openraft's traits give the error its size"
)]
pub(super) trait Raft<T> {
    fn reading(self, subject: ErrorSubject<u64>) -> Result<T, StorageError>;

    fn writing(self, subject: ErrorSubject<u64>) -> Result<T, StorageError>;
}

impl<T> Raft<T> for Result<T, StoreError> {
    fn reading(self, subject: ErrorSubject<u64>) -> Result<T, StorageError> {
        self.map_err(|error| error.raft(subject, ErrorVerb::Read))
    }

    fn writing(self, subject: ErrorSubject<u64>) -> Result<T, StorageError> {
        self.map_err(|error| error.raft(subject, ErrorVerb::Write))
    }
}
