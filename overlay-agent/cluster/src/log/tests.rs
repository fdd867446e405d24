//! Random commands: what holds after each, and that the same commands give the same state.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use overlay_ebpf::abi::{PeerIndex, Vni};
use proptest::prelude::*;

use super::{
    addresses::Family,
    command::{Command, Outcome},
    epochs::{NewEpoch, Phase, Readiness, Reason},
    member::{Availability, Role},
    names::NodeName,
    networks::NetworkRequest,
    samples::{
        applicant, authority, contact, epoch, founded, labels, network, node, now, tokens, worker,
    },
    settings::Settings,
    state::{Cluster, State},
    view::{Update, View},
};
use crate::{
    id::{EpochName, NodeId},
    keys::EpochSecrets,
    time::Timestamp,
};

const NODES: u8 = 8;

/// A step; what it means depends on the state, so that many are accepted.
#[derive(Debug, Clone)]
enum Step {
    Join {
        n: u8,
        manager: bool,
    },
    Renew {
        n: u8,
        as_n: u8,
    },
    Rename {
        n: u8,
        as_n: u8,
    },
    SetRole {
        n: u8,
        manager: bool,
    },
    Drain {
        n: u8,
        drain: bool,
    },
    Label {
        n: u8,
        zone: u8,
    },
    Leave {
        n: u8,
    },
    Remove {
        n: u8,
        down: bool,
    },
    Evict {
        n: u8,
    },
    RotateToken {
        manager: bool,
    },
    IntroduceRoot {
        n: u8,
        right: bool,
    },
    PromoteRoot {
        n: u8,
        force: bool,
    },
    RetireRoot {
        n: u8,
        force: bool,
    },
    Create {
        at: u8,
        zone: Option<u8>,
        vni: Option<u8>,
    },
    RemoveNetwork {
        at: u8,
        endpoints: bool,
        discard: bool,
    },
    Prune,
    Lease {
        at: u8,
        n: u8,
        again: bool,
    },
    Claim {
        at: u8,
        n: u8,
        address: u8,
    },
    Return {
        at: u8,
        n: u8,
        which: u8,
    },
    Stage {
        reason: u8,
        right: bool,
    },
    Activate {
        deadline: bool,
    },
    Retire,
    Restore,
    Lanes {
        lanes: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 1..=NODES;
    let at = || 0_u8..4;
    prop_oneof![
        6 => (n(), any::<bool>()).prop_map(|(n, manager)| Step::Join { n, manager }),
        1 => (n(), n()).prop_map(|(n, as_n)| Step::Renew { n, as_n }),
        1 => (n(), n()).prop_map(|(n, as_n)| Step::Rename { n, as_n }),
        2 => (n(), any::<bool>()).prop_map(|(n, manager)| Step::SetRole { n, manager }),
        1 => (n(), any::<bool>()).prop_map(|(n, drain)| Step::Drain { n, drain }),
        1 => (n(), 0_u8..3).prop_map(|(n, zone)| Step::Label { n, zone }),
        1 => n().prop_map(|n| Step::Leave { n }),
        1 => (n(), any::<bool>()).prop_map(|(n, down)| Step::Remove { n, down }),
        1 => n().prop_map(|n| Step::Evict { n }),
        1 => any::<bool>().prop_map(|manager| Step::RotateToken { manager }),
        1 => (1_u8..5, prop::bool::weighted(0.9))
            .prop_map(|(n, right)| Step::IntroduceRoot { n, right }),
        1 => (1_u8..5, any::<bool>()).prop_map(|(n, force)| Step::PromoteRoot { n, force }),
        1 => (1_u8..5, any::<bool>()).prop_map(|(n, force)| Step::RetireRoot { n, force }),
        3 => (at(), proptest::option::of(0_u8..3), proptest::option::of(0_u8..8))
            .prop_map(|(at, zone, vni)| Step::Create { at, zone, vni }),
        1 => (at(), any::<bool>(), any::<bool>())
            .prop_map(|(at, endpoints, discard)| Step::RemoveNetwork { at, endpoints, discard }),
        1 => Just(Step::Prune),
        8 => (at(), n(), any::<bool>()).prop_map(|(at, n, again)| Step::Lease { at, n, again }),
        4 => (at(), n(), 0_u8..=255).prop_map(|(at, n, address)| Step::Claim { at, n, address }),
        2 => (at(), n(), 0_u8..3).prop_map(|(at, n, which)| Step::Return { at, n, which }),
        4 => (0_u8..4, prop::bool::weighted(0.9))
            .prop_map(|(reason, right)| Step::Stage { reason, right }),
        4 => any::<bool>().prop_map(|deadline| Step::Activate { deadline }),
        4 => Just(Step::Retire),
        1 => Just(Step::Restore),
        1 => (0_u8..20).prop_map(|lanes| Step::Lanes { lanes }),
    ]
}

/// Steps, each some seconds after the last, or before it: clocks of leaders differ.
fn steps() -> impl Strategy<Value = Vec<(i32, Step)>> {
    let seconds = prop_oneof![8 => -5..90_i32, 1 => Just(12 * 3600)];
    prop::collection::vec((seconds, step()), 0..80)
}

/// An epoch after `cluster`'s, with secrets that no other has.
fn next_epoch(cluster: &Cluster, incarnation: u32) -> NewEpoch {
    let number = cluster.epochs().newest() + 1;
    let mut next = epoch(0, number);
    next.name.incarnation = incarnation;
    next
}

fn the_network(cluster: &Cluster, at: u8) -> Vni {
    let vni = cluster
        .networks()
        .iter()
        .nth(at.into())
        .map(|network| network.vni);
    vni.unwrap_or_else(|| Vni::new(9999).expect("a VNI"))
}

fn role(manager: bool) -> Role {
    if manager { Role::Manager } else { Role::Worker }
}

fn command(cluster: &Cluster, step: &Step, fresh: u8) -> Command {
    let current = cluster.epochs().current();
    let issuer = cluster.trust().issuer().digest();
    let root = |n| authority(n).root().digest();
    match *step {
        Step::Join { n, manager } => Command::Join {
            token: cluster.tokens().of(role(manager)).hash(cluster.id()),
            applicant: applicant(n),
        },
        Step::Renew { n, as_n } => Command::Renew {
            node: node(n),
            contact: contact(as_n),
        },
        Step::Rename { n, as_n } => Command::Rename {
            node: node(n),
            name: NodeName::new(format!("node-{as_n}")).expect("a name"),
        },
        Step::SetRole { n, manager } => Command::SetRole {
            node: node(n),
            role: role(manager),
        },
        Step::Drain { n, drain } => Command::SetAvailability {
            node: node(n),
            availability: if drain {
                Availability::Drain
            } else {
                Availability::Active
            },
        },
        Step::Label { n, zone } => Command::SetLabels {
            node: node(n),
            labels: labels(&[("zone", &zone.to_string())]),
        },
        Step::Leave { n } => Command::Leave { node: node(n) },
        Step::Remove { n, down } => Command::Remove {
            node: node(n),
            down,
        },
        Step::Evict { n } => Command::Evict {
            node: node(n),
            tokens: tokens(fresh),
        },
        Step::RotateToken { manager } => Command::RotateToken {
            role: role(manager),
            token: tokens(fresh).worker,
        },
        Step::IntroduceRoot { n, right } => Command::IntroduceRoot {
            expected: if right { issuer } else { root(9) },
            authority: Box::new(authority(n)),
        },
        Step::PromoteRoot { n, force } => Command::PromoteRoot {
            expected: issuer,
            root: root(n),
            tokens: tokens(fresh),
            force,
        },
        Step::RetireRoot { n, force } => Command::RetireRoot {
            expected: issuer,
            root: root(n),
            force,
        },
        Step::Create { at, zone, vni } => Command::CreateNetwork(NetworkRequest {
            vni: vni.and_then(|vni| Vni::new(Vni::MIN + u32::from(vni)).ok()),
            rules: zone
                .map(|zone| format!("node.zone=={zone}").parse().expect("a rule"))
                .into_iter()
                .collect(),
            ..network(&format!("net-{at}"), &format!("10.0.{at}.0/26"))
        }),
        Step::RemoveNetwork {
            at,
            endpoints,
            discard,
        } => {
            let vni = the_network(cluster, at);
            let blocks = u32::try_from(cluster.blocks().count(vni)).expect("few");
            Command::RemoveNetwork {
                vni,
                endpoints: endpoints.into(),
                discard: if discard { blocks } else { 0 },
            }
        }
        Step::Prune => Command::PruneNetworks {
            candidates: (0..4).map(|at| the_network(cluster, at)).collect(),
        },
        Step::Lease { at, n, again } => {
            let network = the_network(cluster, at);
            let held = cluster.blocks().held_by(&node(n)).remove(&network);
            let held = u32::try_from(held.map_or(0, |held| held.len())).expect("few");
            Command::LeaseBlock {
                network,
                node: node(n),
                family: Family::V4,
                known: held.saturating_sub(again.into()),
            }
        }
        Step::Claim { at, n, address } => {
            let address = IpAddr::from([10, 0, at, address]);
            Command::claim_address(the_network(cluster, at), node(n), address)
        }
        Step::Return { at, n, which } => {
            let network = the_network(cluster, at);
            let held = cluster.blocks().held_by(&node(n)).remove(&network);
            let block = held.and_then(|held| held.get(usize::from(which)).copied());
            Command::ReturnBlock {
                network,
                node: node(n),
                block: block.unwrap_or_else(|| IpNet::from(IpAddr::from([10, 0, 0, 9]))),
            }
        }
        Step::Stage { reason, right } => Command::StageEpoch {
            expected: if right { current } else { epoch(0, 99).name },
            next: next_epoch(cluster, current.incarnation),
            reason: [
                Reason::Schedule,
                Reason::Operator,
                Reason::Volume,
                Reason::Eviction,
            ][usize::from(reason)],
        },
        Step::Activate { deadline } => Command::ActivateEpoch {
            expected: match cluster.epochs().phase() {
                Phase::Staging { next, .. } => next,
                Phase::Stable | Phase::Activated { .. } => current,
            },
            readiness: if deadline {
                Readiness::Deadline
            } else {
                Readiness::All
            },
        },
        Step::Retire => Command::RetireEpoch {
            expected: match cluster.epochs().phase() {
                Phase::Activated { retiring, .. } => retiring,
                Phase::Stable | Phase::Staging { .. } => current,
            },
        },
        Step::Restore => Command::Restore {
            next: next_epoch(cluster, current.incarnation + 1),
            tokens: tokens(fresh),
        },
        Step::Lanes { lanes } => Command::SetSettings(Settings {
            lanes: Some(lanes),
            ..Settings::default()
        }),
    }
}

/// What must never happen twice, over the whole history.
#[derive(Default)]
struct History {
    indices: BTreeMap<PeerIndex, NodeId>,
    given: BTreeSet<Vni>,
    epochs: BTreeMap<EpochName, EpochSecrets>,
    numbers: BTreeMap<u32, EpochName>,
    /// Evicted nodes with the newest epoch that they may know.
    evicted: BTreeMap<NodeId, u32>,
    /// Blocks of nodes that are gone, with the newest epoch that they may know.
    closed: Vec<(Vni, IpNet, u32)>,
}

impl History {
    fn check(
        &mut self,
        before: &Cluster,
        after: &Cluster,
        command: &Command,
        outcome: &Outcome,
    ) -> Result<(), TestCaseError> {
        for (id, member) in after.roster().iter() {
            let holder = *self.indices.entry(member.index).or_insert(*id);
            prop_assert_eq!(holder, *id, "index {} again", member.index);
        }
        if let (
            Command::CreateNetwork(NetworkRequest { vni: None, .. }),
            Outcome::Created { vni },
        ) = (command, outcome)
        {
            prop_assert!(self.given.insert(*vni), "VNI {} again", vni);
        }
        for name in after.epochs().names() {
            let secrets = after.epochs().secrets(name).expect("kept");
            let known = self.epochs.entry(name).or_insert_with(|| secrets.clone());
            prop_assert_eq!(&*known, secrets);
            let named = *self.numbers.entry(name.number).or_insert(name);
            prop_assert_eq!(named, name, "two epochs of one number");
        }
        prop_assert!(after.roster().managers().next().is_some());
        if let Command::Evict { node, .. } = command {
            self.evicted.insert(*node, before.epochs().newest());
            prop_assert!(after.epochs().is_urgent());
        }
        for (id, known) in &self.evicted {
            for name in after.epochs().names().filter(|name| name.number > *known) {
                prop_assert!(after.secrets(id, name).is_err(), "{:?}", name);
            }
        }
        self.check_blocks(before, after)
    }

    /// An address of a node that is gone is not another's before the node's epochs retired.
    fn check_blocks(&mut self, before: &Cluster, after: &Cluster) -> Result<(), TestCaseError> {
        for n in 1..=NODES {
            if after.roster().present(&node(n)).is_err() {
                let newest = before.epochs().newest();
                for (vni, blocks) in before.blocks().held_by(&node(n)) {
                    let closed = blocks.into_iter().map(|block| (vni, block, newest));
                    self.closed.extend(closed);
                }
            }
        }
        let oldest = after.epochs().oldest();
        self.closed
            .retain(|(vni, _, epoch)| *epoch >= oldest && after.networks().get(*vni).is_ok());
        for n in 1..=NODES {
            for (vni, blocks) in after.blocks().held_by(&node(n)) {
                for (_, closed, _) in self.closed.iter().filter(|(of, _, _)| *of == vni) {
                    let clash = blocks
                        .iter()
                        .find(|block| super::addresses::overlap(block, closed));
                    prop_assert_eq!(clash, None, "{} is closed", closed);
                }
            }
        }
        Ok(())
    }
}

fn pull(cluster: &Cluster, view: &mut Option<View>, id: &NodeId) -> Result<(), TestCaseError> {
    let Ok(update) = cluster.update(id, view.as_ref().map(|view| view.version)) else {
        *view = None;
        return Ok(());
    };
    let update = Update::decode(&update.encode()).expect("decodes");
    match (view.as_mut(), update) {
        (Some(view), update) => view.take(update).expect("fits"),
        (None, Update::Whole(whole)) => *view = Some(*whole),
        (None, Update::Delta(delta)) => panic!("{delta:?}"),
    }
    let Ok(Update::Whole(whole)) = cluster.update(id, None) else {
        panic!("the whole view");
    };
    prop_assert_eq!(view.as_ref(), Some(&*whole));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn random_commands_keep_every_promise(steps in steps(), middle in 0_usize..80) {
        let mut state = founded();
        let mut from_snapshot = founded();
        let mut history = History::default();
        let mut log: Vec<(Timestamp, Command)> = Vec::new();
        let mut views: BTreeMap<NodeId, Option<View>> = BTreeMap::new();
        let mut seconds = 0_i64;
        for (count, (passed, step)) in steps.iter().enumerate() {
            seconds = (seconds + i64::from(*passed)).max(0);
            let at = now(seconds.unsigned_abs());
            let before = state.cluster().expect("a cluster").clone();
            let fresh = u8::try_from(10 + count * 2).expect("few");
            let command = command(&before, step, fresh);
            prop_assert_eq!(Command::decode(&command.encode()), Ok(command.clone()));
            log.push((at, command.clone()));
            let result = state.apply(at, command.clone());
            let after = state.cluster().expect("a cluster");
            match &result {
                Err(refusal) => {
                    prop_assert_eq!(after, &before, "{}", refusal);
                    prop_assert!(!refusal.to_string().is_empty());
                }
                Ok(outcome) => {
                    prop_assert_eq!(after.time(), before.time().max(at));
                    prop_assert_eq!(after.revision(), before.revision() + 1);
                    prop_assert_eq!(state.fault(), None, "after {:?}", command);
                    history.check(&before, after, &command, outcome)?;
                }
            }
            if count == middle {
                from_snapshot = State::decode(&state.encode()).expect("a snapshot");
            } else if from_snapshot.apply(at, command) != result {
                prop_assert!(false, "another result than of the snapshot");
            }
            let id = node(u8::try_from(count).expect("few") % NODES + 1);
            let view = views.entry(id).or_default();
            pull(state.cluster().expect("a cluster"), view, &id)?;
        }
        let mut replayed = founded();
        for (at, command) in log {
            let _ = replayed.apply(at, command);
        }
        prop_assert_eq!(replayed.encode(), state.encode());
        prop_assert_eq!(from_snapshot.encode(), state.encode());
    }

    #[test]
    fn noise_does_not_decode_into_an_unsound_state(mut bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = Command::decode(&bytes);
        let _ = Update::decode(&bytes);
        if let Some(version) = bytes.first_mut() {
            *version = 1;
        }
        if let Ok(command) = Command::decode(&bytes) {
            prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
        if let Ok(state) = State::decode(&bytes) {
            prop_assert_eq!(state.fault(), None);
        }
        if let Ok(update) = Update::decode(&bytes) {
            prop_assert_eq!(Update::decode(&update.encode()), Ok(update));
        }
    }
}

#[test]
fn nothing_but_a_beginning_is_taken_by_an_empty_log_and_that_once() {
    let mut empty = State::default();
    let command = Command::Leave { node: node(1) };
    let refusal = empty.apply(now(0), command).expect_err("empty");
    assert!(refusal.to_string().contains("overlay init"), "{refusal}");
    assert_eq!(State::decode(&empty.encode()), Ok(empty));
}

#[test]
fn the_time_of_the_log_does_not_go_back() {
    let mut state = founded();
    super::samples::join(&mut state, 2);
    let leave = |n, at| (now(at), Command::Leave { node: node(n) });
    let (at, command) = leave(2, 500);
    state.apply(at, command).expect("leaves");
    super::samples::join(&mut state, 3);
    assert_eq!(state.cluster().expect("a cluster").time(), now(500));
}

#[test]
fn a_clock_far_ahead_is_not_believed_until_it_is_confirmed() {
    let mut state = founded();
    let year = 366 * 24 * 3600;
    let command = || Command::SetSettings(Settings::default());
    let refusal = state.apply(now(year), command()).expect_err("a leap");
    assert!(refusal.to_string().contains("set the clock"), "{refusal}");
    super::samples::apply(&mut state, year, Command::ConfirmTime);
    super::samples::apply(&mut state, year, command());
}

#[test]
fn after_a_restored_backup_nodes_claim_what_they_hold_before_others_lease_it() {
    let mut state = founded();
    super::samples::join(&mut state, 2);
    super::samples::apply(
        &mut state,
        0,
        Command::CreateNetwork(network("a", "10.0.0.0/24")),
    );
    let vni = the_network(state.cluster().expect("a cluster"), 0);
    let mut restored = state.clone();
    let lease = |n| Command::LeaseBlock {
        network: vni,
        node: node(n),
        family: Family::V4,
        known: 0,
    };
    let Outcome::Leased { blocks: lost } = super::samples::apply(&mut state, 0, lease(1)) else {
        panic!("a lease");
    };
    let next = Command::Restore {
        next: epoch(1, 2),
        tokens: tokens(5),
    };
    super::samples::apply(&mut restored, 0, next);
    let refusal = restored.apply(now(1), lease(2)).expect_err("too early");
    assert!(refusal.to_string().contains("claim"), "{refusal}");
    let drain = Command::SetAvailability {
        node: node(1),
        availability: Availability::Drain,
    };
    super::samples::apply(&mut restored, 1, drain);
    let claim = Command::ClaimBlock {
        network: vni,
        node: node(1),
        block: lost[0],
    };
    super::samples::apply(&mut restored, 1, claim);
    let expected = epoch(0, 1).name;
    super::samples::apply(&mut restored, 61, Command::RetireEpoch { expected });
    let Outcome::Leased { blocks } = super::samples::apply(&mut restored, 61, lease(2)) else {
        panic!("a lease");
    };
    assert_ne!(blocks, lost);
}

#[test]
fn a_snapshot_of_another_release_is_refused_in_words() {
    let mut bytes = founded().encode();
    bytes[0] = 2;
    let error = State::decode(&bytes).expect_err("a version").to_string();
    assert!(error.contains("version 2"), "{error}");
}

#[test]
fn an_eviction_voids_the_tokens_with_the_node() {
    let mut state = founded();
    super::samples::join(&mut state, 2);
    let evict = |tokens| Command::Evict {
        node: node(2),
        tokens,
    };
    let refusal = state
        .apply(now(1), evict(tokens(1)))
        .expect_err("old tokens");
    assert!(refusal.to_string().contains("in use"), "{refusal}");
    super::samples::apply(&mut state, 1, evict(tokens(5)));
    let join = |n, token| Command::Join {
        token,
        applicant: applicant(n),
    };
    let old = worker(1);
    assert!(state.apply(now(1), join(3, old)).is_err());
    let new = worker(5);
    assert!(state.apply(now(1), join(2, new)).is_err(), "its key");
    super::samples::apply(&mut state, 1, join(3, new));
}

#[test]
fn labels_that_exclude_a_host_wait_until_it_has_no_addresses() {
    let mut state = founded();
    let mut request = network("a", "10.0.0.0/24");
    request.rules = vec!["!node.old".parse().expect("a rule")];
    super::samples::apply(&mut state, 0, Command::CreateNetwork(request));
    let vni = the_network(state.cluster().expect("a cluster"), 0);
    let address = [10, 0, 0, 9].into();
    super::samples::apply(&mut state, 0, Command::claim_address(vni, node(1), address));
    let exclude = Command::SetLabels {
        node: node(1),
        labels: labels(&[("old", "")]),
    };
    let refusal = state.apply(now(0), exclude.clone()).expect_err("a holder");
    assert!(refusal.to_string().contains("`!node.old`"), "{refusal}");
    let back = Command::ReturnBlock {
        network: vni,
        node: node(1),
        block: address.into(),
    };
    super::samples::apply(&mut state, 0, back);
    super::samples::apply(&mut state, 0, exclude);
    let refusal = state.apply(now(0), Command::claim_address(vni, node(1), address));
    assert!(refusal.is_err());
}

#[test]
fn a_thousand_nodes_fit_a_small_snapshot_and_view_and_a_change_a_small_difference() {
    let mut state = founded();
    let create = Command::CreateNetwork(network("a", "10.0.0.0/16"));
    super::samples::apply(&mut state, 0, create);
    let vni = the_network(state.cluster().expect("a cluster"), 0);
    let mut before = None;
    for n in 2..=1000_u16 {
        before = state.cluster().map(Cluster::version);
        let mut seed = [0; 32];
        seed[..2].copy_from_slice(&n.to_be_bytes());
        let key = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key();
        let [high, low] = n.to_be_bytes();
        let mut applicant = applicant(1);
        applicant.key = super::member::NodeKey::new(key.to_bytes()).expect("a key");
        applicant.name = NodeName::new(format!("node-{n}")).expect("a name");
        applicant.contact.vteps.v4 = Some([172, 16, high, low].into());
        applicant.contact.control = ([172, 16, high, low], 7946).into();
        let node = applicant.key.id();
        let token = worker(1);
        state
            .apply(now(0), Command::Join { token, applicant })
            .expect("joins");
        let lease = Command::LeaseBlock {
            network: vni,
            node,
            family: Family::V4,
            known: 0,
        };
        if n <= 250 {
            state.apply(now(0), lease).expect("leases");
        }
    }
    assert_eq!(state.fault(), None);
    let snapshot = state.encode().len();
    let cluster = state.cluster().expect("a cluster");
    let update = |have| {
        cluster
            .update(&node(1), have)
            .expect("a member")
            .encode()
            .len()
    };
    let (whole, difference) = (update(None), update(before));
    assert!(snapshot < 256 << 10, "{snapshot} bytes");
    assert!(whole < 128 << 10, "{whole} bytes");
    assert!(difference < 256, "{difference} bytes");
}
