//! Why the log refuses a command. A refused command changes nothing.

use serde::{Deserialize, Serialize};

use super::{
    authorities::AuthorityRefusal,
    blocks::BlockRefusal,
    epochs::EpochRefusal,
    names::{NetworkName, NodeName},
    networks::{AttachRefusal, NetworkRefusal},
    roster::RosterRefusal,
    settings::SettingsError,
    tokens::TokenRefusal,
};
use crate::{
    id::{ClusterId, EpochName},
    time::Timestamp,
};

/// Why a command is refused. Every manager refuses it alike, with the same words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// The log is empty.
    #[error("there is no cluster yet: make one with `overlay init`, or join one")]
    NotInitialised,
    /// A cluster begins once.
    #[error("the managers keep cluster {cluster} already: leave it first, or join it")]
    Initialised { cluster: ClusterId },
    /// A leader's clock is wrong, or the cluster was off for long.
    #[error(
        "the clock of the leading manager is at {clock}, and the log at {log}, over a week before: set the clock, or confirm the time if the cluster was off for so long"
    )]
    ClockAhead { clock: Timestamp, log: Timestamp },
    #[error(transparent)]
    Roster(#[from] RosterRefusal),
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    #[error(transparent)]
    Authority(#[from] AuthorityRefusal),
    #[error(transparent)]
    Network(#[from] NetworkRefusal),
    #[error(transparent)]
    Block(#[from] BlockRefusal),
    #[error(transparent)]
    Epoch(#[from] EpochRefusal),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A drained node hosts no new endpoints.
    #[error(
        "node {name} is drained and gets no addresses of network {network}: `overlay node update --availability active`, or attach elsewhere"
    )]
    Drained {
        name: NodeName,
        network: NetworkName,
    },
    /// After a restored backup nodes claim first what they hold, which the backup may not know.
    #[error(
        "the managers' state was restored, and nodes claim the addresses that they hold: new blocks are leased when epoch {epoch:?} has retired"
    )]
    Restoring { epoch: EpochName },
    /// Endpoints would be where a rule forbids them.
    #[error(
        "node {name} holds addresses of a network that the labels exclude ({broken}): detach its endpoints first"
    )]
    LabelsExclude {
        name: NodeName,
        broken: AttachRefusal,
    },
}
