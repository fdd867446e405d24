use std::net::{IpAddr, SocketAddr};

use overlay_cluster::{
    id::NodeId,
    identity::Role,
    log::{
        self,
        names::{Labels, NodeName},
    },
};
use overlay_ebpf::abi::PeerIndex;
use serde::{Deserialize, Serialize};

use super::{ApiError, Code, Time};

/// Whether a node takes new endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    Active,
    Drain,
}

impl Availability {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Drain => "drain",
        }
    }
}

impl From<log::member::Availability> for Availability {
    fn from(availability: log::member::Availability) -> Self {
        match availability {
            log::member::Availability::Active => Self::Active,
            log::member::Availability::Drain => Self::Drain,
        }
    }
}

impl From<Availability> for log::member::Availability {
    fn from(availability: Availability) -> Self {
        match availability {
            Availability::Active => Self::Active,
            Availability::Drain => Self::Drain,
        }
    }
}

/// How a node seems to this one: a hint, by gossip. No peer and no SA goes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    Ready,
    /// Not heard of, and not given up.
    Suspect,
    Down,
    /// Took its leave.
    Left,
    #[serde(other)]
    Unknown,
}

impl NodeStatus {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Left => "left",
            Self::Unknown => "unknown",
        }
    }
}

/// A manager among the managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManagerStatus {
    Leader,
    Reachable,
    Unreachable,
    #[serde(other)]
    Unknown,
}

impl ManagerStatus {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Reachable => "reachable",
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
        }
    }
}

/// `GET /v1/nodes` lists them, `GET /v1/nodes/{node}` is one: by name, id, the beginning of an id, or
/// `self`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    /// Whether it is this node.
    #[serde(rename = "self")]
    pub is_self: bool,
    pub name: NodeName,
    pub index: PeerIndex,
    pub role: Role,
    pub status: NodeStatus,
    pub availability: Availability,
    /// Of managers.
    #[serde(default)]
    pub manager_status: Option<ManagerStatus>,
    /// Addresses between which its tunnels run.
    pub vteps: Vec<IpAddr>,
    pub control: SocketAddr,
    pub software: String,
    pub labels: Labels,
    pub joined: Time,
}

/// `PATCH /v1/nodes/{node}`: what is left out stays. Answered by the [`Node`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeUpdate {
    #[serde(default)]
    pub name: Option<NodeName>,
    #[serde(default)]
    pub role: Option<Role>,
    #[serde(default)]
    pub availability: Option<Availability>,
    #[serde(default)]
    pub labels_add: Labels,
    /// Keys.
    #[serde(default)]
    pub labels_remove: Vec<String>,
}

/// Parameters of `DELETE /v1/nodes/{node}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveQuery {
    /// Evict it, whatever it does: its key is void for good, and all keys change at once.
    #[serde(default)]
    pub force: bool,
}

/// A node that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    pub name: NodeName,
    pub evicted: bool,
}

/// The node that a text names: `self`, a name, an id, or the beginning of one id alone.
pub fn find<'a, T>(
    nodes: impl IntoIterator<Item = (NodeId, &'a NodeName, T)>,
    own: NodeId,
    text: &str,
) -> Result<T, ApiError> {
    let mut begins = Vec::new();
    for (id, name, node) in nodes {
        let digits = id.to_string();
        let named = match text {
            "self" => id == own,
            text => name.as_str() == text || digits == text,
        };
        if named {
            return Ok(node);
        }
        if !text.is_empty() && digits.starts_with(text) {
            begins.push(node);
        }
    }
    match (begins.pop(), begins.len()) {
        (Some(node), 0) => Ok(node),
        (Some(_), others) => Err(ApiError::new(
            Code::Conflict,
            format!("{} nodes have an id that begins with {text}", others + 1),
            "give more of it, or a name",
        )),
        (None, _) => Err(ApiError::new(
            Code::NotFound,
            format!("no node {text} in this cluster"),
            "`overlay node ls` lists them",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_found_by_name_id_and_the_beginning_of_an_id() {
        let name = |text: &str| NodeName::new(text).unwrap();
        let nodes = [
            (NodeId::from_bytes([0x11; 16]), name("a")),
            (NodeId::from_bytes([0x12; 16]), name("b")),
            (NodeId::from_bytes([0x22; 16]), name("self-made")),
        ];
        let own = nodes[1].0;
        let found = |text: &str| {
            let all = nodes.iter().map(|(id, name)| (*id, name, name.as_str()));
            find(all, own, text).map_err(|error| error.code)
        };
        assert_eq!(found("a"), Ok("a"));
        assert_eq!(found("self"), Ok("b"));
        assert_eq!(found("2"), Ok("self-made"));
        assert_eq!(found(&"12".repeat(16)), Ok("b"));
        assert_eq!(found("1"), Err(Code::Conflict));
        assert_eq!(found("c"), Err(Code::NotFound));
        assert_eq!(found(""), Err(Code::NotFound));
    }
}
