//! The renewal of a certificate: of one that has expired at a service of its own, of one that is good
//! among the messages of members.

use serde::{Deserialize, Serialize};

use super::message::Message;
use crate::{
    id::NodeId,
    identity::{Role, trust::TrustBundle},
    log::roster::RosterRefusal,
};

/// What a member whose certificate has expired sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenewRequest {
    /// DER of the request for a certificate.
    Renew { request: Vec<u8> },
}

impl Message for RenewRequest {
    const NAME: &'static str = "renewal request";
    const LIMITS: &'static [usize] = &[1024];
}

/// A new certificate, and the roots of today: the node may have slept through a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// DER.
    pub certificate: Vec<u8>,
    pub trust: TrustBundle,
    /// As the roster has it, and now the certificate.
    pub role: Role,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenewResponse {
    Renewed(Box<Renewed>),
    Refused(RenewRefused),
}

impl Message for RenewResponse {
    const NAME: &'static str = "answer to a renewal";
    const LIMITS: &'static [usize] = &[32 * 1024, 4096];
}

/// Why a certificate is not renewed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum RenewRefused {
    /// The request for a certificate is bad.
    #[error("{0}")]
    Request(String),
    /// A renewal keeps the key: the key is the node.
    #[error(
        "node {node} asks for a certificate of node {other}: a node renews its own, and joins with \
         a new key"
    )]
    OtherKey { node: NodeId, other: NodeId },
    /// No member.
    #[error(transparent)]
    Roster(RosterRefusal),
    /// Only managers issue certificates.
    #[error("the node that was asked is no manager: renew at a manager")]
    NotManager,
    /// The authority cannot issue now.
    #[error("the manager cannot issue certificates now ({0}): ask another")]
    Unavailable(String),
}
