//! What a manager keeps on disk: the log that openraft agrees on, and the state it leads to.
//!
//! One redb file holds the vote, the log and the last snapshot; everything in it is sealed (see
//! [`seal`]) and so useless without the manager's key. The state itself is in memory: at a start it
//! is the last snapshot, and openraft applies again what was committed since. An entry is on disk
//! before openraft counts it; a snapshot is on disk before the entries in it are purged.

mod database;
mod error;
mod log;
mod machine;
mod restore;
pub mod seal;

use std::{io::Cursor, path::Path, sync::Arc};

use overlay_cluster::{
    log::{
        command::{Command, Outcome},
        refusal::Refusal,
    },
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use self::{database::Database, seal::Seal};
pub use self::{
    error::StoreError,
    log::LogStore,
    machine::{Machine, SnapshotMaker, StateReader},
    restore::restore,
};

openraft::declare_raft_types!(
    /// What the managers agree on. A manager's id among them is its node index.
    pub Managers:
        D = Proposal,
        R = Applied,
        NodeId = u64,
        Node = openraft::BasicNode,
        Entry = openraft::Entry<Managers>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

type LogId = openraft::LogId<u64>;
type Vote = openraft::Vote<u64>;
type Entry = openraft::Entry<Managers>;
type Membership = openraft::StoredMembership<u64, openraft::BasicNode>;
type SnapshotMeta = openraft::SnapshotMeta<u64, openraft::BasicNode>;
type StorageError = openraft::StorageError<u64>;

/// A command, and the clock of the leader that proposes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Proposal {
    pub at: Timestamp,
    pub command: Command,
}

/// What came of an entry; `None` of those that openraft makes for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied(pub Option<Result<Outcome, Refusal>>);

/// Opens or makes the store in `path`, a file that only its owner may read.
pub fn open(path: &Path, seal: Arc<dyn Seal>) -> Result<(LogStore, Machine), StoreError> {
    let database = Arc::new(Database::open(path, seal)?);
    let machine = Machine::load(Arc::clone(&database))?;
    Ok((LogStore::new(database), machine))
}

#[cfg(test)]
mod tests;
