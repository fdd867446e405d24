use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Time;

/// What something happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Agent,
    Cluster,
    Node,
    Network,
    Endpoint,
    /// Key epochs and SAs.
    Keys,
    /// A sampled dropped packet.
    Drop,
    /// A human must act.
    Alarm,
    #[serde(other)]
    Unknown,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Agent,
        Self::Cluster,
        Self::Node,
        Self::Network,
        Self::Endpoint,
        Self::Keys,
        Self::Drop,
        Self::Alarm,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Cluster => "cluster",
            Self::Node => "node",
            Self::Network => "network",
            Self::Endpoint => "endpoint",
            Self::Keys => "keys",
            Self::Drop => "drop",
            Self::Alarm => "alarm",
            Self::Unknown => "unknown",
        }
    }
}

/// Something that happened: one line of `GET /v1/events` (JSON lines).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one; a gap is events that this reader was too slow for.
    pub sequence: u64,
    pub time: Time,
    pub kind: Kind,
    /// One word: `create`, `remove`, `join`, `stage`, `activate`, `retire`, `evict`, …
    pub action: String,
    /// Name of the network, node, endpoint, epoch or drop reason.
    pub name: String,
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// Parameters of `GET /v1/events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// Whether to go on after those that the agent still remembers.
    #[serde(default)]
    pub follow: bool,
    /// Only those with a greater sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}
