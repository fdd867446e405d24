//! The 49 bytes in clear.

use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::id::{EpochName, NodeId};

pub const HEADER_LEN: usize = 49;

/// The only version there is.
pub(super) const VERSION: u8 = 1;

/// 128 random bits, made afresh by each start of an agent. With the sender's id it names a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootNonce([u8; 16]);

impl BootNonce {
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for BootNonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HEXLOWER.encode_display(&self.0).fmt(f)
    }
}

/// What a header says of an epoch: its name without the hash, since a wrong secret fails the tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochId {
    pub incarnation: u32,
    pub number: u32,
}

impl From<EpochName> for EpochId {
    fn from(name: EpochName) -> Self {
        Self {
            incarnation: name.incarnation,
            number: name.number,
        }
    }
}

impl fmt::Display for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.number)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub epoch: EpochId,
    pub sender: NodeId,
    pub boot: BootNonce,
    pub counter: u64,
}

/// Bytes that are no datagram of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not even header, one byte and tag.
    #[error(
        "{0} bytes are too few for a gossip datagram: is another program sending to this port?"
    )]
    Short(usize),
    /// Longer than any node sends.
    #[error("{0} bytes are too many for a gossip datagram, whose limit is {limit}", limit = super::MAX_DATAGRAM)]
    Long(usize),
    /// Written by a newer agent, or by no agent.
    #[error(
        "the gossip datagram has version {0} and this agent reads version {VERSION}: update the older agent"
    )]
    Version(u8),
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = VERSION;
        bytes[1..5].copy_from_slice(&self.epoch.incarnation.to_be_bytes());
        bytes[5..9].copy_from_slice(&self.epoch.number.to_be_bytes());
        bytes[9..25].copy_from_slice(self.sender.as_bytes());
        bytes[25..41].copy_from_slice(self.boot.as_bytes());
        bytes[41..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// The header, its bytes as associated data, and what is sealed.
    pub fn split(datagram: &[u8]) -> Result<(Self, &[u8; HEADER_LEN], &[u8]), HeaderError> {
        if datagram.len() > super::MAX_DATAGRAM {
            return Err(HeaderError::Long(datagram.len()));
        }
        let Some((bytes, sealed)) = datagram.split_first_chunk::<HEADER_LEN>() else {
            return Err(HeaderError::Short(datagram.len()));
        };
        if sealed.len() <= super::TAG_LEN {
            return Err(HeaderError::Short(datagram.len()));
        }
        if bytes[0] != VERSION {
            return Err(HeaderError::Version(bytes[0]));
        }
        let header = Self {
            epoch: EpochId {
                incarnation: u32::from_be_bytes(array(&bytes[1..5])),
                number: u32::from_be_bytes(array(&bytes[5..9])),
            },
            sender: NodeId::from_bytes(array(&bytes[9..25])),
            boot: BootNonce(array(&bytes[25..41])),
            counter: u64::from_be_bytes(array(&bytes[41..])),
        };
        Ok((header, bytes, sealed))
    }
}

/// A field of the header, whose length the caller wrote out.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}
