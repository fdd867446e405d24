//! What is done to bytes that a peer or a node may have made up: by the fuzzer in `tests/fuzz`, and by
//! `cargo test` in `main.rs` beside this file. Each target says whether the bytes were accepted.

use std::collections::{BTreeMap, BTreeSet};

use overlay_cluster::{
    id::{ClusterId, EpochName, Generation, NodeId},
    keys::{EphemeralRecord, EpochSecrets, PublicKey},
    rotation::{
        Acknowledgement, Action, Digest, Direction, EpochState, Identity, KernelEvent, Keying, Lag,
        LogView, Member, Refused, Role, Rotation, Seen, Settings, SlotKey, Staged,
    },
    secret::Secret,
    time::Instant,
};
use overlay_ebpf::abi::{Epoch, PeerIndex, Slot};
use rand::{SeedableRng as _, rngs::StdRng};

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// Every target, by the name of its fuzz binary.
pub const ALL: [Target; 4] = [
    ("ephemeral_record", ephemeral_record),
    ("acknowledgement", acknowledgement),
    ("digest", digest),
    ("hostile_peer", hostile_peer),
];

/// A gossip record's body: what is read is what its bytes say.
pub fn ephemeral_record(bytes: &[u8]) -> bool {
    let Ok(record) = EphemeralRecord::from_bytes(bytes) else {
        return false;
    };
    assert!((1..=16).contains(&record.lanes));
    assert_eq!(EphemeralRecord::from_bytes(&record.to_bytes()), Ok(record));
    true
}

/// A peer's message.
pub fn acknowledgement(bytes: &[u8]) -> bool {
    let Ok(message) = Acknowledgement::from_bytes(bytes) else {
        return false;
    };
    assert!(message.epochs.len() <= Acknowledgement::EPOCHS);
    assert!(message.held.len() <= Acknowledgement::SLOTS);
    let written = message.to_bytes();
    assert!(written.len() <= Acknowledgement::MAX_LEN);
    assert_eq!(Acknowledgement::from_bytes(&written), Ok(message));
    true
}

/// A node's digest.
pub fn digest(bytes: &[u8]) -> bool {
    let Ok(digest) = Digest::from_bytes(bytes) else {
        return false;
    };
    assert!(digest.laggards.len() <= Digest::LAGGARDS);
    assert!(digest.ready <= digest.peers);
    let written = digest.to_bytes();
    assert!(written.len() <= Digest::MAX_LEN);
    assert_eq!(Digest::from_bytes(&written), Ok(digest));
    true
}

const CLUSTER: ClusterId = ClusterId::from_bytes([1; 16]);
const US: NodeId = NodeId::from_bytes([2; 16]);
const THEM: NodeId = NodeId::from_bytes([3; 16]);

fn index(index: u32) -> PeerIndex {
    PeerIndex::new(index).expect("an index")
}

/// A peer whose signatures are good and whose words are made up: eight bytes are one thing that it, or
/// the kernel, or time does. The machine must keep its promises.
pub fn hostile_peer(bytes: &[u8]) -> bool {
    let mut stage = Stage::new();
    for step in bytes.chunks_exact(8).take(200) {
        stage.step(step.try_into().expect("eight bytes"));
    }
    bytes.len() >= 8
}

/// The machine, and a kernel that does what it says.
struct Stage {
    rotation: Rotation,
    rng: StdRng,
    now: Instant,
    revision: u64,
    names: [EpochName; 2],
    ours: BTreeMap<EpochName, PublicKey>,
    kernel: BTreeSet<SlotKey>,
    handed_out: BTreeSet<[u8; 36]>,
    offered: BTreeSet<Slot>,
}

impl Stage {
    fn new() -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let now = Instant::default();
        let identity = Identity {
            cluster: CLUSTER,
            node: US,
            index: index(1),
            generation: Generation(5),
        };
        let secrets = [1, 2].map(|byte| EpochSecrets {
            gossip: Secret::new([byte; 32]),
            data: Secret::new([byte + 10; 32]),
        });
        let names = [secrets[0].name(0, 1), secrets[1].name(0, 2)];
        let mut stage = Self {
            rotation: Rotation::new(Settings::default(), identity, now),
            rng: StdRng::seed_from_u64(2),
            now,
            revision: 0,
            names,
            ours: BTreeMap::new(),
            kernel: BTreeSet::new(),
            handed_out: BTreeSet::new(),
            offered: BTreeSet::new(),
        };
        stage.view(0);
        for (name, secrets) in names.into_iter().zip(secrets) {
            stage
                .rotation
                .secrets(name, secrets, now, &mut rng)
                .expect("the secrets of the epoch");
        }
        stage.ours = stage
            .rotation
            .records()
            .map(|record| (record.epoch, record.public))
            .collect();
        stage.drain(0);
        stage
    }

    /// What the log says: one, the other or both epochs, with the peer or without.
    fn view(&mut self, bits: u8) {
        self.revision += 1;
        let [first, second] = self.names;
        let epochs = match bits & 3 {
            0 | 1 => vec![(first, Role::Active), (second, Role::Staged)],
            2 => vec![(first, Role::Retiring), (second, Role::Active)],
            _ => vec![(second, Role::Active)],
        };
        let peer = (index(2), Member { node: THEM });
        let view = LogView {
            revision: self.revision,
            epochs: epochs.into_iter().collect(),
            member: true,
            peers: [peer].into_iter().filter(|_| bits & 4 == 0).collect(),
        };
        self.rotation.log(&view, self.now, &mut self.rng);
    }

    fn step(&mut self, [kind, a, b, c, d, e, f, g]: [u8; 8]) {
        self.now = self.now + std::time::Duration::from_millis(u64::from(g) * 20);
        match kind % 8 {
            0..=4 => {
                let name = self.names[usize::from(a & 1)];
                let public = PublicKey::from_bytes([b % 4; 32]);
                let offer = a & 2 != 0;
                let slot = Slot::new(c);
                if offer {
                    self.offered.insert(slot);
                }
                let state = EpochState {
                    epoch: name,
                    public,
                    lanes: 1 + d % 16,
                    staged: offer.then(|| Staged {
                        sender_generation: Generation(5 - u64::from(a & 4) / 4),
                        sender_public: self.ours[&name],
                        slot,
                        lanes: 1 + e % 16,
                        session: u64::from(f),
                    }),
                    refused: (a & 8 != 0).then_some(Refused {
                        receiver_generation: Generation(5),
                        session: u64::from(e),
                    }),
                };
                let held: Vec<_> = (0..a >> 6)
                    .map(|at| Slot::new(d.wrapping_add(at)))
                    .collect();
                let message = Acknowledgement {
                    cluster: CLUSTER,
                    from: THEM,
                    to: US,
                    index: index(2),
                    generation: Generation(u64::from(b % 4)),
                    sequence: u64::from(g) * 256 + u64::from(f),
                    seen: (a & 16 != 0).then_some(Seen {
                        generation: Generation(5),
                        sequence: u64::from(e),
                    }),
                    wants_reply: a & 32 != 0,
                    epochs: vec![state],
                    transmit: held
                        .first()
                        .map(|slot| (*slot, Epoch::new(u32::from(c % 3)))),
                    held,
                };
                assert!(Acknowledgement::from_bytes(&message.to_bytes()).is_ok());
                // The log may have parted the two.
                let _ = self.rotation.acknowledgement(THEM, &message, self.now);
            }
            5 => self.view(a),
            6 => {
                let slots: Vec<_> = self.kernel.iter().copied().collect();
                if let Some(key) = slots.get(usize::from(a) % slots.len().max(1)) {
                    self.rotation
                        .kernel(index(2), *key, KernelEvent::Lost, self.now);
                }
            }
            _ => self.rotation.advance(self.now),
        }
        // Else several things happen before the agent comes to do what follows.
        if kind & 0x80 == 0 {
            self.drain(a);
        }
    }

    fn drain(&mut self, mood: u8) {
        let mut actions = 0;
        while let Some(action) = self.rotation.next_action() {
            actions += 1;
            assert!(actions < 100, "the machine comes to rest");
            match action {
                Action::Apply { sas, .. } => self.apply(sas, mood),
                Action::Send { message, .. } => {
                    assert!(Acknowledgement::from_bytes(&message.to_bytes()).is_ok());
                }
                Action::Digest(digest) => assert!(Digest::from_bytes(&digest.to_bytes()).is_ok()),
                Action::Alarm(_) | Action::Pull(_) | Action::Publish(_) => {}
            }
        }
    }

    fn apply(&mut self, sas: overlay_cluster::rotation::PeerSas, mood: u8) {
        let mut wanted = BTreeSet::new();
        let mut new = BTreeSet::new();
        for sa in &sas.sas {
            let key = SlotKey {
                direction: sa.direction,
                slot: sa.slot,
            };
            wanted.insert(key);
            if let Keying::Keyed(material) = &sa.keying {
                new.insert(key);
                assert!(!self.kernel.contains(&key), "a slot is filled twice");
                if sa.direction == Direction::Out {
                    assert!(self.handed_out.insert(*material.expose()), "a key repeats");
                    assert!(self.offered.contains(&sa.slot), "sent unasked");
                }
            }
        }
        if let Some(transmit) = sas.transmit {
            let slot = transmit.slot;
            let direction = Direction::Out;
            assert!(self.kernel.contains(&SlotKey { direction, slot }));
        }
        let gone: Vec<_> = self.kernel.difference(&wanted).copied().collect();
        self.kernel.extend(&new);
        for direction in [Direction::In, Direction::Out] {
            let held = self.kernel.iter().filter(|key| key.direction == direction);
            assert!(held.count() <= Acknowledgement::SLOTS, "SAs are bounded");
        }
        for key in new {
            let event = if mood & 0x81 == 0x81 {
                KernelEvent::Failed
            } else {
                KernelEvent::Installed
            };
            self.rotation.kernel(index(2), key, event, self.now);
        }
        for key in gone {
            self.kernel.remove(&key);
            self.rotation
                .kernel(index(2), key, KernelEvent::Removed, self.now);
        }
    }
}

/// One of each message, as this version writes it.
pub fn made_now() -> Vec<(&'static str, Vec<u8>)> {
    let epoch = EpochName {
        incarnation: 1,
        number: 300,
        hash: *b"epoch300",
    };
    let record = EphemeralRecord {
        epoch,
        generation: Generation(1_800_000_000),
        public: PublicKey::from_bytes([7; 32]),
        lanes: 4,
    };
    let message = Acknowledgement {
        cluster: CLUSTER,
        from: THEM,
        to: US,
        index: index(70_000),
        generation: Generation(1_800_000_000),
        sequence: 12,
        seen: Some(Seen {
            generation: Generation(1_700_000_000),
            sequence: 11,
        }),
        wants_reply: true,
        epochs: vec![EpochState {
            epoch,
            public: record.public,
            lanes: 4,
            staged: Some(Staged {
                sender_generation: Generation(1_700_000_000),
                sender_public: PublicKey::from_bytes([8; 32]),
                slot: Slot::new(200),
                lanes: 4,
                session: 77,
            }),
            refused: Some(Refused {
                receiver_generation: Generation(1_700_000_000),
                session: 5,
            }),
        }],
        held: vec![Slot::new(9), Slot::new(10)],
        transmit: Some((Slot::new(10), Epoch::new(299))),
    };
    let digest = Digest {
        generation: Generation(1_800_000_000),
        sequence: 3,
        epoch,
        secrets: true,
        peers: 999,
        ready: 997,
        laggards: vec![(index(4), Lag::NoKey), (index(900), Lag::NotAcknowledged)],
        oldest: Some(Epoch::new(299)),
        exhausted: None,
    };
    vec![
        ("acknowledgement", message.to_bytes()),
        ("digest", digest.to_bytes()),
        ("ephemeral_record", record.to_bytes()),
    ]
}
