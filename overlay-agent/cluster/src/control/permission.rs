//! Who may propose which command. The log checks that a command fits; nobody but this checks who asks
//! for it.

use serde::{Deserialize, Serialize};

use crate::{id::NodeId, identity::Role, log::command::Command};

/// Why a member may not propose a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Denied {
    /// Workers speak for themselves alone.
    #[error("worker {node} may not {what} of another node: do it on that node, or on a manager")]
    OtherNode { node: NodeId, what: Deed },
    /// Operators decide at managers.
    #[error("worker {node} may not {what}: do it on a manager")]
    ManagersOnly { node: NodeId, what: Deed },
    /// It is no matter for the network.
    #[error("node {node} may not {what} from afar: it is done on the host of the manager itself")]
    LocalOnly { node: NodeId, what: Deed },
}

/// What a command does, for [`Denied`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    BeginCluster,
    RestoreState,
    ConfirmTime,
    LetIn,
    ChangeContact,
    ChangeNode,
    Leave,
    PutOut,
    ChangeTokens,
    ChangeAuthority,
    ChangeNetworks,
    ChangeAddresses,
    RotateKeys,
    ChangeSettings,
}

impl std::fmt::Display for Deed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::BeginCluster => "begin a cluster",
            Self::RestoreState => "restore the managers' state",
            Self::ConfirmTime => "confirm the time of the log",
            Self::LetIn => "let nodes in",
            Self::ChangeContact => "change the addresses",
            Self::ChangeNode => "change name, role, labels or availability",
            Self::Leave => "announce the leave",
            Self::PutOut => "remove or evict nodes",
            Self::ChangeTokens => "change join tokens",
            Self::ChangeAuthority => "change the cluster's authority",
            Self::ChangeNetworks => "make or remove networks",
            Self::ChangeAddresses => "lease or return addresses",
            Self::RotateKeys => "rotate keys",
            Self::ChangeSettings => "change settings",
        })
    }
}

/// Whether `node`, now in `role`, may propose `command`.
pub fn may_propose(node: NodeId, role: Role, command: &Command) -> Result<(), Denied> {
    let (what, subject) = subject(command);
    match (subject, role) {
        (Subject::Host, _) => Err(Denied::LocalOnly { node, what }),
        (Subject::Own(_) | Subject::Cluster, Role::Manager) => Ok(()),
        (Subject::Own(of), Role::Worker) if of == node => Ok(()),
        (Subject::Own(_), Role::Worker) => Err(Denied::OtherNode { node, what }),
        (Subject::Cluster, Role::Worker) => Err(Denied::ManagersOnly { node, what }),
    }
}

/// Whose matter a command is.
enum Subject {
    /// Of the host of a manager: it makes or replaces the log.
    Host,
    /// Of one node, and of managers.
    Own(NodeId),
    /// Of managers.
    Cluster,
}

fn subject(command: &Command) -> (Deed, Subject) {
    use Subject::{Cluster, Host, Own};
    match command {
        Command::Initialise(_) => (Deed::BeginCluster, Host),
        Command::Restore { .. } => (Deed::RestoreState, Host),
        Command::ConfirmTime => (Deed::ConfirmTime, Cluster),
        Command::Join { .. } => (Deed::LetIn, Cluster),
        Command::Renew { node, .. } => (Deed::ChangeContact, Own(*node)),
        Command::Leave { node } => (Deed::Leave, Own(*node)),
        Command::Rename { .. }
        | Command::SetRole { .. }
        | Command::SetAvailability { .. }
        | Command::SetLabels { .. } => (Deed::ChangeNode, Cluster),
        Command::Remove { .. } | Command::Evict { .. } => (Deed::PutOut, Cluster),
        Command::RotateToken { .. } => (Deed::ChangeTokens, Cluster),
        Command::IntroduceRoot { .. }
        | Command::PromoteRoot { .. }
        | Command::RetireRoot { .. } => (Deed::ChangeAuthority, Cluster),
        Command::CreateNetwork(_)
        | Command::RemoveNetwork { .. }
        | Command::PruneNetworks { .. } => (Deed::ChangeNetworks, Cluster),
        Command::LeaseBlock { node, .. }
        | Command::ClaimBlock { node, .. }
        | Command::ReturnBlock { node, .. } => (Deed::ChangeAddresses, Own(*node)),
        Command::StageEpoch { .. }
        | Command::ActivateEpoch { .. }
        | Command::RetireEpoch { .. }
        | Command::SetRotationPolicy(_) => (Deed::RotateKeys, Cluster),
        Command::SetSettings(_) => (Deed::ChangeSettings, Cluster),
    }
}
