//! Two machines, wired by hand.

use std::time::Duration;

use overlay_ebpf::abi::Slot;
use rand::{SeedableRng as _, rngs::StdRng};

use super::*;
use crate::rotation::{Keying, Member, Sa};

struct Pair {
    rng: StdRng,
    now: Instant,
    revision: u64,
    epochs: BTreeMap<EpochName, Role>,
    secrets: BTreeMap<EpochName, EpochSecrets>,
    nodes: [Rotation; 2],
}

fn index(node: usize) -> PeerIndex {
    PeerIndex::new(node as u32 + 1).expect("an index")
}

fn id(node: usize) -> NodeId {
    NodeId::from_bytes([node as u8; 16])
}

fn machine(node: usize, generation: u64) -> Rotation {
    let identity = Identity {
        cluster: ClusterId::from_bytes([9; 16]),
        node: id(node),
        index: index(node),
        generation: Generation(generation),
    };
    let settings = Settings {
        lanes: 2,
        ..Settings::default()
    };
    Rotation::new(settings, identity, Instant::default())
}

impl Pair {
    /// Both know the log, epoch 1 and each other's keys.
    fn new() -> Self {
        let mut pair = Self {
            rng: StdRng::seed_from_u64(1),
            now: Instant::default(),
            revision: 0,
            epochs: BTreeMap::new(),
            secrets: BTreeMap::new(),
            nodes: [machine(0, 1), machine(1, 1)],
        };
        pair.begin(1, Role::Active);
        (0..2).for_each(|node| pair.see(node));
        pair.spread();
        pair
    }

    fn begin(&mut self, number: u32, role: Role) -> EpochName {
        let secrets = EpochSecrets::random(&mut self.rng);
        let name = secrets.name(0, number);
        self.secrets.insert(name, secrets);
        self.epochs.insert(name, role);
        name
    }

    /// A node hears of the log, and has the secrets at once.
    fn see(&mut self, node: usize) {
        self.revision += 1;
        let peer = Member { node: id(1 - node) };
        let view = LogView {
            revision: self.revision,
            epochs: self.epochs.clone(),
            member: true,
            peers: [(index(1 - node), peer)].into(),
        };
        self.nodes[node].log(&view, self.now, &mut self.rng);
        for (name, role) in &self.epochs {
            if *role != Role::Retiring {
                let secrets = self.secrets[name].clone();
                self.nodes[node]
                    .secrets(*name, secrets, self.now, &mut self.rng)
                    .expect("the epoch's secrets");
            }
        }
    }

    fn spread(&mut self) {
        for node in 0..2 {
            let records: Vec<_> = self.nodes[node].records().collect();
            for record in records {
                self.nodes[1 - node]
                    .record(id(node), &record, self.now)
                    .expect("of a peer");
            }
        }
    }

    fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.nodes
            .iter_mut()
            .for_each(|node| node.advance(self.now));
    }

    /// What a node wants now: the last SAs, and all messages.
    fn actions(&mut self, node: usize) -> (Option<PeerSas>, Vec<Acknowledgement>) {
        let (mut last, mut messages) = (None, Vec::new());
        while let Some(action) = self.nodes[node].next_action() {
            match action {
                Action::Apply { sas, .. } => last = Some(sas),
                Action::Send { message, .. } => messages.push(message),
                _ => {}
            }
        }
        (last, messages)
    }

    fn report(&mut self, node: usize, key: SlotKey, event: KernelEvent) {
        self.nodes[node].kernel(index(1 - node), key, event, self.now);
    }

    fn hear(&mut self, node: usize, messages: &[Acknowledgement]) {
        for message in messages {
            self.nodes[node]
                .acknowledgement(id(1 - node), message, self.now)
                .expect("of a peer");
        }
    }

    /// Installs all that is new, and says in which slots.
    fn install(&mut self, node: usize) -> (Vec<SlotKey>, Vec<Acknowledgement>) {
        let (sas, mut messages) = self.actions(node);
        let keys = new(sas.as_ref());
        for key in &keys {
            self.report(node, *key, KernelEvent::Installed);
        }
        messages.extend(self.actions(node).1);
        (keys, messages)
    }

    /// Lets both do what they want until neither wants anything; the SAs that each then has.
    fn run(&mut self) {
        for _ in 0..20 {
            for node in 0..2 {
                let (_, messages) = self.install(node);
                self.hear(1 - node, &messages);
            }
            self.wait(Duration::from_millis(200));
        }
    }
}

fn new(sas: Option<&PeerSas>) -> Vec<SlotKey> {
    let keyed = |sa: &&Sa| matches!(sa.keying, Keying::Keyed(_)) && sa.lane.get() == 0;
    sas.into_iter()
        .flat_map(|sas| sas.sas.iter().filter(keyed))
        .map(|sa| SlotKey {
            direction: sa.direction,
            slot: sa.slot,
        })
        .collect()
}

#[test]
fn a_slot_is_named_only_when_the_kernel_can_receive_in_it() {
    let mut pair = Pair::new();
    let (sas, before) = pair.actions(0);
    let keys = new(sas.as_ref());
    assert_eq!(keys.len(), 1, "inbound, before anything was heard");
    assert_eq!(keys[0].direction, Direction::In);
    pair.wait(Duration::from_secs(5));
    let staged = |messages: &[Acknowledgement]| {
        let states = messages.iter().flat_map(|message| &message.epochs);
        states
            .filter_map(|state| state.staged)
            .map(|staged| staged.slot)
            .next_back()
    };
    let said = [before, pair.actions(0).1].concat();
    assert!(!said.is_empty(), "it talks");
    assert_eq!(staged(&said), None);
    pair.report(0, keys[0], KernelEvent::Installed);
    let said = pair.actions(0).1;
    assert_eq!(staged(&said), Some(keys[0].slot));
}

#[test]
fn a_key_leaves_the_machine_once() {
    let mut pair = Pair::new();
    let (sas, _) = pair.actions(0);
    assert_eq!(new(sas.as_ref()).len(), 1);
    // Anything that makes the machine say it all again.
    pair.nodes[0].usage(
        index(1),
        new(sas.as_ref())[0],
        Usage {
            sequence: 0,
            bytes: 0,
        },
    );
    pair.run();
    let ready = pair.nodes[0].transmit(index(1)).expect("open");
    let key = SlotKey {
        direction: Direction::Out,
        slot: ready.slot,
    };
    pair.report(0, key, KernelEvent::Lost);
    let (sas, _) = pair.actions(0);
    let sas = sas.expect("it is closed");
    assert_eq!(sas.transmit, None);
    assert!(sas.sas.iter().all(|sa| sa.keying == Keying::Adopted));
}

#[test]
fn a_lost_sa_is_replaced_by_another_and_never_by_itself() {
    let mut pair = Pair::new();
    pair.run();
    let before = pair.nodes[0].transmit(index(1)).expect("open").slot;
    let key = SlotKey {
        direction: Direction::Out,
        slot: before,
    };
    pair.report(0, key, KernelEvent::Lost);
    let (_, messages) = pair.actions(0);
    pair.report(0, key, KernelEvent::Removed);
    pair.hear(1, &messages);
    pair.run();
    let after = pair.nodes[0].transmit(index(1)).expect("open again").slot;
    assert_eq!(after, Slot::new(before.get().wrapping_add(1)));
}

#[test]
fn many_inputs_before_one_look_at_the_actions_leave_no_slot_behind() {
    let mut pair = Pair::new();
    let _ = pair.actions(0);
    for generation in 2..200 {
        pair.wait(Duration::from_secs(1));
        let record = EphemeralRecord {
            generation: Generation(generation),
            ..pair.nodes[1].records().next().expect("its key")
        };
        pair.nodes[0]
            .record(id(1), &record, pair.now)
            .expect("of a peer");
    }
    let (sas, _) = pair.actions(0);
    assert!(new(sas.as_ref()).len() <= 4);
    let left = pair.nodes[0].peers[&index(1)].slots.iter().count();
    assert!(left <= 4, "{left}");
}

#[test]
fn traffic_changes_to_the_staged_epoch_when_the_log_activates_it() {
    let mut pair = Pair::new();
    pair.run();
    let old = *pair.epochs.keys().next().expect("epoch 1");
    let next = pair.begin(2, Role::Staged);
    (0..2).for_each(|node| pair.see(node));
    pair.spread();
    pair.run();
    let epoch = |pair: &Pair| pair.nodes[0].transmit(index(1)).map(|now| now.epoch.get());
    assert_eq!(epoch(&pair), Some(1));
    pair.epochs = [(old, Role::Retiring), (next, Role::Active)].into();
    (0..2).for_each(|node| pair.see(node));
    assert_eq!(epoch(&pair), Some(2));
    let live = &pair.nodes[0].epochs.live[&old];
    assert!(live.material.is_none(), "no key can be made of it any more");
    pair.epochs.remove(&old);
    (0..2).for_each(|node| pair.see(node));
    pair.wait(Duration::from_secs(16));
    let (sas, _) = pair.actions(0);
    let sas = sas.expect("the old ones go");
    assert!(sas.sas.iter().all(|sa| sa.epoch.get() == 2));
}

#[test]
fn traffic_to_a_peer_that_is_slow_goes_on_for_a_while_after_its_epoch_has_retired() {
    let mut pair = Pair::new();
    pair.run();
    let next = pair.begin(2, Role::Active);
    pair.epochs = [(next, Role::Active)].into();
    // The other node hears of nothing.
    pair.see(0);
    let epoch = |pair: &Pair| pair.nodes[0].transmit(index(1)).map(|now| now.epoch.get());
    let settings = Settings::default();
    assert!(
        settings.overtime < settings.linger,
        "the peer still receives"
    );
    pair.wait(settings.overtime - Duration::from_millis(1));
    assert_eq!(epoch(&pair), Some(1));
    pair.wait(Duration::from_millis(1));
    assert_eq!(epoch(&pair), None);
    // It comes.
    pair.see(1);
    pair.spread();
    pair.run();
    assert_eq!(epoch(&pair), Some(2));
}

#[test]
fn what_an_earlier_agent_left_stays_until_it_is_replaced() {
    let mut pair = Pair::new();
    pair.run();
    let transmit = pair.nodes[0].transmit(index(1));
    let peer = &pair.nodes[0].peers[&index(1)];
    let lanes = (0..2).map(|lane| overlay_ebpf::abi::Lane::new(lane).expect("a lane"));
    let adopted: Vec<_> = peer
        .slots
        .iter()
        .flat_map(|state| lanes.clone().map(move |lane| (state, lane)))
        .map(|(state, lane)| AdoptedSa {
            direction: state.key.direction,
            epoch: state.epoch,
            slot: state.key.slot,
            lane,
            sender_generation: state.sender_generation,
            receiver_generation: state.receiver_generation,
        })
        .collect();
    pair.nodes[0] = machine(0, 2);
    pair.nodes[0].adopt(index(1), &adopted, transmit);
    assert_eq!(pair.nodes[0].transmit(index(1)), transmit);
    pair.see(0);
    assert_eq!(
        pair.nodes[0].transmit(index(1)),
        transmit,
        "the log changes nothing"
    );
    pair.spread();
    pair.run();
    let now = pair.nodes[0].transmit(index(1)).expect("open");
    assert_ne!(Some(now), transmit);
    let slots = &pair.nodes[0].peers[&index(1)].slots;
    let generations: Vec<_> = slots
        .of(Direction::Out)
        .filter(|state| !state.is_leaving())
        .map(|state| state.sender_generation)
        .collect();
    assert_eq!(
        generations,
        [Generation(2)],
        "the old ones are gone after the drain"
    );
}

#[test]
fn a_message_for_another_is_refused() {
    let mut pair = Pair::new();
    let (_, messages) = pair.install(0);
    let mut message = messages[0].clone();
    message.to = id(7);
    let signer = id(0);
    assert_eq!(
        pair.nodes[1].acknowledgement(signer, &message, pair.now),
        Err(RotationError::Misdirected { signer })
    );
    assert_eq!(
        pair.nodes[1].acknowledgement(id(7), &message, pair.now),
        Err(RotationError::UnknownPeer(id(7)))
    );
}

#[test]
fn of_more_adopted_slots_than_can_be_the_newest_are_kept() {
    let mut node = machine(0, 9);
    let lane = overlay_ebpf::abi::Lane::new(0).expect("a lane");
    let adopted: Vec<_> = (0..7)
        .map(|slot| AdoptedSa {
            direction: Direction::In,
            epoch: Epoch::new(1),
            slot: Slot::new(slot),
            lane,
            sender_generation: Generation(u64::from(slot)),
            receiver_generation: Generation(1),
        })
        .collect();
    node.adopt(index(1), &adopted, None);
    let Some(Action::Apply { sas, .. }) = node.next_action() else {
        panic!("the others go");
    };
    let slots: Vec<_> = sas.sas.iter().map(|sa| sa.slot.get()).collect();
    assert_eq!(slots, [3, 4, 5, 6]);
}

#[test]
fn a_slot_with_a_missing_lane_is_not_sent_in() {
    let mut node = machine(0, 9);
    let adopted = [0, 2].map(|lane| AdoptedSa {
        direction: Direction::Out,
        epoch: Epoch::new(1),
        slot: Slot::new(3),
        lane: overlay_ebpf::abi::Lane::new(lane).expect("a lane"),
        sender_generation: Generation(1),
        receiver_generation: Generation(1),
    });
    let transmit = Transmit {
        epoch: Epoch::new(1),
        slot: Slot::new(3),
        lanes: 3,
    };
    node.adopt(index(1), &adopted, Some(transmit));
    assert_eq!(node.transmit(index(1)), None);
}

#[test]
fn sas_refused_at_different_times_are_made_again_together() {
    let mut pair = Pair::new();
    for node in 0..2 {
        pair.wait(Duration::from_millis(300));
        let (sas, _) = pair.actions(node);
        for key in new(sas.as_ref()) {
            pair.report(node, key, KernelEvent::Failed);
        }
        let (left, _) = pair.actions(node);
        assert!(new(left.as_ref()).is_empty(), "not again at once");
    }
    let mut again = [None; 2];
    for _ in 0..30 {
        pair.wait(Duration::from_millis(100));
        for (node, again) in again.iter_mut().enumerate() {
            if !new(pair.actions(node).0.as_ref()).is_empty() {
                again.get_or_insert(pair.now);
            }
        }
    }
    let first = again[0].expect("it is made again");
    assert_eq!(again[1], Some(first));
}
