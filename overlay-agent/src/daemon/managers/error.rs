//! Why a manager does not run.

use std::path::PathBuf;

use overlay_cluster::{control::member::ProposeRefused, id::ClusterId};
use overlay_ebpf::abi::PeerIndex;

use crate::daemon::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum ManagersError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The settings of raft contradict each other.
    #[error("the managers' times do not fit together: {0}")]
    Timing(String),
    /// raft does not start, or has stopped.
    #[error("the managers' log cannot be run: {0}")]
    Raft(String),
    /// Nothing to open.
    #[error(
        "{path} is not there, and it has the state of this manager: restore a backup, or remove the \
         node and let it join again"
    )]
    NoStore { path: PathBuf },
    /// A cluster is made once.
    #[error("{path} has cluster {cluster} already: this node is a manager of it")]
    ClusterExists { path: PathBuf, cluster: ClusterId },
    /// A new cluster counts its nodes from 1.
    #[error("the first manager has index 1, and this node was given {0}")]
    FirstIndex(PeerIndex),
    /// Its first command was not taken.
    #[error(transparent)]
    Refused(#[from] ProposeRefused),
    /// A backup of nothing.
    #[error("the backup has no cluster: use another")]
    EmptyBackup,
    /// A backup in which this node is not.
    #[error(
        "the backup does not have this node as manager number {0}: restore it on a node that was a \
         manager when it was made"
    )]
    NotInBackup(PeerIndex),
    /// No random numbers.
    #[error("the operating system gives no random numbers: {0}")]
    Random(getrandom::Error),
}
