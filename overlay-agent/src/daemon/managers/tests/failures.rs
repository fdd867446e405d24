//! Managers that die and come back.

use std::time::Duration;

use overlay_cluster::{
    control::member::ProposeRefused,
    log::{command::Outcome, state::State},
};
use tokio::time::{Instant, timeout};

use super::{
    super::*,
    world::{LONG, World, lanes, lanes_of, timing},
};
use crate::daemon::store::StoreError;

#[tokio::test(flavor = "multi_thread")]
async fn one_manager_is_founded_once_and_goes_on_after_a_restart() {
    let mut world = World::new().await;
    let managers = world.nodes[&1].managers();
    assert_eq!(managers.propose(lanes(2)).await, Ok(Outcome::Done));
    let status = managers.status();
    assert!(
        status.leads && status.quorum && status.notes.is_empty(),
        "{status:?}"
    );
    assert_eq!(status.managers.len(), 1);
    assert_eq!(status.managers[0].name.as_deref(), Some("node-1"));
    let before = managers.0.reader.with(State::encode);
    drop(managers);
    world.kill(1).await;

    let again = found(world.nodes[&1].setup.clone(), world.genesis()).await;
    let error = again.err().expect("a cluster").to_string();
    assert!(error.contains("already"), "{error}");

    let begun = Instant::now();
    world.restart(1).await;
    let managers = world.nodes[&1].managers();
    assert_eq!(managers.propose(lanes(3)).await, Ok(Outcome::Done));
    // It is alone, and waits for nobody's sign of life.
    assert!(begun.elapsed() < timing().election.0 * 5);
    assert_eq!(world.log(1, lanes_of), Some(3));
    assert_ne!(managers.0.reader.with(State::encode), before);
    world.stop().await;
}

#[tokio::test]
async fn a_store_that_is_not_there_is_not_made_by_a_restart() {
    let mut world = World::empty();
    world.add(1, overlay_cluster::identity::Role::Manager).await;
    let setup = world.nodes[&1].setup.clone();
    let error = open(setup.clone()).await.err().expect("nothing is there");
    assert!(matches!(error, ManagersError::NoStore { .. }), "{error}");
    assert!(!setup.store.exists());
    std::fs::write(&setup.store, b"noise").expect("writes");
    let error = open(setup.clone()).await.err().expect("noise");
    assert!(
        matches!(
            error,
            ManagersError::Store(StoreError::Mode { .. } | StoreError::NotADatabase { .. })
        ),
        "{error}"
    );
    forget(&setup.store).expect("removes");
    forget(&setup.store).expect("nothing to remove");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_manager_leads_when_the_leader_dies_and_nothing_decided_is_lost() {
    let mut world = World::with_managers(3).await;
    for n in 1..=4 {
        world.propose(lanes(n)).await;
    }
    let leader = world.wait_for_leader().await;
    let follower = world.running().find(|n| *n != leader).expect("another");
    let refused = world.nodes[&follower].managers().propose(lanes(5)).await;
    let refused = refused.expect_err("it does not lead");
    assert!(
        matches!(refused, ProposeRefused::NotLeader { leader: Some((node, _)) }
            if node == super::world::node(leader)),
        "{refused}"
    );
    // Its desk knows the way.
    let forwarded = world.nodes[&follower].desk.propose(lanes(5), false).await;
    assert_eq!(forwarded, Ok(Outcome::Done));

    world.kill(leader).await;
    let begun = Instant::now();
    let next = world.wait_for_leader().await;
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert_ne!(next, leader);
    assert_eq!(world.log(next, lanes_of), Some(5));
    world.propose(lanes(6)).await;

    // Who was away learns what was decided without it.
    world.restart(leader).await;
    world
        .wait("the dead is back", |world| {
            world.seen(leader, lanes_of) == Some(Some(6))
        })
        .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_managers_bear_two_failures_and_say_so_at_the_third() {
    let mut world = World::with_managers(5).await;
    let leader = world.wait_for_leader().await;
    let others: Vec<u8> = world.running().filter(|n| *n != leader).collect();
    world.kill(others[0]).await;
    world.kill(leader).await;
    world.wait_for_leader().await;
    world.propose(lanes(7)).await;

    world.kill(others[1]).await;
    let begun = Instant::now();
    let mut last = world.running().next().expect("one is left");
    loop {
        let managers = world.nodes[&last].managers();
        let decided = timeout(LONG, managers.propose(lanes(8)))
            .await
            .expect("bounded");
        match decided.expect_err("no majority") {
            ProposeRefused::NoLeader(words) => {
                assert!(words.contains("3 of 5 managers are needed"), "{words}");
                assert!(words.contains("node-"), "{words}");
                break;
            }
            // One that leads goes on to lead, and says itself that it has no majority.
            ProposeRefused::NotLeader { leader } => {
                let leads =
                    |n: &u8| leader.is_some_and(|(node, _)| world.nodes[n].setup.node == node);
                let leads = world.running().find(leads);
                last = leads.unwrap_or(last);
            }
            // It was one a moment ago.
            ProposeRefused::Undecided(_) => {}
            other => panic!("{other}"),
        }
        assert!(begun.elapsed() < LONG, "it does not notice");
    }
    let status = world.nodes[&last].managers().status();
    assert!(!status.quorum);
    assert!(status.notes[0].contains("data path goes on"), "{status:?}");
    // What was decided can be read still.
    assert_eq!(
        world.log(last, lanes_of).map(|lanes| lanes >= 7),
        Some(true)
    );

    world.restart(leader).await;
    world.wait_for_leader().await;
    world.propose(lanes(9)).await;
    world.stop().await;
}
