//! The figures of one size.

use std::time::Duration;

use rand::{RngExt as _, seq::SliceRandom as _};

use super::{Link, Report, World};
use crate::time::Instant;

const STEP: Duration = Duration::from_millis(50);
/// What takes longer did not happen.
const LIMIT: Duration = Duration::from_secs(300);
const CHANGES: usize = 20;
const CRASHES: usize = 3;
const PARTED: Duration = Duration::from_secs(120);
const IDLE: Duration = Duration::from_secs(120);

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Runs `nodes` nodes through a cold start, rest, changes, crashes and a partition.
///
/// # Panics
///
/// If an invariant does not hold on the way.
pub fn measure(nodes: usize, seed: u64, loss: f64) -> Report {
    let mut world = World::new(nodes, seed, Link::lossy(loss));
    let (cold_start, cold_bytes) = cold_start(&mut world);
    world.run(seconds(60));
    let rest = world.traffic();
    world.run(IDLE);
    let after = world.traffic();
    let rate = |bytes: u64| bytes as f64 / nodes as f64 / IDLE.as_secs_f64();
    let idle_datagrams = rate(after.datagram_bytes - rest.datagram_bytes);
    let idle_sync = rate(after.sync_bytes - rest.sync_bytes);
    let mut changes = changes(&mut world);
    changes.sort();
    let (crash_first, crash_all) = crashes(&mut world);
    let (heal_records, heal_members) = partition(&mut world);
    assert!(world.has_converged(), "all hold what is alive");
    Report {
        nodes,
        seed,
        loss,
        cold_start,
        cold_kib: cold_bytes as f64 / nodes as f64 / 1024.0,
        idle_datagrams,
        idle_sync,
        change_median: changes[changes.len() / 2],
        change_worst: changes[changes.len() - 1],
        crash_first,
        crash_all,
        heal_records,
        heal_members,
    }
}

/// Starts all nodes within a second, each with one endpoint. Until all know all.
fn cold_start(world: &mut World) -> (Duration, u64) {
    let mut starts: Vec<_> = (0..world.nodes.len())
        .map(|node| (world.rng.random_range(0..1000), node))
        .collect();
    starts.sort_unstable();
    for (at, node) in starts {
        let at = Instant::from_start(Duration::from_millis(at));
        world.run(at.since(world.now()));
        world.start(node);
        world.attach(node);
    }
    let nodes = world.nodes.len();
    let all = move |world: &World| {
        let knows = |node: usize| {
            let gossip = world.nodes[node].gossip.as_ref();
            gossip.is_some_and(|gossip| {
                gossip.store().len() >= 2 * nodes && gossip.membership().up().len() + 1 == nodes
            })
        };
        (0..nodes).all(knows)
    };
    assert!(world.run_until(LIMIT, STEP, all), "the cold start ends");
    let traffic = world.traffic();
    (
        world.now().since_start(),
        traffic.datagram_bytes + traffic.sync_bytes,
    )
}

/// Endpoints come and go, one at a time: how long each takes to reach all.
fn changes(world: &mut World) -> Vec<Duration> {
    let mut watched = Vec::new();
    for change in 0..CHANGES {
        let node = world.any();
        let key = world.attach(node);
        if change % 2 == 1 {
            let limit = |world: &World| world.has_converged();
            world.run_until(LIMIT, seconds(1), limit);
            world.detach(node, key);
        }
        watched.push(world.watch(node, key));
        world.run(seconds(2));
    }
    let all = |world: &World| {
        watched
            .iter()
            .all(|watched| world.reached(*watched).is_some())
    };
    assert!(world.run_until(LIMIT, STEP, all), "each change reaches all");
    watched
        .iter()
        .filter_map(|watched| world.reached(*watched))
        .collect()
}

/// One node after the other stops without a word: until the first and the last of the others
/// knows, at the mean.
fn crashes(world: &mut World) -> (Duration, Duration) {
    let (mut first, mut all) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..CRASHES {
        let node = world.any();
        let id = world.nodes[node].id;
        world.downs.clear();
        let crashed = world.now();
        world.crash(node);
        let known = |world: &World| {
            world.running().all(|other| {
                let gossip = world.nodes[other].gossip.as_ref();
                gossip.is_some_and(|gossip| !gossip.membership().is_up(id))
            })
        };
        assert!(world.run_until(LIMIT, STEP, known), "a crash is noticed");
        all += world.now().since(crashed);
        let downs = world.downs.iter().filter(|(_, _, down)| *down == id);
        if let Some(noticed) = downs.map(|(at, ..)| *at).min() {
            first += noticed.since(crashed);
        }
        world.start(node);
        world.run_until(LIMIT, seconds(1), World::agrees_on_members);
    }
    (first / CRASHES as u32, all / CRASHES as u32)
}

/// Two halves are apart, both go on changing, and meet again: until all have all records, and until
/// all believe all up.
fn partition(world: &mut World) -> (Duration, Duration) {
    let mut order: Vec<_> = (0..world.nodes.len()).collect();
    order.shuffle(&mut world.rng);
    for node in &order[..order.len() / 2] {
        world.nodes[*node].side = 1;
    }
    let mut keys = Vec::new();
    for _ in 0..CHANGES {
        world.run(PARTED / CHANGES as u32);
        let node = world.any();
        keys.push((node, world.attach(node)));
    }
    for slot in &mut world.nodes {
        slot.side = 0;
    }
    let healed = world.now();
    let watched: Vec<_> = keys
        .into_iter()
        .map(|(node, key)| world.watch(node, key))
        .collect();
    let all = |world: &World| world.agrees_on_members();
    assert!(
        world.run_until(LIMIT, STEP, all),
        "a healed partition is noticed"
    );
    let members = world.now().since(healed);
    let all = |world: &World| {
        watched
            .iter()
            .all(|watched| world.reached(*watched).is_some())
    };
    assert!(
        world.run_until(LIMIT, STEP, all),
        "both halves learn what they missed"
    );
    let records = watched
        .iter()
        .filter_map(|watched| world.reached(*watched))
        .max();
    (records.unwrap_or_default(), members)
}
