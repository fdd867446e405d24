//! What is done to bytes that claim to be of the managers' log: by the fuzzer in `tests/fuzz`, and by
//! `cargo test` in `main.rs` beside this file.
//!
//! Each target checks of what it accepts that it means what it says. It returns whether it accepted.

#[path = "../../../../tests/fuzz/noise/crypto_random.rs"]
mod crypto_random;

use std::{net::IpAddr, sync::LazyLock};

use ed25519_dalek::SigningKey;
use overlay_cluster::{
    id::{ClusterId, EpochName, NodeId},
    identity::authority::{Authority, Validity},
    keys::EpochSecrets,
    log::{
        addresses::Family,
        command::{Command, Genesis},
        epochs::{NewEpoch, Reason, RotationPolicy},
        member::{Contact, NodeKey},
        names::{Labels, NetworkName, NodeName, SoftwareVersion},
        networks::NetworkRequest,
        roster::Applicant,
        settings::Settings,
        state::{Cluster, State},
        subnet::SubnetRequest,
        tokens::{Token, TokenHash, TokenSecret, Tokens},
        view::{Update, View},
    },
    secret::Secret,
    time::Timestamp,
};

use self::crypto_random::rng;

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// Every target, by the name of its fuzz binary and the beginning of its seeds' names.
pub const ALL: [Target; 3] = [
    ("log_command", command),
    ("log_snapshot", snapshot),
    ("log_view", view),
];

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

/// A cluster with a manager, a worker, a network, blocks and a rotation under way.
static STATE: LazyLock<State> = LazyLock::new(|| {
    let mut state = State::default();
    for command in history() {
        state.apply(NOW, command).expect("fits");
    }
    state
});

fn cluster(state: &State) -> &Cluster {
    state.cluster().expect("a cluster")
}

/// A command that decodes is applied or refused in words, and leaves a sound state.
pub fn command(bytes: &[u8]) -> bool {
    let Ok(command) = Command::decode(bytes) else {
        return false;
    };
    assert_eq!(Command::decode(&command.encode()).as_ref(), Ok(&command));
    for start in [&State::default(), &*STATE] {
        let mut state = start.clone();
        match state.apply(NOW, command.clone()) {
            Ok(_) => assert_eq!(state.fault(), None),
            Err(refusal) => {
                assert!(!refusal.to_string().is_empty());
                assert_eq!(state, *start);
            }
        }
    }
    true
}

/// A snapshot that decodes is sound, and every command leaves it so.
pub fn snapshot(bytes: &[u8]) -> bool {
    let Ok(mut state) = State::decode(bytes) else {
        return false;
    };
    assert_eq!(State::decode(&state.encode()).as_ref(), Ok(&state));
    if let Some(cluster) = state.cluster() {
        let _ = cluster.epochs().due(NOW);
        for (node, _) in cluster.roster().iter() {
            let _ = cluster.update(node, None);
        }
    }
    for command in history() {
        if state.apply(NOW, command).is_ok() {
            assert_eq!(state.fault(), None);
        }
    }
    true
}

/// A view that decodes is taken by the node, or refused and changes nothing.
pub fn view(bytes: &[u8]) -> bool {
    let Ok(update) = Update::decode(bytes) else {
        return false;
    };
    assert_eq!(Update::decode(&update.encode()).as_ref(), Ok(&update));
    let known = whole(&STATE);
    let mut taken = known.clone();
    if let Err(error) = taken.take(update) {
        assert!(!error.to_string().is_empty());
        assert_eq!(taken, known);
    }
    true
}

fn whole(state: &State) -> View {
    match cluster(state).update(&node(2), None) {
        Ok(Update::Whole(view)) => *view,
        other => panic!("{other:?}"),
    }
}

fn key(n: u8) -> NodeKey {
    let key = SigningKey::from_bytes(&[n; 32]).verifying_key();
    NodeKey::new(key.to_bytes()).expect("a key")
}

fn node(n: u8) -> NodeId {
    key(n).id()
}

fn applicant(n: u8) -> Applicant {
    let addresses = [
        IpAddr::from([192, 0, 2, n]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()]),
    ];
    let zone = ("zone".to_owned(), "a".to_owned());
    Applicant {
        key: key(n),
        name: NodeName::new(format!("node-{n}")).expect("a name"),
        contact: Contact {
            vteps: addresses.into_iter().collect(),
            control: (addresses[0], 7946).into(),
            software: SoftwareVersion::new("0.1.0").expect("a version"),
        },
        labels: Labels::new([zone].into()).expect("labels"),
    }
}

fn tokens(n: u8) -> Tokens {
    let token = |n, expires| Token {
        secret: TokenSecret::new([n; TokenSecret::LEN]),
        expires,
    };
    Tokens {
        worker: token(n, Some(Timestamp::from_secs(1_900_000_000))),
        manager: token(n + 1, None),
    }
}

fn worker(n: u8) -> TokenHash {
    tokens(n).worker.hash(CLUSTER)
}

fn authority(seed: u64) -> Authority {
    let validity = Validity::default();
    Authority::generate(CLUSTER, &validity, NOW, &mut rng(seed)).expect("an authority")
}

fn epoch(number: u32) -> NewEpoch {
    let byte = u8::try_from(number * 2).expect("few");
    NewEpoch {
        name: EpochName {
            incarnation: 0,
            number,
            hash: [byte; 8],
        },
        secrets: EpochSecrets {
            gossip: Secret::new([byte; 32]),
            data: Secret::new([byte + 1; 32]),
        },
    }
}

fn subnet(net: &str) -> SubnetRequest {
    SubnetRequest {
        net: net.parse().expect("a net"),
        gateway: None,
        range: None,
        block_prefix: None,
    }
}

fn history() -> Vec<Command> {
    let settings = Settings::default();
    let network = settings.vnis.0;
    vec![
        Command::Initialise(Box::new(Genesis {
            cluster: CLUSTER,
            authority: authority(1),
            manager: applicant(1),
            tokens: tokens(1),
            epoch: epoch(1),
            policy: RotationPolicy::default(),
            settings,
        })),
        Command::Join {
            token: worker(1),
            applicant: applicant(2),
        },
        Command::CreateNetwork(NetworkRequest {
            name: NetworkName::new("my-multi-host-network").expect("a name"),
            vni: None,
            encrypted: true,
            attachable: true,
            replicate: false,
            mtu: Some(1400),
            subnets: vec![subnet("10.0.9.0/24"), subnet("fd00:9::/64")],
            rules: vec!["node.zone==a".parse().expect("a rule")],
            labels: Labels::default(),
        }),
        Command::LeaseBlock {
            network,
            node: node(2),
            family: Family::V4,
            known: 0,
        },
        Command::ClaimBlock {
            network,
            node: node(2),
            block: "fd00:9::77/128".parse().expect("a net"),
        },
        Command::StageEpoch {
            expected: epoch(1).name,
            next: epoch(2),
            reason: Reason::Operator,
        },
        Command::IntroduceRoot {
            expected: authority(1).root().digest(),
            authority: Box::new(authority(2)),
        },
        Command::PromoteRoot {
            expected: authority(1).root().digest(),
            root: authority(2).root().digest(),
            tokens: tokens(9),
            force: true,
        },
    ]
}

/// What each target accepts, as this version makes it: seeds by name.
pub fn made_now() -> Vec<(String, Vec<u8>)> {
    let mut made = Vec::new();
    let names = [
        "initialise",
        "join",
        "create",
        "lease",
        "claim",
        "stage",
        "introduce",
        "promote",
    ];
    for (name, command) in names.into_iter().zip(history()) {
        made.push((format!("log_command_{name}"), command.encode().to_vec()));
    }
    let retire = Command::RetireRoot {
        expected: authority(2).root().digest(),
        root: authority(1).root().digest(),
        force: true,
    };
    made.push(("log_command_retire".into(), retire.encode().to_vec()));
    let evict = Command::Evict {
        node: node(2),
        tokens: tokens(5),
    };
    made.push(("log_command_evict".into(), evict.encode().to_vec()));
    made.push(("log_snapshot".into(), STATE.encode().to_vec()));
    let whole = Update::Whole(Box::new(whole(&STATE)));
    made.push(("log_view_whole".into(), whole.encode()));
    let version = cluster(&STATE).version();
    let mut later = STATE.clone();
    let join = Command::Join {
        token: worker(9),
        applicant: applicant(3),
    };
    later.apply(NOW, join).expect("joins");
    let delta = cluster(&later).update(&node(2), Some(version));
    made.push(("log_view_delta".into(), delta.expect("a member").encode()));
    made
}
