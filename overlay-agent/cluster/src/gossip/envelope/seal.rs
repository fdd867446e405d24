//! Sealing: one key per epoch, one counter for the whole life of an agent.

use aes_gcm::aead::{Aead as _, Payload};

use super::{BootNonce, EpochId, Header, MAX_DATAGRAM, MAX_PAYLOAD, cipher, datagram_key, nonce};
use crate::{
    id::{EpochName, NodeId},
    secret::Secret,
};

/// A datagram that could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No epoch was activated yet, or the last one was retired.
    #[error(
        "there is no gossip key to seal with: the node has yet to pull the epoch's secrets from a manager"
    )]
    NoEpoch,
    /// The counter is at its end; it stops there.
    #[error("the datagram counter of this start is used up: restart the agent")]
    Exhausted,
    /// Nothing, or more than fits.
    #[error(
        "a payload of {0} bytes does not fit a gossip datagram, which holds 1 to {MAX_PAYLOAD}"
    )]
    Length(usize),
}

/// The sending side of one node's one start.
#[derive(Debug)]
pub struct Sealer {
    sender: NodeId,
    boot: BootNonce,
    epoch: Option<(EpochId, Box<Secret>)>,
    counter: u64,
}

impl Sealer {
    /// `boot` is fresh: a sealer made twice with one boot nonce would repeat nonces.
    pub const fn new(sender: NodeId, boot: BootNonce) -> Self {
        Self {
            sender,
            boot,
            epoch: None,
            counter: 0,
        }
    }

    /// Seals with this epoch from now on. The counter goes on, so that returning to an epoch is safe.
    pub fn activate(&mut self, epoch: EpochName, secret: &Secret) {
        let key = datagram_key(secret, self.sender, self.boot);
        self.epoch = Some((epoch.into(), key));
    }

    /// Forgets the key if it is the one in use.
    pub fn retire(&mut self, epoch: EpochId) {
        if self.epoch() == Some(epoch) {
            self.epoch = None;
        }
    }

    pub fn epoch(&self) -> Option<EpochId> {
        self.epoch.as_ref().map(|(epoch, _)| *epoch)
    }

    pub const fn boot(&self) -> BootNonce {
        self.boot
    }

    pub fn seal(&mut self, payload: &[u8]) -> Result<Vec<u8>, SealError> {
        let (epoch, key) = self.epoch.as_ref().ok_or(SealError::NoEpoch)?;
        if payload.is_empty() || payload.len() > MAX_PAYLOAD {
            return Err(SealError::Length(payload.len()));
        }
        // The last value is never used: reaching it is the sign of the end.
        if self.counter == u64::MAX {
            return Err(SealError::Exhausted);
        }
        let header = Header {
            epoch: *epoch,
            sender: self.sender,
            boot: self.boot,
            counter: self.counter,
        };
        self.counter += 1;
        let aad = header.encode();
        let sealed = cipher(key)
            .encrypt(
                &nonce(header.counter).into(),
                Payload {
                    msg: payload,
                    aad: &aad,
                },
            )
            .expect("a payload of one datagram is below the limit of GCM");
        let mut datagram = Vec::with_capacity(MAX_DATAGRAM);
        datagram.extend_from_slice(&aad);
        datagram.extend_from_slice(&sealed);
        Ok(datagram)
    }

    #[cfg(test)]
    pub(super) fn skip_to(&mut self, counter: u64) {
        self.counter = counter;
    }
}
