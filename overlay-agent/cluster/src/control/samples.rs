//! A cluster with its authority, its tokens and its log, for the tests.

use rand::{SeedableRng as _, rngs::StdRng};

use super::{
    handler::{Caller, Handler},
    join::{Join, token_hash},
};
use crate::{
    id::{ClusterId, EpochName, NodeId},
    identity::{
        Role,
        authority::{Authority, Validity},
        csr::CertificateRequest,
        node_key::NodeKey,
        token::JoinToken,
        trust::TrustBundle,
    },
    keys::EpochSecrets,
    log::{
        command::{Command, Genesis, Outcome},
        epochs::{NewEpoch, RotationPolicy},
        member::NodeKey as LogKey,
        names::NodeName,
        roster::Applicant,
        samples::{contact, now},
        settings::Settings,
        state::{Cluster, State},
        tokens::{Token, Tokens},
    },
    time::Timestamp,
};

pub(super) const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

pub(super) fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

pub(super) fn key(n: u8) -> NodeKey {
    NodeKey::generate(&mut rng(1000 + u64::from(n)))
}

pub(super) fn node(n: u8) -> NodeId {
    key(n).node_id()
}

/// A request for the certificate of node `n`.
pub(super) fn request(n: u8) -> Vec<u8> {
    CertificateRequest::sign(&key(n)).expect("signs")
}

pub(super) fn applicant(n: u8) -> Applicant {
    Applicant {
        key: LogKey::new(key(n).public().to_bytes()).expect("a key"),
        ..crate::log::samples::applicant(n)
    }
}

/// An epoch that bears the name of its secrets.
pub(super) fn epoch(number: u32) -> NewEpoch {
    let secrets = EpochSecrets::random(&mut rng(number.into()));
    NewEpoch {
        name: secrets.name(0, number),
        secrets,
    }
}

/// Node 1 is the manager.
pub(super) struct World {
    pub(super) authority: Authority,
    pub(super) trust: TrustBundle,
    pub(super) state: State,
    pub(super) worker: JoinToken,
    pub(super) manager: JoinToken,
}

impl World {
    pub(super) fn new() -> Self {
        let authority = Authority::generate(CLUSTER, &Validity::default(), now(0), &mut rng(1))
            .expect("an authority");
        let trust = TrustBundle::new(authority.root().clone());
        let root = authority.root().digest();
        let [worker, manager] =
            Role::ALL.map(|role| JoinToken::generate(role, root, &mut rng(10 + role as u64)));
        let mut world = Self {
            authority,
            trust,
            state: State::default(),
            worker,
            manager,
        };
        let token = |token: &JoinToken, expires| Token {
            secret: token.secret.clone(),
            expires,
        };
        let genesis = Genesis {
            cluster: CLUSTER,
            authority: world.authority.clone(),
            manager: applicant(1),
            tokens: Tokens {
                worker: token(&world.worker, Some(now(3600))),
                manager: token(&world.manager, None),
            },
            epoch: epoch(1),
            policy: RotationPolicy::default(),
            settings: Settings::default(),
        };
        world.apply(Command::Initialise(Box::new(genesis)));
        world
    }

    pub(super) fn apply(&mut self, command: Command) -> Outcome {
        let outcome = self.state.apply(now(0), command);
        outcome.unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    /// Node `n` becomes a member.
    pub(super) fn admit(&mut self, n: u8, token: &JoinToken) -> Outcome {
        self.apply(Command::Join {
            token: token_hash(token, CLUSTER),
            applicant: applicant(n),
        })
    }

    pub(super) fn log(&self) -> &Cluster {
        self.state.cluster().expect("a cluster")
    }

    pub(super) fn at(&self, now: Timestamp) -> Handler<'_> {
        Handler {
            own: node(1),
            trust: &self.trust,
            log: self.state.cluster(),
            now,
        }
    }

    pub(super) fn handler(&self) -> Handler<'_> {
        self.at(now(0))
    }

    pub(super) fn current(&self) -> EpochName {
        self.log().epochs().current()
    }

    /// The join of node `n` as a worker, now.
    pub(super) fn join(&self, n: u8) -> Join {
        Join {
            token: self.worker.clone(),
            request: request(n),
            name: NodeName::new(format!("node-{n}")).expect("a name"),
            contact: contact(n),
            labels: Default::default(),
            clock: now(0),
        }
    }

    pub(super) fn issue(&self, n: u8, role: Role) -> Vec<u8> {
        self.authority
            .issue(
                &key(n).public(),
                role,
                &Validity::default(),
                now(0),
                &mut rng(5),
            )
            .expect("issues")
    }
}

pub(super) fn worker(n: u8) -> Caller {
    Caller {
        node: node(n),
        role: Role::Worker,
    }
}

pub(super) fn manager(n: u8) -> Caller {
    Caller {
        node: node(n),
        role: Role::Manager,
    }
}
