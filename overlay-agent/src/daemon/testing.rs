//! A small cluster with its log for tests: node 1 is its manager.

use std::time::Duration;

use overlay_cluster::{
    control::found::{Founder, found},
    id::NodeId,
    identity::{authority::Validity, node_key::NodeKey},
    log::{
        command::{Command, Outcome},
        epochs::RotationPolicy,
        member::{Contact, NodeKey as LogKey, Role},
        names::{Labels, NodeName, SoftwareVersion},
        roster::Applicant,
        settings::Settings,
        state::State,
        tokens::{Token, TokenSecret, Tokens},
        view::{Update, View},
    },
    time::Timestamp,
};
use rand::{SeedableRng as _, rngs::StdRng};

pub const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
pub const HOUR: Duration = Duration::from_secs(3600);

pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

pub fn key(n: u8) -> NodeKey {
    NodeKey::generate(&mut rng(n.into()))
}

pub fn node(n: u8) -> NodeId {
    key(n).node_id()
}

fn name(n: u8) -> NodeName {
    NodeName::new(format!("node-{n}")).unwrap()
}

fn contact(n: u8) -> Contact {
    Contact {
        vteps: [[192, 0, 2, n].into()].into_iter().collect(),
        control: ([192, 0, 2, n], 7946).into(),
        software: SoftwareVersion::new(env!("CARGO_PKG_VERSION")).unwrap(),
    }
}

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

pub fn founded() -> State {
    let founder = Founder {
        key: &key(1),
        name: name(1),
        contact: contact(1),
        labels: Labels::default(),
        settings: Settings::default(),
        policy: RotationPolicy::default(),
        validity: Validity::default(),
        token_lifetime: None,
    };
    let founded = found(founder, NOW, &mut rng(100)).unwrap();
    let mut state = State::default();
    apply(&mut state, Command::Initialise(Box::new(founded.genesis)));
    state
}

/// Applies what must be accepted.
pub fn apply(state: &mut State, command: Command) -> Outcome {
    apply_at(state, NOW, command)
}

pub fn apply_at(state: &mut State, at: Timestamp, command: Command) -> Outcome {
    let outcome = state.apply(at, command);
    assert_eq!(state.fault(), None);
    outcome.unwrap_or_else(|refusal| panic!("{refusal}"))
}

/// What node `n` is told.
pub fn view(state: &State, n: u8) -> View {
    match state.cluster().unwrap().update(&node(n), None) {
        Ok(Update::Whole(view)) => *view,
        other => panic!("{other:?}"),
    }
}

/// Node `n` joins as a worker.
pub fn join(state: &mut State, n: u8) {
    let cluster = state.cluster().unwrap();
    let command = Command::Join {
        token: cluster.token(Role::Worker).hash(cluster.id()),
        applicant: Applicant {
            key: LogKey::new(key(n).public().to_bytes()).unwrap(),
            name: name(n),
            contact: contact(n),
            labels: Labels::default(),
        },
    };
    apply(state, command);
}
