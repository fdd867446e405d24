//! What a record says.

use std::{fmt, net::IpAddr, net::SocketAddr};

use compact_str::CompactString;
use overlay_ebpf::abi::{Lane, MacAddr, Vni};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

use crate::{
    gossip::envelope::BootNonce,
    id::{EpochName, Generation, NodeId},
    keys::EphemeralRecord,
};

/// Addresses in one record.
pub const MAX_ADDRESSES: usize = 8;
/// Bytes of an endpoint's name: one DNS label.
pub const MAX_NAME: usize = 63;
/// Bytes of the name of a software version.
pub const MAX_SOFTWARE: usize = 32;

/// One counter orders everything an owner says, over all its records and all its starts.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Version {
    pub generation: Generation,
    pub counter: u64,
}

impl Version {
    /// Neither part goes beyond. Far above what any node reaches (a start each millisecond for 8,900
    /// years), far below the end: whatever version was published in a node's name, the node can still
    /// publish a higher one.
    pub const LIMIT: u64 = 1 << 48;

    pub const fn is_absurd(self) -> bool {
        self.generation.0 > Self::LIMIT || self.counter > Self::LIMIT
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.counter)
    }
}

/// The node itself. Its version's generation is the start of the agent that wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Underlay addresses of its tunnel endpoint, at least one.
    pub vteps: Vec<IpAddr>,
    /// Where it listens: UDP for gossip, TCP for mutual TLS.
    pub control: SocketAddr,
    /// Version of its agent, for people to read.
    pub software: String,
    /// Names the key of its datagrams.
    pub boot: BootNonce,
}

/// Addresses of an endpoint: one, most times, which then needs no allocation of its own.
pub type Addresses = SmallVec<[IpAddr; 1]>;

/// A container's interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub vni: Vni,
    pub mac: MacAddr,
    /// At least one.
    pub ips: Addresses,
    /// A DNS label, or empty.
    pub name: CompactString,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    Node(Node),
    Endpoint(Endpoint),
    /// The public half of an ephemeral key.
    Ephemeral(EphemeralRecord),
}

/// What a record is about. An owner has one record of each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Key {
    Node,
    Endpoint { vni: Vni, mac: MacAddr },
    Ephemeral { epoch: EpochName },
    Floor,
}

impl Key {
    /// Place in the order of anti-entropy. The floor is last: it voids records whose replacements
    /// are to arrive before it.
    pub fn place(&self) -> u64 {
        if *self == Self::Floor {
            return u64::MAX;
        }
        let bytes = postcard::to_stdvec(self).expect("a key has an encoding");
        let hash: [u8; 32] = Sha256::digest(bytes).into();
        let mut place = [0; 8];
        place.copy_from_slice(&hash[..8]);
        u64::from_be_bytes(place) >> 1
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Endpoint { vni, mac } => write!(f, "endpoint {mac} of network {vni}"),
            Self::Ephemeral { epoch } => write!(f, "ephemeral key of epoch {epoch}"),
            Self::Floor => f.write_str("floor"),
        }
    }
}

impl Body {
    pub const fn key(&self) -> Key {
        match self {
            Self::Node(_) => Key::Node,
            Self::Endpoint(endpoint) => Key::Endpoint {
                vni: endpoint.vni,
                mac: endpoint.mac,
            },
            Self::Ephemeral(ephemeral) => Key::Ephemeral {
                epoch: ephemeral.epoch,
            },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    Live(Body),
    /// A tombstone.
    Deleted(Key),
    /// Everything this owner wrote below this version, and that it did not write anew since, is void:
    /// the end of tombstones (see [`crate::gossip::store`]).
    Floor(Version),
}

impl Content {
    pub const fn key(&self) -> Key {
        match self {
            Self::Live(body) => body.key(),
            Self::Deleted(key) => *key,
            Self::Floor(_) => Key::Floor,
        }
    }

    pub const fn body(&self) -> Option<&Body> {
        match self {
            Self::Live(body) => Some(body),
            Self::Deleted(_) | Self::Floor(_) => None,
        }
    }

    pub fn into_body(self) -> Option<Body> {
        match self {
            Self::Live(body) => Some(body),
            Self::Deleted(_) | Self::Floor(_) => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub owner: NodeId,
    pub version: Version,
    pub content: Content,
}

/// A record that no honest node writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Either part is above [`Version::LIMIT`].
    #[error("version {0} is beyond the limit of {limit} for each part", limit = Version::LIMIT)]
    Version(Version),
    /// None, or too many.
    #[error("{0} addresses where a record has 1 to {MAX_ADDRESSES}")]
    Addresses(usize),
    /// Multicast, unspecified or broadcast.
    #[error("address {0} is no unicast address")]
    NotUnicast(IpAddr),
    /// The port is zero.
    #[error("control address {0} has no port")]
    NoPort(SocketAddr),
    /// No DNS label.
    #[error(
        "the endpoint's name is no DNS label: 1 to {MAX_NAME} letters, digits, hyphens and underscores, or none at all"
    )]
    Name,
    /// Too long, or not printable.
    #[error("the software version is longer than {MAX_SOFTWARE} bytes or not printable ASCII")]
    Software,
    /// Group bit set, or all zero.
    #[error("MAC address {0} names no single interface")]
    Mac(MacAddr),
    /// A point of small order: its shared secret would be zero.
    #[error("the ephemeral public key is zero")]
    ZeroKey,
    /// A pair has 1 to 16.
    #[error("{0} lanes where a pair has 1 to {max}", max = Lane::COUNT)]
    Lanes(u8),
    /// A tombstone of the floor would let deleted records return.
    #[error("a floor is never deleted")]
    DeletedFloor,
    /// A floor above itself would void its owner's own later records.
    #[error("floor {floor} is above its own version {version}")]
    HighFloor { floor: Version, version: Version },
}

impl Record {
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.version.is_absurd() {
            return Err(Invalid::Version(self.version));
        }
        match &self.content {
            Content::Live(Body::Node(node)) => {
                addresses(&node.vteps)?;
                unicast(node.control.ip())?;
                if node.control.port() == 0 {
                    return Err(Invalid::NoPort(node.control));
                }
                let printable = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
                if node.software.len() > MAX_SOFTWARE || !node.software.bytes().all(printable) {
                    return Err(Invalid::Software);
                }
                Ok(())
            }
            Content::Live(Body::Endpoint(endpoint)) => {
                addresses(&endpoint.ips)?;
                if endpoint.mac.is_multicast() || endpoint.mac.0 == [0; 6] {
                    return Err(Invalid::Mac(endpoint.mac));
                }
                let name = endpoint.name.as_bytes();
                let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
                if name.len() > MAX_NAME
                    || !name.iter().all(inner)
                    || name.first() == Some(&b'-')
                    || name.last() == Some(&b'-')
                {
                    return Err(Invalid::Name);
                }
                Ok(())
            }
            Content::Live(Body::Ephemeral(ephemeral)) => {
                if *ephemeral.public.as_bytes() == [0; 32] {
                    return Err(Invalid::ZeroKey);
                }
                match u32::from(ephemeral.lanes) {
                    1..=Lane::COUNT => Ok(()),
                    _ => Err(Invalid::Lanes(ephemeral.lanes)),
                }
            }
            Content::Deleted(Key::Floor) => Err(Invalid::DeletedFloor),
            Content::Deleted(_) => Ok(()),
            Content::Floor(floor) if *floor > self.version => Err(Invalid::HighFloor {
                floor: *floor,
                version: self.version,
            }),
            Content::Floor(_) => Ok(()),
        }
    }
}

fn addresses(addresses: &[IpAddr]) -> Result<(), Invalid> {
    if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
        return Err(Invalid::Addresses(addresses.len()));
    }
    addresses.iter().try_for_each(|address| unicast(*address))
}

fn unicast(address: IpAddr) -> Result<(), Invalid> {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(Invalid::NotUnicast(address));
    }
    Ok(())
}
