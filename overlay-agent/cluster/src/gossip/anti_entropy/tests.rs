use std::collections::BTreeMap;

use ed25519_dalek::{SigningKey, VerifyingKey};
use overlay_ebpf::abi::{MacAddr, Vni};
use proptest::prelude::*;

use super::*;
use crate::{
    gossip::{
        record::{Body, Content, Endpoint, Record, Signed, Version},
        store::Store,
    },
    id::{ClusterId, Generation, NodeId},
};

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

type Members = BTreeMap<NodeId, VerifyingKey>;

fn signing(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn id(n: u8) -> NodeId {
    NodeId::of(&signing(n).verifying_key())
}

fn roster(nodes: u8) -> Members {
    (1..=nodes)
        .map(|n| (id(n), signing(n).verifying_key()))
        .collect()
}

fn version(counter: u64) -> Version {
    Version {
        generation: Generation(1),
        counter,
    }
}

fn endpoint(n: u16) -> Content {
    let [high, low] = n.to_be_bytes();
    Content::Live(Body::Endpoint(Endpoint {
        vni: Vni::new(4096).expect("a VNI"),
        mac: MacAddr([2, 0, 0, 0, high, low]),
        ips: [[10, 0, high, low].into()].into(),
        name: Default::default(),
    }))
}

fn write(owner: u8, counter: u64, content: Content) -> Signed {
    let record = Record {
        owner: id(owner),
        version: version(counter),
        content,
    };
    Signed::new(record, CLUSTER, &signing(owner)).expect("valid")
}

/// Runs one exchange to its end: bytes of all messages, and of the largest.
fn exchange(asking: &mut Store, answering: &mut Store, roster: &Members) -> (usize, usize) {
    let (mut ask, mut question) = Ask::start(id(2), false, asking);
    let (mut all, mut largest) = (0, 0);
    loop {
        let mut answer = answer(&question).expect("well formed");
        for record in std::mem::take(&mut answer.records) {
            let _settled = answering.apply(record, roster);
        }
        let reply = answer.reply(answering, roster, std::iter::empty());
        for message in [&question, &reply] {
            all += message.len();
            largest = largest.max(message.len());
        }
        let learned = ask.receive(&reply, asking).expect("well formed");
        for record in learned.records {
            let _settled = asking.apply(record, roster);
        }
        match ask.next(asking).expect("ends") {
            Some(next) => question = next,
            None => return (all, largest),
        }
    }
}

fn store(records: impl IntoIterator<Item = Signed>, roster: &Members) -> Store {
    let mut store = Store::new(CLUSTER);
    for record in records {
        store.apply(record, roster).expect("new");
    }
    store
}

#[test]
fn equal_stores_cost_two_short_messages() {
    let roster = roster(3);
    let records = || (1..=3).map(|n| write(n, 1, endpoint(1)));
    let mut stores = [store(records(), &roster), store(records(), &roster)];
    let [one, other] = &mut stores;
    let (all, _) = exchange(one, other, &roster);
    assert!(all < 32, "{all} bytes");
}

#[test]
fn one_exchange_makes_both_sides_equal_however_much_it_is() {
    let roster = roster(20);
    let many = (0..2000u16).map(|n| write(1, u64::from(n), endpoint(n)));
    let few = (2..=20).map(|n| write(n, 1, endpoint(1)));
    let mut full = store(many.chain(few), &roster);
    let mut empty = Store::new(CLUSTER);
    let (_, largest) = exchange(&mut empty, &mut full, &roster);
    assert_eq!(empty.buckets(), full.buckets());
    assert!(largest < MAX_MESSAGE / 2, "{largest} bytes");

    let mut other = Store::new(CLUSTER);
    exchange(&mut full, &mut other, &roster);
    assert_eq!(other.buckets(), full.buckets());
}

#[test]
fn one_change_among_many_costs_a_listing_of_one_owner() {
    let roster = roster(20);
    let records = || (1..=20u8).flat_map(|n| (0..40).map(move |e| write(n, e, endpoint(e as u16))));
    let mut stores = [store(records(), &roster), store(records(), &roster)];
    let [one, other] = &mut stores;
    other
        .apply(write(1, 99, endpoint(3)), &roster)
        .expect("new");
    let (all, _) = exchange(one, other, &roster);
    assert_eq!(one.buckets(), other.buckets());
    assert!(all < 5000, "{all} bytes");
}

#[test]
fn a_floor_that_one_side_missed_voids_there_too() {
    let roster = roster(1);
    let mut stale = store(
        (0..10).map(|n| write(1, u64::from(n), endpoint(n))),
        &roster,
    );
    let kept = [
        write(1, 10, endpoint(0)),
        write(1, 11, Content::Floor(version(10))),
    ];
    let mut current = store(kept, &roster);
    exchange(&mut current, &mut stale, &roster);
    assert_eq!((current.len(), stale.len()), (2, 2));
    assert_eq!(current.buckets(), stale.buckets());
}

#[test]
fn records_of_who_left_the_roster_are_neither_wanted_nor_taken() {
    let both = roster(2);
    let mut one = store([write(1, 1, endpoint(1)), write(2, 1, endpoint(1))], &both);
    let mut other = Store::new(CLUSTER);
    exchange(&mut one, &mut other, &roster(1));
    assert_eq!(other.len(), 1);
}

#[test]
fn a_node_that_just_started_is_told_who_is_down_and_no_other() {
    let roster = roster(1);
    let store = store([write(1, 1, endpoint(1))], &roster);
    for fresh in [true, false] {
        let (mut ask, question) = Ask::start(id(2), fresh, &store);
        let answer = answer(&question).expect("well formed");
        let reply = answer.reply(&store, &roster, [id(9)].into_iter());
        let learned = ask.receive(&reply, &store).expect("well formed");
        assert_eq!(learned.down.len(), usize::from(fresh));
    }
}

#[test]
fn a_peer_that_answers_without_end_is_given_up() {
    let roster = roster(1);
    let store = store([write(1, 1, endpoint(1))], &roster);
    let (mut ask, _) = Ask::start(id(2), false, &store);
    let buckets = message::encode(&message::Reply::Buckets {
        hashes: vec![0; 256],
        down: Vec::new(),
    });
    ask.receive(&buckets, &store).expect("well formed");
    ask.next(&store).expect("goes on");
    let differ = message::encode(&message::Reply::Differ {
        owners: vec![id(1)],
    });
    ask.receive(&differ, &store).expect("well formed");
    let nothing = message::encode(&message::Reply::Delta {
        records: Vec::new(),
        wanted: Vec::new(),
        done: 0,
        resume: 0,
    });
    let mut rounds = 0;
    let error = loop {
        match ask.next(&store) {
            Ok(_) => ask.receive(&nothing, &store).expect("well formed"),
            Err(error) => break error,
        };
        rounds += 1;
    };
    assert_eq!(error, SyncError::Endless);
    assert!(rounds < 10_000);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let roster = roster(1);
        let store = store([write(1, 1, endpoint(1))], &roster);
        // Past the version byte.
        bytes.insert(0, 1);
        if let Ok(answer) = answer(&bytes) {
            answer.reply(&store, &roster, std::iter::empty());
        }
        let (mut ask, _) = Ask::start(id(2), true, &store);
        if ask.receive(&bytes, &store).is_ok() {
            ask.next(&store).expect("the second round");
        }
    }

    #[test]
    fn messages_are_read_as_they_are_written(
        records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..5),
        places in prop::collection::btree_set(any::<u64>(), 0..20),
        owner: [u8; 16], tag: u32,
    ) {
        let entries = places
            .iter()
            .map(|place| message::Listed { place: *place, version: version(*place), tag })
            .collect();
        let listing = message::Listing {
            owner: NodeId::from_bytes(owner),
            from: 0,
            to: u64::MAX,
            entries,
        };
        let question = message::Question::Versions { records, listings: vec![listing] };
        let read: message::Question = message::decode(&message::encode(&question)).expect("reads");
        prop_assert_eq!(read, question);
    }
}
