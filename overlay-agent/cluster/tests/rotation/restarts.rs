//! Agents that die and come back, machines that reboot, nodes that sleep.

use super::{
    sim::{Weather, World, ms},
    world,
};

/// One rotation in which the agent of node 0 dies after `actions`, and is back after `down`
/// milliseconds. The answer is whether it came so far.
fn dies_after(seed: u64, actions: usize, down: u64, weather: Weather) -> bool {
    let mut world = world(seed, 3, weather);
    let last = world.nodes[0].actions + actions;
    world.nodes[0].dies_after = Some(last);
    world.managers.request();
    world.announce();
    let end = world.now + ms(120_000);
    if !world.run_until(end, |world| world.nodes[0].rotation.is_none()) {
        return false;
    }
    world.run_for(ms(down));
    world.start(0);
    let end = world.now + ms(120_000);
    let done = world.run_until(end, |world| {
        world.is_stable() && world.managers.log.current.number == 2
    });
    assert!(done, "the rotation ends: {:?}", world.managers.log);
    world.settled(ms(60_000));
    assert_eq!(
        (&world.lost[..], world.excused),
        (&[][..], 0),
        "after action {actions}, seed {seed}"
    );
    assert_eq!(world.alarms, []);
    true
}

#[test]
fn a_restart_after_every_single_action_of_a_rotation_loses_nothing() {
    let mut steps = 0;
    while dies_after(3, steps + 1, 1000, Weather::default()) {
        steps += 1;
    }
    assert!(steps > 10, "only {steps} steps");
}

#[test]
fn a_restart_at_every_step_in_bad_weather_loses_nothing() {
    for step in (1..40).step_by(3) {
        dies_after(step as u64, step, 300, Weather::bad());
    }
}

#[test]
fn agents_that_crash_again_and_again_keep_their_traffic() {
    let mut world = world(5, 4, Weather::default());
    for round in 0..60 {
        let node = round % 2;
        world.kill(node);
        world.run_for(ms(100));
        world.start(node);
        world.run_for(ms(400 + 97 * round as u64 % 1500));
    }
    world.settled(ms(60_000));
    assert_eq!((&world.lost[..], world.excused), (&[][..], 0));
}

/// It leaves more slots than fit, and its peers may send in any of them.
#[test]
fn an_agent_that_dies_again_and_again_within_a_rotation_loses_nothing() {
    for seed in 0..600 {
        let weather = match seed % 2 {
            0 => Weather::default(),
            _ => Weather::bad(),
        };
        let mut world = world(seed, 3, weather);
        world.managers.request();
        world.announce();
        for death in 0..2 + seed % 4 {
            world.run_for(ms(100 + 371 * (seed + 7 * death) % 3000));
            world.kill(0);
            world.run_for(ms(100));
            world.start(0);
        }
        world.settled(ms(120_000));
        assert_eq!(
            (&world.lost[..], world.excused),
            (&[][..], 0),
            "seed {seed}"
        );
    }
}

#[test]
fn slots_come_round_when_agents_restart_for_ever() {
    let mut world = world(6, 2, Weather::default());
    for _ in 0..300 {
        world.kill(0);
        world.start(0);
        world.run_for(ms(8000));
        assert_eq!(world.astray(), []);
    }
    assert_eq!((&world.lost[..], world.excused), (&[][..], 0));
}

#[test]
fn a_machine_that_reboots_meets_its_peers_again() {
    for seed in 0..30 {
        let mut world = world(seed, 3, Weather::default());
        for _ in 0..5 {
            world.reboot(0);
            world.run_for(ms(2000));
            world.start(0);
            world.settled(ms(20_000));
        }
        world.assert_lossless();
    }
}

/// A node that is away while the others rotate so often.
fn sleeps(epochs: u32, reboots: bool) -> World {
    let mut world = world(u64::from(epochs), 5, Weather::default());
    let sleeper = world.index(4);
    world.kill(4);
    if reboots {
        world.reboot(4);
    }
    for _ in 0..epochs {
        world.rotate();
    }
    world.run_for(ms(30_000));
    for node in &world.nodes[..4] {
        let open = node.kernel.peers.contains_key(&sleeper);
        let keeps = epochs == 0;
        assert_eq!(open, keeps, "traffic goes on until the epoch retires");
    }
    world.start(4);
    world.settled(ms(20_000));
    world.rotate();
    assert_eq!(world.astray(), []);
    assert_eq!(world.alarms, []);
    world
}

#[test]
fn a_node_heals_that_slept_for_any_number_of_epochs() {
    for epochs in [0, 1, 2, 10] {
        let world = sleeps(epochs, false);
        world.assert_lossless();
        if epochs == 0 {
            assert_eq!(world.excused, 0, "its SAs were never gone");
        }
        sleeps(epochs, true).assert_lossless();
    }
}

#[test]
fn a_minority_cut_off_for_several_epochs_comes_back() {
    for epochs in [0, 1, 2, 10] {
        let mut world = world(epochs, 5, Weather::default());
        world.set_side(3, 1);
        world.set_side(4, 1);
        for _ in 0..epochs {
            world.rotate();
        }
        world.run_for(ms(30_000));
        world.set_side(3, 0);
        world.set_side(4, 0);
        world.announce();
        world.settled(ms(60_000));
        world.rotate();
        world.assert_lossless();
        assert_eq!(world.astray(), []);
    }
}
