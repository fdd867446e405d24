use std::{net::IpAddr, sync::Arc};

use ed25519_dalek::VerifyingKey;
use overlay_ebpf::abi::{MacAddr, Vni};

use super::*;
use crate::gossip::{
    anti_entropy::SyncError,
    envelope::Header,
    limits::ANSWERS,
    record::{Body, Endpoint, Node},
};

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);
type Members = Arc<BTreeMap<NodeId, VerifyingKey>>;

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn id(n: u8) -> NodeId {
    NodeId::of(&key(n).verifying_key())
}

fn roster(nodes: u8) -> Members {
    Arc::new(
        (1..=nodes)
            .map(|n| (id(n), key(n).verifying_key()))
            .collect(),
    )
}

fn epoch(number: u32) -> EpochName {
    EpochName {
        incarnation: 0,
        number,
        hash: [0; 8],
    }
}

fn at(millis: u64) -> Instant {
    Instant::from_start(Duration::from_millis(millis))
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 7946))
}

fn node_body(n: u8) -> Body {
    Body::Node(Node {
        vteps: vec![address(n).ip()],
        control: address(n),
        software: "0.1.0".to_owned(),
        boot: BootNonce::from_bytes([0; 16]),
    })
}

fn endpoint(n: u8) -> Body {
    Body::Endpoint(Endpoint {
        vni: Vni::new(4096).expect("a VNI"),
        mac: MacAddr([2, 0, 0, 0, 0, n]),
        ips: [IpAddr::from([10, 0, 0, n])].into(),
        name: Default::default(),
    })
}

fn started(n: u8, generation: u64) -> Gossip<Members> {
    let settings = Settings {
        cluster: CLUSTER,
        key: key(n),
        generation: Generation(generation),
        boot: BootNonce::from_bytes([n; 16]),
        seed: [n; 32],
        managers: vec![id(1), id(2)],
    };
    let mut gossip = Gossip::new(at(0), settings, roster(3));
    gossip.activate_epoch(epoch(1), &Secret::new([1; 32]));
    gossip.publish(at(0), node_body(n)).expect("valid");
    gossip
}

/// Runs one exchange that `one` asks for.
fn exchange(one: &mut Gossip<Members>, other: &mut Gossip<Members>, now: Instant) -> Vec<Action> {
    let mut actions = Vec::new();
    let (mut sync, mut question) = one.start_sync(other.id());
    loop {
        let (reply, _) = other
            .answer_sync(now, one.id(), &question)
            .expect("answers");
        let (next, acts) = one.continue_sync(now, &mut sync, &reply).expect("goes on");
        actions.extend(acts);
        match next {
            Some(next) => question = next,
            None => break,
        }
    }
    actions.extend(one.end_sync(now, other.id(), Some(sync)));
    actions
}

/// Everything that a node sends until then.
fn run(gossip: &mut Gossip<Members>, until: Instant) -> Vec<Action> {
    let mut actions = Vec::new();
    while gossip.next_timeout() <= until {
        let next = gossip.next_timeout();
        actions.extend(gossip.handle_timeout(next));
    }
    actions
}

fn datagrams(actions: Vec<Action>) -> Vec<Vec<u8>> {
    let bytes = |action| match action {
        Action::Send { bytes, .. } => Some(bytes),
        _ => None,
    };
    actions.into_iter().filter_map(bytes).collect()
}

#[test]
fn a_node_asks_for_a_sync_first_and_then_gossips() {
    let (mut one, mut two) = (started(1, 1), started(2, 1));
    let first = run(&mut one, at(0));
    assert_eq!(first, [Action::RequestSync { peer: id(2) }]);
    let actions = exchange(&mut one, &mut two, at(10));
    let key = Key::Node;
    assert!(actions.contains(&Action::RecordChanged { owner: id(2), key }));
    assert!(actions.contains(&Action::MemberHint {
        node: id(2),
        up: true
    }));

    let published = one.publish(at(20), endpoint(1)).expect("valid");
    let key = endpoint(1).key();
    assert_eq!(published, [Action::RecordChanged { owner: id(1), key }]);
    let sent = datagrams(run(&mut one, at(300)));
    let mut changed = Vec::new();
    for datagram in &sent {
        changed.extend(two.handle_datagram(at(300), address(1), datagram));
    }
    assert!(changed.contains(&Action::RecordChanged { owner: id(1), key }));
    assert_eq!(two.store().get(id(1), &key), Some(endpoint(1)));
    for datagram in &sent {
        assert_eq!(two.handle_datagram(at(400), address(1), datagram), []);
    }
    assert_eq!(two.counters().replayed, sent.len() as u64);
}

#[test]
fn what_is_published_already_costs_nothing() {
    let mut one = started(1, 1);
    one.publish(at(0), endpoint(1)).expect("valid");
    let digest = one.store().digest(id(1));
    assert_eq!(one.publish(at(1), endpoint(1)), Ok(Vec::new()));
    assert_eq!(one.publish(at(1), node_body(1)), Ok(Vec::new()));
    assert_eq!(one.withdraw(at(1), endpoint(2).key()), Ok(Vec::new()));
    assert_eq!(one.store().digest(id(1)), digest);
    assert_eq!(one.withdraw(at(1), Key::Floor), Err(PublishError::Floor));
}

#[test]
fn a_flood_of_garbage_costs_no_more_mac_checks_than_the_rate_limit_admits() {
    let (mut one, mut two) = (started(1, 1), started(2, 1));
    exchange(&mut one, &mut two, at(10));
    let header = Header {
        epoch: epoch(1).into(),
        sender: id(1),
        boot: BootNonce::from_bytes([1; 16]),
        counter: 7,
    };
    let garbage = [&header.encode()[..], &[0; 100]].concat();
    for _ in 0..100_000 {
        assert_eq!(two.handle_datagram(at(20), address(9), &garbage), []);
    }
    let counters = two.counters();
    assert!(counters.forged <= 400, "{counters:?}");
    assert_eq!(counters.forged + counters.limited, 100_000);
}

#[test]
fn an_unknown_epoch_is_hinted_at_a_few_times_and_only_if_newer() {
    let (mut one, mut two) = (started(1, 1), started(2, 1));
    exchange(&mut one, &mut two, at(10));
    let mut hints = |number| {
        let header = Header {
            epoch: epoch(number).into(),
            sender: id(1),
            boot: BootNonce::from_bytes([1; 16]),
            counter: 7,
        };
        let datagram = [&header.encode()[..], &[0; 100]].concat();
        let all = (0..100).flat_map(|_| two.handle_datagram(at(20), address(1), &datagram));
        all.count()
    };
    assert_eq!(hints(0), 0);
    assert_eq!(hints(2), HINTS.burst as usize);
}

#[test]
fn a_start_without_a_record_is_asked_after_once() {
    let (mut one, mut two) = (started(1, 1), started(2, 1));
    exchange(&mut one, &mut two, at(10));
    run(&mut two, at(9_000));
    let header = Header {
        epoch: epoch(1).into(),
        sender: id(1),
        boot: BootNonce::from_bytes([99; 16]),
        counter: 0,
    };
    let datagram = [&header.encode()[..], &[0; 100]].concat();
    for _ in 0..50 {
        assert_eq!(two.handle_datagram(at(9_000), address(1), &datagram), []);
    }
    let asked = run(&mut two, at(11_001));
    let requests = asked
        .iter()
        .filter(|action| matches!(action, Action::RequestSync { .. }));
    assert!(requests.count() >= 1);
}

#[test]
fn who_leaves_the_roster_leaves_records_peers_and_hints() {
    let (mut one, mut two) = (started(1, 1), started(2, 1));
    exchange(&mut one, &mut two, at(10));
    let members = roster(1);
    let actions = one.set_roster(at(20), members);
    let key = Key::Node;
    assert!(actions.contains(&Action::RecordChanged { owner: id(2), key }));
    assert!(actions.contains(&Action::MemberHint {
        node: id(2),
        up: false
    }));
    assert_eq!(one.store().get(id(2), &key), None);
    assert!(one.addresses.is_empty());
    two.publish(at(30), endpoint(1)).expect("valid");
    for datagram in datagrams(run(&mut two, at(2_000))) {
        assert_eq!(one.handle_datagram(at(2_000), address(2), &datagram), []);
    }
    assert_eq!(one.store().of(id(2)).count(), 0);
}

#[test]
fn a_node_that_lost_its_generation_goes_above_its_own_old_records() {
    let (mut old, mut other) = (started(1, 5), started(2, 1));
    old.publish(at(0), endpoint(1)).expect("valid");
    exchange(&mut old, &mut other, at(10));
    let mut new = started(1, 1);
    new.publish(at(0), endpoint(2)).expect("valid");
    let actions = exchange(&mut new, &mut other, at(20));
    let generation = Generation(6);
    assert!(actions.contains(&Action::GenerationRaised { generation }));
    new.complete(at(30));
    run(&mut new, at(120_000));
    exchange(&mut new, &mut other, at(120_000));
    assert_eq!(other.store().get(id(1), &endpoint(1).key()), None);
    assert_eq!(
        other.store().get(id(1), &endpoint(2).key()),
        Some(endpoint(2))
    );
}

#[test]
fn anti_entropy_answers_members_and_each_of_them_only_so_often() {
    let (mut one, mut two) = (started(1, 1), started(2, 1));
    let (_, question) = two.start_sync(id(1));
    let stranger = id(9);
    let refused = one
        .answer_sync(at(0), stranger, &question)
        .expect_err("a stranger");
    assert_eq!(refused, SyncError::Stranger(stranger));
    let mut asked = |peer| {
        (0..1000)
            .filter(|_| one.answer_sync(at(0), peer, &question).is_ok())
            .count()
    };
    assert_eq!(asked(id(2)), ANSWERS.burst as usize);
    assert_eq!(asked(id(3)), ANSWERS.burst as usize);
}

#[test]
fn nothing_is_sent_after_the_key_is_retired() {
    let (mut one, mut two) = (started(1, 1), started(2, 1));
    exchange(&mut one, &mut two, at(10));
    one.retire_epoch(epoch(1));
    assert_eq!(datagrams(run(&mut one, at(10_000))).len(), 0);
    assert!(one.counters().unsent > 0);
}

#[test]
fn who_leaves_says_so() {
    let (mut one, mut two) = (started(1, 1), started(2, 1));
    exchange(&mut one, &mut two, at(10));
    let mut hints = Vec::new();
    for datagram in datagrams(one.leave(at(20))) {
        hints.extend(two.handle_datagram(at(20), address(1), &datagram));
    }
    assert!(hints.contains(&Action::MemberHint {
        node: id(1),
        up: false
    }));
}
