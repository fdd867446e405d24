//! Nodes, networks and epochs for the tests.

use std::sync::LazyLock;

use ed25519_dalek::SigningKey;
use rand::{SeedableRng as _, rngs::StdRng};

use super::{
    command::{Command, Genesis, Outcome},
    epochs::{NewEpoch, RotationPolicy},
    member::{Contact, NodeKey, Vteps},
    names::{Labels, NetworkName, NodeName, SoftwareVersion},
    networks::NetworkRequest,
    roster::Applicant,
    settings::Settings,
    state::State,
    subnet::SubnetRequest,
    tokens::{Token, TokenHash, TokenSecret, Tokens},
};
use crate::{
    id::{ClusterId, EpochName, NodeId},
    identity::authority::{Authority, Validity},
    keys::EpochSecrets,
    secret::Secret,
    time::Timestamp,
};

/// Seconds since the samples' start.
pub fn now(seconds: u64) -> Timestamp {
    Timestamp::from_secs(1_800_000_000 + seconds)
}

pub fn key(n: u8) -> NodeKey {
    let key = SigningKey::from_bytes(&[n; 32]).verifying_key();
    NodeKey::new(key.to_bytes()).expect("a key")
}

pub fn node(n: u8) -> NodeId {
    key(n).id()
}

pub fn contact(n: u8) -> Contact {
    Contact {
        vteps: Vteps {
            v4: Some([192, 0, 2, n].into()),
            v6: None,
        },
        control: ([192, 0, 2, n], 7946).into(),
        software: SoftwareVersion::new("0.1.0").expect("a version"),
    }
}

pub fn applicant(n: u8) -> Applicant {
    Applicant {
        key: key(n),
        name: NodeName::new(format!("node-{n}")).expect("a name"),
        contact: contact(n),
        labels: Labels::default(),
    }
}

pub const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

/// An authority of the samples' cluster, made at their start.
pub fn authority(n: u8) -> Authority {
    static MADE: LazyLock<Vec<Authority>> = LazyLock::new(|| {
        let make = |n| {
            let rng = &mut StdRng::seed_from_u64(n);
            Authority::generate(CLUSTER, &Validity::default(), now(0), rng).expect("an authority")
        };
        (0..10).map(make).collect()
    });
    MADE[usize::from(n)].clone()
}

/// Tokens with secrets of `n` and `n + 1`.
pub fn tokens(n: u8) -> Tokens {
    let token = |n| Token {
        secret: TokenSecret::new([n; TokenSecret::LEN]),
        expires: None,
    };
    Tokens {
        worker: token(n),
        manager: token(n + 1),
    }
}

/// The hash of the worker token of [`tokens`].
pub fn worker(n: u8) -> TokenHash {
    tokens(n).worker.hash(CLUSTER)
}

/// An epoch with secrets of its own.
pub fn epoch(incarnation: u32, number: u32) -> NewEpoch {
    let byte = |salt: u32| u8::try_from((incarnation * 64 + number * 4 + salt) % 251).unwrap_or(0);
    NewEpoch {
        name: EpochName {
            incarnation,
            number,
            hash: [byte(1); 8],
        },
        secrets: EpochSecrets {
            gossip: Secret::new([byte(2); 32]),
            data: Secret::new([byte(3); 32]),
        },
    }
}

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pairs = pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Labels::new(pairs.collect()).expect("labels")
}

/// An attachable, encrypted network.
pub fn network(name: &str, subnet: &str) -> NetworkRequest {
    NetworkRequest {
        name: NetworkName::new(name).expect("a name"),
        vni: None,
        encrypted: true,
        attachable: true,
        replicate: false,
        mtu: None,
        subnets: vec![SubnetRequest {
            net: subnet.parse().expect("a net"),
            gateway: None,
            range: None,
            block_prefix: None,
        }],
        rules: Vec::new(),
        labels: Labels::default(),
    }
}

/// A state with node 1 as its manager, tokens 1 (worker) and 2 (manager).
pub fn founded() -> State {
    let mut state = State::default();
    let genesis = Genesis {
        cluster: CLUSTER,
        authority: authority(1),
        manager: applicant(1),
        tokens: tokens(1),
        epoch: epoch(0, 1),
        policy: RotationPolicy::default(),
        settings: Settings::default(),
    };
    apply(&mut state, 0, Command::Initialise(Box::new(genesis)));
    state
}

/// Applies what must be accepted.
pub fn apply(state: &mut State, at: u64, command: Command) -> Outcome {
    let outcome = state.apply(now(at), command);
    assert_eq!(state.fault(), None);
    outcome.unwrap_or_else(|refusal| panic!("{refusal}"))
}

/// Node `n` joins as a worker by the first token.
pub fn join(state: &mut State, n: u8) -> Outcome {
    let command = Command::Join {
        token: worker(1),
        applicant: applicant(n),
    };
    apply(state, 0, command)
}
