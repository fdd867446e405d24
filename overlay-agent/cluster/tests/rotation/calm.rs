//! Agents that live, in good and bad weather.

use overlay_cluster::rotation::{Direction, SlotKey, Usage, schedule::Decision};

use super::{
    sim::{Weather, ms},
    world,
};

#[test]
fn twenty_rotations_lose_nothing() {
    let mut world = world(1, 5, Weather::default());
    for _ in 0..20 {
        world.rotate();
        assert_eq!(world.astray(), []);
        world.run_for(ms(5000));
    }
    assert_eq!((&world.lost[..], world.excused), (&[][..], 0));
    assert_eq!(world.alarms, []);
}

#[test]
fn rotations_in_bad_weather_lose_nothing() {
    for seed in 0..10 {
        let mut world = world(seed, 4, Weather::bad());
        for _ in 0..6 {
            world.rotate();
        }
        world.settled(ms(120_000));
        assert_eq!(
            (&world.lost[..], world.excused),
            (&[][..], 0),
            "seed {seed}"
        );
        assert_eq!(world.alarms, []);
    }
}

#[test]
fn fifty_nodes_rotate_in_seconds() {
    let mut world = world(1, 50, Weather::default());
    let start = world.clock();
    world.rotate();
    let activated = world
        .managers
        .steps
        .iter()
        .find(|(at, step)| *at >= start && *step == Decision::Activate)
        .expect("activated")
        .0;
    assert!(
        activated.since(start) <= ms(5000),
        "{:?}",
        activated.since(start)
    );
    assert_eq!(world.astray(), []);
    assert_eq!((&world.lost[..], world.excused), (&[][..], 0));
}

#[test]
fn a_rotation_begins_by_itself_when_the_interval_is_over() {
    let mut world = world(1, 3, Weather::default());
    world.run_for(ms(12 * 3600 * 1000 + 120_000));
    assert_eq!(world.managers.log.current.number, 2);
    assert_eq!(world.astray(), []);
    world.assert_lossless();
}

#[test]
fn an_sa_near_its_limit_begins_a_rotation() {
    let mut world = world(1, 3, Weather::default());
    let peer = world.index(1);
    let rotation = world.nodes[0].rotation.as_mut().expect("alive");
    let slot = rotation.transmit(peer).expect("open").slot;
    let direction = Direction::Out;
    let usage = Usage {
        sequence: 1,
        bytes: 1 << 45,
    };
    rotation.usage(peer, SlotKey { direction, slot }, usage);
    // Any event makes the machine speak.
    world.announce();
    world.run_for(ms(60_000));
    assert_eq!(world.managers.log.current.number, 2);
    assert!(world.is_stable(), "one rotation is enough");
    world.assert_lossless();
}

#[test]
fn the_managers_may_be_gone_in_the_middle_of_every_step() {
    for after in (0..20_000).step_by(500) {
        let mut world = world(after, 3, Weather::default());
        world.managers.request();
        world.announce();
        world.run_for(ms(after));
        (0..3).for_each(|node| world.set_side(node, 1));
        world.convalescence = ms(0);
        world.run_for(ms(60_000));
        (0..3).for_each(|node| world.set_side(node, 0));
        world.announce();
        world.run_for(ms(60_000));
        world.settled(ms(60_000));
        assert_eq!(
            (&world.lost[..], world.excused),
            (&[][..], 0),
            "after {after} ms"
        );
    }
}

#[test]
fn a_node_that_hears_of_every_step_late_loses_nothing() {
    for delay in [3000, 9000, 12_000, 20_000] {
        let mut world = world(delay, 4, Weather::default());
        world.nodes[0].log_delay = ms(delay);
        for _ in 0..4 {
            world.rotate();
        }
        assert_eq!(
            (&world.lost[..], world.excused),
            (&[][..], 0),
            "{delay} ms late"
        );
        world.settled(ms(60_000));
    }
}

#[test]
fn a_node_that_hears_of_the_activation_after_the_old_epoch_retired_follows_its_peers() {
    let mut world = world(1, 4, Weather::default());
    world.nodes[0].log_delay = ms(38_000);
    world.rotate();
    world.run_for(ms(60_000));
    assert_eq!((&world.lost[..], world.excused), (&[][..], 0));
    assert_eq!(world.astray(), []);
}

#[test]
fn slow_kernels_lose_nothing() {
    for seed in 0..5 {
        let weather = Weather {
            per_sa: ms(150),
            ..Weather::default()
        };
        let mut world = world(seed, 5, weather);
        for _ in 0..4 {
            world.rotate();
        }
        world.settled(ms(60_000));
        assert_eq!((&world.lost[..], world.excused), (&[][..], 0));
    }
}

#[test]
fn a_rotation_costs_two_short_messages_per_peer() {
    let mut world = world(1, 20, Weather::default());
    world.run_for(ms(20_000));
    world.take_traffic();
    world.rotate();
    for (peer, sent) in world.take_traffic() {
        assert!(sent.acknowledgements <= 19 * 5 / 2, "{peer}: {sent:?}");
        assert!(sent.acknowledgement_bytes <= 19 * 600, "{peer}: {sent:?}");
        assert!(sent.digest_bytes <= 4000, "{peer}: {sent:?}");
        assert!(sent.record_bytes <= 100, "{peer}: {sent:?}");
        assert!(sent.digests <= 60, "{peer}: {sent:?}");
    }
}
