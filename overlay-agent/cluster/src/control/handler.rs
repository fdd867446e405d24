//! What a node answers, from a request, who sends it, and the state of the managers' log. Nothing
//! here waits: where the log must change first, the caller proposes the command and comes back with
//! what the log then says.

use ed25519_dalek::VerifyingKey;

use super::{
    join::{Join, JoinRefused, Joined, token_hash},
    member::{MemberRefused, MemberRequest, MemberResponse, ProposeRefused},
    permission::may_propose,
    renew::{RenewRefused, Renewed},
    secrets::Handout,
};
use crate::{
    id::{EpochName, NodeId},
    identity::{
        Role,
        certificate::{CLOCK_TOLERANCE, Identity},
        csr::CertificateRequest,
        trust::TrustBundle,
    },
    log::{
        command::Command,
        epochs::EpochRefusal,
        member::{Member, NodeKey},
        refusal::Refusal,
        roster::{Applicant, RosterRefusal},
        state::Cluster,
        view::{Update, Version},
    },
    rotation::{Acknowledgement, Digest},
    time::Timestamp,
};

/// Who sends a request, as its certificate says. What it may do, the roster says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub node: NodeId,
    /// In the certificate.
    pub role: Role,
}

impl From<&Identity> for Caller {
    fn from(identity: &Identity) -> Self {
        Self {
            node: identity.node,
            role: identity.role,
        }
    }
}

/// What decides at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Handler<'a> {
    /// This node.
    pub own: NodeId,
    /// Its cluster, and the roots that are trusted.
    pub trust: &'a TrustBundle,
    /// The state of the log, on a manager.
    pub log: Option<&'a Cluster>,
    /// This host's clock.
    pub now: Timestamp,
}

/// A certificate that may be issued. It is issued after the log has the node, and not before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    pub key: VerifyingKey,
    pub role: Role,
}

/// A join that may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub issue: Issue,
    /// To propose first. Nothing if the node is a member already, just so: the answer to an earlier
    /// request was lost.
    pub command: Option<Command>,
}

/// What is to be done about a member's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Todo {
    Answer(MemberResponse),
    /// Propose it. If it was not `forwarded` and another manager leads, forward it there.
    Propose {
        command: Box<Command>,
        forwarded: bool,
    },
    /// Issue it, and answer with it.
    Issue(Issue),
    /// For the rotation.
    Acknowledge(Acknowledgement),
    /// For the managers' schedule.
    Report(NodeId, Digest),
    /// For the gossip: answer with what it says.
    Sync(NodeId, Vec<u8>),
    /// The caller has all there is: decide again when the log has changed, or answer a pull with it
    /// when the wait is over.
    Wait(Version),
}

impl<'a> Handler<'a> {
    /// Whether a node may join. Who has no good token learns nothing else.
    pub fn join(&self, join: &Join) -> Result<Accepted, JoinRefused> {
        let log = self.log.ok_or(JoinRefused::NotManager)?;
        let wanted = self.check_token(log, join)?;
        self.check_clock(join.clock)?;
        let request = CertificateRequest::parse(&join.request)
            .map_err(|error| JoinRefused::Request(error.to_string()))?;
        let key = NodeKey::new(request.key().to_bytes())
            .map_err(|error| JoinRefused::Request(error.to_string()))?;
        let issue = Issue {
            key: *request.key(),
            role: wanted,
        };
        let applicant = Applicant {
            key,
            name: join.name.clone(),
            contact: join.contact.clone(),
            labels: join.labels.clone(),
        };
        let command = match log.roster().member(&request.node_id()) {
            Ok(member) => self.check_member(log, member, &applicant, wanted)?,
            Err(RosterRefusal::Unknown(_)) => true,
            Err(refusal) => return Err(refused(refusal)),
        };
        log.roster()
            .check_join(&applicant, wanted)
            .map_err(refused)?;
        let command = command.then(|| Command::Join {
            token: token_hash(&join.token, log.id()),
            applicant,
        });
        Ok(Accepted { issue, command })
    }

    /// The answer to a join that the log has, with the certificate that was issued.
    pub fn joined(&self, issue: &Issue, certificate: Vec<u8>) -> Result<Joined, JoinRefused> {
        let log = self.log.ok_or(JoinRefused::NotManager)?;
        let node = NodeId::of(&issue.key);
        let member = log.roster().present(&node).map_err(refused)?;
        let Update::Whole(view) = log.update(&node, None).map_err(refused)? else {
            unreachable!("who has nothing gets the whole view");
        };
        Ok(Joined {
            certificate,
            trust: log.trust().clone(),
            cluster: log.id(),
            index: member.index,
            role: issue.role,
            view: *view,
        })
    }

    /// Whether a member's certificate may be renewed. The role comes from the roster, so the new
    /// certificate has the role of today.
    pub fn renew(&self, caller: Caller, request: &[u8]) -> Result<Issue, RenewRefused> {
        let log = self.log.ok_or(RenewRefused::NotManager)?;
        let member = log
            .roster()
            .present(&caller.node)
            .map_err(RenewRefused::Roster)?;
        let request = CertificateRequest::parse(request)
            .map_err(|error| RenewRefused::Request(error.to_string()))?;
        if request.node_id() != caller.node {
            return Err(RenewRefused::OtherKey {
                node: caller.node,
                other: request.node_id(),
            });
        }
        Ok(Issue {
            key: *request.key(),
            role: member.role,
        })
    }

    /// The answer to a renewal, with the certificate that was issued.
    pub fn renewed(&self, issue: &Issue, certificate: Vec<u8>) -> Renewed {
        Renewed {
            certificate,
            // Those of the log name the root that has issued it.
            trust: self.log.map_or(self.trust, Cluster::trust).clone(),
            role: issue.role,
        }
    }

    /// What is to be done about a request of a member.
    pub fn member(&self, caller: Caller, request: MemberRequest) -> Todo {
        self.decide(caller, request)
            .unwrap_or_else(|refused| Todo::Answer(MemberResponse::Refused(Box::new(refused))))
    }

    fn decide(&self, caller: Caller, request: MemberRequest) -> Result<Todo, MemberRefused> {
        // What a node that is no manager may answer, the caller of this has checked the roster for.
        if let Some(log) = self.log {
            log.roster()
                .present(&caller.node)
                .map_err(MemberRefused::Roster)?;
        }
        let log = self.log.ok_or(MemberRefused::NotManager);
        match request {
            MemberRequest::PullView { have } => {
                let update = log?
                    .update(&caller.node, have)
                    .map_err(MemberRefused::Roster)?;
                Ok(Todo::Answer(MemberResponse::View(update)))
            }
            MemberRequest::PullSecrets { epochs } => {
                let handout = hand_out(log?, &caller.node, &epochs)?;
                Ok(Todo::Answer(MemberResponse::Secrets(handout)))
            }
            MemberRequest::Renew { request } => self
                .renew(caller, &request)
                .map(Todo::Issue)
                .map_err(MemberRefused::Renewal),
            MemberRequest::Acknowledge(message) => self.acknowledge(caller, message),
            MemberRequest::Report(digest) => {
                log?;
                Ok(Todo::Report(caller.node, digest))
            }
            MemberRequest::Sync(bytes) => Ok(Todo::Sync(caller.node, bytes)),
            MemberRequest::Propose { command, forwarded } => {
                let member = log?
                    .roster()
                    .present(&caller.node)
                    .map_err(MemberRefused::Roster)?;
                let may_be = member.role.min(caller.role);
                may_propose(caller.node, may_be, &command)
                    .map_err(|denied| MemberRefused::Proposal(ProposeRefused::Denied(denied)))?;
                Ok(Todo::Propose { command, forwarded })
            }
            MemberRequest::WatchView { have } => {
                let log = log?;
                if log.version() == have {
                    return Ok(Todo::Wait(have));
                }
                let update = log
                    .update(&caller.node, Some(have))
                    .map_err(MemberRefused::Roster)?;
                Ok(Todo::Answer(MemberResponse::View(update)))
            }
        }
    }

    fn acknowledge(&self, caller: Caller, message: Acknowledgement) -> Result<Todo, MemberRefused> {
        let (cluster, from, to) = (message.cluster, message.from, message.to);
        if (cluster, from, to) != (self.trust.cluster(), caller.node, self.own) {
            return Err(MemberRefused::Misdirected { cluster, from, to });
        }
        Ok(Todo::Acknowledge(message))
    }

    fn check_token(&self, log: &Cluster, join: &Join) -> Result<Role, JoinRefused> {
        let token = &join.token;
        if log.trust().get(token.root).is_none() {
            return Err(JoinRefused::ForeignToken {
                cluster: log.id(),
                root: *token.root.as_bytes(),
            });
        }
        // By the time of the log, by which the log decides.
        let opened = log
            .tokens()
            .role_of(log.id(), &token_hash(token, log.id()), log.now(self.now))
            .map_err(JoinRefused::Token)?;
        if opened != token.role {
            return Err(JoinRefused::TokenRole {
                actual: opened,
                claimed: token.role,
            });
        }
        Ok(opened)
    }

    fn check_clock(&self, node: Timestamp) -> Result<(), JoinRefused> {
        let manager = self.now;
        if node.since(manager).max(manager.since(node)) > CLOCK_TOLERANCE {
            return Err(JoinRefused::Clock { node, manager });
        }
        Ok(())
    }

    /// Whether a node of the roster may join again, and whether the log has to change for it. A join
    /// changes nobody's role.
    fn check_member(
        &self,
        log: &'a Cluster,
        member: &Member,
        applicant: &Applicant,
        wanted: Role,
    ) -> Result<bool, JoinRefused> {
        if member.role == wanted {
            return Ok(!member.is_present() || member.contact != applicant.contact);
        }
        if member.is_present() {
            let refusal = log.roster().check_join(applicant, wanted).err();
            return Err(refused(refusal.unwrap_or(RosterRefusal::OtherRole {
                name: member.name.clone(),
                role: member.role,
                wanted,
            })));
        }
        Err(JoinRefused::LeftAs {
            name: member.name.clone(),
            role: member.role,
            wanted,
        })
    }
}

fn refused(refusal: RosterRefusal) -> JoinRefused {
    JoinRefused::Log(Refusal::Roster(refusal))
}

/// The secrets of those of `epochs` that are kept.
fn hand_out(log: &Cluster, node: &NodeId, epochs: &[EpochName]) -> Result<Handout, MemberRefused> {
    let mut secrets = Vec::with_capacity(epochs.len());
    let mut missing = None;
    for &name in epochs {
        match log.secrets(node, name) {
            Ok(kept) => secrets.push((name, kept.clone())),
            Err(Refusal::Roster(refusal)) => return Err(MemberRefused::Roster(refusal)),
            Err(_) => missing = Some(name),
        }
    }
    match missing {
        Some(wanted) if secrets.is_empty() => Err(MemberRefused::Epoch(EpochRefusal::Unknown {
            wanted,
            current: log.epochs().current(),
        })),
        _ => Ok(Handout(secrets)),
    }
}
