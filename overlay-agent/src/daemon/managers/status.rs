//! What `overlay status` and `overlay node ls` say of the managers.

use std::net::SocketAddr;

use overlay_cluster::id::NodeId;
use serde::{Deserialize, Serialize};

/// The managers as one of them sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub leader: Option<NodeId>,
    /// Whether this one leads.
    pub leads: bool,
    /// Times that leaders were elected.
    pub term: u64,
    /// Whether the managers can decide, as far as this one knows.
    pub quorum: bool,
    /// Last entry of the log here, and how far it is carried out.
    pub last_log: u64,
    pub applied: u64,
    pub managers: Vec<ManagerStatus>,
    /// Why raft stopped, if it did: a disk fails, most times.
    pub failure: Option<String>,
    /// What is wrong, and what can be done.
    pub notes: Vec<String>,
}

/// One manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerStatus {
    pub index: u64,
    pub node: Option<NodeId>,
    pub name: Option<String>,
    pub control: Option<SocketAddr>,
    pub place: ManagerPlace,
    /// Whether the manager that says this has heard it lately. A manager that does not lead hears
    /// the leader alone.
    pub answers: bool,
    /// Entries that it lacks, as the leader knows.
    pub lag: Option<u64>,
}

/// How far a manager is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ManagerPlace {
    /// It has a vote.
    Voter,
    /// It gets the log, and a vote as soon as it has all of it.
    CatchesUp,
    /// The roster has it as a manager, and it gets no log yet.
    Waits,
    /// It is no manager any longer, and has not been taken out.
    Leaves,
}
