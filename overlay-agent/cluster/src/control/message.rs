//! The form of all messages: a version byte, then the postcard form of an enum, whose first byte is
//! the kind. The two bytes are enough to know how long the message may be, before room is made for
//! it.

use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::log::wire::{self, DecodeError};

/// Version and kind: the bytes from which [`limit`] is known.
pub const HEAD: usize = 2;

/// A message of a service, in one direction.
pub trait Message: Serialize + DeserializeOwned {
    /// What errors call it.
    const NAME: &'static str;
    const VERSION: u8 = 1;
    /// Bytes of a whole message at the most, version and kind included, by kind.
    const LIMITS: &'static [usize];

    /// What postcard cannot check.
    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

/// Bytes that are no message, or a message that cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not the form of the type.
    #[error(transparent)]
    Form(#[from] DecodeError),
    /// Of another release.
    #[error(
        "the {what} has version {found}, and this release speaks version {known}: run the same \
         release on all nodes"
    )]
    Version {
        what: &'static str,
        found: u8,
        known: u8,
    },
    /// A kind that this release does not know.
    #[error("the {what} is of the unknown kind {kind}: run the same release on all nodes")]
    Kind { what: &'static str, kind: u8 },
    /// More than this kind ever has.
    #[error("the {what} has {len} bytes, and one of its kind has {limit} at the most")]
    TooLong {
        what: &'static str,
        len: usize,
        limit: usize,
    },
    /// It is read, and breaks a rule.
    #[error("the {what} cannot be: {fault}")]
    Unsound {
        what: &'static str,
        fault: &'static str,
    },
}

/// Bytes that a message which begins so may have.
pub fn limit<M: Message>([version, kind]: [u8; HEAD]) -> Result<usize, MessageError> {
    let what = M::NAME;
    if version != M::VERSION {
        return Err(MessageError::Version {
            what,
            found: version,
            known: M::VERSION,
        });
    }
    M::LIMITS
        .get(usize::from(kind))
        .copied()
        .ok_or(MessageError::Kind { what, kind })
}

/// The whole message. It may hold secrets, and is zeroized when dropped.
pub fn encode<M: Message>(message: &M) -> Result<Zeroizing<Vec<u8>>, MessageError> {
    let bytes = wire::encode(M::VERSION, message);
    check_len::<M>(&bytes)?;
    Ok(bytes)
}

pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, MessageError> {
    check_len::<M>(bytes)?;
    let message: M = wire::decode(M::NAME, M::VERSION, bytes.len(), bytes)?;
    message.check().map_err(|fault| MessageError::Unsound {
        what: M::NAME,
        fault,
    })?;
    Ok(message)
}

fn check_len<M: Message>(bytes: &[u8]) -> Result<(), MessageError> {
    let head = bytes
        .first_chunk()
        .ok_or(DecodeError::Empty { what: M::NAME })?;
    let limit = limit::<M>(*head)?;
    if bytes.len() > limit {
        return Err(MessageError::TooLong {
            what: M::NAME,
            len: bytes.len(),
            limit,
        });
    }
    Ok(())
}
