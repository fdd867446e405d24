//! A member that lies, with the group's key and its own: it disturbs at worst who is believed up.

use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use foca::{Header, Member, Message as Kind, State};

use super::{Link, World, tests::started, world::EPOCH};
use crate::{
    gossip::{
        envelope::{BootNonce, Sealer},
        membership::{Identity, Message},
        record::{Body, Content, Key, Node, Record, Signed, Version},
        store::MAX_OF_OWNER,
    },
    id::{Generation, NodeId},
};

const LIAR: usize = 5;
const VICTIM: usize = 1;

/// A datagram to `to` in the name of `from`, who need not know.
fn forge(
    world: &World,
    from: usize,
    to: usize,
    members: Vec<Member<Identity>>,
    records: &[Vec<u8>],
) -> Vec<u8> {
    let node = |index: usize| {
        let slot = &world.nodes[index];
        let rejoined = 0;
        let generation = Generation(slot.generation);
        Identity {
            node: slot.id,
            generation,
            rejoined,
        }
    };
    let header = Header {
        src: node(from),
        src_incarnation: 0,
        dst: node(to),
        message: Kind::Gossip,
    };
    let message = Message {
        header,
        members,
        records: Vec::new(),
    };
    let mut payload = message.without_records().expect("fits");
    if message.members.is_empty() && !records.is_empty() {
        payload.extend_from_slice(&[0, 0]);
    }
    for record in records {
        payload.extend_from_slice(&(record.len() as u16).to_be_bytes());
        payload.extend_from_slice(record);
    }
    let mut sealer = Sealer::new(world.nodes[from].id, boot_of(world, from));
    sealer.activate(EPOCH, &world.secret);
    // Somewhere ahead of what the sender has used.
    for _ in 0..world.nodes[from].traffic.datagrams {
        sealer.seal(b"x").expect("seals");
    }
    sealer.seal(&payload).expect("fits")
}

fn boot_of(world: &World, node: usize) -> BootNonce {
    let id = world.nodes[node].id;
    let gossip = world.nodes[0].gossip.as_ref().expect("runs");
    gossip.store().node(id).expect("known").1.boot
}

/// A record signed by whoever's key, without the checks that an honest node makes.
fn sign(world: &World, key: &SigningKey, record: &Record) -> Vec<u8> {
    let mut bytes = postcard::to_extend(record, vec![1]).expect("encodes");
    let message = [
        b"overlay gossip record v1".as_slice(),
        world.cluster().as_bytes(),
        &bytes,
    ]
    .concat();
    bytes.extend_from_slice(&key.sign(&message).to_bytes());
    bytes
}

fn lies(world: &World) -> Vec<Vec<u8>> {
    let liar = &world.nodes[LIAR];
    let victim = &world.nodes[VICTIM];
    let version = Version {
        generation: Generation(9),
        counter: 9,
    };
    let of = |owner: NodeId, version, content| Record {
        owner,
        version,
        content,
    };
    let endpoint = *victim.endpoints.keys().next().expect("has one");
    let node = |address| {
        Content::Live(Body::Node(Node {
            vteps: vec![address],
            control: (address, 7946).into(),
            software: "evil".to_owned(),
            boot: BootNonce::from_bytes([6; 16]),
        }))
    };
    let absurd = Version {
        generation: Generation(u64::MAX),
        counter: u64::MAX,
    };
    [
        of(victim.id, version, node(liar.address.ip())),
        of(victim.id, version, Content::Deleted(endpoint)),
        of(victim.id, version, Content::Deleted(Key::Node)),
        of(victim.id, version, Content::Floor(version)),
        of(victim.id, absurd, Content::Deleted(endpoint)),
        of(liar.id, absurd, node(liar.address.ip())),
        of(
            NodeId::from_bytes([9; 16]),
            version,
            node(liar.address.ip()),
        ),
    ]
    .iter()
    .map(|record| sign(world, &liar.key, record))
    .collect()
}

#[test]
fn forged_records_change_nothing_whoever_sends_them() {
    let mut world = started(6, 21, Link::lossy(0.01));
    world.truth.distrust(world.nodes[LIAR].id);
    for record in lies(&world) {
        if let Ok(signed) = Signed::decode(&record) {
            let victim = world.nodes[VICTIM].key.verifying_key();
            assert!(!signed.verify(world.cluster(), &victim));
        }
    }
    for to in [0, 1, 2] {
        for from in [LIAR, VICTIM, 3] {
            if from == to {
                continue;
            }
            let datagram = forge(&world, from, to, Vec::new(), &lies(&world));
            let (from, to_address) = (world.nodes[LIAR].address, world.nodes[to].address);
            world.link.loss = 0.0;
            world.transmit(from, to_address, datagram);
            world.run(Duration::from_millis(100));
        }
        let gossip = world.nodes[to].gossip.as_ref().expect("runs");
        let counters = gossip.counters();
        // Six of them are refused by each; the victim has its own way with those in its name.
        assert!(counters.lies + counters.malformed >= 4, "{counters:?}");
    }
    // And over the reliable channel.
    let liar = world.nodes[LIAR].id;
    let question = crate::gossip::anti_entropy::brought(lies(&world));
    let now = world.now();
    for to in [0, 1, 2] {
        world.with(to, |gossip| {
            gossip
                .answer_sync(now, liar, &question)
                .expect("well formed")
                .1
        });
    }
    world.run(Duration::from_secs(30));
    assert!(world.has_converged());
    for node in world.running().collect::<Vec<_>>() {
        let gossip = world.nodes[node].gossip.as_ref().expect("runs");
        let address = gossip
            .store()
            .node(world.nodes[VICTIM].id)
            .map(|(_, node)| node.control);
        assert_eq!(address, Some(world.nodes[VICTIM].address));
    }
}

#[test]
fn a_liar_about_who_is_up_is_outlived() {
    let mut world = started(6, 22, Link::lossy(0.0));
    let victim = world.nodes[VICTIM].id;
    for round in 0..50u32 {
        let claim = |rejoined, incarnation, state| {
            let generation = Generation(world.nodes[VICTIM].generation);
            let identity = Identity {
                node: victim,
                generation,
                rejoined,
            };
            Member::new(identity, incarnation, state)
        };
        let claims = vec![
            claim(round, 0, State::Down),
            claim(u32::MAX, 0, State::Alive),
            claim(round + 3, u16::MAX, State::Suspect),
        ];
        for to in [0, 2, 3, 4] {
            let datagram = forge(&world, LIAR, to, claims.clone(), &[]);
            let (from, to) = (world.nodes[LIAR].address, world.nodes[to].address);
            world.transmit(from, to, datagram);
        }
        world.run(Duration::from_millis(100));
    }
    assert!(world.has_converged(), "hints change no record");
    let back = world.run_until(Duration::from_secs(120), Duration::from_secs(1), |world| {
        let honest = |node: &usize| *node != VICTIM && *node != LIAR;
        world.running().filter(honest).all(|node| {
            let gossip = world.nodes[node].gossip.as_ref();
            gossip.is_some_and(|gossip| gossip.membership().is_up(victim))
        })
    });
    assert!(back, "the victim is believed up again once the liar stops");
    let datagram = world.attach(VICTIM);
    let watched = world.watch(VICTIM, datagram);
    world.run(Duration::from_secs(3));
    assert!(world.reached(watched).is_some());
}

#[test]
fn an_oversized_state_stays_its_owners_problem() {
    let mut world = started(4, 23, Link::lossy(0.0));
    world.truth.distrust(world.nodes[3].id);
    let liar = world.nodes[3].id;
    let key = world.nodes[3].key.clone();
    let mut counter = 100;
    for batch in 0..12u8 {
        let records = (0..400u16).map(|n| {
            counter += 1;
            let [high, low] = n.to_be_bytes();
            let record = Record {
                owner: liar,
                version: Version {
                    generation: Generation(1),
                    counter,
                },
                content: Content::Live(Body::Endpoint(crate::gossip::record::Endpoint {
                    vni: overlay_ebpf::abi::Vni::new(5000).expect("a VNI"),
                    mac: overlay_ebpf::abi::MacAddr([2, 0, 0, batch, high, low]),
                    ips: [[10, batch, high, low].into()].into(),
                    name: Default::default(),
                })),
            };
            sign(&world, &key, &record)
        });
        let question = crate::gossip::anti_entropy::brought(records.collect());
        let now = world.now();
        let gossip = world.nodes[0].gossip.as_mut().expect("runs");
        gossip
            .answer_sync(now, liar, &question)
            .expect("well formed");
    }
    let gossip = world.nodes[0].gossip.as_ref().expect("runs");
    assert_eq!(gossip.store().of(liar).count(), MAX_OF_OWNER);
    assert!(gossip.counters().quota > 0);
    assert!(gossip.membership().waiting_records() <= 256);
    let key = world.attach(1);
    let gossip = world.nodes[1].gossip.as_ref().expect("runs");
    assert!(gossip.store().get(world.nodes[1].id, &key).is_some());
}
