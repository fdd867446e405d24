//! What is done to bytes that claim to be of gossip: by the fuzzer in `tests/fuzz`, and by `cargo test` in
//! `main.rs` beside this file.
//!
//! Each target checks of what it accepts that it means what it says. It returns whether it accepted.

use std::{collections::BTreeMap, iter, sync::LazyLock};

use ed25519_dalek::{SigningKey, VerifyingKey};
use overlay_cluster::{
    gossip::{
        anti_entropy::{self, Ask},
        envelope::{BootNonce, Header, Opener, Sealer, Senders},
        membership,
        record::{Body, Content, Endpoint, Key, Node, Record, Signed, Version},
        store::Store,
    },
    id::{ClusterId, EpochName, Generation, NodeId},
    keys::{EphemeralRecord, PublicKey},
    secret::Secret,
};
use overlay_ebpf::abi::{MacAddr, Vni};

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// Every target, by the name of its fuzz binary and the beginning of its seeds' names.
pub const ALL: [Target; 5] = [
    ("gossip_envelope", envelope),
    ("gossip_payload", payload),
    ("gossip_record", record),
    ("gossip_question", question),
    ("gossip_answer", answer),
];

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);
const BOOT: BootNonce = BootNonce::from_bytes([5; 16]);
const EPOCH: EpochName = EpochName {
    incarnation: 0,
    number: 1,
    hash: [0; 8],
};

fn signing(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn id(n: u8) -> NodeId {
    NodeId::of(&signing(n).verifying_key())
}

fn roster() -> BTreeMap<NodeId, VerifyingKey> {
    (1..=2)
        .map(|n| (id(n), signing(n).verifying_key()))
        .collect()
}

struct One;

impl Senders for One {
    fn is_member(&self, node: NodeId) -> bool {
        node == id(1)
    }

    fn boot_of(&self, _node: NodeId) -> Option<BootNonce> {
        Some(BOOT)
    }
}

/// A whole datagram.
pub fn envelope(bytes: &[u8]) -> bool {
    if let Ok((header, aad, sealed)) = Header::split(bytes) {
        assert_eq!(&header.encode(), aad);
        assert_eq!([aad, sealed].concat(), bytes);
    }
    let mut opener = Opener::default();
    opener.accept(EPOCH, &Secret::new([1; 32]));
    let Ok(opened) = opener.open(bytes, &One) else {
        return false;
    };
    assert_eq!(opened.sender, id(1));
    opener.open(bytes, &One).expect_err("opened before");
    true
}

/// What an opened datagram carries.
pub fn payload(bytes: &[u8]) -> bool {
    let Ok(message) = membership::parse(bytes) else {
        return false;
    };
    let again = message.without_records().expect("fits");
    assert!(bytes.starts_with(&again) || message.members.is_empty());
    let read = membership::parse(&again).expect("what was written");
    assert_eq!(
        (read.header, read.members),
        (message.header, message.members)
    );
    true
}

/// A signed record.
pub fn record(bytes: &[u8]) -> bool {
    let Ok(signed) = Signed::decode(bytes) else {
        return false;
    };
    assert_eq!(signed.bytes(), bytes);
    signed.record().validate().expect("valid");
    assert!(!signed.record().version.is_absurd());
    assert!(!signed.verify(CLUSTER, &signing(9).verifying_key()));
    true
}

fn store(of: u8, records: u8) -> Store {
    let mut store = Store::new(CLUSTER);
    for n in 0..records {
        let content = Content::Live(Body::Endpoint(Endpoint {
            vni: Vni::new(4096).expect("a VNI"),
            mac: MacAddr([2, 0, 0, 0, 0, n]),
            ips: [[10, 0, 0, n].into()].into(),
            name: Default::default(),
        }));
        let applied = store.apply(sign(of, n, content), &roster());
        assert!(applied.is_ok());
    }
    store
}

fn sign(owner: u8, counter: u8, content: Content) -> Signed {
    let record = Record {
        owner: id(owner),
        version: Version {
            generation: Generation(1),
            counter: u64::from(counter),
        },
        content,
    };
    Signed::new(record, CLUSTER, &signing(owner)).expect("valid")
}

/// Made once: signatures are slow and the stores are only read.
static STORES: LazyLock<[Store; 2]> = LazyLock::new(|| [store(1, 5), store(2, 3)]);

type Messages = Vec<Vec<u8>>;

/// The messages of an exchange up to its third question, and the asking side before each answer.
fn exchange() -> (Messages, Messages) {
    let [asking, answering] = &*STORES;
    let (mut ask, first) = Ask::start(id(2), true, asking);
    let (mut questions, mut answers) = (vec![first], Vec::new());
    for round in 0..3 {
        let read = anti_entropy::answer(&questions[round]).expect("well formed");
        let reply = read.reply(answering, &roster(), iter::once(id(9)));
        ask.receive(&reply, asking).expect("well formed");
        answers.push(reply);
        if let Some(next) = ask.next(asking).expect("not endless") {
            questions.push(next);
        }
    }
    (questions, answers)
}

static EXCHANGE: LazyLock<(Messages, Messages)> = LazyLock::new(exchange);

/// A message to the answering side.
pub fn question(bytes: &[u8]) -> bool {
    let Ok(read) = anti_entropy::answer(bytes) else {
        return false;
    };
    let reply = read.reply(&STORES[1], &roster(), iter::empty());
    assert!(reply.len() <= anti_entropy::MAX_MESSAGE);
    true
}

/// A message to the asking side, wherever it stands.
pub fn answer(bytes: &[u8]) -> bool {
    let [asking, _] = &*STORES;
    let mut accepted = false;
    for stage in 0..3 {
        let (mut ask, _) = Ask::start(id(2), true, asking);
        for genuine in &EXCHANGE.1[..stage] {
            ask.receive(genuine, asking).expect("genuine");
            ask.next(asking).expect("not endless");
        }
        if ask.receive(bytes, asking).is_ok() {
            accepted = true;
            if let Some(next) = ask.next(asking).expect("not endless") {
                anti_entropy::answer(&next).expect("what an honest node asks");
            }
        }
    }
    accepted
}

/// Seeds by name: what this version writes.
#[allow(dead_code, reason = "the fuzzer has the files")]
pub fn made_now() -> Vec<(String, Vec<u8>)> {
    let node = Content::Live(Body::Node(Node {
        vteps: vec![[192, 0, 2, 1].into()],
        control: "192.0.2.1:7946".parse().expect("an address"),
        software: "0.1.0".to_owned(),
        boot: BOOT,
    }));
    let ephemeral = Content::Live(Body::Ephemeral(EphemeralRecord {
        epoch: EPOCH,
        generation: Generation(1),
        public: PublicKey::from_bytes([3; 32]),
        lanes: 4,
    }));
    let floor = Content::Floor(Version::default());
    let record = |content| sign(1, 7, content).bytes().to_vec();
    let key = Key::Ephemeral { epoch: EPOCH };
    let [endpoints, _] = &*STORES;
    let endpoint = endpoints
        .of(id(1))
        .next()
        .expect("has some")
        .bytes()
        .to_vec();

    let identity = |n| [&id(n).as_bytes()[..], &[0; 12]].concat();
    let incarnation = [0; 2];
    // A gossip to node 2 with one member, suspected, and one record.
    let payload = [
        &identity(1)[..],
        &incarnation,
        &identity(2),
        &[8],
        &[0, 1],
        &identity(2),
        &incarnation,
        &[1],
        &(endpoint.len() as u16).to_be_bytes(),
        &endpoint,
    ]
    .concat();
    let mut sealer = Sealer::new(id(1), BOOT);
    sealer.activate(EPOCH, &Secret::new([1; 32]));
    let datagram = sealer.seal(&payload).expect("fits");

    let mut made = vec![
        ("gossip_envelope".to_owned(), datagram),
        ("gossip_payload".to_owned(), payload),
        (
            "gossip_record_deleted".to_owned(),
            record(Content::Deleted(key)),
        ),
        ("gossip_record_endpoint".to_owned(), endpoint),
        ("gossip_record_ephemeral".to_owned(), record(ephemeral)),
        ("gossip_record_floor".to_owned(), record(floor)),
        ("gossip_record_node".to_owned(), record(node)),
    ];
    let (questions, answers) = &*EXCHANGE;
    for (what, messages) in [("question", questions), ("answer", answers)] {
        for (index, message) in messages.iter().enumerate() {
            made.push((format!("gossip_{what}_{index}"), message.clone()));
        }
    }
    made
}
