//! What members say to each other. Any node answers acknowledgements and anti-entropy; the rest is for
//! managers.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{
    message::Message,
    nested,
    permission::Denied,
    renew::{RenewRefused, Renewed},
    secrets::{Handout, MAX_EPOCHS},
};
use crate::{
    gossip::anti_entropy,
    id::{ClusterId, EpochName, NodeId},
    log::{
        command::{Command, Outcome},
        epochs::EpochRefusal,
        refusal::Refusal,
        roster::RosterRefusal,
        view::{Update, Version},
    },
    rotation::{Acknowledgement, Digest},
};

/// What a member asks, or says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberRequest {
    /// Of a manager: what has changed since the version that the node has.
    PullView { have: Option<Version> },
    /// Of a manager: the secrets of these epochs, at most [`MAX_EPOCHS`].
    PullSecrets { epochs: Vec<EpochName> },
    /// Of a manager: a new certificate before the present one ends.
    Renew { request: Vec<u8> },
    /// To the peer that it names.
    Acknowledge(#[serde(with = "nested::acknowledgement")] Acknowledgement),
    /// To a manager: how far the sender is with an epoch.
    Report(#[serde(with = "nested::digest")] Digest),
    /// To anybody: one message of an anti-entropy exchange.
    Sync(Vec<u8>),
    /// To a manager: a command for the log.
    Propose {
        command: Box<Command>,
        /// By a manager that is not the leader. It is not forwarded again.
        forwarded: bool,
    },
    /// As [`Self::PullView`], but of a manager that waits with its answer until there is something
    /// newer than what the node has, or until it has waited long enough: then nothing has changed.
    WatchView { have: Version },
}

impl Message for MemberRequest {
    const NAME: &'static str = "request of a member";
    const LIMITS: &'static [usize] = &[
        32,
        // A name has 18 bytes at the most.
        16 + 18 * MAX_EPOCHS,
        1024,
        16 + Acknowledgement::MAX_LEN,
        16 + Digest::MAX_LEN,
        16 + anti_entropy::MAX_MESSAGE,
        16 + Command::MAX_LEN,
        32,
    ];

    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::PullSecrets { epochs } if epochs.is_empty() => Err("it asks for no epoch"),
            Self::PullSecrets { epochs } if epochs.len() > MAX_EPOCHS => {
                Err("it asks for more epochs than are live at a time")
            }
            _ => Ok(()),
        }
    }
}

/// The answer to a [`MemberRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberResponse {
    View(Update),
    Secrets(Handout),
    Renewed(Box<Renewed>),
    /// It was heard, and there is nothing to say.
    Heard,
    Sync(Vec<u8>),
    Outcome(Box<Outcome>),
    Refused(Box<MemberRefused>),
}

impl Message for MemberResponse {
    const NAME: &'static str = "answer to a member";
    const LIMITS: &'static [usize] = &[
        Update::MAX_LEN,
        16 + (18 + 64) * MAX_EPOCHS,
        32 * 1024,
        2,
        16 + anti_entropy::MAX_MESSAGE,
        256 * 1024,
        64 * 1024,
    ];

    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Secrets(handout) if handout.0.len() > MAX_EPOCHS => {
                Err("it has secrets of more epochs than are live at a time")
            }
            _ => Ok(()),
        }
    }
}

/// Why a member does not get what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum MemberRefused {
    /// The log knows better than the TLS handshake did: the caller is no member, or no longer.
    #[error(transparent)]
    Roster(RosterRefusal),
    /// Only managers have the log.
    #[error("the node that was asked is no manager: ask a manager")]
    NotManager,
    /// None of the epochs is kept.
    #[error(transparent)]
    Epoch(EpochRefusal),
    #[error(transparent)]
    Renewal(RenewRefused),
    /// A message of one node to another, sent by a third or to a third.
    #[error(
        "an acknowledgement from {from} to {to} in cluster {cluster} does not belong here: it was \
         sent by another node, or to one"
    )]
    Misdirected {
        cluster: ClusterId,
        from: NodeId,
        to: NodeId,
    },
    /// The anti-entropy message was not understood, or comes too often.
    #[error("{0}")]
    Sync(String),
    #[error(transparent)]
    Proposal(ProposeRefused),
}

/// Why a command is not in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ProposeRefused {
    /// Who proposes it may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The log has it, and refused it. It changed nothing.
    #[error(transparent)]
    Log(#[from] Refusal),
    /// The manager that was asked does not lead.
    #[error("the manager that was asked does not lead: ask {}", leader_text(.leader))]
    NotLeader {
        leader: Option<(NodeId, SocketAddr)>,
    },
    /// It is not known whether the log has it or will have it: propose what is safe to repeat.
    #[error(
        "the managers did not decide in time ({0}): look at the state before you try again, the \
         command may still be carried out"
    )]
    Undecided(String),
    /// There is no leader: nothing was done.
    #[error("the managers have no leader ({0}): more than half of them must reach each other")]
    NoLeader(String),
    /// The managers cannot bear it: it would leave no majority of them, or is too long. Nothing was
    /// done.
    #[error("{0}")]
    Majority(String),
}

fn leader_text(leader: &Option<(NodeId, SocketAddr)>) -> String {
    match leader {
        Some((node, address)) => format!("node {node} at {address}"),
        None => "again in a moment, there is no leader now".into(),
    }
}
