//! Figures of a rotation and an eviction in clusters of any size, simulated: how long they take, what
//! they cost a node. `cargo run --release -p overlay-cluster --example rotation -- 100 1000`.

#[path = "../tests/rotation/sim/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod sim;

use std::time::{Duration, Instant};

use overlay_cluster::{
    rotation::{
        Settings,
        schedule::{Decision, Phase, Timing},
    },
    time::Timestamp,
};
use sim::{Traffic, Weather, World, ms};

fn main() {
    let sizes: Vec<u32> = std::env::args()
        .skip(1)
        .map(|size| size.parse().expect("numbers of nodes"))
        .collect();
    println!(
        "| nodes | weather | all staged (s) | all switched (s) | old epoch removed (s) | acknowledgements sent | their bytes | records received, bytes | digest bytes | wall time (ms) | lost | eviction (s) |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for size in sizes {
        for (name, weather) in [("good", Weather::default()), ("5 % lost", lossy())] {
            println!("{}", measure(size, name, weather));
        }
    }
}

fn lossy() -> Weather {
    Weather {
        loss: 0.05,
        duplicates: 0.01,
        delay: (ms(1), ms(300)),
        ..Weather::default()
    }
}

fn measure(size: u32, name: &str, weather: Weather) -> String {
    let mut world = World::new(1, size, weather, Settings::default(), Timing::default());
    world.settled(Duration::from_secs(120));
    world.run_for(Duration::from_secs(20));
    world.take_traffic();
    let (start, wall) = (world.clock(), Instant::now());
    world.managers.request();
    world.announce();
    let end = world.now + Duration::from_secs(600);
    let active = |world: &World| matches!(world.managers.log.phase, Phase::Activated { .. });
    assert!(world.run_until(end, active), "the epoch is activated");
    world.settled(Duration::from_secs(60));
    let switched = world.clock();
    assert!(world.run_until(end, World::is_stable), "the rotation ends");
    let wall = wall.elapsed();
    let traffic = sum(&mut world);
    let staged = step(&world, start, |step| matches!(step, Decision::Stage { .. }));
    let activated = step(&world, start, |step| *step == Decision::Activate);
    let retired = step(&world, start, |step| *step == Decision::Retire);
    let finished = step(&world, start, |step| *step == Decision::Finish);
    assert!(world.astray().is_empty(), "all pairs are in the new epoch");
    let lost = world.lost.len() + world.excused;
    let per = |count: u64| count / u64::from(size);
    format!(
        "| {size} | {name} | {:.1} | {:.1} | {:.1} | {} | {} | {} | {} | {:.1} | {lost} | {:.2} |",
        activated.since(staged).as_secs_f64(),
        switched.since(activated).as_secs_f64(),
        finished.since(retired).as_secs_f64(),
        per(traffic.acknowledgements),
        per(traffic.acknowledgement_bytes),
        per(traffic.record_bytes) * u64::from(size - 1),
        per(traffic.digest_bytes),
        wall.as_secs_f64() * 1000.0 / f64::from(size),
        evict(&mut world).as_secs_f64(),
    )
}

/// When a step was committed.
fn step(world: &World, after: Timestamp, is: impl Fn(&Decision) -> bool) -> Timestamp {
    let (at, _) = world
        .managers
        .steps
        .iter()
        .find(|(at, step)| *at >= after && is(step))
        .expect("the rotation has ended");
    *at
}

fn sum(world: &mut World) -> Traffic {
    let mut sum = Traffic::default();
    for traffic in world.take_traffic().values() {
        sum.acknowledgements += traffic.acknowledgements;
        sum.acknowledgement_bytes += traffic.acknowledgement_bytes;
        sum.record_bytes += traffic.record_bytes;
        sum.digests += traffic.digests;
        sum.digest_bytes += traffic.digest_bytes;
    }
    sum
}

/// Time from the log's entry until no kernel holds an SA of the removed node.
fn evict(world: &mut World) -> Duration {
    let victim = world.nodes.len() - 1;
    let index = world.index(victim);
    world.nodes[victim].deaf = true;
    let start = world.now;
    world.managers.evict(index);
    world.announce();
    let closed = |world: &World| {
        let mut others = world.nodes[..victim].iter();
        others.all(|node| !node.kernel.peers.contains_key(&index))
    };
    assert!(world.run_until(start + Duration::from_secs(10), closed));
    world.now.since(start)
}
