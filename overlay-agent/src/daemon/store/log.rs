//! The log of openraft in the file.

use std::{
    fmt::Debug,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use openraft::{
    ErrorSubject, LogState, OptionalSend, RaftLogReader,
    storage::{LogFlushed, RaftLogStorage},
};

use super::{
    Entry, LogId, Managers, StorageError, Vote,
    database::{Change, Database, Sync},
    error::Raft as _,
    seal::Place,
};

/// Entries that one read for replication gives at the most.
const BATCH: usize = 256;

/// The log, and the vote beside it.
#[derive(Clone)]
pub struct LogStore {
    database: Arc<Database>,
}

impl LogStore {
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self { database }
    }
}

impl RaftLogReader<Managers> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.database
            .entries(range, usize::MAX)
            .reading(ErrorSubject::Logs)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.database
            .entries(start..end, BATCH)
            .reading(ErrorSubject::Logs)
    }
}

impl RaftLogStorage<Managers> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Managers>, StorageError> {
        let purged: Option<LogId> = self
            .database
            .get(Place::Purged)
            .reading(ErrorSubject::Logs)?;
        let last: Option<Entry> = self.database.last_entry().reading(ErrorSubject::Logs)?;
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last.map(|entry| entry.log_id).or(purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let put = self.database.put(Place::Vote, vote);
        let put = put.writing(ErrorSubject::Vote)?;
        self.database
            .change(vec![put], Sync::Now)
            .await
            .writing(ErrorSubject::Vote)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.database.get(Place::Vote).reading(ErrorSubject::Vote)
    }

    /// A hint of how far to apply at a start; openraft learns it from the leader again if it is lost.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let put = self.database.put(Place::Committed, &committed);
        let put = put.writing(ErrorSubject::Store)?;
        self.database
            .change(vec![put], Sync::Later)
            .await
            .writing(ErrorSubject::Store)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let committed: Option<Option<LogId>> = self
            .database
            .get(Place::Committed)
            .reading(ErrorSubject::Store)?;
        Ok(committed.flatten())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Managers>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let puts: Result<Vec<_>, _> = entries
            .into_iter()
            .map(|entry| {
                self.database
                    .put(Place::LogEntry(entry.log_id.index), &entry)
            })
            .collect();
        let puts = puts.writing(ErrorSubject::Logs)?;
        let written = self.database.change(puts, Sync::Now).await;
        callback.log_io_completed(match &written {
            Ok(()) => Ok(()),
            Err(error) => Err(std::io::Error::other(error.to_string())),
        });
        written.writing(ErrorSubject::Logs)
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let delete = Change::Delete(Bound::Included(log_id.index), Bound::Unbounded);
        self.database
            .change(vec![delete], Sync::Now)
            .await
            .writing(ErrorSubject::Log(log_id))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let put = self.database.put(Place::Purged, &log_id);
        let put = put.writing(ErrorSubject::Log(log_id))?;
        let delete = Change::Delete(Bound::Unbounded, Bound::Included(log_id.index));
        self.database
            .change(vec![put, delete], Sync::Now)
            .await
            .writing(ErrorSubject::Log(log_id))
    }
}
