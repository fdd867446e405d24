//! Removing everything of ours from the kernel, whatever is there.

use super::{
    bpf,
    host::{Directories, Host, HostError},
};
use crate::{
    dataplane::{
        desired::Settings,
        reconcile::{self, ReconcileError, Report},
    },
    state::{StateError, last_desired::LastDesired},
};

/// Why nothing was removed.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Reconcile(#[from] ReconcileError<HostError>),
}

/// Removes what was applied last, and what else is there of ours; between two steps it asks whether to
/// stop. What is left is in the report.
pub async fn remove(
    directories: &Directories,
    stop: impl FnMut() -> bool,
) -> Result<Report, RemovalError> {
    let last = LastDesired::read(&directories.run)?;
    let settings = match &last {
        Some(last) => last.settings(),
        None => vec![Settings::default()],
    };
    let mut host = open(directories, &settings)?;
    let report = reconcile::clear(&mut host, stop).await?;
    if report.is_complete() {
        LastDesired::remove(&directories.run)?;
    }
    Ok(report)
}

/// Programs that cannot be taken over (of another version, or this binary has none) are removed by
/// their pins alone; those that send go first.
fn open(directories: &Directories, settings: &[Settings]) -> Result<Host, HostError> {
    let opened = Host::open(directories.clone(), &settings[0], settings).and_then(|mut host| {
        host.take_over()?;
        Ok(host)
    });
    match opened {
        Err(HostError::Bpf(error @ bpf::BpfError::Locked { .. })) => Err(error.into()),
        Err(HostError::Bpf(error)) => {
            tracing::warn!(%error, "removing the pins without taking them over");
            bpf::clear(&directories.pins)?;
            Host::open(directories.clone(), &settings[0], settings)
        }
        opened => opened,
    }
}
