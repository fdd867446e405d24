//! States that no machine can mend.

use overlay_cluster::{
    id::{EpochName, Generation},
    keys::{EphemeralRecord, EpochSecrets, PublicKey},
    rotation::{Alarm, LogView, Member, Role, RotationError},
};
use rand::{SeedableRng as _, rngs::StdRng};

use super::{
    sim::{Weather, World, ms},
    world,
};

fn epoch(world: &World) -> EpochName {
    world.managers.log.current
}

fn record(world: &World, generation: u64) -> EphemeralRecord {
    EphemeralRecord {
        epoch: epoch(world),
        generation: Generation(generation),
        public: PublicKey::from_bytes([9; 32]),
        lanes: 2,
    }
}

/// Lets node 0 hear a record of node `from`, and says what alarms it raises.
fn hears(world: &mut World, from: usize, record: &EphemeralRecord) -> Vec<Alarm> {
    let (id, now) = (world.nodes[from].id, world.now);
    let rotation = world.nodes[0].rotation.as_mut().expect("alive");
    rotation.record(id, record, now).expect("of a member");
    world.run_for(ms(1000));
    let rotation = world.nodes[0].rotation.as_ref().expect("alive");
    rotation.alarms().copied().collect()
}

fn view(world: &World, names: &[EpochName]) -> LogView {
    LogView {
        revision: 1_000,
        epochs: names.iter().map(|name| (*name, Role::Active)).collect(),
        member: true,
        peers: [(
            world.index(1),
            Member {
                node: world.nodes[1].id,
            },
        )]
        .into(),
    }
}

fn sees(world: &mut World, names: &[EpochName]) -> Vec<Alarm> {
    let view = view(world, names);
    let now = world.now;
    let rotation = world.nodes[0].rotation.as_mut().expect("alive");
    rotation.log(&view, now, &mut world.rng);
    rotation.alarms().copied().collect()
}

#[test]
fn a_cloned_disk_is_seen_by_the_node_and_by_its_peers() {
    let mut world = world(1, 3, Weather::default());
    let clone = record(&world, 1);
    let generation = Generation(1);
    assert_eq!(hears(&mut world, 0, &clone), [Alarm::Cloned { generation }]);
    let alarms = hears(&mut world, 1, &clone);
    let peer = world.index(1);
    assert!(
        alarms.iter().any(|alarm| matches!(
            alarm,
            Alarm::PeerCloned { peer: of, refused, .. } if *of == peer && *refused == clone.public
        )),
        "{alarms:?}"
    );
    assert_eq!(world.astray(), [], "the first keys stay in use");
}

#[test]
fn a_node_that_was_set_back_hears_of_its_later_generation() {
    let mut world = world(1, 3, Weather::default());
    for _ in 0..3 {
        world.kill(0);
        world.start(0);
        world.run_for(ms(10_000));
    }
    // A snapshot: neither the kernel nor the counter is what it was.
    world.reboot(0);
    world.nodes[0].generation = 1;
    world.start(0);
    world.run_for(ms(30_000));
    let behind = Alarm::GenerationBehind {
        ours: Generation(2),
        known: Generation(4),
    };
    assert!(
        world.alarms.contains(&(world.index(0), behind)),
        "{:?}",
        world.alarms
    );
    world.nodes[0].generation = 4;
    world.kill(0);
    world.start(0);
    world.settled(ms(20_000));
}

#[test]
fn an_agent_with_a_generation_that_the_kernel_knows_does_nothing() {
    let mut world = world(1, 3, Weather::default());
    world.kill(0);
    world.nodes[0].generation = 0;
    world.start(0);
    let (ours, known) = (Generation(1), Generation(1));
    assert_eq!(
        world.alarms,
        [(world.index(0), Alarm::GenerationBehind { ours, known })]
    );
    world.run_for(ms(10_000));
    assert_eq!(world.astray(), [], "what it found goes on");
}

#[test]
fn managers_of_an_older_incarnation_are_refused() {
    let mut world = world(1, 2, Weather::default());
    let secrets = EpochSecrets::random(&mut StdRng::seed_from_u64(99));
    let (newer, older) = (secrets.name(2, 5), secrets.name(1, 9));
    assert_eq!(sees(&mut world, &[newer]), []);
    let mut late = view(&world, &[older]);
    late.revision += 1;
    let now = world.now;
    let rotation = world.nodes[0].rotation.as_mut().expect("alive");
    rotation.log(&late, now, &mut world.rng);
    let alarms: Vec<_> = rotation.alarms().copied().collect();
    let (offered, seen) = (older, 2);
    assert_eq!(alarms, [Alarm::OldIncarnation { offered, seen }]);
}

#[test]
fn an_epoch_with_two_secrets_is_refused() {
    let mut world = world(1, 2, Weather::default());
    let kept = epoch(&world);
    let refused = EpochSecrets::random(&mut StdRng::seed_from_u64(99)).name(0, kept.number);
    assert_eq!(
        sees(&mut world, &[refused]),
        [Alarm::TwoSecrets { kept, refused }]
    );
    world.run_for(ms(5000));
    assert_eq!(world.astray(), [], "the first one stays in use");
}

#[test]
fn secrets_of_another_epoch_are_refused() {
    let mut world = world(1, 2, Weather::default());
    let secrets = EpochSecrets::random(&mut StdRng::seed_from_u64(99));
    let (name, now) = (epoch(&world), world.now);
    let rotation = world.nodes[0].rotation.as_mut().expect("alive");
    let error = rotation.secrets(name, secrets, now, &mut world.rng);
    assert!(matches!(error, Err(RotationError::WrongSecrets(_))));
}

#[test]
fn a_peer_with_a_key_of_small_order_gets_no_keys() {
    let mut world = world(1, 3, Weather::default());
    let public = PublicKey::from_bytes([0; 32]);
    let broken = EphemeralRecord {
        public,
        ..record(&world, 7)
    };
    let peer = world.index(1);
    assert_eq!(
        hears(&mut world, 1, &broken),
        [Alarm::BrokenKey { peer, public }]
    );
}

#[test]
fn a_kernel_that_refuses_everything_calls_a_human() {
    let mut world = world(1, 2, Weather::default());
    world.weather.refusals = 1.0;
    world.managers.request();
    world.announce();
    world.run_for(ms(120_000));
    let refuses = |alarm: &Alarm| matches!(alarm, Alarm::KernelRefuses { .. });
    assert!(world.alarms.iter().any(|(_, alarm)| refuses(alarm)));
}
