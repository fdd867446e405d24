//! A store made from a backup.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use openraft::{BasicNode, CommittedLeaderId};
use overlay_cluster::log::state::State;

use super::{
    LogId, Membership, SnapshotMeta, Vote,
    database::{Database, Sync},
    error::StoreError,
    machine::Stored,
    seal::{Place, Seal},
};

/// Makes the store of manager `id` at `node` from a backup, which is an encoded [`State`]. It is the
/// only manager then; others join it again. Its next command is `Restore`, which advances the
/// incarnation.
///
/// The backup stands as the snapshot of a log whose first entry is purged: a manager that joins has
/// no other way to it than that snapshot.
pub async fn restore(
    path: &Path,
    seal: Arc<dyn Seal>,
    id: u64,
    node: BasicNode,
    backup: &State,
) -> Result<(), StoreError> {
    let database = Arc::new(Database::open(path, seal)?);
    let used = database.get::<Vote>(Place::Vote)?.is_some()
        || database.get::<LogId>(Place::Purged)?.is_some();
    if used {
        return Err(StoreError::NotEmpty {
            path: path.to_owned(),
        });
    }
    let last = LogId::new(CommittedLeaderId::new(1, id), 1);
    let managers =
        openraft::Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, node)]));
    let snapshot = Stored {
        meta: SnapshotMeta {
            last_log_id: Some(last),
            last_membership: Membership::new(Some(last), managers),
            snapshot_id: last.to_string(),
        },
        state: backup.encode(),
    };
    let changes = vec![
        database.put(Place::Snapshot, &snapshot)?,
        database.put(Place::Purged, &last)?,
        database.put(Place::Committed, &Some(last))?,
        database.put(Place::Vote, &Vote::new_committed(1, id))?,
    ];
    database.change(changes, Sync::Now).await
}
