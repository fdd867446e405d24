//! Adjacent steps of which none builds upon another: the kernel is asked for them at once.
//!
//! A rotation on a node with a thousand peers is thousands of SAs, policies and peers in a row. The
//! order between rows is what keeps traffic safe (an SA before its policy, that before the peer), and a
//! batch never reaches from one row into the next: what a step failed in is known before anything
//! builds upon it.

use std::{
    collections::BTreeSet,
    mem::{Discriminant, discriminant},
};

use overlay_ebpf::abi::PeerKey;

use super::{
    objects::{PolicyKey, StateKey},
    step::{MapWrite, Step},
};

/// Steps of the longest batch: an operator's interrupt waits for it.
pub const LONGEST: usize = 256;

/// What a step of a batch changes.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Object {
    Policy(PolicyKey),
    State(StateKey),
    Peer(PeerKey),
}

/// Steps of the same kind do not build upon each other; `None` where they may.
///
/// Of the rules of [`super::guard`], that of a policy asks for SAs, that of an SA for policies, and
/// that of a peer for both: none for an object of its own kind, but for the same one.
fn kind(step: &Step) -> Option<(Discriminant<Step>, Object)> {
    let object = match step {
        Step::SetPolicy(key, _) | Step::RemovePolicy(key) => Object::Policy(*key),
        Step::AddState(key, _) | Step::RemoveState(key) => Object::State(*key),
        // One that goes frees memory, and is not like one that comes.
        Step::Map(MapWrite::Peer(key, Some(_))) => Object::Peer(*key),
        _ => return None,
    };
    Some((discriminant(step), object))
}

/// How many of the first steps are a batch: 0 of none, else at least 1.
pub fn length(steps: &[Step]) -> usize {
    let Some((first, _)) = steps.first().and_then(kind) else {
        return steps.len().min(1);
    };
    let mut objects = BTreeSet::new();
    steps
        .iter()
        .take(LONGEST)
        .take_while(|step| {
            kind(step).is_some_and(|(kind, object)| kind == first && objects.insert(object))
        })
        .count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dataplane::{
        compile::compile,
        diff::diff,
        guard::step_blocked,
        objects::{Objects, StateMode},
        testing::{any_data_plane, example, facts, index, peer},
    };

    /// The steps that fill an empty kernel, by batches.
    fn batches(mut steps: Vec<Step>) -> Vec<Vec<Step>> {
        let mut batches = Vec::new();
        while !steps.is_empty() {
            let later = steps.split_off(length(&steps));
            batches.push(steps);
            steps = later;
        }
        batches
    }

    #[test]
    fn thousands_of_sas_are_few_batches_and_no_batch_holds_two_kinds() {
        let mut desired = example();
        for number in 2..250 {
            let mut peer = peer(number, &[0], 4, Some(0));
            peer.networks = desired.networks.keys().copied().collect();
            desired.peers.insert(index(number), peer);
        }
        let wanted = compile(&desired, &facts(&desired)).unwrap().objects;
        let steps = diff(&wanted, &Objects::default());
        let (sas, total) = (wanted.states.len(), steps.len());
        assert_eq!(sas, 248 * 8);
        let batches = batches(steps);
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), total);
        let with = |of: fn(&Step) -> bool| batches.iter().filter(|all| all.iter().any(of)).count();
        assert_eq!(
            with(|step| matches!(step, Step::AddState(..))),
            sas.div_ceil(LONGEST)
        );
        assert_eq!(
            with(|step| matches!(step, Step::Map(MapWrite::Peer(..)))),
            1
        );
        for batch in &batches {
            assert!(
                batch
                    .iter()
                    .all(|step| discriminant(step) == discriminant(&batch[0]))
            );
        }
        // Inbound before outbound, also within a batch.
        let outbound = |step: &Step| matches!(step, Step::AddState(_, state) if state.mode == StateMode::Transport);
        let states: Vec<bool> = batches
            .iter()
            .flatten()
            .filter(|step| matches!(step, Step::AddState(..)))
            .map(outbound)
            .collect();
        assert!(states.is_sorted());
    }

    #[test]
    fn one_object_is_in_a_batch_once() {
        let key = PeerKey { peer: 2 };
        let wanted = compile(&example(), &facts(&example())).unwrap().objects;
        let step = Step::Map(MapWrite::Peer(key, wanted.maps.peers.get(&key).cloned()));
        assert_eq!(length(&[step.clone(), step.clone()]), 1);
        assert_eq!(length(&[]), 0);
    }

    proptest! {
        /// What guards a step says the same before its batch and right before the step.
        #[test]
        fn no_step_of_a_batch_builds_upon_another(
            a in any_data_plane(),
            b in any_data_plane(),
            failing in proptest::collection::btree_set(0_usize..100, 0..20),
        ) {
            let mut current = Objects::default();
            let mut number = 0;
            for desired in [&a, &b] {
                let wanted = compile(desired, &facts(desired)).unwrap().objects;
                for batch in batches(diff(&wanted, &current)) {
                    let before = current.clone();
                    for step in &batch {
                        let blocked = step_blocked(&current, step);
                        prop_assert_eq!(step_blocked(&before, step), blocked.clone(), "{}", step);
                        number += 1;
                        if blocked.is_none() && !failing.contains(&number) {
                            current.apply(step);
                        }
                    }
                }
            }
        }
    }
}
