//! The rotation of whole clusters, simulated: see [`sim`] for what is checked at every step.

mod alarms;
mod calm;
mod chaos;
mod membership;
mod restarts;
mod sim;

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

/// A cluster in which all pairs have traffic.
fn world(seed: u64, nodes: u32, weather: Weather) -> World {
    let settings = Settings {
        lanes: 2,
        ..Settings::default()
    };
    let mut world = World::new(seed, nodes, weather, settings, timing());
    world.settled(ms(60_000));
    world
}
