//! Nodes that are removed, and pairs that part and meet.

use std::collections::BTreeSet;

use overlay_cluster::rotation::Alarm;
use overlay_ebpf::abi::PeerIndex;

use super::{
    sim::{KeyName, Weather, World, ms},
    world,
};

fn keys(world: &World, node: usize) -> BTreeSet<KeyName> {
    let peers = world.nodes[node].kernel.peers.values();
    peers
        .flat_map(|peer| peer.slots.values())
        .flat_map(|slot| slot.keys.iter().copied())
        .collect()
}

fn holds(world: &World, node: usize, peer: PeerIndex) -> bool {
    world.nodes[node].kernel.peers.contains_key(&peer)
}

/// Removes the last node, which does all to stay, `after` milliseconds into a rotation.
fn evict(nodes: u32, after: Option<u64>) {
    let mut world = world(nodes.into(), nodes, Weather::default());
    let victim = nodes as usize - 1;
    let index = world.index(victim);
    if let Some(after) = after {
        world.managers.request();
        world.announce();
        world.run_for(ms(after));
    }
    let known = world.managers.log.newest().number;
    world.nodes[victim].deaf = true;
    let start = world.now;
    world.managers.evict(index);
    world.announce();
    let done = world.run_until(start + ms(2000), |world| {
        (0..victim).all(|node| !holds(world, node, index))
    });
    assert!(done, "within two seconds no kernel has an SA of it");
    let others: BTreeSet<_> = (0..victim).flat_map(|node| keys(&world, node)).collect();
    assert!(
        keys(&world, victim).is_disjoint(&others),
        "it can read nothing"
    );
    let end = world.now + ms(120_000);
    let done = world.run_until(end, |world| {
        world.is_stable() && world.managers.log.current.number > known
    });
    assert!(done, "a new epoch follows: {:?}", world.managers.log);
    let rotation = world.nodes[victim].rotation.as_ref().expect("alive");
    assert!(
        rotation
            .records()
            .all(|record| record.epoch.number <= known),
        "it never opens the next epoch"
    );
    let others: BTreeSet<_> = (0..victim).flat_map(|node| keys(&world, node)).collect();
    assert!(keys(&world, victim).is_disjoint(&others));
    assert_eq!(world.astray(), []);
    assert_eq!((&world.lost[..], world.excused), (&[][..], 0));
}

#[test]
fn an_evicted_node_is_closed_out_at_once_and_never_opens_the_next_epoch() {
    evict(4, None);
    evict(20, None);
}

#[test]
fn an_eviction_in_the_middle_of_every_step_of_a_rotation_costs_the_others_nothing() {
    for after in (0..16_000).step_by(400) {
        evict(4, Some(after));
    }
}

#[test]
fn a_node_that_hears_of_its_own_removal_closes_itself() {
    let mut world = world(1, 3, Weather::default());
    let index = world.index(2);
    world.managers.evict(index);
    world.announce();
    world.run_for(ms(5000));
    assert_eq!(world.alarms, [(index, Alarm::Evicted)]);
    assert!(world.nodes[2].kernel.peers.is_empty());
    let rotation = world.nodes[2].rotation.as_ref().expect("alive");
    assert_eq!(rotation.records().count(), 0, "its keys are gone");
}

#[test]
fn a_pair_that_parts_and_meets_within_one_epoch_never_repeats_a_key() {
    for seed in 0..10 {
        let weather = if seed % 2 == 0 {
            Weather::default()
        } else {
            Weather::bad()
        };
        let mut world = world(seed, 3, weather);
        let pair = (world.index(0), world.index(1));
        for round in 0..12 {
            world.managers.apart.insert(pair);
            world.managers.revision += 1;
            world.announce();
            // Often before both have heard of it.
            world.run_for(ms(20 + 170 * round));
            world.managers.apart.remove(&pair);
            world.managers.revision += 1;
            world.announce();
            world.run_for(ms(20 + 900 * (round % 3)));
        }
        world.settled(ms(120_000));
        assert_eq!(world.managers.log.current.number, 1);
    }
}

#[test]
fn slots_come_round_within_one_epoch_and_no_key_does() {
    let mut world = world(1, 2, Weather::default());
    let pair = (world.index(0), world.index(1));
    for _ in 0..300 {
        world.managers.apart.insert(pair);
        world.managers.revision += 1;
        world.announce();
        world.run_for(ms(1500));
        world.managers.apart.clear();
        world.managers.revision += 1;
        world.announce();
        world.run_for(ms(2500));
        world.settled(ms(5000));
    }
    assert_eq!(world.managers.log.current.number, 1);
}
