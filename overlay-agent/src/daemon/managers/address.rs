//! Where a manager is, as raft keeps it: its node id, which TLS checks, and its control address.

use std::{fmt, net::SocketAddr, str::FromStr};

use openraft::BasicNode;
use overlay_cluster::{id::NodeId, log::state::Cluster};
use overlay_ebpf::abi::PeerIndex;

/// A manager among managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub node: NodeId,
    pub control: SocketAddr,
}

/// A text that is no address of a manager.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address of a manager: it is a node id, an @ and a socket address")]
pub struct AddressError(String);

impl Address {
    pub fn to_raft(self) -> BasicNode {
        BasicNode::new(self)
    }

    pub fn of_raft(node: &BasicNode) -> Result<Self, AddressError> {
        node.addr.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node, self.control)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        text.split_once('@')
            .and_then(|(node, control)| {
                Some(Self {
                    node: node.parse().ok()?,
                    control: control.parse().ok()?,
                })
            })
            .ok_or_else(|| AddressError(text.to_owned()))
    }
}

/// Raft's number of a manager: its node index.
pub fn id(index: PeerIndex) -> u64 {
    index.get().into()
}

/// The node index of raft's number.
pub fn index(id: u64) -> Option<PeerIndex> {
    u32::try_from(id)
        .ok()
        .and_then(|index| PeerIndex::new(index).ok())
}

/// The member with this number, at the address that it has now.
pub fn in_roster(log: &Cluster, id: u64) -> Option<Address> {
    let index = index(id)?;
    log.roster()
        .iter()
        .find(|(_, member)| member.index == index && member.is_present())
        .map(|(node, member)| Address {
            node: *node,
            control: member.contact.control,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written_and_nothing_else_is() {
        for control in ["192.0.2.1:7946", "[2001:db8::1]:7946"] {
            let address = Address {
                node: NodeId::from_bytes([0xab; 16]),
                control: control.parse().expect("an address"),
            };
            assert_eq!(Address::of_raft(&address.to_raft()), Ok(address));
        }
        for text in [
            "",
            "@",
            "192.0.2.1:7946",
            "ab@192.0.2.1:7946",
            "@192.0.2.1:1",
        ] {
            let error = text.parse::<Address>().expect_err("no address");
            assert!(error.to_string().starts_with(&format!("`{text}`")));
        }
    }
}
