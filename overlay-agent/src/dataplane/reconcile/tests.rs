use std::collections::BTreeSet;

use overlay_ebpf::abi::{self, NetworkFlags};
use proptest::prelude::*;

use super::{super::compile::compile, *};
use crate::dataplane::{
    desired::{Direction, Keying},
    objects::{Program, StateMode},
    testing::*,
};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn apply(kernel: &mut SimulatedKernel, desired: &DataPlane) -> Report {
    block_on(reconcile(kernel, desired, || false)).unwrap()
}

/// Applies, and is killed before step `steps`.
fn apply_until(kernel: &mut SimulatedKernel, desired: &DataPlane, steps: usize) -> Report {
    // A batch is cut short, too.
    kernel.killed_at = kernel.executed + steps;
    let report = apply(kernel, desired);
    kernel.killed_at = usize::MAX;
    report
}

/// A kernel in which other software removes the firewall as soon as it is set.
struct Contested(SimulatedKernel);

impl Kernel for Contested {
    type Error = <SimulatedKernel as Kernel>::Error;

    async fn facts(&mut self, desired: &DataPlane) -> Result<UnderlayFacts, Self::Error> {
        self.0.facts(desired).await
    }

    async fn observe(&mut self) -> Result<Objects, Self::Error> {
        self.0.objects.firewall = None;
        self.0.observe().await
    }

    fn used_keys(&mut self) -> Result<BTreeSet<KeyId>, Self::Error> {
        self.0.used_keys()
    }

    async fn execute(&mut self, step: &Step) -> Result<(), Self::Error> {
        self.0.execute(step).await
    }
}

#[test]
fn what_others_undo_again_and_again_is_reported_and_not_taken_for_done() {
    let mut kernel = Contested(SimulatedKernel::new());
    let report = block_on(reconcile(&mut kernel, &example(), || false)).unwrap();
    let firewall = |step: &&Step| matches!(step, Step::SetFirewall(_));
    assert_eq!(report.done.iter().filter(firewall).count(), PASSES);
    assert_eq!(report.unsettled.iter().filter(firewall).count(), 1);
    assert!(!report.is_complete());
}

/// What the kernel should hold: keys are not part of it.
fn wanted(kernel: &SimulatedKernel, desired: &DataPlane) -> Objects {
    let mut objects = plan(desired, &facts(desired), &kernel.objects, &kernel.used)
        .unwrap()
        .wanted;
    for state in objects.states.values_mut() {
        state.keying = Keying::Adopted;
    }
    objects
}

fn held(kernel: &SimulatedKernel) -> Objects {
    let mut objects = kernel.objects.clone();
    for state in objects.states.values_mut() {
        state.keying = Keying::Adopted;
    }
    objects
}

fn position(kernel: &SimulatedKernel, found: impl Fn(&Step) -> bool) -> usize {
    kernel
        .log
        .iter()
        .position(found)
        .expect("the step is among those done")
}

fn opens_peer(step: &Step) -> bool {
    matches!(step, Step::Map(MapWrite::Peer(_, Some(entry))) if entry.tx.lanes > 0)
}

#[test]
fn second_apply_changes_nothing() {
    let mut kernel = SimulatedKernel::new();
    let first = apply(&mut kernel, &example());
    assert!(first.is_complete(), "{first:?}");
    assert!(!first.done.is_empty());
    let second = apply(&mut kernel, &example());
    assert_eq!(second, Report::default());
}

/// What an attach costs must not depend on how many endpoints there are: each step is a system call, or
/// several.
#[test]
fn an_attach_and_a_detach_are_the_same_steps_beside_many_endpoints_as_beside_none() {
    let words = |others: u8| {
        let mut desired = example();
        for host in 100..100 + others {
            desired.local_endpoints.push(local(4096, host));
            remotes(&mut desired).push(remote(4097, 3, host));
        }
        let mut kernel = SimulatedKernel::new();
        apply(&mut kernel, &desired);
        let (facts, mut left) = (facts(&desired), kernel.objects.clone());
        let mut follow = |desired: &DataPlane| -> Vec<String> {
            let report = follow(&mut kernel, desired, &facts, &mut left, || false);
            let done = block_on(report).unwrap().done;
            done.iter().map(ToString::to_string).collect()
        };
        let before = desired.clone();
        desired.local_endpoints.push(local(4096, 90));
        (follow(&desired), follow(&before))
    };
    let (attach, detach) = words(0);
    assert!(!attach.is_empty() && attach.len() < 10, "{attach:?}");
    assert!(!detach.is_empty() && detach.len() < 10, "{detach:?}");
    assert_eq!(words(100), (attach, detach));
}

#[test]
fn barriers_stand_before_anything_is_sent() {
    let mut kernel = SimulatedKernel::new();
    apply(&mut kernel, &example());
    let open = position(&kernel, opens_peer);
    let block = position(
        &kernel,
        |step| matches!(step, Step::SetPolicy(_, policy) if policy.action == crate::dataplane::objects::PolicyAction::Block),
    );
    let audit = position(
        &kernel,
        |step| matches!(step, Step::Attach(a) if a.program == Program::UnderlayAudit),
    );
    let inbound = position(
        &kernel,
        |step| matches!(step, Step::AddState(_, state) if state.mode != StateMode::Transport),
    );
    let outbound = position(
        &kernel,
        |step| matches!(step, Step::AddState(_, state) if state.mode == StateMode::Transport),
    );
    let port = position(&kernel, |step| {
        matches!(step, Step::Map(MapWrite::LocalPort(_, Some(_))))
    });
    assert!(block < audit && audit < inbound && inbound < outbound && outbound < open);
    assert!(open < port);
    assert_eq!(kernel.violations, Vec::<String>::new());
}

#[test]
fn new_slot_is_one_write_and_the_old_one_goes_afterwards() {
    let mut kernel = SimulatedKernel::new();
    apply(&mut kernel, &example());
    kernel.log.clear();
    let mut rotated = example();
    rotated.peers.insert(index(2), peer(2, &[1], 2, Some(1)));
    let report = apply(&mut kernel, &rotated);
    assert!(report.is_complete());
    let writes: Vec<&Step> = kernel
        .log
        .iter()
        .filter(|step| matches!(step, Step::Map(MapWrite::Peer(..))))
        .collect();
    assert_eq!(writes.len(), 1);
    let switch = position(&kernel, opens_peer);
    for (at, step) in kernel.log.iter().enumerate() {
        match step {
            Step::AddState(..) | Step::SetPolicy(..) => assert!(at < switch, "{step}"),
            Step::RemoveState(..) | Step::RemovePolicy(..) => assert!(at > switch, "{step}"),
            _ => {}
        }
    }
}

#[test]
fn peer_that_moves_is_closed_until_its_new_address_is_ready() {
    let mut kernel = SimulatedKernel::new();
    apply(&mut kernel, &example());
    kernel.log.clear();
    let mut moved = example();
    let mut peer = peer(2, &[1], 2, Some(1));
    peer.vtep = "192.0.2.102".parse().unwrap();
    moved.peers.insert(index(2), peer);
    assert!(apply(&mut kernel, &moved).is_complete());
    // The value is larger than what changes at once: a reader could see the new address with the
    // old slot.
    let lanes: Vec<u8> = kernel
        .log
        .iter()
        .filter_map(|step| match step {
            Step::Map(MapWrite::Peer(_, Some(entry))) => Some(entry.tx.lanes),
            _ => None,
        })
        .collect();
    assert_eq!(lanes, [0, 2]);
    assert!(matches!(kernel.log[0], Step::Map(MapWrite::Peer(..))));
}

#[test]
fn device_that_changes_its_link_layer_is_never_without_an_audit() {
    let mut desired = example();
    desired.networks.remove(&vni(4097));
    desired
        .local_endpoints
        .retain(|endpoint| endpoint.vni == vni(4096));
    remotes(&mut desired).retain(|endpoint| endpoint.vni == vni(4096));
    let mut kernel = SimulatedKernel::new();
    apply(&mut kernel, &desired);
    kernel.log.clear();
    let mut facts = facts(&desired);
    facts.layer3.insert("eth0".into());
    kernel.facts = Some(facts);
    let report = apply(&mut kernel, &desired);
    assert!(report.is_complete(), "{report:?}");
    let attach = position(
        &kernel,
        |step| matches!(step, Step::Attach(a) if a.program == Program::UnderlayAuditL3),
    );
    let detach = position(
        &kernel,
        |step| matches!(step, Step::Detach(a) if a.program == Program::UnderlayAudit),
    );
    assert!(attach < detach);
    assert!(!kernel.log.iter().any(opens_peer), "it was never closed");
    assert_eq!(kernel.violations, Vec::<String>::new());
}

#[test]
fn network_that_turns_plain_is_closed_in_between() {
    let mut kernel = SimulatedKernel::new();
    apply(&mut kernel, &example());
    kernel.log.clear();
    let mut plain = example();
    plain.networks.insert(vni(4096), network(4096, false));
    apply(&mut kernel, &plain);
    let writes: Vec<Option<u32>> = kernel
        .log
        .iter()
        .filter_map(|step| match step {
            Step::Map(MapWrite::Network(key, value)) if key.vni == 4096 => {
                Some(value.map(|value| value.flags & NetworkFlags::ENCRYPTED))
            }
            _ => None,
        })
        .collect();
    assert_eq!(writes, [None, Some(0)]);
    assert_eq!(kernel.violations, Vec::<String>::new());
}

#[test]
fn key_that_was_used_before_is_refused_after_a_reboot() {
    let mut kernel = SimulatedKernel::new();
    apply(&mut kernel, &example());
    kernel.reboot();
    let report = apply(&mut kernel, &example());
    assert!(!report.is_complete());
    assert!(
        report
            .problems
            .iter()
            .any(|problem| problem.closes && problem.reason.contains("repeat nonces")),
        "{:?}",
        report.problems
    );
    let entry = &kernel.objects.maps.peers[&abi::PeerKey { peer: 2 }];
    assert_eq!(entry.tx.lanes, 0);
    assert!(kernel.objects.states.is_empty(), "neither direction");
    assert!(kernel.installed.values().all(|&times| times == 1));
    // New keys in a new slot open it again.
    let mut renewed = example();
    renewed.peers.insert(index(2), peer(2, &[1], 2, Some(1)));
    assert!(apply(&mut kernel, &renewed).is_complete());
}

#[test]
fn slot_in_use_with_another_key_is_not_rekeyed() {
    let mut kernel = SimulatedKernel::new();
    apply(&mut kernel, &example());
    let before = held(&kernel);
    kernel.log.clear();
    let mut other = example();
    for sa in &mut other.peers.get_mut(&index(2)).unwrap().sas {
        sa.keying = Keying::Keyed(key(sa.direction, 2, 0, sa.lane.get(), 9));
    }
    let report = apply(&mut kernel, &other);
    assert!(!report.is_complete());
    assert!(report.problems[0].reason.contains("another key"));
    assert_eq!(kernel.objects.states.len(), before.states.len());
    assert_eq!(held(&kernel).maps.sas, before.maps.sas);
    assert!(
        !kernel
            .log
            .iter()
            .any(|step| matches!(step, Step::AddState(..) | Step::RemoveState(..)))
    );
    assert_eq!(
        kernel.objects.maps.peers[&abi::PeerKey { peer: 2 }]
            .tx
            .lanes,
        0
    );
}

#[test]
fn adopted_sas_stay_as_they_are() {
    let mut kernel = SimulatedKernel::new();
    apply(&mut kernel, &example());
    kernel.log.clear();
    let mut adopted = example();
    for sa in &mut adopted.peers.get_mut(&index(2)).unwrap().sas {
        sa.keying = Keying::Adopted;
    }
    assert_eq!(apply(&mut kernel, &adopted), Report::default());
    kernel.reboot();
    let report = apply(&mut kernel, &adopted);
    assert!(
        report
            .problems
            .iter()
            .any(|p| p.reason.contains("gone from the kernel"))
    );
    assert!(kernel.objects.states.is_empty());
}

#[test]
fn esp_in_udp_comes_with_a_new_slot_and_goes_with_a_new_slot() {
    let outbound = |kernel: &SimulatedKernel| -> Vec<bool> {
        let states = kernel.objects.states.values();
        states
            .filter(|state| state.mode == StateMode::Transport)
            .map(|state| state.encap.is_some())
            .collect()
    };
    let mut kernel = SimulatedKernel::new();
    let plain = example();
    apply(&mut kernel, &plain);
    assert_eq!(outbound(&kernel), [false, false]);

    // The node can receive ESP in UDP and goes on sending plain ESP: the SAs stay.
    let mut udp = example();
    udp.settings.esp_in_udp_port = Some(4500);
    let report = apply(&mut kernel, &udp);
    assert!(
        report.is_complete() && report.problems.is_empty(),
        "{report:?}"
    );
    assert_eq!(outbound(&kernel), [false, false]);
    assert_eq!(kernel.objects.maps.config.unwrap().esp_in_udp_port, 4500);
    assert_eq!(apply(&mut kernel, &udp), Report::default());

    let mut kernel = SimulatedKernel::new();
    apply(&mut kernel, &udp);
    assert_eq!(outbound(&kernel), [true, true]);
    for port in [None, Some(4501)] {
        udp.settings.esp_in_udp_port = port;
        let report = apply(&mut kernel, &udp);
        assert!(
            report
                .problems
                .iter()
                .any(|p| p.closes && p.reason.contains("esp_in_udp_port")),
            "{report:?}"
        );
        let entry = &kernel.objects.maps.peers[&abi::PeerKey { peer: 2 }];
        assert_eq!(entry.tx.lanes, 0);
    }
    assert_eq!(kernel.violations, Vec::<String>::new());
}

#[test]
fn failed_sa_keeps_the_peer_closed_and_the_rest_goes_on() {
    let mut kernel = SimulatedKernel::new();
    let steps = plan(
        &example(),
        &facts(&example()),
        &Objects::default(),
        &BTreeSet::new(),
    )
    .unwrap()
    .steps;
    let fails = steps
        .iter()
        .position(|step| matches!(step, Step::AddState(_, s) if s.mode == StateMode::Transport))
        .unwrap();
    kernel.failing.insert(fails);
    let report = apply(&mut kernel, &example());
    assert!(!report.is_complete());
    assert!(
        report
            .failed
            .iter()
            .any(|f| matches!(f.why, Why::Refused(_)))
    );
    assert!(
        report
            .failed
            .iter()
            .any(|f| matches!(f.why, Why::Blocked(_)))
    );
    // Closed for encrypted frames, there for plain ones.
    let entry = &kernel.objects.maps.peers[&abi::PeerKey { peer: 2 }];
    assert_eq!(entry.tx.lanes, 0);
    assert!(
        kernel
            .objects
            .maps
            .peers
            .contains_key(&abi::PeerKey { peer: 3 })
    );
    assert_eq!(kernel.violations, Vec::<String>::new());
}

#[test]
fn missing_block_policy_closes_first_and_is_repaired() {
    let mut kernel = SimulatedKernel::new();
    apply(&mut kernel, &example());
    kernel.log.clear();
    kernel
        .objects
        .policies
        .retain(|_, policy| policy.action != crate::dataplane::objects::PolicyAction::Block);
    let report = apply(&mut kernel, &example());
    assert!(report.is_complete());
    assert!(matches!(
        kernel.log[0],
        Step::Map(MapWrite::Peer(_, Some(ref entry))) if entry.tx.lanes == 0
    ));
    assert_eq!(apply(&mut kernel, &example()), Report::default());
}

#[test]
fn clear_removes_peers_first_and_block_policies_last() {
    let mut kernel = SimulatedKernel::new();
    apply(&mut kernel, &example());
    kernel.log.clear();
    let report = block_on(clear(&mut kernel, || false)).unwrap();
    assert!(report.is_complete());
    assert_eq!(kernel.objects, Objects::default());
    assert!(matches!(kernel.log[0], Step::Map(MapWrite::Peer(_, None))));
    let last: Vec<&Step> = kernel.log.iter().rev().take(2).collect();
    assert!(matches!(last[0], Step::UnloadPrograms));
    assert!(matches!(last[1], Step::RemovePolicy(_)));
    assert_eq!(kernel.violations, Vec::<String>::new());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn killed_at_any_step_the_next_apply_reaches_the_same_end(
        a in any_data_plane(),
        b in any_data_plane(),
        kill_a in 0_usize..120,
        kill_b in 0_usize..120,
    ) {
        let mut kernel = SimulatedKernel::new();
        apply_until(&mut kernel, &a, kill_a);
        apply_until(&mut kernel, &b, kill_b);
        let report = apply(&mut kernel, &b);
        prop_assert!(report.failed.is_empty(), "{:?}", report.failed);
        prop_assert_eq!(&kernel.violations, &Vec::<String>::new());
        prop_assert_eq!(guard::violations(&kernel.objects), Vec::<String>::new());
        prop_assert_eq!(held(&kernel), wanted(&kernel, &b));
        prop_assert!(apply(&mut kernel, &b).done.is_empty());
        prop_assert!(kernel.installed.values().all(|&times| times == 1));
    }

    #[test]
    fn failing_steps_never_open_anything(
        a in any_data_plane(),
        b in any_data_plane(),
        failing in proptest::collection::btree_set(0_usize..200, 0..40),
    ) {
        let mut kernel = SimulatedKernel::new();
        kernel.failing = failing;
        apply(&mut kernel, &a);
        apply(&mut kernel, &b);
        prop_assert_eq!(&kernel.violations, &Vec::<String>::new());
        prop_assert_eq!(guard::violations(&kernel.objects), Vec::<String>::new());
        prop_assert!(kernel.installed.values().all(|&times| times == 1));
    }

    #[test]
    fn without_key_conflicts_the_end_is_what_compile_wants(
        desired in any_data_plane(),
        kill in 0_usize..120,
    ) {
        let mut kernel = SimulatedKernel::new();
        apply_until(&mut kernel, &desired, kill);
        apply(&mut kernel, &desired);
        let mut compiled = compile(&desired, &facts(&desired)).unwrap().objects;
        for state in compiled.states.values_mut() {
            state.keying = Keying::Adopted;
        }
        prop_assert_eq!(held(&kernel), compiled);
    }

    #[test]
    fn clear_leaves_nothing(a in any_data_plane(), kill in 0_usize..120) {
        let mut kernel = SimulatedKernel::new();
        apply(&mut kernel, &a);
        let mut left = kill;
        block_on(clear(&mut kernel, || {
            let stop = left == 0;
            left = left.saturating_sub(1);
            stop
        })).unwrap();
        block_on(clear(&mut kernel, || false)).unwrap();
        prop_assert_eq!(&kernel.violations, &Vec::<String>::new());
        prop_assert_eq!(&kernel.objects, &Objects::default());
    }
}

#[test]
fn no_step_prints_a_key() {
    let material = key(Direction::Out, 2, 0, 0, 0);
    let hex: String = material
        .expose()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let plan = plan(
        &example(),
        &facts(&example()),
        &Objects::default(),
        &BTreeSet::new(),
    )
    .unwrap();
    let printed = format!(
        "{plan:?} {}",
        plan.steps
            .iter()
            .map(ToString::to_string)
            .collect::<String>()
    );
    assert!(!printed.contains(&hex) && !printed.contains("[1, 0, 2, 0"));
}
