//! The state of the managers, fed by openraft, and its snapshots.

use std::{
    io::Cursor,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use openraft::{
    EntryPayload, ErrorSubject, OptionalSend, RaftSnapshotBuilder, Snapshot,
    storage::RaftStateMachine,
};
use overlay_cluster::log::state::State;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use zeroize::Zeroizing;

use super::{
    Applied, Entry, LogId, Managers, Membership, Proposal, SnapshotMeta, StorageError,
    database::{Database, Sync},
    error::{Raft as _, StoreError},
    seal::Place,
};

/// The state, and how far in the log it is.
#[derive(Debug, Clone, Default)]
struct Present {
    state: State,
    last: Option<LogId>,
    membership: Membership,
}

struct Shared {
    database: Arc<Database>,
    present: RwLock<Present>,
    /// Sends the revision of the cluster after each change.
    revision: watch::Sender<u64>,
    /// Where in the log the snapshot on disk is. Locked while one is written: openraft may install
    /// one while it makes another, and the older must not replace the newer, whose entries are
    /// purged.
    stored: Mutex<Option<LogId>>,
}

/// A snapshot on disk.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    pub meta: SnapshotMeta,
    /// As [`State::encode`] writes it.
    pub state: Zeroizing<Vec<u8>>,
}

impl Shared {
    // A panic while the state was locked stops openraft; readers still see what there was.
    fn read(&self) -> RwLockReadGuard<'_, Present> {
        self.present.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Present> {
        self.present.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self) {
        let revision = revision(&self.read().state);
        self.revision.send_replace(revision);
    }

    async fn store(&self, snapshot: &Stored) -> Result<(), StoreError> {
        let mut stored = self.stored.lock().await;
        if snapshot.meta.last_log_id < *stored {
            return Ok(());
        }
        let put = self.database.put(Place::Snapshot, snapshot)?;
        self.database.change(vec![put], Sync::Now).await?;
        *stored = snapshot.meta.last_log_id;
        Ok(())
    }
}

fn revision(state: &State) -> u64 {
    state.cluster().map_or(0, |cluster| cluster.revision())
}

/// Reads the state that this manager has applied; on another than the leader it may lag.
#[derive(Clone)]
pub struct StateReader {
    shared: Arc<Shared>,
}

impl StateReader {
    /// What `read` makes of the state. No command is applied meanwhile: be quick.
    pub fn with<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.shared.read().state)
    }

    /// Tells when the state has changed: its value is the revision, 0 without a cluster.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.revision.subscribe()
    }
}

/// The state machine of openraft.
pub struct Machine {
    shared: Arc<Shared>,
}

impl Machine {
    /// Begins with the last snapshot.
    pub(super) fn load(database: Arc<Database>) -> Result<Self, StoreError> {
        let stored: Option<Stored> = database.get(Place::Snapshot)?;
        let present = match stored {
            None => Present::default(),
            Some(Stored { meta, state }) => Present {
                state: decode(&state)?,
                last: meta.last_log_id,
                membership: meta.last_membership,
            },
        };
        let revision = watch::Sender::new(revision(&present.state));
        let shared = Arc::new(Shared {
            database,
            stored: Mutex::new(present.last),
            present: RwLock::new(present),
            revision,
        });
        Ok(Self { shared })
    }

    /// Keeps a snapshot on disk, unless it has a newer one.
    #[cfg(test)]
    pub(super) async fn keep(&self, snapshot: Snapshot<Managers>) -> Result<(), StoreError> {
        let stored = Stored {
            meta: snapshot.meta,
            state: snapshot.snapshot.into_inner().into(),
        };
        self.shared.store(&stored).await
    }

    pub fn reader(&self) -> StateReader {
        StateReader {
            shared: Arc::clone(&self.shared),
        }
    }
}

fn decode(bytes: &[u8]) -> Result<State, StoreError> {
    State::decode(bytes).map_err(|source| StoreError::Decode {
        place: Place::Snapshot,
        source,
    })
}

impl RaftStateMachine<Managers> for Machine {
    type SnapshotBuilder = SnapshotMaker;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        let present = self.shared.read();
        Ok((present.last, present.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut applied = Vec::new();
        {
            let mut present = self.shared.write();
            for Entry { log_id, payload } in entries {
                present.last = Some(log_id);
                applied.push(Applied(match payload {
                    EntryPayload::Blank => None,
                    EntryPayload::Normal(Proposal { at, command }) => {
                        Some(present.state.apply(at, command))
                    }
                    EntryPayload::Membership(membership) => {
                        present.membership = Membership::new(Some(log_id), membership);
                        None
                    }
                }));
            }
        }
        self.shared.announce();
        Ok(applied)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotMaker {
        SnapshotMaker {
            shared: Arc::clone(&self.shared),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let subject = || ErrorSubject::Snapshot(Some(meta.signature()));
        let bytes = Zeroizing::new(snapshot.into_inner());
        // Decoded before it is stored: one that does not decode must not replace the one on disk.
        let state = decode(&bytes).reading(subject())?;
        let stored = Stored {
            meta: meta.clone(),
            state: bytes,
        };
        self.shared.store(&stored).await.writing(subject())?;
        *self.shared.write() = Present {
            state,
            last: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        self.shared.announce();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Managers>>, StorageError> {
        let stored: Option<Stored> = self
            .shared
            .database
            .get(Place::Snapshot)
            .reading(ErrorSubject::Snapshot(None))?;
        Ok(stored.map(snapshot))
    }
}

fn snapshot(Stored { meta, mut state }: Stored) -> Snapshot<Managers> {
    Snapshot {
        meta,
        snapshot: Box::new(Cursor::new(std::mem::take(&mut *state))),
    }
}

/// Makes a snapshot of the state as it is when openraft asks.
pub struct SnapshotMaker {
    shared: Arc<Shared>,
}

impl RaftSnapshotBuilder<Managers> for SnapshotMaker {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Managers>, StorageError> {
        let stored = {
            let present = self.shared.read();
            // Equal log ids give equal bytes, so the log id names the snapshot.
            let snapshot_id = match present.last {
                Some(last) => last.to_string(),
                None => "empty".to_owned(),
            };
            Stored {
                meta: SnapshotMeta {
                    last_log_id: present.last,
                    last_membership: present.membership.clone(),
                    snapshot_id,
                },
                state: present.state.encode(),
            }
        };
        let subject = ErrorSubject::Snapshot(Some(stored.meta.signature()));
        self.shared.store(&stored).await.writing(subject)?;
        Ok(snapshot(stored))
    }
}
