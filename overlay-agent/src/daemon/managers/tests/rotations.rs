//! Rotations from their beginning to their end.

use std::{collections::BTreeSet, time::Duration};

use overlay_cluster::log::{
    command::Outcome,
    epochs::{Phase, Reason},
};
use overlay_ebpf::abi::{Epoch, PeerIndex};

use super::world::{World, node, policy};

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_by_schedule_goes_on_under_the_next_leader() {
    let mut world = World::with_managers(3).await;
    let leader = world.wait_for_leader().await;
    assert_eq!(world.epoch(leader).number, 1);
    world.time.pass(policy().interval);
    world
        .wait("it is staged", |world| {
            world.log(leader, |log| {
                matches!(
                    log.epochs().phase(),
                    Phase::Staging {
                        reason: Reason::Schedule,
                        ..
                    }
                )
            })
        })
        .await;
    world.kill(leader).await;
    let next = world.wait_for_leader().await;
    world
        .wait("it has ended", |world| {
            world.log(next, |log| {
                log.epochs().current().number == 2 && log.epochs().phase() == Phase::Stable
            })
        })
        .await;
    world.restart(leader).await;
    world
        .wait("all know", |world| {
            world.seen(leader, |log| log.epochs().current()) == Some(world.epoch(next))
        })
        .await;
    // No other rotation was begun.
    world.log(next, |log| assert_eq!(log.epochs().newest(), 2));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_at_will_waits_for_nobody_when_all_that_live_are_ready() {
    let mut world = World::with_managers(3).await;
    let leader = world.wait_for_leader().await;
    let follower = world.running().find(|n| *n != leader).expect("another");
    // Gossip has just begun.
    *world.alive.0.write().unwrap() = None;
    let begun = world.nodes[&follower]
        .managers()
        .rotate(Reason::Operator)
        .await;
    assert_eq!(begun, Ok(Outcome::Done));
    let status = world.nodes[&leader].managers().rotation();
    let counted = status.map(|status| (status.live, status.staged));
    assert_eq!(counted, Some((3, 0)), "all count as alive");
    let staged = |n: u8| {
        world.log(n, |log| match log.epochs().phase() {
            Phase::Staging { next, .. } => Some(next),
            _ => None,
        })
    };
    let next = staged(leader).expect("staged");
    assert_eq!(next.number, 2);
    // The three of them are alive, and report to one that does not lead.
    let alive = BTreeSet::from([node(1), node(2), node(3)]);
    *world.alive.0.write().unwrap() = Some(alive);
    for n in 1..=3 {
        let follower = world.nodes[&follower].managers();
        follower.reported(node(n), World::ready(next, 1));
    }
    world
        .wait("it is activated", |world| world.epoch(leader) == next)
        .await;
    let status = world.nodes[&leader]
        .managers()
        .rotation()
        .expect("a status");
    assert_eq!((status.epoch, status.live, status.staged), (next, 3, 3));
    // A second one has to wait for the end of the first.
    let again = world.nodes[&leader]
        .managers()
        .rotate(Reason::Operator)
        .await;
    if let Err(refused) = again {
        assert!(refused.to_string().contains("under way"), "{refused}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sa_at_its_limit_and_no_other_begins_a_rotation() {
    let mut world = World::new().await;
    let managers = world.nodes[&1].managers();
    let mut digest = World::ready(world.epoch(1), 1);
    managers.reported(node(1), digest.clone());
    // Of somebody who is no member.
    let mut foreign = digest.clone();
    foreign.exhausted = Some(Epoch::new(1));
    managers.reported(node(9), foreign);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.log(1, |log| log.epochs().newest()), 1);

    digest.sequence = 2;
    digest.exhausted = Some(Epoch::new(1));
    managers.reported(node(1), digest.clone());
    world
        .wait("it is staged", |world| {
            world.log(1, |log| log.epochs().newest()) == 2
        })
        .await;
    world.log(1, |log| {
        assert!(!matches!(
            log.epochs().phase(),
            Phase::Staging { reason, .. } if reason != Reason::Volume
        ));
    });
    // It is said once more, and is not of the epoch of today any longer.
    world
        .wait("it has ended", |world| {
            world.log(1, |log| {
                log.epochs().current().number == 2 && log.epochs().phase() == Phase::Stable
            })
        })
        .await;
    digest.sequence = 3;
    managers.reported(node(1), digest);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.log(1, |log| log.epochs().newest()), 2);
    drop(managers);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_forgets_the_secrets_of_an_epoch_that_has_retired() {
    let mut world = World::new().await;
    let managers = world.nodes[&1].managers();
    let first = world.log(1, |log| {
        let epochs = log.epochs();
        epochs.secrets(epochs.current()).expect("kept").clone()
    });
    managers.rotate(Reason::Operator).await.expect("begins");
    world
        .wait("it has ended", |world| {
            world.log(1, |log| log.epochs().oldest() == 2)
        })
        .await;
    world
        .wait("the log is short", |world| {
            let metrics = world.nodes[&1].managers().0.raft.metrics();
            let metrics = metrics.borrow();
            metrics.purged == metrics.last_applied
        })
        .await;
    drop(managers);
    world.kill(1).await;
    // Another manager gets what is left as a snapshot.
    world.restart(1).await;
    world.wait_for_leader().await;
    world.join(2).await;
    world
        .wait("it has a vote", |world| world.voters(1).len() == 2)
        .await;
    assert_eq!(world.epoch(2), world.epoch(1));
    assert_eq!(
        world.nodes[&2].setup.index,
        PeerIndex::new(2).expect("an index")
    );
    let bytes = world.nodes[&2]
        .managers()
        .0
        .reader
        .with(overlay_cluster::log::state::State::encode);
    let secret = first.data.expose();
    assert!(
        !bytes
            .windows(secret.len())
            .any(|window| window == secret.as_slice())
    );
    world.stop().await;
}
