//! A member of the cluster, as the log knows it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use data_encoding::HEXLOWER;
use ed25519_dalek::VerifyingKey;
use overlay_ebpf::abi::PeerIndex;
use serde::{Deserialize, Serialize};

use super::{
    addresses::single,
    names::{Labels, NodeName, SoftwareVersion},
    subnet::{SpecialUse, special_use},
};
pub use crate::identity::Role;
use crate::{id::NodeId, time::Timestamp};

/// Whether a node takes new endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Availability {
    Active,
    /// Keeps what it has and gets no address block.
    Drain,
}

/// Whether a member takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    Present,
    /// Took its leave. It keeps its name and index until it is removed, and may join again.
    Left {
        at: Timestamp,
    },
}

/// A node's Ed25519 public key (RFC 8032 section 5.1.2), 32 bytes: a point of the curve, and not one
/// of the few that verify anything.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "[u8; 32]", into = "[u8; 32]")]
pub struct NodeKey(VerifyingKey);

/// 32 bytes that are no public key of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no Ed25519 public key, or a weak one: make a new node key")]
pub struct KeyError(String);

impl NodeKey {
    pub fn new(bytes: [u8; 32]) -> Result<Self, KeyError> {
        VerifyingKey::from_bytes(&bytes)
            .ok()
            .filter(|key| !key.is_weak())
            .map(Self)
            .ok_or_else(|| KeyError(HEXLOWER.encode(&bytes)))
    }

    pub fn verifying_key(&self) -> &VerifyingKey {
        &self.0
    }

    /// The node that this key names.
    pub fn id(&self) -> NodeId {
        NodeId::of(&self.0)
    }
}

impl TryFrom<[u8; 32]> for NodeKey {
    type Error = KeyError;

    fn try_from(bytes: [u8; 32]) -> Result<Self, KeyError> {
        Self::new(bytes)
    }
}

impl From<NodeKey> for [u8; 32] {
    fn from(key: NodeKey) -> Self {
        key.0.to_bytes()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(self.0.as_bytes()))
    }
}

/// Addresses between which a node's tunnels run: at most one per family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Vteps {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

impl Vteps {
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.v4.map(IpAddr::from);
        let v6 = self.v6.map(IpAddr::from);
        v4.into_iter().chain(v6)
    }
}

impl FromIterator<IpAddr> for Vteps {
    /// The last of each family.
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        let mut vteps = Self::default();
        for address in addresses {
            match address {
                IpAddr::V4(v4) => vteps.v4 = Some(v4),
                IpAddr::V6(v6) => vteps.v6 = Some(v6),
            }
        }
        vteps
    }
}

/// Where a node is reached, and what it runs: what it renews by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    pub vteps: Vteps,
    /// Where its agent takes mutual TLS and gossip.
    pub control: SocketAddr,
    pub software: SoftwareVersion,
}

/// Why a node cannot be reached as it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ContactError {
    /// A node without a VTEP has no tunnels.
    #[error("the node has no VTEP address: advertise one with `--advertise`")]
    NoVtep,
    /// No address that other hosts reach.
    #[error("{address} is {what}: advertise an address that the other nodes reach")]
    Special { address: IpAddr, what: SpecialUse },
    /// Port 0 is none.
    #[error("control address {0} has no port: give one")]
    NoPort(SocketAddr),
    /// A scope means something on its own host alone.
    #[error("control address {0} has a scope: advertise a global or unique local address")]
    Scoped(SocketAddr),
}

impl Contact {
    pub fn check(&self) -> Result<(), ContactError> {
        if self.vteps.iter().next().is_none() {
            return Err(ContactError::NoVtep);
        }
        for address in self.vteps.iter().chain([self.control.ip()]) {
            if let Some(what) = special_use(&single(address)) {
                return Err(ContactError::Special { address, what });
            }
        }
        if self.control.port() == 0 {
            return Err(ContactError::NoPort(self.control));
        }
        match self.control {
            // The serialized form has neither, so two managers could differ in them.
            SocketAddr::V6(v6) if v6.scope_id() != 0 || v6.flowinfo() != 0 => {
                Err(ContactError::Scoped(self.control))
            }
            SocketAddr::V4(_) | SocketAddr::V6(_) => Ok(()),
        }
    }

    /// Every address of the node.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.vteps.iter().chain([self.control.ip()])
    }
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Assigned once, never another node's.
    pub index: PeerIndex,
    pub name: NodeName,
    pub key: NodeKey,
    pub role: Role,
    pub availability: Availability,
    pub presence: Presence,
    pub contact: Contact,
    pub labels: Labels,
    /// Certificates issued before this time are of another membership and void.
    pub joined: Timestamp,
}

impl Member {
    pub fn is_present(&self) -> bool {
        self.presence == Presence::Present
    }

    pub fn is_manager(&self) -> bool {
        self.is_present() && self.role == Role::Manager
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    #[test]
    fn a_key_names_its_node_and_a_weak_one_is_refused() {
        let key = SigningKey::from_bytes(&[7; 32]).verifying_key();
        let node = NodeKey::new(key.to_bytes()).expect("a key");
        assert_eq!(node.id(), NodeId::of(&key));
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(NodeKey::new(identity).is_err(), "a point of order 1");
        let bytes = postcard::to_stdvec(&identity).expect("encodes");
        assert!(postcard::from_bytes::<NodeKey>(&bytes).is_err());
    }

    #[test]
    fn a_contact_is_an_address_that_others_reach() {
        let contact = |vteps: &[&str], control: &str| Contact {
            vteps: vteps
                .iter()
                .map(|text| text.parse::<IpAddr>().expect("an address"))
                .collect(),
            control: control.parse().expect("an address"),
            software: SoftwareVersion::new("0.1.0").expect("a version"),
        };
        let check = |vteps, control| contact(vteps, control).check();
        assert_eq!(
            check(&["192.0.2.1", "2001:db8::1"], "192.0.2.1:7946"),
            Ok(())
        );
        assert_eq!(check(&[], "192.0.2.1:7946"), Err(ContactError::NoVtep));
        assert!(check(&["127.0.0.1"], "192.0.2.1:7946").is_err());
        assert!(check(&["192.0.2.1"], "0.0.0.0:7946").is_err());
        assert!(check(&["192.0.2.1"], "192.0.2.1:0").is_err());
        assert!(check(&["192.0.2.1"], "[2001:db8::1%3]:7946").is_err());
        assert!(check(&["192.0.2.1"], "[fe80::1%3]:7946").is_err());
    }
}
