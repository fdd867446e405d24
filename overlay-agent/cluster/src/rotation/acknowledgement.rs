//! What a node tells one peer: its own ephemeral keys, what it has staged for the peer to send in, and
//! in what it sends itself. Each message says all of it, so that any one that arrives is enough, and
//! those that are lost, doubled or late do no harm.
//!
//! The envelope around it is signed by the sender. The body names the cluster and both nodes
//! nevertheless, so that no signed message means anything to another node.

use overlay_ebpf::abi::{Epoch, PeerIndex, Slot};
use serde::{Deserialize, Serialize};

use crate::{
    id::{ClusterId, EpochName, Generation, NodeId},
    keys::PublicKey,
};

/// One message from a node to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    pub cluster: ClusterId,
    pub from: NodeId,
    pub to: NodeId,
    /// Index of the sender: its SPIs begin with it.
    pub index: PeerIndex,
    /// Start of the sender's agent.
    pub generation: Generation,
    /// Grows with every change of what follows, within a generation.
    pub sequence: u64,
    /// The last message of the receiver that the sender has seen.
    pub seen: Option<Seen>,
    /// The sender repeats the message until `seen` in a message of the receiver names it.
    pub wants_reply: bool,
    /// Per live epoch, at most [`Self::EPOCHS`].
    pub epochs: Vec<EpochState>,
    /// Slots of SAs towards the receiver that the sender's kernel holds, at most [`Self::SLOTS`].
    pub held: Vec<Slot>,
    /// Slot of `held` in which the sender sends, and its epoch.
    pub transmit: Option<(Slot, Epoch)>,
}

/// Names one message of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seen {
    pub generation: Generation,
    pub sequence: u64,
}

/// State of one epoch between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochState {
    pub epoch: EpochName,
    /// Ephemeral key of the message's sender in this epoch and generation.
    pub public: PublicKey,
    pub lanes: u8,
    /// SAs that the sender of the message can receive on now.
    pub staged: Option<Staged>,
    /// The sender of the message cannot use what the receiver staged up to this session.
    pub refused: Option<Refused>,
}

/// Inbound SAs are installed, for exactly these keys: the receiver of the message may send on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// Agent start of the message's receiver, who will send on these SAs.
    pub sender_generation: Generation,
    /// Its ephemeral key.
    pub sender_public: PublicKey,
    pub slot: Slot,
    /// Lanes 0 to `lanes - 1` are installed.
    pub lanes: u8,
    /// See `keys::pair`.
    pub session: u64,
}

/// A staging that is used up: the kernel refused or lost its SAs on the sending side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Agent start of the node that staged it.
    pub receiver_generation: Generation,
    pub session: u64,
}

/// Bytes that are no [`Acknowledgement`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcknowledgementError {
    /// The first byte names a version that this release does not read.
    #[error("acknowledgement of version {0}: this release reads version {version}; upgrade the older node", version = Acknowledgement::VERSION)]
    Version(u8),
    /// Nothing, or bytes that do not follow the encoding.
    #[error("malformed acknowledgement: {0}")]
    Malformed(#[from] postcard::Error),
    /// More follows after the message.
    #[error("{0} bytes follow an acknowledgement")]
    Trailing(usize),
    /// Longer than any that this release writes.
    #[error("acknowledgement of {0} bytes: at most {max} are possible", max = Acknowledgement::MAX_LEN)]
    TooLong(usize),
    /// A list has more entries than can be, or one twice.
    #[error("an acknowledgement lists {0} more often than possible")]
    List(&'static str),
    /// A pair has 1 to 16 lanes.
    #[error("an acknowledgement names {0} lanes: 1 to 16 are possible")]
    Lanes(u8),
    /// The slot to send in is not among those held.
    #[error("an acknowledgement sends in slot {0}, which it does not hold")]
    Transmit(Slot),
}

impl Acknowledgement {
    pub const VERSION: u8 = 1;
    /// Epochs in one message: the active and the staged one.
    pub const EPOCHS: usize = 2;
    /// Slots of one direction of a pair at one time.
    pub const SLOTS: usize = 4;
    /// Bytes of the longest message: it fits one datagram.
    pub const MAX_LEN: usize = 400;

    /// Version byte, then postcard.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![Self::VERSION];
        bytes.extend(postcard::to_stdvec(self).expect("plain fields encode"));
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AcknowledgementError> {
        use AcknowledgementError as E;
        if bytes.len() > Self::MAX_LEN {
            return Err(E::TooLong(bytes.len()));
        }
        let (version, body) = bytes
            .split_first()
            .ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        if *version != Self::VERSION {
            return Err(E::Version(*version));
        }
        let (message, rest) = postcard::take_from_bytes::<Self>(body)?;
        if !rest.is_empty() {
            return Err(E::Trailing(rest.len()));
        }
        message.check()?;
        Ok(message)
    }

    fn check(&self) -> Result<(), AcknowledgementError> {
        use AcknowledgementError as E;
        let ascending = self.epochs.is_sorted_by(|a, b| a.epoch < b.epoch);
        if self.epochs.len() > Self::EPOCHS || !ascending {
            return Err(E::List("epochs"));
        }
        let twice = |(i, slot): (usize, &Slot)| self.held[..i].contains(slot);
        if self.held.len() > Self::SLOTS || self.held.iter().enumerate().any(twice) {
            return Err(E::List("slots"));
        }
        let lanes =
            |state: &EpochState| [Some(state.lanes), state.staged.map(|staged| staged.lanes)];
        if let Some(lanes) = self
            .epochs
            .iter()
            .flat_map(lanes)
            .flatten()
            .find(|lanes| !(1..=16).contains(lanes))
        {
            return Err(E::Lanes(lanes));
        }
        match self.transmit {
            Some((slot, _)) if !self.held.contains(&slot) => Err(E::Transmit(slot)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    prop_compose! {
        fn any_epoch_name()(incarnation: u32, number: u32, hash: [u8; 8]) -> EpochName {
            EpochName { incarnation, number, hash }
        }
    }

    prop_compose! {
        fn any_staged()(generation: u64, public: [u8; 32], slot: u8, lanes in 1..=16u8, session: u64) -> Staged {
            Staged {
                sender_generation: Generation(generation),
                sender_public: PublicKey::from_bytes(public),
                slot: Slot::new(slot),
                lanes,
                session,
            }
        }
    }

    prop_compose! {
        fn any_state()(
            epoch in any_epoch_name(),
            public: [u8; 32],
            lanes in 1..=16u8,
            staged in option::of(any_staged()),
            refused: Option<(u64, u64)>,
        ) -> EpochState {
            EpochState {
                epoch,
                public: PublicKey::from_bytes(public),
                lanes,
                staged,
                refused: refused.map(|(generation, session)| Refused {
                    receiver_generation: Generation(generation),
                    session,
                }),
            }
        }
    }

    prop_compose! {
        fn any_acknowledgement()(
            (cluster, from, to) in any::<([u8; 16], [u8; 16], [u8; 16])>(),
            index in 1..=PeerIndex::MAX,
            (generation, sequence, wants_reply) in any::<(u64, u64, bool)>(),
            seen: Option<(u64, u64)>,
            mut epochs in vec(any_state(), 0..=Acknowledgement::EPOCHS),
            held in proptest::collection::btree_set(any::<u8>(), 0..=Acknowledgement::SLOTS),
            epoch: u32,
            sends: bool,
        ) -> Acknowledgement {
            epochs.sort_by_key(|state| state.epoch);
            let held: Vec<_> = held.into_iter().map(Slot::new).collect();
            Acknowledgement {
                cluster: ClusterId::from_bytes(cluster),
                from: NodeId::from_bytes(from),
                to: NodeId::from_bytes(to),
                index: PeerIndex::new(index).expect("in range"),
                generation: Generation(generation),
                sequence,
                seen: seen.map(|(generation, sequence)| Seen { generation: Generation(generation), sequence }),
                wants_reply,
                epochs,
                transmit: held.first().filter(|_| sends).map(|slot| (*slot, Epoch::new(epoch))),
                held,
            }
        }
    }

    proptest! {
        #[test]
        fn acknowledgements_are_read_as_they_are_written(message in any_acknowledgement()) {
            let bytes = message.to_bytes();
            prop_assert!(bytes.len() <= Acknowledgement::MAX_LEN, "{} bytes", bytes.len());
            prop_assert_eq!(Acknowledgement::from_bytes(&bytes), Ok(message));
            for len in 0..bytes.len() {
                prop_assert!(Acknowledgement::from_bytes(&bytes[..len]).is_err());
            }
        }

        #[test]
        fn noise_is_refused_or_read_without_panic(mut bytes in vec(any::<u8>(), 0..500), versioned: bool) {
            if versioned && !bytes.is_empty() {
                bytes[0] = Acknowledgement::VERSION;
            }
            let _ = Acknowledgement::from_bytes(&bytes);
        }

        #[test]
        fn a_changed_byte_never_makes_an_impossible_message(
            message in any_acknowledgement(), at: prop::sample::Index, byte: u8,
        ) {
            let mut bytes = message.to_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(read) = Acknowledgement::from_bytes(&bytes) {
                prop_assert_eq!(Acknowledgement::from_bytes(&read.to_bytes()), Ok(read));
            }
        }
    }
}
