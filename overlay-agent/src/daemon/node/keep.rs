//! Keeps on disk what the next start of the agent needs: the view, the newest epoch, the count of
//! starts, the roots, the endpoints.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use overlay_cluster::{id::Generation, log::view::View};

use crate::{
    dataplane::desired::LocalEndpoint,
    state::{StateError, endpoints, membership::Membership},
};

/// The files. Each write replaces a whole file, so two at a time would undo each other.
#[derive(Debug)]
pub struct Keep {
    membership: Mutex<Membership>,
    run: PathBuf,
    /// The number of the list of endpoints that is on disk.
    endpoints: Mutex<u64>,
}

impl Keep {
    pub fn new(membership: Membership, run: PathBuf) -> Self {
        Self {
            membership: Mutex::new(membership),
            run,
            endpoints: Mutex::new(0),
        }
    }

    /// The epoch first: a view may be pulled again.
    pub fn view(&self, view: &View) -> Result<(), StateError> {
        self.membership(|files| {
            files.keep_epoch(view.epochs.current)?;
            files.keep_view(view)
        })
    }

    pub fn generation(&self, generation: Generation) -> Result<(), StateError> {
        self.membership(|files| files.keep_generation(generation))
    }

    /// Keeps the list unless a later one is kept.
    pub fn endpoints(&self, number: u64, list: &[LocalEndpoint]) -> Result<(), StateError> {
        let mut kept = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if number <= *kept {
            return Ok(());
        }
        endpoints::write(&self.run, list.iter())?;
        *kept = number;
        Ok(())
    }

    /// The node left: nothing is kept of its cluster.
    pub fn forget(&self) -> Result<(), StateError> {
        endpoints::remove(&self.run)?;
        self.membership(Membership::forget)
    }

    fn membership<T>(
        &self,
        work: impl FnOnce(&Membership) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let files = self
            .membership
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        work(&files)
    }
}
