//! The file: two tables of sealed values, and the thread that works on them.

use std::{
    fs::OpenOptions,
    ops::{Bound, RangeBounds},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
};

use overlay_cluster::log::wire;
use redb::{
    Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition, backends::FileBackend,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    error::StoreError,
    seal::{Place, Seal},
};

/// Log entries by index.
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
/// The rest, by the name of the place.
const REST: TableDefinition<&str, &[u8]> = TableDefinition::new("rest");

/// Of values in the file. A reader refuses others.
const VERSION: u8 = 1;

/// Bytes of a value at the most: a snapshot with what openraft says of it.
const MAX_LEN: usize = overlay_cluster::log::snapshot::MAX_LEN + (1 << 20);

/// Memory for pages of the file. The default of redb is 1 GiB.
const CACHE: usize = 8 << 20;

/// A change of the file. All changes of one call are made together or not at all.
#[derive(Debug)]
pub enum Change {
    Put(Place, Vec<u8>),
    /// Deletes log entries in this range.
    Delete(Bound<u64>, Bound<u64>),
}

/// Whether a change must be on disk when the call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// It must.
    Now,
    /// It is lost with the power, and nothing else is.
    Later,
}

pub struct Database {
    file: redb::Database,
    seal: Arc<dyn Seal>,
}

/// The key of a place that is not in the log.
const fn key(place: Place) -> Option<&'static str> {
    match place {
        Place::LogEntry(_) => None,
        Place::Snapshot => Some("snapshot"),
        Place::Vote => Some("vote"),
        Place::Committed => Some("committed"),
        Place::Purged => Some("purged"),
    }
}

impl Database {
    pub fn open(path: &Path, seal: Arc<dyn Seal>) -> Result<Self, StoreError> {
        let open = |source| StoreError::Open {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(open)?;
        let mode = file.metadata().map_err(open)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            let path = path.to_owned();
            return Err(StoreError::Mode { path, mode });
        }
        let refused = |source| StoreError::NotADatabase {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let file = redb::Builder::new()
            .set_cache_size(CACHE)
            .create_with_backend(FileBackend::new(file).map_err(refused)?)
            .map_err(refused)?;
        let transaction = file.begin_write()?;
        transaction.open_table(LOG)?;
        transaction.open_table(REST)?;
        transaction.commit()?;
        Ok(Self { file, seal })
    }

    /// `value`, sealed for its place.
    pub fn put(&self, place: Place, value: &impl Serialize) -> Result<Change, StoreError> {
        let sealed = self.seal.seal(place, &wire::encode(VERSION, value));
        let sealed = sealed.map_err(|reason| StoreError::Seal {
            place,
            reason: reason.to_string(),
        })?;
        Ok(Change::Put(place, sealed))
    }

    fn open_value<T: DeserializeOwned>(
        &self,
        place: Place,
        sealed: &[u8],
    ) -> Result<T, StoreError> {
        let plain = self.seal.open(place, sealed);
        let plain = plain.map_err(|reason| StoreError::Seal {
            place,
            reason: reason.to_string(),
        })?;
        wire::decode("value", VERSION, MAX_LEN, &plain)
            .map_err(|source| StoreError::Decode { place, source })
    }

    /// What is in a place other than the log.
    pub fn get<T: DeserializeOwned>(&self, place: Place) -> Result<Option<T>, StoreError> {
        let Some(key) = key(place) else {
            return Ok(None);
        };
        let table = self.file.begin_read()?.open_table(REST)?;
        let sealed = table.get(key)?;
        sealed
            .map(|sealed| self.open_value(place, sealed.value()))
            .transpose()
    }

    /// The first `limit` entries of a range, in order.
    pub fn entries<T: DeserializeOwned>(
        &self,
        range: impl RangeBounds<u64>,
        limit: usize,
    ) -> Result<Vec<T>, StoreError> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        if is_empty(bounds) {
            return Ok(Vec::new());
        }
        let table = self.file.begin_read()?.open_table(LOG)?;
        table
            .range::<u64>(bounds)?
            .take(limit)
            .map(|entry| {
                let (index, sealed) = entry?;
                self.open_value(Place::LogEntry(index.value()), sealed.value())
            })
            .collect()
    }

    pub fn last_entry<T: DeserializeOwned>(&self) -> Result<Option<T>, StoreError> {
        let table = self.file.begin_read()?.open_table(LOG)?;
        let last = table.last()?;
        last.map(|(index, sealed)| self.open_value(Place::LogEntry(index.value()), sealed.value()))
            .transpose()
    }

    fn write(&self, changes: Vec<Change>, sync: Sync) -> Result<(), StoreError> {
        let mut transaction = self.file.begin_write()?;
        transaction.set_durability(match sync {
            Sync::Now => Durability::Immediate,
            Sync::Later => Durability::None,
        })?;
        {
            let mut log = transaction.open_table(LOG)?;
            let mut rest = transaction.open_table(REST)?;
            for change in changes {
                match change {
                    Change::Put(Place::LogEntry(index), sealed) => {
                        log.insert(index, sealed.as_slice())?;
                    }
                    Change::Put(place, sealed) => {
                        if let Some(key) = key(place) {
                            rest.insert(key, sealed.as_slice())?;
                        }
                    }
                    Change::Delete(from, to) => {
                        log.retain_in::<u64, _>((from, to), |_, _| false)?;
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Makes the changes on a thread that may wait for the disk.
    pub async fn change(
        self: &Arc<Self>,
        changes: Vec<Change>,
        sync: Sync,
    ) -> Result<(), StoreError> {
        let database = Arc::clone(self);
        tokio::task::spawn_blocking(move || database.write(changes, sync)).await?
    }
}

/// redb panics at a range that ends before it begins.
fn is_empty((from, to): (Bound<u64>, Bound<u64>)) -> bool {
    let first = match from {
        Bound::Included(first) => Some(first),
        Bound::Excluded(before) => before.checked_add(1),
        Bound::Unbounded => Some(0),
    };
    let last = match to {
        Bound::Included(last) => Some(last),
        Bound::Excluded(end) => end.checked_sub(1),
        Bound::Unbounded => Some(u64::MAX),
    };
    match (first, last) {
        (Some(first), Some(last)) => first > last,
        _ => true,
    }
}
