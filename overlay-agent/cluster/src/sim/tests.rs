use std::time::Duration;

use rand::RngExt as _;

use super::*;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A cluster in which all know all.
pub(super) fn started(nodes: usize, seed: u64, link: Link) -> World {
    let mut world = World::new(nodes, seed, link);
    for node in 0..nodes {
        world.start(node);
        world.attach(node);
    }
    assert!(
        world.run_until(seconds(60), Duration::from_millis(100), |world| {
            world.has_converged() && world.agrees_on_members()
        })
    );
    world
}

#[test]
fn a_small_cluster_keeps_the_promises_of_a_large_one() {
    for nodes in [3, 25] {
        let report = measure(nodes, 1, 0.01);
        println!("{}", table(std::slice::from_ref(&report)));
        assert!(report.idle() <= 1000.0);
        assert!(report.change_median <= seconds(1));
        assert!(report.change_worst <= seconds(3));
        assert!(report.cold_start <= seconds(15));
        assert!(report.crash_all <= seconds(15));
        assert!(report.heal_records.max(report.heal_members) <= seconds(30));
    }
}

#[test]
fn one_seed_is_one_run() {
    let run = |seed| started(8, seed, Link::lossy(0.05)).traffic();
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

#[test]
fn a_fifth_of_all_datagrams_may_be_lost() {
    let mut world = started(25, 5, Link::lossy(0.2));
    for _ in 0..10 {
        let node = world.any();
        let key = world.attach(node);
        let watched = world.watch(node, key);
        assert!(
            world.run_until(seconds(10), Duration::from_millis(50), |world| {
                world.reached(watched).is_some()
            })
        );
    }
    world.downs.clear();
    world.run(seconds(120));
    let wrong = world.downs.len();
    assert!(
        wrong <= 25,
        "{wrong} times a node was taken for dead that was not"
    );
}

/// Loss, reordering, duplication and replay; nodes crash, restart, part and meet; endpoints come and go. The
/// invariants hold at each step, and once it is quiet all agree.
#[test]
fn whatever_happens_all_agree_in_the_end() {
    for seed in 0..3 {
        let link = Link {
            jitter: Duration::from_millis(200),
            duplicated: 0.1,
            replayed: 0.1,
            ..Link::lossy(0.1)
        };
        let mut world = World::new(12, seed, link);
        let mut keys = Vec::new();
        for node in 0..12 {
            world.start(node);
        }
        for _ in 0..150 {
            let pause = world.rng.random_range(1..2000);
            world.run(Duration::from_millis(pause));
            let node = world.any();
            match world.rng.random_range(0..10) {
                0..=3 => keys.push((node, world.attach(node))),
                4..=6 => {
                    if let Some((owner, key)) = keys.pop()
                        && world.nodes[owner].gossip.is_some()
                    {
                        world.detach(owner, key);
                    }
                }
                7 if world.running().count() > 6 => world.crash(node),
                8 => {
                    if let Some(down) = (0..12).find(|node| world.nodes[*node].gossip.is_none()) {
                        world.start(down);
                    }
                }
                _ => {
                    let side = world.rng.random_range(0..2);
                    world.nodes[node].side = side;
                }
            }
        }
        world.remove(11);
        for node in 0..11 {
            world.nodes[node].side = 0;
            if world.nodes[node].gossip.is_none() {
                world.start(node);
            }
        }
        let agreed = world.run_until(seconds(300), seconds(1), |world| {
            world.has_converged() && world.agrees_on_members()
        });
        assert!(agreed, "seed {seed}");
        // Old datagrams still come: nothing returns.
        world.run(seconds(60));
        assert!(world.has_converged(), "seed {seed}");
    }
}

#[test]
fn a_restarted_node_takes_back_what_it_no_longer_has() {
    let mut world = started(5, 9, Link::lossy(0.0));
    let kept = world.attach(4);
    let lost = world.attach(4);
    world.run(seconds(2));
    world.crash(4);
    // Its host lost an endpoint while the agent was down.
    world.nodes[4].endpoints.remove(&lost);
    let id = world.nodes[4].id;
    world.truth.withdraw(id, lost);
    world.start(4);
    assert!(world.run_until(seconds(200), seconds(1), World::has_converged));
    let store = world.nodes[0].gossip.as_ref().map(|gossip| gossip.store());
    assert!(store.is_some_and(|store| store.get(id, &kept).is_some()));
}

#[test]
fn deletions_without_end_leave_no_tombstones_without_end() {
    let mut world = started(3, 10, Link::lossy(0.01));
    for _ in 0..300 {
        let key = world.attach(0);
        world.run(Duration::from_millis(300));
        world.detach(0, key);
    }
    world.run(seconds(120));
    assert!(world.has_converged());
    for slot in &world.nodes {
        let tombstones = slot
            .gossip
            .as_ref()
            .map(|gossip| gossip.store().tombstones(world.nodes[0].id));
        assert!(
            tombstones.is_some_and(|tombstones| tombstones < 200),
            "{tombstones:?}"
        );
    }
}
