//! The join: a token and a request for a certificate against a certificate, the trusted roots and the
//! first view of the cluster.

use overlay_ebpf::abi::PeerIndex;
use serde::{Deserialize, Serialize};

use super::message::Message;
use crate::{
    id::ClusterId,
    identity::{
        Role,
        authority::AuthorityError,
        csr::CertificateRequest,
        node_key::NodeKey,
        token::{JoinToken, TokenError, TokenHash},
        trust::{RootDigest, TrustBundle},
    },
    log::{
        member::{Contact, ContactError},
        names::{Labels, NodeName},
        refusal::Refusal,
        tokens::TokenRefusal,
        view::{Update, View},
    },
    time::Timestamp,
};

/// A node that asks to become a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    pub token: JoinToken,
    /// DER of the request for a certificate: see [`crate::identity::csr`].
    pub request: Vec<u8>,
    pub name: NodeName,
    /// VTEPs, control address, and version of the software.
    pub contact: Contact,
    pub labels: Labels,
    /// The clock of the host, when the request was made.
    pub clock: Timestamp,
}

/// A host that is to join.
#[derive(Debug, Clone)]
pub struct Joiner<'a> {
    pub key: &'a NodeKey,
    pub name: NodeName,
    pub contact: Contact,
    pub labels: Labels,
}

/// What is wrong on the side of the joining host, before any manager is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Contact(#[from] ContactError),
    #[error(transparent)]
    Request(#[from] AuthorityError),
}

impl Join {
    /// The request of a host that was given `token`, as its clock says `clock`. The token is taken as
    /// it stands in a file or on a line: spaces around it do no harm.
    pub fn new(token: &str, joiner: Joiner<'_>, clock: Timestamp) -> Result<Self, JoinError> {
        let Joiner {
            key,
            name,
            contact,
            labels,
        } = joiner;
        contact.check()?;
        Ok(Self {
            token: token.trim().parse()?,
            request: CertificateRequest::sign(key)?,
            name,
            contact,
            labels,
            clock,
        })
    }
}

/// What a joining node sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinRequest {
    Join(Box<Join>),
}

impl Message for JoinRequest {
    const NAME: &'static str = "join request";
    const LIMITS: &'static [usize] = &[16 * 1024];
}

/// What the new member gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// DER of its certificate. Its issuer is among the roots of `trust`: no other certificate is
    /// between them.
    pub certificate: Vec<u8>,
    pub trust: TrustBundle,
    pub cluster: ClusterId,
    pub index: PeerIndex,
    /// What it is now: the role of the token.
    pub role: Role,
    pub view: View,
}

/// What the manager answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinResponse {
    Joined(Box<Joined>),
    Refused(Box<JoinRefused>),
}

impl Message for JoinResponse {
    const NAME: &'static str = "answer to a join";
    const LIMITS: &'static [usize] = &[Update::MAX_LEN + 64 * 1024, 64 * 1024];
}

/// Why a node may not join, in words for whoever joins it. [`JoinRefused::at_manager`] has those for
/// the manager's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum JoinRefused {
    /// The token names a root that this cluster does not trust.
    #[error(
        "the join token names root {root}, which is none of cluster {cluster}: use the token of \
         the cluster that this manager belongs to; if its root was changed, `overlay token show` \
         gives the token of today",
        root = RootDigest::from_bytes(*.root)
    )]
    ForeignToken { cluster: ClusterId, root: [u8; 32] },
    /// The token opens nothing, or no longer.
    #[error(transparent)]
    Token(TokenRefusal),
    /// The letter of the token is not that of its secret.
    #[error(
        "the join token is for a {actual}, and says that it is for a {claimed}: use the token as \
         `overlay token show` prints it"
    )]
    TokenRole { actual: Role, claimed: Role },
    /// The clocks are too far apart: certificates would be refused.
    #[error(
        "the clock of this host says {node} and that of the manager {manager}, {apart} s apart, and \
         {tolerance} s are tolerated: synchronise both hosts, with NTP for example",
        apart = apart(*.node, *.manager),
        tolerance = crate::identity::certificate::CLOCK_TOLERANCE.as_secs()
    )]
    Clock { node: Timestamp, manager: Timestamp },
    /// The request for a certificate is bad.
    #[error("{0}")]
    Request(String),
    /// It has left as something else.
    #[error(
        "node {name} has left the cluster as a {role}, and the token is for a {wanted}: join with \
         the token for a {role}, or let a manager remove the node first"
    )]
    LeftAs {
        name: NodeName,
        role: Role,
        wanted: Role,
    },
    /// The log does not take it: evicted, a name or address of another node, and the like.
    #[error(transparent)]
    Log(Refusal),
    /// Only managers let nodes in.
    #[error("the node at this address is no manager of the cluster: join at a manager")]
    NotManager,
    /// No leader took the command.
    #[error("the managers cannot decide now ({0}): try again, or at another manager")]
    Unavailable(String),
    /// Too many at once.
    #[error("the manager is busy: try again in a few seconds")]
    Busy,
}

impl JoinRefused {
    /// Whether the same request may succeed later.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Busy)
    }

    /// For the log of the manager: what was refused to whom, and whether somebody should care.
    pub fn at_manager(&self, name: &NodeName) -> String {
        let advice = match self {
            Self::Token(TokenRefusal::Unknown) | Self::ForeignToken { .. } => {
                "; if this host is unknown, someone guesses or has an old token"
            }
            Self::Log(_) => "; its token is good",
            Self::Clock { .. } => {
                "; if other nodes are refused alike, this manager's clock is wrong"
            }
            _ => "",
        };
        format!("a host that calls itself {name} may not join: {self}{advice}")
    }
}

fn apart(a: Timestamp, b: Timestamp) -> u64 {
    a.since(b).max(b.since(a)).as_secs()
}

/// A token as a command of the managers' log names it.
pub fn token_hash(token: &JoinToken, cluster: ClusterId) -> TokenHash {
    token.hash(cluster)
}
