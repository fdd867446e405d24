//! Everything at once, from a seed, then quiet: all must heal.

use overlay_cluster::rotation::SlotKey;
use rand::RngExt as _;

use super::{
    sim::{Weather, World, ms},
    world,
};

fn disturb(world: &mut World) {
    let nodes = world.nodes.len();
    let node = world.rng.random_range(0..nodes);
    let up = world.nodes[node].rotation.is_some();
    match world.rng.random_range(0..10) {
        0 | 1 if up => world.kill(node),
        0..=3 if !up => world.start(node),
        2 if up => world.reboot(node),
        4 => {
            let side = world.rng.random_range(0..2);
            world.set_side(node, side);
            world.announce();
        }
        5 | 6 if world.is_stable() => {
            world.managers.request();
            world.announce();
        }
        7 if up => {
            let slots: Vec<_> = world.nodes[node]
                .kernel
                .peers
                .iter()
                .flat_map(|(peer, state)| state.slots.keys().map(|key| (*peer, *key)))
                .collect();
            if !slots.is_empty() {
                let at = world.rng.random_range(0..slots.len());
                let (peer, key): (_, SlotKey) = slots[at];
                world.lose_sa(node, peer, key);
            }
        }
        8 => {
            let other = world.rng.random_range(0..nodes);
            let (a, b) = (world.index(node), world.index(other));
            let pair = (a.min(b), a.max(b));
            if a != b && !world.managers.apart.remove(&pair) {
                world.managers.apart.insert(pair);
            }
            world.managers.revision += 1;
            world.announce();
        }
        _ => {}
    }
}

fn storm(seed: u64, nodes: u32) {
    let weather = Weather {
        refusals: 0.05,
        ..Weather::bad()
    };
    let mut world = world(seed, nodes, weather);
    for _ in 0..60 {
        disturb(&mut world);
        let pause = world.rng.random_range(0..6000);
        world.run_for(ms(pause));
    }
    world.weather.refusals = 0.0;
    world.managers.apart.clear();
    world.managers.revision += 1;
    for node in 0..world.nodes.len() {
        world.set_side(node, 0);
        if world.nodes[node].rotation.is_none() {
            world.start(node);
        }
    }
    world.announce();
    world.run_for(ms(60_000));
    world.settled(ms(120_000));
    let before = world.excused;
    world.rotate();
    world.settled(ms(60_000));
    assert_eq!(world.excused, before, "seed {seed}: quiet again");
    assert_eq!(world.alarms, [], "seed {seed}");
}

#[test]
fn small_clusters_heal_after_any_storm() {
    for seed in 0..40 {
        storm(seed, 3 + (seed % 4) as u32);
    }
}

#[test]
fn a_cluster_of_twenty_heals_after_a_storm() {
    storm(1000, 20);
}

#[test]
fn a_kernel_that_refuses_sas_now_and_then_delays_and_breaks_nothing() {
    let weather = Weather {
        refusals: 0.3,
        ..Weather::default()
    };
    let mut world = world(9, 4, weather);
    for _ in 0..5 {
        world.rotate();
        world.settled(ms(60_000));
    }
    world.assert_lossless();
}
