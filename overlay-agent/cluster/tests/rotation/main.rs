//! The rotation of whole clusters, simulated.

mod sim;

use std::time::Duration;

use overlay_cluster::rotation::{Settings, schedule::Timing};
use sim::{Weather, World, ms};

fn timing() -> Timing {
    Timing {
        stage_deadline: ms(20_000),
        grace: ms(10_000),
        retire_deadline: ms(20_000),
        ..Timing::default()
    }
}

fn settings() -> Settings {
    Settings {
        lanes: 2,
        ..Settings::default()
    }
}

fn world(seed: u64, nodes: u32, weather: Weather) -> World {
    let mut world = World::new(seed, nodes, weather, settings(), timing());
    world.settled(ms(30_000));
    world
}

/// Rotations without trouble, and figures that a reader of a failure wants.
#[test]
fn twenty_rotations_lose_nothing() {
    let mut world = world(1, 5, Weather::default());
    for _ in 0..20 {
        world.rotate();
        assert_eq!(world.astray(), []);
        world.run_for(Duration::from_secs(5));
    }
    world.assert_lossless();
    assert_eq!(world.alarms, []);
}
