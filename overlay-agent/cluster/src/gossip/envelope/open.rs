//! Opening: at most one MAC check per datagram, whatever its sender made of it.
//!
//! Authentic is a datagram for who has the epoch's secret, which every member has. A member that lies can
//! forge another's datagrams, and with a counter far ahead end the other's window: the other's datagrams
//! then count as too old until its next start. Its records still travel by anti-entropy, which
//! authenticates by certificate; so the liar disturbs who is believed up, and nothing else.

use std::collections::{BTreeMap, VecDeque};

use aes_gcm::aead::{Aead as _, Payload};

use super::{BootNonce, EpochId, Header, HeaderError, Window, cipher, datagram_key, nonce};
use crate::{
    id::{EpochName, NodeId},
    secret::Secret,
};

/// Epochs accepted at once: the staged, the active and the one in its grace period.
pub const MAX_EPOCHS: usize = 3;
/// Derived keys kept at once. A lost one costs a key derivation and no window.
pub const MAX_KEYS: usize = 8192;

/// From whom datagrams are accepted.
pub trait Senders {
    /// Whether the node is in the roster (and is not this node).
    fn is_member(&self, node: NodeId) -> bool;

    /// The boot nonce of the node's newest signed record.
    fn boot_of(&self, node: NodeId) -> Option<BootNonce>;
}

/// What an authentic datagram carried. Authentic means: made by who has the epoch's gossip secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    pub sender: NodeId,
    pub payload: Vec<u8>,
}

/// Why a datagram was not opened. Everything in it is what an unauthenticated header said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The sender is no member, or is this node itself.
    #[error("the gossip datagram names {0} as its sender, which is not in the roster")]
    Stranger(NodeId),
    /// Sealed with an epoch that this node has no secret of.
    #[error(
        "the gossip datagram of {sender} is sealed with epoch {epoch}, of which there is no secret here"
    )]
    Epoch { sender: NodeId, epoch: EpochId },
    /// No signed record of the sender names this boot nonce.
    #[error(
        "the gossip datagram of {sender} names a start of its agent of which no signed record is known yet"
    )]
    Boot { sender: NodeId, boot: BootNonce },
    /// Seen before, or older than the replay window.
    #[error("the gossip datagram of {sender} with counter {counter} was seen before or is too old")]
    Replayed { sender: NodeId, counter: u64 },
    /// The tag is wrong.
    #[error("the gossip datagram that names {sender} as its sender is forged or damaged")]
    Forged { sender: NodeId },
}

/// The receiving side of one node.
#[derive(Debug, Default)]
pub struct Opener {
    /// Boxed, as the keys are: what a container moves leaves no copy of a secret behind.
    epochs: Vec<(EpochId, Box<Secret>)>,
    keys: BTreeMap<(NodeId, EpochId), (BootNonce, Box<Secret>)>,
    /// Keys in the order of their making: the first in goes first.
    made: VecDeque<(NodeId, EpochId)>,
    /// One window per member, kept as long as its boot nonce is the accepted one.
    windows: BTreeMap<NodeId, (BootNonce, Window)>,
}

impl Opener {
    /// Accepts an epoch until it is retired. Beyond [`MAX_EPOCHS`] the oldest goes.
    pub fn accept(&mut self, epoch: EpochName, secret: &Secret) {
        let epoch = EpochId::from(epoch);
        self.retire(epoch);
        self.epochs.push((epoch, Box::new(secret.clone())));
        self.epochs.sort_by_key(|(epoch, _)| *epoch);
        if self.epochs.len() > MAX_EPOCHS {
            let oldest = self.epochs[0].0;
            self.retire(oldest);
        }
    }

    /// Forgets an epoch's secret and every key derived from it; both zeroize.
    pub fn retire(&mut self, epoch: EpochId) {
        self.epochs.retain(|(accepted, _)| *accepted != epoch);
        self.keys.retain(|(_, of), _| *of != epoch);
        self.made.retain(|(_, of)| *of != epoch);
    }

    pub fn newest_epoch(&self) -> Option<EpochId> {
        self.epochs.last().map(|(epoch, _)| *epoch)
    }

    /// Forgets what is known of a node that left the roster.
    pub fn forget(&mut self, node: NodeId) {
        self.windows.remove(&node);
        self.keys.retain(|(of, _), _| *of != node);
        self.made.retain(|(of, _)| *of != node);
    }

    pub fn open(&mut self, datagram: &[u8], senders: &impl Senders) -> Result<Opened, OpenError> {
        let (header, aad, sealed) = Header::split(datagram)?;
        let Header {
            epoch,
            sender,
            boot,
            counter,
        } = header;
        if !senders.is_member(sender) {
            return Err(OpenError::Stranger(sender));
        }
        let Some((_, secret)) = self.epochs.iter().find(|(accepted, _)| *accepted == epoch) else {
            return Err(OpenError::Epoch { sender, epoch });
        };
        if senders.boot_of(sender) != Some(boot) {
            return Err(OpenError::Boot { sender, boot });
        }
        let fresh = (boot, Window::default());
        let (_, window) = self
            .windows
            .entry(sender)
            .and_modify(|known| {
                if known.0 != boot {
                    *known = fresh.clone();
                }
            })
            .or_insert_with(|| fresh.clone());
        if !window.is_new(counter) {
            return Err(OpenError::Replayed { sender, counter });
        }
        let name = (sender, epoch);
        if self.keys.get(&name).is_none_or(|(of, _)| *of != boot) {
            if self.keys.len() == MAX_KEYS
                && let Some(first) = self.made.pop_front()
            {
                self.keys.remove(&first);
            }
            let key = datagram_key(secret, sender, boot);
            if self.keys.insert(name, (boot, key)).is_none() {
                self.made.push_back(name);
            }
        }
        let (_, key) = &self.keys[&name];
        let payload = cipher(key)
            .decrypt(&nonce(counter).into(), Payload { msg: sealed, aad })
            .map_err(|_| OpenError::Forged { sender })?;
        window.mark(counter);
        Ok(Opened { sender, payload })
    }

    #[cfg(test)]
    pub(super) fn epochs(&self) -> Vec<u32> {
        self.epochs.iter().map(|(epoch, _)| epoch.number).collect()
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> usize {
        assert_eq!(self.keys.len(), self.made.len());
        self.keys.len()
    }
}
