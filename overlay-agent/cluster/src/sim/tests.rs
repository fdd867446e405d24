use std::time::Duration;

use super::*;

#[test]
fn a_small_cluster_runs_through_everything() {
    for nodes in [3, 10] {
        let report = measure(nodes, 1, 0.01);
        println!("{}", table(&[report]));
    }
}

#[test]
fn trace_heal() {
    let n: usize = std::env::var("N")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(100);
    let mut world = World::new(n, 1, Link::lossy(0.01));
    for node in 0..n {
        world.start(node);
    }
    world.run_until(
        Duration::from_secs(100),
        Duration::from_millis(100),
        World::agrees_on_members,
    );
    println!("cold {}", world.now());
    for node in 0..n / 2 {
        world.nodes[node].side = 1;
    }
    world.run(Duration::from_secs(120));
    for node in 0..n / 2 {
        world.nodes[node].side = 0;
    }
    let start = world.now();
    for _ in 0..40 {
        let up: usize = world
            .running()
            .map(|i| {
                world.nodes[i]
                    .gossip
                    .as_ref()
                    .unwrap()
                    .membership()
                    .up()
                    .len()
            })
            .sum();
        let cross: usize = world
            .running()
            .map(|i| {
                world.nodes[i]
                    .gossip
                    .as_ref()
                    .unwrap()
                    .membership()
                    .up()
                    .iter()
                    .filter(|id| (world.nodes[..n / 2].iter().any(|s| s.id == **id)) != (i < n / 2))
                    .count()
            })
            .sum();
        let backlog: usize = world
            .running()
            .map(|i| {
                world.nodes[i]
                    .gossip
                    .as_ref()
                    .unwrap()
                    .membership()
                    .backlog()
            })
            .sum();
        println!(
            "{:?} up {} cross {} of {} backlog {} {:?}",
            world.now().since(start),
            up,
            cross,
            n * (n - 1),
            backlog,
            world.traffic()
        );
        if up == n * (n - 1) {
            break;
        }
        world.run(Duration::from_millis(500));
    }
}
